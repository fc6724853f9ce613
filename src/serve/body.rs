//! Bodies of replies. Large ones are sent in pieces: as they are kept, or as they are read.

use super::bodies::{Held, Kept};
use super::encode::{PIECE_BYTES, Piece, encode, length, put_messages};
use super::{Server, Sse};
use crate::frame;
use crate::hub::Run;
use crate::log::{Answer, AnswerBody, Part, ReadError};
use crate::types::{Kind, Position};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use thiserror::Error;
use tokio::task::yield_now;

/// The body of a reply.
pub enum Body {
    Empty,
    Full(Bytes),
    Pieces(Box<Pieces>),
    Passed(Box<dyn Passed>),
    Live(Box<Sse>),
}

/// A body that comes from elsewhere while it is sent.
#[async_trait]
pub trait Passed: Send {
    /// Bytes of the whole body, where they are known beforehand.
    fn length(&self) -> Option<u64>;

    /// The next piece; `None` at the end of a whole body.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken>;
}

/// A body will not be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the body broke off")]
pub struct Broken;

/// A body that is sent in pieces.
pub struct Pieces {
    server: Arc<Server>,
    held: Held,
    /// Where to read what is not held.
    parts: Vec<Part>,
    kind: Kind,
    at: Position,
    to: Position,
    begun: bool,
    /// Bytes of the whole body, where they are known beforehand.
    pub length: Option<u64>,
}

impl Body {
    /// The body of a catch-up answer; `kept` is that body, if it is kept.
    pub(super) async fn of_answer(
        server: &Arc<Server>,
        answer: Answer,
        kept: Option<Arc<Kept>>,
    ) -> Result<Self, ReadError> {
        let kind = answer.view.meta.kind;
        let (parts, held, length) = match (kept, answer.body) {
            (Some(kept), body) => {
                if let [piece] = &kept.pieces[..]
                    && piece.bytes.len() <= PIECE_BYTES
                {
                    server.metrics.read.add(piece.plain_bytes, piece.messages);
                    return Ok(Self::Full(piece.bytes.clone()));
                }
                (parts_of(body), server.bodies.hold(&kept), Some(kept.bytes))
            }
            (None, AnswerBody::Hot(runs)) => return Self::of_runs(server, kind, &runs),
            (None, AnswerBody::Cold(parts)) => {
                let measured = server.log.measure(&parts, answer.from).await?;
                let length = measured.map(|(messages, bytes)| length(kind, messages, bytes));
                (parts, Held::Nothing, length)
            }
        };
        Ok(Self::Pieces(Box::new(Pieces {
            server: server.clone(),
            held,
            parts,
            kind,
            at: answer.from,
            to: answer.to,
            begun: false,
            length,
        })))
    }

    /// The body of an answer that is in memory.
    fn of_runs(server: &Server, kind: Kind, runs: &[Run]) -> Result<Self, ReadError> {
        let room = match Run::bytes(runs) {
            0..=PIECE_BYTES => None,
            bytes => Some(server.outgoing.take(bytes).ok_or(ReadError::NoRoom)?),
        };
        let (messages, _) = Run::measure(runs);
        let body = encode(kind, runs);
        server.metrics.read.add(body.len() as u64, messages);
        Ok(Self::Full(match room {
            Some(room) => room.hold(body),
            None => body,
        }))
    }
}

fn parts_of(body: AnswerBody) -> Vec<Part> {
    match body {
        AnswerBody::Cold(parts) => parts,
        AnswerBody::Hot(_) => Vec::new(),
    }
}

impl Pieces {
    /// The next piece; `None` at the end. An error means that the body cannot be completed.
    ///
    /// Between two pieces others get their turn: a client that takes what is sent at once would
    /// hold up its worker for as long as the body lasts.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.at >= self.to {
            return Ok(None);
        }
        if self.begun {
            yield_now().await;
        }
        let piece = match self.held.piece(self.at) {
            Some(piece) => piece,
            None => self.read().await?,
        };
        self.begun = true;
        self.at = piece.to;
        let metrics = &self.server.metrics;
        metrics.read.add(piece.plain_bytes, piece.messages);
        Ok(Some(piece.bytes))
    }

    /// Reads the next piece from the log, with room for it.
    async fn read(&self) -> Result<Piece, ReadError> {
        let read = || async {
            let piece = self.read_once().await?;
            let bytes = piece.bytes.len();
            Ok((piece, bytes))
        };
        let (mut piece, room) = self.server.outgoing.with_room(read).await?;
        if let Some(room) = room {
            piece.bytes = room.hold(piece.bytes);
        }
        Ok(piece)
    }

    async fn read_once(&self) -> Result<Piece, ReadError> {
        let run = self.server.log.piece(&self.parts, self.at).await?;
        let mut out = BytesMut::with_capacity(run.frames.len() + 2);
        let mut separator = if self.begun { b',' } else { b'[' };
        put_messages(&mut out, self.kind, &run, &mut separator);
        let to = run.end();
        if to >= self.to && self.kind == Kind::Json {
            out.put_u8(b']');
        }
        Ok(Piece {
            plain_bytes: out.len() as u64,
            bytes: out.freeze(),
            messages: frame::measure(&run.frames, 0).0,
            to,
        })
    }
}
