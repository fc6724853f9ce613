//! Live readers: their stream stays in use, and what their cursors say.

use super::{TEXT, World, path, serve_by};
use crate::clock::{Clock, ManualClock};
use crate::config::{LogConfig, Streams};
use crate::protocol::names;
use crate::serve::{Body, Sse};
use bytes::Bytes;
use http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{advance, sleep};

/// Ten seconds after its last use a stream is gone.
const TTL: (&str, &str) = ("stream-ttl", "10");
const BEGIN_MS: u64 = 1_800_000_000_000;
const APPEND: [u8; 100] = [b'x'; 100];

/// A server whose clock stands still, and that reads each append from the store, by itself.
fn world() -> (World, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(BEGIN_MS));
    let config = LogConfig {
        segment_bytes: APPEND.len() as u64,
        hot_bytes_max: 0,
        ..LogConfig::default()
    };
    (World::by(clock.clone(), &config), clock)
}

impl World {
    /// A stream with so many appends.
    async fn create(&self, headers: &[(&'static str, &str)], appends: usize) {
        let headers = [&[TEXT][..], headers].concat();
        self.call(Method::PUT, "", &headers, b"").await.unwrap();
        for _ in 0..appends {
            let appended = self.call(Method::POST, "", &[TEXT], &APPEND);
            appended.await.unwrap();
        }
    }

    async fn events(&self, query: &str) -> Box<Sse> {
        let reply = self.call(Method::GET, query, &[], b"").await.unwrap();
        let Body::Live(events) = reply.body else {
            panic!("it is live");
        };
        events
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_end_under_a_long_poll() {
    let (world, clock) = world();
    world.create(&[TTL], 0).await;
    let server = world.server.clone();
    let polling = tokio::spawn(async move {
        let settings = Streams {
            long_poll_timeout: Duration::from_mins(1),
            ..Streams::default()
        };
        let query = "offset=now&live=long-poll";
        let reply = serve_by(settings, &server, Method::GET, query, &[], Bytes::new());
        reply.await.map(|reply| reply.head.status)
    });
    while !polling.is_finished() {
        sleep(Duration::from_secs(1)).await;
        clock.advance_ms(1000);
    }
    assert!(clock.now_ms() >= BEGIN_MS + 59_000);
    assert_eq!(polling.await.unwrap().unwrap(), StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_end_under_a_reader_that_always_has_more_to_read() {
    const APPENDS: usize = 40;
    let (world, clock) = world();
    world.create(&[TTL], APPENDS).await;
    let mut events = world.events("offset=-1&live=sse").await;
    let stream = world.server.log.stream(&path()).await.unwrap();
    for number in 0..APPENDS {
        assert!(events.next().await.is_some());
        advance(Duration::from_secs(1)).await;
        clock.advance_ms(1000);
        assert!(stream.view(clock.now_ms()).is_ok(), "{number}");
    }
}

#[tokio::test]
async fn a_long_poll_has_a_cursor_until_it_says_that_the_stream_is_closed() {
    let (world, _) = world();
    world.create(&[], 3).await;
    let closed = [("stream-closed", "true")];
    world.call(Method::POST, "", &closed, b"").await.unwrap();
    let mut offset = "-1".to_owned();
    let mut cursors = 0;
    loop {
        let query = format!("offset={offset}&live=long-poll");
        let reply = world.call(Method::GET, &query, &[], b"").await.unwrap();
        assert_eq!(reply.head.status, StatusCode::OK);
        let headers = &reply.head.headers;
        let has_cursor = headers.contains_key(names::STREAM_CURSOR);
        assert_ne!(has_cursor, headers.contains_key(names::STREAM_CLOSED));
        if !has_cursor {
            break;
        }
        cursors += 1;
        let next = headers[names::STREAM_NEXT_OFFSET].to_str().unwrap();
        next.clone_into(&mut offset);
    }
    assert_eq!(cursors, 2);
}

/// What the control events of some appends say.
async fn cursors(events: &mut Sse, appends: usize) -> Vec<u64> {
    let mut cursors = Vec::new();
    for _ in 0..appends {
        let events = events.next().await.unwrap();
        let text = std::str::from_utf8(&events).unwrap();
        let (_, cursor) = text.split_once("\"streamCursor\":\"").unwrap();
        let (cursor, _) = cursor.split_once('"').unwrap();
        cursors.push(cursor.parse().unwrap());
    }
    cursors
}

#[tokio::test]
async fn the_cursors_of_a_connection_never_go_backwards() {
    const APPENDS: usize = 20;
    const AHEAD: u64 = 1 << 40;
    let (world, _) = world();
    world.create(&[], APPENDS).await;
    let query = format!("offset=-1&live=sse&cursor={AHEAD}");
    let mut reader = world.events(&query).await;
    let ahead = cursors(&mut reader, APPENDS).await;
    assert!(ahead[0] > AHEAD && ahead.is_sorted(), "{ahead:?}");
    let mut other = world.events("offset=-1&live=sse").await;
    let shared = cursors(&mut other, APPENDS).await;
    assert_eq!(shared, [world.server.cursor(None); APPENDS]);
}

/// What is read from the ring, and what is only in the store.
const LARGE: [&[u8]; 2] = [&[b'x'; 100_000], &[b'x'; 300_000]];

#[tokio::test]
async fn a_large_data_event_is_one_for_all_readers() {
    let world = World::open();
    world.create(&[], 0).await;
    let mut readers = [
        world.events("offset=-1&live=sse").await,
        world
            .events("offset=-1&live=sse&cursor=1099511627776")
            .await,
    ];
    for reader in &mut readers {
        assert!(reader.next().await.unwrap().starts_with(b"event: control"));
    }
    for (append, closed) in LARGE.into_iter().zip(["false", "true"]) {
        let headers = [TEXT, ("stream-closed", closed)];
        let appended = world.call(Method::POST, "", &headers, append);
        appended.await.unwrap();
        let [one, other] = &mut readers;
        let data = tokio::join!(one.next(), other.next());
        let (one, other) = (data.0.unwrap(), data.1.unwrap());
        assert_eq!((one.as_ptr(), one.len()), (other.as_ptr(), other.len()));
        let text = one.strip_prefix(b"event: data\ndata:").unwrap();
        assert!(text.strip_suffix(b"\n\n").unwrap() == append);
        drop((one, other));
        assert_eq!(world.server.reads.held(), 0);
        for reader in &mut readers {
            let control = reader.next().await.unwrap();
            assert!(control.starts_with(b"event: control"), "{control:?}");
            let text = std::str::from_utf8(&control).unwrap();
            assert_eq!(text.contains("\"streamClosed\":true"), closed == "true");
        }
    }
    for reader in &mut readers {
        assert!(reader.next().await.is_none());
    }
}
