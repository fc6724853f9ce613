//! No answer that is marked as immutable ever differs when it is asked again, whatever happens to
//! the stream in between, deletion and trimming excepted.

use super::reading::Read;
use super::requests::{Append, append, close, fork, stream};
use super::steps::{PATHS, Pair, Step, for_all};
use super::store::MemoryStore;
use super::world::{Disk, World, small};
use crate::log::ReadError;
use crate::types::{Position, StreamId};
use std::collections::BTreeMap;

/// The immutable answers so far, by stream and asked position.
#[derive(Default)]
struct Witness(BTreeMap<(StreamId, Position), Read>);

impl Witness {
    /// Asks every stream from everywhere: what was immutable is the same, what has become so is
    /// kept in mind.
    async fn ask(&mut self, pair: &Pair) {
        for path in PATHS {
            let Ok(view) = pair.world.view(path).await else {
                continue;
            };
            let id = view.meta.id;
            for at in positions(pair, path) {
                let read = match pair.world.read(path, at).await {
                    Err(ReadError::Trimmed { .. }) => continue,
                    read => read.unwrap(),
                };
                match self.0.get(&(id, at)) {
                    Some(before) => assert_eq!(&read, before, "{path} from {at}"),
                    None if read.fixed => drop(self.0.insert((id, at), read)),
                    None => {}
                }
            }
        }
    }
}

/// Beginnings of appends, places inside them, the tail and beyond.
fn positions(pair: &Pair, path: usize) -> Vec<Position> {
    let boundaries = pair.model.streams[&path].boundaries();
    boundaries.iter().flat_map(|at| [*at, at + 3]).collect()
}

async fn follow(mut pair: Pair, steps: Vec<Step>) {
    let mut witness = Witness::default();
    for step in steps {
        pair.take(step).await;
        witness.ask(&pair).await;
    }
}

#[test]
fn immutable_answers_never_differ() {
    for_all(1000, || Disk::Memory(MemoryStore::new()), follow);
}

#[test]
fn immutable_answers_never_differ_over_rocksdb() {
    for_all(20, Disk::rocks, follow);
}

/// A few appends and every way to end them: what memory, records and packed segments answer for ever
/// is the same.
#[tokio::test]
async fn memory_and_store_give_the_same_immutable_answers() {
    for appends in 0..9 {
        for (forked, end) in [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)] {
            let mut world = World::over(&MemoryStore::new(), small());
            world.create(&stream(0)).await;
            for _ in 0..forked {
                world.append(&append(0, &[0; 50])).await;
            }
            world.create(&fork(1, 0)).await;
            for _ in 0..appends {
                world.append(&append(1, &[1; 50])).await;
            }
            match end {
                0 => {}
                1 => drop(world.append(&close(1)).await),
                _ => drop(
                    world
                        .append(&Append {
                            close: true,
                            ..append(1, b"end")
                        })
                        .await,
                ),
            }
            let from_memory = fixed_answers(&world).await;
            world.evict().await;
            assert_eq!(
                fixed_answers(&world).await,
                from_memory,
                "{appends} {forked} {end}"
            );
            world.work().await;
            world.evict().await;
            assert_eq!(
                fixed_answers(&world).await,
                from_memory,
                "{appends} {forked} {end}"
            );
        }
    }
}

async fn fixed_answers(world: &World) -> Vec<(Position, Read)> {
    let mut answers = Vec::new();
    let tail = world.view(1).await.unwrap().tail;
    for at in (0..=tail + 1).step_by(9) {
        let read = world.read(1, at).await.unwrap();
        answers.extend(read.fixed.then_some((at, read)));
    }
    answers
}

/// A long inheritance is answered by itself, however long segments are.
#[tokio::test]
async fn a_long_inheritance_ends_its_answer() {
    let store = MemoryStore::new();
    let mut config = small();
    config.segment_bytes = 16 << 20;
    let mut world = World::over(&store, config);
    world.create(&stream(0)).await;
    world.append(&append(0, &vec![7; 5 << 20])).await;
    let end = (5 << 20) + 4;
    world.create(&fork(1, 0)).await;
    world.append(&append(1, b"own")).await;
    let before = world.read(1, 0).await.unwrap();
    assert_eq!((before.to, before.fixed), (end, true));
    world.append(&close(0)).await;
    world.append(&close(1)).await;
    world.work().await;
    for segment_bytes in [100, 64 << 20] {
        world.config.segment_bytes = segment_bytes;
        world.restart();
        assert_eq!(world.read(1, 0).await.unwrap(), before);
        assert_eq!(world.read(1, end).await.unwrap().to, end + 7);
    }
}
