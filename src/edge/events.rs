//! What a live reader at an edge is sent: the events of answers, and then those of the subscription.

use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, poll_immediate};
use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::{Answer, AnswerBody};
use super::reader::{RETRY_AFTER, Reader};
use super::subscription::{Closing, Data, Look};
use crate::hub::CROWD;
use crate::observe::access::LiveEnd;
use crate::protocol::cursor::Cursors;
use crate::protocol::sse::{Control, DataEvent, Encoding, put_control};
use crate::serve::{Broken, Hot, ServeError, Source};
use crate::types::Kind;

/// The events of a live reader.
pub(super) struct Events {
    reader: Reader,
    encoding: Encoding,
    cursors: Cursors,
    /// An answer that was asked for. It is kept while heartbeats are sent: asked again, an origin
    /// would have all of its time again.
    coming: Option<Coming>,
    playing: Option<Playing>,
    /// Whether the reader knows where it is: a control event was sent.
    told: bool,
    /// Until then the origin is not asked again.
    retry_at: Option<Instant>,
    ended: bool,
}

/// An answer, once the beginning of its data is there.
type Coming = BoxFuture<'static, Result<Answer, ServeError>>;

/// An answer that becomes a data event while it comes.
struct Playing {
    answer: Answer,
    event: Option<DataEvent>,
    /// What was read of the answer and not said yet.
    rest: Bytes,
}

/// So much of an answer is said in one write: a client that takes it slowly holds no more of it
/// encoded.
const SAID_BYTES_MAX: usize = 64 << 10;

impl Events {
    pub(super) fn new(
        reader: Reader,
        encoding: Encoding,
        client_cursor: Option<u64>,
        begin: Option<Answer>,
    ) -> Self {
        let kind = reader.kind;
        Self {
            coming: begin.map(|answer| Box::pin(begun(answer, kind)) as Coming),
            reader,
            encoding,
            cursors: Cursors::new(client_cursor),
            playing: None,
            told: false,
            retry_at: None,
            ended: false,
        }
    }

    fn control(&mut self, up_to_date: bool, closed: bool) -> Control {
        let server = &self.reader.route.edge.server;
        Control {
            cursor: (!closed).then(|| server.next_cursor(&mut self.cursors)),
            up_to_date,
            closed,
        }
    }

    /// More of the answer that is under way; `None` when nothing of it is left to say.
    async fn play(&mut self) -> Result<Option<Bytes>, LiveEnd<'static>> {
        let Some(playing) = &mut self.playing else {
            return Ok(None);
        };
        let mut out = BytesMut::new();
        let kind = self.reader.kind;
        let broken = LiveEnd::Failed("the origin broke off");
        let more = playing.put(&mut out, kind, self.encoding).await;
        if more.map_err(|_| broken)? {
            return Ok(Some(out.freeze()));
        }
        let Some(Playing { answer, event, .. }) = self.playing.take() else {
            return Ok(None);
        };
        self.reader.pass(&answer);
        let closed = self.reader.closed.is_some();
        match event {
            Some(event) => event.end(&mut out),
            // Nothing was there, which is said when nothing else is.
            None if !closed => return Ok(None),
            None => {}
        }
        let up_to_date = answer.is_up_to_date() && !self.reader.awaits_written();
        let control = self.control(up_to_date || closed, closed);
        let end = self.reader.closed.as_ref().and_then(Closing::end);
        put_control(&mut out, &self.reader.at, &control, end);
        self.told = true;
        self.ended = closed;
        Ok(Some(out.freeze()))
    }

    /// Events of what the subscription has.
    fn data(&mut self, data: &Data) -> Option<Bytes> {
        let closed = data.closed.is_some();
        let control = self.control(data.up_to_date, closed);
        let subscription = self.reader.subscription.as_ref()?;
        let events = subscription.events(data, self.encoding, control);
        self.reader.take(data);
        self.told = true;
        self.ended = closed;
        Some(events)
    }

    /// Where the reader is, with nothing behind it.
    fn place(&mut self, closed: bool) -> Bytes {
        let mut out = BytesMut::with_capacity(160);
        let up_to_date = closed || !self.reader.awaits_written();
        let control = self.control(up_to_date, closed);
        let end = self.reader.closed.as_ref().and_then(Closing::end);
        put_control(&mut out, &self.reader.at, &control, end);
        self.told = true;
        self.ended = closed;
        out.freeze()
    }

    /// Goes on with an answer, which may be none of a stream, but of something before it.
    fn go_on(&mut self, answer: Answer) {
        let reader = &mut self.reader;
        let (Some(next), false) = (answer.next_offset(), answer.is_coded()) else {
            self.retry_at = Some(later());
            return;
        };
        if reader.is_before(&next) {
            self.retry_at = None;
            self.playing = Some(Playing::new(answer));
        } else {
            // Nothing behind it, though the subscription is farther: one of the two will learn. What it
            // holds was read before.
            self.retry_at = Some(later());
            reader.pass(&answer);
        }
    }

    /// Asks what is behind the reader.
    fn catch_up(&self) -> Coming {
        let (asked, kind) = (self.reader.ask(), self.reader.kind);
        Box::pin(async move { begun(asked.await?, kind).await })
    }

    /// Waits for what was asked for, and goes on with it. If the origin is away, the reader waits.
    /// Nothing is lost when the future is dropped.
    async fn come(&mut self) -> Result<(), LiveEnd<'static>> {
        let Some(coming) = &mut self.coming else {
            return Ok(());
        };
        let answer = coming.await;
        self.coming = None;
        if let Ok(answer) = &answer {
            self.reader.meet(answer);
        }
        if self.reader.is_over() {
            return Err(LiveEnd::StreamGone);
        }
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => self.go_on(answer),
            Ok(answer) if is_final(answer.status) => return Err(LiveEnd::StreamGone),
            Ok(_) | Err(_) => self.retry_at = Some(later()),
        }
        Ok(())
    }
}

