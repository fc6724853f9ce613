//! A path at which another stream has followed: nobody takes the one for the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::http::{Connection, EventStream, Response};
use crate::common::{Server, Setup, free_port, unique, wait_until};
use crate::edge::{edge, edge_with, figure, pair, url, wait_until_followed};
use crate::edge_origins::streams_by_home;
use crate::reverse_proxy_upstream::{Call, Peer, Upstream};

/// What a test lets happen when it is ready.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn wait(&self) {
        wait_until("the test goes on", || self.is_open());
    }
}

/// An answer with data up to an offset.
pub(crate) fn answer(peer: &mut Peer, next: &str, headers: &str, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: {next}\r\n{headers}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    peer.send(head.as_bytes())
}

/// A parameter of a request.
pub(crate) fn parameter<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    let (_, query) = call.target.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|pair| pair.0 == name).map(|pair| pair.1)
}

/// An origin of a stream whose first answer goes to 0001, and whose second one, once the gate is
/// open, to 0002. These are headers of the two.
fn of_two_answers(gate: &Gate, first: &'static str, second: &'static str) -> Upstream {
    let gate = gate.clone();
    Upstream::start(
        move |call, peer| match (&*call.method, parameter(call, "offset")) {
            ("DELETE", _) => peer.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
            (_, Some("-1")) => answer(peer, "0001", first, "one"),
            (_, Some("0001")) => {
                gate.wait();
                answer(peer, "0002", second, "two")
            }
            _ => peer.send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
        },
    )
}

/// Opens events at the beginning, and reads the first of two answers.
fn first_of_two(edge: &Server, stream: &str, origin: &Upstream) -> EventStream {
    let target = format!("{stream}?offset=-1&live=sse");
    let mut events = EventStream::open(edge.address(), &target).unwrap();
    assert_eq!(events.next_batch().unwrap().unwrap().0, "one");
    wait_until("it asks for more", || {
        let asked = |call: &Call| parameter(call, "offset") == Some("0001");
        origin.calls().iter().any(asked)
    });
    events
}

#[test]
fn whoever_catches_up_ends_where_the_answers_are_of_another_stream() {
    let gate = Gate::default();
    let origin = of_two_answers(
        &gate,
        "etag: \"0a1b2c3d:1:0:1\"\r\n",
        "etag: \"0a1b2c3d:2:1:2\"\r\n",
    );
    let edge = edge(&[origin.url()], "");
    let mut events = first_of_two(&edge, &unique("tagged"), &origin);
    gate.open();
    assert!(events.next_batch().unwrap().is_none());
}

#[test]
fn whoever_catches_up_ends_where_the_stream_is_deleted() {
    let gate = Gate::default();
    let origin = of_two_answers(&gate, "", "");
    let edge = edge(&[origin.url()], "");
    let stream = unique("untagged");
    let mut events = first_of_two(&edge, &stream, &origin);
    assert_eq!(edge.call("DELETE", &stream, &[], b"").status, 204);
    gate.open();
    assert!(events.next_batch().unwrap().is_none());
}

#[test]
fn what_was_kept_before_a_restart_is_not_gone_on_with_by_another_stream() {
    let gate = Gate::default();
    let kept = "etag: \"0a1b2c3d:1:0:1\"\r\ncache-control: public, max-age=1000\r\n";
    let origin = of_two_answers(&gate, kept, "etag: \"0a1b2c3d:2:1:2\"\r\n");
    let mut edge = edge(&[origin.url()], "");
    let stream = unique("kept");
    edge.call("GET", &format!("{stream}?offset=-1"), &[], b"");
    wait_until("it is on disk", || {
        figure(&edge, "headwater_cache_entries{tier=\"disk\"}") == 1
    });
    edge.terminate();
    edge.restart();
    let mut events = first_of_two(&edge, &stream, &origin);
    gate.open();
    assert!(events.next_batch().unwrap().is_none());
    let from_the_start = |call: &Call| parameter(call, "offset") == Some("-1");
    let calls = origin.calls();
    assert_eq!(calls.iter().filter(|call| from_the_start(call)).count(), 1);
}

/// Polls for the first data of a stream that is made, while it is appended.
fn poll_the_first(edge: &Server, stream: &str, data: &str, known: &str) -> Response {
    let created = edge.create(stream, "text/plain", b"");
    let at = created.expect("stream-next-offset");
    let target = format!("{stream}?offset={at}&live=long-poll");
    let mut poll = edge.connect();
    let headers = [("if-none-match", known)];
    poll.send_request("GET", &target, &headers, b"").unwrap();
    wait_until_followed(edge, 1);
    edge.append(stream, "text/plain", data.as_bytes());
    let polled = poll.response().unwrap();
    edge.call("DELETE", stream, &[], b"");
    polled
}

