//! What recordings need of the log: how a stream ended, a note kept with it, and which streams a
//! crash left open.

use super::audit::{audit, audit_at_rest};
use super::requests::{Create, close, fork, stream};
use super::store::MemoryStore;
use super::world::{Disk, World, small};
use crate::frame;
use crate::log::state::{AppendRefusal, AppendRequest, CreateRequest, Unavailable};
use crate::log::{self, AppendError, Appended, CreateError, Created, NOTE_BYTES_MAX};
use crate::types::{Lifetime, Outcome, Retention, StreamEnd, StreamId};
use bytes::Bytes;

const NOTE: Bytes = Bytes::from_static(b"what was asked");

async fn record(world: &World, path: usize, note: Option<Bytes>) -> Result<Created, CreateError> {
    let create = log::Create {
        request: CreateRequest {
            content_type: Some("text/event-stream"),
            lifetime: Some(Lifetime::Ttl { seconds: 60 }),
            retention: None,
            retention_default: Retention::default(),
            closed: false,
            fork: None,
        },
        frames: None,
        note,
        unfinished: true,
    };
    world.log().create(&world.stream(path).await, create).await
}

/// Appends to one stream, and closes it if there is an end.
async fn write(
    world: &World,
    path: usize,
    id: StreamId,
    end: Option<&StreamEnd>,
) -> Result<Appended, AppendError> {
    let frames = frame::encode([&b"data"[..]].into_iter());
    let request = AppendRequest {
        id: Some(id),
        content_type: Some("text/event-stream"),
        frame_bytes: frames.len() as u64,
        stream_seq: None,
        close: end.is_some(),
        end,
        producer: None,
        producers_max: 0,
    };
    let stream = world.stream(path).await;
    world.log().append(&stream, &request, Some(frames)).await
}

fn failed() -> StreamEnd {
    StreamEnd::new(Outcome::Failed, Some("upstream went away"))
}

/// The paths of the streams that the last crash left open.
fn left(world: &World) -> Vec<(StreamId, usize)> {
    let left = world.log().take_unfinished();
    let paths = left
        .iter()
        .map(|(id, path)| (*id, path.path().parse().unwrap()));
    paths.collect()
}

#[tokio::test]
async fn an_end_is_told_now_and_after_a_restart() {
    for disk in [Disk::Memory(MemoryStore::new()), Disk::rocks()] {
        let mut world = World::open(disk, small());
        let id = record(&world, 0, None).await.unwrap().meta.id;
        assert_eq!(write(&world, 0, id, None).await.unwrap().end, None);
        assert_eq!(world.view(0).await.unwrap().end, None);
        let appended = write(&world, 0, id, Some(&failed())).await.unwrap();
        assert_eq!(appended.end.as_deref(), Some(&failed()));
        for _ in 0..2 {
            let view = world.view(0).await.unwrap();
            assert_eq!((view.closed, view.end.as_deref()), (true, Some(&failed())));
            match write(&world, 0, id, None).await {
                Err(AppendError::Refused(AppendRefusal::Closed { end, .. })) => {
                    assert_eq!(end.as_deref(), Some(&failed()));
                }
                outcome => panic!("{outcome:?}"),
            }
            world.restart();
        }
    }
}

#[tokio::test]
async fn a_note_stays_with_its_stream_alone() {
    for disk in [Disk::Memory(MemoryStore::new()), Disk::rocks()] {
        let mut world = World::open(disk, small());
        let created = record(&world, 0, Some(NOTE)).await.unwrap();
        assert_eq!(created.meta.note, Some(NOTE));
        write(&world, 0, created.meta.id, None).await.unwrap();
        world.create(&fork(1, 0)).await;
        world.create(&stream(2)).await;
        for _ in 0..2 {
            for (path, note) in [(0, Some(NOTE)), (1, None), (2, None)] {
                assert_eq!(world.view(path).await.unwrap().meta.note, note, "{path}");
            }
            world.evict().await;
            world.restart();
        }
        for path in [1, 0] {
            world.delete(path).await;
            world.work().await;
        }
        audit_at_rest(world.store());
        assert!(record(&world, 0, None).await.unwrap().meta.note.is_none());
    }
}

#[tokio::test]
async fn the_longest_note_is_kept_and_a_longer_one_refused() {
    let mut world = World::over(&MemoryStore::new(), small());
    let longest = Bytes::from(vec![7; NOTE_BYTES_MAX]);
    record(&world, 0, Some(longest.clone())).await.unwrap();
    world.restart();
    assert_eq!(world.view(0).await.unwrap().meta.note, Some(longest));
    let longer = Bytes::from(vec![7; NOTE_BYTES_MAX + 1]);
    let refused = record(&world, 1, Some(longer)).await;
    assert!(matches!(refused, Err(CreateError::NoteTooLong)));
}

