//! A live reader at an edge: by catch-up until it is where the subscription is, then along with it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::{Answer, AnswerBody};
use super::asked::{Asked, Subject};
use super::route::Route;
use super::sharing::Sharing;
use super::subscription::{Closing, Data, Lease, Look};
use crate::hub::CROWD;
use crate::observe::access::LiveEnd;
use crate::protocol::cursor::Cursors;
use crate::protocol::sse::{Control, DataEvent, Encoding, put_control};
use crate::serve::{Hot, ServeError, Source};
use crate::types::Kind;

/// How long a reader waits before it asks an origin again that did not answer it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A live reader.
pub(super) struct Reader {
    pub(super) route: Arc<Route>,
    pub(super) subject: Subject,
    subscription: Option<Lease>,
    pub(super) at: Arc<str>,
    /// Whether the origin named `at` itself, and not only the client.
    is_named: bool,
    pub(super) content_type: Arc<str>,
    pub(super) kind: Kind,
    /// Whether the origin said that there is nothing behind `at`, the last time it was asked.
    up_to_date: bool,
    pub(super) closed: Option<Closing>,
    /// Who may be given the closing, where it was read by catch-up.
    closing_sharing: Sharing,
}

/// Where a live read begins.
pub(super) enum Begun {
    /// Where the subscription is.
    Along(Reader),
    /// At what the origin, or the cache, answers to a catch-up read.
    Behind(Reader, Answer),
    /// With an answer that is not one of a stream.
    Refused(Answer),
}

impl Reader {
    /// Finds out where a live read begins.
    pub(super) async fn begin(route: &Arc<Route>, asked: &Asked) -> Result<Begun, ServeError> {
        let subject = &asked.subject;
        let offset = asked.offset();
        let found = route.edge.subscriptions.find(route, subject);
        if let Some(subscription) = &found
            && let Some(at) = known_place(subscription, offset)
        {
            return Ok(Begun::Along(Self {
                route: route.clone(),
                subject: subscription.subject.clone(),
                at,
                is_named: true,
                content_type: subscription.content_type.clone(),
                kind: subscription.kind,
                subscription: found,
                up_to_date: true,
                closed: None,
                closing_sharing: Sharing::default(),
            }));
        }
        let answer = route.catch_up(subject, offset, None, None).await?;
        let next = answer.next_offset();
        let (StatusCode::OK, Some(next)) = (answer.status, next) else {
            return Ok(Begun::Refused(answer));
        };
        let content_type = answer.content_type();
        let mut reader = Self {
            route: route.clone(),
            subject: subject.clone(),
            is_named: found.is_some_and(|found| found.has_come_to(offset)),
            subscription: None,
            at: if offset == "now" {
                next.clone()
            } else {
                offset.into()
            },
            kind: Kind::of(&content_type),
            content_type,
            up_to_date: false,
            closed: None,
            closing_sharing: Sharing::default(),
        };
        if answer.is_up_to_date() && !answer.is_closed() {
            reader.subscribe(&next)?;
        }
        Ok(Begun::Behind(reader, answer))
    }

    /// Takes what an answer says of the place behind it.
    pub(super) fn pass(&mut self, answer: &Answer) {
        // Some origins let an append be read before they count it: nobody goes back.
        if let Some(next) = answer.next_offset()
            && (*next > *self.at || !self.is_named)
        {
            self.at = next;
            self.is_named = true;
        }
        self.up_to_date = answer.is_up_to_date();
        self.closed = answer.closing();
        if self.closed.is_some() {
            self.closing_sharing = Sharing::of(&answer.headers);
        }
    }

    fn subscribe(&mut self, at: &Arc<str>) -> Result<&Lease, ServeError> {
        let subscription = match self.subscription.take() {
            Some(subscription) => subscription,
            None => {
                let all = &self.route.edge.subscriptions;
                let (subject, content_type) = (&self.subject, &self.content_type);
                let found = all.find_or_begin(&self.route, subject, content_type, at)?;
                // One head of a request for all readers, instead of one for each.
                self.subject = found.subject.clone();
                found
            }
        };
        Ok(self.subscription.insert(subscription))
    }

    /// What there is now behind `at`.
    pub(super) fn look(&mut self) -> Result<Look, ServeError> {
        if let Some(closing) = &self.closed {
            return Ok(Look::Closed(closing.clone()));
        }
        if self.subscription.is_none() && !self.up_to_date {
            return Ok(Look::Behind);
        }
        let at = self.at.clone();
        let look = self.subscribe(&at)?.look(&at);
        if let Look::Closed(closing) = &look {
            self.closed = Some(closing.clone());
        }
        Ok(look)
    }

    /// Who may be given what is said of the stream.
    pub(super) fn sharing(&self) -> Sharing {
        match &self.subscription {
            Some(subscription) => subscription.sharing(),
            None => self.closing_sharing.clone(),
        }
    }

