//! Routes whose streams have their home elsewhere.

use super::facts::{access, base_url, client_facts};
use super::forward::Forwarder;
use super::routes::{Route, has_dot_segments};
use super::session::{Answer, Asked, Gateway, read_mode};
use crate::edge::{self, CACHE_STATUS, Home};
use crate::observe::metrics::{Live, OriginRequest};
use crate::protocol::request::Mode;
use crate::serve::ServeError;
use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use std::borrow::Cow;
use std::sync::Arc;

/// A route whose streams have their home elsewhere.
pub struct Edge {
    pub(super) route: Arc<edge::Route>,
    /// What passes requests on to each origin, in their order.
    pub(super) forwarders: Vec<Arc<Forwarder>>,
}

impl Gateway {
    /// Answers a read, or passes any other request on to the stream's home.
    pub(super) async fn edge(
        &self,
        session: &mut ServerSession,
        route: &Route,
        edge: &Edge,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        let request = session.req_header();
        edge.route.check_loop(&request.headers)?;
        // The origin would resolve them.
        if has_dot_segments(request.uri.path()) {
            return Err(ServeError::Path("it holds a . or .. segment"));
        }
        let below = route.below(request.uri.path())?;
        let home = edge.route.home(&below);
        let is_stream = below != "__ds" && !below.starts_with("__ds/");
        if request.method != Method::GET || !is_stream {
            let forwarder = &edge.forwarders[home.place()];
            return forwarder.accept(session).map(Answer::Forward);
        }
        let mut head = request.clone();
        if let (None, Some(host)) = (head.headers.get(header::HOST), request.uri.authority()) {
            let _ = head.insert_header(header::HOST, host.as_str());
        }
        let path = stream_path(request);
        let read = edge.route.asked(head, client_facts(session), home, &path);
        asked.mode = read_mode(read.mode());
        if read.mode() == Mode::LongPoll {
            let access = access(session, &asked.method, asked.pattern());
            access.live_opened(Live::LongPoll, &read.offset());
        }
        // A body means nothing here.
        self.bodies.drain(session).await;
        // Boxed: most waiting is done here.
        let mut answered = Box::pin(edge.route.read(read));
        tokio::select! {
            biased;
            reply = &mut answered => reply.map(Answer::Reply),
            _ = session.read_body_or_idle(true) => Ok(Answer::Nobody),
        }
    }
}

/// The path of a stream as it is known whoever writes it how.
fn stream_path(request: &RequestHeader) -> Cow<'_, str> {
    percent_decode_str(request.uri.path()).decode_utf8_lossy()
}

/// What happens to requests that are passed on to an origin, and to their answers.
pub(super) struct Passing {
    pub(super) route: Arc<edge::Route>,
    pub(super) home: Home,
}

impl Passing {
    /// Whether pages of any origin may read errors.
    pub(super) fn cors(&self) -> bool {
        self.route.settings.cors
    }

    pub(super) fn mark(&self, request: &mut RequestHeader) {
        let metrics = self.route.metrics();
        metrics.requests(OriginRequest::Pass).inc();
        self.route.mark(request);
    }

    /// Sees to it that what is known of the stream is forgotten, where the answer says so, and that
    /// the answer is one of this edge.
    pub(super) async fn answered(&self, session: &ServerSession, answer: &mut ResponseHeader) {
        let request = session.req_header();
        let path = stream_path(request);
        let home = self.home;
        self.route.answered(home, &path, request, answer).await;
        let created = answer.status == StatusCode::CREATED;
        if created && answer.headers.contains_key(header::LOCATION) {
            let base = base_url(session, self.route.settings.base_url.as_deref());
            let _ = answer.insert_header(header::LOCATION, format!("{base}{}", request.uri.path()));
        }
        let status = match request.method {
            Method::GET => HeaderValue::from_static("headwater; fwd=bypass"),
            _ => HeaderValue::from_static("headwater; fwd=method"),
        };
        let _ = answer.insert_header(CACHE_STATUS, status);
    }
}
