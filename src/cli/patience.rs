//! How long a command goes on trying, and how it waits in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::failure::Failure;
use crate::units::format_duration;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What passes sooner is not worth a word.
const QUIET: Duration = Duration::from_secs(1);

/// The patience for one request: it ends some time after the first failure in a row. When that takes
/// longer than a second, it is told on standard error, once for all clones.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// `None`: it never ends.
    limit: Option<Duration>,
    failing_since: Option<Instant>,
    failures: u32,
    is_told: Arc<AtomicBool>,
}

impl Patience {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            failing_since: None,
            failures: 0,
            is_told: Arc::default(),
        }
    }

    /// From now on, patience has no end.
    pub(super) fn without_end(&mut self) {
        self.limit = None;
    }

    /// It worked: the next failure is a first one.
    pub(super) fn renew(&mut self) {
        self.failing_since = None;
        self.failures = 0;
        self.is_told.store(false, Ordering::Relaxed);
    }

    /// Whether the last attempt failed.
    pub(super) fn is_tried(&self) -> bool {
        self.failures > 0
    }

    /// Waits before the next attempt, or gives `failure` back when there should be none. The waits
    /// grow, are spread at random so that many clients do not come back at once, and are never
    /// shorter than the server asked for.
    pub(super) async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        if !failure.passing {
            return Err(failure);
        }
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let pause = backoff(self.failures, rand::rng().random_range(0.5..1.0));
        let pause = pause.max(failure.retry_after.unwrap_or_default());
        let failing = since.elapsed() + pause;
        if self.limit.is_some_and(|limit| failing > limit) {
            return Err(failure);
        }
        if failing > QUIET && !self.is_told.swap(true, Ordering::Relaxed) {
            let until = self
                .limit
                .map(|limit| format!(" for {}", format_duration(limit)));
            eprintln!(
                "headwater: {failure}; trying again{}",
                until.unwrap_or_default()
            );
        }
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The wait after so many failures before, at this share of its full length.
fn backoff(failures: u32, share: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.min(16));
    doubled.min(BACKOFF_MAX).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::super::failure::Kind;
    use super::*;

    fn passing() -> Failure {
        Failure {
            passing: true,
            ..Failure::new(Kind::Unavailable, "later")
        }
    }

    #[test]
    fn waits_grow_to_a_limit() {
        let waits: Vec<u128> = (0..8).map(|n| backoff(n, 1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff(u32::MAX, 1.0), BACKOFF_MAX);
    }

    #[tokio::test]
    async fn what_does_not_pass_is_not_tried_again() {
        let failure = Failure::new(Kind::Conflict, "no");
        let mut patience = Patience::new(None);
        assert_eq!(patience.wait(failure.clone()).await, Err(failure));
    }

    #[tokio::test]
    async fn a_wait_longer_than_the_patience_is_not_begun() {
        let mut patience = Patience::new(Some(Duration::from_secs(30)));
        let failure = Failure {
            retry_after: Some(Duration::from_hours(1)),
            ..passing()
        };
        assert!(patience.wait(failure).await.is_err());
        let mut none = Patience::new(Some(Duration::ZERO));
        assert!(none.wait(passing()).await.is_err());
    }

    #[tokio::test]
    async fn patience_is_renewed() {
        let mut patience = Patience::new(None);
        patience.wait(passing()).await.unwrap();
        assert!(patience.is_tried());
        patience.renew();
        assert!(!patience.is_tried());
    }
}
