//! A cache, its clock and its directory, and an origin that answers by a script.

use super::super::{
    Ask, Cache, Cached, CachedBody, Fetch, Fetched, GetError, Pull, RangeKey, Scope, StreamKey,
};
use crate::clock::ManualClock;
use crate::config::Config;
use crate::observe::metrics::{Metrics, UpstreamFailure};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

pub(super) const FIXED: &str = "public, max-age=60";

pub(super) struct World {
    pub(super) config: Config,
    pub(super) cache: Arc<Cache>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) origin: Arc<Origin>,
    pub(super) dir: TempDir,
}

/// An origin whose answers are given one after the other.
#[derive(Default)]
pub(super) struct Origin {
    script: Mutex<VecDeque<Result<Answer, UpstreamFailure>>>,
    /// The conditions of the requests that came.
    pub(super) asked: Mutex<Vec<Option<String>>>,
    /// Closed, requests wait for permits before they are answered.
    pub(super) gate: Option<Semaphore>,
}

pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
}

/// What comes of a body; where it ends without an end, it broke off.
pub(super) enum Piece {
    Data(Bytes),
    End,
}

/// The other end of a body.
pub(super) struct Tap {
    pub(super) pieces: mpsc::UnboundedSender<Piece>,
    taken: Arc<AtomicUsize>,
    sent: AtomicUsize,
}

/// A body that counts what is taken of it.
struct Body {
    pieces: mpsc::UnboundedReceiver<Piece>,
    taken: Arc<AtomicUsize>,
}

impl Tap {
    pub(super) fn send(&self, data: impl Into<Bytes>) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let _ = self.pieces.send(Piece::Data(data.into()));
    }

    /// How many pieces are not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.sent.load(Ordering::Relaxed) - self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn end(self) {
        let _ = self.pieces.send(Piece::End);
    }
}

impl Answer {
    /// A 200 with this `Cache-Control`, whose body is still to come.
    pub(super) fn open(control: &str) -> (Self, Tap) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Body {
            pieces: receiver,
            taken: taken.clone(),
        };
        let tap = Tap {
            pieces: sender,
            taken,
            sent: AtomicUsize::new(0),
        };
        let answer = Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body,
        };
        (answer.with(header::CACHE_CONTROL, control), tap)
    }

    /// A whole 200.
    pub(super) fn whole(control: &str, body: impl Into<Bytes>) -> Self {
        let (answer, tap) = Self::open(control);
        let body = body.into();
        let answer = answer.with(header::CONTENT_LENGTH, &body.len().to_string());
        if !body.is_empty() {
            tap.send(body);
        }
        tap.end();
        answer
    }

    pub(super) fn empty(status: u16) -> Self {
        let mut answer = Self::whole("no-store", "");
        answer.headers.clear();
        answer.status = StatusCode::from_u16(status).unwrap();
        answer
    }

    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }
}

#[async_trait]
impl Pull for Body {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamFailure> {
        match self.pieces.recv().await {
            Some(Piece::Data(data)) => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                Ok(Some(data))
            }
            Some(Piece::End) => Ok(None),
            None => Err(UpstreamFailure::Broken),
        }
    }
}

#[async_trait]
impl Fetch for Arc<Origin> {
    async fn fetch(&self, if_none_match: Option<&HeaderValue>) -> Result<Fetched, UpstreamFailure> {
        let condition = if_none_match.map(|tag| tag.to_str().unwrap().to_owned());
        self.asked.lock().push(condition);
        // It lets the requests go in their order.
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let answer = self.script.lock().pop_front();
        let answer = answer.expect("the origin was not to be asked")?;
        Ok(Fetched {
            status: answer.status,
            headers: answer.headers,
            body: Box::new(answer.body),
        })
    }
}

/// The key of a range of one stream.
pub(super) fn key(range: &str) -> RangeKey<'_> {
    of_stream("a", range)
}

pub(super) fn of_stream<'a>(path: &'a str, range: &'a str) -> RangeKey<'a> {
    let origin = "origin";
    RangeKey {
        stream: StreamKey { origin, path },
        scope: &Scope::Anonymous,
        range,
    }
}

