//! A connection of HTTP/1.1 in the middle of an answer, without the session that read its request.
//!
//! Answers that wait for what they are made of are what there is most of. Once the head of such an
//! answer is written, the session and its buffers are let go, and the rest is written by a small task:
//! what it holds is the bare connection, and its place in a stream.

use super::admission::Open;
use super::respond::Sent;
use super::session::{Asked, Gateway};
use super::wire::{AHEAD_BYTES_MAX, write_last_chunk};
use crate::observe;
use crate::observe::access::Access;
use crate::waits::in_time;
use bytes::{Buf, Bytes, BytesMut};
use http::Version;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Whether what follows the head of an answer can do without its session.
pub(super) fn need_no_session(session: &ServerSession) -> bool {
    matches!(session, ServerSession::H1(_)) && session.req_header().version == Version::HTTP_11
}

/// An answer whose head is written.
pub(super) struct Begun {
    asked: Asked,
    request: Request,
    pub(super) sent: Sent,
    /// Where in its stream it began.
    from: String,
}

impl Begun {
    pub(super) fn new(session: &ServerSession, asked: Asked, sent: Sent, from: String) -> Self {
        Self {
            asked,
            request: Request::of(session),
            sent,
            from,
        }
    }

    /// Ends an answer that came to `position` in its stream: writes the end of its body if it is
    /// `whole`, takes note of it, and gives the connection to its next request.
    pub(super) async fn end(
        mut self,
        mut connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
        position: String,
        whole: bool,
    ) {
        let whole = whole && {
            let last = write_last_chunk(&mut connection.stream);
            matches!(
                in_time(gateway.keeping.write_timeout, last).await,
                Ok(Ok(()))
            )
        };
        self.sent.offsets = Some((self.from, position));
        if !whole {
            self.sent.broken = Some(Error::new_down(ErrorType::ConnectionClosed));
        }
        gateway.finished(&self.request.access(&self.asked), &self.asked, &self.sent);
        // Otherwise it is dropped: an answer that broke off must not look complete.
        if whole && connection.reusable {
            let Connection { stream, ahead, .. } = connection;
            tokio::spawn(gateway.serve_on(stream, ahead, open));
        }
    }
}

/// What the access log says of a request at its end. Without an access log it is empty.
#[derive(Default)]
struct Request {
    path: Box<str>,
    query: Option<Box<str>>,
    client: Option<SocketAddr>,
}

impl Request {
    fn of(session: &ServerSession) -> Self {
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
    pub(super) stream: Stream,
    /// What the client sent ahead.
    pub(super) ahead: BytesMut,
    /// Whether another request may follow.
    reusable: bool,
    /// What is left of a write that was begun.
    unsent: Option<Bytes>,
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
                unsent: None,
            });
        }
        let (stream, ahead) = session.reuse().await.ok()??.into_parts();
        Some(Self {
            stream,
            ahead: ahead.unwrap_or_default(),
            reusable: true,
            unsent: None,
        })
    }

    /// Writes as much as the socket takes at once, and keeps the rest. False if anything is left.
    pub(super) fn write_at_once(&mut self, mut bytes: Bytes) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut stream = Pin::new(&mut self.stream);
        while !bytes.is_empty() {
            match stream.as_mut().poll_write(&mut context, &bytes) {
                Poll::Ready(Ok(written)) if written > 0 => bytes.advance(written),
                _ => break,
            }
        }
        let whole =
            bytes.is_empty() && matches!(stream.poll_flush(&mut context), Poll::Ready(Ok(())));
        self.unsent = (!whole).then_some(bytes);
        whole
    }

    /// Whether the client is there and says nothing. If so, the waker of the context is told when
    /// that changes.
    pub(super) fn is_silent(&mut self, context: &mut Context<'_>) -> bool {
        if self.ahead.len() >= AHEAD_BYTES_MAX {
            return true;
        }
        let mut read = pin!(self.stream.read_buf(&mut self.ahead));
        read.as_mut().poll(context).is_pending()
    }

    /// Writes what is left of a write.
    pub(super) async fn write_rest(&mut self) -> io::Result<()> {
        if let Some(mut unsent) = self.unsent.take() {
            self.stream.write_all_buf(&mut unsent).await?;
            self.stream.flush().await?;
        }
        Ok(())
    }
}
