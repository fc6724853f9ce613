//! The edge's cache of an origin's answers that never change: a bounded part of them in memory,
//! in front of a bounded part on disk, which is there again after a restart.
//!
//! Of Pingora's cache it uses what judges and orders: [`CacheControl`], `CacheMeta`, and the manager
//! of what was used last. Its `HttpCache`, with the trait for storage and the lock, is not used: a
//! lock cannot share an answer that is not stored, nor tell those from before a write apart; a purge
//! is of one answer; and storage must live for ever. docs/edge.md has more of it.
//!
//! - `index` knows of each answer whether it is in memory, on disk, or on its way;
//! - `flight` is one on its way, with those who wait for it; `fill` is the task that brings it;
//! - `coded` has the compressed forms of an answer in memory;
//! - `terms` says what an origin lets a cache do; `entry` is an answer in memory;
//! - `disk`, `file` and `recovery` keep answers on disk.
//!
//! [`CacheControl`]: pingora::cache::CacheControl

mod coded;
mod disk;
mod entry;
mod fetch;
mod file;
mod fill;
mod flight;
mod index;
mod key;
mod lru;
mod recovery;
mod status;
mod terms;

pub use coded::Wish;
pub use fetch::{Fetch, Fetched, Pull};
pub(super) use file::tags;
pub use key::{RangeKey, Scope, StreamKey};
pub use status::{CACHE_STATUS, CacheStatus};

use crate::clock::Clock;
use crate::config::Config;
use crate::observe::admin::PurgeTarget;
use crate::observe::metrics::{CacheAnswer, CacheFigures, Metrics, UpstreamFailure};
use crate::serve::Turns;
use crate::types::UnixMs;
use bytes::Bytes;
use disk::Disk;
use fill::Fill;
use flight::{Filling, Outcome, Seat, Source};
use http::{HeaderMap, StatusCode};
use index::{Boarding, Index};
use key::Digest;
use lru::Lru;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The answers of all origins that are kept.
pub struct Cache {
    index: Arc<Index>,
    disk: Option<Arc<Disk>>,
    /// The memory for bodies: those that are kept, on their way, or with clients.
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// A permit for each answer that is being fetched.
    turns: Arc<Semaphore>,
    turn_wait: Duration,
    /// Turns at compressing answers.
    coding_turns: Turns,
    entry_bytes_max: u64,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// What is asked of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub key: RangeKey<'a>,
    /// How often something was written to the stream through this edge. A request never joins one
    /// to the origin of a lower generation, which may not have seen what was written.
    pub generation: u64,
    /// The client's own condition: an answer with such a tag is given as 304.
    pub if_none_match: Option<&'a str>,
    /// How the client would like the body. It gets it so once that was made, which begins when it is
    /// first wished, of what is kept in memory; until then, and of all else, it gets it as it is.
    pub wish: Option<Wish>,
}

/// An answer.
pub struct Cached {
    pub status: StatusCode,
    /// The origin's headers, without `Age`, `Cache-Status` and `Content-Length` if the answer is one
    /// that others get as well. A 304 has those that go with one.
    pub headers: Arc<HeaderMap>,
    pub body: CachedBody,
    pub cache_status: CacheStatus,
    /// The value of `Age`, where the answer did not come from the origin just now. An answer that
    /// is passed as it is has the origin's own among its headers.
    pub age_seconds: Option<u64>,
}

/// The body of an answer.
pub enum CachedBody {
    Empty,
    Full(Bytes),
    Pieces(Reader),
}

/// A body that is read while it comes.
pub struct Reader {
    /// Bytes of the whole body, where they are known beforehand.
    pub length: Option<u64>,
    source: Body,
}

enum Body {
    /// One that others get as well.
    Shared(Seat),
    /// One that is passed on.
    Passed(Box<dyn Pull>),
}

impl Reader {
    /// The next piece; `None` at the end of a whole body. After an error nothing more comes, and
    /// the client must not take what it has for all. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GetError> {
        match &mut self.source {
            Body::Shared(seat) => seat.next().await,
            Body::Passed(body) => body.next().await.map_err(GetError::Origin),
        }
    }
}

