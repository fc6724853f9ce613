//! Requests that go to an upstream: beside streams on one connection, in pieces as they come, of any
//! size, and as connections of their own.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::http::Connection;
use crate::common::{Noise, Setup, assert_problem, seed, unique, wait_until};
use crate::reverse_proxy_upstream::{Upstream, nobody, proxy, proxy_with};

const TEXT: (&str, &str) = ("content-type", "text/plain");

/// Larger than what the server may hold of it.
const LARGE_BYTES: usize = 192 << 20;
const LARGE_MEMORY_KIB: u64 = 96 << 10;

#[test]
fn one_connection_serves_streams_and_upstreams() {
    let upstream = Upstream::echo();
    let mut server = proxy(&[upstream.url()], "");
    let stream = unique("alternating");
    let mut connection = server.connect();
    let created = connection.call("PUT", &stream, &[TEXT], b"one");
    assert_eq!(created.unwrap().status, 201);
    for round in 0..20 {
        let body = format!("body {round}");
        let echoed = connection.call("POST", "/app", &[TEXT], body.as_bytes());
        assert_eq!(echoed.unwrap().body, body.as_bytes());
        let read = connection.call("GET", &stream, &[], b"").unwrap();
        assert_eq!(read.body, b"one");
        let empty = connection.call("GET", "/app?x=1", &[], b"").unwrap();
        assert_eq!((empty.status, empty.body.len()), (200, 0));
    }
    let calls = upstream.calls();
    assert_eq!(calls.len(), 40);
    assert!(calls.iter().all(|call| call.connection == 0), "it is kept");
    server.assert_healthy();
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url()], "");
    let stream = unique("pipelined");
    server.create(&stream, "text/plain", b"stream");
    let mut all = Vec::new();
    for round in 0..5 {
        all.extend(format!("GET {stream} HTTP/1.1\r\nhost: a\r\n\r\n").bytes());
        let long = "x".repeat(round * 3_000);
        let length = long.len();
        all.extend(
            format!("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{long}")
                .bytes(),
        );
        all.extend(b"POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        all.extend(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    }
    let mut connection = server.connect();
    connection.send(&all).unwrap();
    for round in 0..5 {
        assert_eq!(connection.response().unwrap().body, b"stream");
        assert_eq!(connection.response().unwrap().body.len(), round * 3_000);
        assert_eq!(connection.response().unwrap().body, b"hello world");
    }
}

#[test]
fn what_comes_in_pieces_goes_on_in_pieces() {
    let (heard, hear) = channel();
    let heard = Mutex::new(heard);
    let upstream = Upstream::start(move |call, peer| {
        assert_eq!(call.header("transfer-encoding"), Some("chunked"));
        while let Some(chunk) = peer.next_chunk()? {
            heard.lock().unwrap().send(chunk).unwrap();
        }
        peer.answer(b"all of it")
    });
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.send(head.as_bytes()).unwrap();
    for piece in ["first", "second", "third"] {
        // The next is sent only after the one before has arrived.
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        connection.send(chunk.as_bytes()).unwrap();
        assert_eq!(hear.recv().unwrap(), piece.as_bytes());
    }
    connection.send(b"0\r\n\r\n").unwrap();
    assert_eq!(connection.response().unwrap().body, b"all of it");
}

/// An upstream that sends each event when it is told to.
fn events_on_demand() -> (Upstream, Sender<&'static str>) {
    let (tell, told): (Sender<&'static str>, Receiver<_>) = channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |_, peer| {
        peer.begin_chunked("text/event-stream")?;
        while let Ok(event) = told.lock().unwrap().recv() {
            peer.chunk(format!("data: {event}\n\n").as_bytes())?;
        }
        peer.chunk(b"")
    });
    (upstream, tell)
}

