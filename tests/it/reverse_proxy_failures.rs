//! Upstreams that are not there, fall silent, or break off; and which of several gets a request.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::common::{PATIENCE, Server, assert_problem, wait_until};
use crate::reverse_proxy_upstream::{Upstream, nobody, proxy};

#[test]
fn an_upstream_that_is_not_there_is_told() {
    let server = proxy(&[&nobody()], "");
    for (method, body) in [("GET", &b""[..]), ("POST", b"body"), ("HEAD", b"")] {
        let mut connection = server.connect();
        let answer = connection.call(method, "/", &[], body).unwrap();
        assert_eq!(answer.status, 502);
        if method != "HEAD" {
            assert_eq!(assert_problem(&answer, 502), "UPSTREAM_UNREACHABLE");
        }
    }
    // Streams are as they were.
    assert_eq!(server.call("GET", "/v1/stream/x", &[], b"").status, 404);
}

#[test]
fn another_upstream_takes_what_one_cannot() {
    let upstream = Upstream::echo();
    let server = proxy(&[&nobody(), upstream.url()], "");
    for n in 0..20 {
        let body = format!("body {n}");
        let answer = server.call("POST", "/", &[], body.as_bytes());
        assert_eq!((answer.status, &answer.body[..]), (200, body.as_bytes()));
    }
    assert_eq!(upstream.calls().len(), 20);
    // The one that cannot be reached is not tried each time.
    let failures = r#"headwater_upstream_failures_total{reason="connect",route="/*"} "#;
    let failed = figure(&server, failures);
    assert!((1..5).contains(&failed), "{failed}");
}

/// An upstream that takes a request whole, and hangs up.
fn hanging_up() -> Upstream {
    Upstream::start(|call, peer| {
        peer.body(call)?;
        Err(io::ErrorKind::ConnectionAborted.into())
    })
}

#[test]
fn what_was_sent_is_not_sent_again_unless_it_may_be_repeated() {
    let upstream = hanging_up();
    let server = proxy(&[upstream.url()], "retries = 2");
    let answer = server.call("POST", "/", &[], b"charge the card");
    assert_eq!(assert_problem(&answer, 502), "UPSTREAM_BROKE");
    assert_eq!(upstream.calls().len(), 1);
    let answer = server.call("PUT", "/", &[], b"set the price");
    assert_eq!(assert_problem(&answer, 502), "UPSTREAM_BROKE");
    assert_eq!(upstream.calls().len(), 1 + 3);
}

