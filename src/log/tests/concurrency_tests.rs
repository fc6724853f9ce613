//! Many at once, over RocksDB, with hardly any memory: readers see every byte once and in order.

use super::audit::{audit, audit_at_rest};
use super::model::{Outcome, Stored};
use super::requests::{Append, Stamp, append, close, fork, stream};
use super::store::MemoryStore;
use super::world::{Disk, World, small};
use crate::config::LogConfig;
use std::sync::Arc;
use tokio::task::{JoinHandle, JoinSet, yield_now};

const STREAMS: usize = 50;
const WRITERS: usize = 3;
const APPENDS: u64 = 120;

/// Streams are let go of as soon as nobody holds them, and memory is there for a few appends.
fn cramped() -> LogConfig {
    LogConfig {
        segment_bytes: 500,
        hot_bytes_max: 2000,
        cache_bytes: 2000,
        streams_in_memory_max: 1,
        ..LogConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reader_sees_every_byte_once_and_in_order() {
    let mut world = World::open(Disk::rocks(), cramped());
    let stop = world.start_work();
    for path in 0..STREAMS {
        world.create(&stream(path)).await;
    }
    let world = Arc::new(world);
    let evicting = tokio::spawn(evict_always(world.clone()));
    let churning = tokio::spawn(churn(world.clone()));
    let mut streams = JoinSet::new();
    for path in 0..STREAMS {
        streams.spawn(use_stream(world.clone(), path));
    }
    streams.join_all().await;
    evicting.abort();
    churning.abort();
    let _ = tokio::join!(evicting, churning);
    for path in 0..STREAMS {
        check_numbers(&world.read_all(path).await.unwrap());
    }
    stop.cancel();
}

/// Writes a stream, closes it and compares what its readers saw.
async fn use_stream(world: Arc<World>, path: usize) {
    let readers: Vec<JoinHandle<_>> = [
        tokio::spawn(read_holding(world.clone(), path)),
        tokio::spawn(read_returning(world.clone(), path)),
    ]
    .into();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(world.clone(), path, writer));
    }
    writers.join_all().await;
    world.append(&close(path)).await;
    let written = world.read_all(path).await.unwrap();
    for reader in readers {
        assert!(
            reader.await.unwrap() == written,
            "a reader missed something"
        );
    }
}

fn numbered(path: usize, producer: usize, seq: u64) -> Append {
    let text = format!("{producer}:{seq}{}", ".".repeat(seq as usize % 17));
    Append {
        producer: Some(Stamp {
            producer,
            epoch: 0,
            seq,
        }),
        ..append(path, text.as_bytes())
    }
}

async fn write(world: Arc<World>, path: usize, writer: usize) {
    for seq in 0..APPENDS {
        let outcome = world.append(&numbered(path, writer, seq)).await;
        assert!(matches!(
            outcome,
            Outcome::Appended {
                duplicate: false,
                ..
            }
        ));
    }
}

/// All appends of all writers, in the order of each.
fn check_numbers(appends: &[Stored]) {
    assert_eq!(appends.len(), WRITERS * APPENDS as usize);
    for writer in 0..WRITERS {
        let prefix = format!("{writer}:");
        let mine = appends.iter().map(|stored| &stored.messages);
        let mine: Vec<_> = mine
            .filter(|m| m[0].starts_with(prefix.as_bytes()))
            .collect();
        let expected = (0..APPENDS).map(|seq| numbered(0, writer, seq).messages);
        assert!(mine.into_iter().cloned().eq(expected));
    }
}

/// Reads as a connection does that stays: the stream is held all the time.
async fn read_holding(world: Arc<World>, path: usize) -> Vec<Stored> {
    let stream = world.stream(path).await;
    let id = stream.tail().view().unwrap().meta.id;
    let (mut at, mut seen) = (0, Vec::new());
    loop {
        assert!(stream.tail().wait(id, at).await);
        let view = stream.tail().view().unwrap();
        if view.closed && view.tail == at {
            return seen;
        }
        at = take(&world, path, at, &mut seen).await;
    }
}

/// Reads as clients do that come back, now and then late: in between the stream may be let go of.
async fn read_returning(world: Arc<World>, path: usize) -> Vec<Stored> {
    let (mut at, mut seen) = (0, Vec::new());
    loop {
        let view = world.view(path).await.unwrap();
        if view.closed && view.tail == at {
            return seen;
        }
        at = take(&world, path, at, &mut seen).await;
        let pause = rand::random_range(0..30);
        for _ in 0..pause {
            yield_now().await;
        }
    }
}

async fn take(world: &World, path: usize, at: u64, seen: &mut Vec<Stored>) -> u64 {
    let read = world.read(path, at).await.unwrap();
    assert_eq!(read.from, at);
    seen.extend(read.appends);
    read.to
}

async fn evict_always(world: Arc<World>) {
    loop {
        world.sweep();
        yield_now().await;
    }
}

/// Makes other streams come and go.
async fn churn(world: Arc<World>) {
    for path in STREAMS.. {
        world.create(&fork(path, path % STREAMS)).await;
        world.append(&append(path, b"own")).await;
        world.read_all(path).await.unwrap();
        world.delete(path).await;
    }
}

/// Each request locks two streams, and others lock the same two the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn forks_of_each_other_do_not_lock_each_other_out() {
    const ROUNDS: usize = 2000;
    let store = MemoryStore::new();
    let mut world = World::over(&store, small());
    world.create(&stream(0)).await;
    let shared = Arc::new(world);
    let mut clients = JoinSet::new();
    for client in 0..4 {
        let world = shared.clone();
        clients.spawn(async move {
            for round in 0..ROUNDS {
                let (one, other) = ((client + round) % 3, (client + round + 1) % 3);
                world.create(&fork(one, other)).await;
                world.append(&append(other, b"data")).await;
                if round % 3 == 0 {
                    world.delete(one).await;
                }
                if round % 7 == 0 {
                    world.create(&stream(client % 3)).await;
                }
            }
        });
    }
    clients.join_all().await;
    world = Arc::into_inner(shared).unwrap();
    world.settle().await;
    audit(&*store);
    world.work().await;
    audit_at_rest(&*store);
}
