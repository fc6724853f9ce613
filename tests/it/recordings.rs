//! Recordings over real sockets: what clients and upstreams do that nobody expects of them.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread::sleep;
use std::time::Duration;

use crate::common::http::{Connection, Response};
use crate::common::{Server, Setup, assert_problem, wait_until};
use crate::reverse_proxy_upstream::{Peer, Upstream};

const EVENTS: &str = "text/event-stream";
const KEY: (&str, &str) = ("idempotency-key", "one");

/// A server that records every path but those of streams.
fn recording(upstream: &Upstream, settings: &str) -> Server {
    recording_with(upstream, settings, Setup::quick())
}

fn recording_with(upstream: &Upstream, settings: &str, setup: Setup) -> Server {
    let site = format!(
        "{}\n[[site.route]]\npath = \"/*\"\n[site.route.record]\nupstreams = [\"{}\"]\n{settings}\n",
        setup.site,
        upstream.url()
    );
    Setup { site, ..setup }.start()
}

/// Answers with these headers, and a body in one piece.
fn answer(peer: &mut Peer, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {EVENTS}\r\n{headers}content-length: {length}\r\n\r\n"
    );
    peer.send(format!("{head}{body}").as_bytes())
}

/// An upstream that answers with these headers and this body.
fn saying(headers: &'static str, body: &'static str) -> Upstream {
    Upstream::start(move |call, peer| {
        peer.body(call)?;
        answer(peer, headers, body)
    })
}

/// The body of an answer as far as it came, and whether it came to its end.
fn listen(server: &Server, target: &str, headers: &[(&str, &str)]) -> (String, bool) {
    let mut connection = server.connect();
    connection
        .send_request("GET", target, headers, b"")
        .unwrap();
    let head = connection.read_head().unwrap();
    assert_eq!(head.status, 200, "{head:?}");
    let mut body = Vec::new();
    let whole = connection.read_body("GET", &head, &mut |part| body.extend_from_slice(part));
    (String::from_utf8(body).unwrap(), whole.is_ok())
}

#[test]
fn a_stream_that_is_no_recording_is_none_for_a_key() {
    let upstream = saying("", "data: 1\n\n");
    let setup = Setup {
        site: "[[site.route]]\npath = \"/streams/*\"\nstreams = { namespace = \"recordings\" }"
            .to_owned(),
        ..Setup::quick()
    };
    let mut server = recording_with(&upstream, "", setup);
    let recorded = server.call("GET", "/", &[KEY], b"");
    let url = recorded.expect("stream-url");
    let (_, name) = url.split_once("/recordings/").unwrap();
    let target = format!("/streams/{}", name.split('?').next().unwrap());
    assert_eq!(server.call("DELETE", &target, &[], b"").status, 204);
    server.create(&target, "text/plain", b"");
    let refused = server.call("GET", "/", &[KEY], b"");
    assert_eq!(assert_problem(&refused, 409), "RECORDING_NAME_TAKEN");
    assert_eq!(upstream.calls().len(), 1);
    assert_eq!(server.call("DELETE", &target, &[], b"").status, 204);
    assert_eq!(server.call("GET", "/", &[KEY], b"").body, b"data: 1\n\n");
    server.assert_healthy();
}

#[test]
fn a_recording_says_which_methods_it_knows() {
    let upstream = saying("", "data: one\n\n");
    let server = recording(&upstream, "");
    let answer = server.call("POST", "/sse/methods", &[], b"");
    let url = answer.expect("stream-url").to_owned();
    let target = &url[url.find("/_recordings").unwrap()..];
    for method in ["PUT", "POST", "DELETE", "BREW"] {
        let refused = server.call(method, target, &[], b"");
        assert_eq!(assert_problem(&refused, 405), "METHOD_NOT_ALLOWED");
        assert_eq!(refused.expect("allow"), "GET, HEAD, PATCH, OPTIONS");
    }
}