#[test]
fn events_are_not_held_back() {
    let (upstream, tell) = events_on_demand();
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    connection.send_request("GET", "/events", &[], b"").unwrap();
    let head = connection.read_head().unwrap();
    assert_eq!(head.expect("content-type"), "text/event-stream");
    for event in ["one", "two", "three"] {
        // The next is told only after the one before has arrived.
        tell.send(event).unwrap();
        let chunk = connection.read_chunk().unwrap().unwrap();
        assert_eq!(chunk, format!("data: {event}\n\n").as_bytes());
    }
    drop(tell);
    assert_eq!(connection.read_chunk().unwrap(), None);
    let again = connection.call("GET", "/v1/stream/none", &[], b"");
    assert_eq!(again.unwrap().status, 404, "the connection is kept");
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    let (left, leave) = channel();
    let left = Mutex::new(left);
    let upstream = Upstream::start(move |_, peer| {
        peer.begin_chunked("text/event-stream")?;
        peer.chunk(b"data: one\n\n")?;
        // Whether it ends or breaks is a matter of timing.
        let ended = peer.read_some().is_ok_and(|read| read.is_empty());
        left.lock().unwrap().send(ended).unwrap();
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    connection.send_request("GET", "/events", &[], b"").unwrap();
    connection.read_head().unwrap();
    connection.read_chunk().unwrap();
    drop(connection);
    leave.recv().unwrap();
}

#[test]
fn an_answer_that_breaks_off_is_not_ended() {
    let upstream = Upstream::start(|_, peer| {
        peer.begin_chunked("text/plain")?;
        peer.chunk(b"half")?;
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    connection.send_request("GET", "/", &[], b"").unwrap();
    connection.read_head().unwrap();
    assert_eq!(connection.read_chunk().unwrap().unwrap(), b"half");
    connection.read_chunk().unwrap_err();
}

#[test]
fn large_bodies_take_little_memory() {
    let upstream = Upstream::start(|call, peer| {
        let mut bytes = 0;
        peer.body_parts(call, &mut |part| bytes += part.len())?;
        if call.method == "POST" {
            return peer.answer(bytes.to_string().as_bytes());
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE_BYTES}\r\n\r\n");
        peer.send(head.as_bytes())?;
        let piece = vec![b'x'; 1 << 20];
        (0..LARGE_BYTES / piece.len()).try_for_each(|_| peer.send(&piece))
    });
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LARGE_BYTES}\r\n\r\n");
    connection.send(head.as_bytes()).unwrap();
    let piece = Noise::bytes(seed(), 1 << 20);
    for _ in 0..LARGE_BYTES / piece.len() {
        connection.send(&piece).unwrap();
    }
    let uploaded = connection.response().unwrap();
    assert_eq!(uploaded.body, LARGE_BYTES.to_string().as_bytes());
    connection.send_request("GET", "/", &[], b"").unwrap();
    let head = connection.read_head().unwrap();
    let mut bytes = 0;
    connection
        .read_body("GET", &head, &mut |part| bytes += part.len())
        .unwrap();
    assert_eq!(bytes, LARGE_BYTES);
    let peak = server.memory_kib("VmHWM");
    assert!(peak < LARGE_MEMORY_KIB, "{peak} KiB");
}

/// An upstream that switches protocols, if it is asked to, and then answers bytes with the same
/// bytes.
fn switching() -> Upstream {
    Upstream::start(|call, peer| {
        let Some(protocol) = call.header("upgrade") else {
            return peer.answer(b"");
        };
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\nsec-websocket-accept: x\r\n\r\n"
        );
        peer.send(head.as_bytes())?;
        loop {
            let some = peer.read_some()?;
            if some.is_empty() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            peer.send(&some)?;
        }
    })
}

#[test]
fn connections_are_upgraded() {
    let upstream = switching();
    let server = proxy(&[upstream.url()], "");
    let websocket = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];
    let other = [("connection", "Upgrade"), ("upgrade", "test/1")];
    for headers in [&websocket[..], &other[..]] {
        let mut connection = server.connect();
        connection.send_request("GET", "/ws", headers, b"").unwrap();
        let head = connection.read_head().unwrap();
        assert_eq!(head.status, 101, "{head:?}");
        assert_eq!(head.expect("upgrade"), headers[1].1);
        assert_eq!(head.expect("connection"), "Upgrade");
        assert_eq!(head.expect("sec-websocket-accept"), "x");
        for message in ["first", "second"] {
            connection.send(message.as_bytes()).unwrap();
            assert_eq!(exactly(&mut connection, message.len()), message.as_bytes());
        }
        let call = upstream.last_call();
        assert_eq!(call.header("connection"), Some("Upgrade"));
    }
}

#[test]
fn what_comes_with_an_upgrade_is_not_lost() {
    let upstream = Upstream::start(|_, peer| {
        let welcome = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: test/1\r\n\r\nwelcome";
        peer.send(welcome.as_bytes())?;
        let mut heard = Vec::new();
        while heard.len() < "earlylate".len() {
            heard.extend(peer.read_some()?);
        }
        peer.send(&heard)?;
        // And no more.
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let server = proxy(&[upstream.url()], "");
    for _ in 0..50 {
        let mut connection = server.connect();
        let request =
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: test/1\r\n\r\nearly";
        connection.send(request.as_bytes()).unwrap();
        assert_eq!(connection.read_head().unwrap().status, 101);
        assert_eq!(exactly(&mut connection, 7), b"welcome");
        connection.send(b"late").unwrap();
        assert_eq!(exactly(&mut connection, 9), b"earlylate");
        assert!(connection.is_closed());
    }
}

/// An upstream that answers upgrades when it is told to: with 101, and then bytes with the same bytes,
/// or, on other paths than /ws, as a request for something else.
fn switching_later() -> (Upstream, Sender<()>) {
    let (go, told) = channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |call, peer| {
        if call.header("upgrade").is_none() {
            return peer.answer(call.method.as_bytes());
        }
        told.lock().unwrap().recv().unwrap();
        if call.target != "/ws" {
            return peer.send(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        }
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: test/1\r\n\r\n",
        )?;
        loop {
            let some = peer.read_some()?;
            if some.is_empty() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            peer.send(&some)?;
        }
    });
    (upstream, go)
}

#[test]
fn what_comes_while_an_upgrade_is_asked_for_is_not_lost() {
    let (upstream, go) = switching_later();
    let server = proxy(&[upstream.url()], "");
    let headers = [("connection", "Upgrade"), ("upgrade", "test/1")];
    let asked = |target: &str, calls: usize| {
        let mut connection = server.connect();
        connection
            .send_request("GET", target, &headers, b"")
            .unwrap();
        wait_until("it is asked", || upstream.calls().len() > calls);
        connection
    };
    let mut connection = asked("/ws", 0);
    connection.send(b"early").unwrap();
    // Long enough for it to be seen; if it is not, the test sees less.
    std::thread::sleep(Duration::from_millis(100));
    go.send(()).unwrap();
    assert_eq!(connection.read_head().unwrap().status, 101);
    assert_eq!(exactly(&mut connection, 5), b"early");
    let mut connection = asked("/refused", 1);
    connection.send_request("GET", "/next", &[], b"").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    go.send(()).unwrap();
    assert_eq!(connection.response().unwrap().status, 401);
    assert_eq!(connection.response().unwrap().body, b"GET");
}

#[test]
fn an_upgrade_is_asked_for_by_the_neighbour_alone() {
    let upstream = switching();
    let server = proxy(&[upstream.url()], "");
    for headers in [
        &[("upgrade", "websocket")][..],
        &[("connection", "keep-alive"), ("upgrade", "websocket")],
    ] {
        assert_eq!(server.call("GET", "/", headers, b"").status, 200);
        assert_eq!(upstream.last_call().header("upgrade"), None);
    }
}

#[test]
fn headers_of_an_agreed_upgrade_are_changed_as_the_route_says() {
    let upstream = switching();
    let settings = "[site.route.reverse_proxy.response_headers]\nset = { X-Answer = \"ours\" }\nremove = [\"Sec-WebSocket-Accept\"]";
    let server = proxy(&[upstream.url()], settings);
    let mut connection = server.connect();
    let headers = [("connection", "Upgrade"), ("upgrade", "test/1")];
    connection.send_request("GET", "/", &headers, b"").unwrap();
    let head = connection.read_head().unwrap();
    assert_eq!((head.status, head.expect("upgrade")), (101, "test/1"));
    assert_eq!(head.expect("connection"), "Upgrade");
    assert_eq!(head.expect("x-answer"), "ours");
    assert_eq!(head.header("sec-websocket-accept"), None);
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_no_answer() {
    let upstream = Upstream::start(|_, peer| {
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: test/1\r\n\r\nraw")
    });
    let server = proxy(&[upstream.url()], "");
    let answer = server.call("GET", "/", &[], b"");
    assert_eq!(assert_problem(&answer, 502), "UPSTREAM_INVALID");
}

#[test]
fn a_client_of_http10_gets_what_it_knows() {
    let upstream = Upstream::start(|call, peer| {
        peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")?;
        if call.target == "/measured" {
            return peer.answer(b"hello world");
        }
        peer.begin_chunked("text/plain")?;
        for piece in ["hello", " world", ""] {
            peer.chunk(piece.as_bytes())?;
        }
        Ok(())
    });
    let server = proxy(&[upstream.url()], "");
    for target in ["/chunked", "/measured"] {
        let mut connection = server.connect();
        let request = format!("GET {target} HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
        connection.send(request.as_bytes()).unwrap();
        let head = connection.read_head().unwrap();
        assert_eq!(head.status, 200, "no interim answer");
        assert_eq!(head.header("transfer-encoding"), None);
        let mut body = Vec::new();
        connection
            .read_body("GET", &head, &mut |part| body.extend_from_slice(part))
            .unwrap();
        assert_eq!(body, b"hello world");
        assert!(
            connection.is_closed(),
            "the end of the body is that of the connection"
        );
    }
}

#[test]
fn an_upgrade_that_is_refused_is_an_ordinary_request() {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url(), &nobody()], "");
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let mut connection = server.connect();
    for _ in 0..10 {
        let answer = connection.call("GET", "/", &headers, b"").unwrap();
        assert_eq!(answer.status, 200);
        let answer = connection.call("POST", "/", &headers, b"body").unwrap();
        assert_eq!(answer.body, b"body");
    }
    let server = proxy(&[&nobody()], "");
    let answer = server.call("GET", "/", &headers, b"");
    assert_eq!(assert_problem(&answer, 502), "UPSTREAM_UNREACHABLE");
}

#[test]
fn an_upgraded_connection_may_be_silent() {
    let upstream = switching();
    let setup = Setup {
        limits: "body_timeout = \"100ms\"".to_owned(),
        ..Setup::quick()
    };
    let settings = "timeouts = { read = \"100ms\", write = \"100ms\" }";
    let server = proxy_with(&[upstream.url()], settings, setup);
    let mut connection = server.connect();
    let headers = [("connection", "Upgrade"), ("upgrade", "test/1")];
    connection.send_request("GET", "/", &headers, b"").unwrap();
    assert_eq!(connection.read_head().unwrap().status, 101);
    for message in ["first", "second"] {
        std::thread::sleep(Duration::from_millis(300));
        connection.send(message.as_bytes()).unwrap();
        assert_eq!(exactly(&mut connection, message.len()), message.as_bytes());
    }
}

#[test]
fn a_client_that_stops_sending_is_told() {
    let upstream = Upstream::echo();
    let setup = Setup {
        limits: "body_timeout = \"100ms\"".to_owned(),
        ..Setup::quick()
    };
    let server = proxy_with(&[upstream.url()], "", setup);
    let mut connection = server.connect();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.response().unwrap();
    assert_eq!(assert_problem(&answer, 408), "BODY_TIMEOUT");
    assert!(connection.is_closed());
}

#[test]
fn a_connection_is_not_upgraded_around_the_rules() {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    let headers = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ];
    let answer = connection.call("GET", "/", &headers, b"").unwrap();
    assert_eq!(answer.status, 200);
    let call = upstream.last_call();
    for name in ["connection", "upgrade", "http2-settings"] {
        assert_eq!(call.header(name), None);
    }
}

/// So many bytes, whatever they mean.
fn exactly(connection: &mut Connection, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = crate::common::http::Head {
        status: 200,
        headers: vec![("content-length".to_owned(), length.to_string())],
    };
    connection
        .read_body("GET", &head, &mut |part| bytes.extend_from_slice(part))
        .unwrap();
    bytes
}

#[test]
fn a_unix_socket_is_an_upstream() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let upstream = Upstream::start_unix(&path, |call, peer| {
        let body = peer.body(call)?;
        peer.answer(&body)
    });
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    for body in ["one", "two"] {
        let echoed = connection.call("POST", "/", &[TEXT], body.as_bytes());
        assert_eq!(echoed.unwrap().body, body.as_bytes());
    }
}

