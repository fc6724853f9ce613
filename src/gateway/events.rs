//! Events on a connection of HTTP/1.1, without its session.
//!
//! Readers that wait are what there is most of. Once the head of the answer is written, the session
//! and its buffers are let go, and the rest is written by a small task: what a reader holds is the
//! bare connection and its place in the stream.

use super::connection::Open;
use super::respond::Sent;
use super::session::{Asked, Gateway};
use super::wire::{write_chunk, write_last_chunk};
use crate::observe;
use crate::observe::access::{Access, LiveEnd};
use crate::serve::Sse;
use bytes::BytesMut;
use http::Version;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// The most that is read of what a client sends ahead while it reads events.
const AHEAD_BYTES_MAX: usize = 1024;

/// Whether the events of an answer can do without its session.
pub(super) fn need_no_session(session: &ServerSession) -> bool {
    matches!(session, ServerSession::H1(_)) && session.req_header().version == Version::HTTP_11
}

/// A live answer whose head is written.
pub(super) struct Events {
    pub(super) live: Box<Sse>,
    pub(super) asked: Asked,
    pub(super) request: Request,
    pub(super) sent: Sent,
}

/// What the access log says of a request at its end. Without an access log it is empty.
#[derive(Default)]
pub(super) struct Request {
    path: Box<str>,
    query: Option<Box<str>>,
    client: Option<SocketAddr>,
}

impl Request {
    pub(super) fn of(session: &ServerSession) -> Self {
        if !observe::access::enabled() {
            return Self::default();
        }
        let uri = &session.req_header().uri;
        Self {
            path: uri.path().into(),
            query: uri.query().map(Into::into),
            client: session.client_addr().cloned(),
        }
    }

    fn access<'a>(&'a self, asked: &'a Asked) -> Access<'a> {
        Access {
            method: asked.method.as_str(),
            path: &self.path,
            query: self.query.as_deref(),
            route: asked.pattern(),
            client: self.client.as_ref().map(|address| address as _),
            version: Version::HTTP_11,
        }
    }
}

/// A connection in the middle of an answer.
pub(super) struct Connection {
    stream: Stream,
    /// What the client sent ahead.
    ahead: BytesMut,
    /// Whether another request may follow.
    reusable: bool,
}

impl Connection {
    /// That of a session whose answer has begun.
    pub(super) async fn of(session: ServerSession) -> Option<Self> {
        let ServerSession::H1(session) = session else {
            return None;
        };
        if !session.will_keepalive() {
            return Some(Self {
                stream: session.into_inner(),
                ahead: BytesMut::new(),
                reusable: false,
            });
        }
        let (stream, ahead) = session.reuse().await.ok()??.into_parts();
        Some(Self {
            stream,
            ahead: ahead.unwrap_or_default(),
            reusable: true,
        })
    }

    /// Returns when the client has left.
    async fn left(&mut self) {
        while self.ahead.len() < AHEAD_BYTES_MAX {
            match self.stream.read_buf(&mut self.ahead).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        pending::<()>().await;
    }
}

impl Events {
    /// Sends the events until the answer ends, and gives the connection to its next request.
    pub(super) async fn run(
        mut self: Box<Self>,
        mut connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
    ) {
        let from = self.live.position();
        let write_timeout = gateway.write_timeout;
        let ended = self.send(&mut connection, write_timeout).await;
        self.sent.offsets = Some((from, self.live.position()));
        let whole = match ended {
            Ok(end) => {
                self.sent.live_end = Some(end);
                let ended = timeout(write_timeout, write_last_chunk(&mut connection.stream)).await;
                ended.is_ok_and(|ended| ended.is_ok())
            }
            Err(end) => {
                self.sent.live_end = Some(end);
                false
            }
        };
        if !whole {
            self.sent.broken = Some(Error::new_down(ErrorType::ConnectionClosed));
        }
        gateway.finished(&self.request.access(&self.asked), &self.asked, &self.sent);
        if whole && connection.reusable {
            let Connection { stream, ahead, .. } = connection;
            tokio::spawn(gateway.serve_on(stream, ahead, open));
        }
    }

    /// Sends until there is nothing more, or fails: then nobody reads any more.
    async fn send(
        &mut self,
        connection: &mut Connection,
        write_timeout: Duration,
    ) -> Result<LiveEnd<'static>, LiveEnd<'static>> {
        loop {
            let events = tokio::select! {
                biased;
                events = self.live.next() => events,
                () = connection.left() => return Err(LiveEnd::ClientLeft),
            };
            let Some(events) = events else {
                return Ok(self.live.end());
            };
            self.sent.bytes += events.len() as u64;
            match timeout(write_timeout, write_chunk(&mut connection.stream, &events)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(LiveEnd::ClientLeft),
                Err(_) => return Err(LiveEnd::TooSlow),
            }
        }
    }
}
