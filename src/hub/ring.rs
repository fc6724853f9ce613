//! The recent appends of one stream, in memory.

use crate::frame;
use crate::types::Position;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes that one stream keeps in memory. Readers further behind read from the log.
const RING_BYTES_MAX: u64 = 256 * 1024;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 64;

/// Whole appends that lie next to each other, from `start` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: Position,
    pub frames: Bytes,
}

impl Run {
    pub fn end(&self) -> Position {
        self.start + self.frames.len() as u64
    }

    /// Bytes that runs take.
    pub fn bytes(runs: &[Self]) -> usize {
        runs.iter().map(|run| run.frames.len()).sum()
    }

    /// Messages and payload bytes of runs.
    pub fn measure(runs: &[Self]) -> (u64, u64) {
        let each = runs.iter().map(|run| frame::measure(&run.frames, 0));
        each.fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1))
    }

    fn cost(&self) -> u64 {
        self.frames.len() as u64 + ENTRY_BYTES
    }
}

/// The memory that the rings of all streams share.
#[derive(Debug)]
pub struct HotBytes {
    used: AtomicU64,
    max: u64,
}

impl HotBytes {
    /// At most `max` bytes, in all.
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            max,
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes room, unless there is too little.
    pub fn take(&self, bytes: u64) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.max {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Takes room for what was read back: half of the memory stays for what is appended.
    fn take_spare(&self, bytes: u64) -> bool {
        self.used() + bytes <= self.max / 2 && self.take(bytes)
    }

    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The last appends of a stream, without gap, up to its tail.
#[derive(Debug)]
pub(super) struct Ring {
    runs: VecDeque<Run>,
    cost: u64,
    hot: Arc<HotBytes>,
}

impl Ring {
    pub(super) fn new(hot: Arc<HotBytes>) -> Self {
        Self {
            runs: VecDeque::new(),
            cost: 0,
            hot,
        }
    }

    /// Adds the next append. Where there is no memory for it, the ring begins anew behind it.
    pub(super) fn push(&mut self, run: Run) {
        let cost = run.cost();
        if self.runs.back().is_some_and(|last| last.end() != run.start) {
            self.clear();
        }
        while self.cost + cost > RING_BYTES_MAX && !self.runs.is_empty() {
            self.drop_oldest();
        }
        if cost > RING_BYTES_MAX || !self.hot.take(cost) {
            self.clear();
            return;
        }
        self.cost += cost;
        self.runs.push_back(run);
    }

    /// Adds what lies directly before the ring, or all up to `tail` if the ring is empty.
    pub(super) fn prepend(&mut self, run: Run, tail: Position) {
        let begins = self.runs.front().map_or(tail, |first| first.start);
        let cost = run.cost();
        let joins = run.end() == begins && run.start < begins;
        if joins && self.cost + cost <= RING_BYTES_MAX && self.hot.take_spare(cost) {
            self.cost += cost;
            self.runs.push_front(run);
        }
    }

    /// The runs that hold `[from, to)`, the first one beginning at the append that holds `from`.
    /// `None` if the ring begins later.
    pub(super) fn range(&self, from: Position, to: Position) -> Option<Vec<Run>> {
        if self.runs.front()?.start > from {
            return None;
        }
        // Who reads along asks for the last append, and then for what comes behind it.
        let last = self.runs.len() - 1;
        let first = if self.runs[last].end() <= from {
            self.runs.len()
        } else if self.runs[last].start == from {
            last
        } else {
            self.runs.partition_point(|run| run.end() <= from)
        };
        let runs = self.runs.range(first..);
        Some(runs.take_while(|run| run.start < to).cloned().collect())
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.hot.give_back(std::mem::take(&mut self.cost));
    }

    fn drop_oldest(&mut self) {
        if let Some(run) = self.runs.pop_front() {
            self.cost -= run.cost();
            self.hot.give_back(run.cost());
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(start: Position, bytes: usize) -> Run {
        Run {
            start,
            frames: Bytes::from(vec![1; bytes]),
        }
    }

    #[test]
    fn a_ring_holds_the_end_of_a_stream() {
        let hot = HotBytes::new(1 << 20);
        let mut ring = Ring::new(hot.clone());
        ring.prepend(run(10, 10), 20);
        ring.push(run(20, 5));
        ring.prepend(run(0, 10), 25);
        ring.prepend(run(0, 9), 25);
        assert_eq!(ring.range(0, 25).map(|runs| runs.len()), Some(3));
        assert_eq!(ring.range(12, 25), Some(vec![run(10, 10), run(20, 5)]));
        assert_eq!(ring.range(0, 20), Some(vec![run(0, 10), run(10, 10)]));
        assert_eq!(ring.range(25, 25), Some(vec![]));
        drop(ring);
        assert_eq!(hot.used(), 0);
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let hot = HotBytes::new(1000);
        let mut ring = Ring::new(hot.clone());
        ring.push(run(0, 500));
        ring.push(run(500, 900));
        assert_eq!((ring.range(500, 1400), hot.used()), (None, 0));
        ring.push(run(1400, 10));
        assert_eq!(ring.range(1400, 1410), Some(vec![run(1400, 10)]));
        ring.push(run(1410, RING_BYTES_MAX as usize));
        assert_eq!(hot.used(), 0);
    }

    proptest! {
        #[test]
        fn the_ring_is_bounded_and_without_gap(sizes in proptest::collection::vec(1usize..50_000, 1..60)) {
            let hot = HotBytes::new(u64::MAX);
            let mut ring = Ring::new(hot.clone());
            let mut tail = 0;
            for size in sizes {
                ring.push(run(tail, size));
                tail += size as u64;
                let first = ring.runs.front().unwrap().start;
                let runs = ring.range(first, tail).unwrap();
                prop_assert!(runs.windows(2).all(|pair| pair[0].end() == pair[1].start));
                prop_assert_eq!(runs.last().unwrap().end(), tail);
                prop_assert!(hot.used() <= RING_BYTES_MAX);
            }
        }
    }
}
