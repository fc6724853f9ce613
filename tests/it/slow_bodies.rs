//! Bodies that come slowly: they may take their time, but not the room that
//! others wait for. And bodies that never end.

use crate::common::{Setup, assert_problem, unique, wait_until};
use crate::reverse_proxy_upstream::{Upstream, proxy_with};
use crate::tls_h2::{Answer, TlsServer};
use std::io::{self, Write};

/// A server with room for one large body.
fn narrow() -> Setup {
    Setup {
        limits: "body_timeout = \"1h\"\nqueue_wait = \"2s\"\nbody_bytes_max = \"1MiB\"\n\
                 bodies_in_flight_bytes_max = \"1MiB\""
            .to_owned(),
        ..Setup::quick()
    }
}

/// Sent soon, before less and less follows: all the room is held.
static MOST: [u8; 900 << 10] = [b's'; 900 << 10];

fn has_refused_a_put(metrics: &[u8]) -> bool {
    String::from_utf8_lossy(metrics).lines().any(|line| {
        line.starts_with("headwater_requests_total{method=\"PUT\"")
            && line.contains("status=\"503\"")
            && !line.ends_with(" 0")
    })
}

#[test]
fn a_body_that_trickles_gives_way_to_others() {
    let mut server = narrow().start();
    let (target, slow_target) = (unique("others"), unique("trickles"));
    server.create(&target, "text/plain", b"");
    let mut slow = server.connect();
    let head = format!(
        "PUT {slow_target} HTTP/1.1\r\nhost: localhost\r\n\
         content-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        1 << 20
    );
    slow.send(head.as_bytes()).unwrap();
    slow.send(&MOST).unwrap();
    let mut appended = 0;
    let mut append = || {
        let mut connection = server.connect();
        // In chunks, because a short body that comes with its head needs no room.
        let post = format!(
            "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
             transfer-encoding: chunked\r\n\r\n5\r\nother\r\n0\r\n\r\n"
        );
        connection.send(post.as_bytes()).unwrap();
        let response = connection.response().unwrap();
        let done = response.status == 204;
        if done {
            appended += 1;
        } else {
            assert_eq!(assert_problem(&response, 503), "TOO_MANY_BODIES");
        }
        done
    };
    wait_until("it gives way", || {
        append();
        slow.send(b"s").unwrap();
        has_refused_a_put(&server.admin("/metrics").body)
    });
    wait_until("there is room", &mut append);
    let refused = slow.response().unwrap();
    assert_eq!(assert_problem(&refused, 503), "TOO_MANY_BODIES");
    refused.expect("retry-after");
    // No other request can follow.
    assert_eq!(refused.expect("connection"), "close");
    assert!(server.read_all(&target) == b"other".repeat(appended));
    assert_eq!(server.call("HEAD", &slow_target, &[], b"").status, 404);
    drop(slow);
    server.assert_healthy();
}

#[test]
fn a_body_that_trickles_over_http_2_gives_way_to_others() {
    let tls = TlsServer::start(narrow());
    let text = ["--header", "content-type: text/plain"];
    let (target, slow_target) = (unique("h2-others"), unique("h2-trickles"));
    assert_eq!(
        tls.h2(&target, &[&["--request", "PUT"], &text[..]].concat())
            .status,
        201
    );
    let mut slow = tls.upload(&slow_target, &[&["--request", "PUT"], &text[..]].concat());
    let mut body = slow.stdin.take().expect("a pipe");
    body.write_all(&MOST).unwrap();
    let append = || {
        let post = [&["--data-binary", "other"], &text[..]].concat();
        tls.h2(&target, &post).status == 204
    };
    wait_until("it gives way", || {
        append();
        has_refused_a_put(&tls.server.admin("/metrics").body)
    });
    wait_until("there is room", append);
    drop(body);
    let answer = Answer::parse(&slow.wait_with_output().expect("curl").stdout);
    assert_eq!((answer.status, &*answer.version), (503, "2"));
    assert!(String::from_utf8_lossy(&answer.body).contains("TOO_MANY_BODIES"));
    assert_eq!(tls.h2(&slow_target, &["--head"]).status, 404);
}

#[test]
fn a_refused_body_that_never_ends_is_given_up() {
    let upstream = Upstream::start(|_, peer| {
        peer.send(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n")?;
        // It hangs up.
        Err(io::ErrorKind::Other.into())
    });
    let setup = Setup {
        limits: "body_bytes_max = \"1KiB\"".to_owned(),
        ..Setup::quick()
    };
    let mut server = proxy_with(&[upstream.url()], "", setup);
    let begin = |target: &str| {
        let mut connection = server.connect();
        let head = format!(
            "PUT {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        connection.send(head.as_bytes()).unwrap();
        connection
    };
    let mut to_a_stream = begin(&unique("endless"));
    let mut to_an_upstream = begin("/endless");
    assert_eq!(to_an_upstream.response().unwrap().status, 413);
    let chunk = [&b"1000\r\n"[..], &[b'x'; 4096], b"\r\n"].concat();
    let mut going_on = vec![&mut to_a_stream, &mut to_an_upstream];
    wait_until("they are given up", || {
        going_on.retain_mut(|connection| connection.send(&chunk).is_ok());
        going_on.is_empty()
    });
    server.assert_healthy();
}
