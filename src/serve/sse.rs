//! The life of one SSE reader (protocol, section 5.8), wherever its events come from.

use super::{ServeError, Server};
use crate::config::Streams;
use crate::observe::access::LiveEnd;
use crate::observe::metrics::{Held, Live};
use crate::protocol::cursor::{self, Cursors};
use crate::protocol::sse;
use crate::waits::{Alarm, Seldom};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Where the events of a reader come from: the log or, at an edge, an origin.
#[async_trait]
pub trait Source: Send {
    /// What there is to say now; `None` if it is time to wait. An error is why nothing follows.
    async fn events(&mut self) -> Result<Option<Bytes>, LiveEnd<'static>>;

    /// The same, if it is known without waiting.
    fn hot(&mut self) -> Hot;

    /// What tells of something new, if many wait for it.
    fn crowd(&self) -> Option<Arc<Notify>>;

    /// Waits until there may be something new. Nothing is lost when the future is dropped.
    async fn moved(&mut self) -> Result<(), LiveEnd<'static>>;

    /// The stream is in use. An error is why nothing follows.
    fn keep_alive(&mut self) -> Result<(), LiveEnd<'static>>;

    /// Whether the closing was among the events.
    fn is_closed(&self) -> bool;

    /// The offset up to which events were handed out.
    fn position(&self) -> String;
}

/// What there is to say without waiting.
pub enum Hot {
    Events(Bytes),
    Nothing,
    /// That takes longer to find out.
    Unknown,
}

/// The events of one SSE reader.
pub struct Sse {
    draining: CancellationToken,
    source: Box<dyn Source>,
    ends: Instant,
    /// How often the stream must be used so that it does not end under its reader.
    used_every: Option<Duration>,
    /// When this reader last counted as a use of the stream.
    used: Instant,
    wakes_every: Duration,
    /// When the connection ends, or an idle reader has its turn.
    turn: Instant,
    heartbeats: bool,
    waiting: Option<Waiting>,
    /// Why nothing follows, once that is so.
    end: Option<LiveEnd<'static>>,
    _reader: LiveReader,
}

/// What a reader waits for beside its stream. It stays from one event to the next: to register for
/// the stop anew for each would cost as much as the event itself.
struct Waiting {
    alarm: Alarm,
    stop: Seldom<WaitForCancellationFutureOwned>,
}

/// One of the live readers that are counted and bounded.
pub struct LiveReader {
    _permit: OwnedSemaphorePermit,
    _gauge: Held,
}

/// Connections shorter than this look like failures to clients.
const RECYCLE_MIN: Duration = Duration::from_secs(2);

impl Server {
    /// Lets a live reader in, unless there are too many.
    pub fn live_reader(&self, live: Live) -> Result<LiveReader, ServeError> {
        let permit = self.live_readers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ServeError::TooManyReaders)?;
        Ok(LiveReader {
            _permit: permit,
            _gauge: Held::new(self.metrics.live_readers(live)),
        })
    }

    /// The cursor of a live answer, by the one that the client has.
    pub fn cursor(&self, client: Option<u64>) -> u64 {
        cursor::next(self.clock.now_ms(), client, rand::random())
    }

    /// The next cursor of a connection.
    pub fn next_cursor(&self, cursors: &mut Cursors) -> u64 {
        cursors.next(self.clock.now_ms(), rand::random())
    }
}

impl Sse {
    /// The events of a reader at a route with these settings. Its stream is used at least once in
    /// each `used_every`.
    pub fn new(
        server: &Server,
        source: Box<dyn Source>,
        settings: &Streams,
        used_every: Option<Duration>,
        reader: LiveReader,
    ) -> Self {
        let heartbeat = match settings.sse_heartbeat {
            Duration::ZERO => settings.sse_recycle,
            every => every,
        };
        let wakes_every = used_every.map_or(heartbeat, |every| heartbeat.min(every));
        let now = Instant::now();
        let ends = now + recycle_after(settings);
        Self {
            draining: server.draining.clone(),
            source,
            ends,
            used_every,
            used: now,
            wakes_every,
            turn: (now + wakes_every).min(ends),
            heartbeats: !settings.sse_heartbeat.is_zero(),
            waiting: None,
            end: None,
            _reader: reader,
        }
    }

