//! From a Pingora session to `serve` and back.

use super::admission::Open;
use super::bare::{self, Begun, Connection};
use super::body::Bodies;
use super::connection::ConnectionOptions;
use super::crowd::Crowds;
use super::events::Events;
use super::facts::{access, host, location};
use super::forward::Forwarder;
use super::head::HeadLimits;
use super::keeping::Keeping;
use super::playing::Playing;
use super::record;
use super::respond::{self, Sent};
use super::routes::{Kind, Route, Routes};
use crate::config::Limits;
use crate::observe::access::{Access, Finished, LiveEnd};
use crate::observe::metrics::{Live, Method as MethodLabel, Mode as ModeLabel, UNMATCHED_ROUTE};
use crate::protocol::reply::Head;
use crate::protocol::request::{self, Command, Mode};
use crate::recorder::{Playback, Reader, Recorder, Response};
use crate::serve::{self, Body, Reply, ServeError, Server, Sse, Target};
use crate::types::{Offset, StreamPath};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::Instant;

/// What answers the requests of one listener.
pub struct Gateway {
    pub(super) server: Arc<Server>,
    pub(super) recorder: Arc<Recorder>,
    routes: Routes,
    pub(super) bodies: Arc<Bodies>,
    path_bytes_max: usize,
    header_bytes_max: usize,
    pub(super) heads: HeadLimits,
    pub(super) connections: ConnectionOptions,
    pub(super) keeping: Keeping,
    pub(super) crowds: Crowds,
}

/// What is known of a request once it has been read.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) mode: ModeLabel,
    pub(super) route: Option<Arc<Route>>,
    began: Instant,
    /// The stream of the recording that the request is about.
    pub(super) recording: Option<StreamPath>,
    /// Counts the request as a reader of a recording that runs.
    pub(super) reader: Option<Reader>,
}

/// What comes after a request was read.
pub(super) enum Handled {
    /// Nothing: it is answered.
    Answered,
    /// Passing it on.
    Forward(Arc<Forwarder>),
    /// The rest of its answer, whose head is written.
    Begun(Rest),
}

/// The rest of an answer, which needs no session.
pub(super) enum Rest {
    Events(Box<Events>),
    Playing(Box<Playing>),
}

impl Rest {
    /// Sends it in a task of its own: that of requests is as large as they need.
    pub(super) fn spawn(self, connection: Connection, gateway: Arc<Gateway>, open: Open) {
        match self {
            Self::Events(events) => tokio::spawn(events.run(connection, gateway, open)),
            Self::Playing(playing) => tokio::spawn(playing.run(connection, gateway, open)),
        };
    }
}

/// What answers a request.
pub(super) enum Answer {
    Reply(Reply),
    /// A recorded answer, as its client gets it.
    Recorded(Box<ResponseHeader>, Box<Playback>),
    /// An upstream's answer as it comes.
    Passed(Box<Response>),
    /// Passing the request on: it is not answered here.
    Forward(Arc<Forwarder>),
    /// Nobody is there any more.
    Nobody,
}

impl Gateway {
    pub(super) fn new(
        server: Arc<Server>,
        recorder: Arc<Recorder>,
        routes: Routes,
        bodies: Arc<Bodies>,
        limits: &Limits,
    ) -> Self {
        Self {
            bodies,
            connections: ConnectionOptions::new(limits),
            keeping: Keeping::new(limits, server.draining.clone()),
            crowds: Crowds::default(),
            server,
            recorder,
            routes,
            path_bytes_max: limits.path_bytes_max,
            header_bytes_max: limits.header_bytes_max,
            heads: HeadLimits::new(limits),
        }
    }

