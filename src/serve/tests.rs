//! What replies say, and which bodies are let in, whatever happens to a stream meanwhile.

mod catch_up;
mod live;
mod trimming;
mod turns;

use super::{Bodies, Body, Outgoing, Reads, Reply, Route, ServeError, Server, Target, Turns};
use crate::clock::{Clock, SystemClock};
use crate::config::{LogConfig, Streams};
use crate::frame;
use crate::log::kv::{Cached, Entry, Kv, KvError, Table, Visit, Write};
use crate::log::rocks::Rocks;
use crate::log::state::AppendRequest;
use crate::log::{Log, Options};
use crate::observe::metrics::Metrics;
use crate::protocol::names;
use crate::protocol::request::parse;
use crate::types::{Outcome, StreamEnd, StreamPath};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

/// A server over a store that can be held up where it looks for producers, and overtaken where it
/// reads segments.
struct World {
    server: Arc<Server>,
    gate: Arc<Gate>,
    _dir: TempDir,
}

/// Who holds it for writing holds up all who look for a producer.
#[derive(Default)]
struct Gate {
    lock: RwLock<()>,
    reached: AtomicBool,
    /// What is done before a segment is read, unless it is being done.
    before_segment: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

struct Gated {
    rocks: Rocks,
    gate: Arc<Gate>,
}

impl Kv for Gated {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        if table == Table::Producers {
            self.gate.reached.store(true, Ordering::SeqCst);
            drop(self.gate.lock.blocking_read());
        }
        if table == Table::Segments
            && let Some(mut act) = self.gate.before_segment.try_lock()
            && let Some(act) = &mut *act
        {
            act();
        }
        self.rocks.get(table, key)
    }

    fn get_cached(&self, table: Table, key: &[u8]) -> Result<Cached, KvError> {
        match table {
            Table::Producers => Ok(Cached::NotInMemory),
            _ => self.rocks.get_cached(table, key),
        }
    }