#[test]
fn a_poll_is_not_told_that_it_has_the_data_of_another_stream() {
    let origin = Setup::quick().start();
    let setup = Setup {
        streams: vec!["long_poll_timeout = \"1h\"".to_owned()],
        ..Setup::quick()
    };
    let edge = edge_with(&[&url(&origin)], "", setup);
    let stream = unique("polled");
    let old = poll_the_first(&edge, &stream, "old", "\"x\"");
    assert_eq!((old.status, &*old.body), (200, &b"old"[..]));
    let new = poll_the_first(&edge, &stream, "new", old.expect("etag"));
    assert_eq!((new.status, &*new.body), (200, &b"new"[..]));
}

#[test]
fn compressed_answers_of_the_stream_before_are_forgotten() {
    let (origin, mut edge) = pair();
    let stream = unique("coded");
    let fill = |text: &str| {
        origin.create(&stream, "text/plain", text.repeat(2000).as_bytes());
        origin.close(&stream);
    };
    let read = |edge: &Server, from: &str| {
        let headers = [("accept-encoding", "gzip")];
        edge.call("GET", &format!("{stream}?offset={from}"), &headers, b"")
    };
    fill("old");
    read(&edge, "-1");
    wait_until("it is on disk", || {
        figure(&edge, "headwater_cache_entries{tier=\"disk\"}") == 1
    });
    edge.terminate();
    edge.restart();
    origin.call("DELETE", &stream, &[], b"");
    fill("new");
    wait_until("it is compressed", || {
        read(&edge, "-1").header("content-encoding") == Some("gzip")
    });
    // The edge learns from another answer that the stream is another one.
    read(&edge, "0000000000000000_0000000000000009");
    let there = origin.call("GET", &format!("{stream}?offset=-1"), &[], b"");
    let there = there.expect("etag").trim_end_matches('"');
    let read = read(&edge, "-1");
    assert!(read.expect("etag").starts_with(there), "{read:?} {there}");
}

#[test]
fn routes_with_the_same_origins_in_another_order_ask_the_same_one() {
    let (one, other) = (Setup::quick().start(), Setup::quick().start());
    let first = format!("127.0.0.1:{}", free_port());
    let mut setup = Setup::quick();
    let origins = [url(&one), url(&other)];
    setup.site = format!(
        "[[site.route]]\npath = \"/v1/stream/*\"\nstreams = {{ origin = {{ upstreams = {origins:?} }} }}\n\
         [[site]]\nlisten = [{first:?}]\n"
    );
    // The setup's own listener has the first route, and this one the other.
    let reversed = [url(&other), url(&one)];
    setup
        .streams
        .push(format!("origin = {{ upstreams = {reversed:?} }}"));
    let edge = setup.start();
    let large = "x".repeat(2 << 20);
    for stream in streams_by_home(&edge, [&one, &other]) {
        let target = format!("{stream}?offset=-1&live=sse");
        let addresses = [edge.address(), first.parse().unwrap()];
        let mut readers = addresses.map(|address| {
            let mut events = EventStream::open(address, &target).unwrap();
            assert_eq!(events.next_batch().unwrap().unwrap().0, "first;");
            events
        });
        wait_until("both follow", || {
            figure(&edge, "headwater_followed_stream_readers") == 2
                && figure(&edge, "headwater_unfollowed_streams") == 0
        });
        // More than what is kept of what was heard: both have to ask for it.
        edge.append(&stream, "text/plain", large.as_bytes());
        edge.close(&stream);
        for events in &mut readers {
            let mut read = 0;
            while let Some((data, _)) = events.next_batch().unwrap() {
                read += data.len();
            }
            assert_eq!(read, large.len());
        }
    }
}

/// An origin whose streams are others for each host, and which tells those who follow once the gate
/// is open.
fn by_host(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |call, peer| {
        let host = call.header("host").unwrap_or_default();
        let is_first = host.eq_ignore_ascii_case("a.test");
        let identity = if is_first { "0a1b2c3d:1" } else { "0a1b2c3d:2" };
        if parameter(call, "live") == Some("sse") {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nstream-id: {identity}\r\n\
                 stream-sse-data-encoding: base64\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            peer.send(head.as_bytes())?;
            peer.chunk(
                b"event: control\ndata:{\"streamNextOffset\":\"0003\",\"upToDate\":true}\n\n",
            )?;
            gate.wait();
            return peer.chunk(
                b"event: data\ndata:dHdv\n\nevent: control\ndata:{\"streamNextOffset\":\"0006\",\"streamClosed\":true}\n\n",
            );
        }
        let headers = format!("etag: \"{identity}:0:3:t\"\r\nstream-up-to-date: true\r\n");
        answer(peer, "0003", &headers, "one")
    })
}

