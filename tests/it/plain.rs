//! Requests are answered alike whether they are plain or not: a header that
//! asks something of the connection has one read by a session instead.

use crate::common::http::{Connection, Response};
use crate::common::{Setup, unique};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const JSON: (&str, &str) = ("content-type", "application/json");
/// It asks for nothing, but it is about the connection.
const NOT_PLAIN: (&str, &str) = ("connection", "keep-alive, unknown");

/// A request: method, path below the stream's with its query, headers, body.
type Request<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// What the answers to these requests say, without what differs by chance: the
/// time, and which stream it is.
fn told(
    connection: &mut Connection,
    target: &str,
    plain: bool,
    requests: &[Request],
) -> Vec<String> {
    let call = |(method, rest, headers, body): &Request| {
        let path = format!("{target}{rest}");
        let mut headers = headers.to_vec();
        headers.extend((!plain).then_some(NOT_PLAIN));
        let answer = connection.call(method, &path, &headers, body.as_bytes());
        let Response { head, body } = answer.unwrap();
        let mut lines: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .filter(|(name, _)| {
                !matches!(
                    name.as_str(),
                    "date" | "etag" | "cache-tag" | "stream-cursor" | "location"
                )
            })
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        lines.sort();
        let body = String::from_utf8(body).unwrap();
        format!("{} {lines:?} {body}", head.status)
    };
    requests.iter().map(call).collect()
}

#[test]
fn plain_requests_are_answered_like_others() {
    let server = Setup::quick().start();
    let long = "x".repeat(10_000);
    let begin = "offset=0000000000000000_0000000000000000";
    let producer = [
        TEXT,
        ("producer-id", "p"),
        ("producer-epoch", "0"),
        ("producer-seq", "0"),
    ];
    let read_first = format!("?{begin}");
    let requests: &[Request] = &[
        ("HEAD", "", &[], ""),
        ("GET", "", &[], ""),
        ("PUT", "", &[TEXT], "first"),
        ("POST", "", &[TEXT], "second"),
        ("POST", "", &[("Content-Type", "TEXT/plain; a=b")], &long),
        ("POST", "", &producer, "third"),
        ("POST", "", &producer, "third"),
        ("POST", "", &producer[..3], "fourth"),
        ("POST", "", &[TEXT], ""),
        ("POST", "", &[], "no type"),
        ("POST", "", &[JSON], "[1]"),
        ("HEAD", "", &[], ""),
        ("HEAD", "?offset=wrong", &[], ""),
        ("GET", "", &[], ""),
        ("GET", &read_first, &[("accept-encoding", "gzip;q=0")], ""),
        ("GET", "?offset=-1", &[("if-none-match", "*")], ""),
        ("GET", "?offset=now", &[], ""),
        ("GET", "?offset=wrong", &[], ""),
        ("GET", "?offset=-1&offset=-1", &[], ""),
        ("GET", "?live=never&offset=-1", &[], ""),
        ("GET", "?live=long-poll&offset=-1", &[], ""),
        ("GET", "?%6cive=sse&offset=%2D1", &[], ""),
        ("GET", "?offset=-1", &[], "a body that means nothing"),
        ("POST", "/__ds/../x", &[TEXT], "x"),
        ("POST", "/%zz", &[TEXT], "x"),
        ("POST", "", &[TEXT, ("stream-closed", "true")], "last"),
        ("POST", "", &[TEXT], "more"),
        ("GET", "", &[], ""),
    ];
    let mut connection = server.connect();
    let plain = told(&mut connection, &unique("plain"), true, requests);
    let other = told(&mut connection, &unique("other"), false, requests);
    for ((request, plain), other) in requests.iter().zip(plain).zip(other) {
        assert_eq!(plain, other, "{request:?}");
    }
}

#[test]
fn plain_and_other_requests_follow_each_other_on_a_connection() {
    let server = Setup::quick().start();
    let target = unique("mixed");
    server.create(&target, "text/plain", b"");
    let mut connection = server.connect();
    let mut bytes = Vec::new();
    for n in 0..50 {
        let other = if n % 3 == 0 { "connection: te\r\n" } else { "" };
        let body = format!("{n}:{}\n", "x".repeat(n * 400));
        let head = format!("POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain");
        let length = body.len();
        bytes.extend(format!("{head}\r\n{other}content-length: {length}\r\n\r\n{body}").bytes());
    }
    // In pieces that end anywhere in a request.
    for piece in bytes.chunks(17_777) {
        connection.send(piece).unwrap();
    }
    for _ in 0..50 {
        assert_eq!(connection.response().unwrap().status, 204);
    }
    let read = String::from_utf8(server.read_all(&target)).unwrap();
    let numbers: Vec<_> = read
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert!(
        numbers.into_iter().eq((0..50).map(|n| n.to_string())),
        "{read}"
    );
}
