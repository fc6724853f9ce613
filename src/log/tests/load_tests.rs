//! What is read of a stream when it is loaded.

use super::model::{BINARY, Outcome};
use super::requests::{Append, Stamp, append, close, fork, stream};
use super::retaining::{bounds, by_bytes};
use super::store::MemoryStore;
use super::world::{World, path_of, small};
use crate::config::LogConfig;
use crate::log::Look;
use crate::log::load::{END_BYTES_MAX, Loaded, Purpose, read};
use crate::log::state::{AppendRefusal, AppendRequest, Verdict};
use crate::types::{Position, ProducerStamp};
use std::sync::Arc;

/// A world with a stream of these appends.
async fn world(appends: &[&[u8]]) -> (World, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let world = World::over(&store, LogConfig::default());
    world.create(&stream(0)).await;
    for message in appends {
        world.append(&append(0, message)).await;
    }
    (world, store)
}

/// A stream as it is loaded to be read. Its state is the same without its end.
fn load(world: &World, path: usize) -> Loaded {
    let path = path_of(path);
    let load = |purpose| read(world.store(), path.key().as_bytes(), purpose, 0);
    let [state, read] = [Purpose::State, Purpose::Read].map(|purpose| load(purpose).unwrap());
    let (state, read) = (state.unwrap(), read.unwrap());
    assert_eq!((state.state, state.end), (read.state.clone(), None));
    read
}

/// The bounds of what came with the state, which are those of appends.
fn end(loaded: &Loaded) -> Option<(Position, Position)> {
    let run = loaded.end.as_ref()?;
    assert_eq!(run.end(), loaded.state.tail);
    Some((run.start, run.end()))
}

#[tokio::test]
async fn a_short_stream_comes_whole() {
    let (world, _) = world(&[b"one", b"two"]).await;
    assert_eq!(end(&load(&world, 0)), Some((0, 14)));
    world.create(&fork(1, 0)).await;
    world.append(&append(1, b"own")).await;
    // What it inherits lies elsewhere.
    assert_eq!(end(&load(&world, 1)), Some((14, 21)));
    world.create(&stream(2)).await;
    assert_eq!(load(&world, 2).end.map(|run| run.frames.len()), Some(0));
}

/// As one record, as a segment that waits to be packed, and packed.
#[tokio::test]
async fn a_short_closed_stream_comes_whole() {
    let (mut world, _) = world(&[b"one"]).await;
    world.append(&close(0)).await;
    assert_eq!(end(&load(&world, 0)), Some((0, 7)));
    world.create(&stream(1)).await;
    for message in [b"one", b"two"] {
        world.append(&append(1, message)).await;
    }
    world.append(&close(1)).await;
    assert_eq!(end(&load(&world, 1)), Some((0, 14)));
    world.work().await;
    assert_eq!(end(&load(&world, 1)), Some((0, 14)));
    world.create(&stream(2)).await;
    world.append(&close(2)).await;
    assert_eq!(end(&load(&world, 2)), None);
}

/// Behind the row, and in it.
#[tokio::test]
async fn of_a_long_stream_the_state_comes_alone() {
    let message = vec![b'x'; END_BYTES_MAX as usize];
    let (world, store) = world(&[b"short", &message]).await;
    let loaded = load(&world, 0);
    assert_eq!((end(&loaded), loaded.state.open_appends), (None, 2));
    for number in 3..6 {
        world.append(&append(0, b"short")).await;
        let before = store.bytes_read();
        let loaded = load(&world, 0);
        assert_eq!((end(&loaded), loaded.state.open_appends), (None, number));
        // Not what the row tells.
        assert!(store.bytes_read() - before < END_BYTES_MAX);
    }
    world.append(&close(0)).await;
    assert_eq!(end(&load(&world, 0)), None);
}

#[tokio::test]
async fn of_a_trimmed_stream_comes_what_is_kept() {
    let store = MemoryStore::new();
    let mut world = World::over(&store, small());
    world.create(&by_bytes(0, 1)).await;
    for _ in 0..40 {
        world.append(&append(0, b"some data")).await;
    }
    world.work().await;
    let (earliest, tail) = bounds(&world, 0).await;
    assert!(earliest > 0);
    let loaded = load(&world, 0);
    let (start, end) = end(&loaded).unwrap();
    assert!(start >= earliest && start == loaded.state.sealed);
    assert_eq!(end, tail);
}

/// What was loaded is in memory, as long as half of the memory is left to what is appended.
#[tokio::test]
async fn what_came_with_a_stream_is_read_from_memory() {
    for (hot_bytes_max, in_memory) in [(1000, true), (100, false)] {
        let store = MemoryStore::new();
        let config = LogConfig {
            hot_bytes_max,
            ..LogConfig::default()
        };
        let world = World::over(&store, config);
        world.create(&stream(0)).await;
        let last = Append {
            close: true,
            ..append(0, b"data")
        };
        world.append(&last).await;
        let mut known = 0;
        for _ in 0..4 {
            world.evict().await;
            // Every other time the store knows the row at once, and the stream comes without its end.
            let stream = world.log().stream_to_read(&path_of(0)).await.unwrap();
            let look = world.log().look(&stream, 0).unwrap();
            known += u32::from(matches!(look, Look::Known(_)));
            assert_eq!(world.read(0, 0).await.unwrap().to, 8);
        }
        assert_eq!(known > 0, in_memory);
    }
}

/// Who is refused, or only judged, leaves nothing in memory: anybody can make up new producers.
#[tokio::test]
async fn producers_that_do_not_write_are_not_remembered() {
    let (world, _) = world(&[]).await;
    let by = |producer, seq| Append {
        producer: Some(Stamp {
            producer,
            epoch: 0,
            seq,
        }),
        ..append(0, b"data")
    };
    world.append(&by(0, 0)).await;
    let stream = world.stream(0).await;
    let remembered = || stream.sequenced.lock().producers.len();
    for producer in 1..20 {
        let gap = AppendRefusal::SeqGap {
            expected: 0,
            received: 1,
        };
        let refused = world.append(&by(producer, 1)).await;
        assert_eq!(refused, Outcome::NotAppended(gap));
        assert_eq!(remembered(), 1);
    }
    let stamp = ProducerStamp {
        id: "a new one".into(),
        epoch: 0,
        seq: 0,
    };
    let request = AppendRequest {
        id: None,
        content_type: Some(BINARY),
        frame_bytes: 8,
        stream_seq: None,
        close: false,
        end: None,
        producer: Some(&stamp),
        producers_max: 2,
    };
    let judged = world.log().judge(&stream, &request).await;
    assert_eq!(judged.unwrap(), Verdict::Accept);
    assert_eq!(remembered(), 1);
    for duplicate in [false, true] {
        let appended = Outcome::Appended {
            duplicate,
            tail: 16,
            closed: false,
            producer_seq: Some(0),
        };
        assert_eq!(world.append(&by(7, 0)).await, appended);
        assert_eq!(remembered(), 2);
    }
}
