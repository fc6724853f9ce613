//! Getting an answer that is not in memory: from the disk, or from the origin.

use super::disk::{Disk, Writing};
use super::entry::{Entry, hold, refreshed_headers, shared_headers};
use super::file::names_of;
use super::flight::{Filling, Flight, Outcome, Source};
use super::index::{First, Names};
use super::key::{Digest, Place};
use super::terms::{Verdict, content_length, judge};
use super::{Ask, Cache, Fetch, Fetched, GetError, Pull, Scope};
use crate::observe::metrics::{FillEnd, UpstreamFailure};
use crate::types::UnixMs;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::spawn_blocking;

/// The task that carries a flight.
pub(super) struct Fill<F> {
    cache: Arc<Cache>,
    place: Place,
    key: Vec<u8>,
    path: Digest,
    scope: Scope,
    flight: Arc<Flight>,
    stale: Option<Arc<Entry>>,
    on_disk: bool,
    fetch: F,
    /// Takes the answer that only the first may have.
    first: Option<oneshot::Sender<Fetched>>,
    /// One of the fetches at one time.
    turn: Option<OwnedSemaphorePermit>,
}

/// Bodies up to this size are put together without leaving the worker.
const SMALL_BYTES: usize = 64 << 10;

impl<F: Fetch> Fill<F> {
    /// Begins one for the first who asks; the receiver gets what others may not have.
    pub(super) fn start(
        cache: &Arc<Cache>,
        ask: &Ask<'_>,
        place: Place,
        path: Digest,
        first: &mut First,
        fetch: F,
    ) -> oneshot::Receiver<Fetched> {
        let (sender, receiver) = oneshot::channel();
        let fill = Self {
            cache: cache.clone(),
            place,
            key: ask.key.to_bytes(),
            path,
            scope: *ask.key.scope,
            flight: first.flight.clone(),
            stale: first.stale.take(),
            on_disk: first.on_disk,
            fetch,
            first: Some(sender),
            turn: None,
        };
        tokio::spawn(fill.run());
        receiver
    }

    async fn run(mut self) {
        self.turn = self.cache.turn().await;
        if self.turn.is_none() {
            self.flight.announce(Outcome::Failed(GetError::Busy));
            return;
        }
        let mut stale = self.stale.take();
        if stale.is_none()
            && let Some(entry) = self.load().await
        {
            if entry.terms.is_fresh(self.now_ms()) {
                self.keep(&entry);
                self.flight.announce(Outcome::Whole(entry, Source::Disk));
                return;
            }
            stale = Some(entry);
        }
        let asked_ms = self.now_ms();
        let etag = stale.as_ref().and_then(|entry| entry.etag());
        match (self.fetch.fetch(etag).await, stale) {
            (Ok(fetched), Some(stale)) if fetched.status == StatusCode::NOT_MODIFIED => {
                self.revalidated(&stale, fetched.headers, asked_ms).await;
            }
            (Ok(fetched), stale) if is_away(fetched.status) => self.away(stale, Ok(fetched)),
            (Ok(fetched), stale) => {
                if let Some(stale) = &stale {
                    self.discard(stale).await;
                }
                self.answered(stale.is_some(), fetched, asked_ms).await;
            }
            (Err(failure), stale) => self.away(stale, Err(failure)),
        }
    }

    fn now_ms(&self) -> UnixMs {
        self.cache.clock.now_ms()
    }

    /// What is on disk. While its files are still being found, it is looked for there itself.
    async fn load(&self) -> Option<Arc<Entry>> {
        let disk = self.cache.disk.as_ref()?;
        if !self.on_disk && *disk.recovered.borrow() {
            return None;
        }
        let (disk, place, key) = (disk.clone(), self.place, self.key.clone());
        let entry = disk.run(move |disk| disk.load(place, &key)).await??;
        Some(Arc::new(entry))
    }

