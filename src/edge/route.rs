//! A route by which streams of origins are served.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use ring::hmac;

use super::Edge;
use super::answer::Answer;
use super::asked::{Asked, Parameters, Subject, Variant, stream_key};
use super::cache::{Purge, Scope, StreamKey, Wish};
use super::fetch::OriginRead;
use super::identities::{Learned, identity};
use super::origins::Origins;
use super::via::Via;
use crate::config::{Origin, Streams};
use crate::observe::metrics::{EdgeMetrics, UpstreamMetrics};
use crate::protocol::coding::Accepted;
use crate::protocol::names;
use crate::protocol::request::Mode;
use crate::serve::{Reply, ServeError};
use crate::upstream::{ClientFacts, UpstreamError, Upstreams, strip_request};

/// A route by which streams of origins are served.
pub struct Route {
    pub(super) edge: Arc<Edge>,
    pub settings: Streams,
    pub(super) origins: Origins,
    pub(super) via: Via,
    pub(super) linger: std::time::Duration,
    credentials: Vec<HeaderName>,
    shared: bool,
    preserve_host: bool,
    /// What tells answers to this route from those to other routes with the same origins.
    name: Arc<str>,
    key: hmac::Key,
}

/// Where a request is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home(usize);

impl Home {
    /// Its place among [`Route::homes`].
    pub fn place(self) -> usize {
        self.0
    }
}

impl Route {
    /// Its origins are checked until the edge stops. Must be called on a Tokio runtime.
    pub fn new(
        edge: Arc<Edge>,
        settings: Streams,
        origin: &Origin,
        metrics: &Arc<UpstreamMetrics>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let secret = edge.server.log.secret();
        let header = |name: &String| HeaderName::try_from(name).ok();
        Ok(Arc::new(Self {
            origins: Origins::new(origin, metrics, &edge.stop)?,
            via: Via::new(origin.name.as_deref()),
            linger: origin.linger,
            credentials: origin.credentials.iter().filter_map(header).collect(),
            shared: origin.shared,
            preserve_host: origin.preserve_host,
            name: name(origin).into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            edge,
            settings,
        }))
    }

    /// Each origin, and how requests come to it.
    pub fn homes(&self) -> impl Iterator<Item = (Home, &Arc<Upstreams>)> {
        let all = self.origins.all().iter().enumerate();
        all.map(|(place, origin)| (Home(place), &origin.upstreams))
    }

    /// Where the stream with this path below the route has its home.
    pub fn home(&self, below: &str) -> Home {
        Home(self.origins.home(below))
    }

    /// Refuses a request that has been here before.
    pub fn check_loop(&self, request: &HeaderMap) -> Result<(), ServeError> {
        if self.via.has_passed(request) {
            return Err(ServeError::Loop);
        }
        Ok(())
    }

    /// The figures of edge routes.
    pub fn metrics(&self) -> &Arc<EdgeMetrics> {
        &self.edge.server.metrics.edge
    }

    /// What a GET asks for. `path` is that of its URL, decoded.
    pub fn asked(
        &self,
        mut head: RequestHeader,
        client: ClientFacts,
        home: Home,
        path: &str,
    ) -> Asked {
        // They are the client's, and say nothing of what the edge adds.
        strip_request(&mut head);
        let parameters = Parameters::read(head.uri.query().unwrap_or_default());
        let others = parameters.as_ref().map(|read| read.others.clone());
        let subject = self.subject(head, client, home, path, others.unwrap_or_default());
        Asked::new(parameters, subject)
    }

    fn subject(
        &self,
        head: RequestHeader,
        client: ClientFacts,
        home: Home,
        path: &str,
        parameters: Arc<str>,
    ) -> Subject {
        let host = self.host(&head);
        let route = match &host {
            Some(host) => format!("{}@{host}", self.name).into(),
            None => self.name.clone(),
        };
        Subject {
            home: home.0,
            key: self.stream_key(home, host.as_deref(), path),
            stream: path.into(),
            variant: Variant {
                route,
                path: head.uri.path().into(),
                parameters,
            },
            scope: self.scope(&head.headers),
            head: Arc::new(head),
            client,
        }
    }

