//! Upgrades, such as to WebSocket: once the upstream agrees, bytes go both ways as they come.
//!
//! `HttpProxy` takes the end of the request for the end of the upgraded connection when the upstream
//! agrees at once, so they do not go through it.

use super::body::content_length;
use super::facts::client_facts;
use super::forward::Forwarder;
use super::respond::{self, CLIENT_LEFT};
use super::unread::take_apart;
use crate::observe::access::{Access, Finished};
use crate::observe::metrics::{Mode as ModeLabel, UpstreamFailure};
use crate::protocol::list::elements;
use crate::recorder::Response;
use crate::serve::ServeError;
use crate::upstream::{ClientFacts, Exchange, Picked};
use crate::waits::in_time;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{sleep, timeout};

/// The longest wait for the head of an answer where the route has no timeout.
const HEAD_WAIT_MAX: Duration = Duration::from_hours(1);
/// How long one direction may be silent after the other has ended.
const LINGER: Duration = Duration::from_secs(5);
/// What each direction may hold.
const BUFFER_BYTES: usize = 8 << 10;

/// Whether a request asks for an upgrade that is passed on. One to HTTP/2 is not: it would get
/// around the rules of this server. Nor is one that `Connection` does not name: it is somebody else's
/// (RFC 9110, section 7.8).
pub(super) fn wants_upgrade(session: &ServerSession) -> bool {
    let headers = &session.req_header().headers;
    let to_http2 = elements(headers, &header::UPGRADE)
        .map(str::to_ascii_lowercase)
        .any(|protocol| protocol.starts_with("h2") || protocol.starts_with("http/"));
    let is_named =
        elements(headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let has_body = content_length(session).is_some_and(|length| length > 0)
        || session.get_header(header::TRANSFER_ENCODING).is_some();
    session.is_upgrade_req() && is_named && !to_http2 && !has_body
}

/// A request for an upgrade, as it is written down at its end.
struct Asked {
    head: RequestHeader,
    client: Option<SocketAddr>,
    began: Instant,
}

impl Forwarder {
    /// Passes a request for an upgrade on. Returns the connection if it was not upgraded and can
    /// serve another request.
    pub(super) async fn upgrade(
        &self,
        mut session: Box<ServerSession>,
    ) -> Option<ReusedHttpStream> {
        let _in_flight = self.route.enter();
        self.keeping.prepare(&mut session);
        session.set_read_timeout(Some(self.keeping.body_timeout));
        let asked = Asked {
            head: session.req_header().clone(),
            client: session.client_addr().cloned(),
            began: Instant::now(),
        };
        let facts = client_facts(&session);
        // What is sent ahead is put behind the end of the body, which has to be known before.
        session.is_body_done();
        let answer = tokio::select! {
            biased;
            answer = Box::pin(self.ask(&asked.head, &facts)) => answer,
            _ = session.read_body_or_idle(true) => {
                self.upgrade_ended(&asked, CLIENT_LEFT, 0);
                return None;
            }
        };
        match answer {
            Ok((exchange, _picked)) if exchange.head.status == StatusCode::SWITCHING_PROTOCOLS => {
                let bytes = self.switch(*session, exchange).await;
                self.upgrade_ended(&asked, StatusCode::SWITCHING_PROTOCOLS.as_u16(), bytes);
                None
            }
            answer => Box::pin(self.refuse_upgrade(session, answer, &asked)).await,
        }
    }

    /// Asks an upstream, or another if one cannot be reached.
    async fn ask(
        &self,
        request: &RequestHeader,
        client: &ClientFacts,
    ) -> Result<(Exchange, Picked), ServeError> {
        let (upstreams, metrics) = (&self.upstreams, &self.upstreams.metrics);
        let wait = upstreams.read_timeout.unwrap_or(HEAD_WAIT_MAX);
        let mut tried = Vec::new();
        loop {
            let picked = upstreams.pick(request, client, &tried).await;
            let mut picked = picked.ok_or(ServeError::Upstream(UpstreamFailure::NoUpstream))?;
            picked.use_http1();
            let mut head = request.clone();
            upstreams.prepare_upgrade(&mut head, client, &picked);
            let sent = self.client.send(&picked.peer, head, Bytes::new(), wait);
            let error = match sent.await {
                Ok(exchange) => {
                    metrics.connected(exchange.reused);
                    return Ok((exchange, picked));
                }
                Err(error) => error,
            };
            metrics.failed(error.failure());
            let upstream = picked.authority();
            tracing::warn!(upstream, cause = %error.cause(), "an upstream failed");
            if !error.may_repeat(&request.method) || tried.len() >= upstreams.retries {
                return Err(ServeError::Upstream(error.failure()));
            }
            picked.avoid();
            tried.push(picked.address().clone());
            metrics.retries.inc();
        }
    }

    /// Passes on what the upstream answered instead, or why it did not.
    async fn refuse_upgrade(
        &self,
        mut session: Box<ServerSession>,
        answer: Result<(Exchange, Picked), ServeError>,
        asked: &Asked,
    ) -> Option<ReusedHttpStream> {
        let sent = match answer {
            Ok((exchange, picked)) => {
                let mut head = exchange.head.clone();
                self.upstreams.prepare_response(&mut head);
                let response = Response::new(head, exchange, Some(picked));
                respond::pass(&mut session, response).await
            }
            Err(error) => {
                let reply = error.into_reply(false);
                respond::respond(&mut session, reply, &asked.head.method).await
            }
        };
        self.upgrade_ended(asked, sent.status.as_u16(), sent.bytes);
        if sent.broken.is_some() {
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }

    /// Tells the client that the upstream agreed, and lets bytes through until it is over. Returns
    /// how many the client got.
    async fn switch(&self, session: ServerSession, exchange: Exchange) -> u64 {
        let mut agreed = exchange.head.clone();
        self.upstreams.prepare_upgraded(&mut agreed);
        let mut head = Vec::new();
        write_head(&agreed, &mut head);
        let ends = (take_apart(session).await, exchange.switch().await);
        let (Some((client, early)), Some((upstream, first))) = ends else {
            return 0;
        };
        head.extend_from_slice(&first);
        let tunnel = Tunnel {
            silence: self.upstreams.upgraded_timeout,
            write_timeout: self.keeping.write_timeout,
            active: AtomicBool::new(true),
        };
        let through = tunnel.run((client, &head), (upstream, &early));
        let through = self.keeping.draining.run_until_cancelled(through).await;
        through.unwrap_or_default()
    }

    /// Counts the request and writes it down.
    fn upgrade_ended(&self, asked: &Asked, status: u16, bytes: u64) {
        let (method, elapsed) = (&asked.head.method, asked.began.elapsed());
        self.route
            .observe(method.into(), ModeLabel::None, status, elapsed);
        let access = Access {
            method: method.as_str(),
            path: asked.head.uri.path(),
            query: asked.head.uri.query(),
            route: self.route.pattern(),
            client: asked.client.as_ref().map(|address| address as _),
            version: asked.head.version,
        };
        access.finished(&Finished {
            status,
            bytes,
            elapsed,
            offsets: None,
            live: None,
            stream: None,
        });
    }
}

/// The head of an upstream's 101 as the client gets it.
fn write_head(head: &ResponseHeader, to: &mut Vec<u8>) {
    to.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    head.header_to_h1_wire(to);
    to.extend_from_slice(b"\r\n");
}

/// Two connections that have become one.
struct Tunnel {
    /// How long both may be silent.
    silence: Duration,
    write_timeout: Duration,
    /// Whether anything came since this was looked at.
    active: AtomicBool,
}

impl Tunnel {
    /// Lets bytes through until one end is over; each end has bytes that it gets first. Returns how
    /// many went to the client.
    async fn run(&self, client: (Stream, &[u8]), upstream: (Stream, &[u8])) -> u64 {
        let (mut from_client, mut to_client) = split(client.0);
        let (mut from_upstream, mut to_upstream) = split(upstream.0);
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let up = self.pump(upstream.1, &mut from_client, &mut to_upstream, &sent);
        let down = self.pump(client.1, &mut from_upstream, &mut to_client, &received);
        let (mut up, mut down) = (pin!(up), pin!(down));
        let over = async {
            tokio::select! {
                () = &mut up => linger(down, &received).await,
                () = &mut down => linger(up, &sent).await,
            }
        };
        let silent = async {
            while self.active.swap(false, Ordering::Relaxed) {
                sleep(self.silence).await;
            }
        };
        tokio::select! {
            () = over => {}
            () = silent => {}
        }
        let head = client.1.len() as u64;
        received.load(Ordering::Relaxed).saturating_sub(head)
    }

    /// Passes on what comes, until one end is over, and tells the other.
    async fn pump(
        &self,
        first: &[u8],
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        bytes: &AtomicU64,
    ) {
        if self.write(to, first, bytes).await.is_err() {
            return;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            self.active.store(true, Ordering::Relaxed);
            if self.write(to, &buffer[..read], bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    }

    async fn write(
        &self,
        to: &mut (impl AsyncWrite + Unpin),
        piece: &[u8],
        bytes: &AtomicU64,
    ) -> io::Result<()> {
        let written = async {
            to.write_all(piece).await?;
            to.flush().await
        };
        in_time(self.write_timeout, written).await??;
        bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Lets a direction go on until it ends or is silent; `bytes` counts what goes through.
async fn linger(mut direction: Pin<&mut impl Future<Output = ()>>, bytes: &AtomicU64) {
    loop {
        let before = bytes.load(Ordering::Relaxed);
        let ended = timeout(LINGER, &mut direction).await.is_ok();
        if ended || bytes.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(4);

    /// For how long a direction goes on through which so many pieces come.
    async fn lingered(pieces: u32, ends: bool) -> Duration {
        let began = tokio::time::Instant::now();
        let bytes = AtomicU64::new(7);
        let direction = pin!(async {
            for _ in 0..pieces {
                sleep(SHORT).await;
                bytes.fetch_add(1, Ordering::Relaxed);
            }
            if !ends {
                std::future::pending::<()>().await;
            }
        });
        linger(direction, &bytes).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn one_direction_goes_on_as_long_as_something_comes() {
        assert_eq!(lingered(0, true).await, Duration::ZERO);
        assert_eq!(lingered(10, true).await, 10 * SHORT);
        assert_eq!(lingered(0, false).await, LINGER);
        let silence = lingered(10, false).await.saturating_sub(10 * SHORT);
        assert!(
            silence > Duration::ZERO && silence <= 2 * LINGER,
            "{silence:?}"
        );
    }
}
