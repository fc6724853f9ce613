//! Writes beside the queue of the committer: what packing and purging write, and nobody waits for.

use super::committer::Shared;
use super::kv::{KvError, Write};
use super::rest::Rest;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After which time it is looked again whether a write that nobody waits for may go on.
const WRITER_DELAY: Duration = Duration::from_millis(10);

/// Writes to the store of a committer, and fails with it. What it holds up is what is appended
/// meanwhile, so it gives way.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// When the work for the next write began.
    begun: Instant,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            begun: Instant::now(),
        }
    }

    /// Writes once the store is not behind.
    pub(super) fn write(&self, writes: &[Write]) -> Result<(), KvError> {
        self.wait_for_store();
        self.shared.apply(writes)
    }

    /// The same, and then rests until appends have come as far as these bytes, or come no more. What
    /// appends cost is counted beside their data, so that this work catches up with them.
    pub(super) fn write_and_rest(&mut self, writes: &[Write], bytes: u64) -> Result<(), KvError> {
        let made_in = self.begun.elapsed();
        self.wait_for_store();
        let begun = Instant::now();
        self.shared.apply(writes)?;
        let took = made_in + begun.elapsed();
        let mut rest = Rest::new(Instant::now(), took, bytes, self.shared.committed_bytes());
        while !self.shared.has_ended() {
            std::thread::sleep(WRITER_DELAY);
            if rest.is_over(Instant::now(), self.shared.committed_bytes()) {
                break;
            }
        }
        self.begun = Instant::now();
        Ok(())
    }

    fn wait_for_store(&self) {
        while self.shared.is_behind() && !self.shared.has_ended() {
            std::thread::sleep(WRITER_DELAY);
        }
    }
}
