//! From a reply to a Pingora session.

use crate::observe::access::LiveEnd;
use crate::protocol::reply::Head;
use crate::serve::{Body, Pieces, Reply, Sse};
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
    /// Why a live answer ended.
    pub(super) live_end: Option<LiveEnd<'static>>,
    /// From where to where a live answer went.
    pub(super) offsets: Option<(Offset, Offset)>,
    /// The answer is not complete.
    pub(super) broken: Option<Box<Error>>,
}

impl Sent {
    /// Nothing was sent: nobody is there.
    pub(super) fn client_left() -> Self {
        Self {
            status: StatusCode::from_u16(CLIENT_LEFT).unwrap_or(StatusCode::BAD_REQUEST),
            bytes: 0,
            live_end: Some(LiveEnd::ClientLeft),
            offsets: None,
            broken: Some(Error::new_down(ErrorType::ConnectionClosed)),
        }
    }
}

/// Writes a reply.
pub(super) async fn respond(session: &mut ServerSession, reply: Reply, method: &Method) -> Sent {
    let mut sent = Sent {
        status: reply.head.status,
        bytes: 0,
        live_end: None,
        offsets: None,
        broken: None,
    };
    let Reply { head, body } = reply;
    let header = header(session, head, &body);
    let without_body = *method == Method::HEAD;
    let written = async {
        session.write_response_header(header).await?;
        if without_body {
            return Ok(());
        }
        match body {
            Body::Empty => Ok(()),
            Body::Full(bytes) => {
                sent.bytes = bytes.len() as u64;
                session.write_response_body(bytes, true).await
            }
            Body::Pieces(pieces) => Box::pin(send_pieces(session, *pieces, &mut sent)).await,
            Body::Live(live) => Box::pin(send_live(session, live, &mut sent)).await,
        }
    };
    if let Err(error) = written.await {
        sent.broken = Some(error.into_down());
    }
    sent
}

fn header(session: &ServerSession, head: Head, body: &Body) -> Box<ResponseHeader> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = head.status;
    parts.headers = head.headers;
    let length = match body {
        Body::Empty => Some(0),
        Body::Full(bytes) => Some(bytes.len() as u64),
        Body::Pieces(pieces) => pieces.length,
        Body::Live(_) => None,
    };
    let bodiless = matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    match length {
        _ if bodiless => {}
        Some(length) => {
            parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        None if session.req_header().version == Version::HTTP_11 => {
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        // HTTP/2 has frames; HTTP/1.0 ends with the connection.
        None => {}
    }
    Box::new(ResponseHeader::from(parts))
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

async fn send_live(session: &mut ServerSession, mut live: Box<Sse>, sent: &mut Sent) -> Result<()> {
    let from = Offset(live.position());
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
    sent.offsets = Some((from, Offset(live.position())));
    match ended {
        Ok(end) => {
            sent.live_end = Some(end);
            session.write_response_body(Bytes::new(), true).await
        }
        Err(end) => {
            sent.live_end = Some(end);
            Err(Error::new_down(ErrorType::ConnectionClosed))
        }
    }
}