/// Why there is no answer, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GetError {
    /// The origin gave none, or broke off; nothing that may be given instead is kept.
    #[error("the origin failed")]
    Origin(UpstreamFailure),
    /// The origin has just told another request for the same that it cannot answer for a while.
    #[error("the origin cannot answer; try again later")]
    Unavailable,
    /// As many requests to origins as may run at one time are running.
    #[error("too many answers are being fetched; try again later")]
    Busy,
}

/// Why the cache does not begin its work.
#[derive(Debug, Error)]
#[error("the cache's directory {dir} cannot be used: {source}")]
pub struct OpenError {
    pub dir: String,
    pub source: io::Error,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// All answers of a stream, for whomever they are kept.
    Stream { origin: String, path: String },
    /// All answers of the streams with this path, of any origin.
    Path(String),
    /// All answers of the streams of which an answer has this `Cache-Tag`, of any origin.
    Tag(String),
}

impl From<PurgeTarget> for Purge {
    fn from(target: PurgeTarget) -> Self {
        match target {
            PurgeTarget::Path {
                origin: Some(origin),
                path,
            } => Self::Stream { origin, path },
            PurgeTarget::Path { origin: None, path } => Self::Path(path),
            PurgeTarget::Tag(tag) => Self::Tag(tag),
        }
    }
}

impl Cache {
    /// Makes the directory, which is in `data_dir` unless set, and begins to look for what an earlier
    /// process has left there. Must be called on a Tokio runtime.
    pub fn open(
        config: &Config,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, OpenError> {
        let cache = &config.cache;
        let memory = Lru::new(cache.memory_bytes, None);
        let files = Lru::new(cache.disk_bytes, Some(cache.disk_entries_max));
        let index = Arc::new(Index::new(memory, files));
        let room_bytes = cache.memory_bytes.saturating_add(cache.in_flight_bytes_max);
        let room_bytes = usize::try_from(room_bytes).unwrap_or(usize::MAX);
        let room_bytes = room_bytes.min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(room_bytes));
        let disk = if cache.disk_bytes == 0 {
            None
        } else {
            let dir = cache.dir.clone();
            let dir = dir.unwrap_or_else(|| config.data_dir.join("cache"));
            let disk = Disk::open(
                &dir,
                index.clone(),
                room.clone(),
                cache.entry_bytes_max,
                clock.clone(),
                metrics.clone(),
            );
            let dir = dir.display().to_string();
            Some(Arc::new(disk.map_err(|source| OpenError { dir, source })?))
        };
        if let Some(disk) = disk.clone() {
            tokio::task::spawn_blocking(move || disk.recover());
        }
        let cache = Arc::new(Self {
            index,
            disk,
            room,
            room_bytes,
            turns: Arc::new(Semaphore::new(cache.fetches_max)),
            turn_wait: config.limits.queue_wait,
            coding_turns: Turns::new(1, config.limits.queue_wait),
            entry_bytes_max: cache.entry_bytes_max,
            clock,
            metrics,
        });
        cache.report();
        Ok(cache)
    }

    /// Lets a scrape of the metrics take how much is kept.
    fn report(self: &Arc<Self>) {
        let cache = Arc::downgrade(self);
        self.metrics.on_scrape(Box::new(move |metrics| {
            if let Some(cache) = cache.upgrade() {
                metrics.cache.set(&cache.figures());
            }
        }));
    }

    fn figures(&self) -> CacheFigures {
        let (memory, disk) = (&self.index.memory, &self.index.disk);
        let held_bytes = self.room_bytes - self.room.available_permits();
        CacheFigures {
            memory_bytes: memory.bytes() as u64,
            memory_entries: memory.entries() as u64,
            memory_evicted: memory.evicted() as u64,
            disk_bytes: disk.bytes() as u64,
            disk_entries: disk.entries() as u64,
            disk_evicted: disk.evicted() as u64,
            held_bytes: held_bytes as u64,
        }
    }

    /// The answer, if it is in memory and fresh. Costs no more than looking it up: ask here first.
    pub fn hit(&self, ask: &Ask<'_>) -> Option<Cached> {
        let place = ask.key.place();
        let entry = self.index.entry(place)?;
        let now_ms = self.clock.now_ms();
        let status = entry.ready(now_ms)?;
        if entry.begin_use(now_ms) {
            self.index.touch(place);
        }
        if let Some(wish) = ask.wish {
            self.begin_coding(place, &entry, wish);
        }
        Some(self.count(entry.answer(ask, status, now_ms)))
    }

