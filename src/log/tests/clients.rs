//! Clients that work at the same time until their log dies, and know then what must have survived.

use super::model::{JSON, Model, Outcome, Stored};
use super::reading::Read;
use super::requests::{Append, Create, Draw, Paths, Request, Stamp, append, draws, fork, stream};
use super::world::{BEGIN_MS, World};
use crate::log::state::{AppendRefusal, Unavailable};
use parking_lot::Mutex;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Random requests from a seed.
fn draws_from(seed: u64) -> impl Iterator<Item = Draw> {
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed).fill(&mut bytes);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = draws();
    // Trimming is no client's doing.
    std::iter::repeat_with(move || {
        let draw = strategy.new_tree(&mut runner).unwrap().current();
        draw.without_retention()
    })
}

/// Has paths of its own, on which it does everything.
pub(super) struct Owner {
    paths: Paths,
    seed: u64,
    /// What is there for certain.
    model: Model,
    /// The request that was not answered.
    open: Option<Request>,
}

impl Owner {
    pub(super) fn new(paths: Paths, seed: u64) -> Self {
        Self {
            paths,
            seed,
            model: Model::at(BEGIN_MS),
            open: None,
        }
    }

    /// Makes requests until the log dies.
    pub(super) async fn run(mut self, world: Arc<World>) -> Self {
        for draw in draws_from(self.seed) {
            let request = draw.resolve(&self.model, &self.paths);
            let mut after = self.model.clone();
            let expected = after.run(&request);
            match world.run(&request).await {
                Outcome::NotCommitted(_) => {
                    self.open = Some(request);
                    break;
                }
                outcome => assert_eq!(outcome, expected, "{request:?}"),
            }
            self.model = after;
        }
        self
    }

    /// Compares what a crash left, with all work done, and goes on for a while. The open request
    /// was carried out as a whole or not at all.
    pub(super) async fn check(mut self, world: &World) {
        self.model.work();
        if let Some(request) = self.open.take() {
            let mut after = self.model.clone();
            after.run(&request);
            after.work();
            if self.is_like(world, &after).await {
                self.model = after;
            }
            world.compare(&self.model, self.paths.clone()).await;
            let expected = self.model.run(&request);
            assert_eq!(world.run(&request).await, expected, "{request:?} again");
        }
        for draw in draws_from(!self.seed).take(20) {
            let request = draw.resolve(&self.model, &self.paths);
            let expected = self.model.run(&request);
            assert_eq!(world.run(&request).await, expected, "{request:?}");
        }
        world.compare(&self.model, self.paths.clone()).await;
    }

    /// Whether the streams are those of a model, as far as a request can change them visibly.
    async fn is_like(&self, world: &World, model: &Model) -> bool {
        for path in self.paths.clone() {
            let found = world.read_all(path).await;
            let closed = world.view(path).await.map(|view| view.closed);
            let there = model.alive(path);
            if found.as_ref() != there.as_ref().map(|stream| &stream.appends)
                || closed != there.map(|stream| stream.closed)
            {
                return false;
            }
        }
        true
    }
}

/// Appends numbered messages to a stream that it shares with other producers.
pub(super) struct Producer {
    path: usize,
    number: usize,
    rng: StdRng,
    /// Where each acknowledged append ended.
    ends: Vec<u64>,
    /// Closes the stream with the append of this number.
    closes_at: Option<u64>,
    saw_closed: bool,
}

impl Producer {
    pub(super) fn new(path: usize, number: usize, seed: u64, closes_at: Option<u64>) -> Self {
        Self {
            path,
            number,
            rng: StdRng::seed_from_u64(seed),
            ends: Vec::new(),
            closes_at,
            saw_closed: false,
        }
    }

    pub(super) fn path(&self) -> usize {
        self.path
    }

    fn request(&self, seq: u64) -> Append {
        let (producer, path) = (self.number, self.path);
        let filler = ".".repeat(seq as usize * 7 % 40);
        Append {
            content_type: Some(JSON),
            messages: vec![
                format!("{producer}:{seq}").into_bytes(),
                filler.into_bytes(),
            ],
            close: self.closes_at == Some(seq),
            producer: Some(Stamp {
                producer,
                epoch: 0,
                seq,
            }),
            ..append(path, b"")
        }
    }

    /// Appends until the log dies or the stream is closed, now and then the same twice at once.
    pub(super) async fn run(mut self, world: Arc<World>) -> Self {
        loop {
            let request = self.request(self.ends.len() as u64);
            let outcomes = if self.rng.random_bool(0.2) {
                let (one, other) = tokio::join!(world.append(&request), world.append(&request));
                vec![one, other]
            } else {
                vec![world.append(&request).await]
            };
            let added = outcomes.iter().filter(|outcome| is_new(outcome)).count();
            assert!(added <= 1, "an append was accepted twice");
            for outcome in outcomes {
                match outcome {
                    Outcome::Appended {
                        tail, duplicate, ..
                    } => {
                        if !duplicate {
                            self.ends.push(tail);
                        }
                    }
                    Outcome::NotAppended(AppendRefusal::Closed { .. }) => self.saw_closed = true,
                    Outcome::NotCommitted(_) => return self,
                    outcome => panic!("{outcome:?}"),
                }
            }
            let closed = self
                .closes_at
                .is_some_and(|seq| seq < self.ends.len() as u64);
            if closed || self.saw_closed {
                return self;
            }
        }
    }

