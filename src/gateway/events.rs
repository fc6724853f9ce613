//! Events on a connection of HTTP/1.1, without its session.
//!
//! Readers that wait are what there is most of. Once the head of the answer is written, the session
//! and its buffers are let go, and the rest is written by a small task: what a reader holds is the
//! bare connection and its place in the stream.

use super::connection::Open;
use super::crowd::{Crowds, Waiting};
use super::respond::Sent;
use super::session::{Asked, Gateway};
use super::wire::{AHEAD_BYTES_MAX, left, write_chunk, write_last_chunk};
use crate::observe;
use crate::observe::access::{Access, LiveEnd};
use crate::serve::{Hot, Sse};
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
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

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
    /// Where they began.
    from: String,
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
    async fn write_rest(&mut self) -> io::Result<()> {
        if let Some(mut unsent) = self.unsent.take() {
            self.stream.write_all_buf(&mut unsent).await?;
            self.stream.flush().await?;
        }
        Ok(())
    }
}

/// Where the events of an answer go on.
enum Next {
    /// In a crowd, with all that wait for the same.
    Crowd(Arc<Notify>),
    /// Nowhere: they have ended.
    Ended(LiveEnd<'static>),
    /// Nowhere: nobody reads them any more.
    Broken(LiveEnd<'static>),
}

impl Events {
    pub(super) fn new(live: Box<Sse>, asked: Asked, request: Request, sent: Sent) -> Self {
        Self {
            from: live.position(),
            live,
            asked,
            request,
            sent,
        }
    }

    /// Sends the events until the answer ends, and gives the connection to its next request.
    pub(super) async fn run(
        self: Box<Self>,
        connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
    ) {
        self.send(connection, gateway, open, true).await;
    }

    /// The same after the reader was in a crowd, which could not go on with it.
    pub(super) fn go_on(
        self: Box<Self>,
        connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.send(connection, gateway, open, false))
    }

    async fn send(
        mut self: Box<Self>,
        mut connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
        may_join: bool,
    ) {
        let write_timeout = gateway.write_timeout;
        let ended = match self.send_on(&mut connection, write_timeout, may_join).await {
            Next::Crowd(moved) => {
                let reader = Waiting {
                    events: self,
                    connection,
                    open,
                };
                return Crowds::join(&gateway, moved, reader);
            }
            Next::Ended(end) => {
                self.sent.live_end = Some(end);
                let ended = timeout(write_timeout, write_last_chunk(&mut connection.stream)).await;
                ended.is_ok_and(|ended| ended.is_ok())
            }
            Next::Broken(end) => {
                self.sent.live_end = Some(end);
                false
            }
        };
        self.sent.offsets = Some((std::mem::take(&mut self.from), self.live.position()));
        if !ended {
            self.sent.broken = Some(Error::new_down(ErrorType::ConnectionClosed));
        }
        gateway.finished(&self.request.access(&self.asked), &self.asked, &self.sent);
        if ended && connection.reusable {
            let Connection { stream, ahead, .. } = connection;
            tokio::spawn(gateway.serve_on(stream, ahead, open));
        }
    }

    /// Sends until there is nothing more, nobody reads any more, or there is nothing to do but to
    /// wait with many others. `may_join`: that may be so at once.
    async fn send_on(
        &mut self,
        connection: &mut Connection,
        write_timeout: Duration,
        mut may_join: bool,
    ) -> Next {
        let mut written = timeout(write_timeout, connection.write_rest()).await;
        loop {
            match written {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Next::Broken(LiveEnd::ClientLeft),
                Err(_) => return Next::Broken(LiveEnd::TooSlow),
            }
            let hot = if may_join {
                self.live.hot(Instant::now())
            } else {
                Hot::Unknown
            };
            let events = match hot {
                Hot::Events(events) => events,
                Hot::Nothing | Hot::Unknown => {
                    if matches!(hot, Hot::Nothing)
                        && let Some(moved) = self.live.crowd()
                    {
                        return Next::Crowd(moved);
                    }
                    let events = tokio::select! {
                        biased;
                        events = self.live.next() => events,
                        () = left(&mut connection.stream, &mut connection.ahead) => {
                            return Next::Broken(LiveEnd::ClientLeft);
                        }
                    };
                    match events {
                        Some(events) => events,
                        None => return Next::Ended(self.live.end()),
                    }
                }
            };
            self.sent.bytes += events.len() as u64;
            written = timeout(write_timeout, write_chunk(&mut connection.stream, &events)).await;
            may_join = true;
        }
    }
}