#[test]
fn hosts_do_not_end_the_readers_of_each_other() {
    let gate = Gate::default();
    let origin = by_host(&gate);
    let edge = edge(&[origin.url()], "preserve_host = true");
    let stream = unique("hosts");
    let ask = |host: &str, query: &str| {
        let mut connection = Connection::open(edge.address()).unwrap();
        let request = format!("GET {stream}{query} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        connection.send(request.as_bytes()).unwrap();
        connection
    };
    let mut events = ask("a.test", "?offset=-1&live=sse");
    assert_eq!(events.read_head().unwrap().status, 200);
    wait_until_followed(&edge, 1);
    for host in ["b.test", "A.test", "b.test"] {
        assert_eq!(ask(host, "?offset=-1").response().unwrap().body, b"one");
    }
    gate.open();
    let mut said = Vec::new();
    while let Some(chunk) = events.read_chunk().unwrap() {
        said.extend_from_slice(&chunk);
    }
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("data:two") && said.contains("streamClosed"),
        "{said}"
    );
}

/// An origin that knows nothing of those whose signature is wrong, and which tells the others once
/// the gate is open.
fn by_signature(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |call, peer| {
        if parameter(call, "signature") != Some("right") {
            return peer.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
        let at = parameter(call, "offset").unwrap_or_default();
        match parameter(call, "live") {
            Some("long-poll") => {
                gate.wait();
                answer(peer, "0006", "stream-closed: true\r\n", "two")
            }
            Some(_) => answer(peer, "0003", "", "no events"),
            None => {
                let body = if at == "-1" { "one" } else { "" };
                answer(peer, "0003", "stream-up-to-date: true\r\n", body)
            }
        }
    })
}

/// An origin that shows its closed stream, with this tag, to Anna alone.
fn for_anna(tag: &'static str) -> Upstream {
    Upstream::start(move |call, peer| {
        if call.header("authorization") != Some("anna") {
            return peer.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
        let headers = format!(
            "etag: {tag}\r\nstream-closed: true\r\ncache-control: private, max-age=1000\r\n"
        );
        if call.header("if-none-match") == Some(tag) {
            let unchanged = format!("HTTP/1.1 304 Not Modified\r\n{headers}\r\n");
            return peer.send(unchanged.as_bytes());
        }
        answer(peer, "0003", &headers, "one")
    })
}

#[test]
fn whoever_is_told_that_there_is_nothing_takes_nothing_from_others() {
    for (tag, then) in [
        (
            "\"0a1b2c3d:1:0:3:c\"",
            "headwater; fwd=stale; fwd-status=304",
        ),
        // Another stream could have it as well.
        ("\"0:3:c\"", "headwater; fwd=uri-miss; stored"),
    ] {
        let origin = for_anna(tag);
        let edge = edge(&[origin.url()], "");
        let stream = unique("hidden");
        let read = || {
            let read = edge.call("GET", &stream, &[("authorization", "anna")], b"");
            assert_eq!(read.body, b"one");
            read.expect("cache-status").to_owned()
        };
        for method in ["GET", "HEAD", "POST"] {
            wait_until("it is stored", || read() == "headwater; hit");
            assert_eq!(edge.call(method, &stream, &[], b"").status, 404);
            assert_eq!(read(), then, "{method} {tag}");
        }
    }
}

#[test]
fn whoever_is_told_that_there_is_nothing_does_not_end_others() {
    let gate = Gate::default();
    let origin = by_signature(&gate);
    let edge = edge(&[origin.url()], "");
    let stream = unique("signed");
    let target = format!("{stream}?signature=right&offset=-1&live=sse");
    let mut events = EventStream::open(edge.address(), &target).unwrap();
    assert_eq!(events.next_batch().unwrap().unwrap().0, "one");
    wait_until_followed(&edge, 1);
    let wrong = format!("{stream}?signature=wrong&offset=-1");
    assert_eq!(edge.call("GET", &wrong, &[], b"").status, 404);
    gate.open();
    assert_eq!(events.next_batch().unwrap().unwrap().0, "two");
}
