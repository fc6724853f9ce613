//! One exchange with an upstream, for those who want its answer themselves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, StatusCode, Uri, Version, header};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType, RetryType};
use tokio::time::timeout;

use super::error::ExchangeError;

/// Sends requests to upstreams, and keeps the connections.
#[derive(Clone)]
pub struct Client {
    connector: Arc<Connector>,
}

/// The answer to a request: its head, and its body as it comes.
///
/// Dropping it before its end cancels the request.
pub struct Exchange {
    /// The head of the answer.
    pub head: ResponseHeader,
    /// Whether the connection had been used before.
    pub reused: bool,
    body: Option<Body>,
}

/// How much of a request's body is written before it is looked whether the upstream answers already.
const PIECE_BYTES: usize = 64 << 10;
/// How long the answer of an upstream that takes no more of a request is waited for.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// A body under way, with what is needed to give its connection back.
struct Body {
    session: HttpSession,
    /// Whether the upstream got the whole request.
    is_asked: bool,
    peer: HttpPeer,
    connector: Arc<Connector>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// One with no connections yet.
    pub fn new() -> Self {
        Self {
            connector: Arc::new(Connector::new(None)),
        }
    }

    /// Sends a request with its whole body, and waits for the head of the answer. The request must
    /// have a `Host`; what says how long the body is, is written here.
    ///
    /// A request with `Upgrade` may be answered with 101; see [`Exchange::switch`].
    ///
    /// A request may be sent a second time if it went to a connection that turned out to be closed
    /// and it cannot have been received.
    pub async fn send(
        &self,
        peer: &HttpPeer,
        mut head: RequestHeader,
        body: Bytes,
        headers_timeout: Duration,
    ) -> Result<Exchange, ExchangeError> {
        head.remove_header(&header::TRANSFER_ENCODING);
        head.remove_header(&header::CONTENT_LENGTH);
        if !body.is_empty() || expects_body(&head) {
            let _ = head.insert_header(header::CONTENT_LENGTH, body.len());
        }
        loop {
            let connected = self.connector.get_http_session(peer).await;
            let (mut session, reused) = connected.map_err(connect_error)?;
            let exchanged = exchange(&mut session, peer, &head, &body, headers_timeout).await;
            match exchanged {
                Ok((answer, is_asked)) => {
                    let body = Body {
                        session,
                        is_asked,
                        peer: peer.clone(),
                        connector: self.connector.clone(),
                    };
                    return Ok(Exchange {
                        head: answer,
                        reused,
                        body: Some(body),
                    });
                }
                // The next connection may be a pooled one as well, but each can fail once only.
                Err(failed) if reused && failed.may_repeat(&head) => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
    }
}

/// What went wrong before an answer came.
struct Failed {
    error: Box<Error>,
    /// Whether any of the request may have reached the upstream.
    sent: bool,
}

impl Failed {
    /// Whether the request may be sent again, on another connection.
    fn may_repeat(&self, head: &RequestHeader) -> bool {
        match self.error.retry {
            // Refused by the upstream before it looked at it.
            RetryType::Decided(true) => true,
            RetryType::ReusedOnly => !self.sent || head.method.is_idempotent(),
            RetryType::Decided(false) => !self.sent,
        }
    }
}

/// Writes a request and reads the head of its answer. Returns as well whether all of the request was
/// written: an upstream may refuse it before.
async fn exchange(
    session: &mut HttpSession,
    peer: &HttpPeer,
    head: &RequestHeader,
    body: &Bytes,
    headers_timeout: Duration,
) -> Result<(ResponseHeader, bool), Failed> {
    let unsent = |error| Failed { error, sent: false };
    let sent = |error| Failed { error, sent: true };
    session.set_write_timeout(peer.options.write_timeout);
    let may_switch = head.headers.contains_key(header::UPGRADE);
    let mut head = head.clone();
    if let HttpSession::H2(_) = session {
        make_http2(&mut head, peer).map_err(unsent)?;
    } else {
        head.set_version(Version::HTTP_11);
    }
    let written = session.write_request_header(Box::new(head)).await;
    written.map_err(unsent)?;
    let mut early = None;
    let is_asked = match write_body(session, body.clone(), may_switch, &mut early).await {
        Ok(is_asked) => is_asked,
        Err(error) => {
            if early.is_none() {
                early = Some(read_after(session, may_switch, error).await);
            }
            false
        }
    };
    let answer = match early {
        Some(answer) => answer,
        None => timeout(headers_timeout, read_head(session, may_switch))
            .await
            .unwrap_or_else(|_| Error::e_explain(ErrorType::ReadTimedout, "waiting for an answer")),
    };
    answer.map(|answer| (answer, is_asked)).map_err(sent)
}

/// Writes the body of a request, and tells whether that is all of it: nobody wants the rest if the
/// upstream refuses the request meanwhile. `early` is the head of an answer that comes so early.
async fn write_body(
    session: &mut HttpSession,
    mut body: Bytes,
    may_switch: bool,
    early: &mut Option<Result<ResponseHeader, Box<Error>>>,
) -> Result<bool, Box<Error>> {
    while !body.is_empty() {
        if early.is_none() {
            *early = read_head(session, may_switch).now_or_never();
        }
        let wants_more = |answer: &Result<ResponseHeader, _>| {
            answer.as_ref().is_ok_and(|head| head.status.is_success())
        };
        if !early.as_ref().is_none_or(wants_more) {
            return Ok(false);
        }
        let piece = body.split_to(body.len().min(PIECE_BYTES));
        session.write_request_body(piece, false).await?;
    }
    session.finish_request_body().await?;
    Ok(true)
}

/// Reads the head of the answer of an upstream that takes no more of the request: it may have refused
/// it, or say that it did nothing with it.
async fn read_after(
    session: &mut HttpSession,
    may_switch: bool,
    error: Box<Error>,
) -> Result<ResponseHeader, Box<Error>> {
    let is_http2 = matches!(session, HttpSession::H2(_));
    match timeout(REFUSAL_WAIT, read_head(session, may_switch)).await {
        Ok(Ok(answer)) => Ok(answer),
        // Why the request was reset.
        Ok(Err(reason)) if is_http2 => Err(reason),
        _ => Err(error),
    }
}

/// Reads the head of the answer; what comes before it, such as 103, is for nobody here.
async fn read_head(
    session: &mut HttpSession,
    may_switch: bool,
) -> Result<ResponseHeader, Box<Error>> {
    loop {
        session.read_response_header().await?;
        match session.response_header() {
            Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS && may_switch => {
                return Ok(head.clone());
            }
            Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "an upgrade not asked for");
            }
            Some(head) if head.status.is_informational() => {}
            Some(head) => return Ok(head.clone()),
            None => return Error::e_explain(ErrorType::InvalidHTTPHeader, "no head"),
        }
    }
}

