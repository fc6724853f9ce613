//! A stream that is followed for all its readers, as they see it.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::asked::Subject;
use super::ring::{Piece, Place, Ring};
use super::sharing::Sharing;
use crate::hub::HotBytes;
use crate::protocol::sse::{self, Control, Encoding};
use crate::types::{Kind, StreamEnd};

/// A stream that is followed.
pub(super) struct Subscription {
    pub(super) subject: Subject,
    pub(super) content_type: Arc<str>,
    pub(super) kind: Kind,
    state: Mutex<State>,
    moved: Arc<Notify>,
    /// The events that were encoded last.
    encoded: Mutex<Option<(EncodedKey, Bytes)>>,
    readers: AtomicUsize,
    left: Notify,
    /// Told when `behind_since` is set.
    fell_behind: Notify,
    last_left: Mutex<Instant>,
    /// Cancelled when the stream is gone.
    gone: CancellationToken,
    /// What tells it from every other subscription.
    number: u64,
}

struct State {
    ring: Ring,
    status: Status,
    /// Who the stream is, where the origin says so.
    identity: Option<Arc<str>>,
    sharing: Sharing,
    /// Up to where this edge knows that there is data, because it passed the append on.
    written: Option<Arc<str>>,
    /// This edge passed the closing on.
    close_written: bool,
    /// Since when the origin has been saying that the stream ends before what it said earlier.
    behind_since: Option<Instant>,
}

/// So long an origin may say so: some let an append be read before they count it.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// How a subscription is.
#[derive(Clone, Debug)]
pub(super) enum Status {
    /// The origin is being asked, since then.
    Connecting(Instant),
    /// What the origin has is known as soon as it says so.
    Following,
    /// Nothing follows the ring's end.
    Closed(Closing),
    /// The stream is gone, or another one, or not for these readers any more.
    Gone,
}

/// That nothing follows.
#[derive(Clone, Debug)]
pub(super) struct Closing {
    /// How the stream ended, if the origin knows.
    pub(super) end: Option<Arc<StreamEnd>>,
}

/// What makes encoded events the same for two readers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EncodedKey {
    numbers: Range<u64>,
    encoding: Encoding,
    control: Control,
}

/// What there is for a reader at an offset.
pub(super) enum Look {
    /// Data, up to an offset.
    Data(Data),
    /// Nothing yet. `fresh`: what is known is all that the origin has said, and all that was
    /// written through this edge.
    Nothing { fresh: bool },
    /// Nothing ever.
    Closed(Closing),
    /// The offset is not known here: what is behind it must be read by catch-up.
    Behind,
    /// The stream is gone.
    Gone,
}

/// Data behind an offset.
pub(super) struct Data {
    pub(super) pieces: Vec<Piece>,
    numbers: Range<u64>,
    pub(super) next: Arc<str>,
    pub(super) up_to_date: bool,
    /// Whether the stream is closed behind it.
    pub(super) closed: Option<Closing>,
}

impl Closing {
    pub(super) fn end(&self) -> Option<&StreamEnd> {
        self.end.as_deref()
    }
}

