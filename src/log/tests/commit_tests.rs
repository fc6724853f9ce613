//! The committer: what is written when, who is told when, and what a full queue does.

use super::audit::{audit, audit_at_rest};
use super::model::Outcome;
use super::requests::{Append, Create, Fork, Stamp, append, close, fork, stream};
use super::store::{Call, MemoryStore};
use super::world::{World, small, until};
use crate::config::{Durability, LogConfig};
use crate::hub::Follower;
use crate::log::CommitError;
use crate::log::committer::HANDOVERS_MAX;
use crate::log::keys::read_position_key;
use crate::log::kv::{Kv, Table};
use crate::log::state::AppendRefusal;
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, yield_now};

fn begin(world: &Arc<World>, append: Append) -> JoinHandle<Outcome> {
    let world = world.clone();
    tokio::spawn(async move { world.append(&append).await })
}

/// Lets what was begun get as far as it can without another thread.
async fn go_on() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// A stream, and syncs that are held up from now on.
async fn held(config: LogConfig) -> (Arc<World>, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let world = Arc::new(World::over(&store, config));
    world.create(&stream(0)).await;
    store.hold(Call::Sync);
    (world, store)
}

fn appended(tail: u64) -> Outcome {
    Outcome::Appended {
        duplicate: false,
        tail,
        closed: false,
        producer_seq: None,
    }
}

#[tokio::test]
async fn nothing_is_visible_or_acknowledged_before_it_is_synced() {
    let (world, store) = held(small()).await;
    let stream = world.stream(0).await;
    let id = stream.tail().view().unwrap().meta.id;
    let reader = tokio::spawn({
        let stream = stream.clone();
        async move { stream.tail().wait(id, 0).await }
    });
    let writer = begin(&world, append(0, b"data"));
    until(|| store.waits(Call::Sync)).await;
    go_on().await;
    assert!(!writer.is_finished() && !reader.is_finished());
    assert_eq!(world.read(0, 0).await.unwrap().to, 0);
    store.release(Call::Sync);
    assert_eq!(writer.await.unwrap(), appended(8));
    assert!(reader.await.unwrap());
    assert_eq!(stream.tail().view().unwrap().tail, 8);
    assert_eq!(world.read(0, 0).await.unwrap().to, 8);
}

#[tokio::test]
async fn a_written_append_is_enough_where_durability_says_so() {
    let durability = Durability::Os;
    let (world, store) = held(LogConfig {
        durability,
        ..small()
    })
    .await;
    assert_eq!(world.append(&append(0, b"data")).await, appended(8));
    store.release(Call::Sync);
}

#[tokio::test]
async fn waiting_appends_share_a_sync_and_keep_their_order() {
    const APPENDS: usize = 40;
    let (world, store) = held(LogConfig::default()).await;
    let syncs = store.count(Call::Sync);
    store.hold(Call::Write);
    let writers: Vec<_> = (0..APPENDS)
        .map(|_| begin(&world, append(0, b"data")))
        .collect();
    until(|| world.log().figures().queued_operations == APPENDS as u64).await;
    store.release(Call::Write);
    until(|| store.waits(Call::Sync)).await;
    assert!(writers.iter().all(|writer| !writer.is_finished()));
    store.release(Call::Sync);
    for (index, writer) in writers.into_iter().enumerate() {
        assert_eq!(writer.await.unwrap(), appended(8 * (index as u64 + 1)));
    }
    // One for what was under way when the others came, and one for all of those.
    assert!(store.count(Call::Sync) - syncs <= 2);
}

