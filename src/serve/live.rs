//! GET that waits: long-poll and SSE (protocol, sections 5.7 and 5.8).

use super::find::Found;
use super::get::{freshness, meant, position, remaining_ms};
use super::reads::{Large, Place, Read};
use super::turns::Turn;
use super::{Body, Hot, Reply, ServeError, Server, Source, Sse, Target};
use crate::frame::Frames;
use crate::hub::{EncodedKey, Run, View};
use crate::log::kv::KvError;
use crate::log::{Answer, AnswerBody, Look, ReadError, Stream};
use crate::observe::access::LiveEnd;
use crate::observe::metrics::Live;
use crate::protocol::caching::Freshness;
use crate::protocol::cursor::Cursors;
use crate::protocol::names;
use crate::protocol::reply::{self, Head};
use crate::protocol::request::{self, From};
use crate::protocol::sse::{self, Control, Encoding};
use crate::types::{Kind, Lifetime, Offset, Position};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

impl Server {
    pub(super) async fn long_poll(
        self: &Arc<Self>,
        target: &Target<'_>,
        mut read: request::Read,
    ) -> Result<Reply, ServeError> {
        let (stream, view) = self.begin_read(target).await?;
        let _reader = self.live_reader(Live::LongPoll)?;
        let at = position(read.from, &view).unwrap_or(view.tail);
        read.from = meant(read.from, &view);
        let deadline = Instant::now() + target.route.config.long_poll_timeout;
        self.wait_until(deadline, &stream, &view, at).await?;
        // Neither deleted nor expired, also if nothing came.
        stream.view(self.clock.now_ms())?;
        self.read(target, &stream, &read, at).await
    }

    /// The reply of a long-poll, by what is found once it has waited.
    pub(super) async fn polled(
        self: &Arc<Self>,
        target: &Target<'_>,
        stream: &Stream,
        read: &request::Read,
        found: Found,
    ) -> Result<Reply, ServeError> {
        let answer = &found.answer;
        let ended = answer.view.closed && answer.up_to_date();
        let cursor = (!ended).then(|| self.cursor(read.cursor));
        if answer.from < answer.to {
            return self.answer(target, stream, read, found, cursor).await;
        }
        Ok(self.nothing_new(target, stream, read.from, answer, cursor))
    }

    /// Waits until there is something new for a reader at `at`, the deadline, or a stop. The stream
    /// is in use meanwhile.
    async fn wait_until(
        &self,
        deadline: Instant,
        stream: &Arc<Stream>,
        view: &View,
        at: Position,
    ) -> Result<(), ServeError> {
        let used_every = used_every(view.meta.lifetime);
        loop {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            let end = now + used_every.map_or(left, |every| left.min(every));
            let moved = timeout_at(end, stream.tail().wait(view.meta.id, at));
            match self.draining.run_until_cancelled(moved).await {
                // Somebody deleted it.
                Some(Ok(false)) => return Err(ReadError::Gone.into()),
                Some(Err(_)) if end < deadline => {
                    let now_ms = self.clock.now_ms();
                    self.log
                        .touch_seen(stream, &stream.view(now_ms)?.meta, now_ms);
                }
                _ => return Ok(()),
            }
        }
    }

