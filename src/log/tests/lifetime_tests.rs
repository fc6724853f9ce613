//! Streams that end by themselves: exactly on time for clients, some time later on disk.

use super::audit::{audit, audit_at_rest};
use super::model::Outcome;
use super::requests::{Append, Create, Stamp, append, fork, stream};
use super::store::{Call, MemoryStore};
use super::world::{World, path_of, small, until};
use crate::log::keys::TimerKind;
use crate::log::kv::{Kv, Table, Write};
use crate::log::state::Unavailable;
use crate::types::Lifetime;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

const TTL_MS: u64 = 10_000;

/// A stream that lives ten seconds after its last use.
fn mortal(path: usize) -> Create {
    let lifetime = Some(Lifetime::Ttl { seconds: 10 });
    Create {
        lifetime,
        ..stream(path)
    }
}

async fn world() -> (World, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let world = World::over(&store, small());
    world.create(&mortal(0)).await;
    world.append(&append(0, b"data")).await;
    (world, store)
}

async fn state_of(world: &World, path: usize) -> Result<(), Unavailable> {
    world.view(path).await.map(drop)
}

async fn touch(world: &World, path: usize) {
    world.log().touch(&world.stream(path).await);
}

/// Keys in all tables but the counters.
fn keys(store: &MemoryStore) -> usize {
    let mut keys = 0;
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
        let count = &mut |_: &[u8], _: &[u8]| {
            keys += 1;
            ControlFlow::Continue(())
        };
        store.scan(table, &[], &[0xff; 32], count).unwrap();
    }
    keys
}

#[tokio::test]
async fn an_expired_stream_stays_gone_while_its_successor_is_written() {
    let (world, store) = world().await;
    let world = Arc::new(world);
    world.clock.advance_ms(TTL_MS);
    assert_eq!(state_of(&world, 0).await, Err(Unavailable::NotFound));
    store.hold(Call::Sync);
    let successor = tokio::spawn({
        let world = world.clone();
        async move { world.create(&mortal(0)).await }
    });
    until(|| store.waits(Call::Sync)).await;
    assert_eq!(state_of(&world, 0).await, Err(Unavailable::NotFound));
    store.release(Call::Sync);
    successor.await.unwrap();
    assert_eq!(world.view(0).await.map(|view| view.tail), Ok(0));
    world.clock.advance_ms(TTL_MS - 1);
    assert_eq!(state_of(&world, 0).await, Ok(()));
}

#[tokio::test]
async fn a_use_counts_before_it_is_written_down() {
    let (world, _) = world().await;
    world.clock.advance_ms(TTL_MS - 1);
    touch(&world, 0).await;
    // Until it is written down, the stream is not let go of.
    world.sweep();
    world.clock.advance_ms(TTL_MS - 1);
    world.expire().await;
    assert_eq!(state_of(&world, 0).await, Ok(()));
    world.clock.advance_ms(1);
    assert_eq!(state_of(&world, 0).await, Err(Unavailable::NotFound));
}

#[tokio::test]
async fn a_use_that_was_not_written_down_is_lost_in_a_crash() {
    let (first, store) = world().await;
    first.clock.advance_ms(TTL_MS - 1);
    touch(&first, 0).await;
    let image = store.crash(&mut rand::rng());
    let second = World::over(&image, small());
    second.clock.advance_ms(TTL_MS - 1);
    assert_eq!(state_of(&second, 0).await, Ok(()));
    second.clock.advance_ms(1);
    assert_eq!(state_of(&second, 0).await, Err(Unavailable::NotFound));
}

#[tokio::test]
async fn a_use_that_was_written_down_survives_a_crash() {
    let (first, store) = world().await;
    first.clock.advance_ms(TTL_MS - 1);
    touch(&first, 0).await;
    first.log().write_touches();
    first.settle().await;
    let image = store.crash(&mut rand::rng());
    let second = World::over(&image, small());
    second.clock.advance_ms(TTL_MS + 1);
    assert_eq!(state_of(&second, 0).await, Ok(()));
}

#[tokio::test]
async fn a_use_costs_no_sync() {
    let (world, store) = world().await;
    let (writes, syncs) = (store.count(Call::Write), store.count(Call::Sync));
    touch(&world, 0).await;
    world.log().write_touches();
    until(|| store.count(Call::Write) > writes).await;
    world.log().stop().await;
    let of_the_stop = 1;
    assert_eq!(store.count(Call::Sync), syncs + of_the_stop);
}

#[tokio::test]
async fn an_expired_stream_leaves_nothing_behind() {
    let (mut world, store) = world().await;
    for _ in 0..10 {
        world.append(&append(0, &[1; 30])).await;
    }
    touch(&world, 0).await;
    for _ in 0..4 {
        world.clock.advance_ms(TTL_MS / 2);
        world.expire().await;
        audit(&*store);
    }
    assert_eq!(state_of(&world, 0).await, Err(Unavailable::NotFound));
    world.work().await;
    audit_at_rest(&*store);
    assert_eq!(keys(&store), 0);
}