#[tokio::test]
async fn a_batch_is_acknowledged_first_and_handed_to_some_who_follow() {
    const OTHERS: usize = 6;
    let paths = 1..=HANDOVERS_MAX + OTHERS;
    let store = MemoryStore::new();
    let world = Arc::new(World::over(&store, LogConfig::default()));
    world.create(&stream(0)).await;
    // Whether each was handed its append or told to look, and how many operations waited then.
    let handed: Arc<Mutex<Vec<(bool, u64)>>> = Arc::default();
    for path in paths.clone() {
        world.create(&stream(path)).await;
        let stream = world.stream(path).await;
        let id = stream.tail().view().unwrap().meta.id;
        let (handed, world) = (handed.clone(), Arc::downgrade(&world));
        let follower = Follower::new(move |run| {
            let waiting = world.upgrade().unwrap().log().figures().queued_operations;
            handed.lock().push((run.is_some(), waiting));
        });
        assert!(stream.tail().follow(id, 0, &follower));
    }
    store.hold(Call::Sync);
    let before = begin(&world, append(0, b"data"));
    until(|| store.waits(Call::Sync)).await;
    let writers: Vec<_> = paths
        .map(|path| begin(&world, append(path, b"data")))
        .collect();
    let waiting = writers.len() as u64 + 1;
    until(|| world.log().figures().queued_operations == waiting).await;
    assert!(handed.lock().is_empty());
    store.release(Call::Sync);
    for writer in writers.into_iter().chain([before]) {
        assert_eq!(writer.await.unwrap(), appended(8));
    }
    until(|| handed.lock().len() == HANDOVERS_MAX + OTHERS).await;
    let expected = [vec![(true, 0); HANDOVERS_MAX], vec![(false, 0); OTHERS]].concat();
    assert_eq!(*handed.lock(), expected);
}

#[tokio::test]
async fn large_batches_are_cut_and_stay_in_order() {
    const APPEND_BYTES: usize = 6 << 20;
    let (world, store) = held(LogConfig::default()).await;
    store.release(Call::Sync);
    store.hold(Call::Write);
    let message = |number| vec![number; APPEND_BYTES];
    let writers: Vec<_> = (0..7)
        .map(|number| begin(&world, append(0, &message(number))))
        .collect();
    until(|| world.log().figures().queued_operations == 7).await;
    let writes = store.count(Call::Write);
    store.release(Call::Write);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(store.count(Call::Write) >= writes + 2, "nothing was cut");
    let all = world.read_all(0).await.unwrap();
    let numbers = all.iter().map(|stored| stored.messages[0][0]);
    assert!(numbers.eq(0..7));
}

/// Makes one append to stream 0 and, while it is written, the others, so that they are one batch.
async fn commit_together(config: LogConfig, messages: &[Vec<u8>]) -> (World, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let world = Arc::new(World::over(&store, config));
    world.create(&stream(0)).await;
    store.hold(Call::Write);
    let mut writers = Vec::new();
    for message in messages {
        writers.push(begin(&world, append(0, message)));
        until(|| store.waits(Call::Write)).await;
    }
    until(|| world.log().figures().queued_operations == messages.len() as u64).await;
    store.release(Call::Write);
    for writer in writers {
        assert!(matches!(writer.await.unwrap(), Outcome::Appended { .. }));
    }
    audit(&*store);
    world.evict().await;
    (Arc::into_inner(world).unwrap(), store)
}

/// Messages that are told apart by their first byte.
fn numbered(messages: u8) -> Vec<Vec<u8>> {
    (0..messages).map(|number| vec![number; 4]).collect()
}

/// Where the records begin of appends that were committed together.
fn records(store: &MemoryStore) -> Vec<u64> {
    let mut starts = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        starts.push(read_position_key(key).unwrap().1);
        ControlFlow::Continue(())
    };
    store
        .scan(Table::Records, &[], &[0xff; 16], &mut visit)
        .unwrap();
    starts
}

async fn numbers(world: &World, path: usize) -> Vec<u8> {
    let all = world.read_all(path).await.unwrap();
    all.iter().map(|stored| stored.messages[0][0]).collect()
}

