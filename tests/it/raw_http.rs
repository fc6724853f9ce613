//! Malformed, hostile and unusual requests, byte by byte. After each of them
//! the server works as before, and nothing half-written is to be seen.

use std::io::ErrorKind;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::http::{Connection, Response, request};
use crate::common::{Server, Setup, assert_problem, seed, unique};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const JSON: (&str, &str) = ("content-type", "application/json");

/// A server that soon gives up on a connection that says nothing more, so that
/// a test can wait for that.
pub(super) fn impatient_server() -> Server {
    let setup = Setup {
        limits: "body_timeout = \"2s\"\nidle_timeout = \"2s\"".to_owned(),
        ..Setup::quick()
    };
    setup.start()
}

/// Sends these bytes and reads answers until the connection ends.
pub(super) fn answers(server: &Server, bytes: &[u8]) -> Vec<Response> {
    let mut connection = server.connect();
    // A server that has seen enough closes while we still send.
    let _ = connection.send(bytes);
    let mut answers = Vec::new();
    loop {
        match connection.response() {
            Ok(response) => answers.push(response),
            Err(error) if error.kind() == ErrorKind::InvalidData => panic!("{error}"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server neither answers nor closes")
            }
            Err(_) => return answers,
        }
    }
}

/// Sends each request to the server, all at once; each must be refused, or the
/// connection dropped without an answer, and nothing may be taken for a second
/// request. `{victim}` is a stream that must stay as it is, `{smuggled}` one
/// that must not come to be.
fn assert_refused(requests: &[(&str, String)]) -> Vec<Response> {
    let mut server = impatient_server();
    let victim = unique("victim");
    server.create(&victim, "text/plain", b"intact");
    let refuse = |what: &str, request: &str| {
        let smuggled = unique("smuggled");
        let request = request
            .replace("{victim}", &victim)
            .replace("{smuggled}", &smuggled);
        let mut answers = answers(&server, request.as_bytes());
        assert!(answers.len() <= 1, "{what}: {answers:?}");
        let answer = answers.pop();
        if let Some(answer) = &answer {
            let refused = matches!(answer.status, 400..=499 | 501 | 505);
            assert!(refused, "{what}: {answer:?}");
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect(what);
            assert!(problem["code"].is_string(), "{what}: {answer:?}");
        }
        let head = server.call("HEAD", &smuggled, &[], b"");
        assert_eq!(head.status, 404, "{what}: the smuggled request was done");
        answer
    };
    let answers = std::thread::scope(|scope| {
        let threads: Vec<_> = requests
            .iter()
            .map(|(what, request)| scope.spawn(|| refuse(what, request)))
            .collect();
        let answers = threads.into_iter().map(ScopedJoinHandle::join);
        answers
            .map(|answer| answer.expect("no panic"))
            .collect::<Vec<_>>()
    });
    assert_eq!(server.read_all(&victim), b"intact");
    server.assert_healthy();
    answers.into_iter().flatten().collect()
}

/// As `assert_refused`, for bodies of an append, framing headers first. Where
/// they end is not certain, so nothing that comes after them may count, however
/// late it comes.
fn assert_bodies_refused(bodies: &[(&str, String)]) {
    let head = "POST {victim} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n";
    let second = "PUT {smuggled} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    let requests: Vec<_> = bodies
        .iter()
        .map(|(what, body)| (*what, format!("{head}{body}{second}")))
        .collect();
    for answer in assert_refused(&requests) {
        assert_eq!(answer.expect("connection"), "close", "{answer:?}");
    }
}

