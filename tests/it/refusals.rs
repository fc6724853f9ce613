//! Requests that are good HTTP and bad requests: what the answers say, and that
//! the connection goes on after them.

use crate::common::http::{Response, request};
use crate::common::{Server, Setup, assert_error_headers, assert_problem, unique};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let mut server = Setup::quick().start();
    let long = format!("/v1/stream/{}", "x".repeat(2_000));
    let paths = [
        "/v1/stream/..",
        "/v1/stream/../x",
        "/v1/stream/../../etc/passwd",
        "/v1/stream/a/../b",
        "/v1/stream/a/..",
        "/v1/stream/%2e%2e",
        "/v1/stream/%2e%2e/x",
        "/v1/stream/%2E%2E%2Fx",
        "/v1/stream/.%2e/x",
        "/v1/stream/a%2f..%2fb",
        "/v1/stream/a%2f%2e%2e%2fb",
        "/v1/stream/%00",
        "/v1/stream/a%00b",
        "/v1/stream/a%00",
        "/v1/stream/",
        "/v1/stream",
        "/v1/streams/x",
        "/v2/stream/x",
        "/",
        &long,
    ];
    for path in paths {
        for method in ["PUT", "POST", "GET", "DELETE"] {
            let response = server.call(method, path, &[TEXT], b"x");
            let status = response.status;
            assert!(matches!(status, 400 | 404 | 414), "{path}: {response:?}");
            assert_problem(&response, status);
        }
    }
    assert_problem(&server.call("PUT", &long, &[TEXT], b"x"), 414);
    // Nor do they as the source of a fork.
    for source in ["/v1/stream/../x", "/v1/stream/%00", "..", "/etc/passwd"] {
        let response = server.call(
            "PUT",
            &unique("fork"),
            &[("stream-forked-from", source)],
            b"",
        );
        assert!(matches!(response.status, 400 | 404), "{response:?}");
        assert_problem(&response, response.status);
    }
    server.assert_healthy();
}

/// Two spellings of a path are one stream, or one of them is refused; a path
/// that was written is read back under the same spelling in any case.
#[test]
fn odd_names_are_refused_or_kept_apart() {
    let mut server = Setup::quick().start();
    let names = [
        "a b",
        "a%20b",
        "a%zz",
        "a%",
        "a%ff",
        "a\\..\\b",
        "a%5c..%5cb",
        "a//b",
        "a/./b",
        "a%0d%0ab",
        "a%7f",
        "%25",
        "%2525",
        "%C3%BC",
        "a;b=c",
        "a:b@c!$&'()*+,",
        "a%3fb",
        "a%23b",
        "...",
        "a..b",
    ];
    for name in names {
        if name.contains(' ') {
            continue; // Not a target at all; `malformed_heads_are_refused` has it.
        }
        let target = format!("{}/{name}", unique("odd"));
        let created = server.call("PUT", &target, &[TEXT], name.as_bytes());
        if created.status == 201 {
            assert_eq!(server.read_all(&target), name.as_bytes(), "{target}");
            let location = created.expect("location");
            assert!(location.ends_with(&target), "{target} is at {location}");
        } else {
            assert!(matches!(created.status, 400..=499), "{created:?}");
            assert_problem(&created, created.status);
        }
    }
    server.assert_healthy();
}

#[test]
fn unknown_methods_are_refused() {
    let mut server = Setup::quick().start();
    let target = unique("methods");
    server.create(&target, "text/plain", b"intact");
    let mut connection = server.connect();
    for method in ["PATCH", "BREW", "TRACE", "PROPFIND", "get", "LOCK"] {
        let response = connection.call(method, &target, &[], b"").unwrap();
        assert_problem(&response, 405);
        let allow = response.expect("allow");
        for allowed in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            assert!(allow.contains(allowed), "{response:?}");
        }
    }
    let response = server.call("CONNECT", "localhost:443", &[], b"");
    assert!(matches!(response.status, 400..=499 | 501), "{response:?}");
    assert_eq!(server.read_all(&target), b"intact");
    server.assert_healthy();
}

#[test]
fn a_body_that_is_too_large_is_drained_and_refused() {
    let setup = Setup {
        limits: "body_bytes_max = \"1MiB\"".to_owned(),
        ..Setup::quick()
    };
    let mut server = setup.start();
    let target = unique("too-large");
    server.create(&target, "text/plain", b"intact");
    let body = vec![b'x'; 8 << 20];
    for method in ["POST", "PUT"] {
        // The whole body is sent before the answer is read.
        let mut connection = server.connect();
        let response = connection.call(method, &target, &[TEXT], &body).unwrap();
        assert_problem(&response, 413);

        let mut connection = server.connect();
        let head = request(
            method,
            &target,
            &[TEXT, ("transfer-encoding", "chunked")],
            b"",
        );
        let head = String::from_utf8(head)
            .unwrap()
            .replace("content-length: 0\r\n", "");
        connection.send(head.as_bytes()).unwrap();
        for part in body.chunks(100_000) {
            let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
            chunk.extend_from_slice(part);
            chunk.extend_from_slice(b"\r\n");
            connection.send(&chunk).unwrap();
        }
        connection.send(b"0\r\n\r\n").unwrap();
        assert_problem(&connection.response().unwrap(), 413);
    }
    // The largest that is allowed.
    let largest = vec![b'y'; 1 << 20];
    server.append(&target, "text/plain", &largest);
    assert_eq!(
        server.read_all(&target),
        [b"intact".as_slice(), &largest].concat()
    );
    server.assert_healthy();
}

