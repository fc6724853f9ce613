//! One request to the origin or the disk, and those who wait for its answer.

use super::GetError;
use super::entry::Entry;
use super::terms::Terms;
use crate::observe::metrics::UpstreamFailure;
use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// The most bytes between the origin and the slowest reader of a body that is only passed on.
pub(super) const WINDOW_BYTES: usize = 256 << 10;

/// A request on its way, which is that of all who have a seat. It is carried by a task of its own.
pub(super) struct Flight {
    /// What was written to the stream before it began.
    pub(super) generation: u64,
    state: Mutex<State>,
    /// Something came.
    changed: Notify,
    /// Something was taken, or somebody left.
    taken: Notify,
}

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    /// What has come of the body.
    pieces: VecDeque<Bytes>,
    /// How many pieces were before these.
    passed: usize,
    /// All of the body, in place of its pieces.
    whole: Option<Bytes>,
    end: Option<Result<(), UpstreamFailure>>,
    /// The memory of the pieces, which they take as long as somebody reads them.
    room: Option<OwnedSemaphorePermit>,
    /// The piece that each of them takes next.
    seats: HashMap<u64, usize>,
    seats_given: u64,
}

/// What a flight comes to.
#[derive(Clone)]
pub(super) enum Outcome {
    /// A whole answer.
    Whole(Arc<Entry>, Source),
    /// An answer of the origin whose body follows.
    Filling(Filling),
    /// One that only the first may have.
    Alone,
    Failed(GetError),
}

/// Where a whole answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Disk,
    /// It was there, and the origin says that it is unchanged.
    Revalidated,
    /// It was there, and the origin is away.
    Stale,
}

/// The head of an answer that others get as well.
#[derive(Clone)]
pub(super) struct Filling {
    pub(super) headers: Arc<HeaderMap>,
    pub(super) terms: Terms,
    pub(super) length: Option<u64>,
    /// Whether it is meant to be kept.
    pub(super) stored: bool,
    /// Whether one was there that was too old.
    pub(super) stale: bool,
}

/// A place among those who get the answer. Who leaves, drops it.
pub(super) struct Seat {
    flight: Arc<Flight>,
    number: u64,
    /// Pieces and bytes taken so far.
    pieces: usize,
    bytes: usize,
}

impl Flight {
    pub(super) fn new(generation: u64) -> Self {
        Self {
            generation,
            state: Mutex::default(),
            changed: Notify::new(),
            taken: Notify::new(),
        }
    }

    pub(super) fn seat(self: &Arc<Self>) -> Seat {
        let mut state = self.state.lock();
        let number = state.seats_given;
        state.seats_given += 1;
        state.seats.insert(number, 0);
        Seat {
            flight: self.clone(),
            number,
            pieces: 0,
            bytes: 0,
        }
    }

    /// Says what it comes to; only the first word counts.
    pub(super) fn announce(&self, outcome: Outcome) {
        self.state.lock().outcome.get_or_insert(outcome);
        self.changed.notify_waiters();
    }

    pub(super) fn push(&self, piece: Bytes) {
        self.state.lock().pieces.push_back(piece);
        self.changed.notify_waiters();
    }

    /// Ends the body; only the first word counts.
    pub(super) fn end(&self, end: Result<(), UpstreamFailure>) {
        self.state.lock().end.get_or_insert(end);
        self.changed.notify_waiters();
    }

    /// Holds more memory for what comes.
    pub(super) fn hold(&self, more: OwnedSemaphorePermit) {
        let room = &mut self.state.lock().room;
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
    }

    /// What has come so far, and the memory that is held for it.
    pub(super) fn pieces(&self) -> (Vec<Bytes>, Option<OwnedSemaphorePermit>) {
        let mut state = self.state.lock();
        let pieces = state.pieces.iter().cloned().collect();
        (pieces, state.room.take())
    }

    /// Puts the whole body in place of its pieces, and ends it.
    pub(super) fn land(&self, whole: Bytes) {
        {
            let mut state = self.state.lock();
            state.whole = Some(whole);
            state.pieces.clear();
        }
        self.end(Ok(()));
    }

    pub(super) fn is_deserted(&self) -> bool {
        self.state.lock().seats.is_empty()
    }

    /// Lets go of what all have taken, and waits until little enough is left. Nobody may join any
    /// longer. Returns `false` if nobody is there.
    pub(super) async fn drain(&self) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                if state.seats.is_empty() {
                    return false;
                }
                if state.trim() <= WINDOW_BYTES {
                    return true;
                }
            }
            self.taken.notified().await;
        }
    }

    /// Waits until there is what `look` looks for.
    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(&mut self.state.lock()) {
                return found;
            }
            changed.await;
        }
    }
}

impl State {
    /// Drops the pieces that all have taken; returns the bytes of the rest.
    fn trim(&mut self) -> usize {
        let slowest = self.seats.values().copied().min().unwrap_or(0);
        while self.passed < slowest && self.pieces.pop_front().is_some() {
            self.passed += 1;
        }
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// What follows for a seat; `None` if it has not come.
    fn next(&self, seat: &Seat) -> Option<Result<Option<Bytes>, GetError>> {
        if let Some(whole) = &self.whole {
            let rest = whole.slice(seat.bytes..);
            return Some(Ok((!rest.is_empty()).then_some(rest)));
        }
        if let Some(piece) = self.pieces.get(seat.pieces - self.passed) {
            return Some(Ok(Some(piece.clone())));
        }
        match self.end? {
            Ok(()) => Some(Ok(None)),
            Err(failure) => Some(Err(GetError::Origin(failure))),
        }
    }
}

impl Seat {
    /// What the flight comes to.
    pub(super) async fn outcome(&self) -> Outcome {
        self.flight.wait(|state| state.outcome.clone()).await
    }

    /// The next piece of the body; `None` at the end of a whole one. Nothing is lost when the future
    /// is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, GetError> {
        let flight = self.flight.clone();
        let piece = flight.wait(|state| state.next(self)).await?;
        if let Some(piece) = &piece {
            self.bytes += piece.len();
            self.pieces += 1;
            let mut state = flight.state.lock();
            state.seats.insert(self.number, self.pieces);
            drop(state);
            flight.taken.notify_one();
        }
        Ok(piece)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.flight.state.lock().seats.remove(&self.number);
        self.flight.taken.notify_one();
    }
}