pub(super) fn ask(key: RangeKey<'_>) -> Ask<'_> {
    Ask {
        key,
        generation: 0,
        if_none_match: None,
        wish: None,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// One with other settings.
    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut config = Config::default();
        config.cache.dir = Some(dir.path().to_owned());
        change(&mut config);
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let metrics = Arc::new(Metrics::new());
        Self {
            cache: Cache::open(&config, clock.clone(), metrics.clone()).unwrap(),
            config,
            clock,
            metrics,
            origin: Arc::default(),
            dir,
        }
    }

    /// One whose origin answers only as often as it is let.
    pub(super) fn gated() -> Self {
        let mut world = Self::new();
        world.origin = Arc::new(Origin {
            gate: Some(Semaphore::new(0)),
            ..Origin::default()
        });
        world
    }

    /// Lets the origin answer so many requests.
    pub(super) fn let_answer(&self, requests: usize) {
        self.origin.gate.as_ref().unwrap().add_permits(requests);
    }

    pub(super) fn will_answer(&self, answer: Answer) {
        self.origin.script.lock().push_back(Ok(answer));
    }

    pub(super) fn will_fail(&self, failure: UpstreamFailure) {
        self.origin.script.lock().push_back(Err(failure));
    }

    /// Takes back what was not asked for; whether all was.
    pub(super) fn forget_script(&self) -> bool {
        let mut script = self.origin.script.lock();
        let asked = script.is_empty();
        script.clear();
        asked
    }

    /// Waits until so many requests have come to the origin, and no more.
    pub(super) async fn requested(&self, requests: usize) {
        while self.requests() < requests {
            tokio::task::yield_now().await;
        }
        let_all_run().await;
        assert_eq!(self.requests(), requests);
    }

    pub(super) fn requests(&self) -> usize {
        self.origin.asked.lock().len()
    }

    pub(super) async fn get(&self, range: &str) -> Result<Cached, GetError> {
        self.get_key(key(range)).await
    }

    pub(super) async fn get_key(&self, key: RangeKey<'_>) -> Result<Cached, GetError> {
        self.cache.get(&ask(key), self.origin.clone()).await
    }

    /// The whole answer, and how it came.
    pub(super) async fn read(&self, range: &str) -> (String, String) {
        let cached = self.get(range).await.unwrap();
        let status = status(&cached);
        (text(cached).await.unwrap(), status)
    }

    /// Asks in a task of its own.
    pub(super) fn spawn(&self, range: &'static str, generation: u64) -> Asking {
        let (cache, origin) = (self.cache.clone(), self.origin.clone());
        tokio::spawn(async move {
            let ask = Ask {
                generation,
                ..ask(key(range))
            };
            let cached = cache.get(&ask, origin).await?;
            let status = status(&cached);
            Ok((text(cached).await?, status))
        })
    }

    /// Waits until nothing is fetched or written any longer.
    pub(super) async fn settle(&self) {
        let all = self.config.cache.fetches_max as u32;
        drop(self.cache.turns.acquire_many(all).await.unwrap());
        if let Some(disk) = &self.cache.disk {
            let mut recovered = disk.recovered.subscribe();
            recovered.wait_for(|done| *done).await.unwrap();
        }
    }

    /// Another process with the same directory.
    pub(super) async fn restart(&mut self) {
        self.settle().await;
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        // A thread may still be letting go of the directory.
        let other = TempDir::new().unwrap();
        let mut elsewhere = self.config.clone();
        elsewhere.cache.dir = Some(other.path().to_owned());
        self.cache = Cache::open(&elsewhere, clock.clone(), metrics.clone()).unwrap();
        loop {
            match Cache::open(&self.config, clock.clone(), metrics.clone()) {
                Ok(cache) => break self.cache = cache,
                Err(_) => tokio::task::yield_now().await,
            }
        }
        self.settle().await;
    }
}

pub(super) type Asking = JoinHandle<Result<(String, String), GetError>>;

pub(super) fn status(cached: &Cached) -> String {
    let header = cached.cache_status.to_header();
    let text = header.to_str().unwrap().strip_prefix("headwater; ");
    text.unwrap().to_owned()
}

/// The whole body.
pub(super) async fn text(cached: Cached) -> Result<String, GetError> {
    let mut all = Vec::new();
    match cached.body {
        CachedBody::Empty => {}
        CachedBody::Full(bytes) => all.extend(bytes),
        CachedBody::Pieces(mut reader) => {
            while let Some(piece) = reader.next().await? {
                all.extend(piece);
            }
        }
    }
    Ok(String::from_utf8(all).unwrap())
}

/// Lets all tasks that can go on do so.
pub(super) async fn let_all_run() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
