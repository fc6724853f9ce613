//! Whether the stream at a path is still the one that a reader has begun with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::asked::{Subject, Who};

/// The streams that are read live, for those who ask for them in the same way.
#[derive(Default)]
pub(super) struct Lives {
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    lives: HashMap<Arc<str>, HashMap<Who, Weak<Life>>>,
    /// With so many streams, those that nobody reads any more are taken out.
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
    /// The life that a stream has now, for those who ask like this.
    pub(super) fn of(&self, subject: &Subject) -> Arc<Life> {
        let mut streams = self.streams.lock();
        let who = subject.who();
        let found = streams.lives.get(&subject.key).and_then(|of| of.get(&who));
        if let Some(life) = found.and_then(Weak::upgrade) {
            return life;
        }
        if streams.lives.len() >= streams.sweep_at.max(SWEEP_MIN) {
            streams.lives.retain(|_, of| {
                of.retain(|_, life| life.strong_count() > 0);
                !of.is_empty()
            });
            streams.sweep_at = 2 * streams.lives.len();
        }
        let life = Arc::new(Life::default());
        let of = streams.lives.entry(subject.key.clone()).or_default();
        if of.len() >= SWEEP_MIN {
            of.retain(|_, life| life.strong_count() > 0);
        }
        of.insert(who, Arc::downgrade(&life));
        life
    }

    /// The stream is gone, or another one.
    pub(super) fn end(&self, stream: &str) {
        let ended = self.streams.lock().lives.remove(stream);
        for life in ended.into_iter().flat_map(HashMap::into_values) {
            end(&life);
        }
    }

    /// The stream is gone for those who ask like this.
    pub(super) fn end_for(&self, subject: &Subject) {
        let mut streams = self.streams.lock();
        let of = streams.lives.get_mut(&subject.key);
        if let Some(life) = of.and_then(|of| of.remove(&subject.who())) {
            end(&life);
        }
    }
}

fn end(life: &Weak<Life>) {
    if let Some(life) = life.upgrade() {
        life.over.store(true, Ordering::Release);
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

    fn life(lives: &Lives, path: &str, parameters: &str) -> Arc<Life> {
        lives.of(&Subject::of_test(path, parameters))
    }

    #[test]
    fn a_life_is_over_for_those_who_began_in_it() {
        let lives = Lives::default();
        let of = |path, parameters| life(&lives, path, parameters);
        let (one, signed, other) = (of("/a", ""), of("/a", "s=1"), of("/b", ""));
        assert!(Arc::ptr_eq(&one, &of("/a", "")));
        lives.end_for(&Subject::of_test("/a", "s=1"));
        assert!(signed.is_over() && !one.is_over());
        assert!(!of("/a", "s=1").is_over());
        lives.end(&Subject::of_test("/a", "").key);
        lives.end("nobody reads it");
        assert!(one.is_over() && !other.is_over());
        assert!(!of("/a", "").is_over());
    }

    #[test]
    fn streams_that_nobody_reads_take_no_memory() {
        let lives = Lives::default();
        let read = life(&lives, "/read", "");
        for n in 0..10 * SWEEP_MIN {
            life(&lives, &format!("/{n}"), "");
            life(&lives, "/read", &n.to_string());
        }
        let streams = lives.streams.lock();
        assert!(streams.lives.len() <= SWEEP_MIN);
        let of = &streams.lives[&Subject::of_test("/read", "").key];
        assert!(of.len() <= SWEEP_MIN);
        drop(streams);
        assert!(Arc::ptr_eq(&read, &life(&lives, "/read", "")));
    }

    #[test]
    fn the_first_identity_counts() {
        let lives = Lives::default();
        let mut incarnation = Incarnation::new(life(&lives, "/a", ""), None);
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