    /// Who may be given the same answers as whoever sent these headers.
    fn scope(&self, headers: &HeaderMap) -> Scope {
        if self.shared {
            return Scope::Shared;
        }
        let mut context = hmac::Context::with_key(&self.key);
        let mut some = false;
        for name in &self.credentials {
            for value in headers.get_all(name) {
                some = true;
                for part in [name.as_str().as_bytes(), value.as_bytes()] {
                    context.update(&(part.len() as u64).to_be_bytes());
                    context.update(part);
                }
            }
        }
        if !some {
            return Scope::Anonymous;
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        Scope::Caller(digest)
    }

    /// Answers a GET.
    pub async fn read(self: &Arc<Self>, asked: Asked) -> Result<Reply, ServeError> {
        match asked.mode {
            None => {
                let read = OriginRead::as_it_is(self, &asked.subject);
                let answer = Answer::bypass(&read).await?;
                Ok(answer.into_reply(self))
            }
            Some(Mode::CatchUp) => {
                let tag = asked.if_none_match.as_deref();
                let wish = self.wish(&asked.subject.head.headers);
                let subject = &asked.subject;
                let answer = self.catch_up(subject, &asked.offset, tag, wish).await?;
                Ok(answer.into_reply(self))
            }
            Some(Mode::LongPoll) => self.long_poll(asked).await,
            Some(Mode::Sse) => self.sse(asked).await,
        }
    }

    /// How a client would like its answer, of what this route offers.
    fn wish(&self, headers: &HeaderMap) -> Option<Wish> {
        let compression = &self.settings.compression;
        let coding = Accepted::of(headers).choose(&compression.codings)?;
        Some(Wish {
            coding,
            bytes_min: compression.bytes_min,
        })
    }

    /// The host that was asked, where the origin is told it, and may have other streams for another.
    fn host(&self, request: &RequestHeader) -> Option<String> {
        if !self.preserve_host {
            return None;
        }
        let host = match request.headers.get(header::HOST) {
            Some(host) => host.to_str().ok()?,
            None => request.uri.authority()?.as_str(),
        };
        Some(host.to_ascii_lowercase())
    }

    /// The name under which what is known of a stream is kept.
    fn stream_key(&self, home: Home, host: Option<&str>, path: &str) -> Arc<str> {
        let origin = &self.origins.all()[home.0].name;
        stream_key(origin, host.unwrap_or_default(), path)
    }

    /// Learns from the head of an origin's answer whether the stream is still the one it was.
    /// `from_known`: it was asked for a place that every stream has.
    pub(super) async fn learn(
        &self,
        subject: &Subject,
        from_known: bool,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        if let Some(identity) = identity(headers)
            && self.edge.identities.learn(&subject.key, identity) == Learned::Replaced
        {
            self.forget(subject).await;
            return;
        }
        let trimmed = headers.contains_key(names::STREAM_EARLIEST_OFFSET);
        let gone = status == StatusCode::GONE && !trimmed;
        if status == StatusCode::NOT_FOUND || (gone && from_known) {
            self.end_for(subject);
        }
        if status == StatusCode::NOT_FOUND || gone {
            self.doubt_answers(subject).await;
        }
    }

    /// A stream is gone for those who ask like this, and perhaps for them alone: others find out by
    /// themselves.
    pub(super) fn end_for(&self, subject: &Subject) {
        self.edge.lives.end_for(subject);
        self.edge.subscriptions.end_for(subject);
    }

    /// Forgets all of a stream that is another one.
    pub(super) async fn forget(&self, subject: &Subject) {
        let (home, path) = (Home(subject.home), &subject.stream);
        self.forget_stream(&subject.key, home, path).await;
    }

    /// Forgets what is kept of a stream, and what is on its way.
    pub(super) async fn forget_answers(&self, subject: &Subject) {
        self.edge.generations.advance(&subject.key);
        self.purge(Home(subject.home), &subject.stream).await;
    }

    /// Lets nothing that is kept of a stream be given before its home was asked about it.
    pub(super) async fn doubt_answers(&self, subject: &Subject) {
        let (home, path) = (Home(subject.home), &subject.stream);
        self.doubt(&subject.key, home, path).await;
    }

    /// A stream is gone for somebody, and perhaps for him alone.
    async fn doubt(&self, key: &str, home: Home, path: &str) {
        self.edge.generations.advance(key);
        let origin = &self.origins.all()[home.0].name;
        let is_certain = |headers: &HeaderMap| identity(headers).is_some();
        let stream = StreamKey { origin, path };
        let doubted = self.edge.cache.doubt(stream, is_certain).await;
        report(doubted.err(), path);
    }

    async fn forget_stream(&self, key: &str, home: Home, path: &str) {
        // First of all: whoever has begun before must not go on with what comes now.
        self.edge.lives.end(key);
        self.edge.subscriptions.end(key);
        self.edge.generations.advance(key);
        self.purge(home, path).await;
    }

    async fn purge(&self, home: Home, path: &str) {
        let purge = Purge::Stream {
            origin: self.origins.all()[home.0].name.clone(),
            path: path.to_owned(),
        };
        report(self.edge.cache.purge(purge).await.err(), path);
    }

    /// A request other than a GET was answered by the stream's home. `path` is that of its URL,
    /// decoded.
    pub async fn answered(
        &self,
        home: Home,
        path: &str,
        request: &RequestHeader,
        head: &mut ResponseHeader,
    ) {
        let method = &request.method;
        let stream = self.stream_key(home, self.host(request).as_deref(), path);
        let reads = matches!(*method, Method::HEAD | Method::OPTIONS);
        let created = *method == Method::PUT && head.status == StatusCode::CREATED;
        let deleted = *method == Method::DELETE && head.status.is_success();
        let gone = matches!(head.status, StatusCode::NOT_FOUND | StatusCode::GONE);
        if created || deleted {
            self.forget_stream(&stream, home, path).await;
        } else if gone {
            self.doubt(&stream, home, path).await;
        } else if !reads {
            self.written(&stream, head);
        }
        let (name, value) = self.via.entry();
        let _ = head.append_header(name, value);
    }

    /// Takes what a stream's home has answered to a write.
    fn written(&self, stream: &str, head: &ResponseHeader) {
        self.edge.generations.advance(stream);
        if !head.status.is_success() {
            return;
        }
        let next = head.headers.get(names::STREAM_NEXT_OFFSET);
        let closed = head.headers.get(names::STREAM_CLOSED);
        let closed = closed.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(b"true"));
        if let Some(next) = next.and_then(|next| next.to_str().ok()) {
            self.edge.subscriptions.written(stream, next, closed);
        }
    }

    /// Writes on a request that is passed on that it went by here.
    pub fn mark(&self, head: &mut RequestHeader) {
        let (name, value) = self.via.entry();
        let _ = head.append_header(name, value);
    }
}

fn report(error: Option<io::Error>, path: &str) {
    if let Some(error) = error {
        tracing::warn!(%error, path, "answers of a stream that is gone are still on disk");
    }
}

/// What tells answers to a route from those to another with the same origins: what it changes in
/// requests and answers, and as whom it asks.
fn name(origin: &Origin) -> String {
    let rules = (
        &origin.request_headers,
        &origin.response_headers,
        &origin.tls,
    );
    let text = format!("{rules:?}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..9])
}