/// Waits for the beginning of an answer's data. One that breaks off before that can be asked for again.
async fn begun(mut answer: Answer, kind: Kind) -> Result<Answer, ServeError> {
    if answer.status == StatusCode::OK {
        let begin = answer.begin(kind).await;
        begin.map_err(|_| ServeError::OriginAway)?;
    }
    Ok(answer)
}

/// Whether asking again would not help.
fn is_final(status: StatusCode) -> bool {
    let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !later.contains(&status)
}

/// When an origin is asked again that did not help.
fn later() -> Instant {
    Instant::now() + RETRY_AFTER.mul_f64(0.5 + rand::random::<f64>())
}

#[async_trait]
impl Source for Events {
    async fn events(&mut self) -> Result<Option<Bytes>, LiveEnd<'static>> {
        loop {
            // Mostly it comes at once, from memory.
            match poll_immediate(pin!(self.come())).await {
                Some(come) => come?,
                None => return Ok(None),
            }
            if let Some(events) = Box::pin(self.play()).await? {
                return Ok(Some(events));
            }
            let look = self.reader.look();
            match look.map_err(|_| LiveEnd::Failed("too many streams are followed"))? {
                Look::Data(data) => return Ok(self.data(&data)),
                Look::Closed(_) => return Ok(Some(self.place(true))),
                Look::Nothing { .. } => {
                    self.retry_at = None;
                    return Ok((!self.told).then(|| self.place(false)));
                }
                Look::Gone => return Err(LiveEnd::StreamGone),
                Look::Behind => {
                    if self.retry_at.is_some_and(|at| Instant::now() < at) {
                        return Ok(None);
                    }
                    self.coming = Some(self.catch_up());
                }
            }
        }
    }

    fn hot(&mut self) -> Hot {
        let is_busy = self.coming.is_some() || self.playing.is_some();
        if is_busy || self.retry_at.is_some() || !self.told {
            return Hot::Unknown;
        }
        match self.reader.look() {
            Ok(Look::Data(data)) => self.data(&data).map_or(Hot::Unknown, Hot::Events),
            Ok(Look::Nothing { .. }) => Hot::Nothing,
            _ => Hot::Unknown,
        }
    }

    fn crowd(&self) -> Option<Arc<Notify>> {
        let subscription = self.reader.subscription.as_ref()?;
        let many = subscription.readers() > CROWD as usize;
        many.then(|| subscription.moves().clone())
    }

    async fn moved(&mut self) -> Result<(), LiveEnd<'static>> {
        if self.coming.is_some() {
            return self.come().await;
        }
        match self.retry_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => self.reader.moved().await,
        }
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), LiveEnd<'static>> {
        // An answer that is waited for may not come for long.
        if self.reader.is_over() {
            return Err(LiveEnd::StreamGone);
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.ended
    }

    fn position(&self) -> String {
        self.reader.at.to_string()
    }
}

impl Playing {
    fn new(answer: Answer) -> Self {
        Self {
            answer,
            event: None,
            rest: Bytes::new(),
        }
    }

    /// Writes what comes next of the data event. False at its end.
    async fn put(
        &mut self,
        out: &mut BytesMut,
        kind: Kind,
        encoding: Encoding,
    ) -> Result<bool, Broken> {
        if self.event.is_none() && self.answer.is_empty(kind).await? {
            return Ok(false);
        }
        let body: &mut AnswerBody = &mut self.answer.body;
        if self.rest.is_empty() {
            let Some(piece) = body.next().await? else {
                return Ok(false);
            };
            self.rest = piece;
        }
        let piece = self.rest.split_to(self.rest.len().min(SAID_BYTES_MAX));
        let event = match &mut self.event {
            Some(event) => event,
            None => {
                out.reserve(piece.len() + piece.len() / 2 + 192);
                self.event.insert(DataEvent::begin(out, encoding))
            }
        };
        event.put(out, &piece);
        // With its end, if that is known: small answers are one write.
        Ok(!(body.is_whole() && self.rest.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::cache::{Fetched, Pull};
    use crate::observe::metrics::UpstreamFailure;

    struct Body(Option<Bytes>);

    #[async_trait]
    impl Pull for Body {
        async fn next(&mut self) -> Result<Option<Bytes>, UpstreamFailure> {
            Ok(self.0.take())
        }
    }

    #[tokio::test]
    async fn a_large_piece_is_said_in_small_ones() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let fetched = Fetched {
            status: StatusCode::OK,
            headers: http::HeaderMap::new(),
            body: Box::new(Body(Some(bytes.clone().into()))),
        };
        let mut playing = Playing::new(Answer::from_origin(fetched));
        let mut said = BytesMut::new();
        loop {
            let mut out = BytesMut::new();
            let put = playing.put(&mut out, Kind::Binary, Encoding::Base64);
            let more = put.await.is_ok_and(|more| more);
            assert!(out.len() < SAID_BYTES_MAX / 3 * 4 + 192, "{}", out.len());
            said.extend_from_slice(&out);
            if !more {
                break;
            }
        }
        playing.event.take().unwrap().end(&mut said);
        let mut whole = BytesMut::new();
        let mut event = DataEvent::begin(&mut whole, Encoding::Base64);
        event.put(&mut whole, &bytes);
        event.end(&mut whole);
        assert!(said == whole);
    }
}