#[test]
fn an_id_that_is_not_ascii_is_found() {
    let upstream = saying("", "id: é1\ndata: 1\n\nid: é2\ndata: 2\n\nid: é3\n\n");
    let server = recording(&upstream, "");
    server.call("GET", "/", &[KEY], b"");
    let answer = server.call("GET", "/", &[KEY, ("last-event-id", "é2")], b"");
    assert_eq!(answer.body, "id: é3\n\n".as_bytes());
    assert_eq!(upstream.calls().len(), 1);
}

/// The id of the first event of an answer that has one.
fn first_id(answer: &Response) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let id = text.lines().find_map(|line| line.strip_prefix("id: "));
    id.expect("an id").to_owned()
}

#[test]
fn an_upstream_is_told_no_id_of_ours() {
    let upstream = saying("", "data: 1\n\n");
    let server = recording(&upstream, "event_ids = true");
    let id = first_id(&server.call("GET", "/", &[KEY], b""));
    let seen = ("last-event-id", &*id);
    let other = ("idempotency-key", "other");
    for headers in [&[seen, other][..], &[seen, ("authorization", "Bearer b")]] {
        assert_eq!(server.call("GET", "/", headers, b"").status, 200);
        assert_eq!(upstream.last_call().header("last-event-id"), None);
    }
    assert_eq!(upstream.calls().len(), 3);
}

#[test]
fn pages_may_read_that_they_have_all() {
    let upstream = saying(
        "access-control-allow-origin: https://a.example\r\n",
        "data: 1\n\n",
    );
    let server = recording(&upstream, "event_ids = true");
    let id = first_id(&server.call("GET", "/", &[], b""));
    let last = server.call("GET", "/", &[("last-event-id", &id)], b"");
    assert_eq!(last.status, 204);
    let origin = last.expect("access-control-allow-origin");
    assert_eq!(origin, "https://a.example");
    let exposed = last.expect("access-control-expose-headers");
    assert!(exposed.contains("stream-end"), "{exposed}");
}

#[test]
fn the_url_of_a_stream_is_the_one_that_is_here() {
    let upstream = saying("stream-url: http://elsewhere.example/\r\n", "data: 1\n\n");
    let server = recording(&upstream, "");
    for _ in 0..2 {
        let answer = server.call("GET", "/", &[KEY], b"");
        assert!(answer.expect("stream-url").contains("/recordings/"));
    }
}

#[test]
fn an_upgrade_that_is_not_passed_on_keeps_nothing_from_being_recorded() {
    let upstream = saying("", "data: 1\n\n");
    let server = recording(&upstream, "");
    let to_http2 = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ];
    let with_body = [("connection", "Upgrade"), ("upgrade", "websocket")];
    for headers in [&to_http2[..], &with_body[..]] {
        let answer = server.call("POST", "/", headers, b"{}");
        answer.expect("stream-url");
        assert_eq!(answer.body, b"data: 1\n\n");
        assert_eq!(upstream.last_call().header("upgrade"), None);
    }
}

#[test]
fn what_is_encoded_twice_is_not_recorded() {
    let upstream = saying(
        "content-encoding: identity\r\ncontent-encoding: gzip\r\n",
        "x",
    );
    let server = recording(&upstream, "");
    let answer = server.call("GET", "/", &[], b"");
    assert_eq!(answer.header("stream-url"), None);
}

#[test]
fn a_recording_is_in_use_while_its_upstream_is_silent() {
    let upstream = Upstream::start(|_, peer| {
        peer.begin_chunked(EVENTS)?;
        peer.chunk(b"data: 1\n\n")?;
        sleep(Duration::from_secs(4));
        peer.chunk(b"data: 2\n\n")?;
        peer.chunk(b"")
    });
    let server = recording(&upstream, "ttl = \"1s\"");
    let (body, is_whole) = listen(&server, "/", &[]);
    assert_eq!(body, "data: 1\n\ndata: 2\n\n");
    assert!(is_whole);
}

