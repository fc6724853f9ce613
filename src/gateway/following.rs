//! A recorded answer whose client has all that is there: what is appended next is written to its
//! connection by the one who publishes it, while its own task sleeps.

use super::bare::Connection;
use super::wire::{COPIED_BYTES_MAX, chunk};
use crate::hub::{Follower, Run};
use crate::recorder::{Next, Playback};
use bytes::Bytes;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::time::Instant;

/// A recorded answer whose head is written, and its connection.
pub(super) struct Answer {
    pub(super) playback: Box<Playback>,
    pub(super) connection: Connection,
    /// What was sent of it, comments included.
    pub(super) sent_bytes: u64,
}

/// Why an answer is its task's own again.
pub(super) enum Back {
    /// There may be something to do for it.
    Look,
    /// Its readers must go.
    Leave,
}

/// An answer that others may write.
struct Followed {
    answer: Answer,
    /// When something was written at last.
    heard: Instant,
    /// Whether its task has to go on.
    is_back: bool,
    /// Of its task.
    waker: Waker,
}

impl Answer {
    /// Lets what is appended be written by those who publish it, until anything else is to be done;
    /// not at all, if that is so already or somebody else follows.
    pub(super) async fn follow(self) -> (Self, Back) {
        if !self.playback.may_follow() {
            return (self, Back::Look);
        }
        // Empty once its task goes on: who was just about to write finds nothing.
        let shared = Arc::new(Mutex::new(Some(Followed {
            answer: self,
            heard: Instant::now(),
            is_back: false,
            waker: Waker::noop().clone(),
        })));
        let taking = Arc::downgrade(&shared);
        let follower = Follower::new(move |run| {
            if let Some(shared) = taking.upgrade()
                && let Some(followed) = &mut *shared.lock()
            {
                followed.take(run);
            }
        });
        let mut following = None;
        let back = poll_fn(|context| {
            let mut shared = shared.lock();
            let followed = shared.as_mut().expect("only this takes it out");
            if following.is_none() {
                following = followed.answer.playback.follow(&follower);
                followed.is_back = following.is_none();
            }
            followed.poll(context)
        })
        .await;
        let followed = shared.lock().take().expect("only this takes it out");
        (followed.answer, back)
    }
}

impl Followed {
    /// Writes an append. Whatever else is to be done is for the task.
    fn take(&mut self, run: Option<&Run>) {
        let is_written = run.is_some_and(|run| self.write_run(run));
        if !is_written {
            self.is_back = true;
            self.waker.wake_by_ref();
        }
    }

    fn write_run(&mut self, run: &Run) -> bool {
        if self.is_back || run.frames.len() > COPIED_BYTES_MAX {
            return false;
        }
        let passed = self.answer.playback.pass(run);
        passed.is_some_and(|bytes| self.write(&bytes))
    }

    /// Whether all of it was written.
    fn write(&mut self, bytes: &Bytes) -> bool {
        if bytes.is_empty() {
            return true;
        }
        self.heard = Instant::now();
        self.answer.sent_bytes += bytes.len() as u64;
        self.answer.connection.write_at_once(chunk(bytes))
    }

    /// Waits for what is the task's to do. Nobody else writes from then on.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Back> {
        self.waker.clone_from(context.waker());
        let back = self.poll_back(context);
        self.is_back |= back.is_ready();
        back
    }

    fn poll_back(&mut self, context: &mut Context<'_>) -> Poll<Back> {
        if self.is_back || !self.answer.connection.is_silent(context) {
            return Poll::Ready(Back::Look);
        }
        loop {
            let unasked = pin!(self.answer.playback.next_unasked(self.heard)).poll(context);
            match unasked {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Next::Bytes(comment)) if self.write(&comment) => {}
                Poll::Ready(Next::Bytes(_)) => return Poll::Ready(Back::Look),
                Poll::Ready(Next::End | Next::Broken(_)) => return Poll::Ready(Back::Leave),
            }
        }
    }
}
