//! Much data: answers in several pieces, segments of many records, disk space that comes back.

use super::audit::audit_at_rest;
use super::model::Model;
use super::requests::{Request, append, close, fork, stream};
use super::store::MemoryStore;
use super::world::{BEGIN_MS, Disk, World};
use crate::config::{Durability, LogConfig};
use crate::log::kv::{Kv, Table};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::ControlFlow;

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    StdRng::seed_from_u64(bytes as u64).fill(&mut noise[..]);
    noise
}

/// Segments and records of several pieces, of a stream and of a fork, before and after packing.
#[tokio::test]
async fn answers_in_pieces_hold_what_was_appended() {
    let config = LogConfig {
        segment_bytes: 700_000,
        hot_bytes_max: 0,
        cache_bytes: 1 << 20,
        ..LogConfig::default()
    };
    let mut world = World::over(&MemoryStore::new(), config);
    let mut model = Model::at(BEGIN_MS);
    let mut requests = vec![Request::Create(stream(0))];
    let large = |path, number: usize| append(path, &noise(number * 7919 % 60_000 + 1));
    requests.extend((0..40).map(|number| Request::Append(large(0, number))));
    requests.push(Request::Create(fork(1, 0)));
    requests.extend((0..30).map(|number| Request::Append(large(1, number))));
    requests.push(Request::Append(close(1)));
    requests.extend((0..20).map(|number| Request::Append(large(0, number))));
    for request in &requests {
        assert_eq!(world.run(request).await, model.run(request));
    }
    world.compare(&model, 0..2).await;
    world.work().await;
    world.compare(&model, 0..2).await;
    world.restart();
    world.compare(&model, 0..2).await;
}

/// What is in the cache, or goes anyway, is not read again only to find where it ends.
#[tokio::test]
async fn packed_segments_are_read_once_for_many_answers_and_not_for_their_purge() {
    let store = MemoryStore::new();
    let config = LogConfig {
        segment_bytes: 1 << 20,
        ..LogConfig::default()
    };
    let mut world = World::over(&store, config);
    world.create(&stream(0)).await;
    for _ in 0..1 << 10 {
        world.append(&append(0, &noise(1 << 10))).await;
    }
    world.append(&append(0, b"more")).await;
    world.work().await;
    world.restart();
    world.read(0, 0).await.unwrap();
    let read = store.bytes_read();
    for at in [0, 1 << 18, 1 << 19] {
        world.read(0, at).await.unwrap();
    }
    world.delete(0).await;
    world.work().await;
    assert!(store.bytes_read() - read < 10_000);
    audit_at_rest(&*store);
}

/// More records than are removed one by one, among those of other streams.
#[tokio::test]
async fn segments_of_many_records_are_packed_and_purged() {
    const APPENDS: usize = 1500;
    for disk in [Disk::Memory(MemoryStore::new()), Disk::rocks()] {
        let mut world = World::open(disk, without_syncs());
        for path in 0..3 {
            world.create(&stream(path)).await;
        }
        for _ in 0..APPENDS {
            for path in 0..3 {
                world.append(&append(path, b"data")).await;
            }
        }
        for path in 0..3 {
            world.append(&close(path)).await;
        }
        world.delete(1).await;
        assert_eq!(keys(world.store(), Table::Records), 3 * APPENDS);
        world.work().await;
        audit_at_rest(world.store());
        assert_eq!(keys(world.store(), Table::Records), 0);
        assert_eq!(keys(world.store(), Table::Segments), 2);
        for path in [0, 2] {
            assert_eq!(world.read_all(path).await.unwrap().len(), APPENDS);
        }
    }
}

/// Large records lie as well as they would packed: they are not written again.
#[tokio::test]
async fn large_records_stay_until_their_stream_goes() {
    for disk in [Disk::Memory(MemoryStore::new()), Disk::rocks()] {
        let config = LogConfig {
            segment_bytes: 64 * 1024,
            ..without_syncs()
        };
        let mut world = World::open(disk, config);
        for path in 0..2 {
            world.create(&stream(path)).await;
            for _ in 0..20 {
                world.append(&append(path, &noise(8 * 1024))).await;
            }
        }
        world.append(&append(1, b"small")).await;
        world.append(&close(1)).await;
        world.work().await;
        audit_at_rest(world.store());
        assert_eq!(keys(world.store(), Table::Packed), 0);
        assert_eq!(keys(world.store(), Table::Segments), 5);
        world.restart();
        assert_eq!(world.read_all(0).await.unwrap().len(), 20);
        assert_eq!(world.read_all(1).await.unwrap().len(), 21);
        world.delete(1).await;
        world.work().await;
        audit_at_rest(world.store());
        assert_eq!(keys(world.store(), Table::Records), 20);
        assert_eq!(keys(world.store(), Table::Segments), 2);
    }
}

/// An unpacked stream of many records is purged.
#[tokio::test]
async fn many_records_and_producers_are_purged() {
    let mut world = World::over(&MemoryStore::new(), without_syncs());
    for path in 0..3 {
        world.create(&stream(path)).await;
        for _ in 0..700 {
            world.append(&append(path, b"data")).await;
        }
    }
    world.delete(1).await;
    world.work().await;
    audit_at_rest(world.store());
    assert_eq!(keys(world.store(), Table::Records), 1400);
}

#[tokio::test]
async fn deleted_data_gives_its_disk_space_back() {
    const APPENDS: usize = 100;
    const APPEND_BYTES: usize = 1 << 20;
    let mut world = World::open(Disk::rocks(), without_syncs());
    world.create(&stream(0)).await;
    world.create(&stream(1)).await;
    world.append(&append(1, b"stays")).await;
    let noise = noise(APPEND_BYTES);
    for _ in 0..APPENDS {
        world.append(&append(0, &noise)).await;
    }
    world.work().await;
    world.delete(0).await;
    world.work().await;
    assert_eq!(world.read_all(1).await.unwrap().len(), 1);
    let figures = world.rocks_figures();
    let data_bytes = figures.sst_bytes + figures.blob_bytes;
    assert!(
        data_bytes < (APPENDS * APPEND_BYTES / 10) as u64,
        "{figures:?}"
    );
}

fn without_syncs() -> LogConfig {
    LogConfig {
        durability: Durability::Os,
        ..LogConfig::default()
    }
}

fn keys(kv: &dyn Kv, table: Table) -> usize {
    let mut keys = 0;
    kv.scan(table, &[], &[0xff; 32], &mut |_, _| {
        keys += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}