#[test]
fn ambiguous_bodies_are_refused() {
    let cases = [
        (
            "two lengths",
            "content-length: 1\r\ncontent-length: 2\r\n\r\nxy",
        ),
        (
            "two lengths, the second of them shorter",
            "content-length: 42\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "two lengths in one header",
            "content-length: 1, 2\r\n\r\nxy",
        ),
        ("a length with a sign", "content-length: +1\r\n\r\nx"),
        ("a negative length", "content-length: -1\r\n\r\nx"),
        ("a length in hexadecimal", "content-length: 0x1\r\n\r\nx"),
        ("a length and more", "content-length: 1 2\r\n\r\nx"),
        ("no length", "content-length:\r\n\r\nx"),
        (
            "a length beyond 64 bits",
            "content-length: 18446744073709551617\r\n\r\nx",
        ),
        (
            "an unknown encoding",
            "transfer-encoding: xchunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "chunked, but not last",
            "transfer-encoding: chunked, identity\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "chunked twice",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "a space before the colon",
            "transfer-encoding : chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "a space before the colon of the length",
            "content-length : 1\r\n\r\nx",
        ),
        (
            "an encoding in a folded header",
            "x: y\r\n transfer-encoding: chunked\r\ncontent-length : 1\r\n\r\nx",
        ),
        (
            "a NUL in the encoding",
            "transfer-encoding: chunked\0\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
    ];
    assert_bodies_refused(&cases.map(|(what, body)| (what, body.to_owned())));
}

fn assert_chunks_refused(cases: &[(&str, &str)]) {
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    let bodies = cases.iter();
    let bodies = bodies.map(|(what, chunks)| (*what, format!("{chunked}{chunks}")));
    assert_bodies_refused(&bodies.collect::<Vec<_>>());
}

#[test]
fn bad_chunks_are_refused() {
    let cases = [
        ("a size that is no number", "zz\r\nx\r\n0\r\n\r\n"),
        ("a negative size", "-1\r\nx\r\n0\r\n\r\n"),
        ("a size with a sign", "+1\r\nx\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x1\r\nx\r\n0\r\n\r\n"),
        (
            "a size beyond 64 bits",
            "10000000000000001\r\nx\r\n0\r\n\r\n",
        ),
        ("the largest size", "ffffffffffffffff\r\nx\r\n0\r\n\r\n"),
        ("more data than the size", "1\r\nxyz\r\n0\r\n\r\n"),
        ("no line end after the data", "1\r\nx0\r\n\r\n"),
        ("less data than the size", "5\r\nx\r\n0\r\n\r\n"),
        ("no last chunk", "1\r\nx\r\n"),
        ("an endless size line", &"1".repeat(100_000)),
    ];
    assert_chunks_refused(&cases);
}

#[test]
#[ignore = "the parser that Pingora uses takes an empty chunk size for zero"]
fn empty_chunk_sizes_are_refused() {
    assert_chunks_refused(&[
        ("an empty size", "\r\nx\r\n0\r\n\r\n"),
        ("an empty size at the end", "1\r\nx\r\n\r\n\r\n"),
        ("only an extension", ";a=b\r\n\r\n"),
    ]);
}

#[test]
fn malformed_heads_are_refused() {
    let huge = "x".repeat(2 << 20);
    let many = "x: y\r\n".repeat(5_000);
    let append = "content-type: text/plain\r\ncontent-length: 1\r\n";
    let cases = [
        (
            "no version",
            format!("POST {{victim}}\r\nhost: localhost\r\n{append}\r\nx"),
        ),
        (
            "an unknown version",
            format!("POST {{victim}} HTTP/3.7\r\nhost: localhost\r\n{append}\r\nx"),
        ),
        (
            "a space in the path",
            format!("POST {{victim}} x HTTP/1.1\r\nhost: localhost\r\n{append}\r\nx"),
        ),
        (
            "a NUL in the path",
            format!("POST {{victim}}\0 HTTP/1.1\r\nhost: localhost\r\n{append}\r\nx"),
        ),
        (
            "a control byte in the path",
            format!("POST {{victim}}\x01 HTTP/1.1\r\nhost: localhost\r\n{append}\r\nx"),
        ),
        (
            "a header without a colon",
            format!("POST {{victim}} HTTP/1.1\r\nhost: localhost\r\nnonsense\r\n{append}\r\nx"),
        ),
        (
            "a header without a name",
            format!("POST {{victim}} HTTP/1.1\r\nhost: localhost\r\n: y\r\n{append}\r\nx"),
        ),
        (
            "a header with a space in its name",
            format!("POST {{victim}} HTTP/1.1\r\nhost: localhost\r\na b: y\r\n{append}\r\nx"),
        ),
        (
            "a NUL in a header",
            format!("POST {{victim}} HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n{append}\r\nx"),
        ),
        (
            "a bare CR in a header",
            format!("POST {{victim}} HTTP/1.1\r\nhost: localhost\r\nx: a\rb\r\n{append}\r\nx"),
        ),
        (
            "no host",
            format!("POST {{victim}} HTTP/1.1\r\n{append}\r\nx"),
        ),
        (
            "a host that is none",
            format!("POST {{victim}} HTTP/1.1\r\nhost: a b\r\n{append}\r\nx"),
        ),
        (
            "two hosts",
            format!("POST {{victim}} HTTP/1.1\r\nhost: a\r\nhost: b\r\n{append}\r\nx"),
        ),
        (
            "a huge header",
            format!("POST {{victim}} HTTP/1.1\r\nhost: localhost\r\nx: {huge}\r\n{append}\r\nx"),
        ),
        (
            "very many headers",
            format!("POST {{victim}} HTTP/1.1\r\nhost: localhost\r\n{many}{append}\r\nx"),
        ),
        (
            "a huge path",
            format!("POST {{victim}}{huge} HTTP/1.1\r\nhost: localhost\r\n{append}\r\nx"),
        ),
        ("an endless method", huge.clone()),
        ("only line ends", "\r\n".repeat(1_000)),
        ("a head without an end", "GET / HTTP/1.1\r\nhost".to_owned()),
        (
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ),
    ];
    assert_refused(&cases);
}

/// RFC 9112, section 6.3: with both a length and an encoding, the encoding
/// counts, and the connection must not be used again.
#[test]
fn a_length_beside_chunks_smuggles_nothing() {
    let mut server = impatient_server();
    for length in ["6", "0", "100"] {
        for swapped in [false, true] {
            let victim = unique("victim");
            server.create(&victim, "text/plain", b"intact");
            let smuggled = unique("smuggled");
            let framing = [
                format!("content-length: {length}\r\n"),
                "transfer-encoding: chunked\r\n".to_owned(),
            ];
            let [first, second] = if swapped {
                let [length, encoding] = framing;
                [encoding, length]
            } else {
                framing
            };
            let bytes = format!(
                "POST {victim} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
                 {first}{second}\r\n0\r\n\r\n\
                 PUT {smuggled} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
            );
            let answers = answers(&server, bytes.as_bytes());
            assert!(answers.len() <= 1, "{answers:?}");
            assert!(answers.iter().all(|a| a.status >= 400), "{answers:?}");
            assert_eq!(server.call("HEAD", &smuggled, &[], b"").status, 404);
            assert_eq!(server.read_all(&victim), b"intact");
        }
    }
    server.assert_healthy();
}

#[test]
fn unusual_but_correct_requests_are_served() {
    let mut server = Setup::quick().start();
    let chunked = "content-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
    let bodies = [
        ("one chunk", format!("{chunked}3\r\nabc\r\n0\r\n\r\n")),
        (
            "a chunk for each byte",
            format!("{chunked}1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"),
        ),
        (
            "zeros before the size",
            format!("{chunked}0003\r\nabc\r\n000\r\n\r\n"),
        ),
        (
            "chunk extensions",
            format!("{chunked}3;name=value;flag\r\nabc\r\n0;last\r\n\r\n"),
        ),
        (
            "names and values in other cases",
            "Content-TYPE: Text/Plain\r\nTRANSFER-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (
            "no space after the colon",
            "content-type:text/plain\r\ncontent-length:3\r\n\r\nabc".to_owned(),
        ),
        (
            "spaces and tabs around a value",
            "content-type: \t text/plain \t\r\ncontent-length: \t3 \r\n\r\nabc".to_owned(),
        ),
        (
            "zeros before the length",
            "content-type: text/plain\r\ncontent-length: 0003\r\n\r\nabc".to_owned(),
        ),
    ];
    for (what, rest) in bodies {
        let target = unique("unusual");
        server.create(&target, "text/plain", b"");
        let mut connection = server.connect();
        let bytes = format!("POST {target} HTTP/1.1\r\nhost: localhost\r\n{rest}");
        connection.send(bytes.as_bytes()).unwrap();
        let response = connection.response().expect(what);
        assert_eq!(response.status, 204, "{what}: {response:?}");
        // What followed the body was read to its end: the connection goes on.
        let read = connection.call("GET", &target, &[], b"").expect(what);
        assert_eq!(read.body, b"abc", "{what}");
    }
    server.assert_healthy();
}

#[test]
fn trailers_are_read_and_ignored() {
    let server = Setup::quick().start();
    let target = unique("trailers");
    server.create(&target, "text/plain", b"");
    let bytes = format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
         transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
    );
    let mut connection = server.connect();
    connection.send(bytes.as_bytes()).unwrap();
    assert_eq!(connection.response().unwrap().status, 204);
    assert_eq!(server.read_all(&target), b"abc");
}

