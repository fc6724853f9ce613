//! A server over a database of its own, without a network.

use super::unsynced::Unsynced;
use bytes::Bytes;
use headwater::clock::SystemClock;
use headwater::config::{Durability, LogConfig, Streams};
use headwater::log::kv::Kv;
use headwater::log::rocks::Rocks;
use headwater::log::{Log, Options};
use headwater::observe::metrics::Metrics;
use headwater::protocol::request::parse;
use headwater::serve::{Bodies, Body, Outgoing, Reads, Reply, Route, Server, Target, Turns};
use headwater::types::StreamPath;
use http::{HeaderMap, HeaderValue, Method, header};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A server, and the runtime on which it is asked.
pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    route: Route,
    work: CancellationToken,
    pub(super) runtime: Runtime,
    _dir: TempDir,
}

impl World {
    /// With an empty database; what is written is not synced.
    pub(crate) fn open() -> Self {
        Self::over(Durability::Os, |rocks| Arc::new(rocks))
    }

    /// The same where an append is written and published in turn, on the thread that makes it: the
    /// log allows that where syncs are quick and it was opened on a runtime of several threads.
    pub(crate) fn open_in_turn() -> Self {
        let several = Builder::new_multi_thread().worker_threads(2).build();
        let several = several.expect("a runtime");
        let _on = several.enter();
        Self::over(Durability::Sync, |rocks| Arc::new(Unsynced(rocks)))
    }

    fn over(durability: Durability, store: impl FnOnce(Rocks) -> Arc<dyn Kv>) -> Self {
        let dir = TempDir::new().expect("a directory");
        let config = LogConfig {
            durability,
            ..LogConfig::default()
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let store = store(Rocks::open(dir.path(), &config).expect("a database"));
        let (clock, metrics) = (Arc::new(SystemClock), Arc::new(Metrics::new()));
        let options = Options {
            log: &config,
            producers_max: 100,
            fork_depth_max: 100,
            queue_wait: Duration::from_mins(1),
        };
        let opened = Log::open(store, clock.clone(), metrics.clone(), &options);
        let (log, to_do) = opened.expect("a log");
        let work = CancellationToken::new();
        let entered = runtime.enter();
        log.start_work(to_do, config.expiry_interval, &work);
        drop(entered);
        let server = Arc::new(Server {
            log,
            clock,
            metrics,
            bodies: Bodies::new(config.bodies_bytes(), options.queue_wait),
            outgoing: Arc::new(Outgoing::new(1 << 30, options.queue_wait)),
            reads: Reads::new(options.queue_wait),
            framing: Turns::new(1, options.queue_wait),
            producers_max: 100,
            live_readers: Arc::new(Semaphore::new(100)),
            draining: CancellationToken::new(),
        });
        Self {
            server,
            route: Route::new(Streams::default()),
            work,
            runtime,
            _dir: dir,
        }
    }

    /// With one stream that holds a message of so many bytes.
    pub(crate) fn with_stream(path: &str, message_bytes: usize) -> Self {
        let world = Self::open();
        world.create(path, message_bytes);
        world
    }

    /// Creates a stream that holds a message of so many bytes.
    pub(crate) fn create(&self, path: &str, message_bytes: usize) {
        let body = Bytes::from(vec![b'x'; message_bytes]);
        let reply = self.call(&Method::PUT, path, None, body);
        assert_eq!(reply.head.status, 201);
    }

    /// Answers one request as the gateway would have it answered.
    pub(crate) fn call(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        body: Bytes,
    ) -> Reply {
        self.runtime.block_on(async {
            let mut headers = HeaderMap::new();
            let text = HeaderValue::from_static("text/plain");
            headers.insert(header::CONTENT_TYPE, text);
            let target = Target {
                route: &self.route,
                path: StreamPath::new("default", path),
                location: None,
                resolve: &|_| None,
            };
            let command = parse(method, query, &headers).expect("a command");
            let served = self.server.serve(&target, command, body).await;
            served.unwrap_or_else(|error| error.into_reply(false))
        })
    }

    /// Reads a stream whole, and tells how many bytes it holds.
    pub(crate) fn read(&self, path: &str) -> usize {
        let reply = self.call(&Method::GET, path, None, Bytes::new());
        assert_eq!(reply.head.status, 200);
        match reply.body {
            Body::Full(bytes) => bytes.len(),
            Body::Pieces(mut pieces) => self.runtime.block_on(async {
                let mut bytes = 0;
                while let Some(piece) = pieces.next().await.expect("a piece") {
                    bytes += piece.len();
                }
                bytes
            }),
            _ => 0,
        }
    }

    /// Appends one message after the other.
    pub(crate) fn append(&self, path: &str, message: &Bytes, times: usize) {
        for _ in 0..times {
            let reply = self.call(&Method::POST, path, None, message.clone());
            assert_eq!(reply.head.status, 204);
        }
    }

    /// Has so many appends made at once.
    pub(crate) fn append_together(&self, path: &str, message: &Bytes, times: usize) {
        self.runtime.block_on(async {
            let mut headers = HeaderMap::new();
            let text = HeaderValue::from_static("text/plain");
            headers.insert(header::CONTENT_TYPE, text);
            let appends: Vec<_> = (0..times)
                .map(|_| {
                    let server = self.server.clone();
                    let command = parse(&Method::POST, None, &headers).expect("a command");
                    let (path, body) = (StreamPath::new("default", path), message.clone());
                    tokio::spawn(async move {
                        let route = Route::new(Streams::default());
                        let target = Target {
                            route: &route,
                            path,
                            location: None,
                            resolve: &|_| None,
                        };
                        let served = server.serve(&target, command, body).await;
                        assert!(served.is_ok());
                    })
                })
                .collect();
            for append in appends {
                append.await.expect("an append");
            }
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.work.cancel();
        let log = self.server.log.clone();
        self.runtime.block_on(log.stop());
    }
}
