//! Rows that lie behind their records: what is written with an append, and what a load finds.

use super::audit::audit;
use super::requests::{Append, Create, Stamp, append, close, stream};
use super::store::MemoryStore;
use super::world::{World, path_of};
use crate::clock::Clock;
use crate::config::LogConfig;
use crate::log::keys;
use crate::log::kv::{Kv, Table};
use crate::log::state::{StreamState, Unavailable};
use crate::types::Lifetime;
use proptest::prelude::*;
use std::sync::Arc;

async fn world() -> (World, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let world = World::over(&store, LogConfig::default());
    world.create(&stream(0)).await;
    (world, store)
}

/// A stream's row as it is stored.
fn row(kv: &dyn Kv, path: usize) -> StreamState {
    let value = kv.get(Table::Streams, path_of(path).key().as_bytes());
    keys::read_state(&value.unwrap().unwrap()).unwrap()
}

/// The state that the next append meets.
async fn state(world: &World, path: usize) -> StreamState {
    let stream = world.stream(path).await;
    let sequenced = stream.sequenced.lock();
    sequenced.state.clone().unwrap()
}

#[tokio::test]
async fn an_append_writes_its_record_alone_and_a_load_finds_it() {
    let (world, store) = world().await;
    for _ in 0..3 {
        world.append(&append(0, b"data")).await;
    }
    let before = state(&world, 0).await;
    assert_eq!((before.tail, before.open_appends), (24, 3));
    assert_eq!(row(&*store, 0).tail, 0);
    world.evict().await;
    let loaded = state(&world, 0).await;
    assert_eq!(loaded.row.tail, 0);
    assert_eq!((loaded.tail, loaded.open_appends), (24, 3));
    let image = store.crash(&mut rand::rng());
    audit(&*image);
    let after = World::over(&image, LogConfig::default());
    assert_eq!(after.view(0).await.unwrap().tail, 24);
    after.append(&append(0, b"more")).await;
    assert_eq!(after.read(0, 0).await.unwrap().to, 32);
    audit(&*image);
}

#[tokio::test]
async fn what_no_record_says_is_in_the_row() {
    let stamp = |seq| {
        Some(Stamp {
            producer: 0,
            epoch: 0,
            seq,
        })
    };
    let by = |seq| Append {
        producer: stamp(seq),
        ..append(0, b"data")
    };
    let sequenced = Append {
        stream_seq: Some("a".into()),
        ..append(0, b"data")
    };
    let (world, store) = world().await;
    // Each append, and whether the row says it.
    for (append, written) in [
        (append(0, b"data"), false),
        // A producer that is new.
        (by(0), true),
        (by(1), false),
        (sequenced, true),
        (append(0, b"data"), false),
        (close(0), true),
    ] {
        world.append(&append).await;
        let state = state(&world, 0).await;
        assert_eq!(row(&*store, 0).tail == state.tail, written, "{append:?}");
        audit(&*store);
    }
    let closed = row(&*store, 0);
    assert!(closed.closed);
    assert_eq!((closed.producers, closed.tail), (1, 40));
}

/// However many small appends there are, a load reads little.
#[tokio::test]
async fn a_row_is_never_far_behind() {
    let (world, store) = world().await;
    let mut written = 0;
    let mut last = 0;
    for _ in 0..1000 {
        world.append(&append(0, &[b'x'; 96])).await;
        let row = row(&*store, 0).tail;
        written += u32::from(row != last);
        last = row;
        assert!(state(&world, 0).await.tail - row < 16 * 1024);
    }
    // 100 bytes each: one in 164.
    assert_eq!(written, 6);
}

/// A stream that lives for so long after its last use.
fn mortal(seconds: u64) -> Create {
    let lifetime = Some(Lifetime::Ttl { seconds });
    Create {
        lifetime,
        ..stream(1)
    }
}

#[tokio::test]
async fn no_crash_makes_a_lifetime_shorter() {
    let (first, store) = world().await;
    let ttl_ms = 60_000;
    first.create(&mortal(60)).await;
    for _ in 0..2 {
        first.clock.advance_ms(999);
        first.append(&append(1, b"data")).await;
    }
    let used_ms = first.clock.now_ms();
    let image = store.crash(&mut rand::rng());
    let second = World::over(&image, LogConfig::default());
    let alive = async |at_ms: u64| {
        let now_ms = second.clock.now_ms();
        second.clock.advance_ms(at_ms - now_ms);
        second.view(1).await.map(|view| view.tail)
    };
    assert_eq!(alive(used_ms).await, Ok(16));
    assert_eq!(alive(used_ms + ttl_ms - 1).await, Ok(16));
    let late_ms = 1000;
    let gone = alive(used_ms + ttl_ms + late_ms).await;
    assert_eq!(gone, Err(Unavailable::NotFound));
}

#[tokio::test]
async fn short_lifetimes_are_exact() {
    let (first, store) = world().await;
    first.create(&mortal(59)).await;
    first.clock.advance_ms(1);
    first.append(&append(1, b"data")).await;
    assert_eq!(row(&*store, 1).last_used_ms, first.clock.now_ms());
}

#[tokio::test]
async fn a_record_that_does_not_join_is_no_tail() {
    let (world, store) = world().await;
    world.append(&append(0, b"data")).await;
    world.evict().await;
    let id = row(&*store, 0).meta.id;
    let key = keys::position_key(id, 9).to_vec();
    let torn = keys::write_producer(crate::log::state::ProducerState {
        epoch: 0,
        last_seq: 0,
    });
    let write = crate::log::kv::Write::Put(Table::Records, key.into(), torn);
    store.write(&[write]).unwrap();
    assert!(world.log().stream(&path_of(0)).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was appended, in whatever batches, a load finds what was in memory.
    #[test]
    fn a_load_finds_what_was_there(sizes in prop::collection::vec(0usize..6000, 1..40), segment_bytes in 1u64..40_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = MemoryStore::new();
            let config = LogConfig { segment_bytes, ..LogConfig::default() };
            let world = World::over(&store, config.clone());
            world.create(&stream(0)).await;
            for size in sizes {
                world.append(&append(0, &vec![b'x'; size])).await;
            }
            let before = state(&world, 0).await;
            let image = store.crash(&mut rand::rng());
            audit(&*image);
            let mut loaded = state(&World::over(&image, config), 0).await;
            loaded.last_used_ms = before.last_used_ms;
            assert_eq!(loaded, before);
        });
    }
}
