//! Passing requests on to upstreams, by Pingora's `HttpProxy`.

use super::body::{content_length, ends_clearly};
use super::edge::Passing;
use super::facts::{access, client_facts};
use super::http10::{self, Unchunking};
use super::keeping::Keeping;
use super::respond::{self, CLIENT_LEFT};
use super::routes::{Building, has_dot_segments};
use super::unread::unread;
use super::upgrade::wants_upgrade;
use crate::observe::access::Finished;
use crate::observe::metrics::{
    Held, Metrics, Mode as ModeLabel, RouteMetrics, UpstreamFailure, UpstreamMetrics,
};
use crate::serve::ServeError;
use crate::upstream::{Client, Picked, Upstreams, failure_of};
use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// Idle connections that are kept for each route.
const POOL_CONNECTIONS_MAX: usize = 1024;
/// Attempts besides the first and the configured ones: connections from the pool that turned out to
/// be closed are replaced without being counted.
const SPARE_ATTEMPTS: usize = 4;
/// The longest that the body of a request that failed is read for the sake of its sender.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Passes requests on to the upstreams of a route.
pub struct Forwarder {
    proxy: Arc<HttpProxy<Forward>>,
    /// For what is not passed on by `HttpProxy`.
    pub(super) client: Client,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) route: Arc<RouteMetrics>,
    pub(super) keeping: Keeping,
    // HttpProxy wants to be told of a stop; here, connections are told.
    never_stops: (watch::Sender<bool>, ShutdownWatch),
}

impl Forwarder {
    /// For the route with this path pattern.
    pub(super) fn new(upstreams: Arc<Upstreams>, pattern: &str, building: &Building<'_>) -> Self {
        Self::with(upstreams, pattern, building, None)
    }

    /// For one origin of an edge route.
    pub(super) fn to_origin(
        upstreams: Arc<Upstreams>,
        pattern: &str,
        building: &Building<'_>,
        passing: Passing,
    ) -> Self {
        Self::with(upstreams, pattern, building, Some(passing))
    }

    fn with(
        upstreams: Arc<Upstreams>,
        pattern: &str,
        building: &Building<'_>,
        passing: Option<Passing>,
    ) -> Self {
        let conf = ServerConf {
            upstream_keepalive_pool_size: POOL_CONNECTIONS_MAX,
            max_retries: 1 + upstreams.retries + SPARE_ATTEMPTS,
            ..ServerConf::default()
        };
        let route = building.metrics.route(pattern);
        let keeping = Keeping::new(building.limits, building.draining.clone());
        let forward = Forward {
            upstreams: upstreams.clone(),
            route: route.clone(),
            metrics: building.metrics.clone(),
            keeping: keeping.clone(),
            passing,
        };
        let mut proxy = HttpProxy::new(forward, Arc::new(conf));
        proxy.handle_init_modules();
        Self {
            proxy: Arc::new(proxy),
            client: Client::new(),
            upstreams,
            route,
            keeping,
            never_stops: watch::channel(false),
        }
    }

    /// Agrees to pass a request on, unless it is one that no upstream should get.
    pub(super) fn accept(
        self: &Arc<Self>,
        session: &mut ServerSession,
    ) -> Result<Arc<Self>, ServeError> {
        let request = session.req_header();
        if !ends_clearly(&request.headers) {
            session.set_keepalive(None);
            return Err(ServeError::Malformed);
        }
        // An upstream would resolve them, and leave the paths that the route is for.
        if has_dot_segments(request.uri.path()) {
            return Err(ServeError::Path("it holds a . or .. segment"));
        }
        match (content_length(session), self.upstreams.body_bytes_max) {
            (Some(length), Some(bytes_max)) if length > bytes_max => {
                Err(ServeError::BodyTooLarge { bytes_max })
            }
            _ => Ok(self.clone()),
        }
    }

    /// Passes the request of a session on, of which nothing but the head has been read. Returns the
    /// connection if it can serve another.
    pub(super) async fn forward(&self, session: Box<ServerSession>) -> Option<ReusedHttpStream> {
        if wants_upgrade(&session) {
            return Box::pin(self.upgrade(session)).await;
        }
        let session = if session.is_http2() {
            *session
        } else {
            unread(*session).await?
        };
        self.proxy
            .process_new_http(session, &self.never_stops.1)
            .await
    }
}

