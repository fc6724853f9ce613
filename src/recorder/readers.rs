//! Who reads a recording, so that it can end when nobody does.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The readers of one recording.
#[derive(Debug)]
pub(super) struct Readers {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    count: usize,
    /// When the last one left, or nobody had come yet.
    left: Instant,
}

/// One reader, for as long as it lives.
#[derive(Debug)]
pub struct Reader(Arc<Readers>);

impl Default for Readers {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                count: 0,
                left: Instant::now(),
            }),
            changed: Notify::new(),
        }
    }
}

impl Readers {
    pub(super) fn enter(self: &Arc<Self>) -> Reader {
        self.state.lock().count += 1;
        self.changed.notify_waiters();
        Reader(self.clone())
    }

    /// Waits until nobody has been reading for a time, which may have begun before.
    pub(super) async fn gone_for(&self, time: Duration) {
        loop {
            let left = self.wait_until(|count| count == 0).await.left;
            let back = self.wait_until(|count| count > 0);
            if timeout_at(left + time, back).await.is_err() {
                return;
            }
        }
    }

    async fn wait_until(&self, met: impl Fn(usize) -> bool) -> State {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            let state = *self.state.lock();
            if met(state.count) {
                return state;
            }
            changed.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.count -= 1;
        state.left = Instant::now();
        drop(state);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::time::{advance, sleep};

    #[tokio::test(start_paused = true)]
    async fn a_recording_is_left_when_nobody_came_back_in_time() {
        let readers = Arc::new(Readers::default());
        let (first, second) = (readers.enter(), readers.enter());
        let mut gone = pin!(readers.gone_for(Duration::from_secs(30)));
        let mut is_gone = async |time| {
            tokio::select! {
                biased;
                () = &mut gone => true,
                () = sleep(time) => false,
            }
        };
        assert!(!is_gone(Duration::from_mins(10)).await);
        drop(first);
        assert!(!is_gone(Duration::from_mins(10)).await);
        drop(second);
        assert!(!is_gone(Duration::from_secs(29)).await);
        let back = readers.enter();
        assert!(!is_gone(Duration::from_mins(10)).await);
        drop(back);
        assert!(!is_gone(Duration::from_secs(29)).await);
        advance(Duration::from_secs(1)).await;
        assert!(is_gone(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_anew_does_not_wait_anew() {
        let readers = Arc::new(Readers::default());
        drop(readers.enter());
        for _ in 0..3 {
            let gone = readers.gone_for(Duration::from_secs(30));
            assert!(
                tokio::time::timeout(Duration::from_secs(9), gone)
                    .await
                    .is_err()
            );
        }
        let gone = readers.gone_for(Duration::from_secs(30));
        assert!(
            tokio::time::timeout(Duration::from_secs(9), gone)
                .await
                .is_ok()
        );
    }
}