    /// The answer, wherever it has to come from.
    ///
    /// Requests for the same that come meanwhile get the same answer, if the origin lets a shared
    /// cache give it to them. It is kept if it also never changes: a 200 without
    /// `Stream-Up-To-Date`, or with `Stream-Closed`. Whatever else the origin says goes as it is to
    /// the one who asked.
    pub async fn get<F: Fetch>(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        fetch: F,
    ) -> Result<Cached, GetError> {
        let place = ask.key.place();
        let path = key::digest(&[ask.key.stream.path.as_bytes()]);
        let now_ms = self.clock.now_ms();
        let answer = match self.index.board(place, path, ask.generation, now_ms) {
            Boarding::Ready(entry) => {
                let status = entry.ready(now_ms).unwrap_or(CacheStatus::Hit);
                entry.answer(ask, status, now_ms)
            }
            Boarding::Joined(seat) => match seat.outcome().await {
                Outcome::Alone => {
                    let fetched = fetch.fetch(None).await;
                    Cached::passed(fetched.map_err(GetError::Origin)?, ask.if_none_match)
                }
                outcome => self.landed(ask, outcome, seat, true)?,
            },
            Boarding::First(mut first) => {
                let passed = Fill::start(self, ask, place, path, &mut first, fetch);
                match first.seat.outcome().await {
                    outcome @ (Outcome::Alone | Outcome::Failed(_)) => match passed.await {
                        Ok(fetched) => Cached::passed(fetched, ask.if_none_match),
                        Err(_) => self.landed(ask, outcome, first.seat, false)?,
                    },
                    outcome => self.landed(ask, outcome, first.seat, false)?,
                }
            }
        };
        Ok(self.count(answer))
    }

    /// What a flight's outcome is for one who waited for it.
    fn landed(
        &self,
        ask: &Ask<'_>,
        outcome: Outcome,
        seat: Seat,
        collapsed: bool,
    ) -> Result<Cached, GetError> {
        let now_ms = self.clock.now_ms();
        match outcome {
            Outcome::Whole(entry, source) => {
                let status = match source {
                    Source::Disk => CacheStatus::DiskHit,
                    Source::Revalidated => CacheStatus::Revalidated { collapsed },
                    Source::Stale => entry.stale(now_ms),
                };
                Ok(entry.answer(ask, status, now_ms))
            }
            Outcome::Filling(filling) => {
                Ok(filling.answer(ask.if_none_match, seat, collapsed, now_ms))
            }
            Outcome::Failed(error) => Err(error),
            Outcome::Alone => Err(GetError::Origin(UpstreamFailure::Broken)),
        }
    }

    fn count(&self, cached: Cached) -> Cached {
        let answer = match cached.cache_status {
            CacheStatus::Hit => CacheAnswer::Hit,
            CacheStatus::DiskHit => CacheAnswer::DiskHit,
            CacheStatus::Stale { .. } => CacheAnswer::Stale,
            CacheStatus::Revalidated { collapsed: false } => CacheAnswer::Revalidated,
            CacheStatus::Forwarded {
                collapsed: false, ..
            } => CacheAnswer::Miss,
            CacheStatus::Revalidated { .. } | CacheStatus::Forwarded { .. } => {
                CacheAnswer::Collapsed
            }
            CacheStatus::Bypass => CacheAnswer::Bypass,
        };
        self.metrics.cache.answered(answer).inc();
        cached
    }

