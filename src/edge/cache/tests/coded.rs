//! Answers in compressed form.

use super::super::{Ask, Cached, CachedBody, Wish};
use super::world::*;
use crate::types::Coding;
use bytes::Bytes;
use http::{StatusCode, header};

const TAG: &str = "\"a:1:0:9\"";

fn body() -> String {
    "all work and no play ".repeat(1000)
}

fn json(body: impl Into<Bytes>) -> Answer {
    Answer::whole(FIXED, body)
        .with(header::CONTENT_TYPE, "application/json")
        .with(header::ETAG, TAG)
}

fn wishing(coding: Coding) -> Ask<'static> {
    Ask {
        wish: Some(Wish {
            coding,
            bytes_min: 1024,
        }),
        ..ask(key("r"))
    }
}

fn coding(cached: &Cached) -> Option<&str> {
    let coding = cached.headers.get(header::CONTENT_ENCODING)?;
    coding.to_str().ok()
}

fn bytes(cached: &Cached) -> &Bytes {
    match &cached.body {
        CachedBody::Full(bytes) => bytes,
        CachedBody::Empty | CachedBody::Pieces(_) => panic!("not whole"),
    }
}

/// The answer from memory, once nothing is being compressed any longer.
async fn hit(world: &World, ask: &Ask<'_>) -> Cached {
    drop(world.cache.hit(ask).unwrap());
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut turns = Vec::new();
    for _ in 0..(all / 2).max(1) {
        turns.push(world.cache.coding_turns.wait().await.unwrap());
    }
    drop(turns);
    world.cache.hit(ask).unwrap()
}

async fn put(world: &World, answer: Answer) {
    world.will_answer(answer);
    world.read("r").await;
    world.settle().await;
}

#[tokio::test]
async fn an_answer_is_compressed_once_for_each_coding() {
    let world = World::new();
    put(&world, json(body())).await;
    for of in Coding::ALL {
        let first = world.cache.hit(&wishing(of)).unwrap();
        assert_eq!(first.headers[header::VARY], "accept-encoding");
        for _ in 0..3 {
            let cached = hit(&world, &wishing(of)).await;
            assert_eq!(coding(&cached), Some(of.as_str()));
            assert_eq!(cached.headers[header::VARY], "accept-encoding");
            let tag = format!("\"a:1:0:9:{}\"", of.as_str());
            assert_eq!(cached.headers[header::ETAG], *tag);
            assert!(bytes(&cached).len() < body().len() / 10);
        }
    }
    assert_eq!(world.metrics.cache.compressed.get(), 3);
    let zstd = hit(&world, &wishing(Coding::Zstd)).await;
    assert_eq!(
        zstd::decode_all(&bytes(&zstd)[..]).unwrap(),
        body().as_bytes()
    );
    let plain = world.cache.hit(&ask(key("r"))).unwrap();
    assert_eq!(
        (coding(&plain), bytes(&plain)),
        (None, &Bytes::from(body()))
    );
    let forms: usize = Coding::ALL
        .map(|of| bytes(&world.cache.hit(&wishing(of)).unwrap()).len())
        .iter()
        .sum();
    let memory = world.cache.index.memory.bytes();
    assert!(memory >= body().len() + forms, "{memory}");
}

#[tokio::test]
async fn a_client_that_has_any_form_is_told_so() {
    let world = World::new();
    put(&world, json(body())).await;
    for tag in [TAG, "\"a:1:0:9:br\"", "\"a:1:0:9:zstd\""] {
        for ask in [ask(key("r")), wishing(Coding::Gzip)] {
            let ask = Ask {
                if_none_match: Some(tag),
                ..ask
            };
            let cached = world.cache.hit(&ask).unwrap();
            assert_eq!(cached.status, StatusCode::NOT_MODIFIED);
            assert_eq!(cached.headers[header::ETAG], tag);
            assert_eq!(cached.headers[header::VARY], "accept-encoding");
        }
    }
}

#[tokio::test]
async fn what_would_not_gain_is_given_as_it_is() {
    let noise: Vec<u8> = (0..2000).map(|_| rand::random_range(b'!'..=b'~')).collect();
    let already = json(body()).with(header::CONTENT_ENCODING, "gzip");
    let image = json(body()).with(header::CONTENT_TYPE, "image/png");
    for answer in [json("[]"), image, already] {
        let world = World::new();
        put(&world, answer).await;
        let plain = world.cache.hit(&ask(key("r"))).unwrap();
        let cached = hit(&world, &wishing(Coding::Zstd)).await;
        assert_eq!(coding(&cached), coding(&plain));
        assert_eq!(bytes(&cached), bytes(&plain));
        assert_eq!(world.metrics.cache.compressed.get(), 0);
    }
    // Six bits of each byte are noise, so that little can be gained, or nothing.
    let world = World::new();
    put(&world, json(noise.clone())).await;
    let cached = hit(&world, &wishing(Coding::Zstd)).await;
    assert!(bytes(&cached).len() <= noise.len());
}

#[tokio::test]
async fn forms_stay_when_the_origin_says_that_nothing_changed() {
    let world = World::new();
    put(&world, json(body())).await;
    hit(&world, &wishing(Coding::Zstd)).await;
    world.clock.advance_ms(60_000);
    world.will_answer(Answer::empty(304).with(header::CACHE_CONTROL, FIXED));
    let ask = wishing(Coding::Zstd);
    let cached = world.cache.get(&ask, world.origin.clone()).await.unwrap();
    assert_eq!(coding(&cached), Some("zstd"));
    world.settle().await;
    assert_eq!(coding(&world.cache.hit(&ask).unwrap()), Some("zstd"));
    assert_eq!(world.metrics.cache.compressed.get(), 1);
}

#[tokio::test]
async fn forms_leave_with_their_answers() {
    let world = World::new();
    put(&world, json(body())).await;
    hit(&world, &wishing(Coding::Zstd)).await;
    let purge = super::super::Purge::Path("a".into());
    world.cache.purge(purge).await.unwrap();
    assert_eq!(world.cache.room.available_permits(), world.cache.room_bytes);
    assert_eq!(world.cache.index.memory.bytes(), 0);
}
