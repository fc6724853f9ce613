//! Following a stream at its home: by SSE or, where that would not carry its bytes exactly, by
//! long-polls; from where it was, whenever the connection ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::answer::{Answer, is_coded};
use super::cache::Fetched;
use super::fetch::OriginRead;
use super::identities::{Learned, identity};
use super::origin_sse::{OriginEvents, data_of};
use super::ring::RING_BYTES_MAX;
use super::route::Route;
use super::sharing::Sharing;
use super::subscription::{News, Replaced, Subscription};
use crate::observe::metrics::UpstreamFailure;
use crate::protocol::names;
use crate::types::Kind;

/// A connection that lived so long, or brought something, is no failure, however it ends.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// So long a request counts among those that are being made.
const CONNECTING_TIME_MAX: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Follows a stream until nobody has been reading for a time, or until nothing can follow.
pub(super) async fn follow(route: Arc<Route>, subscription: Arc<Subscription>) {
    let mut follower = Follower {
        route: route.clone(),
        subscription: subscription.clone(),
        way: Way::Sse,
    };
    let ended = tokio::select! {
        biased;
        () = subscription.gone() => None,
        () = route.edge.stop.cancelled() => None,
        () = unread(&route, &subscription) => None,
        () = subscription.stays_behind() => Some(Ended::Replaced),
        ended = Box::pin(follower.run()) => Some(ended),
    };
    match ended {
        Some(Ended::Replaced) => route.forget(&subscription.subject).await,
        Some(Ended::Gone) => {
            route.end_for(&subscription.subject);
            route.doubt_answers(&subscription.subject).await;
        }
        Some(Ended::Refused) => subscription.set_gone(),
        Some(Ended::Closed) | None => {}
    }
    route.edge.subscriptions.remove(&subscription);
}

/// Returns once nobody has been reading for a time, and nobody can begin any more.
async fn unread(route: &Route, subscription: &Arc<Subscription>) {
    loop {
        subscription.left_for(route.linger).await;
        if route.edge.subscriptions.remove_unread(subscription) {
            return;
        }
    }
}

/// How a stream is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sse,
    LongPoll,
}

/// Why a stream is followed no longer.
enum Ended {
    Closed,
    /// Another one is at its path.
    Replaced,
    /// It is gone, for these readers at least.
    Gone,
    /// These readers may not read it any more.
    Refused,
}

/// How a connection ended.
enum Turn {
    Ended(Ended),
    /// The origin let go, for the next one to begin.
    Recycled,
    Failed(UpstreamFailure),
    /// It would not carry all bytes exactly.
    Unfit,
}

impl From<Replaced> for Turn {
    fn from(_: Replaced) -> Self {
        Self::Ended(Ended::Replaced)
    }
}

impl From<UpstreamFailure> for Turn {
    fn from(failure: UpstreamFailure) -> Self {
        Self::Failed(failure)
    }
}

struct Follower {
    route: Arc<Route>,
    subscription: Arc<Subscription>,
    way: Way,
}

impl Follower {
    async fn run(&mut self) -> Ended {
        let mut failures = 0;
        loop {
            let (began, tail) = (Instant::now(), self.subscription.tail());
            let turn = match self.way {
                Way::Sse => self.by_sse().await,
                Way::LongPoll => self.by_long_polls().await,
            };
            self.subscription.set_connecting();
            let lived = began.elapsed() >= LIFE_MIN || self.subscription.tail() != tail;
            if lived {
                failures = 0;
            }
            match turn {
                Turn::Ended(ended) => return ended,
                Turn::Unfit => {
                    self.way = Way::LongPoll;
                    continue;
                }
                Turn::Recycled | Turn::Failed(UpstreamFailure::Timeout) if lived => continue,
                Turn::Recycled => {}
                Turn::Failed(failure) => self.report(failure, failures),
            }
            self.route.metrics().reconnects.inc();
            tokio::time::sleep(backoff(failures)).await;
            failures += 1;
        }
    }

    /// Once for each time that the origin is away.
    fn report(&self, failure: UpstreamFailure, failures: u32) {
        if failures == 0 {
            let stream = &*self.subscription.subject.stream;
            let reason = failure.as_str();
            tracing::warn!(
                stream,
                reason,
                "a stream is not followed until its origin is back"
            );
        }
    }