    /// The next events, or a heartbeat; `None` when the connection is to end.
    pub async fn next(&mut self) -> Option<Bytes> {
        while self.end.is_none() {
            match self.source.events().await {
                Ok(Some(events)) => {
                    self.said(Instant::now());
                    return Some(events);
                }
                Ok(None) => {}
                Err(end) => self.end = Some(end),
            }
            if self.end.is_none() && self.wait().await {
                return Some(Bytes::from_static(sse::HEARTBEAT));
            }
        }
        None
    }

    /// The next events, as far as that is known without waiting: not when the connection is to end,
    /// or the reader has its turn.
    pub fn hot(&mut self, now: Instant) -> Hot {
        if self.end.is_some() {
            return Hot::Unknown;
        }
        match self.source.hot() {
            Hot::Events(events) => {
                self.said(now);
                Hot::Events(events)
            }
            Hot::Nothing if now >= self.turn => Hot::Unknown,
            hot => hot,
        }
    }

    /// What tells of something new, if many wait for it. They need not wait here.
    pub fn crowd(&mut self) -> Option<Arc<Notify>> {
        let crowd = self.source.crowd()?;
        self.waiting = None;
        Some(crowd)
    }

    /// When the connection ends, or the reader has its turn if nothing comes before.
    pub fn turn(&self) -> Instant {
        self.turn
    }

    /// Takes note of events that are handed out. Who is always given some is never idle, and uses
    /// the stream all the same.
    fn said(&mut self, now: Instant) {
        self.turn = (now + self.wakes_every).min(self.ends);
        let unused = now.saturating_duration_since(self.used);
        let gone = match self.used_every {
            Some(every) if unused >= every => self.use_stream(now).err(),
            _ => None,
        };
        let closed = self.source.is_closed().then_some(LiveEnd::StreamClosed);
        self.end = closed.or(gone);
    }

    fn use_stream(&mut self, now: Instant) -> Result<(), LiveEnd<'static>> {
        self.used = now;
        self.source.keep_alive()
    }

    /// Why the connection ends, once [`Sse::next`] has nothing more.
    pub fn end(&self) -> LiveEnd<'static> {
        self.end.unwrap_or(LiveEnd::ClientLeft)
    }

    /// The offset up to which events were handed out.
    pub fn position(&self) -> String {
        self.source.position()
    }

    /// Waits for something new, for the connection's end, or until a heartbeat is due, and tells
    /// whether it is.
    async fn wait(&mut self) -> bool {
        if Instant::now() >= self.ends {
            self.end = Some(LiveEnd::Recycled);
            return false;
        }
        let Waiting { alarm, stop } = self.waiting.get_or_insert_with(|| Waiting {
            alarm: Alarm::default(),
            stop: Seldom::new(self.draining.clone().cancelled_owned()),
        });
        tokio::select! {
            biased;
            moved = self.source.moved() => {
                self.end = moved.err();
                false
            }
            () = alarm.until(self.turn) => self.keep_alive(Instant::now()),
            () = stop.end() => {
                self.end = Some(LiveEnd::Stopping);
                false
            }
        }
    }

    /// An idle reader's turn: its stream is in use, and it may be told that it is connected.
    fn keep_alive(&mut self, now: Instant) -> bool {
        self.turn = (now + self.wakes_every).min(self.ends);
        self.end = self.use_stream(now).err();
        self.end.is_none() && self.heartbeats && now < self.ends
    }
}

/// When a connection ends so that its reader comes back: about the setting, so that readers who came
/// together do not come back together.
fn recycle_after(settings: &Streams) -> Duration {
    let spread = 0.9 + 0.2 * rand::random::<f64>();
    settings.sse_recycle.mul_f64(spread).max(RECYCLE_MIN)
}