/// A body where none is expected is part of its request all the same; and an
/// offer to speak another protocol need not be taken.
#[test]
fn bodies_and_upgrades_without_meaning_are_passed_over() {
    let server = Setup::quick().start();
    let target = unique("passed-over");
    server.create(&target, "text/plain", b"abc");
    let mut connection = server.connect();
    let bodies = [
        "content-length: 42\r\n\r\nGET /elsewhere HTTP/1.1\r\nhost: localhost\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n",
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
    ];
    for (method, status) in [("GET", 200), ("HEAD", 200), ("OPTIONS", 204)] {
        for body in bodies {
            let bytes = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n{body}");
            connection.send(bytes.as_bytes()).unwrap();
            let response = connection.response_to(method).unwrap();
            assert_eq!(response.status, status, "{bytes}: {response:?}");
            let read = connection.call("GET", &target, &[], b"").unwrap();
            assert_eq!(read.body, b"abc", "{bytes}");
        }
    }
}

#[test]
fn a_client_that_wants_the_connection_closed_gets_that() {
    let server = Setup::quick().start();
    let target = unique("last");
    server.create(&target, "text/plain", b"abc");
    let mut connection = server.connect();
    let response = connection.call("GET", &target, &[("connection", "close")], b"");
    assert_eq!(response.unwrap().body, b"abc");
    assert!(connection.is_closed());
}

