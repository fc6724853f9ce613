//! Those who ask for the same while it is on its way.

use super::super::{Ask, CachedBody, GetError, Purge, Reader, Scope};
use super::world::*;
use crate::observe::metrics::UpstreamFailure;
use crate::protocol::names;
use bytes::Bytes;
use http::header;
use std::time::Duration;

fn reader(cached: super::super::Cached) -> Reader {
    match cached.body {
        CachedBody::Pieces(reader) => reader,
        CachedBody::Empty | CachedBody::Full(_) => panic!("no pieces"),
    }
}

#[tokio::test]
async fn many_who_ask_at_once_make_one_request() {
    let world = World::gated();
    world.will_answer(Answer::whole(FIXED, "body"));
    let asking: Vec<Asking> = (0..100).map(|_| world.spawn("r", 0)).collect();
    let_all_run().await;
    world.let_answer(100);
    let mut collapsed = 0;
    for asking in asking {
        let (body, status) = asking.await.unwrap().unwrap();
        assert_eq!(body, "body");
        collapsed += usize::from(status == "fwd=uri-miss; stored; collapsed");
    }
    assert_eq!(collapsed, 99);
    assert_eq!(world.read("r").await, ("body".into(), "hit".into()));
    assert_eq!(world.requests(), 1);
}

