//! Bodies of catch-up answers that are kept in memory: all who ask for the same range are sent the
//! same bytes.
//!
//! A body is kept under the stream's id and the position that was asked for. One that ends at a fixed
//! place serves for ever; one that ends at the tail of an open stream is extended when the tail has
//! moved.

use super::encode::{Encoder, Piece};
use super::turns::Turns;
use crate::hub::{Run, View};
use crate::log::{Answer, AnswerBody, Part};
use crate::types::{Coding, Position, StreamId};
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The bodies that are kept.
pub struct Bodies {
    kept: Cache<Key, Arc<Kept>, Weight>,
    bytes_max: u64,
    /// Bytes of bodies that are kept or held by those who send them.
    alive: Arc<AtomicU64>,
    /// Turns at making bodies.
    pub(super) making: Turns,
    /// Turns at compressing them, which takes much longer: those who only read must not wait for it.
    pub(super) compressing: Turns,
}

/// What a body answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) id: StreamId,
    /// The position that was asked for; of what is compressed, where the answer begins.
    pub(super) at: Position,
    pub(super) coding: Option<Coding>,
}

impl Key {
    /// The body as it is stored, of an answer from `at` on.
    pub(super) fn uncoded(view: &View, at: Position) -> Self {
        Self {
            id: view.meta.id,
            at,
            coding: None,
        }
    }
}

/// A whole body, and the answer that it belongs to.
#[derive(Debug)]
pub(super) struct Kept {
    id: StreamId,
    from: Position,
    to: Position,
    fixed: bool,
    coding: Option<Coding>,
    parts: Vec<Part>,
    pub(super) pieces: Vec<Piece>,
    pub(super) bytes: u64,
    alive: Arc<AtomicU64>,
}

/// What a body is before it is compressed.
#[derive(Clone, Copy)]
pub(super) struct Plain {
    pub(super) bytes: u64,
    pub(super) messages: u64,
}

impl Plain {
    pub(super) fn of(pieces: &[Piece]) -> Self {
        Self {
            bytes: pieces.iter().map(|piece| piece.plain_bytes).sum(),
            messages: pieces.iter().map(|piece| piece.messages).sum(),
        }
    }
}

#[derive(Clone)]
pub(super) struct Weight;

impl Weighter<Key, Arc<Kept>> for Weight {
    fn weight(&self, _: &Key, kept: &Arc<Kept>) -> u64 {
        kept.bytes + 256
    }
}

/// The right to make a body for which others wait.
pub(super) type Making<'a> = PlaceholderGuard<
    'a,
    Key,
    Arc<Kept>,
    Weight,
    quick_cache::DefaultHashBuilder,
    DefaultLifecycle<Key, Arc<Kept>>,
>;

/// Bodies that are larger than this fraction of the memory are not kept.
const PARTS_MIN: u64 = 8;
/// Bodies that are made at one time at the least.
const MAKERS_MIN: usize = 2;
/// An estimate of how long a kept body is. It only sizes tables.
const BYTES_EXPECTED: u64 = 512 * 1024;

impl Bodies {
    /// Keeps bodies of at most `bytes_max` bytes in all. Those who send what is not kept any more
    /// hold at most as much again. One that is to be made waits for its turn for `wait_max`.
    pub fn new(bytes_max: u64, wait_max: Duration) -> Self {
        let count = (bytes_max / BYTES_EXPECTED).clamp(16, 100_000) as usize;
        Self {
            kept: Cache::with_weighter(count, bytes_max, Weight),
            bytes_max,
            alive: Arc::default(),
            making: Turns::new(MAKERS_MIN, wait_max),
            compressing: Turns::new(1, Duration::ZERO),
        }
    }

    /// The largest range of a stream of which a body is kept.
    pub(super) fn body_bytes_max(&self) -> u64 {
        self.bytes_max / PARTS_MIN
    }

    /// A kept body.
    pub(super) fn get(&self, key: Key) -> Option<Arc<Kept>> {
        self.kept.get(&key)
    }

