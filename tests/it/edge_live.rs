//! Live readers at an edge: each gets every byte once and in order, whatever happens to the origin.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::http::{Connection, EventStream};
use crate::common::{Noise, Server, Setup, assert_problem, seed, unique, wait_until};
use crate::edge::{edge, figure, pair, url, wait_until_followed};

/// Reads a stream of text by SSE to its end, as a client does: it comes back where it was.
fn follow(edge: &Server, stream: &str, from: &str) -> String {
    let (mut text, mut at) = (String::new(), from.to_owned());
    loop {
        let target = format!("{stream}?offset={at}&live=sse");
        let Ok(mut events) = EventStream::open(edge.address(), &target) else {
            continue;
        };
        while let Ok(Some((data, control))) = events.next_batch() {
            text.push_str(&data);
            control["streamNextOffset"]
                .as_str()
                .unwrap()
                .clone_into(&mut at);
            if control["streamClosed"] == true {
                return text;
            }
        }
    }
}

/// Reads a stream by long-polls to its end. Where its link to the origin is cut, an answer that has
/// begun may break off: then it is asked for again, as a client does.
pub(crate) fn poll(edge: &Server, stream: &str, from: &str, link_is_cut: bool) -> Vec<u8> {
    let (mut bytes, mut at) = (Vec::new(), from.to_owned());
    let mut connection = edge.connect();
    loop {
        let target = format!("{stream}?offset={at}&live=long-poll");
        connection.send_request("GET", &target, &[], b"").unwrap();
        let head = connection.read_head().unwrap();
        let mut body = Vec::new();
        let read = connection.read_body("GET", &head, &mut |part| body.extend_from_slice(part));
        match read {
            Ok(()) => {}
            Err(_) if link_is_cut && head.status == 200 => {
                connection = edge.connect();
                continue;
            }
            Err(error) => panic!("{error}: {head:?}"),
        }
        match head.status {
            200 => bytes.extend_from_slice(&body),
            204 => {}
            503 => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            _ => panic!("{head:?}"),
        }
        head.expect("stream-next-offset").clone_into(&mut at);
        if head.header("stream-closed").is_some() {
            return bytes;
        }
    }
}

#[test]
fn readers_from_anywhere_get_all_of_it() {
    let mut random = StdRng::seed_from_u64(seed());
    let (origin, edge) = pair();
    let (origin, edge) = (Arc::new(origin), Arc::new(edge));
    let stream = unique("anywhere");
    let at = origin
        .create(&stream, "text/plain", b"")
        .expect("stream-next-offset")
        .to_owned();
    // Where a reader may begin, and what is before it.
    let mut places = vec![("-1".to_owned(), 0), (at, 0)];
    let mut whole = Vec::new();
    let mut readers = Vec::new();
    for n in 0..300 {
        if n % 10 == 0 {
            let (from, before) = places[random.random_range(0..places.len())].clone();
            let (edge, stream) = (edge.clone(), stream.clone());
            let by_sse = random.random_bool(0.5);
            readers.push((
                before,
                thread::spawn(move || {
                    if by_sse {
                        follow(&edge, &stream, &from).into_bytes()
                    } else {
                        poll(&edge, &stream, &from, false)
                    }
                }),
            ));
        }
        let length = match random.random_range(0..50) {
            0 => random.random_range(100_000..1_500_000),
            _ => random.random_range(1..200),
        };
        let body = format!("{n}{};", "x".repeat(length));
        whole.extend_from_slice(body.as_bytes());
        let by = if random.random_bool(0.5) {
            &origin
        } else {
            &edge
        };
        let appended = by.append(&stream, "text/plain", body.as_bytes());
        places.push((
            appended.expect("stream-next-offset").to_owned(),
            whole.len(),
        ));
    }
    origin.close(&stream);
    for (before, reader) in readers {
        let read = reader.join().unwrap();
        assert!(
            read == whole[before..],
            "a reader from {before} read {} bytes",
            read.len()
        );
    }
}