    /// The reply of a long-poll that waited in vain, or at the end of a closed stream.
    fn nothing_new(
        &self,
        target: &Target<'_>,
        stream: &Stream,
        from: From,
        answer: &Answer,
        cursor: Option<u64>,
    ) -> Reply {
        let view = &answer.view;
        let mut head = Head::new(StatusCode::NO_CONTENT, target.route.config.cors);
        head.set_next_offset(view.tail);
        head.set_up_to_date(true);
        head.set_closed(view.closed, view.end.as_deref());
        if let Some(cursor) = cursor {
            head.set_number(names::STREAM_CURSOR, cursor);
        }
        let fresh = match freshness(from, answer) {
            Freshness::Nothing if from != From::Tail => Freshness::Waited,
            fresh => fresh,
        };
        let remaining = remaining_ms(stream, view, self.clock.now_ms());
        let control = target.route.caching.cache_control(fresh, remaining);
        head.set(header::CACHE_CONTROL, control);
        head.set_cache_tag(&target.path);
        Reply {
            head,
            body: Body::Empty,
        }
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
        let kind = view.meta.kind;
        let encoding = Encoding::of(kind, read.sse_base64);
        let mut head = Head::lean(StatusCode::OK, target.route.config.cors);
        reply::set_sse(&mut head, encoding);
        if read.sse_base64 {
            head.set_string(names::STREAM_ID, self.stream_id(&view));
            head.set(header::CACHE_CONTROL, target.route.caching.live());
            head.set_cache_tag(&target.path);
        }
        stream.tail().enter();
        let source = LogSource {
            server: self.clone(),
            at,
            id: view.meta.id,
            kind,
            encoding,
            stream,
            cursors: Cursors::new(read.cursor),
            told: false,
            owed: None,
            closed: false,
        };
        let source = Box::new(source);
        let settings = &target.route.config;
        let used_every = used_every(view.meta.lifetime);
        let body = Sse::new(self, source, settings, used_every, reader);
        Ok(Reply {
            head,
            body: Body::Live(Box::new(body)),
        })
    }

    /// What tells a stream from all others that are or were anywhere.
    fn stream_id(&self, view: &View) -> String {
        reply::stream_id(self.log.database_id(), &view.meta)
    }
}

/// What holds as much is a data event of its own, made once for all who are at the same place, where
/// that holds up nobody.
const LARGE_BYTES_MIN: u64 = 64 * 1024;

/// How often a stream must be used so that a sliding lifetime does not end under its reader.
fn used_every(lifetime: Lifetime) -> Option<Duration> {
    match lifetime {
        Lifetime::Ttl { seconds } => {
            let half_ms = seconds.saturating_mul(500).max(100);
            Some(Duration::from_millis(half_ms))
        }
        Lifetime::Unlimited | Lifetime::Until { .. } => None,
    }
}

/// A reader of a stream in the log.
struct LogSource {
    server: Arc<Server>,
    stream: Arc<Stream>,
    id: u64,
    kind: Kind,
    encoding: Encoding,
    at: Position,
    cursors: Cursors,
    /// Whether the reader knows where it is: a control event was sent.
    told: bool,
    /// The control event of a large data event. It is said next.
    owed: Option<Box<Bytes>>,
    /// Nothing follows but what is owed.
    closed: bool,
}

#[async_trait]
impl Source for LogSource {
    async fn events(&mut self) -> Result<Option<Bytes>, LiveEnd<'static>> {
        match self.hot() {
            Hot::Events(events) => return Ok(Some(events)),
            Hot::Nothing => return Ok(None),
            Hot::Unknown => {}
        }
        self.read().await.map_err(|error| match error {
            // A reader that fell behind what is kept learns it when it comes back.
            ReadError::Gone | ReadError::Trimmed { .. } => LiveEnd::StreamGone,
            ReadError::NoRoom => LiveEnd::Failed("too much is being sent"),
            error => {
                tracing::warn!(%error, "a live read failed");
                LiveEnd::Failed("the log could not be read")
            }
        })
    }

    fn hot(&mut self) -> Hot {
        if let Some(owed) = self.owed.take() {
            return Hot::Events(*owed);
        }
        match self.stream.tail().is_quiet(self.id, self.at) {
            Some(true) if self.told => return Hot::Nothing,
            Some(false) => {}
            _ => return Hot::Unknown,
        }
        match self.server.log.look(&self.stream, self.at) {
            Ok(Look::Known(answer)) if answer.view.meta.id == self.id => match &answer.body {
                AnswerBody::Hot(runs) if !runs.is_empty() && !is_large(runs) => {
                    Hot::Events(self.data(&answer.view, runs))
                }
                _ => Hot::Unknown,
            },
            _ => Hot::Unknown,
        }
    }

    fn crowd(&self) -> Option<Arc<Notify>> {
        let tail = self.stream.tail();
        tail.is_crowded().then(|| tail.moves().clone())
    }

    async fn moved(&mut self) -> Result<(), LiveEnd<'static>> {
        let there = self.stream.tail().wait(self.id, self.at).await;
        there.then_some(()).ok_or(LiveEnd::StreamGone)
    }

    fn keep_alive(&mut self) -> Result<(), LiveEnd<'static>> {
        let now_ms = self.server.clock.now_ms();
        let view = self.stream.view(now_ms);
        let view = view.map_err(|_| LiveEnd::StreamGone)?;
        self.server.log.touch_seen(&self.stream, &view.meta, now_ms);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.closed && self.owed.is_none()
    }

    fn position(&self) -> String {
        Offset(self.at).to_string()
    }
}

