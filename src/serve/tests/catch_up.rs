//! Catch-up reads past the memory for recent appends: what is read, kept, extended and compressed is
//! what was appended.

use super::{JSON, TEXT, World, serve};
use crate::config::LogConfig;
use crate::protocol::names;
use crate::serve::{Body, Reply};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A stream and all that was appended to it.
struct Story {
    world: World,
    random: StdRng,
    content_type: (&'static str, &'static str),
    /// The offsets between appends, and how many messages lie before each.
    offsets: Vec<(String, usize)>,
    messages: Vec<String>,
    closed: bool,
    /// What immutable answers were, by offset and coding.
    fixed: HashMap<(usize, String), (String, Vec<u8>)>,
}

const CODINGS: [&str; 5] = ["", "gzip", "br", "zstd", "gzip;q=0.5, br;q=0.9"];

impl Story {
    async fn begin(seed: u64, log: &LogConfig, content_type: (&'static str, &'static str)) -> Self {
        let story = Self {
            world: World::with(log),
            random: StdRng::seed_from_u64(seed),
            content_type,
            offsets: vec![("0000000000000000_0000000000000000".to_owned(), 0)],
            messages: Vec::new(),
            closed: false,
            fixed: HashMap::new(),
        };
        story
            .call(Method::PUT, "", &[content_type], Bytes::new())
            .await;
        story
    }

    async fn call(
        &self,
        method: Method,
        query: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Reply {
        let reply = serve(&self.world.server, method, query, headers, body).await;
        reply.unwrap_or_else(|error| panic!("{error}"))
    }

    fn is_json(&self) -> bool {
        self.content_type == JSON
    }

    async fn append(&mut self) {
        let count = if self.is_json() {
            self.random.random_range(1..20)
        } else {
            1
        };
        let bytes_max = [10, 300, 3000, 300_000][self.random.random_range(0..4)];
        let messages: Vec<String> = (0..count)
            .map(|number| {
                let bytes = self.random.random_range(1..bytes_max / count + 2);
                format!("\"{number}{}\"", "x".repeat(bytes))
            })
            .collect();
        let body = if self.is_json() {
            format!("[{}]", messages.join(","))
        } else {
            messages.concat()
        };
        let reply = self
            .call(Method::POST, "", &[self.content_type], body.into())
            .await;
        self.messages.extend(messages);
        self.offsets.push((
            text(&reply.head.headers, "stream-next-offset"),
            self.messages.len(),
        ));
    }

    async fn close(&mut self) {
        self.call(Method::POST, "", &[("stream-closed", "true")], Bytes::new())
            .await;
        self.closed = true;
    }

    /// Reads from one of the offsets to the end, answer by answer.
    async fn read(&mut self) {
        let mut index = self.random.random_range(0..self.offsets.len());
        let accept = CODINGS[self.random.random_range(0..CODINGS.len())];
        loop {
            let (offset, begin) = self.offsets[index].clone();
            let query = format!("offset={offset}");
            let headers = [("accept-encoding", accept)];
            let reply = self.call(Method::GET, &query, &headers, Bytes::new()).await;
            let next = text(&reply.head.headers, "stream-next-offset");
            let after = self.offsets.iter().position(|(offset, _)| *offset == next);
            let after = after.expect("an answer ends where an append does");
            assert!(after > index || begin == self.messages.len());
            let messages = &self.messages[begin..self.offsets[after].1];
            let expected = if self.is_json() {
                format!("[{}]", messages.join(","))
            } else {
                messages.concat()
            };
            let headers = reply.head.headers.clone();
            check_coding(&headers, accept);
            let body = bytes_of(reply).await;
            assert!(
                decoded(&headers, &body) == expected.as_bytes(),
                "from {offset}"
            );
            self.check_kept(index, &headers, accept, body).await;
            if headers.contains_key(names::STREAM_UP_TO_DATE) {
                assert_eq!(after, self.offsets.len() - 1);
                return;
            }
            index = after;
        }
    }

    /// An immutable answer stays as it is in each form, and each form's tag is known.
    async fn check_kept(&mut self, index: usize, headers: &HeaderMap, accept: &str, body: Vec<u8>) {
        let etag = text(headers, "etag");
        if !text(headers, "cache-control").contains("immutable") {
            return;
        }
        for accept in ["", accept] {
            let conditions = [
                ("if-none-match", etag.as_str()),
                ("accept-encoding", accept),
            ];
            let query = format!("offset={}", self.offsets[index].0);
            let reply = self
                .call(Method::GET, &query, &conditions, Bytes::new())
                .await;
            assert_eq!(reply.head.status, StatusCode::NOT_MODIFIED);
            assert_eq!(text(&reply.head.headers, "etag"), etag);
            assert_eq!(text(&reply.head.headers, "vary"), text(headers, "vary"));
        }
        let key = (index, text(headers, "content-encoding"));
        let answer = (etag, body);
        let before = self.fixed.entry(key).or_insert_with(|| answer.clone());
        assert!(*before == answer, "from {index}");
    }
}

/// Only what never changes is compressed, and all that could have been says so.
fn check_coding(headers: &HeaderMap, accept: &str) {
    let fixed = text(headers, "cache-control").contains("immutable");
    let coding = text(headers, "content-encoding");
    assert!(coding.is_empty() || (fixed && accept.contains(&coding)));
    assert!(coding.is_empty() || text(headers, "etag").ends_with(&format!(":{coding}\"")));
    let varies = text(headers, "vary") == "accept-encoding";
    assert!(!varies || fixed);
    assert!(varies || coding.is_empty());
}

fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name);
    value.map_or("", |value| value.to_str().unwrap()).to_owned()
}

