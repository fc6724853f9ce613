//! From a reply to a Pingora session.

use crate::observe::access::LiveEnd;
use crate::observe::metrics::Recordings;
use crate::protocol::names;
use crate::protocol::reply::Head;
use crate::recorder::{Next, Playback, Response};
use crate::serve::{Body, Passed, Pieces, Reply, Sse};
use crate::types::Offset;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType, Result};

/// The status under which a request is logged whose client left before the answer.
pub(super) const CLIENT_LEFT: u16 = 499;

/// What became of a reply.
pub(super) struct Sent {
    pub(super) status: StatusCode,
    pub(super) bytes: u64,
    /// Whether its head says that the stream is closed and its end reached.
    pub(super) closed: bool,
    /// Why a live answer ended.
    pub(super) live_end: Option<LiveEnd<'static>>,
    /// From where to where a live answer went.
    pub(super) offsets: Option<(String, String)>,
    /// The answer is not complete.
    pub(super) broken: Option<Box<Error>>,
}

impl Sent {
    pub(super) fn new(status: StatusCode) -> Self {
        Self {
            status,
            bytes: 0,
            closed: false,
            live_end: None,
            offsets: None,
            broken: None,
        }
    }

    /// An answer with this head.
    pub(super) fn of(head: &Head) -> Self {
        Self {
            closed: head.headers.contains_key(names::STREAM_CLOSED),
            ..Self::new(head.status)
        }
    }

    /// Nothing was sent: nobody is there.
    pub(super) fn client_left() -> Self {
        Self {
            live_end: Some(LiveEnd::ClientLeft),
            broken: Some(Error::new_down(ErrorType::ConnectionClosed)),
            ..Self::new(StatusCode::from_u16(CLIENT_LEFT).unwrap_or(StatusCode::BAD_REQUEST))
        }
    }
}

/// Writes a reply.
pub(super) async fn respond(session: &mut ServerSession, reply: Reply, method: &Method) -> Sent {
    let mut sent = Sent::of(&reply.head);
    let Reply { head, body } = reply;
    let header = header(session, head, length(&body));
    let bodiless = *method == Method::HEAD || matches!(body, Body::Empty);
    let written = async {
        if bodiless {
            return write_bodiless(session, header).await;
        }
        session.write_response_header(header).await?;
        match body {
            Body::Empty => Ok(()),
            Body::Full(bytes) => {
                sent.bytes = bytes.len() as u64;
                session.write_response_body(bytes, true).await
            }
            Body::Pieces(pieces) => Box::pin(send_pieces(session, *pieces, &mut sent)).await,
            Body::Passed(passed) => Box::pin(send_passed(session, passed, &mut sent)).await,
            Body::Live(live) => Box::pin(send_live(session, live, &mut sent)).await,
        }
    };
    if let Err(error) = written.await {
        sent.broken = Some(error.into_down());
    }
    sent
}

/// Writes an answer that is its head alone. HTTP/2 can say so with it, instead of in a frame of its own.
async fn write_bodiless(session: &mut ServerSession, header: Box<ResponseHeader>) -> Result<()> {
    match session {
        ServerSession::H2(session) => session.write_response_header(header, true),
        _ => session.write_response_header(header).await,
    }
}

/// How long a body is, where that is known before it is sent.
pub(super) fn length(body: &Body) -> Option<u64> {
    match body {
        Body::Empty => Some(0),
        Body::Full(bytes) => Some(bytes.len() as u64),
        Body::Pieces(pieces) => pieces.length,
        Body::Passed(passed) => passed.length(),
        Body::Live(_) => None,
    }
}

/// Whether an answer of this status has no body, whatever its length says.
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The head of an answer whose body has this length, if that is known.
pub(super) fn header(
    session: &mut ServerSession,
    head: Head,
    length: Option<u64>,
) -> Box<ResponseHeader> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = head.status;
    parts.headers = head.headers;
    head.browsers.add_to(&mut parts.headers);
    if let Some(length) = length.filter(|_| !is_bodiless(head.status)) {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let parts = Box::new(ResponseHeader::from(parts));
    if length.is_some() || is_bodiless(head.status) {
        return parts;
    }
    unmeasured(session, parts)
}

async fn send_pieces(
    session: &mut ServerSession,
    mut pieces: Pieces,
    sent: &mut Sent,
) -> Result<()> {
    while let Some(piece) = pieces.next().await.map_err(|error| {
        tracing::warn!(%error, "an answer broke off");
        Error::because(ErrorType::InternalError, "reading the log", error)
    })? {
        sent.bytes += piece.len() as u64;
        session.write_response_body(piece, false).await?;
    }
    session.write_response_body(Bytes::new(), true).await
}

