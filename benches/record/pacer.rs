//! A clock for what is due at its own time each. The timers of a runtime fire once in a millisecond,
//! so that what is spread over time would come in bursts, and wait for itself.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// A thread that takes steps when they are due.
#[derive(Clone)]
pub(crate) struct Pacer {
    new: Sender<Paced>,
}

/// One step; whether another follows.
type Step = Box<dyn FnMut() -> bool + Send>;

struct Paced {
    due: Instant,
    every: Duration,
    step: Step,
}

impl Pacer {
    pub(crate) fn start() -> io::Result<Self> {
        let (new, added) = channel();
        std::thread::Builder::new()
            .name("pacer".into())
            .spawn(move || take_steps(&added))?;
        Ok(Self { new })
    }

    /// Takes a first step at some time within `every`, and then one after each `every`, as long as
    /// there are more. A step must not block. Those that are late follow each other.
    pub(crate) fn pace(&self, every: Duration, step: impl FnMut() -> bool + Send + 'static) {
        // Answers that begin together do not stream in step.
        let due = Instant::now() + every.mul_f64(rand::random());
        let step = Box::new(step);
        // The thread ends after all who hand it something.
        let _ = self.new.send(Paced { due, every, step });
    }
}

/// Ends when nobody is left who could hand it something.
fn take_steps(added: &Receiver<Paced>) {
    let mut waiting = BinaryHeap::new();
    loop {
        let now = Instant::now();
        let new = match waiting.peek() {
            None => added.recv().map_err(RecvTimeoutError::from),
            Some(Paced { due, .. }) => added.recv_timeout(due.saturating_duration_since(now)),
        };
        match new {
            Ok(paced) => waiting.push(paced),
            Err(RecvTimeoutError::Timeout) => take_due(&mut waiting),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Takes all steps that are due.
fn take_due(waiting: &mut BinaryHeap<Paced>) {
    while let Some(mut next) = waiting.pop() {
        if next.due > Instant::now() {
            waiting.push(next);
            return;
        }
        if (next.step)() {
            next.due += next.every;
            waiting.push(next);
        }
    }
}

/// The earliest is the greatest, so that it comes first.
impl Ord for Paced {
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Paced {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Paced {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Paced {}
