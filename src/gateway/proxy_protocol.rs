//! The Durable Streams proxy protocol: a client names an upstream, and reads its answer from a
//! stream.

use super::facts::client_facts;
use super::routes::{Route, recorded_streams};
use super::session::{Answer, Asked, Gateway, mode};
use crate::config;
use crate::protocol::names;
use crate::protocol::reply::Head;
use crate::protocol::request::{self, Command};
use crate::recorder::{self, Opened, Request, Response};
use crate::serve::{self, Body, Reply, ServeError, Target};
use crate::types::StreamPath;
use crate::upstream::allow::{Allowed, Allowlist};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{HeaderName, Method, StatusCode};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use ring::hmac;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const METHODS: &str = "GET, POST, HEAD, PATCH, DELETE, OPTIONS";

/// Any header may be one for the upstream; `*` does not cover `Authorization`.
const REQUEST_HEADERS: &str = "Upstream-URL, Upstream-Method, Upstream-Authorization, \
    Authorization, Content-Type, If-None-Match, *";

/// By name too, for clients that look for them in the list.
const EXPOSED: &str = "Location, Upstream-Content-Type, Upstream-Status, Stream-Next-Offset, \
    Stream-Up-To-Date, Stream-Cursor, Stream-Closed, Stream-End, Stream-End-Reason, Stream-TTL, \
    Stream-Expires-At, Stream-SSE-Data-Encoding, ETag, Retry-After, *";

/// What an upstream may be asked.
const UPSTREAM_METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// A route of the proxy protocol.
pub struct Proxy {
    pub(super) streams: serve::Route,
    route: Arc<recorder::Route>,
    allow: Allowlist,
    secrets: Secrets,
    error_bytes_max: usize,
    /// The longest time that the body of an upstream's error may take, in all.
    error_timeout: Duration,
}

impl Gateway {
    /// Answers a request at a `proxy` route.
    pub(super) async fn proxy(
        &self,
        session: &mut ServerSession,
        route: &Route,
        proxy: &Proxy,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        let request = session.req_header();
        let below = route.segment(request.uri.path())?;
        match (below.as_deref(), &request.method) {
            (_, &Method::OPTIONS) => Ok(proxy.preflight()),
            (None, &Method::POST) => self.create(session, proxy, asked).await,
            (Some("health"), &Method::GET) => Ok(proxy.health()),
            (Some(name), &Method::GET | &Method::HEAD | &Method::PATCH | &Method::DELETE) => {
                let path = proxy.route.stream_named(name);
                self.proxied(session, proxy, path, asked).await
            }
            _ => Err(ServeError::NoRoute),
        }
    }

    /// POST: calls the upstream, and answers with the URL of its recording (section 4.1).
    async fn create(
        &self,
        session: &mut ServerSession,
        proxy: &Proxy,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        proxy.secrets.check(session.req_header())?;
        let (head, allowed) = proxy.upstream_request(session.req_header())?;
        let body = self.bodies.read(session).await?;
        let request = Request {
            head,
            body: body.bytes,
            memory: Arc::new(body.permits),
            client: client_facts(session),
            allowed: Some(allowed),
        };
        let mut opened = Box::pin(self.recorder.create(&proxy.route, request));
        let opened = tokio::select! {
            biased;
            opened = &mut opened => opened?,
            _ = session.read_body_or_idle(true) => return Ok(Answer::Nobody),
        };
        match opened {
            Opened::Recorded { head, path, .. } => {
                let url = self.stream_url(session, &proxy.route, &path);
                asked.recording = Some(path);
                Ok(proxy.created(url, &head.headers))
            }
            Opened::Passed(response) => tokio::select! {
                biased;
                refused = proxy.refused(*response) => refused,
                _ = session.read_body_or_idle(true) => Ok(Answer::Nobody),
            },
            Opened::Complete { .. } => Err(ServeError::NoRoute),
        }
    }

