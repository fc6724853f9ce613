//! Runs what may block off the async workers, one at a time and with a limit on the wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It did not come in time. The work goes on, and the next waits for its end.
    Late,
    /// The work panicked.
    Panicked,
}

/// Lets one piece of work run at a time. So work that hangs occupies one thread, however often it is
/// asked for.
pub(super) struct Gate {
    free: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Gate {
    /// Runs `work` when what runs before it has ended, and waits for it, for `limit` in all.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let free = Arc::clone(&self.free);
        let done = async move {
            let permit = free.acquire_owned().await.map_err(|_| Unanswered::Late)?;
            let done = spawn_blocking(move || {
                let _permit = permit;
                work()
            });
            done.await.map_err(|_| Unanswered::Panicked)
        };
        timeout(limit, done).await.unwrap_or(Err(Unanswered::Late))
    }

    /// Runs `work` to its end, or returns `None` at once when other work runs.
    pub(super) async fn try_run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        Some(done.await)
    }

    /// Runs `work` when what runs before it has ended, and waits for its end; `None` if it never
    /// came to run.
    pub(super) async fn run_to_end<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        Some(done.await)
    }
}