    /// Answers one request, or says who goes on with it. An error means that its answer broke off.
    pub(super) async fn handle(&self, session: &mut ServerSession) -> Result<Handled> {
        self.keeping.prepare(session);
        let mut asked = Asked::new(session.req_header().method.clone());
        let routed = self.route(session);
        let (answer, route) = match routed {
            Ok(route) => {
                let route = route.clone();
                let _in_flight = route.metrics.enter();
                asked.route = Some(route.clone());
                let answer = Box::pin(self.answer(session, &route, &mut asked)).await;
                (answer, Some(route))
            }
            Err(error) => (Err(error), None),
        };
        let still_sends = matches!(answer, Err(ServeError::BodyTooSlow));
        let sent = match answer {
            Ok(Answer::Reply(Reply {
                head,
                body: Body::Live(live),
            })) if bare::need_no_session(session) => {
                return Box::pin(self.begin_events(session, head, live, asked)).await;
            }
            Ok(Answer::Reply(reply)) => self.respond(session, reply, &asked).await,
            Ok(Answer::Recorded(head, playback)) if bare::need_no_session(session) => {
                return Box::pin(self.begin_playing(session, head, playback, asked)).await;
            }
            Ok(Answer::Recorded(head, playback)) => {
                // Boxed, like all that readers of streams, who wait longest, need no room for.
                let recordings = &self.server.metrics.recordings;
                Box::pin(respond::play(session, head, *playback, recordings)).await
            }
            Ok(Answer::Passed(response)) => Box::pin(respond::pass(session, *response)).await,
            Ok(Answer::Forward(forwarder)) => return Ok(Handled::Forward(forwarder)),
            Ok(Answer::Nobody) => Sent::client_left(),
            Err(error) => {
                if error.ends_connection() {
                    session.set_keepalive(None);
                } else {
                    Box::pin(self.bodies.drain(session)).await;
                }
                let reply = self.refuse(error, route.as_deref());
                self.respond(session, reply, &asked).await
            }
        };
        self.finished(
            &access(session, &asked.method, asked.pattern()),
            &asked,
            &sent,
        );
        if still_sends && !session.is_http2() {
            // Were the connection closed at once, it might be reset before the answer is read.
            Box::pin(self.bodies.drain(session)).await;
        }
        match sent.broken {
            None => Ok(Handled::Answered),
            Some(error) => Err(error),
        }
    }

    async fn begin_events(
        &self,
        session: &mut ServerSession,
        head: Head,
        live: Box<Sse>,
        asked: Asked,
    ) -> Result<Handled> {
        log_opened(session, &asked, &live);
        let head = respond::header(session, head, None);
        let begun = self.begin(session, head, asked, live.position()).await?;
        let events = Box::new(Events { live, begun });
        Ok(Handled::Begun(Rest::Events(events)))
    }

    async fn begin_playing(
        &self,
        session: &mut ServerSession,
        head: Box<ResponseHeader>,
        playback: Box<Playback>,
        asked: Asked,
    ) -> Result<Handled> {
        let head = respond::unmeasured(session, head);
        let position = Offset(playback.position()).to_string();
        let begun = self.begin(session, head, asked, position).await?;
        let playing = Box::new(Playing { playback, begun });
        Ok(Handled::Begun(Rest::Playing(playing)))
    }

    /// Writes the head of an answer that begins at `position` of its stream.
    async fn begin(
        &self,
        session: &mut ServerSession,
        head: Box<ResponseHeader>,
        asked: Asked,
        position: String,
    ) -> Result<Begun> {
        let mut sent = Sent::new(head.status);
        if let Err(error) = session.write_response_header(head).await {
            sent.live_end = Some(LiveEnd::ClientLeft);
            let access = access(session, &asked.method, asked.pattern());
            self.finished(&access, &asked, &sent);
            return Err(error.into_down());
        }
        Ok(Begun::new(session, asked, sent, position))
    }

    fn route(&self, session: &ServerSession) -> Result<&Arc<Route>, ServeError> {
        let request = session.req_header();
        self.find_route(request, request.raw_path().len())
    }

