//! Answers to catch-up reads: from the cache, or from the stream's home.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};

use super::asked::Subject;
use super::cache::{
    Ask, CACHE_STATUS, CacheStatus, Cached, CachedBody, Fetch, Fetched, GetError, Pull,
};
use super::cache::{RangeKey, Reader, StreamKey, Wish};
use super::fetch::OriginRead;
use super::route::Route;
use super::subscription::Closing;
use crate::protocol::browsers::Browsers;
use crate::protocol::names;
use crate::protocol::reply::{Head, matches_etag};
use crate::serve::{Body, Broken, Passed, Reply, ServeError};
use crate::types::{Kind, Outcome, StreamEnd};
use tokio::task::yield_now;

/// An answer to a catch-up read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: Arc<HeaderMap>,
    pub(super) body: AnswerBody,
    cache_status: CacheStatus,
    age_seconds: Option<u64>,
}

/// The body of an answer, which may still come.
pub(super) struct AnswerBody {
    /// What was read of it already, or all of it.
    first: Option<Bytes>,
    rest: Rest,
    /// Bytes of the whole body, where they are known beforehand.
    length: Option<u64>,
}

enum Rest {
    Nothing,
    Cached(Reader),
    Origin(Box<dyn Pull>),
}

impl Route {
    /// The answer to a catch-up read, from the cache if it is there. `offset` is as the client says
    /// it. `now` is always for the origin.
    pub(super) async fn catch_up(
        self: &Arc<Self>,
        subject: &Subject,
        offset: &str,
        if_none_match: Option<&str>,
        wish: Option<Wish>,
    ) -> Result<Answer, ServeError> {
        if offset == "now" {
            return Answer::bypass(&OriginRead::catch_up(self, subject, offset)).await;
        }
        let stream = &subject.key;
        let range = subject.range(offset);
        let ask = || Ask {
            key: RangeKey {
                stream: StreamKey {
                    origin: &self.origins.all()[subject.home].name,
                    path: &subject.stream,
                },
                scope: &subject.scope,
                range: &range,
            },
            generation: self.edge.generations.of(stream),
            if_none_match,
            wish,
        };
        if let Some(hit) = self.edge.cache.hit(&ask())
            && !self.edge.identities.contradict(stream, &hit.headers)
        {
            return Ok(hit.into());
        }
        loop {
            let read = OriginRead::catch_up(self, subject, offset);
            // Boxed: it is rarely needed, and large.
            let cached = Box::pin(self.edge.cache.get(&ask(), read)).await?;
            let kept = matches!(
                cached.cache_status,
                CacheStatus::Hit | CacheStatus::DiskHit | CacheStatus::Stale { .. }
            );
            if kept && self.edge.identities.contradict(stream, &cached.headers) {
                // It is of a stream that was here before.
                self.forget_answers(subject).await;
                continue;
            }
            return Ok(cached.into());
        }
    }
}

impl From<GetError> for ServeError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Origin(_) | GetError::Unavailable => Self::OriginAway,
            GetError::Busy => Self::TooManyFetches,
        }
    }
}

impl From<Cached> for Answer {
    fn from(cached: Cached) -> Self {
        let (first, rest, length) = match cached.body {
            CachedBody::Empty => (None, Rest::Nothing, Some(0)),
            CachedBody::Full(bytes) => {
                let length = bytes.len() as u64;
                (Some(bytes), Rest::Nothing, Some(length))
            }
            CachedBody::Pieces(reader) => {
                let length = reader.length;
                (None, Rest::Cached(reader), length)
            }
        };
        Self {
            status: cached.status,
            headers: cached.headers,
            body: AnswerBody {
                first,
                rest,
                length,
            },
            cache_status: cached.cache_status,
            age_seconds: cached.age_seconds,
        }
    }
}

impl Answer {
    /// The answer of the stream's home, whatever is kept.
    pub(super) async fn bypass(read: &OriginRead) -> Result<Self, ServeError> {
        let fetched = read.fetch(None).await;
        let fetched = fetched.map_err(|_| ServeError::OriginAway)?;
        Ok(Self::from_origin(fetched))
    }

