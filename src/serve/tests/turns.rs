//! What takes a processor for long has a bound, and all else goes on.

use super::catch_up::bytes_of;
use super::{JSON, TEXT, World, serve};
use crate::config::LogConfig;
use crate::protocol::names;
use crate::serve::{Reply, ServeError, Turn, Turns};
use bytes::Bytes;
use http::{Method, StatusCode, header};

async fn all(turns: &Turns) -> Vec<Turn> {
    let mut taken = Vec::new();
    while let Some(turn) = turns.wait().await {
        taken.push(turn);
    }
    taken
}

/// Says that it is to be tried again.
fn assert_refused(refused: Result<Reply, ServeError>, code: &str) {
    let error = refused.err().expect("it is refused");
    let told = error.status();
    assert_eq!(told, (StatusCode::SERVICE_UNAVAILABLE, code));
    let reply = error.into_reply(false);
    assert!(reply.head.headers.contains_key(header::RETRY_AFTER));
}

fn numbers(count: usize) -> Bytes {
    format!("[{}]", vec!["7"; count].join(",")).into()
}

impl World {
    /// With a closed stream that holds a text, which is read from the store.
    async fn with_text(text: &Bytes) -> Self {
        let world = Self::impatient(&LogConfig {
            hot_bytes_max: 0,
            ..LogConfig::default()
        });
        let closed = [TEXT, ("stream-closed", "true")];
        for (method, headers, body) in [
            (Method::PUT, &[TEXT][..], Bytes::new()),
            (Method::POST, &closed, text.clone()),
        ] {
            world.send(method, headers, body).await.unwrap();
        }
        world
    }

    async fn read(&self, headers: &[(&'static str, &str)]) -> Result<Reply, ServeError> {
        self.send(Method::GET, headers, Bytes::new()).await
    }

    async fn send(
        &self,
        method: Method,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Reply, ServeError> {
        serve(&self.server, method, "", headers, body).await
    }
}

#[tokio::test]
async fn long_bodies_are_framed_in_turn() {
    for (kind, long) in [
        (JSON, numbers(100_000)),
        (TEXT, Bytes::from(vec![b'x'; 2 << 20])),
    ] {
        let world = World::impatient(&LogConfig::default());
        let taken = all(&world.server.framing).await;
        for method in [Method::PUT, Method::POST] {
            let refused = world.send(method, &[kind], long.clone()).await;
            assert_refused(refused, "TOO_MANY_BODIES");
        }
        let none = world.send(Method::HEAD, &[], Bytes::new()).await;
        assert!(none.is_err(), "nothing was created");
        for (method, status) in [(Method::PUT, 201), (Method::POST, 204)] {
            let short = Bytes::from_static(b"7");
            let done = world.send(method, &[kind], short).await.unwrap();
            assert_eq!(done.head.status, status);
        }
        drop(taken);
        let done = world.send(Method::POST, &[kind], long.clone()).await;
        assert_eq!(done.unwrap().head.status, StatusCode::NO_CONTENT);
        let expected = if kind == JSON {
            numbers(100_002)
        } else {
            [b"77", &long[..]].concat().into()
        };
        let read = world.read(&[]).await.unwrap();
        assert!(read.head.headers.contains_key(names::STREAM_UP_TO_DATE));
        assert!(bytes_of(read).await == expected);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_told_however_long_it_is() {
    let world = World::open();
    let empty = Bytes::from_static(b"[]");
    world.send(Method::PUT, &[JSON], empty).await.unwrap();
    for bytes in [0, 100_000] {
        let space = " ".repeat(bytes);
        for (body, code) in [("[1,]", "INVALID_JSON"), ("[]", "EMPTY_ARRAY")] {
            let body = Bytes::from(format!("{space}{body}"));
            let refused = world.send(Method::POST, &[JSON], body).await;
            assert_eq!(refused.err().unwrap().status().1, code);
        }
    }
}

#[tokio::test]
async fn a_read_of_the_store_does_not_wait_for_ever() {
    let text = Bytes::from(vec![b'x'; 10_000]);
    let world = World::with_text(&text).await;
    let taken = all(&world.server.bodies.making).await;
    assert_refused(world.read(&[]).await, "TOO_MANY_FETCHES");
    drop(taken);
    assert!(bytes_of(world.read(&[]).await.unwrap()).await == text);
    let _taken = all(&world.server.bodies.making).await;
    let kept = world.read(&[]).await.unwrap();
    assert!(bytes_of(kept).await == text);
}

#[tokio::test]
async fn what_cannot_be_compressed_at_once_is_given_as_it_is() {
    let text = Bytes::from(vec![b'x'; 10_000]);
    let world = World::with_text(&text).await;
    let accept = ("accept-encoding", "br");
    let taken = all(&world.server.bodies.compressing).await;
    let plain = world.read(&[accept]).await.unwrap();
    assert!(!plain.head.headers.contains_key(header::CONTENT_ENCODING));
    assert_eq!(plain.head.headers[header::VARY], "accept-encoding");
    let tag = plain.head.headers[header::ETAG]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(tag.ends_with(":c\""), "{tag}");
    assert!(bytes_of(plain).await == text);
    drop(taken);
    let coded = world.read(&[accept]).await.unwrap();
    assert_eq!(coded.head.headers[header::CONTENT_ENCODING], "br");
    assert_eq!(coded.head.headers[header::VARY], "accept-encoding");
    let coded_tag = coded.head.headers[header::ETAG].to_str().unwrap();
    assert!(coded_tag.ends_with(":c:br\""), "{coded_tag}");
    let asked = [accept, ("if-none-match", tag.as_str())];
    let known = world.read(&asked).await.unwrap();
    assert_eq!(known.head.status, StatusCode::NOT_MODIFIED);
    assert_eq!(known.head.headers[header::ETAG], tag);
}