    /// Whether something was written through this edge that has not come yet.
    pub(super) fn awaits_written(&self) -> bool {
        let subscription = self.subscription.as_ref();
        subscription.is_some_and(|subscription| subscription.awaits_written())
    }

    /// Returns once there is something behind `at`.
    pub(super) async fn moved(&self) {
        match &self.subscription {
            Some(subscription) => subscription.wait(&self.at).await,
            None => tokio::time::sleep(RETRY_AFTER).await,
        }
    }

    /// Takes data as read.
    pub(super) fn take(&mut self, data: &Data) {
        self.at = data.next.clone();
        self.is_named = true;
        self.up_to_date = data.up_to_date;
        self.closed.clone_from(&data.closed);
    }

    /// What the origin, or the cache, has behind `at`.
    pub(super) async fn catch_up(&self) -> Result<Answer, ServeError> {
        let answer = self.route.catch_up(&self.subject, &self.at, None, None);
        answer.await
    }
}

/// The place in a subscription at which a reader at this offset begins, if the subscription knows
/// all that the origin says and all that was written here.
fn known_place(subscription: &Lease, offset: &str) -> Option<Arc<str>> {
    let at: Arc<str> = match offset {
        "now" => subscription.tail(),
        offset => offset.into(),
    };
    match subscription.look(&at) {
        Look::Nothing { fresh: true } => Some(at),
        Look::Data(_) if offset != "now" => Some(at),
        _ => None,
    }
}

/// The events of a live reader.
pub(super) struct Events {
    reader: Reader,
    encoding: Encoding,
    cursors: Cursors,
    /// An answer that becomes a data event while it comes.
    playing: Option<Playing>,
    /// Whether the reader knows where it is: a control event was sent.
    told: bool,
    /// Until then the origin is not asked again.
    retry_at: Option<Instant>,
    ended: bool,
}

struct Playing {
    answer: Answer,
    event: Option<DataEvent>,
}

impl Events {
    pub(super) fn new(
        reader: Reader,
        encoding: Encoding,
        client_cursor: Option<u64>,
        begin: Option<Answer>,
    ) -> Self {
        Self {
            reader,
            encoding,
            cursors: Cursors::new(client_cursor),
            playing: begin.map(Playing::new),
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
        let Some(Playing { answer, event }) = self.playing.take() else {
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
        let control = self.control(answer.is_up_to_date(), closed);
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
        let control = self.control(true, closed);
        let end = self.reader.closed.as_ref().and_then(Closing::end);
        put_control(&mut out, &self.reader.at, &control, end);
        self.told = true;
        self.ended = closed;
        out.freeze()
    }

    /// Goes on with an answer. False if it is none of a stream, but perhaps of something before it.
    fn go_on(&mut self, answer: Answer) -> bool {
        let reader = &mut self.reader;
        let Some(next) = answer.next_offset() else {
            self.retry_at = Some(later());
            return false;
        };
        if reader.is_named && *next <= *reader.at {
            // Nothing behind it, though the subscription is farther: one of the two will learn. What it
            // holds was read before.
            self.retry_at = Some(later());
            reader.pass(&answer);
        } else {
            self.retry_at = None;
            self.playing = Some(Playing::new(answer));
        }
        true
    }

    /// Asks what is behind the reader. False if the origin is away: the reader waits.
    async fn catch_up(&mut self) -> Result<bool, LiveEnd<'static>> {
        // Boxed: a waiting reader need not hold the room for it.
        let answer = Box::pin(self.reader.catch_up()).await;
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => Ok(self.go_on(answer)),
            Ok(answer) if is_final(answer.status) => Err(LiveEnd::StreamGone),
            Ok(_) | Err(_) => {
                self.retry_at = Some(later());
                Ok(false)
            }
        }
    }
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
                    let too_early = self.retry_at.is_some_and(|at| Instant::now() < at);
                    if too_early || !self.catch_up().await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn hot(&mut self) -> Hot {
        if self.playing.is_some() || self.retry_at.is_some() || !self.told {
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
        match self.retry_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => self.reader.moved().await,
        }
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), LiveEnd<'static>> {
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
        }
    }

    /// Writes what comes next of the data event. False at its end.
    async fn put(
        &mut self,
        out: &mut BytesMut,
        kind: Kind,
        encoding: Encoding,
    ) -> Result<bool, crate::serve::Broken> {
        if self.event.is_none() && self.answer.is_empty(kind).await? {
            return Ok(false);
        }
        let body: &mut AnswerBody = &mut self.answer.body;
        let Some(piece) = body.next().await? else {
            return Ok(false);
        };
        let event = match &mut self.event {
            Some(event) => event,
            None => {
                out.reserve(piece.len() + piece.len() / 2 + 192);
                self.event.insert(DataEvent::begin(out, encoding))
            }
        };
        event.put(out, &piece);
        // With its end, if that is known: small answers are one write.
        Ok(!body.is_whole())
    }
}