    /// What is done with a recording that there is (sections 4.2 to 4.5).
    async fn proxied(
        &self,
        session: &mut ServerSession,
        proxy: &Proxy,
        path: StreamPath,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        let request = session.req_header();
        let query = request.uri.query().unwrap_or_default();
        let now_ms = self.server.clock.now_ms();
        match request.method {
            Method::PATCH => proxy.route.verify(&path, query, now_ms)?,
            Method::GET if is_signed(query) => proxy.route.verify(&path, query, now_ms)?,
            _ => proxy.secrets.check(request)?,
        }
        asked.recording = Some(path.clone());
        match request.method {
            Method::PATCH => {
                self.abort(session, &path).await?;
                Ok(proxy.done())
            }
            Method::DELETE => {
                self.remove(proxy, path).await?;
                Ok(proxy.done())
            }
            _ => self.read(session, proxy, path, asked).await,
        }
    }

    async fn read(
        &self,
        session: &mut ServerSession,
        proxy: &Proxy,
        path: StreamPath,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        let request = session.req_header();
        let command = request::parse(&request.method, request.uri.query(), &request.headers)?;
        asked.mode = mode(&command);
        let running = self.recorder.running(&path);
        asked.reader = running.map(|recording| recording.enter());
        let upstream_type = recorder::content_type(&self.server.view(&path).await?.meta);
        let target = proxy.target(path);
        let mut answer = self.carry_out(session, &target, command, asked).await?;
        if let Answer::Reply(reply) = &mut answer {
            let name = names::UPSTREAM_CONTENT_TYPE;
            reply.head.set_text(name, &upstream_type);
            proxy.expose(&mut reply.head);
        }
        Ok(answer)
    }