pub(super) async fn bytes_of(reply: Reply) -> Vec<u8> {
    match reply.body {
        Body::Empty => Vec::new(),
        Body::Full(bytes) => bytes.to_vec(),
        Body::Pieces(mut pieces) => {
            let mut body = Vec::new();
            while let Some(piece) = pieces.next().await.unwrap() {
                body.extend_from_slice(&piece);
            }
            assert!(
                pieces
                    .length
                    .is_none_or(|length| length == body.len() as u64)
            );
            body
        }
        Body::Passed(_) | Body::Live(_) => panic!("it is not read from the log"),
    }
}

fn decoded(headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    match headers
        .get(header::CONTENT_ENCODING)
        .map(|coding| coding.to_str().unwrap())
    {
        None => decoded.extend_from_slice(body),
        Some("zstd") => decoded = zstd::decode_all(body).unwrap(),
        Some("br") => drop(
            brotli::Decompressor::new(body, 4096)
                .read_to_end(&mut decoded)
                .unwrap(),
        ),
        Some("gzip") => drop(
            flate2::read::GzDecoder::new(body)
                .read_to_end(&mut decoded)
                .unwrap(),
        ),
        Some(other) => panic!("{other}"),
    }
    decoded
}

/// No memory for appends; segments of a few of them, or of very many; a memory for bodies that holds
/// all, some, or none.
#[tokio::test]
async fn what_is_read_is_what_was_appended() {
    let mut seed = 0;
    for content_type in [TEXT, JSON] {
        for segment_bytes in [2000, 1 << 20, 64 << 20] {
            for cache_bytes in [0, 1 << 20, 64 << 20] {
                seed += 1;
                let log = LogConfig {
                    segment_bytes,
                    cache_bytes,
                    hot_bytes_max: 0,
                    ..LogConfig::default()
                };
                let mut story = Story::begin(seed, &log, content_type).await;
                for _ in 0..40 {
                    match story.random.random_range(0..3) {
                        0 => story.append().await,
                        _ => story.read().await,
                    }
                }
                story.close().await;
                for _ in 0..20 {
                    story.read().await;
                }
                assert!(!story.fixed.is_empty());
            }
        }
    }
}

/// Who asks first makes the body; the others are given the same bytes.
#[tokio::test]
async fn a_body_is_made_once() {
    let log = LogConfig {
        hot_bytes_max: 0,
        ..LogConfig::default()
    };
    let mut story = Story::begin(1, &log, TEXT).await;
    let body = Bytes::from(vec![b'x'; 10_000]);
    story.call(Method::POST, "", &[TEXT], body).await;
    story.close().await;
    for accept in ["", "br"] {
        let headers = [("accept-encoding", accept)];
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let reply = story.call(Method::GET, "", &headers, Bytes::new()).await;
            let Body::Full(bytes) = reply.body else {
                panic!("it is one piece");
            };
            bodies.push(bytes.as_ptr());
        }
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{accept}");
    }
}

/// A client that takes what is sent at once does not hold up all others.
#[tokio::test]
async fn others_get_their_turn_between_two_pieces() {
    let log = LogConfig {
        hot_bytes_max: 0,
        ..LogConfig::default()
    };
    let story = Story::begin(1, &log, TEXT).await;
    for _ in 0..10 {
        let body = Bytes::from(vec![b'x'; 100_000]);
        story.call(Method::POST, "", &[TEXT], body).await;
    }
    let reply = story.call(Method::GET, "", &[], Bytes::new()).await;
    let Body::Pieces(mut pieces) = reply.body else {
        panic!("it is several pieces");
    };
    let turns = Arc::new(AtomicU32::new(0));
    let other = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let mut sent = 0;
    while pieces.next().await.unwrap().is_some() {
        assert!(turns.load(Ordering::Relaxed) >= sent);
        sent += 1;
    }
    assert!(sent > 2);
    other.abort();
}

/// Short answers, those of an open tail and what is not text stay as they are.
#[tokio::test]
async fn not_everything_is_compressed() {
    let headers = [("accept-encoding", "zstd, br, gzip")];
    let long = Bytes::from(vec![b'x'; 5000]);
    for (content_type, body, closed, expected) in [
        ("text/plain", long.clone(), true, "zstd"),
        ("text/plain", long.clone(), false, ""),
        ("text/plain", Bytes::from_static(b"short"), true, ""),
        ("application/octet-stream", long.clone(), true, ""),
        ("application/ld+json", long, true, "zstd"),
    ] {
        let world = World::open();
        let kind = ("content-type", content_type);
        serve(&world.server, Method::PUT, "", &[kind], body)
            .await
            .unwrap();
        if closed {
            let close = [("stream-closed", "true")];
            serve(&world.server, Method::POST, "", &close, Bytes::new())
                .await
                .unwrap();
        }
        let reply = serve(&world.server, Method::GET, "", &headers, Bytes::new())
            .await
            .unwrap();
        assert_eq!(
            text(&reply.head.headers, "content-encoding"),
            expected,
            "{content_type}"
        );
        let varies = !text(&reply.head.headers, "vary").is_empty();
        assert_eq!(varies, !expected.is_empty());
    }
}