    /// The origin is not there. What is kept is given if it may be.
    fn away(&mut self, stale: Option<Arc<Entry>>, answer: Result<Fetched, UpstreamFailure>) {
        if let Some(stale) = stale.filter(|entry| entry.terms.stale_allowed) {
            stale.excuse(self.now_ms());
            self.keep(&stale);
            self.flight.announce(Outcome::Whole(stale, Source::Stale));
            return;
        }
        self.leave();
        let error = match answer {
            Err(failure) => GetError::Origin(failure),
            // The others need not all hear it from an origin that has enough to do.
            Ok(fetched) => {
                self.pass(fetched);
                GetError::Unavailable
            }
        };
        self.flight.announce(Outcome::Failed(error));
    }

    /// The origin says that what is kept is unchanged. The file of it stays as it is: at worst it
    /// is asked about once more after it was read again.
    async fn revalidated(&mut self, stale: &Arc<Entry>, given: HeaderMap, asked_ms: UnixMs) {
        let headers = refreshed_headers(&stale.headers, given);
        let verdict = judge(StatusCode::OK, &headers, &self.scope, asked_ms);
        if let Verdict::Keep(terms) = verdict {
            let headers = Arc::new(shared_headers(headers));
            let entry = Arc::new(stale.renewed(headers, terms));
            self.keep(&entry);
            let outcome = Outcome::Whole(entry, Source::Revalidated);
            self.flight.announce(outcome);
            return;
        }
        self.discard(stale).await;
        self.give_to_first(Fetched {
            status: StatusCode::OK,
            headers,
            body: Box::new(Once(Some(stale.body.clone()))),
        });
    }

    /// The origin gave an answer of its own.
    async fn answered(&mut self, stale: bool, fetched: Fetched, asked_ms: UnixMs) {
        let (status, headers) = (fetched.status, &fetched.headers);
        let (terms, fixed) = match judge(status, headers, &self.scope, asked_ms) {
            Verdict::Pass => return self.give_to_first(fetched),
            Verdict::Share(terms) => (terms, false),
            Verdict::Keep(terms) => (terms, true),
        };
        let length = content_length(headers);
        let held = length.is_none_or(|bytes| self.reserve(0, bytes));
        let filling = Filling {
            headers: Arc::new(shared_headers(fetched.headers)),
            terms,
            length,
            stored: fixed && held,
            stale,
        };
        self.fill(filling, fetched.body, held).await;
    }

    /// Forgets what was kept before, which is not the answer any longer.
    async fn discard(&self, stale: &Arc<Entry>) {
        self.cache.index.drop_entry(self.place, stale);
        if let Some(disk) = self.cache.disk.clone() {
            let place = self.place;
            disk.run(move |disk| disk.remove(place)).await;
        }
    }

    /// Sends an answer to the first; the others have to ask for themselves.
    fn give_to_first(&mut self, fetched: Fetched) {
        self.leave();
        self.pass(fetched);
        self.flight.announce(Outcome::Alone);
    }

    fn pass(&mut self, fetched: Fetched) {
        if let Some(first) = self.first.take() {
            // The client may have left.
            let _ = first.send(fetched);
        }
    }

    /// Lets nobody join, and keeps nothing.
    fn leave(&self) {
        self.cache.index.end_flight(self.place, &self.flight);
    }

    fn names(&self, headers: &HeaderMap) -> Names {
        names_of(self.path, headers)
    }

    fn keep(&self, entry: &Arc<Entry>) -> bool {
        let names = self.names(&entry.headers);
        let index = &self.cache.index;
        index.keep(self.place, &self.flight, entry, names)
    }

    /// Brings the body to all who wait for it, and keeps it if it may be and there is room.
    async fn fill(&mut self, mut filling: Filling, body: Box<dyn Pull>, held: bool) {
        if !filling.stored {
            self.leave();
        }
        self.flight.announce(Outcome::Filling(filling.clone()));
        let pulled = self.pull(body, &mut filling, held).await;
        let metrics = &self.cache.metrics.cache;
        match pulled {
            Pulled::All if filling.stored => self.land(filling).await,
            Pulled::All => {
                self.flight.end(Ok(()));
                metrics.filled(FillEnd::Passed).inc();
            }
            Pulled::Failed(failure) => {
                self.flight.end(Err(failure));
                metrics.filled(FillEnd::Failed).inc();
            }
            Pulled::Deserted => metrics.filled(FillEnd::Deserted).inc(),
        }
    }

