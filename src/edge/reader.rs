//! A live reader at an edge: by catch-up until it is where the subscription is, then along with it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::answer::Answer;
use super::asked::{Asked, Subject};
use super::identities::identity;
use super::lives::{Incarnation, Life};
use super::route::Route;
use super::sharing::Sharing;
use super::subscription::{Closing, Data, Lease, Look, Subscription};
use crate::serve::ServeError;
use crate::types::Kind;

/// How long a reader waits before it asks an origin again that did not answer it.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A live reader.
pub(super) struct Reader {
    pub(super) route: Arc<Route>,
    pub(super) subject: Subject,
    /// The stream that it has begun with, which another may have followed at its path.
    incarnation: Incarnation,
    pub(super) subscription: Option<Lease>,
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
        let mut life = route.edge.lives.of(subject);
        let found = route.edge.subscriptions.find(subject);
        let place = found.as_ref().and_then(|found| known_place(found, offset));
        let found = match (found, place) {
            (Some(subscription), Some(at)) => {
                let reader = Self::along(route, asked, life, subscription, at);
                return Ok(Begun::Along(reader));
            }
            (found, _) => found,
        };
        let mut answer = route.catch_up(subject, offset, None, None).await?;
        if life.is_over() {
            // It may still be of the stream that was there before.
            life = route.edge.lives.of(subject);
            answer = route.catch_up(subject, offset, None, None).await?;
        }
        let next = answer.next_offset();
        let (StatusCode::OK, Some(next), false) = (answer.status, next, answer.is_coded()) else {
            return Ok(Begun::Refused(answer));
        };
        let content_type = answer.content_type();
        let identity = identity(&answer.headers).map(Arc::from);
        let mut reader = Self {
            route: route.clone(),
            subject: subject.clone(),
            incarnation: Incarnation::new(life, identity),
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

    /// One that is where the subscription is.
    fn along(
        route: &Arc<Route>,
        asked: &Asked,
        life: Arc<Life>,
        subscription: Lease,
        at: Arc<str>,
    ) -> Self {
        let mut subject = asked.subject.clone();
        subject.adopt(&subscription.subject);
        Self {
            route: route.clone(),
            subject,
            incarnation: Incarnation::new(life, subscription.identity()),
            at,
            is_named: true,
            content_type: subscription.content_type.clone(),
            kind: subscription.kind,
            subscription: Some(subscription),
            up_to_date: true,
            closed: None,
            closing_sharing: Sharing::default(),
        }
    }

    /// Whether this offset is farther than the reader is, as far as that is known.
    pub(super) fn is_before(&self, offset: &str) -> bool {
        *offset > *self.at || !self.is_named
    }

    /// Takes what an answer says of the place behind it.
    pub(super) fn pass(&mut self, answer: &Answer) {
        // Some origins let an append be read before they count it: nobody goes back.
        if let Some(next) = answer.next_offset()
            && self.is_before(&next)
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
                let edge = &self.route.edge;
                let begin = || {
                    Subscription::new(
                        self.subject.clone(),
                        self.incarnation.identity().cloned(),
                        self.content_type.clone(),
                        at.clone(),
                        edge.hot.clone(),
                    )
                };
                let all = &edge.subscriptions;
                let found = all.find_or_begin(&self.route, &self.subject, begin)?;
                self.subject.adopt(&found.subject);
                self.incarnation.meet(found.identity().as_deref());
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
        // Asked last: what was found may be of the stream that came next.
        if self.incarnation.is_over() {
            return Ok(Look::Gone);
        }
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
    pub(super) async fn catch_up(&mut self) -> Result<Answer, ServeError> {
        let answer = self.ask().await?;
        self.meet(&answer);
        Ok(answer)
    }

    /// Asks for the same. Whoever has the answer lets the reader [meet](Self::meet) it.
    pub(super) fn ask(&self) -> impl Future<Output = Result<Answer, ServeError>> + Send + use<> {
        let (route, subject, at) = (self.route.clone(), self.subject.clone(), self.at.clone());
        async move { route.catch_up(&subject, &at, None, None).await }
    }

    /// Takes note of the stream that an answer is of.
    pub(super) fn meet(&mut self, answer: &Answer) {
        self.incarnation.meet(identity(&answer.headers));
    }

    /// Who the stream is, as far as the origin has said it.
    pub(super) fn identity(&self) -> Option<Arc<str>> {
        self.incarnation.identity().cloned()
    }

    /// Whether the stream that it has begun with is gone, or another one by now.
    pub(super) fn is_over(&self) -> bool {
        self.incarnation.is_over()
    }

    /// Begins at this offset, as the client says it, of the stream that there is now, with what the
    /// origin, or the cache, has behind it.
    pub(super) async fn begin_anew(&mut self, offset: &Arc<str>) -> Result<Answer, ServeError> {
        let life = self.route.edge.lives.of(&self.subject);
        self.incarnation = Incarnation::new(life, None);
        self.subscription = None;
        self.at = offset.clone();
        self.is_named = false;
        let answer = self.catch_up().await?;
        self.content_type = answer.content_type();
        self.kind = Kind::of(&self.content_type);
        Ok(answer)
    }

    /// The entity tag of what the subscription has.
    pub(super) fn etag(&self, data: &Data) -> Option<String> {
        let subscription = self.subscription.as_ref()?;
        Some(subscription.etag(&self.at, data))
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