/// HTTP/2 has the host in the URI.
fn make_http2(head: &mut RequestHeader, peer: &HttpPeer) -> Result<(), Box<Error>> {
    let invalid = |error: http::Error| {
        Error::because(
            ErrorType::InvalidHTTPHeader,
            "making a request of HTTP/2",
            error,
        )
    };
    let host = head.remove_header(&header::HOST);
    let host = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    let uri = Uri::builder()
        .scheme(if peer.is_tls() { "https" } else { "http" })
        .authority(host)
        .path_and_query(head.raw_path())
        .build();
    head.set_uri(uri.map_err(invalid)?);
    head.set_version(Version::HTTP_2);
    Ok(())
}

/// Whether a request without a body should say so.
fn expects_body(head: &RequestHeader) -> bool {
    use http::Method;
    matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
}

/// No connection came about, whatever the reason is called.
fn connect_error(error: Box<Error>) -> ExchangeError {
    match ExchangeError::from(error) {
        ExchangeError::Broken(error) | ExchangeError::Protocol(error) => {
            ExchangeError::Connect(error)
        }
        error => error,
    }
}

impl Exchange {
    /// The next piece of the body; `None` at its end, which is not the same as where it broke off.
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ExchangeError> {
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        // What ends a body is kept in boxes: this is waited for again with each piece.
        loop {
            match body.session.read_response_body().await {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) => return Ok(Some(piece)),
                Ok(None) => break,
                Err(error) => {
                    self.body = None;
                    return Err(error.into());
                }
            }
        }
        if let HttpSession::H2(session) = &mut body.session {
            // The end may be one of trailers, or a reset.
            if let Err(error) = Box::pin(session.read_trailers()).await {
                self.body = None;
                return Err(error.into());
            }
        }
        if let Some(body) = self.body.take() {
            Box::pin(body.release()).await;
        }
        Ok(None)
    }
}

impl Exchange {
    /// The connection of an upgrade that was asked for and agreed to (the answer is 101), and what
    /// came on it already.
    pub async fn switch(mut self) -> Option<(Stream, Bytes)> {
        let HttpSession::H1(mut session) = self.body.take()?.session else {
            return None;
        };
        // What came together with the head is held by the session.
        let first = tokio::select! {
            biased;
            first = session.read_body_bytes() => first.ok()?,
            () = std::future::ready(()) => None,
        };
        Some((session.into_inner(), first.unwrap_or_default()))
    }
}

impl Body {
    /// Gives the connection back for the next request, unless the upstream still waits for some of this
    /// one.
    async fn release(self) {
        if !self.is_asked && matches!(self.session, HttpSession::H1(_)) {
            return;
        }
        let idle = self.peer.idle_timeout();
        self.connector
            .release_http_session(self.session, &self.peer, idle)
            .await;
    }
}

impl Drop for Exchange {
    /// A connection of HTTP/1 is closed with its session; with HTTP/2 only the request is reset,
    /// and the connection has to be given back.
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && matches!(body.session, HttpSession::H2(_))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(body.release());
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