impl Subscription {
    /// One that begins at an offset of a stream, with no reader yet.
    pub(super) fn new(
        subject: Subject,
        identity: Option<Arc<str>>,
        content_type: Arc<str>,
        at: Arc<str>,
        hot: Arc<HotBytes>,
    ) -> Self {
        Self {
            subject,
            kind: Kind::of(&content_type),
            content_type,
            state: Mutex::new(State {
                ring: Ring::new(at, hot),
                status: Status::Connecting(Instant::now()),
                identity,
                sharing: Sharing::default(),
                written: None,
                close_written: false,
                behind_since: None,
            }),
            moved: Arc::default(),
            encoded: Mutex::default(),
            readers: AtomicUsize::new(0),
            left: Notify::new(),
            fell_behind: Notify::new(),
            last_left: Mutex::new(Instant::now()),
            gone: CancellationToken::new(),
            number: rand::random(),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.state.lock().status.clone()
    }

    /// Who the stream is, as far as the origin has said it.
    pub(super) fn identity(&self) -> Option<Arc<str>> {
        self.state.lock().identity.clone()
    }

    /// The origin has said who the stream is. False if it was another.
    pub(super) fn identify(&self, said: &str) -> bool {
        let known = &mut self.state.lock().identity;
        **known.get_or_insert_with(|| said.into()) == *said
    }

    /// The entity tag of the data between two offsets. Who the stream is, is part of it: another one
    /// at its path may have other data between the same offsets.
    pub(super) fn etag(&self, at: &str, data: &Data) -> String {
        let letter = match (data.closed.is_some(), data.up_to_date) {
            (true, _) => ":c",
            (false, true) => ":t",
            (false, false) => "",
        };
        match self.identity() {
            Some(identity) => format!("\"{identity}:{at}:{}{letter}\"", data.next),
            // In a form that nobody takes for an identity.
            None => format!("\"{:x}~{at}~{}{letter}\"", self.number, data.next),
        }
    }

    pub(super) fn tail(&self) -> Arc<str> {
        self.state.lock().ring.tail().clone()
    }

    /// What there is for a reader at an offset.
    pub(super) fn look(&self, at: &str) -> Look {
        let state = self.state.lock();
        let ring = &state.ring;
        match (&state.status, ring.find(at)) {
            (Status::Gone, _) => Look::Gone,
            // Whoever has been farther than the end knows more than this subscription ever will.
            (_, Place::Behind) | (Status::Closed(_), Place::Ahead) => Look::Behind,
            (_, Place::Pieces(range)) => Look::Data(state.data(range)),
            (Status::Closed(closing), Place::Tail) => Look::Closed(closing.clone()),
            (status, place) => Look::Nothing {
                fresh: matches!(status, Status::Following)
                    && place == Place::Tail
                    && !state.awaits_written(),
            },
        }
    }

    /// Returns once there is something for a reader at an offset.
    pub(super) async fn wait(&self, at: &str) {
        loop {
            let mut moved = pin!(self.moved.notified());
            // Registered before the look, so that no move falls between.
            moved.as_mut().enable();
            match self.look(at) {
                Look::Nothing { .. } => moved.await,
                _ => return,
            }
        }
    }

    /// What tells those who wait.
    pub(super) fn moves(&self) -> &Arc<Notify> {
        &self.moved
    }

    /// Data as events for a reader, encoded once for all who are at the same place.
    pub(super) fn events(&self, data: &Data, encoding: Encoding, control: Control) -> Bytes {
        let key = EncodedKey {
            numbers: data.numbers.clone(),
            encoding,
            control,
        };
        let mut last = self.encoded.lock();
        match &*last {
            Some((last, events)) if *last == key => events.clone(),
            _ => {
                let events = encode(self.kind, data, &key);
                if self.readers.load(Ordering::Relaxed) > 1 {
                    *last = Some((key, events.clone()));
                }
                events
            }
        }
    }

    /// The origin has said who may be given answers of the stream.
    pub(super) fn set_sharing(&self, sharing: Sharing) {
        self.state.lock().sharing = sharing;
    }

    /// Who may be given answers of the stream, as far as the origin has said it.
    pub(super) fn sharing(&self) -> Sharing {
        self.state.lock().sharing.clone()
    }

    /// Forgets what came before its end: who is not there yet reads by catch-up.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock();
        let tail = state.ring.tail().clone();
        state.ring.restart(tail);
        drop(state);
        *self.encoded.lock() = None;
    }

    /// The origin is being asked again.
    pub(super) fn set_connecting(&self) {
        let status = &mut self.state.lock().status;
        if matches!(status, Status::Following) {
            *status = Status::Connecting(Instant::now());
        }
    }

    /// What the origin said comes next: data, or nothing new.
    pub(super) fn push(&self, news: News) -> Result<(), Replaced> {
        {
            let mut state = self.state.lock();
            if matches!(state.status, Status::Gone) {
                // It came from before.
                return Ok(());
            }
            if *news.next < **state.ring.tail() {
                if news.body.is_some() || news.closed.is_some() {
                    return Err(Replaced);
                }
                state.behind_since.get_or_insert_with(Instant::now);
                self.fell_behind.notify_one();
                return Ok(());
            }
            // What comes after it was behind begins at a place that is not known.
            let fits = state.behind_since.take().is_none();
            match news.body {
                Some(body) if fits && news.next != *state.ring.tail() => {
                    let from = state.ring.tail().clone();
                    state.ring.push(Piece {
                        from,
                        next: news.next,
                        body,
                        up_to_date: news.up_to_date,
                    });
                }
                _ if news.next != *state.ring.tail() => state.ring.restart(news.next),
                _ => {}
            }
            state.status = match news.closed {
                Some(closing) => Status::Closed(closing),
                None => Status::Following,
            };
        }
        self.moved.notify_waiters();
        Ok(())
    }

    /// Returns once the origin has been saying for too long that the stream ends before what it said
    /// earlier.
    pub(super) async fn stays_behind(&self) {
        loop {
            let since = self.state.lock().behind_since;
            match since.map(|since| since + BEHIND_MAX) {
                Some(until) if until <= Instant::now() => return,
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => self.fell_behind.notified().await,
            }
        }
    }