    /// Follows by one SSE connection, and tells how it ended.
    async fn by_sse(&mut self) -> Turn {
        match self.sse().await {
            Ok(turn) | Err(turn) => turn,
        }
    }

    async fn sse(&mut self) -> Result<Turn, Turn> {
        let exact = HeaderValue::from_static("base64");
        let accept = HeaderValue::from_static("text/event-stream");
        let headers = vec![
            (names::STREAM_SSE_DATA_ENCODING, exact),
            (header::ACCEPT, accept),
        ];
        let tail = self.subscription.tail();
        let subject = &self.subscription.subject;
        let read = OriginRead::live(&self.route, subject, &tail, &[("live", "sse")], headers);
        let answer = self.connect(&read).await.map_err(|turn| match turn {
            // Perhaps events alone are refused.
            Turn::Ended(Ended::Refused) => Turn::Unfit,
            turn => turn,
        })?;
        let kind = self.subscription.kind;
        let headers = &answer.headers;
        let base64 = headers.contains_key(names::STREAM_SSE_DATA_ENCODING);
        let content_type = headers.get(header::CONTENT_TYPE);
        let is_events = content_type.is_some_and(|value| {
            value
                .as_bytes()
                .to_ascii_lowercase()
                .starts_with(b"text/event-stream")
        });
        if !is_events || (kind == Kind::Text && !base64) {
            return Err(Turn::Unfit);
        }
        let said = headers.get(names::STREAM_ID);
        self.identify(said.and_then(|said| said.to_str().ok()))
            .await?;
        self.subscription.set_sharing(Sharing::of(headers));
        let mut events = OriginEvents::new(kind, base64);
        let mut body = answer.body;
        while let Some(piece) = body.next().await? {
            let all = events.push(&piece).map_err(|error| {
                tracing::warn!(%error, "an origin's events make no sense");
                Turn::Failed(UpstreamFailure::Protocol)
            })?;
            for news in all {
                let closed = news.closed.is_some();
                self.subscription.push(news)?;
                if closed {
                    return Ok(Turn::Ended(Ended::Closed));
                }
            }
        }
        Ok(Turn::Recycled)
    }

    /// Notices that the stream was deleted and created again.
    async fn identify(&self, said: Option<&str>) -> Result<(), Turn> {
        let Some(said) = said else { return Ok(()) };
        let subject = &self.subscription.subject;
        let learned = self.route.edge.identities.learn(&subject.key, said);
        let is_own = self.subscription.identity().as_deref() == Some(said);
        match learned {
            // What others were told was old.
            Learned::Replaced if is_own => self.route.forget_answers(subject).await,
            _ if is_own => {}
            // It comes from a cache that has not heard of this stream.
            Learned::Outdated => return Err(Turn::Failed(UpstreamFailure::Protocol)),
            Learned::Nothing if self.subscription.identify(said) => {}
            Learned::Nothing | Learned::Replaced => return Err(Replaced.into()),
        }
        Ok(())
    }

    /// Asks the origin, together with few others at one time. Those who wait long for an answer do
    /// not keep others from asking.
    async fn connect(&self, read: &OriginRead) -> Result<Fetched, Turn> {
        let home = &self.route.origins.all()[self.subscription.subject.home];
        let permit = home.connecting.acquire().await;
        let mut sent = pin!(read.send(None));
        let answer = match tokio::time::timeout(CONNECTING_TIME_MAX, &mut sent).await {
            Ok(answer) => answer,
            Err(_) => {
                drop(permit);
                sent.await
            }
        }?;
        judge(answer.status, &answer.headers)?;
        Ok(answer)
    }

    /// Follows by long-polls until one fails.
    async fn by_long_polls(&mut self) -> Turn {
        match self.long_polls().await {
            Ok(turn) | Err(turn) => turn,
        }
    }

