//! The durable end of one stream, and those who wait for it to move.

use super::fanout::{EncodedKey, Fanout};
use super::ring::{HotBytes, Ring, Run};
use crate::types::{Position, StreamEnd, StreamId, StreamMeta};
use bytes::Bytes;
use parking_lot::Mutex;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::Notify;

/// What readers may see of a stream: all of it is durable.
#[derive(Clone, Debug)]
pub struct View {
    pub meta: Arc<StreamMeta>,
    /// Where what is kept begins: all before it was trimmed.
    pub earliest: Position,
    pub tail: Position,
    /// Where the open remainder begins.
    pub sealed: Position,
    /// Where the last sealed segment begins; `sealed` if there is none.
    pub last_seal: Position,
    pub closed: bool,
    /// How what it records ended, once that is known.
    pub end: Option<Arc<StreamEnd>>,
    /// Deleted by its owner, kept for its forks.
    pub deleted: bool,
    /// Whether forks read from it.
    pub forked: bool,
}

/// Readers of events that are woken in less time than a sync takes.
pub const CROWD: u32 = 64;

/// A stream's durable end.
#[derive(Debug)]
pub struct Tail {
    inner: Mutex<Inner>,
    moved: Arc<Notify>,
    fanout: Fanout,
}

#[derive(Debug)]
struct Inner {
    /// `None`: there is no stream, or it was deleted.
    view: Option<View>,
    ring: Ring,
}

impl Tail {
    pub fn new(view: Option<View>, hot: Arc<HotBytes>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                view,
                ring: Ring::new(hot),
            }),
            moved: Arc::default(),
            fanout: Fanout::default(),
        }
    }

    /// Shows readers a new state and, if data came with it, the append. Those who wait must be woken
    /// after it.
    pub fn show(&self, view: Option<View>, appended: Option<Run>) {
        let mut inner = self.inner.lock();
        let id = |view: &Option<View>| view.as_ref().map(|view| view.meta.id);
        if id(&inner.view) != id(&view) {
            inner.ring.clear();
        }
        if let Some(run) = appended {
            inner.ring.push(run);
        }
        inner.view = view;
    }

    /// Wakes those who wait for what was shown.
    pub fn wake(&self) {
        self.moved.notify_waiters();
    }

    /// Whether waking all readers takes long.
    pub fn is_crowded(&self) -> bool {
        self.fanout.readers() > CROWD
    }

    /// What tells those who wait.
    pub fn moves(&self) -> &Arc<Notify> {
        &self.moved
    }

    pub fn view(&self) -> Option<View> {
        self.inner.lock().view.clone()
    }

    /// What is there now and, if they are in memory, the appends from the one that holds `from` up
    /// to the end that `end` chooses.
    pub fn read(
        &self,
        from: Position,
        end: impl FnOnce(&View) -> Option<Position>,
    ) -> Option<(View, Option<Vec<Run>>)> {
        let inner = self.inner.lock();
        let view = inner.view.clone()?;
        let runs = end(&view).and_then(|end| inner.ring.range(from, end));
        Some((view, runs))
    }

    /// Counts a reader of events, until it leaves.
    pub fn enter(&self) {
        self.fanout.enter();
    }

    pub fn leave(&self) {
        self.fanout.leave();
    }

    /// Events for a reader, encoded once for all who are at the same place.
    pub fn encoded(&self, key: EncodedKey, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.fanout.get(key, encode)
    }

    /// Keeps what was read from the log, if it joins what is in memory.
    pub fn remember(&self, id: StreamId, run: Run) {
        let mut inner = self.inner.lock();
        if let Some(view) = inner.view.as_ref().filter(|view| view.meta.id == id) {
            let tail = view.tail;
            inner.ring.prepend(run, tail);
        }
    }

    /// Whether there is nothing new for a reader of stream `id` at `position`; `None` if the stream
    /// is gone.
    pub fn is_quiet(&self, id: StreamId, position: Position) -> Option<bool> {
        let inner = self.inner.lock();
        let view = inner.view.as_ref();
        let view = view.filter(|view| view.meta.id == id && !view.deleted)?;
        Some(view.tail <= position && !view.closed)
    }

    /// Waits until there is something new for a reader of stream `id` at `position`: data behind
    /// it, the closing, or the stream's end. False if the stream is gone.
    pub async fn wait(&self, id: StreamId, position: Position) -> bool {
        loop {
            let mut moved = pin!(self.moved.notified());
            // Registered before the look, so that no move falls between.
            moved.as_mut().enable();
            match self.is_quiet(id, position) {
                Some(true) => moved.await,
                quiet => return quiet.is_some(),
            }
        }
    }
}
