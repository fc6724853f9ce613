//! Opening a log after a crash.

use super::audit::audit;
use super::requests::stream;
use super::store::MemoryStore;
use super::world::{World, options, small};
use crate::clock::ManualClock;
use crate::log::keys::{FORMAT, FORMAT_KEY, IDS_KEY};
use crate::log::kv::{Kv, Table, Write};
use crate::log::{Log, OpenError};
use crate::observe::metrics::Metrics;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

#[tokio::test]
async fn no_crash_hands_out_an_id_twice() {
    let mut store = MemoryStore::new();
    let mut ids = BTreeSet::new();
    for life in 0..30 {
        let world = World::over(&store, small());
        for path in 0..3 {
            // Deleted streams leave no trace of their ids.
            world.delete(path).await;
            world.create(&stream(path)).await;
            let id = world.view(path).await.unwrap().meta.id;
            assert!(ids.insert(id), "{id} again in life {life}");
        }
        store = store.crash(&mut rand::rng());
        audit(&*store);
    }
}

/// Every id is covered by a reservation that is durable before the id is used, also if as many
/// operations as the queue takes wait to be written.
#[tokio::test]
async fn ids_are_reserved_ahead() {
    const BLOCKS: u64 = 3;
    const IN_FLIGHT_MAX: usize = 65_536;
    let store = MemoryStore::new();
    let world = World::over(&store, small());
    let mut reserved = reserved_below(&store);
    let mut in_flight = VecDeque::new();
    for _ in 0..BLOCKS << 20 {
        let (id, reservation) = world.log().ids.next();
        assert!(id < reserved, "{id} is not reserved");
        in_flight.push_back(reservation);
        if in_flight.len() > IN_FLIGHT_MAX
            && let Some(Some(reservation)) = in_flight.pop_front()
        {
            store.write(&[reservation]).unwrap();
            reserved = reserved_below(&store);
        }
    }
}

fn reserved_below(store: &MemoryStore) -> u64 {
    let value = store.get(Table::Meta, IDS_KEY).unwrap().unwrap();
    u64::from_be_bytes(value.try_into().unwrap())
}

fn open(store: &Arc<MemoryStore>) -> Result<Arc<Log>, OpenError> {
    let (clock, metrics) = (Arc::new(ManualClock::default()), Arc::new(Metrics::new()));
    Log::open(store.clone(), clock, metrics, &options(&small())).map(|(log, _)| log)
}

#[tokio::test]
async fn a_crash_while_opening_does_no_harm() {
    for nth in 1..=8 {
        let store = MemoryStore::new();
        store.die_at(nth);
        assert!(open(&store).is_err(), "opening makes more than {nth} calls");
        let mut image = store.crash(&mut rand::rng());
        let world = World::over(&image, small());
        world.create(&stream(0)).await;
        let id = world.view(0).await.unwrap().meta.id;
        for nth in 1..=2 {
            image = image.crash(&mut rand::rng());
            image.die_at(nth);
            assert!(open(&image).is_err());
        }
        image = image.crash(&mut rand::rng());
        let world = World::over(&image, small());
        assert_eq!(world.view(0).await.unwrap().meta.id, id);
    }
}

/// A store that says it is of a format.
fn of_format(format: u32) -> Arc<MemoryStore> {
    let store = MemoryStore::new();
    let value = Bytes::copy_from_slice(&format.to_be_bytes());
    let key = Bytes::from_static(FORMAT_KEY);
    store.write(&[Write::Put(Table::Meta, key, value)]).unwrap();
    store
}

#[tokio::test]
async fn another_format_is_refused() {
    for format in [0, FORMAT + 1] {
        let found = open(&of_format(format)).err();
        assert!(matches!(found, Some(OpenError::Format { found }) if found == format));
    }
}

/// An earlier server would take rows for tails: it must not open what this one wrote.
#[tokio::test]
async fn the_first_format_becomes_this_one() {
    let store = of_format(1);
    open(&store).unwrap().stop().await;
    let format = store.get(Table::Meta, FORMAT_KEY).unwrap();
    assert_eq!(format.as_deref(), Some(&FORMAT.to_be_bytes()[..]));
}