    /// Every acknowledged append is there once, where it was said to be; of the others at most the
    /// one that was not answered.
    pub(super) fn check(&self, appends: &[Stored], closed: bool) {
        let mine = self.find(appends);
        assert!(mine.starts_with(&self.ends), "{mine:?} but {:?}", self.ends);
        assert!(mine.len() <= self.ends.len() + 1);
        assert!(closed || !self.saw_closed);
    }

    /// Where the appends of this producer end; they are all its appends, in order.
    fn find(&self, appends: &[Stored]) -> Vec<u64> {
        let prefix = format!("{}:", self.number);
        let mine = appends
            .iter()
            .filter(|stored| stored.messages[0].starts_with(prefix.as_bytes()));
        let numbered = mine.enumerate().map(|(seq, stored)| {
            let expected = format!("{prefix}{seq}");
            assert_eq!(stored.messages[0], expected.as_bytes());
            stored.end
        });
        numbered.collect()
    }

    /// Tries again what was not answered, and goes on: all is there exactly once.
    pub(super) async fn go_on(self, world: &World) {
        let first = self.ends.len() as u64;
        for seq in first..first + 4 {
            let request = self.request(seq);
            world.append(&request).await;
            let again = world.append(&request).await;
            let closed = world.view(self.path).await.unwrap().closed;
            assert!(closed || !is_new(&again), "{again:?}");
            if closed {
                break;
            }
        }
        let appends = world.read_all(self.path).await.unwrap();
        let closed = world.view(self.path).await.unwrap().closed;
        assert!(closed || self.find(&appends).len() as u64 == first + 4);
    }
}

fn is_new(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Appended {
            duplicate: false,
            ..
        }
    )
}

/// Follows a stream, and keeps in mind what it was told for ever.
#[derive(Default)]
pub(super) struct Follower {
    seen: Mutex<Vec<Stored>>,
    fixed: Mutex<BTreeMap<u64, Read>>,
}

impl Follower {
    pub(super) async fn run(self: Arc<Self>, world: Arc<World>, path: usize) {
        let stream = world.stream(path).await;
        let id = stream.tail().view().unwrap().meta.id;
        let mut at = 0;
        while stream.tail().wait(id, at).await {
            let Some(view) = stream.tail().view() else {
                return;
            };
            if view.closed && view.tail == at {
                return;
            }
            let read = world.read(path, at).await.unwrap();
            assert_eq!(read.from, at);
            at = read.to;
            self.seen.lock().extend(read.appends);
            let earlier = rand::rng().random_range(0..=at);
            let read = world.read(path, earlier).await.unwrap();
            if read.fixed {
                self.fixed.lock().insert(earlier, read);
            }
        }
    }

    /// What was seen is there, and immutable answers are what they were.
    pub(super) async fn check(&self, world: &World, path: usize) {
        let appends = world.read_all(path).await.unwrap();
        let seen = self.seen.lock().clone();
        assert!(appends.starts_with(&seen), "a reader saw what was lost");
        let fixed = self.fixed.lock().clone();
        for (at, before) in fixed {
            assert_eq!(world.read(path, at).await.unwrap(), before);
        }
    }
}

/// Forks a stream that others write to, writes to some forks and deletes others.
pub(super) struct Forker {
    source: usize,
    paths: Paths,
    rng: StdRng,
    /// The tails of the forks that are there, and `None` for those that were deleted.
    forks: BTreeMap<usize, Option<u64>>,
}

impl Forker {
    pub(super) fn new(source: usize, paths: Paths, seed: u64) -> Self {
        Self {
            source,
            paths,
            rng: StdRng::seed_from_u64(seed),
            forks: BTreeMap::new(),
        }
    }

    /// Makes and deletes forks until the log dies or the paths are used up.
    pub(super) async fn run(mut self, world: Arc<World>) -> Self {
        for path in self.paths.clone() {
            let known = self.forks.keys().copied().next_back();
            let source = known.filter(|_| self.rng.random_bool(0.3));
            match world
                .create(&fork(path, source.unwrap_or(self.source)))
                .await
            {
                Outcome::Created { tail, .. } => drop(self.forks.insert(path, Some(tail))),
                Outcome::NotCreated("SourceGone" | "SourceNotFound") => continue,
                Outcome::NotCommitted(_) => return self,
                outcome => panic!("{outcome:?}"),
            }
            if self.rng.random_bool(0.5) {
                // What is not answered may be there or not.
                self.forks.remove(&path);
                match world.delete(path).await {
                    Outcome::Deleted => drop(self.forks.insert(path, None)),
                    Outcome::NotCommitted(_) => return self,
                    outcome => panic!("{outcome:?}"),
                }
            }
        }
        self
    }

    /// The forks are there, each with the beginning of its source.
    pub(super) async fn check(&self, world: &World) {
        let source = world.read_all(self.source).await.unwrap();
        for (path, tail) in &self.forks {
            match (tail, world.read_all(*path).await) {
                (Some(tail), Ok(found)) => {
                    assert_eq!(found.last().map_or(0, |stored| stored.end), *tail);
                    assert!(source.starts_with(&found));
                }
                (None, Err(Unavailable::NotFound | Unavailable::Gone)) => {}
                (tail, found) => panic!("fork {path} with tail {tail:?}: {found:?}"),
            }
        }
    }
}

/// The stream that producers share.
pub(super) fn shared(path: usize) -> Create {
    Create {
        content_type: Some(JSON),
        ..stream(path)
    }
}
