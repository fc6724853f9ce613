//! A reader that is handed what is appended by the one who publishes it.
//!
//! To wake a reader's task, to let it look for what there is, and to let it wait again takes longer
//! than to send something small. So who has nothing else to do is not woken for it.

use super::ring::Run;
use std::fmt;
use std::sync::Arc;

/// Takes what is appended to one stream, as long as nothing has to be waited for.
#[derive(Clone)]
pub struct Follower(Arc<Take>);

/// Called with each append, and with nothing when the follower must look by itself: it missed one, or
/// no more will come. It must not block.
type Take = dyn Fn(Option<&Run>) + Send + Sync;

impl Follower {
    pub fn new(take: impl Fn(Option<&Run>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follower")
    }
}

/// What was shown to readers, and is still to be handed to the one that follows.
#[derive(Debug)]
#[must_use]
pub struct Handover {
    pub(super) follower: Follower,
    pub(super) appended: Option<Run>,
    /// Whether it was the last.
    pub(super) ended: bool,
}

impl Handover {
    /// Hands it over.
    pub fn carry_out(self) {
        let Self {
            follower: Follower(take),
            appended,
            ended,
        } = self;
        if appended.is_some() {
            take(appended.as_ref());
        }
        if ended {
            take(None);
        }
    }

    /// Tells the follower to look for it.
    pub fn leave_to_follower(self) {
        (self.follower.0)(None);
    }
}