#[test]
fn targets_in_absolute_form_are_served() {
    let server = Setup::quick().start();
    let target = unique("absolute");
    server.create(&target, "text/plain", b"abc");
    let absolute = format!("http://localhost{target}");
    let response = server.call("GET", &absolute, &[], b"");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.body, b"abc");
}

#[test]
fn http_1_0_is_served() {
    let server = Setup::quick().start();
    let target = unique("old");
    server.create(&target, "text/plain", b"abc");
    for headers in ["", "host: localhost\r\n"] {
        let mut connection = server.connect();
        let bytes = format!("GET {target} HTTP/1.0\r\n{headers}\r\n");
        connection.send(bytes.as_bytes()).unwrap();
        let response = connection.response().unwrap();
        assert_eq!(response.status, 200, "{response:?}");
        // It knows no chunks.
        assert!(response.header("transfer-encoding").is_none());
        assert_eq!(response.body, b"abc");
        assert!(connection.is_closed());
    }
}

#[test]
fn a_client_that_expects_100_is_told_to_go_on() {
    let server = Setup::quick().start();
    let target = unique("expecting");
    server.create(&target, "text/plain", b"");
    let mut connection = server.connect();
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
         content-length: 3\r\nexpect: 100-continue\r\n\r\n"
    );
    for _ in 0..3 {
        connection.send(head.as_bytes()).unwrap();
        assert_eq!(connection.read_head().unwrap().status, 100);
        connection.send(b"abc").unwrap();
        assert_eq!(connection.response().unwrap().status, 204);
    }
    assert_eq!(server.read_all(&target), b"abcabcabc");
}