    /// A kept body, or the right to make it; waits while somebody else makes it.
    pub(super) async fn get_or_make(&self, key: Key) -> Result<Arc<Kept>, Making<'_>> {
        self.kept.get_value_or_guard_async(&key).await
    }

    /// Keeps a body in place of another.
    pub(super) fn put(&self, key: Key, kept: Arc<Kept>) {
        self.kept.insert(key, kept);
    }

    /// Makes the body of an answer whose bytes are in memory.
    pub(super) fn make(&self, answer: &Answer, runs: &[Run]) -> Kept {
        let mut encoder = Encoder::new(answer.view.meta.kind);
        for run in runs {
            encoder.push(run);
        }
        self.of_pieces(answer, None, encoder.finish())
    }

    /// The body of an answer that begins with a kept one and goes on with the runs.
    pub(super) fn extend(&self, kept: &Kept, answer: &Answer, runs: &[Run]) -> Kept {
        let kind = answer.view.meta.kind;
        let mut encoder = Encoder::resume(kind, &kept.pieces, Run::bytes(runs));
        for run in runs {
            encoder.push(run);
        }
        self.of_pieces(answer, None, encoder.finish())
    }

    /// The body of an answer that was compressed; without bytes, to keep in mind that this makes it no
    /// smaller.
    pub(super) fn make_coded(
        &self,
        answer: &Answer,
        coding: Coding,
        bytes: Option<Bytes>,
        plain: &Plain,
    ) -> Kept {
        let piece = |bytes| Piece {
            bytes,
            messages: plain.messages,
            plain_bytes: plain.bytes,
            to: answer.to,
        };
        self.of_pieces(answer, Some(coding), bytes.map(piece).into_iter().collect())
    }

    fn of_pieces(&self, answer: &Answer, coding: Option<Coding>, pieces: Vec<Piece>) -> Kept {
        let parts = match &answer.body {
            AnswerBody::Cold(parts) => parts.clone(),
            AnswerBody::Hot(_) => Vec::new(),
        };
        let bytes = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        self.alive.fetch_add(bytes, Ordering::Relaxed);
        Kept {
            id: answer.view.meta.id,
            from: answer.from,
            to: answer.to,
            fixed: answer.fixed(),
            coding,
            parts,
            pieces,
            bytes,
            alive: self.alive.clone(),
        }
    }

    /// Bytes of bodies that are kept, or held by those who send them.
    pub fn alive_bytes(&self) -> u64 {
        self.alive.load(Ordering::Relaxed)
    }

    /// Whether those who send bodies may hold more of them.
    pub(super) fn has_room(&self) -> bool {
        self.alive_bytes() < 2 * self.bytes_max
    }

    /// A body for somebody who sends it: held, unless too much is held already. Then it lasts as
    /// long as it is kept.
    pub(super) fn hold(&self, kept: &Arc<Kept>) -> Held {
        // What is compressed cannot be made again from the middle on: see `has_room`.
        if kept.coding.is_some() || self.has_room() {
            Held::Body(kept.clone())
        } else {
            Held::WhileKept(Arc::downgrade(kept))
        }
    }
}

impl Kept {
    /// Whether this is the body of an answer now.
    pub(super) fn answers(&self, view: &View) -> bool {
        self.to == view.tail || (self.fixed && self.to < view.tail)
    }

    /// Whether an answer now begins with this body, and goes on to the tail.
    pub(super) fn is_prefix(&self, view: &View) -> bool {
        !self.fixed && self.from >= view.sealed && self.to < view.tail
    }

    /// How it is compressed.
    pub(super) fn coding(&self) -> Option<Coding> {
        self.coding
    }

    /// Whether compressing has made it smaller.
    pub(super) fn is_smaller(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// The stream that it is of.
    pub(super) fn id(&self) -> StreamId {
        self.id
    }

    /// Where its appends end.
    pub(super) fn end(&self) -> Position {
        self.to
    }

    /// The answer that begins with this body and ends at the tail.
    pub(super) fn extended(&self, view: View) -> Answer {
        let mut parts = self.parts.clone();
        if let Some(part) = parts.last_mut() {
            part.to = view.tail;
        }
        Answer {
            from: self.from,
            to: view.tail,
            view,
            body: AnswerBody::Cold(parts),
        }
    }

    /// The answer that this is the body of, without the body.
    pub(super) fn answer(&self, view: View) -> Answer {
        Answer {
            view,
            from: self.from,
            to: self.to,
            body: AnswerBody::Cold(self.parts.clone()),
        }
    }

    /// The piece that begins at a position where another ends.
    fn piece(&self, at: Position) -> Option<&Piece> {
        let next = self.pieces.partition_point(|piece| piece.to <= at);
        self.pieces.get(next)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body while it is sent.
pub(super) enum Held {
    Body(Arc<Kept>),
    WhileKept(Weak<Kept>),
    Nothing,
}

impl Held {
    /// The piece from `at` on, if the body is still there.
    pub(super) fn piece(&mut self, at: Position) -> Option<Piece> {
        let piece = match self {
            Self::Body(kept) => kept.piece(at).cloned(),
            Self::WhileKept(kept) => kept.upgrade()?.piece(at).cloned(),
            Self::Nothing => None,
        };
        if piece.is_none() {
            // From here on the pieces of the log may end elsewhere.
            *self = Self::Nothing;
        }
        piece
    }
}