impl LogSource {
    /// What there is to say now: data with its control event, the closing, or at first where the
    /// tail is.
    async fn read(&mut self) -> Result<Option<Bytes>, ReadError> {
        let (view, body) = match self.server.log.look(&self.stream, self.at)? {
            Look::Known(answer) => (answer.view, Some(answer.body)),
            Look::Stored(view) => (view, None),
        };
        if view.meta.id != self.id {
            return Err(ReadError::Gone);
        }
        match body {
            Some(AnswerBody::Hot(runs)) if runs.is_empty() => Ok(self.control(&view)),
            Some(AnswerBody::Hot(runs)) if !is_large(&runs) => Ok(Some(self.data(&view, &runs))),
            // Boxed: those who never read so need no room for it.
            _ => Box::pin(self.read_together()).await.map(Some),
        }
    }

    /// What is read once for all who are at the same place.
    async fn read_together(&mut self) -> Result<Bytes, ReadError> {
        let place = Place {
            id: self.id,
            at: self.at,
            encoding: self.encoding,
        };
        let read = read(&self.server, &self.stream, self.kind, place);
        let read = self.server.reads.get(place, read).await?;
        // As the stream is now: somebody may have read it a while ago.
        let view = self.stream.tail().view();
        let view = view.filter(|view| view.meta.id == self.id);
        let view = view.ok_or(ReadError::Gone)?;
        Ok(match read {
            Read::Small(runs) => self.data(&view, &runs),
            Read::Large(large) => self.large(&view, large),
        })
    }

    fn data(&mut self, view: &View, runs: &[Run]) -> Bytes {
        let from = runs.first().map_or(self.at, |run| run.start);
        let to = runs.last().map_or(self.at, Run::end);
        let control = self.control_at(view, to);
        let key = EncodedKey {
            id: self.id,
            from,
            to,
            encoding: self.encoding,
            control,
        };
        self.at = to;
        self.told = true;
        self.closed = control.closed;
        let events = self
            .stream
            .tail()
            .encoded(key, || encode(self.kind, runs, &key, view));
        let (messages, bytes) = Run::measure(runs);
        self.server.metrics.read.add(bytes, messages);
        events
    }

    fn large(&mut self, view: &View, large: Large) -> Bytes {
        let control = self.control_at(view, large.to);
        self.at = large.to;
        self.told = true;
        self.closed = control.closed;
        let control = control_event(&control, large.to, view);
        self.owed = Some(Box::new(control));
        self.server.metrics.read.add(large.bytes, large.messages);
        large.event
    }

    fn control(&mut self, view: &View) -> Option<Bytes> {
        if self.told && !view.closed {
            return None;
        }
        self.told = true;
        self.at = view.tail;
        self.closed = view.closed;
        let control = self.control_at(view, view.tail);
        Some(control_event(&control, view.tail, view))
    }

