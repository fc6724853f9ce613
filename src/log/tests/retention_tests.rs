//! What a stream need not keep goes, a segment at a time, and never in a way that looks like a gap.

use super::audit::{audit, audit_at_rest};
use super::model::Outcome;
use super::requests::{append, close, stream};
use super::retaining::{
    AGE_MS, bounds, by_age, by_bytes, entries, is_trimmed, live_through, stored_bytes,
};
use super::store::{Call, MemoryStore};
use super::world::{Disk, World, path_of, small, until};
use crate::config::{Durability, LogConfig};
use crate::log::ReadError;
use crate::log::keys::Pending;
use crate::log::kv::Table;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

#[tokio::test]
async fn at_least_the_last_bytes_are_kept_and_not_many_more() {
    const KEPT: u64 = 2000;
    const APPEND_MAX: usize = 200;
    for disk in [Disk::Memory(MemoryStore::new()), Disk::rocks()] {
        let config = LogConfig {
            durability: Durability::Os,
            ..LogConfig::default()
        };
        let mut world = World::open(disk, config);
        world.create(&by_bytes(0, KEPT)).await;
        let mut rng = StdRng::seed_from_u64(7);
        let mut starts = vec![0];
        for _ in 0..300 {
            let message = vec![7; rng.random_range(1..APPEND_MAX)];
            world.append(&append(0, &message)).await;
            world.work().await;
            let (earliest, tail) = bounds(&world, 0).await;
            assert!(starts.contains(&earliest), "a whole append was cut");
            let kept = tail - earliest;
            let two_segments = 2 * (KEPT / 8 + APPEND_MAX as u64);
            assert!(
                kept >= KEPT.min(tail) && kept <= KEPT + two_segments,
                "{kept}"
            );
            assert_eq!(stored_bytes(world.store()) as u64, kept);
            starts.push(tail);
        }
        for at in starts {
            let (earliest, tail) = bounds(&world, 0).await;
            if at < earliest {
                assert!(is_trimmed(&world, 0, at).await);
            } else {
                let read = world.read(0, at).await.unwrap();
                assert_eq!(read.from, at);
                assert!(read.to > at || at == tail);
            }
        }
        audit_at_rest(world.store());
        let trimmed = bounds(&world, 0).await;
        world.restart();
        assert_eq!(bounds(&world, 0).await, trimmed);
        audit_at_rest(world.store());
    }
}

#[tokio::test]
async fn data_goes_when_it_is_too_old_also_if_nothing_follows_it() {
    let mut world = World::over(&MemoryStore::new(), LogConfig::default());
    world.create(&by_age(0)).await;
    world.append(&append(0, b"old")).await;
    live_through(&mut world, AGE_MS / 2).await;
    world.append(&append(0, b"young")).await;
    live_through(&mut world, AGE_MS / 2 - 1000).await;
    assert_eq!(
        bounds(&world, 0).await,
        (0, 16),
        "all of it is young enough"
    );
    live_through(&mut world, AGE_MS / 4 + 2000).await;
    assert_eq!(bounds(&world, 0).await, (7, 16));
    assert!(is_trimmed(&world, 0, 0).await);
    live_through(&mut world, AGE_MS / 2).await;
    assert_eq!(bounds(&world, 0).await, (16, 16));
    assert_eq!(stored_bytes(world.store()), 0);
    audit_at_rest(world.store());
    // Nobody looks at it any longer, until there is data again.
    live_through(&mut world, AGE_MS).await;
    assert_eq!(entries(world.store(), Table::Timers), 0);
    world.append(&append(0, b"new")).await;
    assert_eq!(world.read(0, 16).await.unwrap().to, 23);
    live_through(&mut world, AGE_MS - 1000).await;
    assert_eq!(bounds(&world, 0).await, (16, 23));
    live_through(&mut world, AGE_MS / 4 + 3000).await;
    assert_eq!(bounds(&world, 0).await, (23, 23));
}

#[tokio::test]
async fn a_closed_stream_ages_to_its_end_and_stays_closed() {
    let mut world = World::over(&MemoryStore::new(), small());
    for appends in 1..4 {
        world.create(&by_age(appends)).await;
        for _ in 0..appends {
            world.append(&append(appends, b"data")).await;
        }
        world.append(&close(appends)).await;
    }
    live_through(&mut world, 2 * AGE_MS).await;
    for appends in 1..4 {
        let tail = 8 * appends as u64;
        assert_eq!(bounds(&world, appends).await, (tail, tail));
        let read = world.read(appends, tail).await.unwrap();
        assert!(read.closed && read.appends.is_empty());
        assert!(is_trimmed(&world, appends, 0).await);
    }
    audit_at_rest(world.store());
}

