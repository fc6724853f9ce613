//! Reading request bodies: whole, bounded, and not all at once.

use super::receiving::{Incoming, Receiving};
use crate::config::Limits;
use crate::serve::ServeError;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use pingora::ErrorType;
use pingora::protocols::http::ServerSession;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes that a permit stands for.
const PERMIT_BYTES: u64 = 4096;
/// Bytes that a growing body reserves ahead at the most.
const RESERVE_STEP_BYTES: u64 = 1024 * 1024;

/// The memory for bodies on their way.
pub(super) struct Bodies {
    permits: Arc<Semaphore>,
    receiving: Receiving,
    bytes_max: u64,
    timeout: Duration,
    wait_max: Duration,
}

/// A body, and its share of the memory until it is done with.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    pub(super) permits: Vec<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(super) fn new(limits: &Limits) -> Self {
        let bytes = limits.bodies_in_flight_bytes_max.max(limits.body_bytes_max);
        let permits = bytes
            .div_ceil(PERMIT_BYTES)
            .clamp(1, Semaphore::MAX_PERMITS as u64);
        Self {
            permits: Arc::new(Semaphore::new(permits as usize)),
            receiving: Receiving::default(),
            bytes_max: limits.body_bytes_max,
            timeout: limits.body_timeout,
            wait_max: limits.queue_wait,
        }
    }

    /// The longest body.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Reads the body of a request. After an error, what follows on the connection is the rest of
    /// it.
    pub(super) async fn read(&self, session: &mut ServerSession) -> Result<Held, ServeError> {
        if session.is_body_empty() {
            return Ok(Held {
                bytes: Bytes::new(),
                permits: Vec::new(),
            });
        }
        let length = content_length(session);
        if length.is_some_and(|length| length > self.bytes_max) {
            return Err(self.too_large());
        }
        session.set_read_timeout(Some(self.timeout));
        if waits_to_send(session) {
            let keepalive = session.get_keepalive();
            let told = session.write_continue_response().await;
            told.map_err(|_| ServeError::BodyBroken)?;
            // Pingora gives up the connection at any answer before the body's end.
            session.set_keepalive(keepalive);
        }
        self.receive(session, length).await
    }

    /// Collects a body, unless it is slow and must give way.
    async fn receive(
        &self,
        session: &mut ServerSession,
        length: Option<u64>,
    ) -> Result<Held, ServeError> {
        let incoming = self.receiving.begin();
        tokio::select! {
            biased;
            read = self.collect(session, length, &incoming) => read,
            () = incoming.asked() => Err(ServeError::BodyTooSlow),
        }
    }

    async fn collect(
        &self,
        session: &mut ServerSession,
        length: Option<u64>,
        incoming: &Incoming<'_>,
    ) -> Result<Held, ServeError> {
        let mut permits = Vec::new();
        let mut reserved = 0;
        let expected = length.unwrap_or(0).min(RESERVE_STEP_BYTES);
        let mut whole = BytesMut::with_capacity(expected as usize);
        while let Some(bytes) = self.next(session).await? {
            incoming.receive(bytes.len());
            let total = (whole.len() + bytes.len()) as u64;
            if total > self.bytes_max {
                return Err(self.too_large());
            }
            // As the bytes come: what is only announced must not hold others up.
            if total > reserved {
                // More than the longest body might wait for itself.
                let ahead = reserved.min(RESERVE_STEP_BYTES);
                let step = ahead.min(self.bytes_max.saturating_sub(reserved));
                let step = step.max(total - reserved).div_ceil(PERMIT_BYTES);
                permits.push(self.reserve(step, incoming).await?);
                reserved += step * PERMIT_BYTES;
            }
            if length == Some(bytes.len() as u64) {
                return Ok(Held { bytes, permits });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Held {
            bytes: whole.freeze(),
            permits,
        })
    }

    async fn next(&self, session: &mut ServerSession) -> Result<Option<Bytes>, ServeError> {
        let late = ServeError::BodyTimeout {
            seconds: self.timeout.as_secs(),
        };
        let read = if session.is_http2() {
            // Pingora's own timeout is one of HTTP/1 alone.
            match timeout(self.timeout, session.read_request_body()).await {
                Ok(read) => read,
                Err(_) => return Err(late),
            }
        } else {
            session.read_request_body().await
        };
        read.map_err(|error| match error.etype() {
            ErrorType::ReadTimedout => late,
            _ => ServeError::BodyBroken,
        })
    }

    async fn reserve(
        &self,
        permits: u64,
        incoming: &Incoming<'_>,
    ) -> Result<OwnedSemaphorePermit, ServeError> {
        let permits = permits as u32;
        if let Ok(permit) = self.permits.clone().try_acquire_many_owned(permits) {
            return Ok(permit);
        }
        let waited = timeout(self.wait_max, self.wait_for_room(permits));
        match incoming.wait(waited).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(ServeError::TooManyBodies),
        }
    }

    /// Waits for room, for half of the time without anybody else noticing.
    async fn wait_for_room(&self, permits: u32) -> Result<OwnedSemaphorePermit, AcquireError> {
        let mut room = pin!(self.permits.clone().acquire_many_owned(permits));
        if let Ok(room) = timeout(self.wait_max / 2, &mut room).await {
            return room;
        }
        tokio::select! {
            biased;
            room = room => room,
            never = self.receiving.make_room() => match never {},
        }
    }

    fn too_large(&self) -> ServeError {
        ServeError::BodyTooLarge {
            bytes_max: self.bytes_max,
        }
    }

    /// Reads on and forgets, for a while: a client that still sends does not read its answer.
    pub(super) async fn drain(&self, session: &mut ServerSession) {
        if session.is_body_done() {
            return;
        }
        if waits_to_send(session) {
            // It may send the body all the same, or another request.
            session.set_keepalive(None);
            return;
        }
        session.set_read_timeout(Some(self.timeout));
        if session.drain_request_body().await.is_err() {
            // What follows on the connection is not known to be a request.
            session.set_keepalive(None);
        }
    }
}

pub(super) fn content_length(session: &ServerSession) -> Option<u64> {
    let value = session.get_header(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.trim().parse().ok()
}

/// Whether the client sends no body before it is told to (RFC 9110, section 10.1.1).
fn waits_to_send(session: &ServerSession) -> bool {
    let expects = session
        .get_header(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    expects && session.response_written().is_none()
}

/// Whether every server sees the same end of a request: it has one length at the most, and no coding
/// but chunks.
pub(super) fn ends_clearly(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_one = |length: &HeaderValue| !length.as_bytes().contains(&b',');
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    lengths.next().is_none_or(is_one)
        && lengths.next().is_none()
        && codings.next().is_none_or(is_chunked)
        && codings.next().is_none()
}
