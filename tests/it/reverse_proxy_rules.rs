//! What upstreams get to see of a request, and clients of an answer; and what neither does.

use crate::common::{Server, Setup, assert_problem};
use crate::reverse_proxy_upstream::{Call, Upstream, proxy, proxy_with};

/// The request that an upstream gets of this one.
fn passed_on(settings: &str, target: &str, headers: &[(&str, &str)]) -> Call {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url()], settings);
    let answer = server.call("GET", target, headers, b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    upstream.last_call()
}

#[test]
fn the_host_is_the_upstreams_or_the_clients() {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url()], "");
    server.call("GET", "/", &[], b"");
    let authority = upstream.url().strip_prefix("http://");
    assert_eq!(upstream.last_call().header("host"), authority);
    let call = passed_on("preserve_host = true", "/", &[]);
    assert_eq!(call.header("host"), Some("localhost"));
}

#[test]
fn paths_are_changed_as_the_route_says() {
    let settings = "strip_prefix = \"/api\"\nadd_prefix = \"/v2\"";
    for (from, to) in [
        ("/api/users?x=/api/1", "/v2/users?x=/api/1"),
        ("/api", "/v2/"),
        ("/apis", "/v2/apis"),
        ("/api/a%2Fb%20c", "/v2/a%2Fb%20c"),
    ] {
        assert_eq!(passed_on(settings, from, &[]).target, to);
    }
    assert_eq!(passed_on("", "/a//b/?q", &[]).target, "/a//b/?q");
    let settings = r#"rewrite = [{ match = "^/users/([^/]+)$", to = "/people/$1/profile" }]"#;
    for (from, to) in [
        ("/users/a%20b?x=1", "/people/a%20b/profile?x=1"),
        ("/users/a/b", "/users/a/b"),
    ] {
        assert_eq!(passed_on(settings, from, &[]).target, to);
    }
}

