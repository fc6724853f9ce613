//! Clients that stall, break off and leave.

use super::raw_http::{answers, impatient_server};
use crate::common::http::EventStream;
use crate::common::{Server, Setup, assert_problem, unique, wait_until};

#[test]
fn a_body_that_stalls_is_given_up() {
    let mut server = impatient_server();
    let target = unique("stalled");
    server.create(&target, "text/plain", b"intact");
    let heads = [
        "content-length: 10\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "transfer-encoding: chunked\r\n\r\n3\r\nab",
        "transfer-encoding: chunked\r\n\r\n3",
    ];
    for method in ["POST", "PUT"] {
        for rest in heads {
            let head = format!(
                "{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n"
            );
            for answer in answers(&server, format!("{head}{rest}").as_bytes()) {
                assert_problem(&answer, 408);
                // What comes later still belongs to the body.
                assert_eq!(answer.expect("connection"), "close");
            }
        }
    }
    assert_eq!(server.read_all(&target), b"intact");
    server.assert_healthy();
}

#[test]
fn a_body_that_breaks_off_is_not_appended() {
    let mut server = Setup::quick().start();
    let target = unique("broken");
    server.create(&target, "text/plain", b"intact");
    let rests = [
        "content-length: 10\r\n\r\n",
        "content-length: 10\r\n\r\nabc",
        "content-length: 1000000\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        "transfer-encoding: chunked\r\n\r\n3\r\nab",
    ];
    let mut connections = Vec::new();
    for close in ["", "stream-closed: true\r\n"] {
        for rest in rests {
            for half_close in [false, true] {
                let bytes = format!(
                    "POST {target} HTTP/1.1\r\nhost: localhost\r\n\
                     content-type: text/plain\r\n{close}{rest}"
                );
                let mut connection = server.connect();
                connection.send(bytes.as_bytes()).unwrap();
                if half_close {
                    connection.finish_sending().unwrap();
                    connections.push(connection);
                }
            }
        }
    }
    for mut connection in connections {
        // Whether there is an answer or not, it is no success.
        if let Ok(response) = connection.response() {
            assert!(matches!(response.status, 400..=499), "{response:?}");
        }
    }
    server.append(&target, "text/plain", b" and more");
    assert_eq!(server.read_all(&target), b"intact and more");
    server.assert_healthy();
}

/// The value of a metric with these labels, 0 when it is not there yet.
fn metric(server: &Server, name: &str) -> f64 {
    let metrics = String::from_utf8(server.admin("/metrics").body).expect("UTF-8");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

#[test]
fn readers_that_leave_are_noticed() {
    // More than wait each in a task of its own.
    const READERS: usize = 100;
    let setup = Setup {
        // Nothing but the client's leaving ends these within the test.
        streams: vec![
            r#"long_poll_timeout = "1h""#.to_owned(),
            r#"sse_recycle = "1h""#.to_owned(),
            r#"sse_heartbeat = "1h""#.to_owned(),
        ],
        ..Setup::quick()
    };
    let mut server = setup.start();
    let target = unique("left");
    server.create(&target, "text/plain", b"abc");
    for mode in ["long_poll", "sse"] {
        let name = format!("headwater_live_readers{{mode=\"{mode}\"}}");
        let live = mode.replace('_', "-");
        let mut readers = Vec::new();
        for n in 0..READERS {
            // Some leave before they are answered, some in the midst of it.
            let offset = if n % 2 == 0 { "now" } else { "-1" };
            let mut connection = server.connect();
            connection
                .send_request(
                    "GET",
                    &format!("{target}?offset={offset}&live={live}"),
                    &[],
                    b"",
                )
                .unwrap();
            readers.push(connection);
        }
        let waiting = if mode == "sse" { READERS } else { READERS / 2 };
        wait_until("the readers wait", || {
            metric(&server, &name) >= waiting as f64
        });
        drop(readers);
        wait_until("no reader is left", || metric(&server, &name) == 0.0);
    }
    server.assert_healthy();
}

#[test]
fn an_event_stream_survives_what_others_do() {
    let mut server = Setup::quick().start();
    let target = unique("steady");
    server.create(&target, "text/plain", b"one");
    let mut events =
        EventStream::open(server.address(), &format!("{target}?offset=-1&live=sse")).unwrap();
    let (data, _) = events.next_batch().unwrap().unwrap();
    assert_eq!(data, "one");
    for n in 0..20 {
        // A reader of the same stream leaves, a writer breaks off.
        let mut leaving = server.connect();
        leaving
            .send_request("GET", &format!("{target}?offset=now&live=sse"), &[], b"")
            .unwrap();
        drop(leaving);
        let mut breaking = server.connect();
        breaking
            .send(
                format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx")
                    .as_bytes(),
            )
            .unwrap();
        drop(breaking);
        let message = format!("message {n}");
        server.append(&target, "text/plain", message.as_bytes());
        let (data, control) = events.next_batch().unwrap().unwrap();
        assert_eq!(data, message);
        assert_eq!(control["upToDate"], true);
    }
    server.close(&target);
    let (data, control) = events.next_batch().unwrap().unwrap();
    assert_eq!(
        (data.as_str(), &control["streamClosed"]),
        ("", &true.into())
    );
    assert!(events.next().unwrap().is_none());
    server.assert_healthy();
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let setup = Setup {
        limits: "write_timeout = \"1s\"".to_owned(),
        streams: vec![r#"sse_recycle = "1h""#.to_owned()],
        ..Setup::quick()
    };
    let mut server = setup.start();
    let target = unique("greedy");
    server.create(&target, "application/octet-stream", b"");
    // More than sockets hold by themselves.
    for _ in 0..24 {
        server.append(&target, "application/octet-stream", &vec![7; 4 << 20]);
    }
    let open = |server: &Server| metric(server, "headwater_open_connections");
    let before = open(&server);
    for query in ["", "?offset=-1&live=sse"] {
        let mut connections = Vec::new();
        for _ in 0..4 {
            let mut connection = server.connect();
            connection
                .send_request("GET", &format!("{target}{query}"), &[], b"")
                .unwrap();
            assert_eq!(connection.read_head().unwrap().status, 200);
            connections.push(connection);
        }
        wait_until("all are cut off", || open(&server) <= before);
        for mut connection in connections {
            // What did arrive does not look complete.
            let head = connection.read_head();
            assert!(head.is_err(), "{head:?}");
        }
    }
    server.assert_healthy();
}
