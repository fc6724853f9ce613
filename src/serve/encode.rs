//! From frames to bodies: the messages alone, or as a JSON array.

use crate::frame::Frames;
use crate::hub::Run;
use crate::types::{Kind, Position};
use bytes::{BufMut, Bytes, BytesMut};

/// About how long a piece of a body is. An append is never cut.
pub(super) const PIECE_BYTES: usize = 256 * 1024;

/// A part of a body that ends with an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) messages: u64,
    /// Bytes before they were compressed.
    pub(super) plain_bytes: u64,
    /// Where the appends of the piece end.
    pub(super) to: Position,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Makes a body of appends, in pieces that lie in memory each by itself.
pub(super) struct Encoder {
    kind: Kind,
    pieces: Vec<Piece>,
    /// The piece that is being made.
    bytes: Vec<u8>,
    messages: u64,
    to: Position,
    begun: bool,
}

impl Encoder {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            pieces: Vec::new(),
            bytes: Vec::new(),
            messages: 0,
            to: 0,
            begun: false,
        }
    }

    /// Goes on behind the last of a body's pieces, to add `more` bytes of frames.
    pub(super) fn resume(kind: Kind, pieces: &[Piece], more: usize) -> Self {
        let Some((last, before)) = pieces.split_last() else {
            return Self::new(kind);
        };
        let closing = usize::from(kind == Kind::Json);
        let kept = &last.bytes[..last.bytes.len() - closing];
        let mut bytes =
            Vec::with_capacity((kept.len() + more).min(PIECE_BYTES).max(kept.len()) + 1);
        bytes.extend_from_slice(kept);
        Self {
            kind,
            pieces: before.to_vec(),
            bytes,
            messages: last.messages,
            to: last.to,
            begun: true,
        }
    }

    /// Adds the appends of a run.
    pub(super) fn push(&mut self, run: &Run) {
        let (mut begin, mut messages) = (0, 0);
        for frame in Frames::new(&run.frames, 0) {
            messages += 1;
            if frame.ends_append {
                let append = &run.frames[begin..frame.end];
                let left = run.frames.len() - begin;
                self.push_append(append, messages, left);
                self.to = run.start + frame.end as u64;
                (begin, messages) = (frame.end, 0);
            }
        }
    }

    /// Adds an append; `left` bytes of frames are there with it.
    fn push_append(&mut self, append: &[u8], messages: u64, left: usize) {
        // Enough: a header is longer than what separates messages.
        if self.bytes.len() + append.len() > PIECE_BYTES {
            self.end_piece();
        }
        if self.bytes.capacity() == 0 {
            // One more for the end of an array.
            self.bytes = Vec::with_capacity(left.min(PIECE_BYTES).max(append.len()) + 1);
        }
        for frame in Frames::new(append, 0) {
            if self.kind == Kind::Json {
                self.bytes.push(if self.begun { b',' } else { b'[' });
                self.begun = true;
            }
            self.bytes.extend_from_slice(&append[frame.payload()]);
        }
        self.messages += messages;
    }

    fn end_piece(&mut self) {
        if self.messages > 0 {
            self.pieces.push(Piece {
                plain_bytes: self.bytes.len() as u64,
                bytes: std::mem::take(&mut self.bytes).into(),
                messages: std::mem::take(&mut self.messages),
                to: self.to,
            });
        }
    }

    /// The pieces of the whole body; none, if there is no message.
    pub(super) fn finish(mut self) -> Vec<Piece> {
        if self.kind == Kind::Json && self.messages > 0 {
            self.bytes.push(b']');
        }
        self.end_piece();
        self.pieces
    }
}

/// The body of an answer that is in memory, whole. A single message is sent as it lies.
pub(super) fn encode(kind: Kind, runs: &[Run]) -> Bytes {
    if kind != Kind::Json
        && let [run] = runs
        && let mut frames = Frames::new(&run.frames, 0)
        && let (Some(frame), None) = (frames.next(), frames.next())
    {
        return run.frames.slice(frame.payload());
    }
    let mut out = BytesMut::with_capacity(Run::bytes(runs) + 2);
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

/// Adds the messages of a run to a body; `separator` comes before the first.
pub(super) fn put_messages(out: &mut BytesMut, kind: Kind, run: &Run, separator: &mut u8) {
    for frame in Frames::new(&run.frames, 0) {
        if kind == Kind::Json {
            out.put_u8(*separator);
            *separator = b',';
        }
        out.put_slice(&run.frames[frame.payload()]);
    }
}

/// Bytes of the body of an answer.
pub(super) fn length(kind: Kind, messages: u64, bytes: u64) -> u64 {
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

    /// Runs of so many appends each, with these messages.
    fn runs(appends: &[Vec<String>]) -> Vec<Run> {
        let mut start = 0;
        let run = |messages: &Vec<String>| {
            let frames = frame::encode(messages.iter().map(String::as_bytes));
            let run = Run { start, frames };
            start = run.end();
            run
        };
        appends.iter().map(run).collect()
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        pieces
            .iter()
            .flat_map(|piece| piece.bytes.clone())
            .collect()
    }

    proptest! {
        #[test]
        fn the_length_is_known_beforehand(
            appends in proptest::collection::vec(proptest::collection::vec("[0-9]{1,5}", 1..5), 0..6),
        ) {
            let runs = runs(&appends);
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

        /// Wherever the encoder is stopped and goes on, it makes the body that is made at once.
        #[test]
        fn pieces_join_to_the_body(
            sizes in proptest::collection::vec(proptest::collection::vec(1..150_000_usize, 1..4), 1..8),
            stop in 0..8_usize,
        ) {
            let text = |size: &usize| "7".repeat(*size);
            let appends: Vec<Vec<String>> =
                sizes.iter().map(|append| append.iter().map(text).collect()).collect();
            let runs = runs(&appends);
            let (first, rest) = runs.split_at(stop.min(runs.len()));
            for kind in [Kind::Json, Kind::Text] {
                let mut encoder = Encoder::new(kind);
                for run in first {
                    encoder.push(run);
                }
                let pieces = encoder.finish();
                let mut encoder = Encoder::resume(kind, &pieces, 1000);
                for run in rest {
                    encoder.push(run);
                }
                let pieces = encoder.finish();
                prop_assert!(joined(&pieces) == encode(kind, &runs));
                prop_assert_eq!(pieces.last().unwrap().to, runs.last().unwrap().end());
                let messages: u64 = pieces.iter().map(|piece| piece.messages).sum();
                prop_assert_eq!(messages as usize, appends.concat().len());
                for piece in &pieces {
                    let alone = runs.iter().any(|run| run.end() == piece.to && run.frames.len() > PIECE_BYTES);
                    prop_assert!(piece.bytes.len() <= PIECE_BYTES + 1 || alone);
                }
            }
        }
    }
}