#[test]
fn what_can_never_be_recorded_is_passed_on() {
    let upstream = switching();
    let setup = Setup {
        site: format!(
            "[[site.route]]\npath = \"/*\"\nrecord = {{ upstreams = [\"{}\"] }}",
            upstream.url()
        ),
        ..Setup::quick()
    };
    let server = setup.start();
    let mut connection = server.connect();
    for method in ["HEAD", "OPTIONS"] {
        let answer = connection.call(method, "/", &[], b"").unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(upstream.last_call().method, method);
    }
    let headers = [("connection", "Upgrade"), ("upgrade", "test/1")];
    connection.send_request("GET", "/", &headers, b"").unwrap();
    assert_eq!(connection.read_head().unwrap().status, 101);
    connection.send(b"hello").unwrap();
    assert_eq!(exactly(&mut connection, 5), b"hello");
}

#[test]
fn what_upstreams_do_is_counted() {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    for _ in 0..3 {
        connection.call("GET", "/counted", &[], b"").unwrap();
    }
    let metrics = server.admin("/metrics").body;
    let metrics = String::from_utf8(metrics).unwrap();
    for line in [
        r#"headwater_upstream_connections_total{reused="false",route="/*"} 1"#,
        r#"headwater_upstream_connections_total{reused="true",route="/*"} 2"#,
        r#"headwater_upstream_in_flight_requests{route="/*"} 0"#,
        r#"headwater_requests_total{method="GET",mode="none",route="/*",status="200"} 3"#,
    ] {
        assert!(
            metrics.lines().any(|other| other == line),
            "{line}\n{metrics}"
        );
    }
}

#[test]
fn requests_under_way_are_waited_for_at_a_stop() {
    let (tell, told) = channel();
    let told = Arc::new(Mutex::new(told));
    let upstream = Upstream::start(move |_, peer| {
        told.lock().unwrap().recv().unwrap();
        peer.answer(b"late")
    });
    let mut server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    connection.send_request("GET", "/", &[], b"").unwrap();
    wait_until("the request is with the upstream", || {
        !upstream.calls().is_empty()
    });
    server.send_sigterm();
    wait_until("the stop has begun", || server.said().contains("stopping"));
    tell.send(()).unwrap();
    assert_eq!(connection.response().unwrap().body, b"late");
    assert!(connection.is_closed());
    assert!(server.wait_for_exit().success());
}
