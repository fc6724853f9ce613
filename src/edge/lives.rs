//! Whether the stream at a path is still the one that a reader has begun with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// The streams that are read live.
#[derive(Default)]
pub(super) struct Lives {
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    lives: HashMap<Arc<str>, Weak<Life>>,
    /// With so many, those that nobody holds any more are taken out.
    sweep_at: usize,
}

/// The time in which a path has one stream, as far as this edge hears of it.
#[derive(Debug, Default)]
pub(super) struct Life {
    over: AtomicBool,
}

/// The stream that a reader has begun with.
#[derive(Debug)]
pub(super) struct Incarnation {
    life: Arc<Life>,
    /// Who it is, where the origin says so.
    identity: Option<Arc<str>>,
    /// Something was said of another one at its path.
    has_met_another: bool,
}

const SWEEP_MIN: usize = 64;

impl Lives {
    /// The life that a stream has now.
    pub(super) fn of(&self, stream: &Arc<str>) -> Arc<Life> {
        let mut streams = self.streams.lock();
        if let Some(life) = streams.lives.get(stream).and_then(Weak::upgrade) {
            return life;
        }
        if streams.lives.len() >= streams.sweep_at.max(SWEEP_MIN) {
            streams.lives.retain(|_, life| life.strong_count() > 0);
            streams.sweep_at = 2 * streams.lives.len();
        }
        let life = Arc::new(Life::default());
        streams.lives.insert(stream.clone(), Arc::downgrade(&life));
        life
    }

    /// The stream is gone, or another one.
    pub(super) fn end(&self, stream: &str) {
        let ended = self.streams.lock().lives.remove(stream);
        if let Some(life) = ended.and_then(|life| life.upgrade()) {
            life.over.store(true, Ordering::Release);
        }
    }
}

impl Life {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

impl Incarnation {
    pub(super) fn new(life: Arc<Life>, identity: Option<Arc<str>>) -> Self {
        Self {
            life,
            identity,
            has_met_another: false,
        }
    }

    pub(super) fn identity(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()
    }

    /// Whether the stream is gone, or another one by now.
    pub(super) fn is_over(&self) -> bool {
        self.has_met_another || self.life.is_over()
    }

    /// Takes who something is said to be of. The first who is named is this stream; if it is another
    /// afterwards, this one is over.
    pub(super) fn meet(&mut self, said: Option<&str>) {
        let Some(said) = said else { return };
        let known = self.identity.get_or_insert_with(|| said.into());
        self.has_met_another |= **known != *said;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_over_for_those_who_began_in_it() {
        let lives = Lives::default();
        let (stream, other): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (first, elsewhere) = (lives.of(&stream), lives.of(&other));
        assert!(Arc::ptr_eq(&first, &lives.of(&stream)));
        lives.end(&stream);
        lives.end("nobody reads it");
        assert!(first.is_over() && !elsewhere.is_over());
        assert!(!lives.of(&stream).is_over());
    }

    #[test]
    fn streams_that_nobody_reads_take_no_memory() {
        let lives = Lives::default();
        let read = lives.of(&"read".into());
        for n in 0..10 * SWEEP_MIN {
            lives.of(&format!("{n}").into());
        }
        assert!(lives.streams.lock().lives.len() <= SWEEP_MIN);
        assert!(Arc::ptr_eq(&read, &lives.of(&"read".into())));
    }

    #[test]
    fn the_first_identity_counts() {
        let lives = Lives::default();
        let mut incarnation = Incarnation::new(lives.of(&"a".into()), None);
        for said in [None, Some("d:1"), None, Some("d:1")] {
            incarnation.meet(said);
            assert!(!incarnation.is_over());
        }
        for said in [Some("d:2"), Some("d:1")] {
            incarnation.meet(said);
            assert!(incarnation.is_over());
        }
        assert_eq!(incarnation.identity().map(|one| &**one), Some("d:1"));
    }
}
