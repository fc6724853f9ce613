//! A store that fails: nothing is acknowledged or shown any more that may be lost, reads go on.

use super::audit::{audit, audit_at_rest};
use super::model::Outcome;
use super::requests::{Append, Create, append, close, fork, stream};
use super::store::{Call, MemoryStore};
use super::world::{World, small, until};
use crate::log::CommitError;
use crate::types::Lifetime;
use std::sync::Arc;

const FAILED: Outcome = Outcome::NotCommitted(CommitError::Failed);

/// A stream with one append of eight bytes.
async fn world() -> (World, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let world = World::over(&store, small());
    let lifetime = Some(Lifetime::Ttl { seconds: 60 });
    world
        .create(&Create {
            lifetime,
            ..stream(0)
        })
        .await;
    world.append(&append(0, b"kept")).await;
    (world, store)
}

/// Readers see the first append and nothing else, from memory and from the store.
async fn only_the_first_append_is_there(world: &World) {
    for _ in 0..2 {
        let read = world.read(0, 0).await.unwrap();
        assert_eq!((read.to, read.up_to_date, read.closed), (8, true, false));
        assert_eq!(world.view(0).await.unwrap().tail, 8);
        world.sweep();
    }
}

#[tokio::test]
async fn after_a_failed_write_only_reads_are_served() {
    let (world, store) = world().await;
    store.fail(Call::Write, 1);
    assert_eq!(world.append(&append(0, b"lost")).await, FAILED);
    assert_eq!(world.append(&append(0, b"late")).await, FAILED);
    assert_eq!(world.create(&stream(1)).await, FAILED);
    assert_eq!(world.delete(0).await, FAILED);
    assert!(world.log().failed() && world.log().check().is_err());
    only_the_first_append_is_there(&world).await;
}

#[tokio::test]
async fn after_a_failed_sync_only_reads_are_served() {
    let (world, store) = world().await;
    store.fail(Call::Sync, 1);
    assert_eq!(world.append(&append(0, b"lost")).await, FAILED);
    assert_eq!(world.append(&append(0, b"late")).await, FAILED);
    assert_eq!(world.create(&stream(1)).await, FAILED);
    assert!(world.log().failed() && world.log().check().is_err());
    only_the_first_append_is_there(&world).await;
}

#[tokio::test]
async fn appends_behind_a_failed_sync_fail_with_it() {
    let (world, store) = world().await;
    let world = Arc::new(world);
    store.hold(Call::Sync);
    let begin = |append: Append| {
        let world = world.clone();
        tokio::spawn(async move { world.append(&append).await })
    };
    let first = begin(append(0, b"lost"));
    until(|| store.waits(Call::Sync)).await;
    let second = begin(append(0, b"also lost"));
    until(|| store.unsynced().len() == 2).await;
    store.fail(Call::Sync, 1);
    store.release(Call::Sync);
    assert_eq!(first.await.unwrap(), FAILED);
    assert_eq!(second.await.unwrap(), FAILED);
    only_the_first_append_is_there(&world).await;
}

#[tokio::test]
async fn a_use_that_is_written_behind_a_failed_sync_shows_nothing() {
    let (world, store) = world().await;
    let world = Arc::new(world);
    store.hold(Call::Sync);
    let lost = tokio::spawn({
        let world = world.clone();
        async move { world.append(&append(0, b"lost")).await }
    });
    until(|| store.waits(Call::Sync)).await;
    world.log().touch(&world.stream(0).await);
    world.log().write_touches();
    until(|| store.unsynced().len() == 2).await;
    store.fail(Call::Sync, 1);
    store.release(Call::Sync);
    assert_eq!(lost.await.unwrap(), FAILED);
    world.log().stop().await;
    only_the_first_append_is_there(&world).await;
}

#[tokio::test]
async fn after_a_failure_nothing_is_packed() {
    let (mut world, store) = world().await;
    world.append(&append(0, b"more")).await;
    world.append(&close(0)).await;
    world.create(&stream(1)).await;
    store.fail(Call::Sync, 1);
    assert_eq!(world.append(&append(1, b"lost")).await, FAILED);
    let before = store.count(Call::Write);
    world.work().await;
    assert_eq!(store.count(Call::Write), before);
}

#[tokio::test]
async fn packing_that_cannot_write_ends_all_writing() {
    let (mut world, store) = world().await;
    world.append(&append(0, b"more")).await;
    world.append(&close(0)).await;
    world.create(&stream(1)).await;
    store.fail(Call::Write, 1);
    world.work().await;
    assert_eq!(world.append(&append(1, b"late")).await, FAILED);
    assert_eq!(world.read(0, 0).await.unwrap().to, 16);
}

#[tokio::test]
async fn work_that_is_tried_again_lets_go_of_a_source_once() {
    let (mut world, store) = world().await;
    for path in 1..4 {
        world.create(&fork(path, 0)).await;
    }
    world.delete(0).await;
    world.delete(1).await;
    // The fork was let go of when its purge fails.
    store.fail(Call::Scan, 1);
    world.work().await;
    audit(world.store());
    world.delete(2).await;
    world.work().await;
    assert_eq!(world.read(3, 0).await.unwrap().to, 8);
    audit_at_rest(world.store());
}

#[tokio::test]
async fn a_failed_log_opens_again_with_all_that_was_acknowledged() {
    let (mut world, store) = world().await;
    store.fail(Call::Write, 1);
    assert_eq!(world.append(&append(0, b"lost")).await, FAILED);
    world.restart();
    only_the_first_append_is_there(&world).await;
    world.append(&append(0, b"new")).await;
    assert_eq!(world.read(0, 0).await.unwrap().to, 15);
    assert_eq!(store.unsynced().len(), 0);
}
