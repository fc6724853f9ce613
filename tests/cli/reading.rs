//! Reading and following: nothing is lost and nothing doubled, whatever goes wrong.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use super::faulty::{Fault, Request, Server};
use super::{done, failed, headwater, lines, numbers, succeeded};

fn is_live(request: &Request) -> bool {
    request.query.contains_key("live")
}

/// A server on which answers to `which` are cut off at ever other places, or lost.
fn cutting(which: fn(&Request) -> bool) -> Server {
    let mut count = 0;
    Server::with_plan(move |request| {
        if !which(request) {
            return Fault::None;
        }
        count += 1;
        match count % 6 {
            1 | 2 | 4 => Fault::CutAnswer(count * 13 % 120),
            5 => Fault::LoseRequest,
            _ => Fault::None,
        }
    })
}

#[test]
fn reading_goes_on_where_it_broke_off() {
    for content_type in ["application/json", "text/plain"] {
        let server = cutting(|request| request.method == "GET");
        server.create("s", content_type);
        let messages: Vec<String> = (0..20)
            .map(|n| format!("{{\"number\": {n}, \"text\": \"[{n}]\"}}\n"))
            .collect();
        for message in &messages {
            server.push("s", message.as_bytes());
        }
        assert_eq!(
            done(&server, &["read", "s"]).replace(" \n", "\n"),
            messages.concat(),
            "{content_type}"
        );
    }
}

/// Follows a stream that gets messages all the time until it is closed.
fn follow(server: &Server, tail: Child, messages: &[String]) -> String {
    for message in messages {
        server.push("s", message.as_bytes());
        std::thread::yield_now();
    }
    server.close("s");
    succeeded(tail.wait_with_output().unwrap())
}

#[test]
fn following_loses_and_doubles_nothing() {
    for (content_type, live) in [
        ("application/json", "auto"),
        ("application/json", "long-poll"),
        ("text/plain", "auto"),
        ("text/plain", "sse"),
        ("application/octet-stream", "auto"),
    ] {
        let server = cutting(is_live);
        server.create("s", content_type);
        let messages: Vec<String> = (0..24).map(|n| format!("{{\"number\":{n}}}")).collect();
        for message in &messages[..4] {
            server.push("s", message.as_bytes());
        }
        let tail = headwater(&server, &["tail", "s", "--offset", "-1", "--live", live])
            .spawn()
            .unwrap();
        // The catch-up, and the first live request.
        server.wait_for_requests(3);
        let output = follow(&server, tail, &messages[4..]);
        let separator = if content_type == "application/json" {
            "\n"
        } else {
            ""
        };
        assert_eq!(
            output.trim_end(),
            messages.join(separator),
            "{content_type} {live}"
        );
    }
}

#[test]
fn following_from_now_skips_what_was_before() {
    let server = cutting(is_live);
    server.create("s", "application/json");
    server.push("s", b"\"before\"");
    let tail = headwater(&server, &["tail", "s", "--show-offset"])
        .spawn()
        .unwrap();
    server.wait_for_requests(2);
    let output = follow(&server, tail, &["\"after\"".to_owned()]);
    assert_eq!(output, "\"after\"\n");
}

#[test]
fn following_ends_when_nobody_reads_the_output() {
    let server = Server::start();
    server.create("s", "application/json");
    server.push("s", b"1");
    let mut tail = headwater(&server, &["tail", "s", "--offset", "-1"])
        .spawn()
        .unwrap();
    let mut output = BufReader::new(tail.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    // Nothing comes any more that could not be written.
    assert!(tail.wait().unwrap().success());
}

#[test]
fn the_cursor_is_sent_back() {
    for live in ["sse", "long-poll"] {
        let server = Server::start();
        server.create("s", "application/json");
        for number in numbers(12) {
            server.push("s", number.as_bytes());
        }
        let tail = headwater(&server, &["tail", "s", "--live", live])
            .spawn()
            .unwrap();
        server.wait_for_requests(2);
        // More than one live answer carries.
        assert_eq!(
            lines(&follow(&server, tail, &numbers(12))),
            numbers(12),
            "{live}"
        );
        let requests = server.requests();
        let mut live = requests.iter().filter(|request| is_live(request));
        assert!(!live.next().unwrap().query.contains_key("cursor"));
        assert!(live.all(|request| request.query["cursor"] == "7"));
    }
}

#[test]
fn following_ends_when_the_stream_is_gone() {
    let server = Server::start();
    assert_eq!(failed(&server, &["tail", "missing"]).0, 3);
    server.create("s", "text/plain");
    let tail = headwater(&server, &["tail", "s"]).spawn().unwrap();
    server.wait_for_requests(3);
    done(&server, &["delete", "s"]);
    assert_eq!(tail.wait_with_output().unwrap().status.code(), Some(3));
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let server = Server::start();
    server.create("s", "text/plain");
    for _ in 0..100 {
        server.push("s", &[b'x'; 10_000]);
    }
    let mut read = headwater(&server, &["read", "s"]).spawn().unwrap();
    drop(read.stdout.take());
    assert!(read.wait().unwrap().success());
}
