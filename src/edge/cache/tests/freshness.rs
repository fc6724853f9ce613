//! What becomes of an answer with time.

use super::super::{Ask, CacheStatus, GetError};
use super::world::*;
use crate::observe::metrics::UpstreamFailure;
use crate::protocol::names;
use http::{HeaderMap, StatusCode, header};

fn tagged(body: &'static str) -> Answer {
    Answer::whole(FIXED, body)
        .with(header::ETAG, "\"tag\"")
        .with(header::CONTENT_TYPE, "text/plain")
}

#[tokio::test]
async fn a_hit_tells_its_age() {
    let world = World::new();
    world.will_answer(tagged("body").with(header::AGE, "5"));
    let cached = world.get("r").await.unwrap();
    assert_eq!(cached.age_seconds, Some(5));
    assert_eq!(cached.headers.get(header::AGE), None);
    assert_eq!(text(cached).await.unwrap(), "body");
    world.settle().await;
    world.clock.advance_ms(7000);
    let cached = world.cache.hit(&ask(key("r"))).unwrap();
    assert_eq!(cached.age_seconds, Some(12));
    assert_eq!(cached.cache_status, CacheStatus::Hit);
}

#[tokio::test]
async fn what_is_unchanged_is_fresh_again() {
    let world = World::new();
    world.will_answer(tagged("body"));
    world.read("r").await;
    world.settle().await;
    world.clock.advance_ms(60_000);
    assert!(world.cache.hit(&ask(key("r"))).is_none());
    let unchanged = Answer::empty(304)
        .with(header::CACHE_CONTROL, FIXED)
        .with(names::STREAM_CLOSED, "true");
    world.will_answer(unchanged);
    let cached = world.get("r").await.unwrap();
    assert_eq!(status(&cached), "fwd=stale; fwd-status=304");
    assert_eq!(cached.headers[header::CONTENT_TYPE], "text/plain");
    assert_eq!(cached.headers[names::STREAM_CLOSED], "true");
    assert_eq!(text(cached).await.unwrap(), "body");
    assert_eq!(*world.origin.asked.lock(), [None, Some("\"tag\"".into())]);
    world.clock.advance_ms(59_999);
    assert_eq!(world.read("r").await, ("body".into(), "hit".into()));
}

#[tokio::test]
async fn what_may_not_be_kept_any_longer_is_not() {
    let world = World::new();
    world.will_answer(tagged("body"));
    world.read("r").await;
    world.settle().await;
    world.clock.advance_ms(60_000);
    let unchanged = Answer::empty(304).with(header::CACHE_CONTROL, "no-store");
    world.will_answer(unchanged);
    assert_eq!(world.read("r").await.0, "body");
    world.will_answer(tagged("other"));
    assert_eq!(world.read("r").await.0, "other");
    assert_eq!(world.origin.asked.lock()[2], None);
}

#[tokio::test]
async fn a_new_answer_takes_the_place_of_a_stale_one() {
    let world = World::new();
    world.will_answer(tagged("old"));
    world.read("r").await;
    world.settle().await;
    world.clock.advance_ms(60_000);
    world.will_answer(tagged("new"));
    let stored = "fwd=stale; stored";
    assert_eq!(world.read("r").await, ("new".into(), stored.into()));
    world.settle().await;
    assert_eq!(world.read("r").await, ("new".into(), "hit".into()));
    world.clock.advance_ms(60_000);
    world.will_answer(Answer::empty(404));
    assert_eq!(world.get("r").await.unwrap().status, StatusCode::NOT_FOUND);
    world.settle().await;
    world.will_fail(UpstreamFailure::Connect);
    assert!(world.get("r").await.is_err());
}