#[test]
fn a_refusal_leaves_the_connection_usable() {
    let server = Setup::quick().start();
    let target = unique("kept");
    let closed = unique("closed");
    let mut connection = server.connect();
    let mut call = |method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]| {
        connection.call(method, target, headers, body).unwrap()
    };
    let created = call("PUT", &target, &[TEXT], b"abc");
    assert_eq!(created.status, 201);
    assert_eq!(
        call("PUT", &closed, &[TEXT, ("stream-closed", "true")], b"x").status,
        201
    );
    for round in 0..3 {
        let nothing = unique("nothing");
        assert_problem(&call("GET", &nothing, &[], b""), 404);
        assert_problem(&call("POST", &nothing, &[TEXT], b"body"), 404);
        assert_problem(&call("DELETE", &nothing, &[], b""), 404);
        let head = call("HEAD", &nothing, &[], b"");
        assert_eq!(head.status, 404);
        assert_error_headers(&head);
        assert_problem(&call("PUT", &target, &[JSON], b"[]"), 409);
        assert_problem(&call("POST", &target, &[JSON], b"[1]"), 409);
        assert_problem(&call("POST", &closed, &[TEXT], b"x"), 409);
        assert_problem(&call("POST", &target, &[TEXT], b""), 400);
        assert_problem(&call("PATCH", &target, &[TEXT], b"body"), 405);
        assert_problem(&call("GET", "/elsewhere", &[], b""), 404);
        assert_problem(
            &call("GET", &format!("{target}?offset=nonsense"), &[], b""),
            400,
        );
        assert_eq!(call("GET", &target, &[], b"").body, b"abc", "{round}");
    }
}

/// Streams to be refused something about, and what they hold.
struct Streams {
    server: Server,
    text: String,
    json: String,
    closed: String,
    nothing: String,
}

impl Streams {
    fn new() -> Self {
        let streams = Self {
            server: Setup::quick().start(),
            text: unique("text"),
            json: unique("json"),
            closed: unique("closed"),
            nothing: unique("nothing"),
        };
        streams.server.create(&streams.text, "text/plain", b"abc");
        streams
            .server
            .create(&streams.json, "application/json", b"[1]");
        streams.server.create(&streams.closed, "text/plain", b"abc");
        streams.server.close(&streams.closed);
        streams
    }

    fn refuse(
        &self,
        status: u16,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let response = self.server.call(method, target, headers, body);
        assert_problem(&response, status);
        response
    }

    /// Nothing that was refused has left anything behind.
    fn assert_unchanged(&self) {
        assert_eq!(self.server.read_all(&self.text), b"abc");
        assert_eq!(self.server.read_all(&self.json), b"[1]");
        assert_eq!(self.server.read_all(&self.closed), b"abc");
        let nothing = self.server.call("HEAD", &self.nothing, &[], b"");
        assert_eq!(nothing.status, 404);
    }
}

#[test]
fn reads_are_refused() {
    let streams = Streams::new();
    let refuse = |status, target: &str| streams.refuse(status, "GET", target, &[], b"");
    let (text, nothing) = (&streams.text, &streams.nothing);
    refuse(404, nothing);
    for live in ["long-poll", "sse"] {
        refuse(404, &format!("{nothing}?offset=-1&live={live}"));
        refuse(400, &format!("{text}?live={live}"));
        refuse(400, &format!("{text}?offset=0&live={live}"));
    }
    refuse(400, &format!("{text}?offset=-1&live=pigeon"));
    refuse(400, &format!("{text}?offset=-1&offset=-1"));
    for offset in [
        "", "0", "-2", "NOW", "a", "1_2", "..", "a%2Cb", "a%20b", "%00", "%0d%0a", "a%2fb",
    ] {
        refuse(400, &format!("{text}?offset={offset}"));
    }
    streams.assert_unchanged();
}

