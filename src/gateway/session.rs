//! From a Pingora session to `serve` and back.

use super::body::Bodies;
use super::connection::Keeping;
use super::events::{self, Events, Request};
use super::forward::Forwarder;
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
use crate::types::StreamPath;
use crate::upstream::ClientFacts;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header, uri::Authority};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What answers the requests of one listener.
pub struct Gateway {
    pub(super) server: Arc<Server>,
    pub(super) recorder: Arc<Recorder>,
    routes: Routes,
    pub(super) bodies: Bodies,
    path_bytes_max: usize,
    header_bytes_max: usize,
    pub(super) write_timeout: Duration,
    pub(super) keeping: Keeping,
}

/// What is known of a request once it has been read.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) mode: ModeLabel,
    route: Option<Arc<Route>>,
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
    /// The events of its answer, whose head is written.
    Live(Box<Events>),
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
    pub fn new(
        server: Arc<Server>,
        recorder: Arc<Recorder>,
        routes: Routes,
        limits: &Limits,
    ) -> Self {
        Self {
            bodies: Bodies::new(limits),
            keeping: Keeping::new(limits),
            server,
            recorder,
            routes,
            path_bytes_max: limits.path_bytes_max,
            header_bytes_max: limits.header_bytes_max,
            write_timeout: limits.write_timeout,
        }
    }

    /// Answers one request, or says who goes on with it. An error means that its answer broke off.
    pub(super) async fn handle(&self, session: &mut ServerSession) -> Result<Handled> {
        self.prepare(session);
        let mut asked = Asked {
            method: session.req_header().method.clone(),
            mode: ModeLabel::None,
            route: None,
            began: Instant::now(),
            recording: None,
            reader: None,
        };
        let routed = self.route(session);
        let (answer, route) = match routed {
            Ok(route) => {
                let _in_flight = route.metrics.enter();
                asked.route = Some(route.clone());
                let answer = Box::pin(self.answer(session, &route, &mut asked)).await;
                (answer, Some(route))
            }
            Err(error) => (Err(error), None),
        };
        let cors = route.as_ref().is_none_or(|route| route.cors());
        let sent = match answer {
            Ok(Answer::Reply(Reply {
                head,
                body: Body::Live(live),
            })) if events::need_no_session(session) => {
                return Box::pin(self.begin_events(session, head, live, asked)).await;
            }
            Ok(Answer::Reply(reply)) => self.respond(session, reply, &asked).await,
            Ok(Answer::Recorded(head, playback)) => {
                // Boxed, like all that readers of streams, who wait longest, need no room for.
                let recordings = &self.server.metrics.recordings;
                Box::pin(respond::play(session, head, *playback, recordings)).await
            }
            Ok(Answer::Passed(response)) => Box::pin(respond::pass(session, *response)).await,
            Ok(Answer::Forward(forwarder)) => return Ok(Handled::Forward(forwarder)),
            Ok(Answer::Nobody) => Sent::client_left(),
            Err(error) => {
                if let Some(refusal) = error.refusal() {
                    self.server.metrics.refused(refusal).inc();
                }
                Box::pin(self.bodies.drain(session)).await;
                let reply = match route.as_ref().map(|route| &route.kind) {
                    Some(Kind::Proxy(proxy)) => proxy.error(error),
                    _ => error.into_reply(cors),
                };
                self.respond(session, reply, &asked).await
            }
        };
        self.finished(
            &access(session, &asked.method, asked.pattern()),
            &asked,
            &sent,
        );
        match sent.broken {
            None => Ok(Handled::Answered),
            Some(error) => Err(error),
        }
    }

    /// Writes the head of a live answer.
    async fn begin_events(
        &self,
        session: &mut ServerSession,
        head: Head,
        live: Box<Sse>,
        asked: Asked,
    ) -> Result<Handled> {
        log_opened(session, &asked, &live);
        let mut sent = Sent::new(head.status);
        let head = respond::header(session, head, None);
        if let Err(error) = session.write_response_header(head).await {
            sent.live_end = Some(LiveEnd::ClientLeft);
            let access = access(session, &asked.method, asked.pattern());
            self.finished(&access, &asked, &sent);
            return Err(error.into_down());
        }
        let request = Request::of(session);
        Ok(Handled::Live(Box::new(Events {
            live,
            asked,
            request,
            sent,
        })))
    }

    fn prepare(&self, session: &mut ServerSession) {
        if session.get_keepalive().is_some() {
            let seconds = self.keeping.idle_seconds();
            let draining = self.server.draining.is_cancelled();
            session.set_keepalive((!draining).then_some(seconds));
        }
        session.set_write_timeout(Some(self.write_timeout));
        // What a client sends ahead belongs to its next request.
        session.set_pipelining_enabled(true);
    }

    fn route(&self, session: &ServerSession) -> Result<Arc<Route>, ServeError> {
        let request = session.req_header();
        if request.raw_path().len() > self.path_bytes_max {
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
        let host = host(session)?;
        let path = request.uri.path();
        let route = self.routes.find(&host, path).ok_or(ServeError::NoRoute)?;
        Ok(route.clone())
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
            Kind::Record(_, forwarder) if record::is_never_recorded(session.req_header()) => {
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
    /// The pattern of the request's route.
    pub(super) fn pattern(&self) -> &str {
        let route = self.route.as_ref();
        route.map_or(UNMATCHED_ROUTE, |route| route.metrics.pattern())
    }
}

fn long_poll_end(sent: &Sent) -> Option<LiveEnd<'static>> {
    match sent.status {
        StatusCode::OK => Some(LiveEnd::Delivered),
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

/// What the access log says of a request.
pub(super) fn access<'a>(
    session: &'a ServerSession,
    method: &'a Method,
    route: &'a str,
) -> Access<'a> {
    let request = session.req_header();
    let client = session.client_addr();
    Access {
        method: method.as_str(),
        path: request.uri.path(),
        query: request.uri.query(),
        route,
        client: client.map(|address| address as _),
        version: request.version,
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

/// The host that the client asks for, without its port, in lower case.
fn host(session: &ServerSession) -> Result<String, ServeError> {
    let request = session.req_header();
    let Some(value) = session.get_header(header::HOST) else {
        return match request.uri.authority() {
            Some(authority) => Ok(authority.host().to_ascii_lowercase()),
            None if request.version == Version::HTTP_11 => Err(ServeError::NoHost),
            None => Ok(String::new()),
        };
    };
    if value.is_empty() {
        return Ok(String::new());
    }
    let authority = Authority::try_from(value.as_bytes()).ok();
    authority
        .filter(|_| !value.as_bytes().contains(&b'@'))
        .map(|authority| authority.host().to_ascii_lowercase())
        .ok_or(ServeError::InvalidHost)
}

/// The host that the client asks for, with its port.
fn authority(session: &ServerSession) -> Option<Authority> {
    let request = session.req_header();
    let host = session.get_header(header::HOST);
    let host = host.and_then(|value| Authority::try_from(value.as_bytes()).ok());
    host.or_else(|| request.uri.authority().cloned())
}

/// The stream's URL as the client sees it.
fn location(session: &ServerSession, route: &serve::Route) -> String {
    let path = session.req_header().uri.path();
    let base = base_url(session, route.config.base_url.as_deref());
    format!("{base}{path}")
}

/// The scheme and host by which the client came, unless a setting says them; empty, if the client
/// named no host.
pub(super) fn base_url(session: &ServerSession, setting: Option<&str>) -> String {
    if let Some(base) = setting {
        return base.trim_end_matches('/').to_owned();
    }
    let scheme = if is_encrypted(session) {
        "https"
    } else {
        "http"
    };
    match authority(session) {
        Some(authority) => format!("{scheme}://{authority}"),
        None => String::new(),
    }
}

/// Whether the connection of a session is one of TLS.
pub(super) fn is_encrypted(session: &ServerSession) -> bool {
    let digest = session.digest();
    digest.is_some_and(|digest| digest.ssl_digest.is_some())
}

/// What an upstream is told of the client.
pub(super) fn client_facts(session: &ServerSession) -> ClientFacts {
    let address = session.client_addr().and_then(SocketAddr::as_inet);
    ClientFacts {
        address: address.map(std::net::SocketAddr::ip),
        encrypted: is_encrypted(session),
    }
}
