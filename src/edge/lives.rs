//! Whether the stream at a path is still the one that a reader has begun with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::asked::{Subject, Who};
use crate::held::HeldMap;

/// The streams that are read live.
#[derive(Default)]
pub(super) struct Lives {
    streams: Mutex<HeldMap<Arc<str>, OfStream>>,
}

/// The lives of a stream, for those who ask for it in the same way. Only looked at under the lock of
/// all, so that none begins in a stream that has ended.
type OfStream = Mutex<HeldMap<Who, Life>>;

/// The time in which a path has one stream, as far as this edge hears of it.
pub(super) struct Life {
    over: AtomicBool,
    /// As long as one of them is read, so is the stream.
    _all: Arc<OfStream>,
}

/// The stream that a reader has begun with.
pub(super) struct Incarnation {
    life: Arc<Life>,
    /// Who it is, where the origin says so.
    identity: Option<Arc<str>>,
    /// Something was said of another one at its path.
    has_met_another: bool,
}

impl Lives {
    /// The life that a stream has now, for those who ask like this.
    pub(super) fn of(&self, subject: &Subject) -> Arc<Life> {
        let mut streams = self.streams.lock();
        let all = streams.get_or_insert(subject.key.clone(), Mutex::default);
        let begin = || Life {
            over: AtomicBool::new(false),
            _all: all.clone(),
        };
        all.lock().get_or_insert(subject.who(), begin)
    }

    /// The stream is gone, or another one.
    pub(super) fn end(&self, stream: &str) {
        let mut streams = self.streams.lock();
        if let Some(all) = streams.remove(stream) {
            all.lock().values().for_each(|life| life.end());
        }
    }

    /// The stream is gone for those who ask like this.
    pub(super) fn end_for(&self, subject: &Subject) {
        let streams = self.streams.lock();
        let all = streams.get(&*subject.key);
        if let Some(life) = all.and_then(|all| all.lock().remove(&subject.who())) {
            life.end();
        }
    }
}

impl Life {
    fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

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
    fn a_stream_that_nobody_reads_is_let_go_of() {
        let lives = Lives::default();
        let held = || lives.streams.lock().values().count();
        let lived = [life(&lives, "/a", ""), life(&lives, "/a", "s=1")];
        lives.end_for(&Subject::of_test("/a", ""));
        assert_eq!(held(), 1);
        drop(lived);
        assert_eq!(held(), 0);
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
