//! Who answers the requests of a route: its own upstreams, or the one that a request names.

use super::{RecordError, Request};
use crate::config;
use crate::upstream::allow::Allowed;
use crate::upstream::{Client, Direct, Exchange, ExchangeError, Picked, UpstreamError, Upstreams};
use async_trait::async_trait;
use http::{HeaderValue, Version, header};
use pingora::http::ResponseHeader;
use std::sync::Arc;
use std::time::Duration;

/// Readers of a stream could not undo a compression.
const UNCOMPRESSED: HeaderValue = HeaderValue::from_static("identity");

/// Answers requests.
#[async_trait]
pub(super) trait Upstream: Send + Sync {
    /// Sends a request, and waits for the head of the answer.
    async fn send(&self, request: Request) -> Result<Response, RecordError>;
}

/// An upstream's answer while it comes.
pub struct Response {
    pub head: ResponseHeader,
    exchange: Exchange,
    /// Counts the request for its upstream.
    _picked: Option<Picked>,
}

impl Response {
    /// One that comes from this upstream.
    pub fn new(mut head: ResponseHeader, exchange: Exchange, picked: Option<Picked>) -> Self {
        // By whatever version it came: no HTTP/1.1 client could be sent a head of HTTP/2.
        head.set_version(Version::HTTP_11);
        Self {
            head,
            exchange,
            _picked: picked,
        }
    }

    /// What comes next of the body; `None` at the end of a whole one. Nothing is lost when the
    /// future is dropped.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, ExchangeError> {
        self.exchange.next().await
    }
}

/// The upstreams of a route.
pub(super) struct Balanced {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) client: Client,
    pub(super) headers_timeout: Duration,
}

#[async_trait]
impl Upstream for Balanced {
    /// Tries another upstream if one fails before it answers, as far as a request may be sent twice.
    async fn send(&self, request: Request) -> Result<Response, RecordError> {
        let (upstreams, facts) = (&self.upstreams, &request.client);
        let mut tried = Vec::new();
        loop {
            let picked = upstreams.pick(&request.head, facts, &tried).await;
            let mut picked = picked.ok_or(RecordError::NoUpstream)?;
            // How long it may be silent is for the recording to say.
            picked.peer.options.read_timeout = None;
            let mut head = request.head.clone();
            upstreams.prepare(&mut head, facts, &picked);
            let _ = head.insert_header(header::ACCEPT_ENCODING, UNCOMPRESSED);
            let body = request.body.clone();
            let sent = self
                .client
                .send(&picked.peer, head, body, self.headers_timeout);
            match sent.await {
                Ok(exchange) => {
                    upstreams.metrics.connected(exchange.reused);
                    let mut head = exchange.head.clone();
                    upstreams.prepare_response(&mut head);
                    return Ok(Response::new(head, exchange, Some(picked)));
                }
                Err(error)
                    if error.may_repeat(&request.head.method)
                        && tried.len() < upstreams.retries =>
                {
                    upstreams.metrics.failed(error.failure());
                    upstreams.metrics.retries.inc();
                    picked.avoid();
                    tried.push(picked.address().clone());
                }
                Err(error) => {
                    upstreams.metrics.failed(error.failure());
                    let upstream = picked.authority();
                    tracing::warn!(upstream, cause = %error.cause(), "{error}");
                    return Err(error.into());
                }
            }
        }
    }
}

/// The upstream that each request names.
pub(super) struct Named {
    direct: Direct,
    client: Client,
    headers_timeout: Duration,
}

impl Named {
    pub(super) fn new(config: &config::Proxy, client: Client) -> Result<Self, UpstreamError> {
        Ok(Self {
            direct: Direct::new(config)?,
            client,
            headers_timeout: config.headers_timeout,
        })
    }
}

#[async_trait]
impl Upstream for Named {
    async fn send(&self, request: Request) -> Result<Response, RecordError> {
        let Some(Allowed { url, is_host_named }) = &request.allowed else {
            return Err(RecordError::NoUpstream);
        };
        let mut head = request.head.clone();
        self.direct.prepare(&mut head, url);
        let _ = head.insert_header(header::ACCEPT_ENCODING, UNCOMPRESSED);
        let mut last = RecordError::NoUpstream;
        for peer in self.direct.peers(url, *is_host_named).await? {
            let (head, body) = (head.clone(), request.body.clone());
            match self
                .client
                .send(&peer, head, body, self.headers_timeout)
                .await
            {
                Ok(exchange) => {
                    return Ok(Response::new(exchange.head.clone(), exchange, None));
                }
                // Nothing was sent, so another address may be tried.
                Err(error @ ExchangeError::Connect(_)) => last = error.into(),
                Err(error) => {
                    tracing::warn!(host = url.host_str(), cause = %error.cause(), "{error}");
                    return Err(error.into());
                }
            }
        }
        Err(last)
    }
}