/// What happens at each step of `HttpProxy`.
struct Forward {
    upstreams: Arc<Upstreams>,
    route: Arc<RouteMetrics>,
    metrics: Arc<Metrics>,
    keeping: Keeping,
    /// What an edge has to do with requests that pass.
    passing: Option<Passing>,
}

/// What is known of a request under way.
struct Context {
    began: Instant,
    _in_flight: Held,
    /// The upstream that has the request now.
    picked: Option<Picked>,
    /// Where upstreams failed that had it before.
    tried: Vec<SocketAddr>,
    body_bytes: u64,
    /// Why the request was refused, if not because of an upstream.
    refused: Option<ServeError>,
}

impl Forward {
    fn upstream_metrics(&self) -> &UpstreamMetrics {
        &self.upstreams.metrics
    }

    /// Counts and logs that an upstream failed.
    fn upstream_failed(&self, peer: &HttpPeer, error: &Error, ctx: &mut Context) {
        self.upstream_metrics().failed(failure_of(error));
        let upstream = ctx.picked.as_ref().map(Picked::authority);
        let address = &peer._address;
        tracing::warn!(upstream, %address, %error, "an upstream failed");
        ctx.tried.push(address.clone());
    }

    /// Whether another attempt is left.
    fn may_retry(&self, ctx: &Context) -> bool {
        ctx.tried.len() <= self.upstreams.retries
    }

    /// How a client is told that an upstream failed.
    fn failure(&self, failure: UpstreamFailure) -> ServeError {
        let unsent = matches!(
            failure,
            UpstreamFailure::Connect | UpstreamFailure::Tls | UpstreamFailure::NoUpstream
        );
        match &self.passing {
            Some(_) if unsent => ServeError::OriginAway,
            _ => ServeError::Upstream(failure),
        }
    }