#[tokio::test]
async fn appends_of_one_batch_are_one_record_and_each_is_found() {
    const APPENDS: u8 = 40;
    let (mut world, store) = commit_together(LogConfig::default(), &numbered(APPENDS)).await;
    assert_eq!(records(&store), [0, 8]);
    for number in 0..APPENDS {
        let start = 8 * u64::from(number);
        for at in [start, start + 1, start + 7] {
            world.evict().await;
            let read = world.read(0, at).await.unwrap();
            assert_eq!((read.from, read.appends[0].messages[0][0]), (start, number));
        }
    }
    let inside_a_record = Fork {
        source: 0,
        offset: Some(8 * 13),
        sub_offset: 2,
    };
    let fork = Create {
        fork: Some(inside_a_record),
        ..fork(1, 0)
    };
    world.create(&fork).await;
    world.append(&close(0)).await;
    world.work().await;
    assert_eq!(records(&store).len(), 1, "only that of the fork is left");
    audit(&*store);
    world.evict().await;
    assert!(numbers(&world, 0).await.into_iter().eq(0..APPENDS));
    assert!(numbers(&world, 1).await.into_iter().eq(0..=13));
}

#[tokio::test]
async fn a_record_lies_in_one_segment() {
    const APPENDS: u8 = 100;
    let (mut world, store) = commit_together(small(), &numbered(APPENDS)).await;
    // One of the first, and one in each segment of 19.
    assert_eq!(records(&store), [0, 8, 152, 304, 456, 608, 760]);
    world.work().await;
    audit_at_rest(&*store);
    world.evict().await;
    assert!(numbers(&world, 0).await.into_iter().eq(0..APPENDS));
}

#[tokio::test]
async fn a_large_record_takes_no_more_appends() {
    let messages = [4, 10_000, 5_000, 5_000, 20_000, 4].map(|bytes| vec![7; bytes]);
    let (_, store) = commit_together(LogConfig::default(), &messages).await;
    let starts = [0, 8, 8 + 15_008, 8 + 20_012, 8 + 40_016];
    assert_eq!(records(&store), starts);
}

#[tokio::test]
async fn a_duplicate_waits_for_what_it_repeats() {
    let (world, store) = held(small()).await;
    let producer = Some(Stamp {
        producer: 1,
        epoch: 0,
        seq: 0,
    });
    let request = Append {
        producer,
        ..append(0, b"data")
    };
    let first = begin(&world, request.clone());
    until(|| store.waits(Call::Sync)).await;
    let second = begin(&world, request);
    go_on().await;
    assert!(!first.is_finished() && !second.is_finished());
    store.release(Call::Sync);
    let outcome = |duplicate| Outcome::Appended {
        duplicate,
        tail: 8,
        closed: false,
        producer_seq: Some(0),
    };
    assert_eq!(first.await.unwrap(), outcome(false));
    assert_eq!(second.await.unwrap(), outcome(true));
}

#[tokio::test]
async fn a_refusal_waits_for_what_it_rests_on() {
    let (world, store) = held(small()).await;
    let closing = begin(&world, close(0));
    until(|| store.waits(Call::Sync)).await;
    let refused = begin(&world, append(0, b"data"));
    go_on().await;
    assert!(!refused.is_finished());
    store.release(Call::Sync);
    closing.await.unwrap();
    let refusal = AppendRefusal::Closed {
        tail: 0,
        end: None,
        received_seq: None,
    };
    assert_eq!(refused.await.unwrap(), Outcome::NotAppended(refusal));
}