/// A segment goes while its packing still waits.
#[tokio::test]
async fn packing_finds_nothing_to_do_for_a_segment_that_was_trimmed() {
    let store = MemoryStore::new();
    let mut world = World::over(&store, small());
    world.create(&by_bytes(0, 200)).await;
    for _ in 0..40 {
        world.append(&append(0, &[3; 10])).await;
    }
    let id = world.view(0).await.unwrap().meta.id;
    world.log().trim(id, &path_of(0)).await.unwrap();
    let (earliest, tail) = bounds(&world, 0).await;
    assert!(earliest > 0 && tail - earliest >= 200);
    assert!(entries(&*store, Table::Pending) > 2, "packing waits");
    world.work().await;
    audit_at_rest(&*store);
    assert_eq!(stored_bytes(&*store) as u64, tail - earliest);
}

#[tokio::test]
async fn what_was_not_trimmed_before_a_crash_is_trimmed_after_it() {
    let mut world = World::over(&MemoryStore::new(), small());
    world.create(&by_bytes(0, 100)).await;
    for _ in 0..20 {
        world.append(&append(0, &[4; 50])).await;
    }
    world.crash(7).await;
    assert_eq!(bounds(&world, 0).await.0, 0);
    world.work().await;
    let (earliest, tail) = bounds(&world, 0).await;
    assert!(tail - earliest <= 200);
    audit_at_rest(world.store());
}

/// The store dies at each of its calls in turn; then all of it is there, or has gone as a whole.
#[tokio::test]
async fn a_crash_while_trimming_leaves_no_gap() {
    for nth in 1..60 {
        let store = MemoryStore::new();
        let mut world = World::over(&store, small());
        world.create(&by_bytes(0, 100)).await;
        store.die_at(nth);
        let mut tail = 0;
        for _ in 0..12 {
            match world.append(&append(0, &[nth as u8; 30])).await {
                Outcome::Appended { tail: end, .. } => tail = end,
                Outcome::NotCommitted(_) => break,
                outcome => panic!("{outcome:?}"),
            }
            world.work().await;
        }
        let image = store.crash(&mut StdRng::seed_from_u64(nth));
        drop(world);
        audit(&*image);
        let mut world = World::over(&image, small());
        let (earliest, end) = bounds(&world, 0).await;
        assert!(end >= tail && (earliest == 0 || end - earliest >= 100));
        let kept = world.read_all(0).await.unwrap();
        assert_eq!(kept.len() as u64 * 34, end - earliest);
        world.work().await;
        audit_at_rest(&*image);
    }
}