#[test]
fn bytes_of_all_kinds_arrive_exactly() {
    let (origin, edge) = pair();
    for (content_type, body) in [
        ("application/octet-stream", Noise::bytes(7, 10_000)),
        ("text/plain", b"a\r\nb\rc\nd\r".to_vec()),
        (
            "application/json",
            b"[{\"a\":\r\n12345678901234567890},[]]".to_vec(),
        ),
    ] {
        let stream = unique("bytes");
        let at = origin
            .create(&stream, content_type, b"")
            .expect("stream-next-offset")
            .to_owned();
        let mut waiting = edge.connect();
        let target = format!("{stream}?offset={at}&live=long-poll");
        waiting.send_request("GET", &target, &[], b"").unwrap();
        let mut exact = edge.connect();
        let wish = [("stream-sse-data-encoding", "base64")];
        let target = format!("{stream}?offset={at}&live=sse");
        exact.send_request("GET", &target, &wish, b"").unwrap();
        let head = exact.read_head().unwrap();
        assert_eq!(head.expect("stream-sse-data-encoding"), "base64");
        wait_until("both are there", || {
            figure(&edge, "headwater_followed_stream_readers") >= 1
        });
        origin.append(&stream, content_type, &body);
        let expected = origin.read_all(&stream);
        let polled = waiting.response().unwrap();
        // It may have waited in vain before.
        if polled.status == 200 {
            assert_eq!(polled.body, expected, "{content_type}");
        }
        let mut text = String::new();
        while !text.contains("event: data") || !text.ends_with("}\n\n") {
            let chunk = exact.read_chunk().unwrap().expect("more");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        let line = text.lines().find_map(|line| line.strip_prefix("data:"));
        let data = text
            .split("event: data\ndata:")
            .nth(1)
            .map(|rest| rest.lines().next().unwrap());
        assert!(line.is_some());
        assert_eq!(
            BASE64.decode(data.unwrap()).unwrap(),
            expected,
            "{content_type}"
        );
        assert_eq!(poll_once(&edge, &stream), expected);
    }
}

fn poll_once(edge: &Server, stream: &str) -> Vec<u8> {
    let target = format!("{stream}?offset=-1&live=long-poll");
    edge.call("GET", &target, &[], b"").body
}

#[test]
fn readers_stay_while_the_origin_is_away() {
    let mut origin = Setup::quick().start();
    let mut setup = Setup::quick();
    setup.streams.push("sse_heartbeat = \"50ms\"".to_owned());
    let edge = crate::edge::edge_with(&[&url(&origin)], "", setup);
    let stream = unique("away");
    origin.create(&stream, "text/plain", b"before;");
    let target = format!("{stream}?offset=-1&live=sse");
    let mut readers: Vec<_> = (0..5)
        .map(|_| EventStream::open(edge.address(), &target).unwrap())
        .collect();
    for reader in &mut readers {
        assert_eq!(reader.next_batch().unwrap().unwrap().0, "before;");
    }
    let cached = unique("cached");
    origin.create(&cached, "text/plain", b"kept");
    origin.close(&cached);
    assert_eq!(edge.read_all(&cached), b"kept");
    for round in 0..3 {
        origin.kill9();
        wait_until("the edge notices", || {
            figure(&edge, "headwater_unfollowed_streams") == 1
        });
        let late = edge.call("GET", &target, &[], b"");
        assert_eq!(assert_problem(&late, 503), "ORIGIN_AWAY");
        assert!(late.header("retry-after").is_some());
        let written = edge.call("POST", &stream, &[("content-type", "text/plain")], b"x");
        assert_eq!(assert_problem(&written, 503), "ORIGIN_AWAY");
        assert_eq!(edge.call("GET", &cached, &[], b"").body, b"kept");
        origin.restart();
        let body = format!("round {round};");
        origin.append(&stream, "text/plain", body.as_bytes());
        for reader in &mut readers {
            assert_eq!(reader.next_batch().unwrap().unwrap().0, body);
        }
    }
    assert_eq!(figure(&origin, "headwater_live_readers{mode=\"sse\"}"), 1);
    assert!(figure(&edge, "headwater_follow_reconnects_total") > 0);
}

/// A link that can be cut: what goes through it while it is open arrives.
struct Link {
    address: String,
    open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Link {
    fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            open: Arc::new(AtomicBool::new(true)),
            streams: Arc::default(),
        };
        let (open, streams) = (link.open.clone(), link.streams.clone());
        let to = server.address();
        thread::spawn(move || {
            for from in listener.incoming() {
                let Ok(from) = from else { continue };
                let Ok(to) = TcpStream::connect(to) else {
                    continue;
                };
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let mut all = streams.lock().unwrap();
                for (mut one, mut other) in [
                    (from.try_clone().unwrap(), to.try_clone().unwrap()),
                    (to.try_clone().unwrap(), from.try_clone().unwrap()),
                ] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut one, &mut other);
                        let _ = other.shutdown(Shutdown::Both);
                    });
                }
                all.extend([from, to]);
            }
        });
        link
    }

    fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn restore(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_link_that_is_cut_again_and_again_loses_nothing() {
    let origin = Setup::quick().start();
    let link = Link::to(&origin);
    let edge = Arc::new(edge(&[&link.address], ""));
    let stream = unique("cut");
    origin.create(&stream, "application/octet-stream", b"");
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (edge, stream) = (edge.clone(), stream.clone());
            thread::spawn(move || poll(&edge, &stream, "-1", true))
        })
        .collect();
    let mut random = StdRng::seed_from_u64(seed());
    let mut whole = Vec::new();
    for n in 0..400 {
        let body = Noise::bytes(n, random.random_range(1..3_000));
        origin.append(&stream, "application/octet-stream", &body);
        whole.extend_from_slice(&body);
        match random.random_range(0..20) {
            0 => link.cut(),
            1..4 => link.restore(),
            _ => {}
        }
    }
    origin.close(&stream);
    link.restore();
    for reader in readers {
        assert!(reader.join().unwrap() == whole);
    }
}

