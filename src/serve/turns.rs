//! Turns at work that takes a processor for a while.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Turns for half of the processors: the others are left to what must not wait.
pub struct Turns {
    free: Arc<Semaphore>,
    wait_max: Duration,
}

/// Held by the work itself, which does not end when those leave who asked for it.
pub type Turn = OwnedSemaphorePermit;

impl Turns {
    /// At least `least` turns at one time.
    pub fn new(least: usize, wait_max: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            free: Arc::new(Semaphore::new((processors / 2).max(least))),
            wait_max,
        }
    }

    /// A turn; `None` if none comes in time.
    pub async fn wait(&self) -> Option<Turn> {
        self.wait_until(self.deadline()).await
    }

    /// When who begins to wait now gives up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.wait_max
    }

    pub(super) async fn wait_until(&self, deadline: Instant) -> Option<Turn> {
        let turn = self.free.clone().acquire_owned();
        timeout_at(deadline, turn).await.ok()?.ok()
    }

    /// A turn; `None` if none is free.
    pub fn take(&self) -> Option<Turn> {
        self.free.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_waited_for_only_so_long() {
        let turns = Turns::new(1, Duration::ZERO);
        let mut taken = Vec::new();
        while let Some(turn) = turns.wait().await {
            taken.push(turn);
        }
        assert!(!taken.is_empty());
        assert!(turns.take().is_none());
        taken.pop();
        assert!(turns.wait().await.is_some());
        assert!(turns.take().is_some());
    }
}