    /// The stream is gone: its readers end.
    pub(super) fn set_gone(&self) {
        self.state.lock().status = Status::Gone;
        self.gone.cancel();
        self.moved.notify_waiters();
    }

    /// Returns once the stream is gone.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// This edge passed an append on: there is data up to `next`, if it was not there before.
    pub(super) fn set_written(&self, next: &str, closed: bool) {
        let mut state = self.state.lock();
        let known = state.written.as_deref();
        if known.is_none_or(|known| known < next) {
            state.written = Some(next.into());
        }
        state.close_written |= closed;
    }

    /// Whether the origin has named this offset, or one behind it, of the stream that there is.
    pub(super) fn has_come_to(&self, at: &str) -> bool {
        let state = self.state.lock();
        !matches!(state.status, Status::Gone) && *at <= **state.ring.tail()
    }

    /// Whether something was written through this edge that has not come yet.
    pub(super) fn awaits_written(&self) -> bool {
        self.state.lock().awaits_written()
    }

    /// One reader more, until the lease is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Lease {
        self.readers.fetch_add(1, Ordering::AcqRel);
        Lease(self.clone())
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }

    /// Returns once nobody has been reading for a time.
    pub(super) async fn left_for(&self, time: Duration) {
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            if self.readers() > 0 {
                left.await;
                continue;
            }
            let since = *self.last_left.lock();
            if since.elapsed() >= time {
                return;
            }
            tokio::time::sleep_until((since + time).into()).await;
        }
    }
}

impl State {
    /// Whether something was written through this edge that has not come yet.
    fn awaits_written(&self) -> bool {
        let closed = matches!(self.status, Status::Closed(_));
        let written = self.written.as_deref();
        written.is_some_and(|written| **self.ring.tail() < *written)
            || (self.close_written && !closed)
    }

    fn data(&self, range: Range<usize>) -> Data {
        let numbers = self.ring.numbers(&range);
        let pieces = self.ring.pieces(range);
        let last_was_all = self.ring.last().is_some_and(|last| last.up_to_date);
        let closed = match &self.status {
            Status::Closed(closing) => Some(closing.clone()),
            _ => None,
        };
        Data {
            next: self.ring.tail().clone(),
            up_to_date: closed.is_some() || (last_was_all && !self.awaits_written()),
            closed,
            pieces,
            numbers,
        }
    }
}

/// A reader of a subscription.
pub(super) struct Lease(Arc<Subscription>);

impl std::ops::Deref for Lease {
    type Target = Arc<Subscription>;

    fn deref(&self) -> &Arc<Subscription> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.last_left.lock() = Instant::now();
        if self.0.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.0.encoded.lock() = None;
            self.0.left.notify_one();
        }
    }
}

/// What an origin says of a stream that is followed.
pub(super) struct News {
    /// The data before `next`; `None`: there is none, or too much to be kept.
    pub(super) body: Option<Bytes>,
    pub(super) next: Arc<str>,
    pub(super) up_to_date: bool,
    /// Whether the stream is closed behind it.
    pub(super) closed: Option<Closing>,
}

/// The stream is behind where it was: it is another one.
#[derive(Debug)]
pub(super) struct Replaced;

impl Data {
    /// The body of a catch-up answer with this data.
    pub(super) fn body(&self, kind: Kind) -> Bytes {
        match (kind, &self.pieces[..]) {
            (Kind::Text | Kind::Binary, [piece]) => piece.body.clone(),
            _ => {
                let bytes: usize = self.pieces.iter().map(|piece| piece.body.len() + 1).sum();
                let mut out = BytesMut::with_capacity(bytes + 2);
                self.each_part(kind, |part| out.extend_from_slice(part));
                out.freeze()
            }
        }
    }

    /// Calls `put` with the parts of the body in their order.
    fn each_part(&self, kind: Kind, mut put: impl FnMut(&[u8])) {
        if kind != Kind::Json {
            return self.pieces.iter().for_each(|piece| put(&piece.body));
        }
        for (n, piece) in self.pieces.iter().enumerate() {
            put(if n == 0 { b"[" } else { b"," });
            put(&piece.body);
        }
        put(b"]");
    }
}

/// A data event and its control event, in one piece.
fn encode(kind: Kind, data: &Data, key: &EncodedKey) -> Bytes {
    let bytes: usize = data.pieces.iter().map(|piece| piece.body.len()).sum();
    let mut out = BytesMut::with_capacity(bytes + bytes / 2 + 192);
    let mut event = sse::DataEvent::begin(&mut out, key.encoding);
    data.each_part(kind, |part| event.put(&mut out, part));
    event.end(&mut out);
    let end = data.closed.as_ref().and_then(Closing::end);
    sse::put_control(&mut out, &data.next, &key.control, end);
    out.freeze()
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