    /// The route of a request whose target was sent in so many bytes.
    pub(super) fn find_route(
        &self,
        request: &Parts,
        target_bytes: usize,
    ) -> Result<&Arc<Route>, ServeError> {
        if request.method == Method::CONNECT {
            return Err(ServeError::Tunnel);
        }
        if target_bytes > self.path_bytes_max {
            return Err(ServeError::PathTooLong {
                bytes_max: self.path_bytes_max,
            });
        }
        let headers = request.headers.iter();
        let header_bytes: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        if header_bytes > self.header_bytes_max {
            return Err(ServeError::HeadersTooLarge {
                bytes_max: self.header_bytes_max,
            });
        }
        let host = host(request)?;
        let path = request.uri.path();
        self.routes.find(&host, path).ok_or(ServeError::NoRoute)
    }

    async fn answer(
        &self,
        session: &mut ServerSession,
        route: &Arc<Route>,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        match &route.kind {
            Kind::Streams(streams) => self.serve(session, route, streams, asked).await,
            Kind::Edge(edge) => Box::pin(self.edge(session, route, edge, asked)).await,
            Kind::Record(_, forwarder) if record::is_never_recorded(session) => {
                forwarder.accept(session).map(Answer::Forward)
            }
            Kind::Record(record, _) => Box::pin(self.record(session, record, asked)).await,
            Kind::ReverseProxy(forwarder) => forwarder.accept(session).map(Answer::Forward),
            Kind::Recordings(recordings) => {
                Box::pin(self.recordings(session, route, recordings, asked)).await
            }
            Kind::Proxy(proxy) => Box::pin(self.proxy(session, route, proxy, asked)).await,
        }
    }

    /// Answers a request for a stream.
    async fn serve(
        &self,
        session: &mut ServerSession,
        route: &Arc<Route>,
        streams: &serve::Route,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        let request = session.req_header();
        let namespace = &streams.config.namespace;
        let path = route.stream_path(namespace, request.uri.path())?;
        let command = request::parse(&request.method, request.uri.query(), &request.headers)?;
        asked.mode = mode(&command);
        let location = match command {
            Command::Create(_) => Some(location(session, streams)),
            _ => None,
        };
        let resolve = |path: &str| route.stream_path(namespace, path).ok();
        let target = Target {
            route: streams,
            path,
            location,
            resolve: &resolve,
        };
        self.carry_out(session, &target, command, asked).await
    }

    /// Carries a command out.
    pub(super) async fn carry_out(
        &self,
        session: &mut ServerSession,
        target: &Target<'_>,
        command: Command,
        asked: &Asked,
    ) -> Result<Answer, ServeError> {
        if let Command::Read(read) = &command {
            if read.mode == Mode::LongPoll {
                let access = access(session, &asked.method, asked.pattern());
                access.live_opened(Live::LongPoll, &read.from);
            }
            return self.serve_read(session, target, command).await;
        }
        let body = self.bodies.read(session).await?;
        let served = self.server.serve(target, command, body.bytes.clone());
        served.await.map(Answer::Reply)
    }

    /// Reads while watching the client, who may leave while there is nothing to say.
    async fn serve_read(
        &self,
        session: &mut ServerSession,
        target: &Target<'_>,
        command: Command,
    ) -> Result<Answer, ServeError> {
        let waits = matches!(&command, Command::Read(read) if read.mode == Mode::LongPoll);
        // A body means nothing here.
        self.bodies.drain(session).await;
        let served = self.server.serve(target, command, Bytes::new());
        if !waits {
            return served.await.map(Answer::Reply);
        }
        // Boxed: most waiting is done here.
        let mut served = Box::pin(served);
        tokio::select! {
            biased;
            reply = &mut served => reply.map(Answer::Reply),
            _ = session.read_body_or_idle(true) => Ok(Answer::Nobody),
        }
    }

    async fn respond(&self, session: &mut ServerSession, reply: Reply, asked: &Asked) -> Sent {
        if let Body::Live(live) = &reply.body {
            log_opened(session, asked, live);
        }
        respond::respond(session, reply, &asked.method).await
    }

    /// The reply that tells of an error.
    pub(super) fn refuse(&self, error: ServeError, route: Option<&Route>) -> Reply {
        if let Some(refusal) = error.refusal() {
            self.server.metrics.refused(refusal).inc();
        }
        match route.map(|route| &route.kind) {
            Some(Kind::Proxy(proxy)) => proxy.error(error),
            _ => error.into_reply(route.is_none_or(Route::cors)),
        }
    }

