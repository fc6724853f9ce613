//! GET that waits: long-poll and SSE (protocol, sections 5.7 and 5.8).

use super::compress::Wanted;
use super::get::position;
use super::{Body, Reply, ServeError, Server, Target};
use crate::config::Streams;
use crate::frame::{self, Frames};
use crate::hub::{EncodedKey, Run, View};
use crate::log::{AnswerBody, ReadError, Stream};
use crate::observe::access::LiveEnd;
use crate::observe::metrics::{Held, Live};
use crate::protocol::reply::{self, Head};
use crate::protocol::request;
use crate::protocol::sse::{self, Control};
use crate::protocol::{cursor, names};
use crate::types::{Kind, Lifetime, Offset, Position};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

impl Server {
    pub(super) async fn long_poll(
        self: &Arc<Self>,
        target: &Target<'_>,
        read: request::Read,
    ) -> Result<Reply, ServeError> {
        let (stream, view) = self.begin_read(target).await?;
        let _reader = self.live_reader(Live::LongPoll)?;
        let at = position(read.from, &view).unwrap_or(view.tail);
        let deadline = Instant::now() + target.route.config.long_poll_timeout;
        let id = view.meta.id;
        let waited = timeout_at(deadline, stream.tail().wait(id, at));
        if let Some(Ok(None)) = self.draining.run_until_cancelled(waited).await {
            // Somebody deleted it.
            return Err(ReadError::Gone.into());
        }
        // Neither deleted nor expired, also if nothing came.
        stream.view(self.clock.now_ms())?;
        let wanted = Wanted::new(&target.route.config.compression, read.accepted);
        let found = self.answer_from(&stream, read.from, at, wanted).await?;
        let answer = &found.answer;
        let cursor = (!answer.view.closed).then(|| self.cursor(read.cursor));
        if answer.from < answer.to {
            return self.answer(target, &stream, &read, found, cursor).await;
        }
        Ok(nothing_new(target, &answer.view, cursor))
    }

    pub(super) async fn sse(
        self: &Arc<Self>,
        target: &Target<'_>,
        read: request::Read,
    ) -> Result<Reply, ServeError> {
        let (stream, view) = self.begin_read(target).await?;
        let at = position(read.from, &view).unwrap_or(view.tail);
        if at < view.earliest {
            let earliest = view.earliest;
            return Err(ReadError::Trimmed { earliest }.into());
        }
        let reader = self.live_reader(Live::Sse)?;
        let mut head = Head::lean(StatusCode::OK, target.route.config.cors);
        reply::set_sse(&mut head, view.meta.kind);
        stream.tail().enter();
        let now = Instant::now();
        let body = Sse {
            server: self.clone(),
            at,
            id: view.meta.id,
            kind: view.meta.kind,
            stream,
            client_cursor: read.cursor,
            ends: now + recycle_after(&target.route.config),
            wakes_every: wakes_every(&target.route.config, view.meta.lifetime),
            heartbeats: !target.route.config.sse_heartbeat.is_zero(),
            told: false,
            end: None,
            _reader: reader,
        };
        Ok(Reply {
            head,
            body: Body::Live(Box::new(body)),
        })
    }

    fn live_reader(&self, live: Live) -> Result<LiveReader, ServeError> {
        let permit = self.live_readers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ServeError::TooManyReaders)?;
        Ok(LiveReader {
            _permit: permit,
            _gauge: Held::new(self.metrics.live_readers(live)),
        })
    }

    fn cursor(&self, client: Option<u64>) -> u64 {
        cursor::next(self.clock.now_ms(), client, rand::random())
    }
}

/// One of the live readers that are counted and bounded.
struct LiveReader {
    _permit: OwnedSemaphorePermit,
    _gauge: Held,
}

/// The reply of a long-poll that waited in vain, or at the end of a closed stream.
fn nothing_new(target: &Target<'_>, view: &View, cursor: Option<u64>) -> Reply {
    let mut head = Head::new(StatusCode::NO_CONTENT, target.route.config.cors);
    head.set_next_offset(view.tail);
    head.set_up_to_date(true);
    head.set_closed(view.closed, view.end.as_deref());
    if let Some(cursor) = cursor {
        head.set_number(names::STREAM_CURSOR, cursor);
    }
    head.set_no_store();
    Reply {
        head,
        body: Body::Empty,
    }
}

/// Connections shorter than this look like failures to clients.
const RECYCLE_MIN: Duration = Duration::from_secs(2);

/// When a connection ends so that its reader comes back: about the setting, so that readers who came
/// together do not come back together.
fn recycle_after(route: &Streams) -> Duration {
    let spread = 0.9 + 0.2 * rand::random::<f64>();
    route.sse_recycle.mul_f64(spread).max(RECYCLE_MIN)
}

/// How often an idle reader does something: a heartbeat, or a use of its stream so that a sliding
/// lifetime does not end under it.
fn wakes_every(route: &Streams, lifetime: Lifetime) -> Duration {
    let heartbeat = match route.sse_heartbeat {
        Duration::ZERO => route.sse_recycle,
        every => every,
    };
    match lifetime {
        Lifetime::Ttl { seconds } => {
            let half = Duration::from_millis(seconds.saturating_mul(500).max(100));
            heartbeat.min(half)
        }
        Lifetime::Unlimited | Lifetime::Until { .. } => heartbeat,
    }
}

