//! A store that fails: nothing is acknowledged or shown any more that may be lost, reads go on.

use super::audit::{audit, audit_at_rest};
use super::model::Outcome;
use super::requests::{Append, Create, append, close, fork, stream};
use super::store::{Call, MemoryStore};
use super::world::{World, small, until};
use crate::log::kv::{Kv, Table, Write};
use crate::log::{CommitError, keys};
use crate::types::Lifetime;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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
    until(|| world.log().figures().queued_operations == 2).await;
    store.fail(Call::Sync, 1);
    store.release(Call::Sync);
    assert_eq!(first.await.unwrap(), FAILED);
    assert_eq!(second.await.unwrap(), FAILED);
    only_the_first_append_is_there(&world).await;
}

#[tokio::test]
async fn a_use_behind_a_failed_sync_shows_nothing() {
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

/// Packing that waits for a store that is behind.
async fn packing_waits(world: &mut World, store: &MemoryStore) -> CancellationToken {
    world.append(&append(0, b"more")).await;
    world.append(&close(0)).await;
    store.set_behind(true);
    let work = world.start_work();
    until(|| store.count(Call::IsBehind) > 2).await;
    work
}

#[tokio::test]
async fn packing_waits_for_a_store_that_is_behind_and_appends_do_not() {
    let (mut world, store) = world().await;
    world.create(&stream(1)).await;
    let work = packing_waits(&mut world, &store).await;
    let before = store.count(Call::Write);
    world.append(&append(1, b"now")).await;
    assert_eq!(store.count(Call::Write), before + 1);
    store.set_behind(false);
    until(|| store.count(Call::Write) > before + 1).await;
    work.cancel();
}

#[tokio::test]
async fn packing_that_waits_does_not_hold_up_a_stop() {
    let (mut world, store) = world().await;
    let _work = packing_waits(&mut world, &store).await;
    let before = store.count(Call::Write);
    world.log().stop().await;
    until(|| store.count(Call::Write) > before).await;
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

/// The records of a sealed segment are damaged: it alone stays as it is.
#[tokio::test]
async fn work_that_cannot_be_done_holds_up_no_other() {
    let (mut world, store) = world().await;
    for path in 1..4 {
        world.create(&stream(path)).await;
        world.append(&append(path, b"one")).await;
        world.append(&append(path, b"two")).await;
    }
    let id = world.view(1).await.unwrap().meta.id;
    let damaged = keys::position_key(id, 7);
    let remove = Write::Delete(Table::Records, Bytes::copy_from_slice(&damaged));
    store.write(&[remove]).unwrap();
    for path in 1..3 {
        world.append(&close(path)).await;
    }
    world.delete(3).await;
    for left in [1, 1] {
        world.work().await;
        assert_eq!(entries(&store, Table::Pending), left);
        assert_eq!(entries(&store, Table::Packed), 1);
        world.restart();
    }
    assert!(!world.log().failed());
    // Deleting it is always possible, and leaves nothing to do at the next start.
    world.delete(1).await;
    world.work().await;
    world.restart();
    world.work().await;
    audit_at_rest(&*store);
}

#[tokio::test]
async fn forks_that_are_purged_together_are_let_go_of_with_few_syncs() {
    const FORKS: usize = 100;
    let (mut world, store) = world().await;
    for path in 1..=FORKS {
        world.create(&fork(path, 0)).await;
        world.delete(path).await;
    }
    let before = store.count(Call::Sync);
    // A sync of memory takes no time, so nothing would gather behind it.
    store.hold(Call::Sync);
    let (log, held) = (world.log().clone(), store.clone());
    let releasing = tokio::spawn(async move {
        until(|| log.figures().queued_operations >= FORKS as u64).await;
        held.release(Call::Sync);
    });
    world.work().await;
    releasing.await.unwrap();
    let syncs = store.count(Call::Sync) - before;
    assert!(syncs < FORKS as u64 / 4, "{syncs}");
    audit_at_rest(&*store);
}

fn entries(store: &MemoryStore, table: Table) -> usize {
    let mut entries = 0;
    store
        .scan(table, &[], &[0xff; 32], &mut |_, _| {
            entries += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    entries
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
