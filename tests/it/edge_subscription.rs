//! A stream that an edge follows: once for all its readers, for as long as there are any.

use std::thread;
use std::time::Duration;

use crate::common::http::EventStream;
use crate::common::{Setup, unique, wait_until};
use crate::edge::{edge, edge_with, figure, url};

const LIVE: &str = "headwater_origin_requests_total{purpose=\"live\"}";

#[test]
fn long_polls_at_one_offset_wait_for_the_same() {
    const POLLS: usize = 50;
    let origin = Setup::quick().start();
    let mut setup = Setup::quick();
    setup.streams = vec!["long_poll_timeout = \"1h\"".to_owned()];
    let edge = edge_with(&[&url(&origin)], "", setup);
    let stream = unique("polled");
    let created = origin.create(&stream, "text/plain", b"");
    let mut at = created.expect("stream-next-offset").to_owned();
    let mut connections: Vec<_> = (0..POLLS).map(|_| edge.connect()).collect();
    for round in 0..3 {
        let target = format!("{stream}?offset={at}&live=long-poll");
        for connection in &mut connections {
            connection.send_request("GET", &target, &[], b"").unwrap();
        }
        wait_until("all of them wait", || {
            figure(&edge, "headwater_followed_stream_readers") == POLLS as u64
        });
        let body = format!("round {round}");
        let appended = origin.append(&stream, "text/plain", body.as_bytes());
        for connection in &mut connections {
            let polled = connection.response().unwrap();
            assert_eq!((polled.status, &*polled.body), (200, body.as_bytes()));
            assert_eq!(
                polled.expect("stream-next-offset"),
                appended.expect("stream-next-offset")
            );
        }
        appended.expect("stream-next-offset").clone_into(&mut at);
        assert_eq!(figure(&edge, LIVE), 1, "one connection for all of them");
    }
}

#[test]
fn readers_with_different_credentials_are_followed_apart() {
    let origin = Setup::quick().start();
    for (settings, subscriptions) in [("", 3), ("shared = true", 1)] {
        let edge = edge(&[&url(&origin)], settings);
        let stream = unique("callers");
        origin.create(&stream, "text/plain", b"x");
        let target = format!("{stream}?offset=-1&live=sse");
        let mut readers = Vec::new();
        for n in 0..9 {
            let headers: &[_] = match n % 3 {
                0 => &[],
                1 => &[("authorization", "Bearer anna")],
                _ => &[("cookie", "id=bert")],
            };
            let mut connection = edge.connect();
            connection
                .send_request("GET", &target, headers, b"")
                .unwrap();
            assert_eq!(connection.read_head().unwrap().status, 200);
            readers.push(connection);
        }
        wait_until("all of them follow", || {
            figure(&edge, "headwater_followed_stream_readers") == 9
                && figure(&edge, "headwater_unfollowed_streams") == 0
        });
        assert_eq!(figure(&edge, "headwater_followed_streams"), subscriptions);
        assert_eq!(figure(&edge, LIVE), subscriptions);
    }
}

#[test]
fn a_subscription_goes_on_where_its_origin_ended_the_connection() {
    let mut setup = Setup::quick();
    setup.streams.push("sse_recycle = \"2s\"".to_owned());
    let origin = setup.start();
    let edge = edge(&[&url(&origin)], "");
    let stream = unique("recycled");
    origin.create(&stream, "text/plain", b"begin;");
    let target = format!("{stream}?offset=-1&live=sse");
    let mut reader = EventStream::open(edge.address(), &target).unwrap();
    assert_eq!(reader.next_batch().unwrap().unwrap().0, "begin;");
    let mut written = String::new();
    while figure(&edge, LIVE) < 4 {
        let body = format!("{};", written.len());
        origin.append(&stream, "text/plain", body.as_bytes());
        written.push_str(&body);
        thread::sleep(Duration::from_millis(20));
    }
    origin.close(&stream);
    let mut heard = String::new();
    while let Some((data, _)) = reader.next_batch().unwrap() {
        heard.push_str(&data);
    }
    assert_eq!(heard, written);
    assert_eq!(
        figure(&edge, "headwater_follow_reconnects_total"),
        0,
        "nothing failed"
    );
}

#[test]
fn a_stream_lives_as_long_as_it_is_read_live() {
    const TTL: Duration = Duration::from_secs(6);
    let origin = Setup::quick().start();
    let edge = edge(&[&url(&origin)], "linger = \"100ms\"");
    let stream = unique("ttl");
    let ttl = TTL.as_secs().to_string();
    let headers = [("content-type", "text/plain"), ("stream-ttl", ttl.as_str())];
    assert_eq!(edge.call("PUT", &stream, &headers, b"x").status, 201);
    let target = format!("{stream}?offset=-1&live=sse");
    let mut reader = EventStream::open(edge.address(), &target).unwrap();
    assert_eq!(reader.next_batch().unwrap().unwrap().0, "x");
    thread::sleep(TTL * 2);
    edge.append(&stream, "text/plain", b"y");
    assert_eq!(reader.next_batch().unwrap().unwrap().0, "y");
    drop(reader);
    wait_until("nobody reads it there any more", || {
        figure(&origin, "headwater_live_readers{mode=\"sse\"}") == 0
    });
    wait_until("it has expired", || {
        // HEAD is no use of a stream.
        edge.call("HEAD", &stream, &[], b"").status == 404
    });
}