#[tokio::test]
async fn what_is_there_keeps_its_note_and_stays_as_it_is() {
    let world = World::over(&MemoryStore::new(), small());
    let first = record(&world, 0, Some(NOTE)).await.unwrap();
    let again = record(&world, 0, None).await.unwrap();
    assert_eq!((again.new, again.meta.id), (false, first.meta.id));
    assert_eq!(again.meta.note, Some(NOTE));
    world.create(&stream(1)).await;
    let other = record(&world, 1, Some(NOTE)).await;
    assert!(matches!(other, Err(CreateError::Conflict)));
    audit(world.store());
}

#[tokio::test]
async fn a_crash_names_the_recordings_that_it_broke() {
    let mut world = World::over(&MemoryStore::new(), small());
    let mut ids = Vec::new();
    for path in 0..5 {
        ids.push(record(&world, path, None).await.unwrap().meta.id);
    }
    assert_eq!(left(&world), [], "they are under way");
    write(&world, 1, ids[1], Some(&failed())).await.unwrap();
    world.delete(2).await;
    world.create(&fork(9, 3)).await;
    world.delete(3).await;
    world.crash(7).await;
    assert_eq!(left(&world), [(ids[0], 0), (ids[4], 4)]);
    assert_eq!(left(&world), [], "they are told once");
    write(&world, 0, ids[0], Some(&failed())).await.unwrap();
    audit(world.store());
    world.crash(8).await;
    assert_eq!(left(&world), [(ids[4], 4)], "until it is closed");
    assert_eq!(world.view(0).await.unwrap().end.as_deref(), Some(&failed()));
}

#[tokio::test]
async fn a_recording_whose_time_was_over_is_no_longer_there_to_close() {
    let mut world = World::over(&MemoryStore::new(), small());
    let id = record(&world, 0, None).await.unwrap().meta.id;
    world.clock.advance_ms(60_000);
    world.crash(7).await;
    assert_eq!(left(&world), [(id, 0)]);
    let closed = write(&world, 0, id, Some(&failed())).await;
    let gone = AppendError::Unavailable(Unavailable::NotFound);
    assert_eq!(closed.unwrap_err().to_string(), gone.to_string());
    world.expire().await;
    world.work().await;
    audit_at_rest(world.store());
    world.restart();
    assert_eq!(left(&world), []);
}

#[tokio::test]
async fn an_expired_recording_makes_room_and_leaves_no_mark() {
    let mut world = World::over(&MemoryStore::new(), small());
    record(&world, 0, None).await.unwrap();
    world.clock.advance_ms(60_000);
    world.create(&stream(0)).await;
    audit(world.store());
    world.restart();
    assert_eq!(left(&world), []);
}

/// The stream of a recording was deleted, and somebody made another at its path.
#[tokio::test]
async fn what_is_meant_for_one_stream_never_reaches_another_at_its_path() {
    let world = World::over(&MemoryStore::new(), small());
    let id = record(&world, 0, None).await.unwrap().meta.id;
    world.delete(0).await;
    world
        .create(&Create {
            content_type: Some("text/event-stream"),
            ..stream(0)
        })
        .await;
    let refused = write(&world, 0, id, None).await;
    assert!(matches!(
        refused,
        Err(AppendError::Unavailable(Unavailable::NotFound))
    ));
    assert_eq!(world.view(0).await.unwrap().tail, 0);
}

#[tokio::test]
async fn a_client_that_closes_a_recording_says_no_end() {
    let mut world = World::over(&MemoryStore::new(), small());
    record(&world, 0, None).await.unwrap();
    world.append(&close(0)).await;
    let view = world.view(0).await.unwrap();
    assert_eq!((view.closed, view.end), (true, None));
    world.restart();
    assert_eq!(left(&world), []);
}

#[tokio::test]
async fn each_database_has_a_secret_and_a_name_of_its_own() {
    let mut identities = Vec::new();
    for disk in [
        Disk::Memory(MemoryStore::new()),
        Disk::Memory(MemoryStore::new()),
        Disk::rocks(),
    ] {
        let mut world = World::open(disk, small());
        let identity = |world: &World| (world.log().secret(), world.log().database_id().to_owned());
        let first = identity(&world);
        world.crash(7).await;
        assert_eq!(identity(&world), first);
        assert_eq!(first.1.len(), 8);
        assert!(!identities.contains(&first));
        identities.push(first);
    }
}