    /// What the client is told; `None` if it is not there to be told.
    fn answer_to(&self, error: &Error, ctx: &mut Context) -> Option<ServeError> {
        if let Some(refused) = ctx.refused.take() {
            return Some(refused);
        }
        match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(ServeError::BodyTimeout {
                seconds: self.keeping.body_timeout.as_secs(),
            }),
            (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => Some(ServeError::Malformed),
            (
                ErrorSource::Downstream,
                ErrorType::ConnectionClosed
                | ErrorType::ReadError
                | ErrorType::WriteError
                | ErrorType::WriteTimedout
                | ErrorType::H2Error,
            ) => None,
            (ErrorSource::Downstream, _) => Some(ServeError::BodyBroken),
            _ => Some(self.failure(failure_of(error))),
        }
    }
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            began: Instant::now(),
            _in_flight: self.route.enter(),
            picked: None,
            tried: Vec::new(),
            body_bytes: 0,
            refused: None,
        }
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(Unchunking));
    }

    async fn early_request_filter(&self, session: &mut Session, _: &mut Context) -> Result<()> {
        let session = session.as_downstream_mut();
        self.keeping.prepare(session);
        session.set_read_timeout(Some(self.keeping.body_timeout));
        if http10::is_old(session.req_header().version) {
            session.set_ignore_info_resp(true);
        }
        Ok(())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        if !ctx.tried.is_empty() {
            self.upstream_metrics().retries.inc();
        }
        let client = client_facts(session.as_downstream());
        let request = session.req_header();
        let picked = self.upstreams.pick(request, &client, &ctx.tried).await;
        let Some(picked) = picked else {
            ctx.refused = Some(self.failure(UpstreamFailure::NoUpstream));
            return Error::e_explain(ErrorType::ConnectNoRoute, "no healthy upstream");
        };
        let peer = Box::new(picked.peer.clone());
        ctx.picked = Some(picked);
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        _: Option<&Digest>,
        _: &mut Context,
    ) -> Result<()> {
        self.upstream_metrics().connected(reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let client = client_facts(session.as_downstream());
        if let Some(picked) = &ctx.picked {
            self.upstreams.rewrite(request, &client, picked);
        }
        if let Some(passing) = &self.passing {
            passing.mark(request);
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        // Sent on, an empty last piece would end a chunked body twice.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        let bytes = body.as_ref().map_or(0, Bytes::len) as u64;
        ctx.body_bytes += bytes;
        match self.upstreams.body_bytes_max {
            Some(bytes_max) if ctx.body_bytes > bytes_max => {
                ctx.refused = Some(ServeError::BodyTooLarge { bytes_max });
                let error = Error::explain(ErrorType::InvalidHTTPHeader, "the body is too large");
                Err(error.into_down())
            }
            _ => Ok(()),
        }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _: &mut Context,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // Who asks for an upgrade does not come here.
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "an upgrade not asked for")
                .map_err(Error::into_up);
        }
        if response.status.is_informational() {
            return Ok(());
        }
        self.upstreams.rewrite_response(response);
        if let Some(passing) = &self.passing {
            // Before its client sees the answer: what it asks next must see what it wrote.
            passing.answered(session.as_downstream(), response).await;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _: &mut Context,
    ) -> Result<()> {
        let session = session.as_downstream_mut();
        let is_measured = response.headers.contains_key(header::CONTENT_LENGTH);
        if http10::is_old(session.req_header().version) && !is_measured {
            // The end of the body is that of the connection.
            session.set_keepalive(None);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        self.upstream_failed(peer, &error, ctx);
        if let Some(picked) = &ctx.picked {
            picked.avoid();
        }
        // Nothing was sent, so any request may go elsewhere.
        error.set_retry(self.may_retry(ctx));
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        if *error.esource() != ErrorSource::Upstream {
            error.set_retry(false);
            return error;
        }
        let answered = session.response_written().is_some();
        let possible = !answered && !session.as_ref().retry_buffer_truncated();
        let repeatable = session.req_header().method.is_idempotent();
        if possible && repeatable && reused && error.retry == RetryType::ReusedOnly {
            // The connection had been closed before, which is no failure of the upstream.
            error.set_retry(true);
            return error;
        }
        let worth_it = match error.retry {
            // The upstream said that it did nothing.
            RetryType::Decided(true) => true,
            // It may have been done, and the answer to a write of a stream would be another then.
            _ if self.passing.is_some() => false,
            _ => repeatable && failure_of(&error) == UpstreamFailure::Broken,
        };
        self.upstream_failed(peer, &error, ctx);
        error.set_retry(possible && worth_it && self.may_retry(ctx));
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let nothing = FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        };
        let begun = |head: &ResponseHeader| !head.status.is_informational();
        if session.response_written().is_some_and(begun) {
            return nothing;
        }
        let Some(answer) = self.answer_to(error, ctx) else {
            return nothing;
        };
        if let Some(refusal) = answer.refusal() {
            self.metrics.refused(refusal).inc();
        }
        let session = session.as_downstream_mut();
        session.set_keepalive(None);
        let method = session.req_header().method.clone();
        let cors = self.passing.as_ref().is_some_and(Passing::cors);
        let sent = respond::respond(session, answer.into_reply(cors), &method).await;
        // A client that still sends does not read its answer.
        let _ = timeout(DRAIN_TIME_MAX, session.drain_request_body()).await;
        FailToProxy {
            error_code: sent.status.as_u16(),
            can_reuse_downstream: false,
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    /// Counts the request and writes it down.
    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Context) {
        ctx.picked = None;
        let session = session.as_downstream();
        let method = &session.req_header().method;
        let answered = session.response_written();
        let status = answered.map_or(CLIENT_LEFT, |head| head.status.as_u16());
        let elapsed = ctx.began.elapsed();
        self.route
            .observe(method.into(), ModeLabel::None, status, elapsed);
        if !crate::observe::access::enabled() {
            return;
        }
        access(session, method, self.route.pattern()).finished(&Finished {
            status,
            bytes: session.body_bytes_sent() as u64,
            elapsed,
            offsets: None,
            live: None,
            stream: None,
        });
    }
}