    async fn long_polls(&mut self) -> Result<Turn, Turn> {
        let mut tail = self.subscription.tail();
        let mut cursor: Option<String> = None;
        let (mut asked, mut in_vain) = (None, 0);
        // The first one does not wait: so it is soon known that nothing was missed.
        let read = OriginRead::catch_up(&self.route, &self.subscription.subject, &tail);
        let mut answer = self.connect(&read).await?;
        loop {
            self.identify(identity(&answer.headers)).await?;
            let said = answer.headers.get(names::STREAM_CURSOR);
            let said = said.and_then(|said| said.to_str().ok());
            cursor = said.map(str::to_owned).or(cursor);
            if self.take(answer).await? {
                return Ok(Turn::Ended(Ended::Closed));
            }
            let before = std::mem::replace(&mut tail, self.subscription.tail());
            let at_once = asked.is_some_and(|asked: Instant| asked.elapsed() < LIFE_MIN);
            if at_once && tail == before {
                // An origin that does not wait would be asked again and again.
                in_vain += 1;
                tokio::time::sleep(backoff(in_vain)).await;
            } else {
                in_vain = 0;
            }
            asked = Some(Instant::now());
            answer = self.long_poll(&tail, cursor.as_deref()).await?;
        }
    }

    async fn long_poll(&self, tail: &str, cursor: Option<&str>) -> Result<Fetched, Turn> {
        let mut parameters = vec![("live", "long-poll")];
        parameters.extend(cursor.map(|cursor| ("cursor", cursor)));
        let subject = &self.subscription.subject;
        let read = OriginRead::live(&self.route, subject, tail, &parameters, Vec::new());
        let answer = read.send(None).await?;
        judge(answer.status, &answer.headers)?;
        self.subscription.set_sharing(Sharing::of(&answer.headers));
        Ok(answer)
    }

    /// Takes what a catch-up or long-poll answer says, and tells whether the stream is closed.
    async fn take(&self, answer: Fetched) -> Result<bool, Turn> {
        let mut answer = Answer::from_origin(answer);
        let next = answer.next_offset();
        let next = next.ok_or(Turn::Failed(UpstreamFailure::Protocol))?;
        let mut body = BytesMut::new();
        let mut is_cut = false;
        while let Some(piece) = answer
            .body
            .next()
            .await
            .map_err(|_| UpstreamFailure::Broken)?
        {
            is_cut |= body.len() + piece.len() > RING_BYTES_MAX;
            if !is_cut {
                body.extend_from_slice(&piece);
            }
        }
        let data = data_of(self.subscription.kind, body.freeze());
        let closed = answer.is_closed();
        self.subscription.push(News {
            body: data.filter(|_| !is_cut),
            next,
            up_to_date: answer.is_up_to_date(),
            closed: answer.closing(),
        })?;
        Ok(closed)
    }
}

/// What the status of an origin's answer means for a stream that is followed.
fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), Turn> {
    let trimmed = headers.contains_key(names::STREAM_EARLIEST_OFFSET);
    if status.is_success() && is_coded(headers) {
        return Err(Turn::Failed(UpstreamFailure::Protocol));
    }
    match status {
        StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
        StatusCode::NOT_FOUND => Err(Turn::Ended(Ended::Gone)),
        StatusCode::GONE if !trimmed => Err(Turn::Ended(Ended::Gone)),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(Turn::Failed(UpstreamFailure::Timeout))
        }
        StatusCode::NOT_IMPLEMENTED => Err(Turn::Ended(Ended::Refused)),
        status if status.is_server_error() => Err(Turn::Failed(UpstreamFailure::Broken)),
        _ => Err(Turn::Ended(Ended::Refused)),
    }
}

/// A random time, so that those who lost the same origin do not come back together.
fn backoff(failures: u32) -> Duration {
    let most = BACKOFF_MIN
        .saturating_mul(1 << failures.min(16))
        .min(BACKOFF_MAX);
    most.mul_f64(rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_lost_an_origin_come_back_at_different_times() {
        for (failures, most) in [
            (0, Duration::from_millis(100)),
            (3, Duration::from_millis(800)),
            (7, BACKOFF_MAX),
            (1000, BACKOFF_MAX),
        ] {
            let quarter = |time: Duration| (time.as_secs_f64() * 4.0 / most.as_secs_f64()) as usize;
            let mut quarters = [0; 4];
            for _ in 0..1000 {
                let time = backoff(failures);
                assert!(time < most, "{time:?}");
                quarters[quarter(time)] += 1;
            }
            assert!(quarters.iter().all(|count| *count > 100), "{quarters:?}");
        }
    }
}
