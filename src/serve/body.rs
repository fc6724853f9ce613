//! Bodies of replies. Large ones are read from the log in pieces while they are sent.

use super::{Server, Sse};
use crate::frame::Frames;
use crate::hub::Run;
use crate::log::{Answer, AnswerBody, Part, ReadError};
use crate::types::{Kind, Position};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use thiserror::Error;

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

/// A body that is read while it is sent.
pub struct Pieces {
    server: Arc<Server>,
    parts: Vec<Part>,
    kind: Kind,
    at: Position,
    to: Position,
    begun: bool,
    /// Bytes of the whole body, where they are known beforehand.
    pub length: Option<u64>,
}

impl Body {
    /// The body of a catch-up answer.
    pub(super) async fn of_answer(server: &Arc<Server>, answer: Answer) -> Result<Self, ReadError> {
        let kind = answer.view.meta.kind;
        match answer.body {
            AnswerBody::Hot(runs) => Ok(Self::Full(server.count(&runs, encode(kind, &runs)))),
            AnswerBody::Cold(parts) => {
                let measured = server.log.measure(&parts, answer.from).await?;
                Ok(Self::Pieces(Box::new(Pieces {
                    server: server.clone(),
                    parts,
                    kind,
                    at: answer.from,
                    to: answer.to,
                    begun: false,
                    length: measured.map(|(messages, bytes)| length(kind, messages, bytes)),
                })))
            }
        }
    }
}

impl Pieces {
    /// The next piece; `None` at the end. An error means that the body cannot be completed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.at >= self.to {
            return Ok(None);
        }
        let run = self.server.log.piece(&self.parts, self.at).await?;
        let mut out = BytesMut::with_capacity(run.frames.len() + 2);
        let mut separator = if self.begun { b',' } else { b'[' };
        put_messages(&mut out, self.kind, &run, &mut separator);
        self.begun = true;
        self.at = run.end();
        if self.at >= self.to && self.kind == Kind::Json {
            out.put_u8(b']');
        }
        Ok(Some(self.server.count(&[run], out.freeze())))
    }
}

impl Server {
    /// Counts what a body delivers.
    fn count(&self, runs: &[Run], body: Bytes) -> Bytes {
        let messages = runs
            .iter()
            .map(|run| Frames::new(&run.frames, 0).count() as u64);
        self.metrics.read.add(body.len() as u64, messages.sum());
        body
    }
}

/// The body of an answer that is in memory. A single message is sent as it lies.
fn encode(kind: Kind, runs: &[Run]) -> Bytes {
    if kind != Kind::Json
        && let [run] = runs
        && let mut frames = Frames::new(&run.frames, 0)
        && let (Some(frame), None) = (frames.next(), frames.next())
    {
        return run.frames.slice(frame.payload());
    }
    let bytes: usize = runs.iter().map(|run| run.frames.len()).sum();
    let mut out = BytesMut::with_capacity(bytes + 2);
    let mut separator = b'[';
    for run in runs {
        put_messages(&mut out, kind, run, &mut separator);
    }
    if kind == Kind::Json {
        if separator == b'[' {
            out.put_u8(b'[');
        }
        out.put_u8(b']');
    }
    out.freeze()
}

fn put_messages(out: &mut BytesMut, kind: Kind, run: &Run, separator: &mut u8) {
    for frame in Frames::new(&run.frames, 0) {
        if kind == Kind::Json {
            out.put_u8(*separator);
            *separator = b',';
        }
        out.put_slice(&run.frames[frame.payload()]);
    }
}

/// Bytes of the body of an answer.
fn length(kind: Kind, messages: u64, bytes: u64) -> u64 {
    match kind {
        Kind::Json => bytes + messages.saturating_sub(1) + 2,
        Kind::Text | Kind::Binary => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_length_is_known_beforehand(
            appends in proptest::collection::vec(proptest::collection::vec("[0-9]{1,5}", 1..5), 0..6),
        ) {
            let mut start = 0;
            let runs: Vec<Run> = appends.iter().map(|messages| {
                let frames = frame::encode(messages.iter().map(String::as_bytes));
                let run = Run { start, frames };
                start = run.end();
                run
            }).collect();
            let (messages, bytes) = runs.iter().fold((0, 0), |total, run| {
                let (messages, bytes) = frame::measure(&run.frames, 0);
                (total.0 + messages, total.1 + bytes)
            });
            for kind in [Kind::Json, Kind::Text, Kind::Binary] {
                prop_assert_eq!(encode(kind, &runs).len() as u64, length(kind, messages, bytes));
            }
            let array = format!("[{}]", appends.concat().join(","));
            prop_assert_eq!(&encode(Kind::Json, &runs)[..], array.as_bytes());
        }
    }
}