#[tokio::test]
async fn an_expired_source_lives_on_for_its_forks_alone() {
    let (mut world, store) = world().await;
    let lifetime = Some(Lifetime::Until { at_ms: u64::MAX });
    world
        .create(&Create {
            lifetime,
            ..fork(1, 0)
        })
        .await;
    world.clock.advance_ms(TTL_MS);
    for _ in 0..2 {
        assert_eq!(state_of(&world, 0).await, Err(Unavailable::Gone));
        let held = Outcome::NotCreated("PathHeld");
        assert_eq!(world.create(&mortal(0)).await, held);
        let gone = Outcome::NotCreated("SourceGone");
        assert_eq!(world.create(&fork(2, 0)).await, gone);
        assert_eq!(world.read(1, 0).await.unwrap().to, 8);
        world.expire().await;
        world.work().await;
    }
    world.delete(1).await;
    world.work().await;
    assert_eq!(state_of(&world, 0).await, Err(Unavailable::NotFound));
    audit_at_rest(&*store);
}

#[tokio::test]
async fn a_source_that_expires_unnoticed_goes_with_its_last_fork() {
    let (mut world, store) = world().await;
    let lifetime = Some(Lifetime::Ttl { seconds: 99 });
    world
        .create(&Create {
            lifetime,
            ..fork(1, 0)
        })
        .await;
    world.clock.advance_ms(TTL_MS);
    world.delete(1).await;
    world.work().await;
    assert_eq!(state_of(&world, 0).await, Err(Unavailable::NotFound));
    audit_at_rest(&*store);
    world.clock.advance_ms(99_000);
    world.expire().await;
    assert_eq!(keys(&store), 0);
}

/// What is stored of a stream.
fn row(store: &MemoryStore, path: usize) -> Option<Vec<u8>> {
    let key = path_of(path);
    store.get(Table::Streams, key.key().as_bytes()).unwrap()
}

fn put(store: &MemoryStore, table: Table, key: &[u8], value: &[u8]) {
    let key = Bytes::copy_from_slice(key);
    let value = Bytes::copy_from_slice(value);
    store.write(&[Write::Put(table, key, value)]).unwrap();
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_is_looked_at_later_and_holds_up_no_other() {
    const HOUR_MS: u64 = 3_600_000;
    let (mut world, store) = world().await;
    world.create(&mortal(1)).await;
    world.evict().await;
    let (first, whole) = (path_of(0), row(&store, 0).unwrap());
    let put_first = |value: &[u8]| put(&store, Table::Streams, first.key().as_bytes(), value);
    put_first(b"damaged");
    world.clock.advance_ms(TTL_MS);
    assert_eq!(world.log().expire_due().await.unwrap(), 2);
    assert_eq!(row(&store, 1), None);
    for after_ms in [0, HOUR_MS - 1] {
        world.clock.advance_ms(after_ms);
        assert_eq!(world.log().expire_due().await.unwrap(), 0);
    }
    assert_eq!(world.log().metrics.work_errors.get(), 1);
    put_first(&whole);
    world.clock.advance_ms(1);
    assert_eq!(world.log().expire_due().await.unwrap(), 1);
    world.work().await;
    assert_eq!(keys(&store), 0);
}

#[tokio::test]
async fn a_timer_that_cannot_be_read_holds_up_no_other() {
    let (world, store) = world().await;
    let of_no_stream = TimerKind::Expiry.key(0, 0);
    for key in [&of_no_stream[..], b"\0"] {
        put(&store, Table::Timers, key, b"no path");
    }
    world.clock.advance_ms(TTL_MS);
    for due in [1, 0] {
        assert_eq!(world.log().expire_due().await.unwrap(), due);
    }
    assert_eq!(row(&store, 0), None);
    assert_eq!(world.log().metrics.work_errors.get(), 4);
}

/// More than are looked at in one go.
#[tokio::test]
async fn many_streams_that_expire_at_once_are_looked_at_once_each() {
    const STREAMS: usize = 2500;
    let store = MemoryStore::new();
    let world = World::over(&store, small());
    for path in 0..STREAMS {
        world.create(&mortal(path)).await;
    }
    store.slow_syncs(Duration::from_millis(5));
    world.clock.advance_ms(TTL_MS);
    let mut looked_at = 0;
    loop {
        let due = world.log().expire_due().await.unwrap();
        looked_at += due;
        if due == 0 {
            break;
        }
    }
    assert_eq!(looked_at, STREAMS);
}

#[tokio::test]
async fn a_successor_knows_none_of_the_producers_before_it() {
    let (world, _) = world().await;
    let producer = Some(Stamp {
        producer: 0,
        epoch: 3,
        seq: 0,
    });
    let first = Append {
        producer,
        ..append(0, b"data")
    };
    for tail in [16, 8, 8] {
        let outcome = world.append(&first).await;
        let new =
            matches!(outcome, Outcome::Appended { duplicate: false, tail: t, .. } if t == tail);
        assert!(new, "{outcome:?}");
        if tail == 8 {
            world.delete(0).await;
        } else {
            world.clock.advance_ms(TTL_MS);
        }
        world.create(&mortal(0)).await;
    }
}

#[tokio::test]
async fn a_path_whose_stream_has_expired_is_free() {
    let (mut world, store) = world().await;
    world.clock.advance_ms(TTL_MS);
    assert_eq!(
        world.create(&stream(0)).await,
        Outcome::Created {
            new: true,
            tail: 0,
            closed: false
        }
    );
    world.append(&append(0, b"new")).await;
    world.expire().await;
    world.work().await;
    assert_eq!(world.read(0, 0).await.unwrap().to, 7);
    audit_at_rest(&*store);
}