    fn control_at(&mut self, view: &View, next: Position) -> Control {
        let up_to_date = next == view.tail;
        let closed = up_to_date && view.closed;
        Control {
            cursor: (!closed).then(|| self.server.next_cursor(&mut self.cursors)),
            up_to_date,
            closed,
        }
    }
}

impl Drop for LogSource {
    fn drop(&mut self) {
        self.stream.tail().leave();
    }
}

fn is_large(runs: &[Run]) -> bool {
    Run::bytes(runs) as u64 >= LARGE_BYTES_MIN
}

/// Reads what there is at a place of a stream, and makes an event of it if it is large, with room
/// for it.
async fn read(
    server: &Server,
    stream: &Arc<Stream>,
    kind: Kind,
    place: Place,
) -> Result<Read, ReadError> {
    let read = || async {
        let turn = server.reads.turns.wait().await;
        let turn = turn.ok_or(ReadError::NoRoom)?;
        let read = read_once(server, stream, kind, place, turn).await?;
        let bytes = match &read {
            Read::Small(_) => 0,
            Read::Large(large) => large.event.len(),
        };
        Ok((read, bytes))
    };
    let (mut read, taken) = server.outgoing.with_room(read).await?;
    if let Read::Large(large) = &mut read {
        large.room = taken;
    }
    Ok(read)
}

async fn read_once(
    server: &Server,
    stream: &Arc<Stream>,
    kind: Kind,
    place: Place,
    turn: Turn,
) -> Result<Read, ReadError> {
    let answer = server.log.answer(stream, place.at).await?;
    // Who asks knows of something there.
    if answer.view.meta.id != place.id || answer.from == answer.to {
        return Err(ReadError::Gone);
    }
    let runs = match answer.body {
        AnswerBody::Hot(runs) => runs,
        AnswerBody::Cold(parts) => vec![server.log.piece(&parts, answer.from).await?],
    };
    if !is_large(&runs) {
        return Ok(Read::Small(runs));
    }
    let encode = move || {
        let _turn = turn;
        large(kind, place.encoding, &runs)
    };
    let large = tokio::task::spawn_blocking(encode).await;
    let cut_off = || ReadError::Store(KvError("an event was cut off".into()));
    large.map(Read::Large).map_err(|_| cut_off())
}

/// A data event alone.
fn large(kind: Kind, encoding: Encoding, runs: &[Run]) -> Large {
    let mut out = room(runs);
    put_data(&mut out, kind, encoding, runs);
    let (messages, bytes) = Run::measure(runs);
    // It may be held for long.
    let mut event = Vec::from(out);
    event.shrink_to_fit();
    Large {
        event: event.into(),
        to: runs.last().map_or(0, Run::end),
        messages,
        bytes,
        room: None,
    }
}

/// A data event and its control event, in one piece.
fn encode(kind: Kind, runs: &[Run], key: &EncodedKey, view: &View) -> Bytes {
    let mut out = room(runs);
    put_data(&mut out, kind, key.encoding, runs);
    put_control(&mut out, &key.control, key.to, view);
    out.freeze()
}

/// Room for the events of runs.
fn room(runs: &[Run]) -> BytesMut {
    let bytes = Run::bytes(runs);
    BytesMut::with_capacity(bytes + bytes / 2 + 192)
}

fn put_data(out: &mut BytesMut, kind: Kind, encoding: Encoding, runs: &[Run]) {
    let messages = runs
        .iter()
        .flat_map(|run| Frames::new(&run.frames, 0).map(|frame| &run.frames[frame.payload()]));
    sse::put_data(out, kind, encoding, messages);
}

fn put_control(out: &mut BytesMut, control: &Control, next: Position, view: &View) {
    let next = Offset(next).to_text();
    sse::put_control(out, next.as_str(), control, view.end.as_deref());
}

fn control_event(control: &Control, next: Position, view: &View) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    put_control(&mut out, control, next, view);
    out.freeze()
}
