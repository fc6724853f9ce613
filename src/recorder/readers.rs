//! Who reads a recording, so that it can end when nobody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// The readers of one recording.
#[derive(Debug, Default)]
pub(super) struct Readers {
    count: AtomicUsize,
    changed: Notify,
}

/// One reader, for as long as it lives.
#[derive(Debug)]
pub struct Reader(Arc<Readers>);

impl Readers {
    pub(super) fn enter(self: &Arc<Self>) -> Reader {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        Reader(self.clone())
    }

    /// Waits until nobody has been reading for a time.
    pub(super) async fn gone_for(&self, time: Duration) {
        loop {
            self.wait_until(|count| count == 0).await;
            let back = self.wait_until(|count| count > 0);
            if timeout(time, back).await.is_err() {
                return;
            }
        }
    }

    async fn wait_until(&self, met: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            if met(self.count.load(Ordering::Acquire)) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
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
}