    /// Waits for the right to fetch; `None` if it does not come in time.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = self.turns.clone().acquire_owned();
        tokio::time::timeout(self.turn_wait, turn).await.ok()?.ok()
    }

    /// Forgets answers, in memory and on disk, and what is being fetched: none of it is given to
    /// a request that comes after this returned. Returns how many answers were kept.
    ///
    /// An error says that some are still on disk, and could be there again after a restart.
    pub async fn purge(&self, purge: Purge) -> Result<u64, io::Error> {
        let streams = match purge {
            Purge::Stream { origin, path } => {
                let (origin, path) = (&origin, &path);
                vec![StreamKey { origin, path }.digest()]
            }
            Purge::Path(path) => {
                let wanted = key::digest(&[path.as_bytes()]);
                self.find(|names| names.path == wanted).await
            }
            Purge::Tag(tag) => {
                let wanted = key::digest(&[tag.as_bytes()]);
                // Nobody knows yet which tags they bring.
                self.index.end_flights();
                self.find(|names| names.tags.contains(&wanted)).await
            }
        };
        self.let_go(streams, Index::forget).await
    }

    /// Gives no answer of a stream to a request that comes after this returned, unless the origin
    /// then says that it is unchanged. `is_certain` is whether it can say so of an answer with these
    /// headers, and not of another stream at the path. What is on disk alone is forgotten.
    pub async fn doubt(
        &self,
        stream: StreamKey<'_>,
        is_certain: fn(&HeaderMap) -> bool,
    ) -> Result<(), io::Error> {
        let doubt = move |index: &Index, stream| index.doubt(stream, is_certain);
        self.let_go(vec![stream.digest()], doubt).await?;
        Ok(())
    }

    /// Lets go of streams' answers by `forget` in memory, and by removing their files.
    async fn let_go(
        &self,
        streams: Vec<Digest>,
        forget: impl Fn(&Index, Digest) -> u64 + Send + 'static,
    ) -> Result<u64, io::Error> {
        let disk = self.disk.clone();
        let forgotten = streams.iter().map(|stream| forget(&self.index, *stream));
        let answers = forgotten.sum();
        self.metrics.cache.purges.inc();
        if let Some(disk) = disk {
            let index = self.index.clone();
            let purge = move || {
                let mut outcome = Ok(());
                for stream in streams {
                    outcome = outcome.and(disk.purge(stream));
                    // A file may have been read just before it went.
                    forget(&index, stream);
                }
                outcome
            };
            let purged = tokio::task::spawn_blocking(purge).await;
            purged.map_err(io::Error::other)??;
        }
        Ok(answers)
    }

    /// The streams with such a name, once all that is on disk is known.
    async fn find(&self, wanted: impl Fn(&index::Names) -> bool) -> Vec<Digest> {
        if let Some(disk) = &self.disk {
            let _ = disk.recovered.subscribe().wait_for(|done| *done).await;
        }
        self.index.find(wanted)
    }
}

impl Cached {
    /// An answer as the origin gave it, which was asked without the client's condition.
    fn passed(fetched: Fetched, if_none_match: Option<&str>) -> Self {
        let cache_status = CacheStatus::Forwarded {
            stale: false,
            stored: false,
            collapsed: false,
        };
        let headers = fetched.headers;
        if fetched.status == StatusCode::OK
            && let Some(tag) = entry::unchanged(&headers, if_none_match, None)
        {
            return Self::not_modified(&headers, tag, cache_status, None);
        }
        let length = terms::content_length(&headers);
        Self {
            status: fetched.status,
            headers: Arc::new(headers),
            body: CachedBody::Pieces(Reader {
                length,
                source: Body::Passed(fetched.body),
            }),
            cache_status,
            age_seconds: None,
        }
    }
}

impl Filling {
    /// The answer for one of those who get it while it comes.
    fn answer(
        self,
        if_none_match: Option<&str>,
        seat: Seat,
        collapsed: bool,
        now_ms: UnixMs,
    ) -> Cached {
        let cache_status = CacheStatus::Forwarded {
            stale: self.stale,
            stored: self.stored,
            collapsed,
        };
        let age_seconds = Some(self.terms.age_seconds(now_ms)).filter(|age| *age > 0);
        if let Some(tag) = entry::unchanged(&self.headers, if_none_match, None) {
            return Cached::not_modified(&self.headers, tag, cache_status, age_seconds);
        }
        Cached {
            status: StatusCode::OK,
            headers: self.headers,
            body: CachedBody::Pieces(Reader {
                length: self.length,
                source: Body::Shared(seat),
            }),
            cache_status,
            age_seconds,
        }
    }
}

#[cfg(test)]
mod tests;
