//! How often something was written to a stream through this edge.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that streams share: a stream that shares one with another only joins fewer requests
/// than it could.
const COUNTERS: usize = 4096;

/// How often something was written to streams. It takes no more memory for more streams.
pub(super) struct Generations {
    counters: Box<[AtomicU64]>,
    hasher: std::hash::RandomState,
}

impl Generations {
    pub(super) fn new() -> Self {
        Self {
            counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: std::hash::RandomState::new(),
        }
    }

    pub(super) fn of(&self, stream: &str) -> u64 {
        self.counter(stream).load(Ordering::Acquire)
    }

    /// Something was written.
    pub(super) fn advance(&self, stream: &str) {
        self.counter(stream).fetch_add(1, Ordering::AcqRel);
    }

    fn counter(&self, stream: &str) -> &AtomicU64 {
        &self.counters[self.hasher.hash_one(stream) as usize % COUNTERS]
    }
}