    /// Brings the body to its readers. While there is room for it, it comes as fast as the origin
    /// gives it; from then on it is not kept, and comes as fast as its slowest reader takes it.
    async fn pull(
        &mut self,
        mut body: Box<dyn Pull>,
        filling: &mut Filling,
        mut held: bool,
    ) -> Pulled {
        let mut bytes: u64 = 0;
        loop {
            if self.flight.is_deserted() && !self.is_wanted(filling) {
                return Pulled::Deserted;
            }
            let piece = match body.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(failure) => return Pulled::Failed(failure),
            };
            if held && filling.length.is_none() {
                held = self.reserve(bytes, piece.len() as u64);
            }
            bytes += piece.len() as u64;
            if filling.length.is_some_and(|length| bytes > length) {
                return Pulled::Failed(UpstreamFailure::Protocol);
            }
            self.flight.push(piece);
            if !held {
                if filling.stored {
                    filling.stored = false;
                    self.leave();
                }
                // From here on it is the clients' speed that counts.
                self.turn = None;
                if !self.flight.drain().await {
                    return Pulled::Deserted;
                }
            }
        }
        match filling.length {
            Some(length) if bytes < length => Pulled::Failed(UpstreamFailure::Broken),
            _ => Pulled::All,
        }
    }

    /// Whether the body is worth its end although nobody reads it.
    fn is_wanted(&self, filling: &Filling) -> bool {
        filling.stored && self.cache.index.has_flight(self.place, &self.flight)
    }

    /// Takes memory for more of a body of which there is so much already.
    fn reserve(&self, bytes: u64, more: u64) -> bool {
        if bytes.saturating_add(more) > self.cache.entry_bytes_max {
            return false;
        }
        let room = self.cache.room.clone();
        let permit = room.try_acquire_many_owned(more as u32);
        permit.map(|permit| self.flight.hold(permit)).is_ok()
    }

    /// Keeps a body that has come.
    async fn land(&mut self, filling: Filling) {
        let Some(body) = self.put_together().await else {
            return;
        };
        let entry = Arc::new(Entry::new(filling.headers, filling.terms, body));
        let kept = self.keep(&entry);
        self.flight.land(entry.body.clone());
        let result = if kept {
            FillEnd::Kept
        } else {
            FillEnd::Forgotten
        };
        self.cache.metrics.cache.filled(result).inc();
        if let Some(disk) = self.cache.disk.clone().filter(|_| kept) {
            let writing = Writing {
                place: self.place,
                key: std::mem::take(&mut self.key),
                names: self.names(&entry.headers),
                entry,
                flight: self.flight.clone(),
            };
            disk.run(move |disk| disk.store(writing)).await;
        }
    }

    /// The pieces as one, in the memory that is held for them.
    async fn put_together(&self) -> Option<Bytes> {
        let (pieces, room) = self.flight.pieces();
        let room = match room {
            Some(room) => room,
            // An empty body of unknown length.
            None => self.cache.room.clone().try_acquire_many_owned(0).ok()?,
        };
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let join = move || hold(pieces.concat(), 0, room);
        if bytes <= SMALL_BYTES {
            return Some(join());
        }
        spawn_blocking(join).await.ok()
    }
}

/// How the body of an answer ended.
enum Pulled {
    All,
    Failed(UpstreamFailure),
    /// Nobody was left, and it is not kept.
    Deserted,
}

/// However the task ends, nobody is left waiting.
impl<F> Drop for Fill<F> {
    fn drop(&mut self) {
        self.cache.index.end_flight(self.place, &self.flight);
        let broken = UpstreamFailure::Broken;
        self.flight
            .announce(Outcome::Failed(GetError::Origin(broken)));
        self.flight.end(Err(broken));
    }
}

/// Whether an answer says that the origin behind it cannot give one.
fn is_away(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// A body that is there.
struct Once(Option<Bytes>);

#[async_trait]
impl Pull for Once {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamFailure> {
        Ok(self.0.take().filter(|body| !body.is_empty()))
    }
}

impl Disk {
    /// Does what blocks, together with few others at one time; `None` when the server stops.
    async fn run<T: Send + 'static>(
        self: Arc<Self>,
        job: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.jobs.acquire().await.ok()?;
        let disk = self.clone();
        spawn_blocking(move || job(&disk)).await.ok()
    }
}
