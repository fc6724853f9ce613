//! The requests of a connection, one after the other or, with HTTP/2, side by side.

use super::admission::Open;
use super::bare::Connection;
use super::respond;
use super::session::{Gateway, Handled, Rest};
use crate::config::Limits;
use crate::serve::ServeError;
use async_trait::async_trait;
use bytes::BytesMut;
use http::Method;
use pingora::ErrorType;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How connections are kept.
pub(super) struct ConnectionOptions {
    pub(super) idle_timeout: Duration,
    /// The longest wait for the head of a request, idle time included.
    pub(super) head_timeout: Duration,
    h2: H2Options,
    options: HttpServerOptions,
}

impl ConnectionOptions {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(limits.idle_timeout);
        Self {
            idle_timeout: limits.idle_timeout,
            head_timeout: limits.idle_timeout + limits.body_timeout,
            h2: h2_options(limits),
            options,
        }
    }
}

/// What comes after a request.
enum Next {
    /// Nothing: the connection has ended.
    End,
    /// Another request on the connection, of which so much was read before.
    Request(Stream, BytesMut),
    /// The same, after a request was passed on.
    Returned(ReusedHttpStream),
    /// The rest of its answer.
    Rest(Connection, Rest),
}

impl Gateway {
    /// Serves the requests of an HTTP/1 connection, one after the other. `ahead` is what was read of
    /// it before.
    pub(super) async fn serve_http1(self: Arc<Self>, stream: Stream, ahead: BytesMut, open: Open) {
        let mut next = Next::Request(stream, ahead);
        loop {
            next = match next {
                Next::End => return,
                Next::Request(mut stream, ahead) => {
                    let Some(ahead) = self.serve_plain(&mut stream, ahead).await else {
                        return;
                    };
                    let mut session = Box::new(ServerSession::new_http1(stream));
                    session.set_pipelining_enabled(true);
                    session.set_pipelined_prefix(ahead);
                    session.set_keepalive(Some(self.keeping.idle_seconds));
                    self.process(session).await
                }
                Next::Returned(reused) => {
                    let (stream, settings) = reused.consume();
                    let mut session = Box::new(ServerSession::new_http1(stream));
                    if let Some(settings) = settings {
                        settings.apply_to_session(&mut session);
                    }
                    self.process(session).await
                }
                Next::Rest(connection, rest) => return rest.spawn(connection, self, open),
            }
        }
    }

    /// The same for a connection on which something was served before.
    pub(super) fn serve_on(
        self: Arc<Self>,
        stream: Stream,
        ahead: BytesMut,
        open: Open,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.serve_http1(stream, ahead, open))
    }

    /// Reads a request and answers it.
    ///
    /// What a waiting reader holds is the size of this future, so what is large and short is boxed.
    async fn process(&self, mut session: Box<ServerSession>) -> Next {
        if !self.read_request(&mut session).await {
            return Next::End;
        }
        match self.handle(&mut session).await {
            Ok(Handled::Answered) => {}
            Ok(Handled::Forward(forwarder)) => {
                let reused = Box::pin(forwarder.forward(session)).await;
                return reused.map_or(Next::End, Next::Returned);
            }
            Ok(Handled::Begun(rest)) => {
                let connection = Box::pin(Connection::of(*session)).await;
                return connection.map_or(Next::End, |connection| Next::Rest(connection, rest));
            }
            // Dropped, not finished: an answer that broke off must not look complete.
            Err(_) => return Next::End,
        }
        // Nothing is left of it but the connection, which is not its own.
        if let ServerSession::H2(session) = &mut *session {
            let _ = session.finish();
            return Next::End;
        }
        let reusable = Box::pin(session.finish()).await.ok().flatten();
        reusable.map_or(Next::End, |reusable| {
            let (stream, ahead) = reusable.into_parts();
            Next::Request(stream, ahead.unwrap_or_default())
        })
    }

    /// Waits for the head of a request. False when there is none to answer.
    async fn read_request(&self, session: &mut ServerSession) -> bool {
        let read = timeout(self.connections.head_timeout, session.read_request());
        let Some(Ok(read)) = self.server.draining.run_until_cancelled(read).await else {
            return false;
        };
        match read {
            Ok(there) => there,
            Err(error) => {
                if matches!(error.etype(), ErrorType::InvalidHTTPHeader) {
                    session.set_keepalive(None);
                    let reply = ServeError::Malformed.into_reply(true);
                    Box::pin(respond::respond(session, reply, &Method::GET)).await;
                }
                session.shutdown().await;
                false
            }
        }
    }

    /// Serves the requests of an HTTP/2 connection, side by side. One that brings none in the time
    /// for a head, or until the server stops, is dropped: Pingora lets a client begin when it likes.
    pub(super) async fn serve_http2(self: Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) {
        let begun = CancellationToken::new();
        let connection = Arc::new(Http2 {
            begun: begun.clone(),
            gateway: self.clone(),
        });
        let mut served = connection.process_new(stream, shutdown);
        let begins = timeout(self.connections.head_timeout, begun.cancelled());
        tokio::select! {
            _ = &mut served => return,
            _ = self.server.draining.run_until_cancelled(begins) => {}
        }
        if begun.is_cancelled() {
            served.await;
        }
    }
}

/// An HTTP/2 connection.
struct Http2 {
    gateway: Arc<Gateway>,
    /// Cancelled when it has brought a request.
    begun: CancellationToken,
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.begun.cancel();
        match self.gateway.process(Box::new(session)).await {
            Next::Returned(reused) => Some(reused),
            Next::End | Next::Request(..) | Next::Rest(..) => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.gateway.connections.h2.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.gateway.connections.options)
    }
}

fn h2_options(limits: &Limits) -> H2Options {
    let mut h2 = default_h2_options();
    let window = u32::try_from(limits.h2_window_bytes).unwrap_or(H2_WINDOW_MAX);
    h2.max_concurrent_streams(limits.h2_streams_max as u32)
        .max_header_list_size(limits.header_bytes_max as u32)
        .initial_window_size(window.min(H2_WINDOW_MAX))
        .initial_connection_window_size(window.saturating_mul(2).min(H2_WINDOW_MAX));
    h2
}

/// The largest window that HTTP/2 knows.
const H2_WINDOW_MAX: u32 = i32::MAX as u32;