#[test]
fn the_headers_of_a_clients_connection_are_not_those_of_the_edges() {
    let origin = Setup::quick().start();
    let edge = edge(&[&url(&origin)], "");
    let stream = unique("nominated");
    origin.create(&stream, "text/plain", b"a\r\nb");
    let target = format!("{stream}?offset=-1&live=sse");
    let headers = [("connection", "stream-sse-data-encoding, accept")];
    let mut client = edge.connect();
    client.send_request("GET", &target, &headers, b"").unwrap();
    assert_eq!(client.read_head().unwrap().status, 200);
    wait_until_followed(&edge, 1);
    // Exact events, and no long-polls for want of them.
    assert_eq!(figure(&origin, "headwater_live_readers{mode=\"sse\"}"), 1);
    assert_eq!(
        figure(&origin, "headwater_live_readers{mode=\"long_poll\"}"),
        0
    );
}

#[test]
fn the_cursors_of_a_connection_never_go_backwards() {
    const AHEAD: u64 = 1 << 40;
    let origin = Setup::quick().start();
    let mut setup = Setup::quick();
    setup.streams.push("sse_recycle = \"1h\"".to_owned());
    let edge = crate::edge::edge_with(&[&url(&origin)], "", setup);
    let stream = unique("cursors");
    origin.create(&stream, "text/plain", b"first");
    let target = format!("{stream}?offset=-1&live=sse&cursor={AHEAD}");
    let mut reader = EventStream::open(edge.address(), &target).unwrap();
    let mut least = AHEAD + 1;
    for _ in 0..20 {
        let (_, control) = reader.next_batch().unwrap().expect("a batch");
        let cursor = control["streamCursor"].as_str().unwrap();
        let cursor: u64 = cursor.parse().unwrap();
        assert!(cursor >= least, "{cursor} after {least}");
        least = cursor;
        origin.append(&stream, "text/plain", b"more");
    }
}

#[test]
fn a_stream_is_left_some_time_after_its_last_reader() {
    let origin = Setup::quick().start();
    let edge = edge(&[&url(&origin)], "linger = \"200ms\"");
    let stream = unique("linger");
    origin.create(&stream, "text/plain", b"x");
    let target = format!("{stream}?offset=-1&live=sse");
    let readers = [1, 2, 3].map(|_| EventStream::open(edge.address(), &target).unwrap());
    let followers = || figure(&origin, "headwater_live_readers{mode=\"sse\"}");
    wait_until("it is followed", || followers() == 1);
    drop(readers);
    wait_until("it is left", || followers() == 0);
    assert_eq!(figure(&edge, "headwater_followed_streams"), 0);
}

#[test]
fn a_client_that_waits_and_leaves_costs_nothing() {
    let (origin, edge) = pair();
    let stream = unique("leaves");
    let at = origin
        .create(&stream, "text/plain", b"")
        .expect("stream-next-offset")
        .to_owned();
    for live in ["sse", "long-poll"] {
        let target = format!("{stream}?offset={at}&live={live}");
        for _ in 0..20 {
            let mut client = Connection::open(edge.address()).unwrap();
            client.send_request("GET", &target, &[], b"").unwrap();
        }
        wait_until("all have left", || {
            figure(&edge, "headwater_followed_stream_readers") == 0
                && figure(&edge, "headwater_open_connections") == 0
        });
    }
}