#[test]
fn a_client_that_expects_100_is_refused_before_it_sends() {
    // Less than it is read on for the sake of others.
    const AT_ONCE: Duration = Duration::from_secs(25);
    let setup = Setup {
        limits: "body_bytes_max = \"1KiB\"".to_owned(),
        ..Setup::quick()
    };
    let server = setup.start();
    for (target, length, status) in [
        (unique("large"), 2000, 413),
        (unique("nothing"), 5, 404),
        ("/nowhere".to_owned(), 5, 404),
    ] {
        let began = Instant::now();
        let mut connection = server.connect();
        let head = format!(
            "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
             content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        );
        connection.send(head.as_bytes()).unwrap();
        let mut answer = connection.read_head().unwrap();
        if answer.status == 100 {
            connection.send(&vec![b'x'; length]).unwrap();
            answer = connection.read_head().unwrap();
        }
        assert_eq!(answer.status, status, "{target}");
        assert!(began.elapsed() < AT_ONCE, "{target}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Setup::quick().start();
    let target = unique("pipelined");
    let mut bytes = request("PUT", &target, &[TEXT], b"");
    for n in 0..200 {
        bytes.extend(request(
            "POST",
            &target,
            &[TEXT],
            format!("{n}\n").as_bytes(),
        ));
        if n % 50 == 0 {
            bytes.extend(request("GET", &unique("nothing"), &[], b""));
        }
    }
    bytes.extend(request("GET", &target, &[], b""));
    let mut connection = server.connect();
    connection.send(&bytes).unwrap();
    assert_eq!(connection.response().unwrap().status, 201);
    let mut offset = String::new();
    for n in 0..200 {
        let response = connection.response().unwrap();
        assert_eq!(response.status, 204, "{response:?}");
        let next = response.expect("stream-next-offset");
        assert!(next > offset.as_str());
        next.clone_into(&mut offset);
        if n % 50 == 0 {
            assert_problem(&connection.response().unwrap(), 404);
        }
    }
    let read = connection.response().unwrap();
    let lines = String::from_utf8(read.body).unwrap();
    assert!(lines.lines().eq((0..200).map(|n| n.to_string())), "{lines}");
}

#[test]
fn a_request_behind_a_long_poll_waits_for_it() {
    let server = Setup::quick().start();
    let target = unique("behind");
    server.create(&target, "text/plain", b"abc");
    let mut connection = server.connect();
    let poll = format!("{target}?offset=now&live=long-poll");
    let mut bytes = request("GET", &poll, &[], b"");
    bytes.extend(request("GET", &target, &[], b""));
    connection.send(&bytes).unwrap();
    // Together with it or later, and more than is read before the answer.
    for _ in 0..100 {
        let request = request("GET", &target, &[], b"");
        connection.send(&request).unwrap();
    }
    let response = connection.response().unwrap();
    assert_eq!(response.status, 204, "{response:?}");
    for _ in 0..101 {
        assert_eq!(connection.response().unwrap().body, b"abc");
    }
}

/// A connection goes on after events, with what was sent ahead of their end: together
/// with their request, or while they came, or later than that.
#[test]
fn requests_behind_events_wait_for_them() {
    let server = Setup::quick().start();
    let target = unique("events");
    server.create(&target, "text/plain", b"");
    let live = format!("{target}?offset=-1&live=sse");
    let whole = |connection: &mut Connection| connection.response().unwrap();
    let mut connection = server.connect();
    let mut bytes = request("GET", &live, &[], b"");
    bytes.extend(request("HEAD", &target, &[], b""));
    connection.send(&bytes).unwrap();
    let head = connection.read_head().unwrap();
    assert_eq!(head.status, 200);
    assert!(connection.read_chunk().unwrap().is_some());
    connection.send(&request("GET", &target, &[], b"")).unwrap();
    let large = "x".repeat(100_000);
    server.append(&target, "text/plain", large.as_bytes());
    server.close(&target);
    let mut events = Vec::new();
    while let Some(chunk) = connection.read_chunk().unwrap() {
        events.extend(chunk);
    }
    let events = String::from_utf8(events).unwrap();
    assert!(events.contains(&large) && events.contains("streamClosed"));
    let head = connection.response_to("HEAD").unwrap();
    assert_eq!(head.expect("stream-closed"), "true");
    assert_eq!(whole(&mut connection).body, large.as_bytes());
    for _ in 0..3 {
        connection.send(&request("GET", &live, &[], b"")).unwrap();
        assert_eq!(whole(&mut connection).status, 200);
    }
    let last = request("GET", &live, &[("connection", "close")], b"");
    connection.send(&last).unwrap();
    assert_eq!(whole(&mut connection).expect("connection"), "close");
    assert!(connection.is_closed());
}

/// Requests with random damage. Most are refused, some are still valid; the
/// server survives all of them and keeps what it had.
#[test]
fn damaged_requests_do_no_harm() {
    const REQUESTS: usize = 2_000;
    let mut random = StdRng::seed_from_u64(seed());
    let mut server = impatient_server();
    let kept = unique("kept");
    server.create(&kept, "text/plain", b"intact");
    let scratch = unique("scratch");
    server.create(&scratch, "text/plain", b"");
    let templates = [
        request("POST", &scratch, &[TEXT], b"some body"),
        request(
            "PUT",
            &unique("new"),
            &[JSON, ("stream-ttl", "60")],
            b"[1,2,3]",
        ),
        request("GET", &format!("{scratch}?offset=-1"), &[], b""),
        format!(
            "POST {scratch} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
             transfer-encoding: chunked\r\n\r\n4\r\nsome\r\n5\r\n body\r\n0\r\n\r\n"
        )
        .into_bytes(),
        request(
            "POST",
            &scratch,
            &[
                TEXT,
                ("producer-id", "p"),
                ("producer-epoch", "0"),
                ("producer-seq", "0"),
            ],
            b"x",
        ),
    ];
    for _ in 0..REQUESTS {
        let mut bytes = templates[random.random_range(0..templates.len())].clone();
        for _ in 0..random.random_range(1..4) {
            if bytes.is_empty() {
                break;
            }
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..5) {
                0 => bytes[at] = random.random(),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, *b"\r\n\0 :;,%0\xff".get(at % 10).unwrap()),
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let copy = bytes[at..].to_vec();
                    bytes.extend(copy);
                }
            }
        }
        let mut connection = server.connect();
        let _ = connection.send(&bytes);
        let _ = connection.finish_sending();
        // What comes is of no interest, as long as it is HTTP.
        if let Err(error) = connection.response() {
            assert_ne!(error.kind(), ErrorKind::InvalidData, "{error}");
        }
    }
    assert_eq!(server.read_all(&kept), b"intact");
    server.assert_healthy();
}

#[test]
fn bytes_that_are_no_http_do_no_harm() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut server = impatient_server();
    let mut connections: Vec<Connection> = Vec::new();
    for length in [1, 10, 1_000, 100_000] {
        for _ in 0..10 {
            let mut bytes = vec![0; length];
            random.fill(bytes.as_mut_slice());
            let mut connection = server.connect();
            let _ = connection.send(&bytes);
            connections.push(connection);
        }
    }
    // The start of a TLS handshake.
    let mut connection = server.connect();
    let _ = connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    connections.push(connection);
    std::thread::sleep(Duration::from_millis(100));
    server.assert_healthy();
    for mut connection in connections {
        assert!(connection.is_closed() || connection.response().is_ok());
    }
    server.assert_healthy();
}