#[test]
fn creations_are_refused() {
    let streams = Streams::new();
    let create = |status, headers: &[(&str, &str)], body: &[u8]| {
        streams.refuse(status, "PUT", &streams.nothing, headers, body)
    };
    streams.refuse(409, "PUT", &streams.text, &[JSON], b"");
    streams.refuse(409, "PUT", &streams.closed, &[TEXT], b"");
    for ttl in [
        "-1",
        "+1",
        "01",
        "1.0",
        "1e3",
        "",
        "x",
        "99999999999999999999999",
    ] {
        create(400, &[TEXT, ("stream-ttl", ttl)], b"");
    }
    for time in ["yesterday", "2030-13-01T00:00:00Z", "1900000000"] {
        create(400, &[TEXT, ("stream-expires-at", time)], b"");
    }
    let until = ("stream-expires-at", "2040-01-01T00:00:00Z");
    create(400, &[TEXT, ("stream-ttl", "60"), until], b"");
    create(400, &[JSON], b"{");

    let source = ("stream-forked-from", streams.text.as_str());
    create(404, &[("stream-forked-from", &streams.nothing)], b"");
    create(409, &[JSON, source], b"");
    create(400, &[("stream-fork-offset", "-1")], b"");
    create(400, &[("stream-fork-sub-offset", "0")], b"");
    let beyond = "9999999999999999_9999999999999999";
    create(400, &[source, ("stream-fork-offset", beyond)], b"");
    create(400, &[source, ("stream-fork-offset", "nonsense")], b"");
    for sub_offset in ["-1", "x", "1.5", "4"] {
        let start = ("stream-fork-offset", "0000000000000000_0000000000000000");
        create(
            400,
            &[source, start, ("stream-fork-sub-offset", sub_offset)],
            b"",
        );
    }
    streams.assert_unchanged();
    // A refused fork holds nothing of its source.
    let deleted = streams.server.call("DELETE", &streams.text, &[], b"");
    assert_eq!(deleted.status, 204);
    assert_eq!(
        streams.server.call("HEAD", &streams.text, &[], b"").status,
        404
    );
}

#[test]
fn appends_are_refused() {
    let streams = Streams::new();
    let append = |status, headers: &[(&str, &str)], body: &[u8]| {
        streams.refuse(status, "POST", &streams.text, headers, body)
    };
    streams.refuse(404, "POST", &streams.nothing, &[TEXT], b"x");
    append(400, &[TEXT], b"");
    append(400, &[], b"x");
    append(409, &[JSON], b"[1]");
    let bodies = ["", "[]", "{", "[1,]", "1 2", "\u{feff}1", "nul"].map(str::as_bytes);
    for body in bodies.into_iter().chain([&b"\"\xff\""[..]]) {
        streams.refuse(400, "POST", &streams.json, &[JSON], body);
    }
    let closed = streams.refuse(409, "POST", &streams.closed, &[TEXT], b"x");
    assert_eq!(closed.expect("stream-closed"), "true");
    let head = streams.server.call("HEAD", &streams.closed, &[], b"");
    let tail = head.expect("stream-next-offset");
    assert_eq!(closed.expect("stream-next-offset"), tail);
    // Closed comes before the content type.
    let closed = streams.refuse(409, "POST", &streams.closed, &[JSON], b"[1]");
    assert_eq!(closed.expect("stream-closed"), "true");
    streams.assert_unchanged();

    let first = streams
        .server
        .call("POST", &streams.text, &[TEXT, ("stream-seq", "b")], b"x");
    assert_eq!(first.status, 204);
    for seq in ["b", "a", "B", "aa"] {
        append(409, &[TEXT, ("stream-seq", seq)], b"y");
    }
    assert_eq!(streams.server.read_all(&streams.text), b"abcx");
}

#[test]
fn producers_are_refused() {
    let streams = Streams::new();
    let headers = |epoch: &'static str, seq: &'static str| {
        [
            TEXT,
            ("producer-id", "p"),
            ("producer-epoch", epoch),
            ("producer-seq", seq),
        ]
    };
    let append = |status, headers: &[(&str, &str)]| {
        streams.refuse(status, "POST", &streams.text, headers, b"x")
    };
    let numbers = [
        "",
        "-1",
        "x",
        "1.0",
        "9007199254740992",
        "99999999999999999999",
    ];
    for wrong in numbers {
        append(400, &headers("0", wrong));
        append(400, &headers(wrong, "0"));
    }
    for missing in 1..=3 {
        let mut headers = headers("0", "0").to_vec();
        headers.remove(missing);
        append(400, &headers);
    }
    let mut nameless = headers("0", "0");
    nameless[1] = ("producer-id", "");
    append(400, &nameless);
    streams.assert_unchanged();

    let text = &streams.text;
    let first = streams.server.call("POST", text, &headers("5", "0"), b"x");
    assert_eq!(first.status, 200, "{first:?}");
    let stale = append(403, &headers("4", "0"));
    assert_eq!(stale.expect("producer-epoch"), "5");
    let gap = append(409, &headers("5", "7"));
    assert_eq!(gap.expect("producer-expected-seq"), "1");
    assert_eq!(gap.expect("producer-received-seq"), "7");
    append(400, &headers("6", "1"));
    assert_eq!(streams.server.read_all(text), b"abcx");
}

#[test]
fn what_is_not_served_is_refused() {
    let streams = Streams::new();
    streams.refuse(404, "DELETE", &streams.nothing, &[], b"");
    streams.refuse(404, "GET", "/nowhere", &[], b"");
    for (method, target) in [
        ("GET", "/v1/stream/__ds/jwks.json"),
        ("PUT", "/v1/stream/__ds/subscriptions/x"),
        ("GET", "/v1/stream/__ds/subscriptions/x"),
    ] {
        streams.refuse(501, method, target, &[JSON], b"{}");
    }
    streams.assert_unchanged();
}
