//! What an edge lets caches before it do with its answers to long-polls.

use crate::common::http::{EventStream, Response};
use crate::common::{Server, Setup, unique, wait_until};
use crate::edge::{edge, edge_with, figure, url};

const SHARED: &str = "public, max-age=0, s-maxage=1";
const BEYOND: &str = "9999999999999999_9999999999999999";

/// Opens a stream of `origin` at an edge, and follows it until the edge knows all that there is.
fn followed(origin: &Server, edge: &Server) -> (String, EventStream, String) {
    let stream = unique("shared");
    let created = origin.create(&stream, "text/plain", b"");
    let at = created.expect("stream-next-offset").to_owned();
    let target = format!("{stream}?offset={at}&live=sse");
    let mut reader = EventStream::open(edge.address(), &target).unwrap();
    assert!(reader.next_batch().unwrap().is_some());
    wait_until("it is followed", || {
        figure(edge, "headwater_unfollowed_streams") == 0
    });
    (stream, reader, at)
}

fn poll(edge: &Server, stream: &str, offset: &str) -> Response {
    let target = format!("{stream}?offset={offset}&live=long-poll&cursor=1");
    edge.call("GET", &target, &[], b"")
}

/// Polls, and appends once the poll is there.
fn poll_while_appending(origin: &Server, edge: &Server, stream: &str, offset: &str) -> Response {
    let target = format!("{stream}?offset={offset}&live=long-poll&cursor=1");
    loop {
        let mut connection = edge.connect();
        connection.send_request("GET", &target, &[], b"").unwrap();
        wait_until("the long-poll is there", || {
            figure(edge, "headwater_live_readers{mode=\"long_poll\"}") == 1
        });
        origin.append(stream, "text/plain", b"more");
        let polled = connection.response().unwrap();
        // It may have waited in vain before.
        if polled.status == 200 {
            return polled;
        }
    }
}

/// What a cache is told.
fn told(answer: &Response) -> (&str, Option<&str>) {
    (answer.expect("cache-control"), answer.header("cache-tag"))
}

/// As for the tests of other things, with time for an append while a long-poll waits.
fn patient() -> Setup {
    Setup {
        streams: vec!["long_poll_timeout = \"3s\"".to_owned()],
        ..Setup::quick()
    }
}

#[test]
fn those_who_waited_together_may_share_what_is_for_everybody() {
    let origin = Setup::quick().start();
    let edge = edge_with(&[&url(&origin)], "", patient());
    let (stream, mut reader, at) = followed(&origin, &edge);
    let tag = format!("stream:default/{}", stream.rsplit('/').next().unwrap());
    let shared = (SHARED, Some(tag.as_str()));

    let in_vain = poll(&edge, &stream, &at);
    assert_eq!((in_vain.status, told(&in_vain)), (204, shared));
    assert!(in_vain.expect("stream-cursor").parse::<u64>().unwrap() > 1);
    let answered = poll_while_appending(&origin, &edge, &stream, &at);
    assert_eq!((answered.status, told(&answered)), (200, shared));
    let at_once = poll(&edge, &stream, &at);
    assert_eq!(told(&at_once), shared);
    let at = answered.expect("stream-next-offset").to_owned();

    // What they wait for depends on when they came.
    for offset in ["now", BEYOND] {
        let answered = poll_while_appending(&origin, &edge, &stream, offset);
        assert_eq!(
            (&*answered.body, told(&answered)),
            (&b"more"[..], ("no-store", None))
        );
        let in_vain = poll(&edge, &stream, offset);
        assert_eq!((in_vain.status, told(&in_vain)), (204, ("no-store", None)));
    }
    let behind = poll(&edge, &stream, &at);
    assert!(behind.body.starts_with(b"moremore"), "{behind:?}");
    assert_eq!(told(&behind), shared);

    origin.close(&stream);
    while reader.next_batch().unwrap().is_some() {}
    let end = poll(&edge, &stream, behind.expect("stream-next-offset"));
    assert_eq!((end.status, told(&end)), (204, shared));
    assert_eq!(end.expect("stream-closed"), "true");
}

#[test]
fn what_an_origin_calls_private_is_shared_by_nobody() {
    let mut setup = Setup::quick();
    setup.streams.push("cache = \"private\"".to_owned());
    let origin = setup.start();
    for settings in ["", "shared = true"] {
        let edge = edge_with(&[&url(&origin)], settings, patient());
        let (stream, _reader, at) = followed(&origin, &edge);
        let in_vain = poll(&edge, &stream, &at);
        assert_eq!((in_vain.status, told(&in_vain).0), (204, "no-store"));
        let answered = poll_while_appending(&origin, &edge, &stream, &at);
        assert_eq!((answered.status, told(&answered).0), (200, "no-store"));
    }
}

#[test]
fn an_edge_behind_an_edge_hears_for_whom_events_are() {
    let origin = Setup::quick().start();
    let near = edge(&[&url(&origin)], "");
    let (stream, _reader, at) = followed(&origin, &near);
    let far = edge(&[&url(&near)], "");
    let target = format!("{stream}?offset={at}&live=sse");
    let mut reader = EventStream::open(far.address(), &target).unwrap();
    assert!(reader.next_batch().unwrap().is_some());
    wait_until("it is followed", || {
        figure(&far, "headwater_unfollowed_streams") == 0
    });
    assert_eq!(told(&poll(&far, &stream, &at)).0, SHARED);
}