#[test]
fn headers_are_changed_as_the_route_says() {
    let settings = r#"
        [site.route.reverse_proxy.request_headers]
        set = { Authorization = "Bearer from-the-route", X-One = "1" }
        add = { X-Two = "b" }
        remove = ["Cookie"]
        [site.route.reverse_proxy.response_headers]
        set = { X-Answer = "ours" }
        remove = ["Server"]
    "#;
    let upstream = Upstream::start(|_, peer| {
        peer.send(b"HTTP/1.1 200 OK\r\nserver: secret/1\r\nx-answer: theirs\r\nx-other: kept\r\nkeep-alive: timeout=5\r\nconnection: x-hop\r\nx-hop: 1\r\ncontent-length: 0\r\n\r\n")
    });
    let server = proxy(&[upstream.url()], settings);
    let headers = [
        ("authorization", "Bearer of-the-client"),
        ("x-two", "a"),
        ("cookie", "c=1"),
        ("x-three", "3"),
    ];
    let answer = server.call("GET", "/", &headers, b"");
    let call = upstream.last_call();
    assert_eq!(call.header("authorization"), Some("Bearer from-the-route"));
    assert_eq!(call.header("x-one"), Some("1"));
    assert_eq!(call.all("x-two"), ["a", "b"]);
    assert_eq!(call.header("cookie"), None);
    assert_eq!(call.header("x-three"), Some("3"));
    assert_eq!(answer.header("x-answer"), Some("ours"));
    assert_eq!(answer.header("x-other"), Some("kept"));
    for name in ["server", "x-hop", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

#[test]
fn what_is_between_neighbours_is_not_passed_on() {
    let headers = [
        ("connection", "keep-alive, X-Private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "trailers"),
        ("x-public", "2"),
    ];
    let call = passed_on("", "/", &headers);
    for (name, _) in &headers[1..5] {
        assert_eq!(call.header(name), None, "{name}");
    }
    assert_eq!(call.header("x-public"), Some("2"));
}

const SPOOFED: [(&str, &str); 7] = [
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "admin.example"),
    ("x-real-ip", "6.6.6.6"),
    ("forwarded", "for=6.6.6.6"),
    ("x_forwarded_for", "6.6.6.6"),
    ("x_real_ip", "6.6.6.6"),
];

#[test]
fn nobody_is_believed_who_is_not_trusted() {
    let call = passed_on("", "/", &SPOOFED);
    assert_eq!(call.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(call.header("x-forwarded-proto"), Some("http"));
    assert_eq!(call.header("x-forwarded-host"), Some("localhost"));
    assert_eq!(call.header("x-real-ip"), None);
    assert_eq!(call.header("forwarded"), None);
    let call = passed_on("forwarded = \"both\"", "/", &SPOOFED);
    let standard = "for=127.0.0.1;proto=http;host=\"localhost\"";
    assert_eq!(call.header("forwarded"), Some(standard));
    let call = passed_on("forwarded = \"off\"", "/", &SPOOFED);
    for (name, _) in SPOOFED {
        assert_eq!(call.header(name), None, "{name}");
    }
}

#[test]
fn a_trusted_proxy_is_believed_and_added_to() {
    let settings = "forwarded = \"both\"\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let call = passed_on(settings, "/", &SPOOFED);
    assert_eq!(call.header("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(call.header("x-forwarded-proto"), Some("https"));
    assert_eq!(call.header("x-forwarded-host"), Some("admin.example"));
    // These are of somebody before it, whom it did not look at.
    assert_eq!(call.header("x_forwarded_for"), None);
    assert_eq!(call.header("x_real_ip"), None);
    let standard = "for=6.6.6.6, for=127.0.0.1;proto=http;host=\"localhost\"";
    assert_eq!(call.header("forwarded"), Some(standard));
}

/// Requests of which one server might see another end than the next.
const AMBIGUOUS: [&str; 15] = [
    "content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "content-length: 5, 6\r\n\r\nhello!",
    "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "content-length: 5, 5\r\n\r\nhello",
    "content-length: +5\r\n\r\nhello",
    "content-length: 0x5\r\n\r\nhello",
    "content-length: 5 5\r\n\r\nhello",
    "transfer-encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "transfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "transfer-encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "transfer-encoding: identity\r\ncontent-length: 5\r\n\r\nhello",
    "transfer-encoding : chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "x: 1\r\n content-length: 5\r\n\r\nhello",
    "transfer-encoding:\x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
];

#[test]
fn ambiguous_requests_do_not_reach_upstreams() {
    let upstream = Upstream::echo();
    let mut server = proxy(&[upstream.url()], "");
    for rest in AMBIGUOUS {
        let mut connection = server.connect();
        let request = format!("POST /smuggled HTTP/1.1\r\nhost: a\r\n{rest}");
        let next = "GET /second HTTP/1.1\r\nhost: a\r\n\r\n";
        connection
            .send(format!("{request}{next}").as_bytes())
            .unwrap();
        let answer = connection.response().unwrap();
        assert_eq!(answer.status, 400, "{rest:?}");
        assert!(connection.is_closed(), "{rest:?}");
        assert_eq!(upstream.calls().len(), 0, "{rest:?}");
    }
    server.assert_healthy();
}

#[test]
fn a_length_beside_chunks_is_taken_out_and_ends_the_connection() {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url()], "");
    let mut connection = server.connect();
    let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /second HTTP/1.1\r\nhost: a\r\n\r\n";
    connection.send(request.as_bytes()).unwrap();
    assert_eq!(connection.response().unwrap().body, b"hello");
    assert!(connection.is_closed());
    let calls = upstream.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].header("content-length"), None);
}

#[test]
fn chunks_that_are_none_end_the_request() {
    let upstream = Upstream::echo();
    let server = proxy(&[upstream.url()], "");
    for chunks in ["zz\r\nhello\r\n0\r\n\r\n", "5\r\nhelloworld\r\n0\r\n\r\n"] {
        let mut connection = server.connect();
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        connection
            .send(format!("{head}{chunks}").as_bytes())
            .unwrap();
        let answered = connection.response();
        assert!(answered.is_err() || answered.unwrap().status == 400);
    }
    assert_eq!(
        server.call("POST", "/", &[], b"as before").body,
        b"as before"
    );
}

#[test]
fn what_no_upstream_should_get_is_refused() {
    let upstream = Upstream::echo();
    let settings = "body_bytes_max = \"1KiB\"";
    let server = proxy(&[upstream.url()], settings);
    for path in [
        "/a/../b",
        "/a/%2e%2E/b",
        "/./a",
        "/a/..",
        "/a/..%2fb",
        "/a/%2E.%5cb",
    ] {
        let answer = server.call("GET", path, &[], b"");
        assert_eq!(assert_problem(&answer, 400), "INVALID_PATH", "{path}");
    }
    let mut connection = server.connect();
    let tunnel = "CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n";
    connection.send(tunnel.as_bytes()).unwrap();
    let tunnel = connection.response().unwrap();
    assert_eq!(assert_problem(&tunnel, 405), "METHOD_NOT_ALLOWED");
    let neighbours = vec!["x-a"; 70].join(", ");
    let answer = server.call("GET", "/", &[("connection", &neighbours)], b"");
    assert_eq!(assert_problem(&answer, 400), "MALFORMED_REQUEST");
    let large = [b'x'; 1025];
    let answer = server.call("POST", "/", &[], &large);
    assert_eq!(assert_problem(&answer, 413), "BODY_TOO_LARGE");
    assert_eq!(upstream.calls().len(), 0);
    let mut connection = server.connect();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n401\r\n";
    let all = [head.as_bytes(), &large, b"\r\n0\r\n\r\n"].concat();
    connection.send(&all).unwrap();
    let answer = connection.response().unwrap();
    assert_eq!(assert_problem(&answer, 413), "BODY_TOO_LARGE");
    assert_eq!(server.call("POST", "/", &[], &large[1..]).status, 200);
}

#[test]
fn limits_of_heads_hold_here_too() {
    let upstream = Upstream::echo();
    let setup = Setup {
        limits: "header_bytes_max = \"4KiB\"\npath_bytes_max = \"128B\"".to_owned(),
        ..Setup::quick()
    };
    let server: Server = proxy_with(&[upstream.url()], "", setup);
    let large = "x".repeat(5_000);
    assert_problem(&server.call("GET", "/", &[("x", &large)], b""), 431);
    let long = format!("/{}", "x".repeat(128));
    assert_problem(&server.call("GET", &long, &[], b""), 414);
    assert_eq!(upstream.calls().len(), 0);
}
