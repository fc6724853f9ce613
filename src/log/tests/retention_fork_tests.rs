//! Retention where forks read from a stream, and of forks themselves.

use super::audit::{audit, audit_at_rest};
use super::model::Outcome;
use super::requests::{Create, append, fork, stream};
use super::retaining::{AGE_MS, bounds, by_age, by_bytes, is_trimmed, live_through, stored_bytes};
use super::store::{Call, MemoryStore};
use super::world::{World, path_of, small, until};
use crate::config::LogConfig;
use crate::types::{Position, Retention};
use std::sync::Arc;

fn fork_at(path: usize, source: usize, offset: Position) -> Create {
    let mut create = fork(path, source);
    if let Some(fork) = &mut create.fork {
        fork.offset = Some(offset);
    }
    create
}

#[tokio::test]
async fn a_stream_is_not_trimmed_under_its_forks() {
    let mut world = World::over(&MemoryStore::new(), small());
    world.create(&by_bytes(0, 100)).await;
    world.append(&append(0, &[1; 50])).await;
    world.create(&fork(1, 0)).await;
    world.create(&fork_at(2, 0, 0)).await;
    for _ in 0..20 {
        world.append(&append(0, &[2; 50])).await;
    }
    world.work().await;
    assert_eq!(bounds(&world, 0).await.0, 0);
    for path in [1, 2] {
        assert_eq!(bounds(&world, 0).await.0, 0);
        world.delete(path).await;
        world.work().await;
    }
    let (earliest, tail) = bounds(&world, 0).await;
    assert!(
        tail - earliest <= 2 * 100,
        "with the last fork goes what it needed"
    );
    audit_at_rest(world.store());
    assert_eq!(stored_bytes(world.store()) as u64, tail - earliest);
}

#[tokio::test]
async fn a_fork_begins_where_its_source_does() {
    let mut world = World::over(&MemoryStore::new(), small());
    world.create(&by_bytes(0, 100)).await;
    for _ in 0..20 {
        world.append(&append(0, &[2; 50])).await;
    }
    world.work().await;
    let (earliest, tail) = bounds(&world, 0).await;
    for before in [0, earliest - 54, earliest - 1] {
        let refused = world.create(&fork_at(1, 0, before)).await;
        assert_eq!(refused, Outcome::NotCreated("ForkTrimmed"));
    }
    world.create(&fork_at(1, 0, earliest)).await;
    world.create(&fork_at(2, 1, earliest)).await;
    world.create(&fork(3, 0)).await;
    world.append(&append(3, b"own")).await;
    assert_eq!(bounds(&world, 1).await, (earliest, earliest));
    assert_eq!(bounds(&world, 2).await, (earliest, earliest));
    assert_eq!(bounds(&world, 3).await, (earliest, tail + 7));
    assert!(is_trimmed(&world, 3, 0).await);
    let read: Vec<_> = world.read_all(3).await.unwrap();
    assert_eq!(read.last().unwrap().end, tail + 7);
    audit_at_rest(world.store());
}

/// The source is trimmed while it is looked for where the fork begins.
#[tokio::test]
async fn a_fork_that_is_overtaken_by_trimming_is_told_so() {
    let store = MemoryStore::new();
    let config = LogConfig {
        hot_bytes_max: 0,
        ..small()
    };
    let world = Arc::new(World::over(&store, config));
    world.create(&by_bytes(0, 100)).await;
    for _ in 0..20 {
        world.append(&append(0, &[2; 50])).await;
    }
    let id = world.view(0).await.unwrap().meta.id;
    // It is loaded, so that the fork waits for nothing before it looks at its source.
    assert!(world.view(1).await.is_err());
    store.hold(Call::Sync);
    let trimming = tokio::spawn({
        let log = world.log().clone();
        async move { log.trim(id, &path_of(0)).await.map(drop).unwrap() }
    });
    until(|| store.waits(Call::Sync)).await;
    let forking = tokio::spawn({
        let world = world.clone();
        async move { world.create(&fork_at(1, 0, 0)).await }
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bounds(&world, 0).await.0, 0);
    assert!(!forking.is_finished());
    store.release(Call::Sync);
    trimming.await.unwrap();
    assert!(bounds(&world, 0).await.0 > 0);
    let refused = Outcome::NotCreated("ForkTrimmed");
    assert_eq!(forking.await.unwrap(), refused);
}

#[tokio::test]
async fn what_a_fork_inherited_goes_first_and_its_source_keeps_it() {
    let mut world = World::over(&MemoryStore::new(), small());
    world.create(&stream(0)).await;
    for _ in 0..5 {
        world.append(&append(0, &[1; 46])).await;
    }
    let retention = Some(Retention {
        bytes: Some(100),
        age_ms: None,
    });
    world
        .create(&Create {
            retention,
            ..fork(1, 0)
        })
        .await;
    let mut seen = Vec::new();
    for _ in 0..8 {
        world.append(&append(1, &[2; 46])).await;
        world.work().await;
        seen.push(bounds(&world, 1).await.0);
        audit(world.store());
    }
    assert_eq!(seen[..3], [0, 250, 300]);
    assert!(seen[7] > 450, "{seen:?}");
    assert_eq!(bounds(&world, 0).await, (0, 250));
    assert_eq!(world.read_all(0).await.unwrap().len(), 5);
    let of_the_fork: Vec<_> = world.read_all(1).await.unwrap();
    assert_eq!(of_the_fork[0].messages, [vec![2; 46]]);
}

#[tokio::test]
async fn inherited_data_ages_from_the_fork_on() {
    let mut world = World::over(&MemoryStore::new(), small());
    world.create(&stream(0)).await;
    world.append(&append(0, b"old")).await;
    live_through(&mut world, 2 * AGE_MS).await;
    let retention = by_age(1).retention;
    world
        .create(&Create {
            retention,
            ..fork(1, 0)
        })
        .await;
    live_through(&mut world, AGE_MS - 1000).await;
    assert_eq!(bounds(&world, 1).await, (0, 7));
    live_through(&mut world, AGE_MS / 4 + 2000).await;
    assert_eq!(bounds(&world, 1).await, (7, 7));
    assert_eq!(bounds(&world, 0).await, (0, 7));
    audit_at_rest(world.store());
}