    /// Counts the request and writes it down.
    pub(super) fn finished(&self, access: &Access<'_>, asked: &Asked, sent: &Sent) {
        let elapsed = asked.began.elapsed();
        let status = sent.status.as_u16();
        let metrics = match &asked.route {
            Some(route) => &route.metrics,
            None => self.server.metrics.unmatched(),
        };
        metrics.observe(
            MethodLabel::from(&asked.method),
            asked.mode,
            status,
            elapsed,
        );
        if !crate::observe::access::enabled() {
            return;
        }
        let live = match asked.mode {
            ModeLabel::Sse => sent.live_end.map(|end| (Live::Sse, end)),
            ModeLabel::LongPoll => long_poll_end(sent).map(|end| (Live::LongPoll, end)),
            ModeLabel::CatchUp | ModeLabel::None => None,
        };
        let offsets = sent.offsets.as_ref();
        let stream = asked.recording.as_ref().map(StreamPath::path);
        access.finished(&Finished {
            status,
            bytes: sent.bytes,
            elapsed,
            offsets: offsets.map(|(from, to)| (from as _, to as _)),
            live,
            stream,
        });
    }
}

impl Asked {
    /// A request whose head was read just now.
    pub(super) fn new(method: Method) -> Self {
        Self {
            method,
            mode: ModeLabel::None,
            route: None,
            began: Instant::now(),
            recording: None,
            reader: None,
        }
    }

    /// The pattern of the request's route.
    pub(super) fn pattern(&self) -> &str {
        let route = self.route.as_ref();
        route.map_or(UNMATCHED_ROUTE, |route| route.metrics.pattern())
    }
}

fn long_poll_end(sent: &Sent) -> Option<LiveEnd<'static>> {
    match sent.status {
        StatusCode::OK => Some(LiveEnd::Delivered),
        StatusCode::NO_CONTENT if sent.closed => Some(LiveEnd::StreamClosed),
        StatusCode::NO_CONTENT => Some(LiveEnd::TimedOut),
        StatusCode::NOT_FOUND | StatusCode::GONE => Some(LiveEnd::StreamGone),
        status if status.as_u16() == respond::CLIENT_LEFT => Some(LiveEnd::ClientLeft),
        _ => None,
    }
}

fn log_opened(session: &ServerSession, asked: &Asked, live: &Sse) {
    if crate::observe::access::enabled() {
        let access = access(session, &asked.method, asked.pattern());
        access.live_opened(Live::Sse, &live.position());
    }
}

pub(super) fn mode(command: &Command) -> ModeLabel {
    match command {
        Command::Read(read) => read_mode(read.mode),
        _ => ModeLabel::None,
    }
}

pub(super) fn read_mode(mode: Mode) -> ModeLabel {
    match mode {
        Mode::CatchUp => ModeLabel::CatchUp,
        Mode::LongPoll => ModeLabel::LongPoll,
        Mode::Sse => ModeLabel::Sse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_poll_says_why_it_ended() {
        let end = |status, closed| {
            let mut head = Head::new(status, false);
            head.set_closed(closed, None);
            long_poll_end(&Sent::of(&head))
        };
        for (status, closed, expected) in [
            (StatusCode::OK, false, LiveEnd::Delivered),
            (StatusCode::OK, true, LiveEnd::Delivered),
            (StatusCode::NO_CONTENT, false, LiveEnd::TimedOut),
            (StatusCode::NO_CONTENT, true, LiveEnd::StreamClosed),
            (StatusCode::GONE, false, LiveEnd::StreamGone),
        ] {
            assert_eq!(end(status, closed), Some(expected), "{status} {closed}");
        }
        assert_eq!(
            long_poll_end(&Sent::client_left()),
            Some(LiveEnd::ClientLeft)
        );
        assert_eq!(end(StatusCode::SERVICE_UNAVAILABLE, false), None);
    }
}