#[test]
fn a_pooled_connection_that_was_closed_is_replaced() {
    let upstream = Upstream::start(|call, peer| {
        let body = peer.body(call)?;
        peer.answer(&body)?;
        // Without a word, as a server does that has waited long enough.
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let server = proxy(&[upstream.url()], "retries = 0");
    for _ in 0..10 {
        assert_eq!(server.call("GET", "/", &[], b"").status, 200);
    }
}

#[test]
fn an_upstream_that_is_silent_is_given_up() {
    let upstream = Upstream::start(|_, peer| {
        // Until the other side hangs up.
        peer.read_some()?;
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let server = proxy(
        &[upstream.url()],
        "timeouts = { read = \"200ms\" }\nretries = 3",
    );
    let answer = server.call("GET", "/", &[], b"");
    assert_eq!(assert_problem(&answer, 504), "UPSTREAM_TIMEOUT");
    assert_eq!(
        upstream.calls().len(),
        1,
        "a retry would wait as long again"
    );
}

/// An address that lets nobody in: as many wait at its door as may. They do as long as the rest of
/// what is returned lives.
fn crowded() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        waiting.push(stream);
    }
    (address, listener, waiting)
}

#[test]
fn an_upstream_that_lets_nobody_in_is_given_up() {
    let (address, _listener, _waiting) = crowded();
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let tls = format!("https://{}", silent.local_addr().unwrap());
    for upstream in [format!("http://{address}"), tls] {
        let server = proxy(&[&upstream], "timeouts = { connect = \"200ms\" }");
        for body in [&b""[..], b"body"] {
            let answer = server.call("POST", "/", &[], body);
            assert_eq!(assert_problem(&answer, 502), "UPSTREAM_UNREACHABLE");
        }
    }
}

#[test]
fn an_upstream_that_takes_nothing_is_given_up() {
    let upstream = Upstream::start(|_, _| {
        std::thread::sleep(PATIENCE);
        Ok(())
    });
    let server = proxy(&[upstream.url()], "timeouts = { write = \"200ms\" }");
    let mut client = TcpStream::connect(server.address()).unwrap();
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // More than sockets hold; it ends when the connection does.
        let length = 256 << 20;
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        writer.write_all(head.as_bytes())?;
        let piece = vec![0; 1 << 20];
        (0..256).try_for_each(|_| writer.write_all(&piece))
    });
    let mut answer = String::new();
    let mut bytes = [0; 1024];
    while !answer.contains("UPSTREAM_TIMEOUT") {
        let read = client.read(&mut bytes).unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    drop(client);
    drop(server);
    writing.join().unwrap().unwrap_err();
}

#[test]
fn silence_within_an_answer_breaks_it_off() {
    let upstream = Upstream::start(|_, peer| {
        peer.begin_chunked("text/plain")?;
        peer.chunk(b"half")?;
        peer.read_some()?;
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let server = proxy(&[upstream.url()], "timeouts = { read = \"200ms\" }");
    let mut connection = server.connect();
    connection.send_request("GET", "/", &[], b"").unwrap();
    connection.read_head().unwrap();
    assert_eq!(connection.read_chunk().unwrap().unwrap(), b"half");
    connection.read_chunk().unwrap_err();
}

#[test]
fn what_is_not_http_is_told() {
    let upstream = Upstream::start(|_, peer| {
        peer.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")?;
        peer.read_some().map(drop)
    });
    let server = proxy(&[upstream.url()], "");
    let answer = server.call("GET", "/", &[], b"");
    assert_eq!(assert_problem(&answer, 502), "UPSTREAM_INVALID");
}

#[test]
fn health_checks_leave_out_what_is_down_and_take_it_back() {
    let healthy = Arc::new(AtomicBool::new(true));
    let seen = healthy.clone();
    let upstream = Upstream::start(move |call, peer| match call.target.as_str() {
        "/healthz" if seen.load(Ordering::Relaxed) => peer.answer(b"fine"),
        "/healthz" => peer.send(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"),
        _ => peer.answer(b"here"),
    });
    let check = "health_check = { path = \"/healthz\", interval = \"50ms\", timeout = \"30s\" }";
    let server = proxy(&[upstream.url()], check);
    let status = || server.call("GET", "/", &[], b"").status;
    assert_eq!(status(), 200);
    healthy.store(false, Ordering::Relaxed);
    wait_until("the upstream is left out", || status() == 503);
    let answer = server.call("GET", "/", &[], b"");
    assert_eq!(assert_problem(&answer, 503), "NO_UPSTREAM");
    answer.expect("retry-after");
    healthy.store(true, Ordering::Relaxed);
    wait_until("the upstream is taken back", || status() == 200);
}

#[test]
fn a_check_can_be_a_connection() {
    let check = "health_check = { interval = \"50ms\", timeout = \"30s\" }";
    let address = nobody();
    let server = proxy(&[&address], check);
    let status = || server.call("GET", "/", &[], b"").status;
    wait_until("the upstream is left out", || status() == 503);
    let address = address.strip_prefix("http://").unwrap().parse().unwrap();
    let _upstream = Upstream::start_at(address, |_, peer| peer.answer(b"here"));
    wait_until("the upstream is taken back", || status() == 200);
}

/// What the metrics say behind this beginning of a line.
fn figure(server: &Server, beginning: &str) -> u32 {
    let metrics = String::from_utf8(server.admin("/metrics").body).expect("UTF-8");
    let mut lines = metrics.lines();
    let found = lines.find_map(|line| line.strip_prefix(beginning));
    found.expect("the figure").parse().expect("a number")
}

/// Waits until so many requests are under way: an answer is with its client before its end is known.
fn wait_until_under_way(server: &Server, requests: u32) {
    let gauge = r#"headwater_upstream_in_flight_requests{route="/*"} "#;
    wait_until("the answers are over", || figure(server, gauge) == requests);
}

/// How many requests each of three upstreams gets of thirty, by their paths.
fn shares(settings: &str, path: impl Fn(usize) -> String) -> Vec<usize> {
    let upstreams: Vec<_> = (0..3).map(|_| Upstream::echo()).collect();
    let urls: Vec<_> = upstreams.iter().map(Upstream::url).collect();
    let server = proxy(&urls, settings);
    for n in 0..30 {
        assert_eq!(server.call("GET", &path(n), &[], b"").status, 200);
        wait_until_under_way(&server, 0);
    }
    upstreams
        .iter()
        .map(|upstream| upstream.calls().len())
        .collect()
}

#[test]
fn each_upstream_gets_its_turn() {
    assert_eq!(shares("", |_| "/".to_owned()), [10, 10, 10]);
    let least = "balance = \"least_connections\"";
    assert_eq!(shares(least, |_| "/".to_owned()), [10, 10, 10]);
}

#[test]
fn the_same_path_goes_to_the_same_upstream() {
    let hash = "balance = \"hash\"";
    let mut same = shares(hash, |_| "/one".to_owned());
    same.sort_unstable();
    assert_eq!(same, [0, 0, 30]);
    let spread = shares(hash, |n| format!("/{n}"));
    let used: BTreeSet<_> = spread.iter().filter(|share| **share > 0).collect();
    assert!(!used.is_empty() && !spread.contains(&30), "{spread:?}");
}

#[test]
fn a_busy_upstream_gets_no_more_than_the_others() {
    let (free, freed) = channel::<()>();
    let freed = Arc::new(Mutex::new(freed));
    let slow = Upstream::start(move |_, peer| {
        let _ = freed.lock().unwrap().recv();
        peer.answer(b"slow")
    });
    let quick = Upstream::echo();
    let server = proxy(
        &[slow.url(), quick.url()],
        "balance = \"least_connections\"",
    );
    let mut waiting = server.connect();
    waiting.send_request("GET", "/", &[], b"").unwrap();
    wait_until("somebody has the request", || {
        !slow.calls().is_empty() || !quick.calls().is_empty()
    });
    if slow.calls().is_empty() {
        // It was the other's turn.
        waiting.response().unwrap();
        wait_until_under_way(&server, 0);
        waiting.send_request("GET", "/", &[], b"").unwrap();
        wait_until("the slow one has a request", || !slow.calls().is_empty());
    }
    for _ in 0..10 {
        wait_until_under_way(&server, 1);
        assert_eq!(server.call("GET", "/", &[], b"").status, 200);
    }
    assert_eq!(slow.calls().len(), 1);
    drop(free);
    assert_eq!(waiting.response().unwrap().body, b"slow");
}