    /// An answer that the origin has just given.
    pub(super) fn from_origin(fetched: Fetched) -> Self {
        let bodiless = matches!(
            fetched.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        let length = fetched.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let (rest, length) = if bodiless {
            (Rest::Nothing, Some(0))
        } else {
            (Rest::Origin(fetched.body), length)
        };
        Self {
            status: fetched.status,
            headers: Arc::new(fetched.headers),
            body: AnswerBody {
                first: None,
                rest,
                length,
            },
            cache_status: CacheStatus::Bypass,
            age_seconds: None,
        }
    }

    /// Where it came from, as `Cache-Status` has it.
    pub(super) fn cache_status(&self) -> http::HeaderValue {
        self.cache_status.to_header()
    }

    fn text(&self, name: &http::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether this header says `true`.
    fn says(&self, name: &http::HeaderName) -> bool {
        let value = self.headers.get(name);
        value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    }

    /// The offset behind the answer.
    pub(super) fn next_offset(&self) -> Option<Arc<str>> {
        self.text(&names::STREAM_NEXT_OFFSET).map(Arc::from)
    }

    pub(super) fn is_up_to_date(&self) -> bool {
        self.says(&names::STREAM_UP_TO_DATE) || self.is_closed()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.says(&names::STREAM_CLOSED)
    }

    /// That the stream is closed behind this answer, if it is.
    pub(super) fn closing(&self) -> Option<Closing> {
        let outcome = self.text(&names::STREAM_END).and_then(Outcome::named);
        let reason = self.text(&names::STREAM_END_REASON);
        let end = outcome.map(|outcome| Arc::new(StreamEnd::new(outcome, reason)));
        self.is_closed().then_some(Closing { end })
    }

    /// Whether its body is something else than the data, which is not what was asked for.
    pub(super) fn is_coded(&self) -> bool {
        is_coded(&self.headers)
    }

    pub(super) fn content_type(&self) -> Arc<str> {
        let content_type = self.text(&header::CONTENT_TYPE);
        content_type.unwrap_or("application/octet-stream").into()
    }

    /// Whether there is no data in it. Waits for the beginning of the body, if need be.
    pub(super) async fn is_empty(&mut self, kind: Kind) -> Result<bool, Broken> {
        let body = &mut self.body;
        if let Some(length) = body.length {
            return Ok(length == 0 || (kind == Kind::Json && length == 2));
        }
        // So much of it tells an empty array from others.
        while body.first.as_ref().is_none_or(|first| first.len() <= 2) {
            let Some(piece) = body.rest.next().await? else {
                break;
            };
            body.first = Some(match body.first.take() {
                None => piece,
                Some(first) => {
                    let mut both = BytesMut::from(first);
                    both.extend_from_slice(&piece);
                    both.freeze()
                }
            });
        }
        let first = body.first.as_deref().unwrap_or_default();
        Ok(first.is_empty() || (kind == Kind::Json && first.trim_ascii() == b"[]"))
    }

    /// Waits for the beginning of the data, or until it is known that there is none.
    pub(super) async fn begin(&mut self, kind: Kind) -> Result<(), Broken> {
        if !self.is_empty(kind).await? && self.body.first.is_none() {
            self.body.first = self.body.rest.next().await?;
        }
        Ok(())
    }

    /// As the client gets it. A condition that the cache did not see to is seen to by the caller.
    pub(super) fn into_reply(self, route: &Route) -> Reply {
        let mut headers = Arc::unwrap_or_clone(self.headers);
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(CACHE_STATUS, self.cache_status.to_header());
        let (name, value) = route.via.entry();
        headers.append(name, value);
        if let Some(age) = self.age_seconds {
            headers.insert(header::AGE, age.into());
        }
        let head = Head {
            status: self.status,
            headers,
            browsers: Browsers::Unsaid,
        };
        Reply {
            head,
            body: self.body.into_body(),
        }
    }

    /// Whether a client that has an answer with these tags has this one.
    pub(super) fn is_known(&self, if_none_match: Option<&str>) -> bool {
        let tag = self.text(&header::ETAG);
        tag.zip(if_none_match)
            .is_some_and(|(tag, known)| matches_etag(known, tag))
    }
}

/// Whether the body that goes with these headers is coded.
pub(super) fn is_coded(headers: &HeaderMap) -> bool {
    let coding = headers.get(header::CONTENT_ENCODING);
    coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

impl AnswerBody {
    /// The next piece; `None` at the end of a whole body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.rest.next().await,
        }
    }

    /// Whether all that follows is there.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.rest, Rest::Nothing)
    }

    fn into_body(self) -> Body {
        match (self.rest, self.first) {
            (Rest::Nothing, None) => Body::Empty,
            (Rest::Nothing, Some(bytes)) => Body::Full(bytes),
            (rest, first) => Body::Passed(Box::new(Self {
                first,
                rest,
                length: self.length,
            })),
        }
    }
}

impl Rest {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        match self {
            Self::Nothing => Ok(None),
            Self::Cached(reader) => {
                // Others get their turn, however fast the client takes what is sent.
                yield_now().await;
                reader.next().await.map_err(|_| Broken)
            }
            Self::Origin(pull) => pull.next().await.map_err(|_| Broken),
        }
    }
}

#[async_trait]
impl Passed for AnswerBody {
    fn length(&self) -> Option<u64> {
        self.length
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        AnswerBody::next(self).await
    }
}