/// The events of one SSE reader.
pub struct Sse {
    server: Arc<Server>,
    stream: Arc<Stream>,
    id: u64,
    kind: Kind,
    at: Position,
    client_cursor: Option<u64>,
    ends: Instant,
    wakes_every: Duration,
    heartbeats: bool,
    /// Whether the reader knows where it is: a control event was sent.
    told: bool,
    /// Why nothing follows, once that is so.
    end: Option<LiveEnd<'static>>,
    _reader: LiveReader,
}

impl Sse {
    /// The next events, or a heartbeat; `None` when the connection is to end.
    pub async fn next(&mut self) -> Option<Bytes> {
        while self.end.is_none() {
            // Boxed: a waiting reader need not hold the room that reading takes.
            match Box::pin(self.events()).await {
                Ok(Some(events)) => return Some(events),
                Ok(None) => {}
                // A reader that fell behind what is kept learns it when it comes back.
                Err(ReadError::Gone | ReadError::Trimmed { .. }) => {
                    self.end = Some(LiveEnd::StreamGone);
                }
                Err(error) => {
                    tracing::warn!(%error, "a live read failed");
                    self.end = Some(LiveEnd::Failed("the log could not be read"));
                }
            }
            if self.end.is_none() && self.wait().await {
                return Some(Bytes::from_static(sse::HEARTBEAT));
            }
        }
        None
    }

    /// Why the connection ends, once [`Sse::next`] has nothing more.
    pub fn end(&self) -> LiveEnd<'static> {
        self.end.unwrap_or(LiveEnd::ClientLeft)
    }

    /// The position up to which events were handed out.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Waits for something new, for the connection's end, or until a heartbeat is due, and tells
    /// whether it is.
    async fn wait(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.ends {
            self.end = Some(LiveEnd::Recycled);
            return false;
        }
        let wakes = (now + self.wakes_every).min(self.ends);
        let moved = timeout_at(wakes, self.stream.tail().wait(self.id, self.at));
        match self.server.draining.run_until_cancelled(moved).await {
            None => self.end = Some(LiveEnd::Stopping),
            Some(Ok(None)) => self.end = Some(LiveEnd::StreamGone),
            Some(Ok(Some(_))) => {}
            Some(Err(_)) => return self.keep_alive(),
        }
        false
    }

    /// An idle reader's turn: its stream is in use, and it may be told that it is connected.
    fn keep_alive(&mut self) -> bool {
        let now_ms = self.server.clock.now_ms();
        if self.stream.view(now_ms).is_err() {
            self.end = Some(LiveEnd::StreamGone);
            return false;
        }
        self.server.log.touch(&self.stream);
        self.heartbeats && Instant::now() < self.ends
    }

    /// What there is to say now: data with its control event, the closing, or at first where the
    /// tail is.
    async fn events(&mut self) -> Result<Option<Bytes>, ReadError> {
        let answer = self.server.log.answer(&self.stream, self.at).await?;
        if answer.view.meta.id != self.id {
            return Err(ReadError::Gone);
        }
        if answer.from == answer.to {
            return Ok(self.control(&answer.view));
        }
        let runs = match answer.body {
            AnswerBody::Hot(runs) => runs,
            AnswerBody::Cold(parts) => vec![self.server.log.piece(&parts, answer.from).await?],
        };
        Ok(Some(self.data(&answer.view, &runs)))
    }

    fn data(&mut self, view: &View, runs: &[Run]) -> Bytes {
        let from = runs.first().map_or(self.at, |run| run.start);
        let to = runs.last().map_or(self.at, Run::end);
        let control = self.control_at(view, to);
        let key = EncodedKey {
            id: self.id,
            from,
            control,
        };
        self.at = to;
        self.told = true;
        self.end = control.closed.then_some(LiveEnd::StreamClosed);
        let events = self
            .stream
            .tail()
            .encoded(key, || encode(self.kind, runs, &control, view));
        let (messages, bytes) = measure(runs);
        self.server.metrics.read.add(bytes, messages);
        events
    }

    fn control(&mut self, view: &View) -> Option<Bytes> {
        if self.told && !view.closed {
            return None;
        }
        self.told = true;
        self.at = view.tail;
        self.end = view.closed.then_some(LiveEnd::StreamClosed);
        let mut out = BytesMut::with_capacity(128);
        sse::put_control(
            &mut out,
            &self.control_at(view, view.tail),
            view.end.as_deref(),
        );
        Some(out.freeze())
    }

    fn control_at(&self, view: &View, next: Position) -> Control {
        let up_to_date = next == view.tail;
        let closed = up_to_date && view.closed;
        Control {
            next: Offset(next),
            cursor: (!closed).then(|| self.server.cursor(self.client_cursor)),
            up_to_date,
            closed,
        }
    }
}

/// Messages and payload bytes of runs.
fn measure(runs: &[Run]) -> (u64, u64) {
    let each = runs.iter().map(|run| frame::measure(&run.frames, 0));
    each.fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1))
}

impl Drop for Sse {
    fn drop(&mut self) {
        self.stream.tail().leave();
    }
}

/// A data event and its control event, in one piece.
fn encode(kind: Kind, runs: &[Run], control: &Control, view: &View) -> Bytes {
    let bytes: usize = runs.iter().map(|run| run.frames.len()).sum();
    let mut out = BytesMut::with_capacity(bytes + bytes / 2 + 192);
    let messages = runs
        .iter()
        .flat_map(|run| Frames::new(&run.frames, 0).map(|frame| &run.frames[frame.payload()]));
    sse::put_data(&mut out, kind, messages);
    sse::put_control(&mut out, control, view.end.as_deref());
    out.freeze()
}
