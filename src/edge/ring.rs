//! What was last heard of a stream that is followed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::hub::HotBytes;

/// Most bytes that are kept of one stream, and of one piece. Readers further behind read by
/// catch-up.
pub(super) const RING_BYTES_MAX: usize = 1 << 20;
/// What a piece costs beside its bytes.
const PIECE_BYTES: u64 = 192;

/// Data of a stream between two offsets.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) from: Arc<str>,
    pub(super) next: Arc<str>,
    /// As in the body of a catch-up answer; of JSON, without the brackets of the array.
    pub(super) body: Bytes,
    /// Whether it was all that there was.
    pub(super) up_to_date: bool,
}

impl Piece {
    fn cost(&self) -> u64 {
        self.body.len() as u64 + PIECE_BYTES
    }
}

/// Where an offset is, seen from a ring.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the ring, or at no boundary of it.
    Behind,
    /// At the beginning of the first of these pieces.
    Pieces(Range<usize>),
    /// At its end.
    Tail,
    /// Where the ring has not come yet.
    Ahead,
}

/// The last pieces of a stream, each beginning where the one before it ends.
pub(super) struct Ring {
    pieces: VecDeque<Piece>,
    /// Pieces that were dropped: the number of the first one.
    dropped: u64,
    tail: Arc<str>,
    cost: u64,
    hot: Arc<HotBytes>,
}

impl Ring {
    /// One that begins at an offset.
    pub(super) fn new(tail: Arc<str>, hot: Arc<HotBytes>) -> Self {
        Self {
            pieces: VecDeque::new(),
            dropped: 0,
            tail,
            cost: 0,
            hot,
        }
    }

    /// The end of the last piece.
    pub(super) fn tail(&self) -> &Arc<str> {
        &self.tail
    }

    /// Adds what comes next. Where there is no memory for it, the ring begins anew behind it.
    pub(super) fn push(&mut self, piece: Piece) {
        debug_assert_eq!(piece.from, self.tail);
        let cost = piece.cost();
        while self.cost + cost > RING_BYTES_MAX as u64 && self.drop_oldest() {}
        while cost > RING_BYTES_MAX as u64 || !self.hot.take(cost) {
            if !self.drop_oldest() {
                self.restart(piece.next);
                return;
            }
        }
        self.cost += cost;
        self.tail = piece.next.clone();
        self.pieces.push_back(piece);
    }

    /// Begins anew at an offset: what is before it is not known.
    pub(super) fn restart(&mut self, tail: Arc<str>) {
        while self.drop_oldest() {}
        self.tail = tail;
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(piece) = self.pieces.pop_front() else {
            return false;
        };
        self.dropped += 1;
        self.cost -= piece.cost();
        self.hot.give_back(piece.cost());
        true
    }

    pub(super) fn find(&self, at: &str) -> Place {
        let count = self.pieces.len();
        if at == &*self.tail {
            return Place::Tail;
        }
        if at > &*self.tail {
            return Place::Ahead;
        }
        // Who reads along asks for the last piece.
        if self.pieces.back().is_some_and(|last| *last.from == *at) {
            return Place::Pieces(count - 1..count);
        }
        match self.pieces.binary_search_by(|piece| (*piece.from).cmp(at)) {
            Ok(first) => Place::Pieces(first..count),
            Err(_) => Place::Behind,
        }
    }

    pub(super) fn pieces(&self, range: Range<usize>) -> Vec<Piece> {
        self.pieces.range(range).cloned().collect()
    }

    /// The numbers of pieces, which stay the same as long as they are there.
    pub(super) fn numbers(&self, range: &Range<usize>) -> Range<u64> {
        self.dropped + range.start as u64..self.dropped + range.end as u64
    }

    pub(super) fn last(&self) -> Option<&Piece> {
        self.pieces.back()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.hot.give_back(self.cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: &str, next: &str, bytes: usize) -> Piece {
        Piece {
            from: from.into(),
            next: next.into(),
            body: vec![b'x'; bytes].into(),
            up_to_date: true,
        }
    }

    #[test]
    fn readers_are_found_at_boundaries_alone() {
        let mut ring = Ring::new("a".into(), HotBytes::new(1 << 30));
        assert_eq!(ring.find("a"), Place::Tail);
        ring.push(piece("a", "c", 1));
        ring.push(piece("c", "e", 1));
        ring.push(piece("e", "g", 1));
        for (at, place) in [
            ("-1", Place::Behind),
            ("a", Place::Pieces(0..3)),
            ("b", Place::Behind),
            ("c", Place::Pieces(1..3)),
            ("e", Place::Pieces(2..3)),
            ("g", Place::Tail),
            ("h", Place::Ahead),
        ] {
            assert_eq!(ring.find(at), place, "{at}");
        }
        ring.restart("m".into());
        assert_eq!(ring.find("e"), Place::Behind);
        assert_eq!(ring.find("m"), Place::Tail);
    }

    #[test]
    fn the_oldest_pieces_go_and_all_memory_is_given_back() {
        let hot = HotBytes::new(3 * RING_BYTES_MAX as u64);
        let mut ring = Ring::new("00".into(), hot.clone());
        let half = RING_BYTES_MAX / 2;
        for n in 0..4 {
            let next = format!("{:02}", n + 1);
            ring.push(piece(&ring.tail.clone(), &next, half));
            assert!(hot.used() <= RING_BYTES_MAX as u64);
        }
        assert_eq!(ring.find("02"), Place::Behind);
        assert_eq!(ring.find("03"), Place::Pieces(0..1));
        assert_eq!(ring.numbers(&(0..1)), 3..4);
        drop(ring);
        assert_eq!(hot.used(), 0);
    }

    #[test]
    fn without_memory_the_ring_begins_anew() {
        let hot = HotBytes::new(1000);
        let mut ring = Ring::new("a".into(), hot.clone());
        ring.push(piece("a", "b", 500));
        ring.push(piece("b", "c", 2000));
        assert_eq!(
            (ring.find("b"), ring.find("c")),
            (Place::Behind, Place::Tail)
        );
        assert_eq!(hot.used(), 0);
        ring.push(piece("c", "d", 500));
        assert_eq!(ring.find("c"), Place::Pieces(0..1));
    }
}