#[tokio::test]
async fn a_refusal_that_rests_on_a_failed_sync_is_not_given() {
    let (world, store) = held(small()).await;
    let closing = begin(&world, close(0));
    until(|| store.waits(Call::Sync)).await;
    let refused = begin(&world, append(0, b"data"));
    go_on().await;
    store.fail(Call::Sync, 1);
    store.release(Call::Sync);
    let failed = Outcome::NotCommitted(CommitError::Failed);
    assert_eq!(closing.await.unwrap(), failed);
    assert_eq!(refused.await.unwrap(), failed);
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    let store = MemoryStore::new();
    let config = LogConfig {
        queue_ops_max: 2,
        ..small()
    };
    let world = Arc::new(World::impatient(&store, config));
    world.create(&stream(0)).await;
    store.hold(Call::Sync);
    let writers = [
        begin(&world, append(0, b"1")),
        begin(&world, append(0, b"2")),
    ];
    until(|| world.log().figures().queued_operations == 2).await;
    let overloaded = Outcome::NotCommitted(CommitError::Overloaded);
    assert_eq!(world.append(&append(0, b"3")).await, overloaded);
    assert_eq!(world.delete(0).await, overloaded);
    store.release(Call::Sync);
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(world.append(&append(0, b"4")).await, appended(15));
    let figures = world.log().figures();
    assert_eq!((figures.queued_operations, figures.queued_bytes), (0, 0));
}

#[tokio::test]
async fn an_append_that_waits_for_room_takes_none() {
    let (world, store) = held(LogConfig {
        queue_ops_max: 1,
        queue_bytes_max: 4096,
        ..small()
    })
    .await;
    let first = begin(&world, append(0, b"small"));
    until(|| store.waits(Call::Sync)).await;
    // More than half of the queue.
    let second = begin(&world, append(0, &[0; 2500]));
    go_on().await;
    store.release(Call::Sync);
    assert_eq!(first.await.unwrap(), appended(9));
    assert_eq!(second.await.unwrap(), appended(9 + 2504));
}

#[tokio::test]
async fn an_append_larger_than_the_queue_goes_alone() {
    let (world, store) = held(LogConfig {
        queue_bytes_max: 1024,
        ..small()
    })
    .await;
    store.release(Call::Sync);
    assert_eq!(world.append(&append(0, &[0; 5000])).await, appended(5004));
}

#[tokio::test]
async fn a_stop_commits_what_is_queued() {
    let (mut world, store) = held(small()).await;
    store.release(Call::Sync);
    world.create(&stream(1)).await;
    store.hold(Call::Write);
    let writers: Vec<_> = (0..5).map(|_| begin(&world, append(0, b"data"))).collect();
    until(|| world.log().figures().queued_operations == 5).await;
    let stopping = tokio::spawn({
        let log = world.log().clone();
        async move { log.stop().await }
    });
    // What comes before the stop has begun is queued, too.
    let stopped = Outcome::NotCommitted(CommitError::Stopped);
    loop {
        let late = begin(&world, append(1, b"late"));
        tokio::time::sleep(Duration::from_millis(1)).await;
        if late.is_finished() {
            assert_eq!(late.await.unwrap(), stopped);
            break;
        }
    }
    assert!(!stopping.is_finished());
    store.release(Call::Write);
    for (index, writer) in writers.into_iter().enumerate() {
        assert_eq!(writer.await.unwrap(), appended(8 * (index as u64 + 1)));
    }
    stopping.await.unwrap();
    Arc::get_mut(&mut world).unwrap().restart();
    assert_eq!(world.read(0, 0).await.unwrap().to, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_readers_is_woken_too() {
    let store = MemoryStore::new();
    let world = Arc::new(World::over(&store, small()));
    world.create(&stream(0)).await;
    let read = world.stream(0).await;
    let id = world.view(0).await.unwrap().meta.id;
    let readers: Vec<_> = (0..200)
        .map(|_| {
            read.tail().enter();
            let read = read.clone();
            tokio::spawn(async move { read.tail().wait(id, 0).await })
        })
        .collect();
    assert!(read.tail().is_crowded());
    assert_eq!(world.append(&append(0, b"data")).await, appended(8));
    for reader in readers {
        assert!(reader.await.unwrap());
    }
    assert_eq!(read.tail().view().unwrap().tail, 8);
}