#[tokio::test]
async fn a_reader_joins_a_body_that_is_coming() {
    let world = World::new();
    let (answer, tap) = Answer::open(FIXED);
    world.will_answer(answer);
    let mut first = reader(world.get("r").await.unwrap());
    tap.send("one ");
    assert_eq!(first.next().await, Ok(Some(Bytes::from("one "))));
    let mut second = reader(world.get("r").await.unwrap());
    assert_eq!(second.next().await, Ok(Some(Bytes::from("one "))));
    tap.send("two");
    assert_eq!(second.next().await, Ok(Some(Bytes::from("two"))));
    tap.end();
    assert_eq!(second.next().await, Ok(None));
    // What came meanwhile may come as one.
    assert_eq!(first.next().await, Ok(Some(Bytes::from("two"))));
    assert_eq!(first.next().await, Ok(None));
    world.settle().await;
    assert_eq!(world.read("r").await, ("one two".into(), "hit".into()));
    assert_eq!(world.requests(), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_for_all_and_is_not_kept() {
    let world = World::new();
    let (answer, tap) = Answer::open(FIXED);
    world.will_answer(answer);
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(reader(world.get("r").await.unwrap()));
    }
    tap.send("half");
    drop(tap);
    for mut reader in readers {
        assert_eq!(reader.next().await, Ok(Some(Bytes::from("half"))));
        let broken = Err(GetError::Origin(UpstreamFailure::Broken));
        assert_eq!(reader.next().await, broken);
        assert_eq!(reader.next().await, broken);
    }
    world.will_answer(Answer::whole(FIXED, "half and half"));
    assert_eq!(world.read("r").await.0, "half and half");
}

#[tokio::test]
async fn a_body_of_another_length_than_promised_is_an_error() {
    for (length, failure) in [
        ("5", UpstreamFailure::Broken),
        ("3", UpstreamFailure::Protocol),
    ] {
        let world = World::new();
        let (answer, tap) = Answer::open(FIXED);
        world.will_answer(answer.with(header::CONTENT_LENGTH, length));
        tap.send("body");
        tap.end();
        let cached = world.get("r").await.unwrap();
        assert_eq!(text(cached).await, Err(GetError::Origin(failure)));
        world.settle().await;
        world.will_answer(Answer::whole(FIXED, "body"));
        assert_eq!(world.read("r").await.0, "body");
    }
}

#[tokio::test]
async fn what_is_for_one_goes_to_the_first_and_the_others_ask_all_at_once() {
    let world = World::gated();
    for number in 0..10 {
        world.will_answer(Answer::whole("no-store", number.to_string()));
    }
    let asking: Vec<Asking> = (0..10).map(|_| world.spawn("r", 0)).collect();
    world.requested(1).await;
    world.let_answer(1);
    // No one of them is answered yet.
    world.requested(10).await;
    world.let_answer(9);
    let mut bodies = Vec::new();
    for asking in asking {
        let (body, status) = asking.await.unwrap().unwrap();
        assert_eq!(status, "fwd=uri-miss");
        bodies.push(body);
    }
    bodies.sort();
    let all: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(bodies, all);
}

#[tokio::test]
async fn an_answer_at_an_open_tail_is_shared_but_not_kept() {
    let world = World::gated();
    let tail = |body| Answer::whole(FIXED, body).with(names::STREAM_UP_TO_DATE, "true");
    world.will_answer(tail("so far"));
    let asking = [world.spawn("r", 0), world.spawn("r", 0)];
    let_all_run().await;
    world.let_answer(2);
    for asking in asking {
        assert_eq!(asking.await.unwrap().unwrap().0, "so far");
    }
    assert_eq!(world.requests(), 1);
    world.will_answer(tail("more"));
    assert_eq!(world.read("r").await.0, "more");
}

#[tokio::test]
async fn nobody_joins_an_open_tail_that_was_seen_before() {
    let world = World::new();
    let (answer, tap) = Answer::open(FIXED);
    world.will_answer(answer.with(names::STREAM_UP_TO_DATE, "true"));
    let first = world.get("r").await.unwrap();
    world.will_answer(Answer::whole(FIXED, "later"));
    assert_eq!(world.read("r").await.0, "later");
    tap.send("earlier");
    tap.end();
    assert_eq!(text(first).await.unwrap(), "earlier");
}

#[tokio::test]
async fn a_request_after_a_write_does_not_join_one_from_before() {
    let world = World::gated();
    world.will_answer(Answer::whole(FIXED, "before"));
    world.will_answer(Answer::whole(FIXED, "after"));
    let before = world.spawn("r", 1);
    world.requested(1).await;
    let after = world.spawn("r", 2);
    let also_after = world.spawn("r", 2);
    world.requested(2).await;
    world.let_answer(2);
    assert_eq!(before.await.unwrap().unwrap().0, "before");
    assert_eq!(after.await.unwrap().unwrap().0, "after");
    assert_eq!(also_after.await.unwrap().unwrap().0, "after");
    world.settle().await;
    assert_eq!(world.read("r").await.0, "after");
}

#[tokio::test]
async fn what_is_worth_keeping_comes_also_when_all_leave() {
    let world = World::gated();
    world.will_answer(Answer::whole(FIXED, "body"));
    let asking = world.spawn("r", 0);
    let_all_run().await;
    asking.abort();
    world.let_answer(1);
    let_all_run().await;
    world.settle().await;
    assert_eq!(world.read("r").await, ("body".into(), "hit".into()));
}

#[tokio::test]
async fn what_is_not_kept_is_cancelled_when_all_leave() {
    let world = World::new();
    let (answer, tap) = Answer::open(FIXED);
    world.will_answer(answer.with(names::STREAM_UP_TO_DATE, "true"));
    drop(world.get("r").await.unwrap());
    tap.send("nobody wants it");
    tap.pieces.closed().await;
}

#[tokio::test]
async fn a_flight_that_is_purged_ends_for_its_readers_and_is_not_kept() {
    for purge in [
        Purge::Stream {
            origin: "origin".into(),
            path: "a".into(),
        },
        Purge::Path("a".into()),
        Purge::Tag("tag".into()),
    ] {
        let world = World::new();
        let (answer, tap) = Answer::open(FIXED);
        world.will_answer(answer.with(names::CACHE_TAG, "tag"));
        let old = world.get("r").await.unwrap();
        world.cache.purge(purge).await.unwrap();
        world.will_answer(Answer::whole(FIXED, "new"));
        assert_eq!(world.read("r").await.0, "new");
        tap.send("old");
        tap.end();
        assert_eq!(text(old).await.unwrap(), "old");
        world.settle().await;
        assert_eq!(world.read("r").await, ("new".into(), "hit".into()));
    }
}

/// One with room for answers of 64 KiB.
fn small_world() -> World {
    World::with(|config| {
        config.cache.entry_bytes_max = 64 << 10;
        config.cache.in_flight_bytes_max = 64 << 10;
        config.cache.memory_bytes = 0;
        config.cache.disk_bytes = 0;
    })
}

const PIECE: &[u8] = &[b'x'; 16 << 10];
const PIECES: usize = 100;

#[tokio::test]
async fn a_large_body_is_passed_on_as_fast_as_its_slowest_reader_takes_it() {
    for length in [None, Some(PIECES * PIECE.len())] {
        let world = small_world();
        let (answer, tap) = Answer::open(FIXED);
        let answer = match length {
            Some(length) => answer.with(header::CONTENT_LENGTH, &length.to_string()),
            None => answer,
        };
        world.will_answer(answer);
        let mut slow = reader(world.get("r").await.unwrap());
        for _ in 0..PIECES {
            tap.send(PIECE);
        }
        tap.end();
        let mut pieces = 0;
        while let Some(piece) = slow.next().await.unwrap() {
            assert_eq!(piece, PIECE);
            pieces += 1;
        }
        assert_eq!(pieces, PIECES);
        world.settle().await;
        world.will_answer(Answer::whole(FIXED, "again"));
        assert_eq!(world.read("r").await.0, "again");
    }
}

#[tokio::test]
async fn those_who_had_joined_get_all_of_a_body_that_turns_out_large() {
    let world = small_world();
    let (answer, tap) = Answer::open(FIXED);
    world.will_answer(answer);
    let mut readers = Vec::new();
    for _ in 0..3 {
        let cached = world.get("r").await.unwrap();
        readers.push(tokio::spawn(text(cached)));
    }
    for _ in 0..PIECES {
        tap.send(PIECE);
    }
    tap.end();
    for reader in readers {
        let body = reader.await.unwrap().unwrap();
        assert_eq!(body.len(), PIECES * PIECE.len());
    }
    assert_eq!(world.requests(), 1);
}

#[tokio::test]
async fn the_origin_of_a_large_body_waits_for_its_reader() {
    let world = small_world();
    let (answer, tap) = Answer::open(FIXED);
    world.will_answer(answer);
    let mut slow = reader(world.get("r").await.unwrap());
    for _ in 0..PIECES {
        tap.send(PIECE);
    }
    let_all_run().await;
    let waiting = tap.waiting();
    assert!(waiting > PIECES / 2, "{waiting} pieces are left");
    for _ in 0..10 {
        assert!(slow.next().await.unwrap().is_some());
        let_all_run().await;
    }
    assert_eq!(tap.waiting(), waiting - 10);
}

#[tokio::test]
async fn a_body_without_room_is_passed_on() {
    let world = small_world();
    let (answer, tap) = Answer::open(FIXED);
    let length = (64 << 10).to_string();
    world.will_answer(answer.with(header::CONTENT_LENGTH, &length));
    let first = world.get("holds all room").await.unwrap();
    world.will_answer(Answer::whole(FIXED, PIECE));
    assert_eq!(world.read("r").await.1, "fwd=uri-miss");
    for _ in 0..4 {
        tap.send(PIECE);
    }
    tap.end();
    assert_eq!(text(first).await.unwrap().len(), 64 << 10);
    world.settle().await;
    assert_eq!(world.cache.room.available_permits(), world.cache.room_bytes);
}

#[tokio::test]
async fn one_fetch_too_many_is_refused_after_a_wait() {
    let mut world = World::with(|config| {
        config.cache.fetches_max = 1;
        config.limits.queue_wait = Duration::from_millis(1);
    });
    world.origin = World::gated().origin;
    let first = world.spawn("one", 0);
    let_all_run().await;
    let refused = world.get("two").await;
    assert_eq!(refused.err(), Some(GetError::Busy));
    world.will_answer(Answer::whole(FIXED, "body"));
    world.let_answer(1);
    assert_eq!(first.await.unwrap().unwrap().0, "body");
}

#[tokio::test]
async fn only_one_hears_it_from_an_origin_that_cannot_answer() {
    let world = World::gated();
    world.will_answer(Answer::empty(503));
    let asking = [world.spawn("r", 0), world.spawn("r", 0)];
    let_all_run().await;
    world.let_answer(2);
    let [first, second] = asking;
    assert!(first.await.unwrap().is_ok());
    assert_eq!(second.await.unwrap(), Err(GetError::Unavailable));
}

#[tokio::test]
async fn callers_get_only_what_is_theirs() {
    let world = World::new();
    let scopes = [
        Scope::Anonymous,
        Scope::Shared,
        Scope::Caller([1; 32]),
        Scope::Caller([2; 32]),
    ];
    for (number, scope) in scopes.iter().enumerate() {
        world.will_answer(Answer::whole("private, max-age=60", number.to_string()));
        let ask = Ask {
            key: super::super::RangeKey { scope, ..key("r") },
            ..ask(key("r"))
        };
        let cached = world.cache.get(&ask, world.origin.clone()).await.unwrap();
        assert_eq!(text(cached).await.unwrap(), number.to_string());
        world.settle().await;
        let kept = world.cache.hit(&ask);
        assert_eq!(kept.is_some(), *scope != Scope::Anonymous, "{scope:?}");
    }
}