#[test]
fn a_comment_goes_before_no_byte_order_mark() {
    let upstream = Upstream::start(|_, peer| {
        peer.begin_chunked(EVENTS)?;
        sleep(Duration::from_millis(1500));
        peer.chunk("\u{feff}".as_bytes())?;
        // Longer than it would wait for the rest of an event.
        sleep(Duration::from_millis(200));
        peer.chunk(b"data: 1\n\n")?;
        peer.chunk(b"")
    });
    let server = recording(&upstream, "heartbeat = \"500ms\"");
    let (body, _) = listen(&server, "/", &[]);
    assert!(body.starts_with(": heartbeat\n\n"), "{body:?}");
    assert!(body.ends_with("\n\ndata: 1\n\n"), "{body:?}");
    let upstream = saying("", "\u{feff}data: 1\n\n");
    let server = recording(&upstream, "heartbeat = \"500ms\"");
    assert_eq!(listen(&server, "/", &[]).0, "\u{feff}data: 1\n\n");
}

#[test]
fn bodies_count_until_their_upstream_has_answered() {
    let (go, told) = channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |call, peer| {
        peer.body(call)?;
        let _ = told.lock().unwrap().recv();
        answer(peer, "", "data: 1\n\n")
    });
    let setup = Setup {
        limits: "body_bytes_max = \"1MiB\"\nbodies_in_flight_bytes_max = \"1MiB\"\nqueue_wait = \"100ms\""
            .to_owned(),
        ..Setup::quick()
    };
    let server = recording_with(&upstream, "", setup);
    let body = vec![b'x'; 1 << 20];
    let mut leaving = server.connect();
    leaving.send_request("POST", "/", &[], &body).unwrap();
    wait_until("it is asked", || upstream.calls().len() == 1);
    drop(leaving);
    sleep(Duration::from_millis(300));
    let refused = server.call("POST", "/", &[], &body);
    assert_eq!(assert_problem(&refused, 503), "TOO_MANY_BODIES");
    go.send(()).unwrap();
    wait_until("there is room", || {
        let mut connection = server.connect();
        connection.send_request("POST", "/", &[], &body).unwrap();
        let _ = go.send(());
        connection.read_head().unwrap().status == 200
    });
}

/// An upstream whose every connection brings its head and an event in one write, and ends when it is
/// told to.
fn feed() -> (Upstream, Sender<()>) {
    let (end, told) = channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |_, peer| {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {EVENTS}\r\nconnection: close\r\n\r\n");
        peer.send(format!("{head}\u{feff}data: first\n\n").as_bytes())?;
        let _ = told.lock().unwrap().recv();
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    (upstream, end)
}

fn read_event(connection: &mut Connection) -> String {
    let chunk = connection.read_chunk().unwrap().expect("an event");
    String::from_utf8(chunk).unwrap()
}

#[test]
fn who_starts_a_feed_gets_all_of_it() {
    let (upstream, _end) = feed();
    let server = recording(&upstream, "share = true");
    for n in 0..30 {
        let mut connection = server.connect();
        let target = format!("/?{n}");
        connection.send_request("GET", &target, &[], b"").unwrap();
        assert_eq!(connection.read_head().unwrap().status, 200);
        assert_eq!(read_event(&mut connection), "data: first\n\n");
    }
}

#[test]
fn a_feed_whose_connections_are_short_is_left_when_nobody_reads_it() {
    let (upstream, end) = feed();
    drop(end);
    let server = recording(&upstream, "share = true\nidle_stop = \"2s\"");
    let mut connection = server.connect();
    connection.send_request("GET", "/", &[], b"").unwrap();
    assert_eq!(connection.read_head().unwrap().status, 200);
    for _ in 0..2 {
        // No byte order mark in the middle either.
        assert_eq!(read_event(&mut connection), "data: first\n\n");
    }
    drop(connection);
    wait_until("it is left", || {
        let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
        metrics
            .lines()
            .any(|line| line == "headwater_running_recordings 0")
    });
}
