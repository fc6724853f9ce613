//! Many readers of one stream by server-sent events, who are served together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::http::{Connection, EventStream};
use crate::common::{Server, Setup, unique, wait_until};

/// More than wait each in a task of its own.
const READERS: usize = 100;

fn setup(streams: &[&str]) -> Setup {
    Setup {
        streams: streams.iter().map(ToString::to_string).collect(),
        ..Setup::quick()
    }
}

/// A reader who has read what there is, over a connection that the test speaks on by itself.
fn open(server: &Server, target: &str) -> Connection {
    let mut connection = server.connect();
    let live = format!("{target}?offset=-1&live=sse");
    connection.send_request("GET", &live, &[], b"").unwrap();
    assert_eq!(connection.read_head().unwrap().status, 200);
    assert!(connection.read_chunk().unwrap().is_some());
    connection
}

fn open_all(server: &Server, target: &str) -> Vec<Connection> {
    (0..READERS).map(|_| open(server, target)).collect()
}

/// Reads the events of an answer to its end.
fn rest(connection: &mut Connection) -> String {
    let mut events = Vec::new();
    while let Some(chunk) = connection.read_chunk().unwrap() {
        events.extend(chunk);
    }
    String::from_utf8(events).unwrap()
}

/// Small appends and such that fill sockets, readers that come late, read late, or leave.
#[test]
fn everyone_gets_every_event_once() {
    let mut server = setup(&[r#"sse_recycle = "1h""#]).start();
    let target = unique("crowd");
    server.create(&target, "text/plain", b"begin,");
    let messages: Vec<_> = (0..120)
        .map(|n| match n % 40 {
            // More than is kept in memory.
            39 => format!("{n}:{},", "x".repeat(300_000)),
            20..30 => format!("{n}:{},", "x".repeat(50_000)),
            _ => format!("{n},"),
        })
        .collect();
    let expected = format!("begin,{}", messages.concat());
    let (begun, appended) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (server, target, expected) = (&server, &target, &expected);
            let (begun, appended) = (&begun, &appended);
            scope.spawn(move || {
                let live = format!("{target}?offset=-1&live=sse");
                let mut events = EventStream::open(server.address(), &live).unwrap();
                begun.fetch_add(1, Ordering::Relaxed);
                if reader % 5 == 1 {
                    // It takes nothing before all is there.
                    wait_until("all is there", || appended.load(Ordering::Relaxed));
                }
                let mut text = String::new();
                while let Some((data, _)) = events.next_batch().unwrap() {
                    text.push_str(&data);
                    if reader % 5 == 2 && text.len() > 100_000 {
                        break;
                    }
                }
                assert!(expected.starts_with(&text));
                assert!(reader % 5 == 2 || text.len() == expected.len());
            });
        }
        wait_until("all read", || begun.load(Ordering::Relaxed) == READERS);
        for (n, message) in messages.iter().enumerate() {
            server.append(&target, "text/plain", message.as_bytes());
            if n % 10 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
        server.close(&target);
        appended.store(true, Ordering::Relaxed);
    });
    server.assert_healthy();
}

#[test]
fn requests_sent_ahead_are_answered_after_the_events() {
    let server = setup(&[r#"sse_recycle = "1h""#]).start();
    let target = unique("ahead");
    server.create(&target, "text/plain", b"");
    let mut readers = open_all(&server, &target);
    for (n, reader) in readers.iter_mut().enumerate() {
        // Some in the midst of events.
        if n % 2 == 0 {
            server.append(&target, "text/plain", b"z");
        }
        reader.send_request("HEAD", &target, &[], b"").unwrap();
    }
    server.append(&target, "text/plain", b"y");
    server.close(&target);
    for reader in &mut readers {
        let events = rest(reader);
        assert_eq!(events.matches('z').count(), READERS / 2, "{events}");
        assert!(events.contains("streamClosed"));
        let head = reader.response_to("HEAD").unwrap();
        assert_eq!(head.expect("stream-closed"), "true");
    }
}

#[test]
fn silence_is_filled_for_everyone() {
    let server = setup(&[r#"sse_heartbeat = "1s""#, r#"sse_recycle = "1h""#]).start();
    let target = unique("silent");
    server.create(&target, "text/plain", b"");
    let mut readers = open_all(&server, &target);
    for _ in 0..3 {
        for reader in &mut readers {
            let chunk = reader.read_chunk().unwrap().unwrap();
            assert!(chunk.starts_with(b":"), "{chunk:?}");
        }
    }
    server.append(&target, "text/plain", b"data");
    for reader in &mut readers {
        let mut events = String::new();
        while !events.contains("data:data") {
            let chunk = reader.read_chunk().unwrap().unwrap();
            events.push_str(&String::from_utf8(chunk).unwrap());
        }
    }
}

#[test]
fn connections_end_in_time_and_go_on() {
    let server = setup(&[r#"sse_recycle = "2s""#]).start();
    let target = unique("recycled");
    server.create(&target, "text/plain", b"");
    for mut reader in open_all(&server, &target) {
        assert!(!rest(&mut reader).contains("streamClosed"));
        let answer = reader.call("GET", &target, &[], b"").unwrap();
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn everyone_learns_that_the_stream_or_the_server_is_gone() {
    let mut server = setup(&[r#"sse_recycle = "1h""#]).start();
    let target = unique("gone");
    server.create(&target, "text/plain", b"");
    let readers = open_all(&server, &target);
    let deleted = server.call("DELETE", &target, &[], b"");
    assert_eq!(deleted.status, 204);
    for mut reader in readers {
        assert!(!rest(&mut reader).contains("streamClosed"));
    }
    server.create(&target, "text/plain", b"");
    let readers = open_all(&server, &target);
    server.send_sigterm();
    for mut reader in readers {
        assert!(!rest(&mut reader).contains("streamClosed"));
    }
    assert!(server.wait_for_exit().success());
}