#[tokio::test]
async fn what_is_doubted_is_asked_about_before_it_is_given() {
    let mut world = World::new();
    let stream = key("r").stream;
    let is_certain: fn(&HeaderMap) -> bool = |headers| headers.contains_key(header::ETAG);
    world.will_answer(tagged("body"));
    world.read("r").await;
    world.will_answer(Answer::whole(FIXED, "untagged"));
    world.read("other").await;
    world.settle().await;

    world.cache.doubt(stream, is_certain).await.unwrap();
    world.will_fail(UpstreamFailure::Connect);
    assert!(world.get("r").await.is_err());
    world.will_answer(Answer::empty(304).with(header::CACHE_CONTROL, FIXED));
    let unchanged = ("body".to_owned(), "fwd=stale; fwd-status=304".to_owned());
    assert_eq!(world.read("r").await, unchanged);
    assert!(world.origin.asked.lock().last().unwrap().is_some());
    world.settle().await;
    assert_eq!(world.read("r").await, ("body".into(), "hit".into()));
    world.will_answer(Answer::whole(FIXED, "new"));
    let stored = "fwd=uri-miss; stored";
    assert_eq!(world.read("other").await, ("new".into(), stored.into()));
    world.settle().await;

    world.cache.doubt(stream, is_certain).await.unwrap();
    world.restart().await;
    world.will_answer(tagged("new"));
    assert_eq!(world.read("r").await, ("new".into(), stored.into()));
}

#[tokio::test]
async fn a_stale_answer_is_given_while_the_origin_is_away() {
    let world = World::new();
    world.will_answer(tagged("body"));
    world.read("r").await;
    world.settle().await;
    world.clock.advance_ms(70_000);
    world.will_fail(UpstreamFailure::Connect);
    let stale = ("body".to_owned(), "hit; ttl=-10".to_owned());
    assert_eq!(world.read("r").await, stale);
    // For a moment the origin is not asked again.
    assert_eq!(world.read("r").await, stale);
    assert_eq!(world.requests(), 2);
    world.clock.advance_ms(2000);
    world.will_answer(Answer::empty(502));
    let stale = ("body".to_owned(), "hit; ttl=-12".to_owned());
    assert_eq!(world.read("r").await, stale);
}

#[tokio::test]
async fn a_stale_answer_is_not_given_against_its_terms() {
    let world = World::new();
    world.will_answer(Answer::whole("max-age=60, must-revalidate", "body"));
    world.read("r").await;
    world.settle().await;
    world.clock.advance_ms(60_000);
    world.will_fail(UpstreamFailure::Connect);
    let failed = world.get("r").await.err();
    assert_eq!(failed, Some(GetError::Origin(UpstreamFailure::Connect)));
    world.will_answer(Answer::empty(503));
    let passed = world.get("r").await.unwrap();
    assert_eq!(passed.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so() {
    let world = World::new();
    world.will_answer(tagged("body"));
    let ask = Ask {
        if_none_match: Some("\"other\", \"tag\""),
        ..ask(key("r"))
    };
    let missed = world.cache.get(&ask, world.origin.clone()).await.unwrap();
    world.settle().await;
    let hit = world.cache.hit(&ask).unwrap();
    world.will_answer(Answer::whole("no-store", "body").with(header::ETAG, "\"tag\""));
    let other = Ask {
        key: key("not kept"),
        ..ask
    };
    let passed = world.cache.get(&other, world.origin.clone()).await.unwrap();
    for cached in [missed, hit, passed] {
        assert_eq!(cached.status, StatusCode::NOT_MODIFIED);
        assert_eq!(cached.headers[header::ETAG], "\"tag\"");
        assert_eq!(cached.headers.get(header::CONTENT_TYPE), None);
        assert_eq!(text(cached).await.unwrap(), "");
    }
    let ask = Ask {
        if_none_match: Some("\"other\""),
        ..ask
    };
    assert_eq!(world.cache.hit(&ask).unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_failure_without_anything_kept_is_one() {
    let world = World::new();
    for failure in [UpstreamFailure::Timeout, UpstreamFailure::NoUpstream] {
        world.will_fail(failure);
        let failed = world.get("r").await.err();
        assert_eq!(failed, Some(GetError::Origin(failure)));
        world.settle().await;
    }
}
