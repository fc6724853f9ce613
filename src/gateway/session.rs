//! From a Pingora session to `serve` and back.

use super::body::Bodies;
use super::connection::Keeping;
use super::forward::Forwarder;
use super::respond::{self, Sent};
use super::routes::{Kind, Route, Routes};
use crate::config::Limits;
use crate::observe::access::{Access, Finished, LiveEnd};
use crate::observe::metrics::{Live, Method as MethodLabel, Mode as ModeLabel, UNMATCHED_ROUTE};
use crate::protocol::request::{self, Command, Mode};
use crate::serve::{self, Body, Reply, ServeError, Server, Target};
use bytes::Bytes;
use http::{Method, StatusCode, Version, header, uri::Authority};
use pingora::Result;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What answers the requests of one listener.
pub struct Gateway {
    pub(super) server: Arc<Server>,
    routes: Routes,
    bodies: Bodies,
    path_bytes_max: usize,
    header_bytes_max: usize,
    write_timeout: Duration,
    pub(super) keeping: Keeping,
}

/// What is known of a request once it has been read.
struct Asked {
    method: Method,
    mode: ModeLabel,
    route: Option<Arc<Route>>,
    began: Instant,
}

impl Gateway {
    pub fn new(server: Arc<Server>, routes: Routes, limits: &Limits) -> Self {
        Self {
            bodies: Bodies::new(limits),
            keeping: Keeping::new(limits),
            server,
            routes,
            path_bytes_max: limits.path_bytes_max,
            header_bytes_max: limits.header_bytes_max,
            write_timeout: limits.write_timeout,
        }
    }

    /// Answers one request, or says who is to pass it on. An error means that its answer broke off.
    pub(super) async fn handle(
        &self,
        session: &mut ServerSession,
    ) -> Result<Option<Arc<Forwarder>>> {
        self.prepare(session);
        let mut asked = Asked {
            method: session.req_header().method.clone(),
            mode: ModeLabel::None,
            route: None,
            began: Instant::now(),
        };
        let routed = self.route(session);
        let (reply, route) = match routed {
            Ok(route) => {
                let _in_flight = route.metrics.enter();
                asked.route = Some(route.clone());
                let served = match &route.kind {
                    Kind::Streams(streams) => {
                        Box::pin(self.serve(session, &route, streams, &mut asked)).await
                    }
                    Kind::ReverseProxy(forwarder) => match forwarder.check(session) {
                        Ok(()) => return Ok(Some(forwarder.clone())),
                        Err(error) => Err(error),
                    },
                    Kind::Later => Err(ServeError::NoRoute),
                };
                (served, Some(route.clone()))
            }
            Err(error) => (Err(error), None),
        };
        let cors = route.as_ref().is_none_or(|route| route.cors());
        let sent = match reply {
            Ok(Some(reply)) => self.respond(session, reply, &asked).await,
            Ok(None) => Sent::client_left(),
            Err(error) => {
                if let Some(refusal) = error.refusal() {
                    self.server.metrics.refused(refusal).inc();
                }
                Box::pin(self.bodies.drain(session)).await;
                self.respond(session, error.into_reply(cors), &asked).await
            }
        };
        self.finished(session, &asked, &sent);
        match sent.broken {
            None => Ok(None),
            Some(error) => Err(error),
        }
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

    /// Carries a request out. `None`: the client left while it waited.
    async fn serve(
        &self,
        session: &mut ServerSession,
        route: &Arc<Route>,
        streams: &serve::Route,
        asked: &mut Asked,
    ) -> Result<Option<Reply>, ServeError> {
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
        if let Command::Read(read) = &command {
            if read.mode == Mode::LongPoll {
                access(session, &asked.method, route.metrics.pattern(), |access| {
                    access.live_opened(Live::LongPoll, &read.from);
                });
            }
            return self.serve_read(session, &target, command).await;
        }
        let body = self.bodies.read(session).await?;
        let reply = self
            .server
            .serve(&target, command, body.bytes.clone())
            .await?;
        Ok(Some(reply))
    }

    /// Reads while watching the client, who may leave while there is nothing to say.
    async fn serve_read(
        &self,
        session: &mut ServerSession,
        target: &Target<'_>,
        command: Command,
    ) -> Result<Option<Reply>, ServeError> {
        let waits = matches!(&command, Command::Read(read) if read.mode == Mode::LongPoll);
        // A body means nothing here.
        self.bodies.drain(session).await;
        let served = self.server.serve(target, command, Bytes::new());
        if !waits {
            return served.await.map(Some);
        }
        // Boxed: most waiting is done here.
        let mut served = Box::pin(served);
        tokio::select! {
            biased;
            reply = &mut served => reply.map(Some),
            _ = session.read_body_or_idle(true) => Ok(None),
        }
    }

    async fn respond(&self, session: &mut ServerSession, reply: Reply, asked: &Asked) -> Sent {
        if let Body::Live(live) = &reply.body
            && let Some(route) = &asked.route
        {
            let offset = crate::types::Offset(live.position());
            access(session, &asked.method, route.metrics.pattern(), |access| {
                access.live_opened(Live::Sse, &offset);
            });
        }
        respond::respond(session, reply, &asked.method).await
    }

    /// Counts the request and writes it down.
    fn finished(&self, session: &ServerSession, asked: &Asked, sent: &Sent) {
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
        let pattern = asked
            .route
            .as_ref()
            .map_or(UNMATCHED_ROUTE, |route| route.metrics.pattern());
        access(session, &asked.method, pattern, |access| {
            access.finished(&Finished {
                status,
                bytes: sent.bytes,
                elapsed,
                offsets: offsets.map(|(from, to)| (from as _, to as _)),
                live,
            });
        });
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

pub(super) fn access(
    session: &ServerSession,
    method: &Method,
    route: &str,
    log: impl FnOnce(&Access<'_>),
) {
    let request = session.req_header();
    let client = session.client_addr();
    log(&Access {
        method: method.as_str(),
        path: request.uri.path(),
        query: request.uri.query(),
        route,
        client: client.map(|address| address as _),
        version: request.version,
    });
}

fn mode(command: &Command) -> ModeLabel {
    match command {
        Command::Read(read) => match read.mode {
            Mode::CatchUp => ModeLabel::CatchUp,
            Mode::LongPoll => ModeLabel::LongPoll,
            Mode::Sse => ModeLabel::Sse,
        },
        _ => ModeLabel::None,
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
    if let Some(base) = &route.config.base_url {
        return format!("{}{path}", base.trim_end_matches('/'));
    }
    let digest = session.digest();
    let encrypted = digest.is_some_and(|digest| digest.ssl_digest.is_some());
    let scheme = if encrypted { "https" } else { "http" };
    match authority(session) {
        Some(authority) => format!("{scheme}://{authority}{path}"),
        None => path.to_owned(),
    }
}