async fn send_passed(
    session: &mut ServerSession,
    mut passed: Box<dyn Passed>,
    sent: &mut Sent,
) -> Result<()> {
    loop {
        let next = tokio::select! {
            biased;
            next = passed.next() => next,
            _ = session.read_body_or_idle(true) => {
                return Error::e_explain(ErrorType::ConnectionClosed, "the client left");
            }
        };
        match next {
            Ok(Some(piece)) => {
                sent.bytes += piece.len() as u64;
                session.write_response_body(piece, false).await?;
            }
            Ok(None) => return session.write_response_body(Bytes::new(), true).await,
            Err(error) => {
                return Error::e_because(ErrorType::ConnectionClosed, "passing on", error);
            }
        }
    }
}

async fn send_live(session: &mut ServerSession, mut live: Box<Sse>, sent: &mut Sent) -> Result<()> {
    let from = live.position();
    let ended = loop {
        let events = tokio::select! {
            biased;
            events = live.next() => events,
            _ = session.read_body_or_idle(true) => break Err(LiveEnd::ClientLeft),
        };
        let Some(events) = events else {
            break Ok(live.end());
        };
        sent.bytes += events.len() as u64;
        if let Err(error) = session.write_response_body(events, false).await {
            let slow = *error.etype() == ErrorType::WriteTimedout;
            break Err(if slow {
                LiveEnd::TooSlow
            } else {
                LiveEnd::ClientLeft
            });
        }
    };
    sent.offsets = Some((from, live.position()));
    match ended {
        Ok(end) if !end.is_failure() => {
            sent.live_end = Some(end);
            session.write_response_body(Bytes::new(), true).await
        }
        Ok(end) | Err(end) => {
            sent.live_end = Some(end);
            Err(Error::new_down(ErrorType::ConnectionClosed))
        }
    }
}

/// Writes a recorded answer as its client would have got it from the upstream: a recording that did
/// not complete is an answer that breaks off.
pub(super) async fn play(
    session: &mut ServerSession,
    head: Box<ResponseHeader>,
    mut playback: Playback,
    recordings: &Recordings,
) -> Sent {
    let mut sent = Sent::new(head.status);
    let from = Offset(playback.position()).to_string();
    let mut left = false;
    let written = async {
        let head = unmeasured(session, head);
        session.write_response_header(head).await?;
        loop {
            let next = tokio::select! {
                biased;
                next = playback.next() => next,
                _ = session.read_body_or_idle(true) => {
                    left = true;
                    return Error::e_explain(ErrorType::ConnectionClosed, "the client left");
                }
            };
            match next {
                Next::Bytes(bytes) => {
                    sent.bytes += bytes.len() as u64;
                    let written = session.write_response_body(bytes, false).await;
                    left = written.is_err();
                    written?;
                }
                Next::End => return session.write_response_body(Bytes::new(), true).await,
                Next::Broken(end) => {
                    let reason = end.reason.as_deref().unwrap_or_default().to_owned();
                    return Error::e_explain(ErrorType::ConnectionClosed, reason);
                }
            }
        }
    };
    if let Err(error) = written.await {
        sent.broken = Some(error.into_down());
    }
    if left && playback.goes_on() {
        recordings.disconnects.inc();
    }
    sent.offsets = Some((from, Offset(playback.position()).to_string()));
    sent
}

/// Passes an upstream's answer on as it comes.
pub(super) async fn pass(session: &mut ServerSession, mut response: Response) -> Sent {
    let head = Box::new(response.head.clone());
    let mut sent = Sent::new(head.status);
    let bodiless = is_bodiless(head.status);
    let head = if bodiless || head.headers.contains_key(header::CONTENT_LENGTH) {
        head
    } else {
        unmeasured(session, head)
    };
    let written = async {
        session.write_response_header(head).await?;
        loop {
            let next = tokio::select! {
                biased;
                next = response.next() => next,
                _ = session.read_body_or_idle(true) => {
                    return Error::e_explain(ErrorType::ConnectionClosed, "the client left");
                }
            };
            match next {
                Ok(Some(bytes)) => {
                    sent.bytes += bytes.len() as u64;
                    session.write_response_body(bytes, false).await?;
                }
                Ok(None) if bodiless => return Ok(()),
                Ok(None) => return session.write_response_body(Bytes::new(), true).await,
                Err(error) => {
                    tracing::warn!(cause = %error.cause(), "an upstream broke off");
                    return Error::e_explain(ErrorType::ConnectionClosed, "the upstream broke off");
                }
            }
        }
    };
    if let Err(error) = written.await {
        sent.broken = Some(error.into_down());
    }
    sent
}

/// The head of an answer whose length is not known beforehand.
pub(super) fn unmeasured(
    session: &mut ServerSession,
    mut head: Box<ResponseHeader>,
) -> Box<ResponseHeader> {
    head.remove_header(&header::CONTENT_LENGTH);
    head.remove_header(&header::TRANSFER_ENCODING);
    match session.req_header().version {
        Version::HTTP_11 => {
            let chunked = HeaderValue::from_static("chunked");
            let _ = head.insert_header(header::TRANSFER_ENCODING, chunked);
        }
        // Its end is that of the connection.
        Version::HTTP_10 | Version::HTTP_09 => session.set_keepalive(None),
        // HTTP/2 has frames.
        _ => {}
    }
    head
}
