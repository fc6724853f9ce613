//! Rests between writes that nobody waits for: how long the processor is left to appends.

use std::time::{Duration, Instant};

/// The longest rest, in times of what the write took.
const RESTS_MAX: u32 = 15;

/// The rest after one write.
pub(super) struct Rest {
    ends: Instant,
    /// What has been committed when appends have come as far as the write.
    committed_enough: u64,
    committed_last: u64,
}

impl Rest {
    pub(super) fn new(now: Instant, took: Duration, bytes: u64, committed: u64) -> Self {
        Self {
            ends: now + took * RESTS_MAX,
            committed_enough: committed + bytes,
            committed_last: committed,
        }
    }

    /// Whether there has been rest enough, or no append has come since this was asked.
    pub(super) fn is_over(&mut self, now: Instant, committed: u64) -> bool {
        let before = std::mem::replace(&mut self.committed_last, committed);
        committed == before || committed >= self.committed_enough || now >= self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(2);

    fn rest() -> (Rest, Instant) {
        let now = Instant::now();
        (Rest::new(now, TOOK, 1_000, 70), now)
    }

    #[test]
    fn a_rest_is_over_when_no_append_comes() {
        let (mut rest, now) = rest();
        assert!(!rest.is_over(now, 71));
        assert!(!rest.is_over(now, 72));
        assert!(rest.is_over(now, 72));
    }

    #[test]
    fn a_rest_is_over_when_appends_have_come_as_far() {
        let (mut rest, now) = rest();
        assert!(!rest.is_over(now, 70 + 999));
        assert!(rest.is_over(now, 70 + 1_000));
    }

    #[test]
    fn a_rest_takes_so_many_times_what_its_write_took() {
        let (mut rest, now) = rest();
        assert!(!rest.is_over(now + TOOK * (RESTS_MAX - 1), 71));
        assert!(rest.is_over(now + TOOK * RESTS_MAX, 72));
    }
}
