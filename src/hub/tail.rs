//! The durable end of one stream, and those who wait for it to move.

use super::fanout::{EncodedKey, Fanout};
use super::follower::{Follower, Handover};
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

impl View {
    /// Whether more may be appended.
    fn is_open(&self) -> bool {
        !self.closed && !self.deleted
    }
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
    /// At most one: what is handed over holds up other streams.
    follower: Option<Follower>,
}

impl Inner {
    fn may_follow(&self, id: StreamId, position: Position) -> bool {
        let view = self.view.as_ref().filter(|view| view.meta.id == id);
        let is_there = view.is_some_and(|view| view.is_open() && view.tail == position);
        is_there && self.follower.is_none()
    }
}

impl Tail {
    pub fn new(view: Option<View>, hot: Arc<HotBytes>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                view,
                ring: Ring::new(hot),
                follower: None,
            }),
            moved: Arc::default(),
            fanout: Fanout::default(),
        }
    }

    /// Shows readers a new state and, if data came with it, the append. Those who wait must be woken
    /// after it. Returns what is to be handed to the one that follows.
    pub fn show(&self, view: Option<View>, appended: Option<Run>) -> Option<Handover> {
        let mut inner = self.inner.lock();
        let id = |view: &Option<View>| view.as_ref().map(|view| view.meta.id);
        let is_same = id(&inner.view) == id(&view);
        if !is_same {
            inner.ring.clear();
        }
        let ended = !is_same || !view.as_ref().is_some_and(View::is_open);
        let follower = if ended {
            inner.follower.take()
        } else {
            inner.follower.clone()
        };
        let handover = follower.map(|follower| Handover {
            follower,
            appended: appended.clone(),
            ended,
        });
        if let Some(run) = appended {
            inner.ring.push(run);
        }
        inner.view = view;
        handover
    }

    /// Whether stream `id` ends at `position`, and somebody could follow it from there.
    pub fn may_follow(&self, id: StreamId, position: Position) -> bool {
        self.inner.lock().may_follow(id, position)
    }

    /// Hands what is appended to stream `id` to a follower, if that ends at `position` and nobody
    /// follows yet. It is told once the stream is closed or gone, and not later than that.
    pub fn follow(&self, id: StreamId, position: Position, follower: &Follower) -> bool {
        let mut inner = self.inner.lock();
        let follows = inner.may_follow(id, position);
        if follows {
            inner.follower = Some(follower.clone());
        }
        follows
    }

    /// Hands nothing more to a follower, but for what has just been shown.
    pub fn leave_to_itself(&self, follower: &Follower) {
        let mut inner = self.inner.lock();
        inner.follower.take_if(|present| present.is(follower));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Kind, Lifetime, Retention};

    /// What a follower was handed: where appends begin, and when it was told to look.
    type Handed = Arc<Mutex<Vec<Option<Position>>>>;

    fn view(id: StreamId, tail: Position) -> View {
        View {
            meta: Arc::new(StreamMeta {
                id,
                content_type: "text/plain".into(),
                kind: Kind::Text,
                lifetime: Lifetime::default(),
                retention: Retention::default(),
                retention_by_route: false,
                created_ms: 0,
                fork: None,
                note: None,
            }),
            earliest: 0,
            tail,
            sealed: 0,
            last_seal: 0,
            closed: false,
            end: None,
            deleted: false,
            forked: false,
        }
    }

    fn follower() -> (Follower, Handed) {
        let handed = Handed::default();
        let follower = Follower::new({
            let handed = handed.clone();
            move |run| handed.lock().push(run.map(|run| run.start))
        });
        (follower, handed)
    }

    /// Appends a byte at a time, and hands it over.
    fn append(tail: &Tail, at: Position) {
        show(tail, Some(view(1, at + 1)), Some(at));
    }

    fn show(tail: &Tail, view: Option<View>, at: Option<Position>) {
        let run = at.map(|start| Run {
            start,
            frames: Bytes::from_static(b"x"),
        });
        if let Some(handover) = tail.show(view, run) {
            handover.carry_out();
        }
    }

    fn tail() -> Tail {
        Tail::new(Some(view(1, 0)), HotBytes::new(1000))
    }

    #[test]
    fn one_who_has_all_is_handed_what_follows() {
        let tail = tail();
        append(&tail, 0);
        let (one, handed) = follower();
        let (other, nothing) = follower();
        assert!(!tail.follow(1, 0, &one), "there is something to read");
        assert!(!tail.follow(2, 1, &one), "this is another stream");
        assert!(!tail.may_follow(1, 0) && !tail.may_follow(2, 1));
        assert!(tail.may_follow(1, 1) && tail.follow(1, 1, &one));
        assert!(!tail.may_follow(1, 1));
        assert!(!tail.follow(1, 1, &other), "one is enough");
        append(&tail, 1);
        show(&tail, Some(view(1, 2)), None);
        append(&tail, 2);
        tail.leave_to_itself(&other);
        append(&tail, 3);
        tail.leave_to_itself(&one);
        append(&tail, 4);
        assert_eq!(*handed.lock(), [Some(1), Some(2), Some(3)]);
        assert!(tail.follow(1, 5, &other));
        assert!(nothing.lock().is_empty());
    }

    #[test]
    fn who_follows_is_told_of_the_end() {
        let ends: [(Option<View>, Option<Position>); 4] = [
            (
                Some(View {
                    closed: true,
                    ..view(1, 2)
                }),
                Some(1),
            ),
            (
                Some(View {
                    deleted: true,
                    ..view(1, 1)
                }),
                None,
            ),
            (Some(view(2, 0)), None),
            (None, None),
        ];
        for (end, at) in ends {
            let tail = tail();
            append(&tail, 0);
            let (one, handed) = follower();
            assert!(tail.follow(1, 1, &one));
            show(&tail, end, at);
            let expected: Vec<_> = at.map(Some).into_iter().chain([None]).collect();
            assert_eq!(*handed.lock(), expected);
            assert!(!tail.follow(1, 1, &one), "it has ended");
        }
    }

    #[test]
    fn what_is_not_handed_over_is_to_be_looked_for() {
        let tail = tail();
        let (one, handed) = follower();
        assert!(tail.follow(1, 0, &one));
        let run = Run {
            start: 0,
            frames: Bytes::from_static(b"x"),
        };
        let handover = tail.show(Some(view(1, 1)), Some(run)).unwrap();
        assert!(handed.lock().is_empty(), "it was shown only");
        handover.leave_to_follower();
        assert_eq!(*handed.lock(), [None]);
    }
}