/// A reader asks for data whose removal is written, but not yet durable.
#[tokio::test]
async fn a_reader_is_not_told_of_trimming_before_it_is_durable() {
    let store = MemoryStore::new();
    let config = LogConfig {
        hot_bytes_max: 0,
        ..small()
    };
    let world = World::over(&store, config);
    world.create(&by_bytes(0, 100)).await;
    for _ in 0..20 {
        world.append(&append(0, &[4; 50])).await;
    }
    let world = Arc::new(world);
    let id = world.view(0).await.unwrap().meta.id;
    store.hold(Call::Sync);
    let trimming = tokio::spawn({
        let log = world.log().clone();
        async move { log.trim(id, &path_of(0)).await.map(drop).unwrap() }
    });
    until(|| store.waits(Call::Sync)).await;
    let reading = tokio::spawn({
        let world = world.clone();
        async move { world.read(0, 0).await }
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bounds(&world, 0).await.0, 0);
    assert!(!reading.is_finished());
    store.release(Call::Sync);
    trimming.await.unwrap();
    let (earliest, _) = bounds(&world, 0).await;
    let refused = reading.await.unwrap();
    let told = matches!(refused, Err(ReadError::Trimmed { earliest: told }) if told == earliest);
    assert!(told && earliest > 0, "{refused:?}");
}

/// More segments than go in one batch, as after a long time without the server.
#[tokio::test]
async fn very_many_segments_go_in_several_batches() {
    let store = MemoryStore::new();
    let config = LogConfig {
        durability: Durability::Os,
        ..small()
    };
    let mut world = World::over(&store, config);
    world.create(&by_bytes(0, 100)).await;
    for _ in 0..2500 {
        world.append(&append(0, &[5; 30])).await;
    }
    world.restart();
    world.work().await;
    let (earliest, tail) = bounds(&world, 0).await;
    assert!(tail - earliest <= 200);
    audit_at_rest(&*store);
    assert_eq!(stored_bytes(&*store) as u64, tail - earliest);
}

/// A stream that keeps everything is neither looked at nor sealed early.
#[tokio::test]
async fn streams_without_retention_cost_nothing() {
    let mut world = World::over(&MemoryStore::new(), LogConfig::default());
    world.create(&stream(0)).await;
    for _ in 0..100 {
        world.append(&append(0, &[6; 100])).await;
    }
    for table in [Table::Timers, Table::Pending, Table::Segments] {
        assert_eq!(entries(world.store(), table), 0);
    }
    live_through(&mut world, 10_000).await;
    assert_eq!(bounds(&world, 0).await, (0, 10_400));
}

#[tokio::test]
async fn a_successor_is_not_trimmed_by_what_was_left_of_the_stream_before_it() {
    let mut world = World::over(&MemoryStore::new(), small());
    world.create(&by_age(0)).await;
    world.append(&append(0, b"old")).await;
    let id = world.view(0).await.unwrap().meta.id;
    world.delete(0).await;
    world.create(&stream(0)).await;
    world.append(&append(0, b"new")).await;
    world.log().trim(id, &path_of(0)).await.unwrap();
    live_through(&mut world, 2 * AGE_MS).await;
    assert_eq!(bounds(&world, 0).await, (0, 7));
    assert_eq!(entries(world.store(), Table::Timers), 0);
    audit_at_rest(world.store());
}

/// A stream that is trimmed, alone and among others: what is removed lies in the same files as what
/// stays.
#[tokio::test]
async fn trimmed_data_gives_its_disk_space_back() {
    const APPENDS: usize = 300;
    const APPEND_BYTES: usize = 1 << 20;
    const KEPT_BYTES: u64 = 32 << 20;
    /// What may wait to be given back.
    const WAITING_BYTES: u64 = 64 << 20;
    for another in [false, true] {
        let config = LogConfig {
            durability: Durability::Os,
            ..LogConfig::default()
        };
        let mut world = World::open(Disk::rocks(), config);
        world.create(&by_bytes(0, KEPT_BYTES)).await;
        world.create(&stream(1)).await;
        let mut noise = vec![0; APPEND_BYTES];
        for number in 0..APPENDS {
            StdRng::seed_from_u64(number as u64).fill(&mut noise[..]);
            world.append(&append(0, &noise)).await;
            if another && number % 8 == 0 {
                world.append(&append(1, &noise)).await;
            }
        }
        world.work().await;
        let mut alive = 0;
        for path in 0..2 {
            let (earliest, tail) = bounds(&world, path).await;
            alive += tail - earliest;
            world.read_all(path).await.unwrap();
        }
        let figures = world.rocks_figures();
        let stored = figures.sst_bytes + figures.blob_bytes;
        assert!(stored < 2 * alive + WAITING_BYTES, "{alive} of {figures:?}");
    }
}

/// Timers and trimming as a server runs them.
#[tokio::test]
async fn a_running_server_trims_by_itself() {
    let mut world = World::over(&MemoryStore::new(), small());
    world.create(&by_bytes(0, 100)).await;
    world.create(&by_age(1)).await;
    world.append(&append(1, b"old")).await;
    let stop = world.start_work();
    for _ in 0..20 {
        world.append(&append(0, &[4; 50])).await;
    }
    let (first, second) = (world.stream(0).await, world.stream(1).await);
    let earliest = |stream: &crate::log::Stream| stream.tail().view().unwrap().earliest;
    until(|| {
        world.clock.advance_ms(1000);
        earliest(&first) > 800 && earliest(&second) == 7
    })
    .await;
    stop.cancel();
    let left = Pending::Trim {
        id: first.tail().view().unwrap().meta.id,
        path: path_of(0),
    };
    until(|| {
        world
            .store()
            .get(Table::Pending, &left.key())
            .unwrap()
            .is_none()
    })
    .await;
}