    /// What is not there is deleted already.
    async fn remove(&self, proxy: &Proxy, path: StreamPath) -> Result<(), ServeError> {
        if let Some(recording) = self.recorder.running(&path) {
            recording.abort().await;
        }
        let target = proxy.target(path);
        let deleted = self.server.serve(&target, Command::Delete, Bytes::new());
        match deleted.await {
            Ok(_) | Err(ServeError::Unavailable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Proxy {
    pub(super) fn new(config: &config::Proxy, route: recorder::Route) -> Self {
        Self {
            streams: recorded_streams(config.cors),
            route: Arc::new(route),
            allow: Allowlist::new(config.allow.clone()),
            secrets: Secrets::new(config),
            error_bytes_max: config.error_bytes_max as usize,
            error_timeout: config.headers_timeout,
        }
    }

    /// The request that the upstream gets, and where it is (section 5.1).
    fn upstream_request(
        &self,
        client: &RequestHeader,
    ) -> Result<(RequestHeader, Allowed), ServeError> {
        let text = |name: HeaderName| client.headers.get(name)?.to_str().ok();
        let url = text(names::UPSTREAM_URL).ok_or(ServeError::NoUpstreamUrl)?;
        let method = text(names::UPSTREAM_METHOD).ok_or(ServeError::NoUpstreamMethod)?;
        let method = UPSTREAM_METHODS
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(method))
            .ok_or(ServeError::InvalidUpstreamMethod)?;
        let allowed = self.allow.check(url).map_err(|error| {
            tracing::debug!(%error, "an upstream is not allowed");
            ServeError::UpstreamNotAllowed
        })?;
        let mut head = client.clone();
        head.set_method(method);
        let authorization = head.remove_header(&names::UPSTREAM_AUTHORIZATION);
        for name in [
            header::AUTHORIZATION,
            names::UPSTREAM_URL,
            names::UPSTREAM_METHOD,
        ] {
            head.remove_header(&name);
        }
        if let Some(authorization) = authorization {
            let _ = head.insert_header(header::AUTHORIZATION, authorization);
        }
        Ok((head, allowed))
    }

    fn target(&self, path: StreamPath) -> Target<'_> {
        Target {
            route: &self.streams,
            path,
            location: None,
            resolve: &|_| None,
        }
    }

    fn created(&self, url: String, upstream: &HeaderMap) -> Answer {
        let mut head = self.head(StatusCode::CREATED);
        head.set_string(header::LOCATION, url);
        let content_type = upstream.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or(recorder::UNTYPED);
        head.set_text(names::UPSTREAM_CONTENT_TYPE, content_type);
        reply(head, Body::Empty)
    }

    /// The answer where the upstream's is none to record: its error, as far as that is not too long,
    /// and comes in time.
    async fn refused(&self, mut response: Response) -> Result<Answer, ServeError> {
        let status = response.head.status;
        if status.is_redirection() {
            return Err(ServeError::Redirect);
        }
        let until = Instant::now() + self.error_timeout;
        let mut body = BytesMut::new();
        while body.len() <= self.error_bytes_max
            && let Ok(Ok(Some(bytes))) = timeout_at(until, response.next()).await
        {
            body.extend_from_slice(&bytes);
        }
        let encoding = response.head.headers.get(header::CONTENT_ENCODING);
        if body.len() > self.error_bytes_max {
            // A part of what is encoded cannot be read.
            let kept = encoding.map_or(self.error_bytes_max, |_| 0);
            body.truncate(kept);
        }
        let mut head = self.head(StatusCode::BAD_GATEWAY);
        head.set_number(names::UPSTREAM_STATUS, u64::from(status.as_u16()));
        if let Some(content_type) = response.head.headers.get(header::CONTENT_TYPE) {
            head.set(header::CONTENT_TYPE, content_type.clone());
            head.set(names::UPSTREAM_CONTENT_TYPE, content_type.clone());
        }
        if let Some(encoding) = encoding {
            head.set(header::CONTENT_ENCODING, encoding.clone());
        }
        Ok(reply(head, Body::Full(body.freeze())))
    }

    fn preflight(&self) -> Answer {
        let mut head = self.head(StatusCode::NO_CONTENT);
        head.set_text(header::ALLOW, METHODS);
        if self.streams.config.cors {
            head.set_text(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            head.set_text(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
            head.set_text(header::ACCESS_CONTROL_MAX_AGE, "86400");
        }
        reply(head, Body::Empty)
    }

    fn health(&self) -> Answer {
        let mut head = self.head(StatusCode::OK);
        head.set_text(header::CONTENT_TYPE, "application/json");
        let body = Bytes::from_static(br#"{"status":"ok"}"#);
        reply(head, Body::Full(body))
    }

    fn done(&self) -> Answer {
        reply(self.head(StatusCode::NO_CONTENT), Body::Empty)
    }

    /// The reply that tells a client of an error.
    pub(super) fn error(&self, error: ServeError) -> Reply {
        let mut reply = error.into_proxy_reply(self.streams.config.cors);
        self.expose(&mut reply.head);
        reply
    }

    fn head(&self, status: StatusCode) -> Head {
        let mut head = Head::new(status, self.streams.config.cors);
        head.set_no_store();
        self.expose(&mut head);
        head
    }

    fn expose(&self, head: &mut Head) {
        if self.streams.config.cors {
            head.set_text(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

fn reply(head: Head, body: Body) -> Answer {
    Answer::Reply(Reply { head, body })
}

/// Whether a query is that of a signed URL, be it a valid one or not.
fn is_signed(query: &str) -> bool {
    let mut parameters = url::form_urlencoded::parse(query.as_bytes());
    parameters.any(|(name, _)| matches!(&*name, "signature" | "expires"))
}

/// The secrets of the services that may use a route.
struct Secrets {
    /// Digests made with it take the same time to compare whatever is compared.
    key: hmac::Key,
    digests: Vec<hmac::Tag>,
}

impl Secrets {
    fn new(config: &config::Proxy) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        let secrets = std::iter::once(&config.secret).chain(&config.previous_secrets);
        let digests = secrets.map(|secret| hmac::sign(&key, secret.as_bytes()));
        Self {
            digests: digests.collect(),
            key,
        }
    }

    /// Whether a request shows a secret, as `?secret=` or `Authorization: Bearer`.
    fn check(&self, request: &RequestHeader) -> Result<(), ServeError> {
        let query = request.uri.query().unwrap_or_default();
        let parameter = url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, value)| name == "secret" && !value.is_empty())
            .map(|(_, value)| value.into_owned());
        let given = parameter.or_else(|| bearer(request));
        let given = given.ok_or(ServeError::NoSecret)?;
        let fits = |digest: &&hmac::Tag| {
            hmac::verify(&self.key, given.as_bytes(), digest.as_ref()).is_ok()
        };
        // All are compared: which one fits must not be told by the time.
        match self.digests.iter().filter(fits).count() {
            0 => Err(ServeError::InvalidSecret),
            _ => Ok(()),
        }
    }
}

fn bearer(request: &RequestHeader) -> Option<String> {
    let value = request.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}
