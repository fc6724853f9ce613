//! One stream in memory, while somebody uses it.

use super::state::{ProducerState, StreamState, Unavailable};
use crate::hub::{HotBytes, Run, Tail, View};
use crate::types::{StreamPath, UnixMs};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tokio::sync::OnceCell;

/// A path that is in use: its stream as sequenced (what the next append meets) and as durable (what
/// readers see).
pub struct Stream {
    path: StreamPath,
    pub(super) loaded: OnceCell<()>,
    pub(super) sequenced: Mutex<Sequenced>,
    tail: Tail,
    /// The last read or write: what the sliding lifetime counts from.
    used_ms: AtomicU64,
    /// Whether `used_ms` waits to be written down.
    pub(super) touched: AtomicBool,
    /// The sweep in which the stream was last asked for.
    pub(super) sweep: AtomicU32,
}

/// The state that the next operation meets; its changes may still wait for the disk.
#[derive(Default)]
pub(super) struct Sequenced {
    /// `None`: there is no stream here.
    pub(super) state: Option<StreamState>,
    /// Producers looked up so far; `None`: it never wrote here, and its request is not judged yet.
    pub(super) producers: HashMap<Arc<str>, Option<ProducerState>>,
    /// The last operation of this stream that was handed to the committer.
    pub(super) ticket: u64,
}

impl Stream {
    pub(super) fn new(path: StreamPath, hot: Arc<HotBytes>) -> Self {
        Self {
            path,
            loaded: OnceCell::new(),
            sequenced: Mutex::default(),
            tail: Tail::new(None, hot),
            used_ms: AtomicU64::new(0),
            touched: AtomicBool::new(false),
            sweep: AtomicU32::new(0),
        }
    }

    /// Takes over what was stored, with the appends up to the tail if they were read.
    pub(super) fn load(&self, state: Option<StreamState>, end: Option<Run>) {
        let handover = self.tail.show(state.as_ref().map(view_of), None);
        if let Some(state) = &state {
            self.use_at(state.last_used_ms);
            if let Some(end) = end {
                self.tail.remember(state.meta.id, end);
            }
        }
        self.tail.wake();
        self.sequenced.lock().state = state;
        if let Some(handover) = handover {
            handover.carry_out();
        }
    }

    pub fn path(&self) -> &StreamPath {
        &self.path
    }

    /// What readers see and wait for.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The stream as it is durable, if it answers at `now_ms`.
    pub fn view(&self, now_ms: UnixMs) -> Result<View, Unavailable> {
        let view = self.tail.view().ok_or(Unavailable::NotFound)?;
        self.check_alive(&view, now_ms)?;
        Ok(view)
    }

    /// Whether a stream seen before still answers at `now_ms`.
    pub fn check_alive(&self, view: &View, now_ms: UnixMs) -> Result<(), Unavailable> {
        if view.deleted {
            return Err(Unavailable::Gone);
        }
        match self.deadline_ms(view) {
            Some(deadline) if now_ms >= deadline && view.forked => Err(Unavailable::Gone),
            Some(deadline) if now_ms >= deadline => Err(Unavailable::NotFound),
            _ => Ok(()),
        }
    }

    /// When the stream ends if nobody uses it again.
    pub fn deadline_ms(&self, view: &View) -> Option<UnixMs> {
        // `used_ms` may still be that of an earlier stream at this path.
        let used_ms = self.used_ms().max(view.meta.created_ms);
        view.meta.lifetime.deadline_ms(used_ms)
    }

    pub(super) fn used_ms(&self) -> UnixMs {
        self.used_ms.load(Ordering::Relaxed)
    }

    pub(super) fn use_at(&self, now_ms: UnixMs) {
        // Mostly it was used in the same millisecond.
        if self.used_ms() < now_ms {
            self.used_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
    }
}

impl Sequenced {
    /// The stream that answers at `now_ms`, its last use brought up to `used_ms`.
    pub(super) fn alive(
        &mut self,
        used_ms: UnixMs,
        now_ms: UnixMs,
    ) -> Result<&mut StreamState, Unavailable> {
        let state = self.state.as_mut().ok_or(Unavailable::NotFound)?;
        state.last_used_ms = state.last_used_ms.max(used_ms);
        state.check_alive(now_ms)?;
        Ok(state)
    }
}

/// What readers see of a state.
pub(super) fn view_of(state: &StreamState) -> View {
    View {
        meta: state.meta.clone(),
        earliest: state.earliest,
        tail: state.tail,
        sealed: state.sealed,
        last_seal: state.last_seal,
        closed: state.closed,
        end: state.end.clone(),
        deleted: state.deleted,
        forked: state.forks > 0,
    }
}
