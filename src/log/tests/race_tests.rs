//! Two things at once, in the one order that is hard to hit by chance.

use super::audit::{audit, audit_at_rest};
use super::model::Outcome;
use super::reading::payloads;
use super::requests::{Create, append, close, fork, stream};
use super::store::{Call, MemoryStore};
use super::world::{World, path_of, small, until};
use crate::config::LogConfig;
use crate::frame;
use crate::log::state::{CreateRequest, ForkRequest};
use crate::log::{self, AnswerBody, CreateError, ReadError};
use crate::types::{Kind, Retention};
use std::sync::Arc;

/// A log that reads everything from the store, and a stream with data.
async fn cold() -> (World, Arc<MemoryStore>) {
    let store = MemoryStore::new();
    let config = LogConfig {
        hot_bytes_max: 0,
        ..small()
    };
    let world = World::over(&store, config);
    world.create(&stream(0)).await;
    world.append(&append(0, b"one")).await;
    world.append(&append(0, b"two")).await;
    (world, store)
}

/// A fork at the beginning of a stream, which must be read to find that an append begins there.
fn early_fork(path: usize, source: usize) -> Create {
    let mut create = fork(path, source);
    if let Some(fork) = &mut create.fork {
        fork.offset = Some(0);
    }
    create
}

#[tokio::test]
async fn of_two_equal_forks_at_once_one_is_made() {
    let (mut world, store) = cold().await;
    let create = early_fork(1, 0);
    let (one, other) = tokio::join!(world.create(&create), world.create(&create));
    let created = |new| Outcome::Created {
        new,
        tail: 0,
        closed: false,
    };
    assert!(
        (one == created(true) && other == created(false))
            || (one == created(false) && other == created(true)),
    );
    world.append(&append(0, b"three")).await;
    audit(&*store);
    world.delete(1).await;
    world.delete(0).await;
    world.work().await;
    audit_at_rest(&*store);
}

#[tokio::test]
async fn a_source_that_is_replaced_meanwhile_is_not_forked() {
    let (world, store) = cold().await;
    let world = Arc::new(world);
    store.hold(Call::Scan);
    let forking = tokio::spawn({
        let world = world.clone();
        async move { world.create(&early_fork(1, 0)).await }
    });
    until(|| store.waits(Call::Scan)).await;
    world.delete(0).await;
    world.create(&stream(0)).await;
    store.release(Call::Scan);
    let refused = Outcome::NotCreated("SourceNotFound");
    assert_eq!(forking.await.unwrap(), refused);
    audit(&*store);
}

#[tokio::test]
async fn a_source_that_is_deleted_meanwhile_is_not_forked() {
    let (world, store) = cold().await;
    world.create(&fork(2, 0)).await;
    let world = Arc::new(world);
    store.hold(Call::Scan);
    let forking = tokio::spawn({
        let world = world.clone();
        async move { world.create(&early_fork(1, 0)).await }
    });
    until(|| store.waits(Call::Scan)).await;
    world.delete(0).await;
    store.release(Call::Scan);
    assert_eq!(forking.await.unwrap(), Outcome::NotCreated("SourceGone"));
    audit(&*store);
}

/// The body of a fork is framed as the kind of its source asks, before the source is locked.
#[tokio::test]
async fn a_source_that_is_replaced_by_one_of_another_kind_is_not_forked() {
    let (world, store) = cold().await;
    let frames = Some(frame::encode([&b"not json"[..]].into_iter()));
    for (kind, is_made) in [(Kind::Json, false), (Kind::Binary, true)] {
        let source = path_of(0);
        let request = CreateRequest {
            content_type: None,
            lifetime: None,
            retention: None,
            retention_default: Retention::default(),
            closed: false,
            fork: Some(ForkRequest {
                source: &source,
                offset: None,
                sub_offset: 0,
                body: Some(kind),
            }),
        };
        let create = log::Create {
            request,
            frames: frames.clone(),
            note: None,
            unfinished: false,
        };
        let stream = world.stream(1).await;
        let outcome = world.log().create(&stream, create).await;
        let refused = matches!(outcome, Err(CreateError::SourceNotFound));
        assert_eq!((outcome.is_ok(), refused), (is_made, !is_made));
    }
    audit(&*store);
}

/// A client takes its answer slowly: meanwhile what it reads is sealed, packed and purged.
#[tokio::test]
async fn an_answer_under_way_goes_on_until_its_stream_is_purged() {
    const APPEND_BYTES: usize = 100_000;
    let config = LogConfig {
        segment_bytes: 100 * APPEND_BYTES as u64,
        hot_bytes_max: 0,
        cache_bytes: 0,
        ..LogConfig::default()
    };
    let mut world = World::over(&MemoryStore::new(), config);
    world.create(&stream(0)).await;
    for number in 0..14 {
        world.append(&append(0, &vec![number; APPEND_BYTES])).await;
    }
    let stream = world.stream(0).await;
    let answer = world.log().answer(&stream, 0).await.unwrap();
    let AnswerBody::Cold(parts) = answer.body else {
        panic!("it is too large to be read at once");
    };
    let (mut at, mut taken) = (0, Vec::new());
    for change in ["seal", "pack", "purge"] {
        let run = world.log().piece(&parts, at).await.unwrap();
        at = run.end();
        taken.extend(payloads(&run).map(|payload| payload[0]));
        match change {
            "seal" => drop(world.append(&close(0)).await),
            "pack" => world.work().await,
            _ => {
                world.delete(0).await;
                world.work().await;
            }
        }
    }
    assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let purged = world.log().piece(&parts, at).await;
    assert!(matches!(purged, Err(ReadError::Gone)));
}
