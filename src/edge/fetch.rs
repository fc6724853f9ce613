//! One request to a stream's home, and its answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use pingora::http::RequestHeader;
use pingora::protocols::l4::socket::SocketAddr;

use super::asked::{START, Subject};
use super::cache::{Fetch, Fetched, Pull};
use super::origins::Origin;
use super::route::Route;
use crate::observe::metrics::{EdgeMetrics, OriginRequest, UpstreamFailure};
use crate::upstream::{Exchange, Picked};

/// The longest wait for the head of an answer where the route has no timeout.
const HEAD_WAIT_MAX: Duration = Duration::from_hours(1);

/// What belongs to a client's own way of asking: the edge asks for whole answers, uncompressed, and
/// answers conditions itself.
const NOT_ASKED: [HeaderName; 9] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::ACCEPT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
];

/// A read of a stream at its home.
pub(super) struct OriginRead {
    route: Arc<Route>,
    subject: Subject,
    /// Whether it asks for a place that every stream has.
    from_known: bool,
    target: String,
    purpose: OriginRequest,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl OriginRead {
    /// A catch-up read from an offset.
    pub(super) fn catch_up(route: &Arc<Route>, subject: &Subject, offset: &str) -> Self {
        let target = subject.target(offset, &[]);
        Self {
            from_known: matches!(offset, START | "now"),
            ..Self::of(route, subject, target, OriginRequest::CatchUp)
        }
    }

    /// A read that is not understood here.
    pub(super) fn as_it_is(route: &Arc<Route>, subject: &Subject) -> Self {
        let target = String::from_utf8_lossy(subject.head.raw_path()).into_owned();
        Self::of(route, subject, target, OriginRequest::CatchUp)
    }

    /// A read that waits for what comes, with further headers.
    pub(super) fn live(
        route: &Arc<Route>,
        subject: &Subject,
        offset: &str,
        parameters: &[(&str, &str)],
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        let target = subject.target(offset, parameters);
        Self {
            headers,
            ..Self::of(route, subject, target, OriginRequest::Live)
        }
    }

    fn of(route: &Arc<Route>, subject: &Subject, target: String, purpose: OriginRequest) -> Self {
        Self {
            route: route.clone(),
            subject: subject.clone(),
            from_known: false,
            target,
            purpose,
            headers: Vec::new(),
        }
    }

    fn origin(&self) -> &Origin {
        &self.route.origins.all()[self.subject.home]
    }

    /// The request, but for what depends on the address that it goes to.
    fn head(&self, if_none_match: Option<&HeaderValue>) -> RequestHeader {
        let mut head = RequestHeader::clone(&self.subject.head);
        head.set_method(Method::GET);
        // The target was part of a URI before, in another order.
        let _ = head.set_raw_path(self.target.as_bytes());
        for name in NOT_ASKED {
            head.remove_header(&name);
        }
        head.remove_header(&crate::protocol::names::STREAM_SSE_DATA_ENCODING);
        let identity = HeaderValue::from_static("identity");
        let _ = head.insert_header(header::ACCEPT_ENCODING, identity);
        if let Some(tag) = if_none_match {
            let _ = head.insert_header(header::IF_NONE_MATCH, tag.clone());
        }
        for (name, value) in &self.headers {
            let _ = head.insert_header(name.clone(), value.clone());
        }
        let (name, value) = self.route.via.entry();
        let _ = head.append_header(name, value);
        head
    }

    /// Sends it to the stream's home, at another of its addresses if one cannot be reached, and
    /// waits for the head of the answer.
    pub(super) async fn send(
        &self,
        if_none_match: Option<&HeaderValue>,
    ) -> Result<Fetched, UpstreamFailure> {
        let upstreams = &self.origin().upstreams;
        let asked = self.head(if_none_match);
        let facts = &self.subject.client;
        let mut tried: Vec<SocketAddr> = Vec::new();
        self.route.metrics().requests(self.purpose).inc();
        loop {
            let picked = upstreams.pick(&asked, facts, &tried).await;
            let picked = picked.ok_or(UpstreamFailure::NoUpstream)?;
            let mut head = asked.clone();
            upstreams.prepare(&mut head, facts, &picked);
            let wait = upstreams.read_timeout.unwrap_or(HEAD_WAIT_MAX);
            let client = &self.route.edge.client;
            let sent = client.send(&picked.peer, head, Bytes::new(), wait).await;
            let error = match sent {
                Ok(exchange) => {
                    upstreams.metrics.connected(exchange.reused);
                    return Ok(self.answer(exchange, picked));
                }
                Err(error) => error,
            };
            upstreams.metrics.failed(error.failure());
            let upstream = picked.authority();
            tracing::debug!(upstream, cause = %error.cause(), "an origin failed");
            if !error.is_unsent() || tried.len() >= upstreams.retries {
                return Err(error.failure());
            }
            picked.avoid();
            let address = picked.address().clone();
            if tried.contains(&address) {
                // There is no other.
                return Err(error.failure());
            }
            tried.push(address);
        }
    }

    fn answer(&self, exchange: Exchange, picked: Picked) -> Fetched {
        let mut head = exchange.head.clone();
        self.origin().upstreams.prepare_response(&mut head);
        let body = OriginBody {
            exchange,
            metrics: self.route.metrics().clone(),
            _picked: picked,
        };
        Fetched {
            status: head.status,
            headers: head.headers.clone(),
            body: Box::new(body),
        }
    }
}

#[async_trait]
impl Fetch for OriginRead {
    async fn fetch(&self, if_none_match: Option<&HeaderValue>) -> Result<Fetched, UpstreamFailure> {
        let fetched = self.send(if_none_match).await?;
        let (status, headers) = (fetched.status, &fetched.headers);
        let (subject, from_known) = (&self.subject, self.from_known);
        let learned = self.route.learn(subject, from_known, status, headers);
        learned.await;
        Ok(fetched)
    }
}

/// The body of an origin's answer.
struct OriginBody {
    exchange: Exchange,
    metrics: Arc<EdgeMetrics>,
    /// Counts the request for its origin.
    _picked: Picked,
}

#[async_trait]
impl Pull for OriginBody {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamFailure> {
        let piece = self.exchange.next().await;
        let piece = piece.map_err(|error| {
            tracing::debug!(cause = %error.cause(), "an origin broke off");
            error.failure()
        })?;
        if let Some(piece) = &piece {
            self.metrics.origin_bytes.inc_by(piece.len() as u64);
        }
        Ok(piece)
    }
}
