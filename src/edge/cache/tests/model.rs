//! Any order of reads, purges, evictions, restarts, damage and failures: a reader gets what its
//! origin gives for that key since the last purge or doubt, all of it, or an error.

use super::super::{Cached, GetError, Purge};
use super::world::*;
use crate::observe::metrics::UpstreamFailure;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

const STREAMS: [&str; 3] = ["a", "b", "c"];
const RANGES: [&str; 4] = ["0", "1", "2", "3"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A read; the origin answers so, if it is asked.
    Read(usize, usize, Reply),
    /// The stream is made anew, and purged, while a read of it is under way.
    PurgeDuring(usize, usize),
    Purge(usize),
    /// The stream is made anew, and doubted.
    Doubt(usize),
    Restart,
    /// A bit of a file changes.
    Damage(prop::sample::Index, prop::sample::Index),
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Whole,
    /// In two parts, of unknown length.
    Parts,
    /// Half of it, and then no more.
    Half,
    Away,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (stream, range) = (0..STREAMS.len(), 0..RANGES.len());
    let reply = prop_oneof![
        4 => Just(Reply::Whole),
        2 => Just(Reply::Parts),
        1 => Just(Reply::Half),
        1 => Just(Reply::Away),
    ];
    let step = prop_oneof![
        12 => (stream.clone(), range.clone(), reply).prop_map(|(s, r, reply)| Step::Read(s, r, reply)),
        1 => (stream.clone(), range).prop_map(|(s, r)| Step::PurgeDuring(s, r)),
        1 => stream.clone().prop_map(Step::Purge),
        1 => stream.prop_map(Step::Doubt),
        1 => Just(Step::Restart),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(f, b)| Step::Damage(f, b)),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..40)
}

/// The origin's streams: how often each was made anew.
#[derive(Default)]
struct Model {
    made: [usize; STREAMS.len()],
}

impl Model {
    /// What the origin gives for a range now.
    fn body(&self, stream: usize, range: usize) -> String {
        let made = self.made[stream];
        format!("{}.{range} of {made};", STREAMS[stream]).repeat(1 + 300 * range)
    }

    fn answer(&self, stream: usize, range: usize, reply: Reply) -> Option<Answer> {
        let body = self.body(stream, range);
        let (half, rest) = body.split_at(body.len() / 2);
        let (answer, tap) = Answer::open(FIXED);
        match reply {
            Reply::Whole => return Some(Answer::whole(FIXED, body)),
            Reply::Away => return None,
            Reply::Parts => {
                tap.send(half.to_owned());
                tap.send(rest.to_owned());
                tap.end();
            }
            Reply::Half => tap.send(half.to_owned()),
        }
        let tag = format!("\"{}\"", self.made[stream]);
        Some(answer.with(http::header::ETAG, &tag))
    }
}

async fn get(world: &World, stream: usize, range: usize) -> Result<Cached, GetError> {
    let key = of_stream(STREAMS[stream], RANGES[range]);
    world.get_key(key).await
}

async fn purge(world: &World, stream: usize) {
    let stream = Purge::Stream {
        origin: "origin".into(),
        path: STREAMS[stream].into(),
    };
    world.cache.purge(stream).await.unwrap();
}

async fn doubt(world: &World, stream: usize) {
    let stream = of_stream(STREAMS[stream], "").stream;
    world.cache.doubt(stream, |_| true).await.unwrap();
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .flat_map(|path| {
            if path.is_dir() {
                all_files(&path)
            } else {
                vec![path]
            }
        })
        .collect();
    files.sort();
    files
}

fn damage(dir: &Path, file: prop::sample::Index, at: prop::sample::Index) {
    let files = all_files(&dir.join("streams"));
    if files.is_empty() {
        return;
    }
    let path = file.get(&files);
    let mut bytes = fs::read(path).unwrap();
    *at.get_mut(&mut bytes) ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// A read whose answer must be the origin's, if it is whole.
async fn read(world: &World, model: &Model, stream: usize, range: usize, reply: Reply) {
    match model.answer(stream, range, reply) {
        Some(answer) => world.will_answer(answer),
        None => world.will_fail(UpstreamFailure::Connect),
    }
    let result = match get(world, stream, range).await {
        Ok(cached) => text(cached).await,
        Err(error) => Err(error),
    };
    world.settle().await;
    let asked = world.forget_script();
    match result {
        Ok(body) => assert_eq!(body, model.body(stream, range)),
        // Only the origin's failure is an excuse, and only if it was asked.
        Err(_) => assert!(asked && matches!(reply, Reply::Half | Reply::Away)),
    }
}

async fn purge_during(world: &World, model: &mut Model, stream: usize, range: usize) {
    let body = model.body(stream, range);
    let (answer, tap) = Answer::open(FIXED);
    world.will_answer(answer);
    let cached = get(world, stream, range).await.unwrap();
    model.made[stream] += 1;
    purge(world, stream).await;
    tap.send(body.clone());
    tap.end();
    assert_eq!(text(cached).await.unwrap(), body);
    world.settle().await;
    world.forget_script();
}

async fn run(steps: Vec<Step>) {
    let mut world = World::with(|config| {
        config.cache.memory_bytes = 40 << 10;
        config.cache.disk_bytes = 60 << 10;
    });
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Read(stream, range, reply) => read(&world, &model, stream, range, reply).await,
            Step::PurgeDuring(stream, range) => {
                purge_during(&world, &mut model, stream, range).await;
            }
            Step::Purge(stream) => {
                model.made[stream] += 1;
                purge(&world, stream).await;
            }
            Step::Doubt(stream) => {
                model.made[stream] += 1;
                doubt(&world, stream).await;
            }
            Step::Restart => world.restart().await,
            Step::Damage(file, at) => damage(world.dir.path(), file, at),
            Step::Wait => world.clock.advance_ms(30_000),
        }
    }
    world.settle().await;
    let index = &world.cache.index;
    assert!(index.memory.bytes() <= 40 << 10);
    assert!(index.disk.bytes() <= 60 << 10);
    let kept = all_files(&world.dir.path().join("streams")).len();
    assert_eq!(index.disk.entries(), kept);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn readers_get_what_the_origin_gives(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(run(steps));
    }
}
