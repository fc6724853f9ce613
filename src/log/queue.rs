//! What waits for the committer, and who commits it.

use super::operation::Operation;
use std::time::Instant;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Most bytes of one batch.
const BATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why an operation was not committed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommitError {
    #[error("the log has more to write than it can; try again later")]
    Overloaded,
    #[error("the store has failed; nothing is written until a restart")]
    Failed,
    #[error("the server is stopping")]
    Stopped,
}

/// Room in the queue; held until the operation is done.
pub(super) struct Room(
    #[expect(dead_code, reason = "held for its drop")] pub(super) [OwnedSemaphorePermit; 2],
);

pub(super) struct Queued {
    pub(super) ticket: u64,
    pub(super) operation: Operation,
    pub(super) ack: oneshot::Sender<Result<Instant, CommitError>>,
    pub(super) room: Option<Room>,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: Vec<Queued>,
    pub(super) last_ticket: u64,
    /// Whether somebody is writing, syncing or publishing.
    pub(super) committing: bool,
    /// Whether the last batch was one operation, and its sync quick.
    pub(super) calm: bool,
    /// How often a worker was given the turn.
    pub(super) turns: u64,
    /// `None`: no turn was given for a while, and nobody looks.
    pub(super) watch: Option<Watch>,
    pub(super) stopped: bool,
}

/// The thread's looks at the turns of workers.
#[derive(Clone, Copy, Default)]
pub(super) struct Watch {
    /// Turns at the last look.
    pub(super) turns: u64,
    /// Looks since the last turn.
    pub(super) idle: u32,
}

impl Queued {
    pub(super) fn data_bytes(&self) -> u64 {
        self.operation.data_bytes()
    }

    pub(super) fn fail(self, error: &CommitError) {
        let _ = self.ack.send(Err(error.clone()));
    }
}

impl Queue {
    /// Takes what waits, in order, up to the size of a batch.
    pub(super) fn take(&mut self) -> Vec<Queued> {
        let fitting = fitting(&self.waiting);
        if fitting == self.waiting.len() {
            return std::mem::take(&mut self.waiting);
        }
        self.waiting.drain(..fitting).collect()
    }
}

/// How many operations of what waits are one batch: at least one.
fn fitting(waiting: &[Queued]) -> usize {
    let mut bytes = 0;
    let fits = |queued: &&Queued| {
        bytes += queued.data_bytes();
        bytes <= BATCH_BYTES_MAX
    };
    waiting.iter().take_while(fits).count().max(1)
}

pub(super) fn fail_all(batch: Vec<Queued>) {
    for queued in batch {
        queued.fail(&CommitError::Failed);
    }
}