    fn get_at_or_before(&self, table: Table, key: &[u8]) -> Result<Option<Entry>, KvError> {
        self.rocks.get_at_or_before(table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), KvError> {
        self.rocks.scan(table, from, to, visit)
    }

    fn write(&self, writes: &[Write]) -> Result<(), KvError> {
        self.rocks.write(writes)
    }

    fn is_behind(&self) -> bool {
        self.rocks.is_behind()
    }

    fn sync(&self) -> Result<(), KvError> {
        self.rocks.sync()
    }

    fn compact(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError> {
        self.rocks.compact(table, from, to)
    }

    fn collect(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError> {
        self.rocks.collect(table, from, to)
    }
}

impl World {
    fn open() -> Self {
        Self::with(&LogConfig::default())
    }

    fn with(config: &LogConfig) -> Self {
        Self::by(Arc::new(SystemClock), config)
    }

    fn by(clock: Arc<dyn Clock>, config: &LogConfig) -> Self {
        Self::waiting(Duration::from_mins(1), clock, config)
    }

    /// One where nobody waits for a turn or for room.
    fn impatient(config: &LogConfig) -> Self {
        Self::waiting(Duration::ZERO, Arc::new(SystemClock), config)
    }

    fn waiting(queue_wait: Duration, clock: Arc<dyn Clock>, config: &LogConfig) -> Self {
        let dir = TempDir::new().unwrap();
        let gate = Arc::new(Gate::default());
        let kv = Arc::new(Gated {
            rocks: Rocks::open(dir.path(), config).unwrap(),
            gate: gate.clone(),
        });
        let metrics = Arc::new(Metrics::new());
        let options = Options {
            log: config,
            producers_max: 10,
            fork_depth_max: 10,
            queue_wait,
        };
        let (log, work) = Log::open(kv, clock.clone(), metrics.clone(), &options).unwrap();
        log.start_work(work, config.expiry_interval, &CancellationToken::new());
        Self {
            server: Arc::new(Server {
                log,
                clock,
                metrics,
                bodies: Bodies::new(config.bodies_bytes(), queue_wait),
                outgoing: Arc::new(Outgoing::new(64 << 20, queue_wait)),
                reads: Reads::new(queue_wait),
                framing: Turns::new(1, queue_wait),
                producers_max: 10,
                live_readers: Arc::new(Semaphore::new(10)),
                draining: CancellationToken::new(),
            }),
            gate,
            _dir: dir,
        }
    }

    async fn call(
        &self,
        method: Method,
        query: &str,
        headers: &[(&'static str, &str)],
        body: &'static [u8],
    ) -> Result<Reply, ServeError> {
        call(&self.server, method, query, headers, body).await
    }

    /// Closes the stream as a recorder does.
    async fn end(&self, end: &StreamEnd) {
        let stream = self.server.log.stream(&path()).await.unwrap();
        let frames = frame::encode([&b"last"[..]].into_iter());
        let request = AppendRequest {
            id: None,
            content_type: Some("text/plain"),
            frame_bytes: frames.len() as u64,
            stream_seq: None,
            close: true,
            end: Some(end),
            producer: None,
            producers_max: 0,
        };
        let appended = self.server.log.append(&stream, &request, Some(frames));
        appended.await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let log = self.server.log.clone();
        tokio::spawn(async move { log.stop().await });
    }
}

fn path() -> StreamPath {
    StreamPath::new("default", "s")
}

async fn call(
    server: &Arc<Server>,
    method: Method,
    query: &str,
    headers: &[(&'static str, &str)],
    body: &'static [u8],
) -> Result<Reply, ServeError> {
    serve(server, method, query, headers, Bytes::from_static(body)).await
}

async fn serve(
    server: &Arc<Server>,
    method: Method,
    query: &str,
    headers: &[(&'static str, &str)],
    body: Bytes,
) -> Result<Reply, ServeError> {
    let settings = Streams {
        long_poll_timeout: Duration::from_millis(1),
        ..Streams::default()
    };
    serve_by(settings, server, method, query, headers, body).await
}

/// The same at a route with these settings.
async fn serve_by(
    settings: Streams,
    server: &Arc<Server>,
    method: Method,
    query: &str,
    headers: &[(&'static str, &str)],
    body: Bytes,
) -> Result<Reply, ServeError> {
    let pairs = headers.iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).unwrap();
        (HeaderName::from_static(name), value)
    });
    let headers: HeaderMap = pairs.collect();
    let route = Route::new(settings);
    let target = Target {
        route: &route,
        path: path(),
        location: None,
        resolve: &|_| None,
    };
    let command = parse(&method, Some(query), &headers)?;
    server.serve(&target, command, body).await
}

const TEXT: (&str, &str) = ("content-type", "text/plain");
const JSON: (&str, &str) = ("content-type", "application/json");

/// `Stream-Closed`, `Stream-End` and `Stream-End-Reason`.
fn told(reply: &Reply) -> [&str; 3] {
    let names = [
        names::STREAM_CLOSED,
        names::STREAM_END,
        names::STREAM_END_REASON,
    ];
    names.map(|name| {
        let value = reply.head.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    })
}

#[tokio::test]
async fn every_reply_that_says_closed_says_how_it_ended() {
    let world = World::open();
    world
        .call(Method::PUT, "", &[TEXT], b"first")
        .await
        .unwrap();
    let start = "offset=0000000000000000_0000000000000000";
    let reply = world.call(Method::GET, start, &[], b"").await.unwrap();
    assert_eq!(told(&reply), ["", "", ""]);
    world
        .end(&StreamEnd::new(Outcome::Failed, Some("timeout")))
        .await;
    let at_end = reply.head.headers[names::STREAM_NEXT_OFFSET]
        .to_str()
        .unwrap();
    let end = "offset=0000000000000000_0000000000000017";
    assert_eq!(at_end, "0000000000000000_0000000000000009");
    let closed = ("stream-closed", "true");
    let requests = [
        (Method::HEAD, String::new(), vec![]),
        (Method::GET, start.into(), vec![]),
        (Method::GET, "offset=now".into(), vec![]),
        (Method::GET, end.into(), vec![]),
        (Method::GET, format!("{start}&live=long-poll"), vec![]),
        (Method::GET, format!("{end}&live=long-poll"), vec![]),
        (Method::POST, String::new(), vec![closed]),
        (Method::PUT, String::new(), vec![TEXT, closed]),
        (Method::POST, String::new(), vec![TEXT]),
    ];
    for (method, query, headers) in requests {
        let body: &[u8] = if headers == [TEXT] { b"late" } else { b"" };
        let reply = match world.call(method.clone(), &query, &headers, body).await {
            Ok(reply) => reply,
            Err(refusal) => refusal.into_reply(false),
        };
        assert_eq!(
            told(&reply),
            ["true", "failed", "timeout"],
            "{method} {query}"
        );
    }
    let sse = format!("{start}&live=sse");
    let reply = world.call(Method::GET, &sse, &[], b"").await.unwrap();
    let Body::Live(mut events) = reply.body else {
        panic!("it is live");
    };
    let mut text = Vec::new();
    while let Some(piece) = events.next().await {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8(text).unwrap();
    let last = r#""streamClosed":true,"streamEnd":"failed","streamEndReason":"timeout"}"#;
    assert!(text.trim_end().ends_with(last), "{text}");
}

#[tokio::test]
async fn a_client_that_closes_a_stream_says_no_end() {
    let world = World::open();
    world.call(Method::PUT, "", &[TEXT], b"").await.unwrap();
    let closed = [("stream-closed", "true")];
    let reply = world.call(Method::POST, "", &closed, b"").await.unwrap();
    assert_eq!(told(&reply), ["true", "", ""]);
    let reply = world.call(Method::HEAD, "", &[], b"").await.unwrap();
    assert_eq!(told(&reply), ["true", "", ""]);
}

/// The stream is replaced by one of JSON while an append looks for its producer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_of_json_gets_what_is_not_json() {
    let world = World::open();
    world.call(Method::PUT, "", &[TEXT], b"").await.unwrap();
    let producer = |id| {
        [
            ("producer-id", id),
            ("producer-epoch", "0"),
            ("producer-seq", "0"),
        ]
    };
    let first = [&[TEXT][..], &producer("one")].concat();
    world.call(Method::POST, "", &first, b"text").await.unwrap();
    let closed = world.gate.lock.write().await;
    world.gate.reached.store(false, Ordering::SeqCst);
    let server = world.server.clone();
    let appending = tokio::spawn(async move {
        let headers = [&[JSON][..], &producer("two")].concat();
        call(&server, Method::POST, "", &headers, b"no json")
            .await
            .map(drop)
    });
    while !world.gate.reached.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.call(Method::DELETE, "", &[], b"").await.unwrap();
    world.call(Method::PUT, "", &[JSON], b"").await.unwrap();
    drop(closed);
    let refused = appending.await.unwrap();
    assert!(matches!(refused, Err(ServeError::Json(_))), "{refused:?}");
    let stream = world.server.log.stream(&path()).await.unwrap();
    assert_eq!(stream.tail().view().unwrap().tail, 0);
}
