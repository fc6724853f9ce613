//! What a cache is told may be kept for ever has to stay as it is.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::http::{Response, request};
use crate::common::{Noise, Server, Setup, seed, unique, wait_until};

const STEPS: u32 = 2_000;
const CONTENT_TYPES: [&str; 3] = ["application/json", "text/plain", "application/octet-stream"];

/// What a cache keeps of an answer and gives to later clients.
#[derive(Debug, PartialEq)]
struct Kept {
    status: u16,
    headers: Vec<(String, Option<String>)>,
    body: Vec<u8>,
}

impl Kept {
    const HEADERS: [&str; 7] = [
        "cache-control",
        "cache-tag",
        "content-type",
        "etag",
        "stream-closed",
        "stream-next-offset",
        "stream-up-to-date",
    ];

    fn of(response: &Response) -> Self {
        let value = |name: &str| response.header(name).map(ToOwned::to_owned);
        Self {
            status: response.status,
            headers: Self::HEADERS
                .map(|name| (name.to_owned(), value(name)))
                .into(),
            body: response.body.clone(),
        }
    }
}

fn is_immutable(response: &Response) -> bool {
    let control = response.header("cache-control");
    control.is_some_and(|control| control.contains("immutable"))
}

struct Stream {
    target: String,
    content_type: &'static str,
    closed: bool,
    /// Every offset that the server ever named for it.
    offsets: Vec<String>,
}

/// Streams that grow, are closed and forked, and a cache that keeps all it is
/// allowed to keep.
struct Model {
    server: Server,
    random: StdRng,
    streams: Vec<Stream>,
    cache: BTreeMap<String, Kept>,
}

impl Model {
    fn stream(&mut self) -> usize {
        self.random.random_range(0..self.streams.len())
    }

    fn create(&mut self) {
        let content_type = CONTENT_TYPES[self.random.random_range(0..CONTENT_TYPES.len())];
        let target = unique("cached");
        self.server.create(&target, content_type, b"");
        self.add(target, content_type);
    }

    fn add(&mut self, target: String, content_type: &'static str) {
        self.streams.push(Stream {
            target,
            content_type,
            closed: false,
            offsets: vec![
                "-1".to_owned(),
                "0000000000000000_0000000000000000".to_owned(),
            ],
        });
    }

    fn append(&mut self) {
        let n = self.stream();
        let length = match self.random.random_range(0..10) {
            0 => self.random.random_range(1..20_000),
            _ => self.random.random_range(1..300),
        };
        let stream = &mut self.streams[n];
        let body = match stream.content_type {
            "application/json" => format!("[{length}, \"{}\"]", "j".repeat(length)).into_bytes(),
            "text/plain" => format!("{length:0length$}\n").into_bytes(),
            _ => Noise::bytes(length as u64, length),
        };
        let headers = [("content-type", stream.content_type)];
        let response = self.server.call("POST", &stream.target, &headers, &body);
        let expected = if stream.closed { 409 } else { 204 };
        assert_eq!(response.status, expected, "{response:?}");
        let offset = response.expect("stream-next-offset").to_owned();
        stream.offsets.push(offset);
    }

    fn close(&mut self) {
        let n = self.stream();
        let stream = &mut self.streams[n];
        self.server.close(&stream.target);
        stream.closed = true;
    }

    fn fork(&mut self) {
        let n = self.stream();
        let stream = &self.streams[n];
        let at = self.random.random_range(1..stream.offsets.len());
        let fork = unique("fork");
        let headers = [
            ("stream-forked-from", stream.target.as_str()),
            ("stream-fork-offset", stream.offsets[at].as_str()),
        ];
        let response = self.server.call("PUT", &fork, &headers, b"");
        assert_eq!(response.status, 201, "{response:?}");
        let content_type = stream.content_type;
        self.add(fork, content_type);
    }

    /// Reads from a random place, sometimes one that the server never named.
    fn read(&mut self) {
        let n = self.stream();
        let stream = &self.streams[n];
        let mut offset = stream.offsets[self.random.random_range(0..stream.offsets.len())].clone();
        if self.random.random_bool(0.2) {
            offset = format!("{:016}_{:016}", 0, self.random.random_range(0..50_000));
        }
        let live = if self.random.random_bool(0.2) && stream.closed {
            "&live=long-poll"
        } else {
            ""
        };
        let url = format!("{}?offset={offset}{live}", stream.target);
        let response = self.server.call("GET", &url, &[], b"");
        assert!(matches!(response.status, 200 | 204), "{response:?}");
        let next = response.expect("stream-next-offset").to_owned();
        self.streams[n].offsets.push(next);
        self.keep(&url, &response);
    }

    fn keep(&mut self, url: &str, response: &Response) {
        if !is_immutable(response) {
            assert!(!self.cache.contains_key(url), "{url} was immutable once");
            return;
        }
        // To be kept for ever it must not say that this is all there is,
        // unless nothing can come any more.
        let at_end = response.header("stream-up-to-date").is_some();
        let closed = response.header("stream-closed").is_some();
        assert!(closed || !at_end, "{response:?}");
        let kept = Kept::of(response);
        let before = self
            .cache
            .entry(url.to_owned())
            .or_insert_with(|| Kept::of(response));
        assert_eq!(*before, kept, "{url} changed");
    }

    /// Asks for everything again.
    fn check(&self) {
        let mut connection = self.server.connect();
        for (url, kept) in &self.cache {
            let response = connection.call("GET", url, &[], b"").expect("an answer");
            assert_eq!(Kept::of(&response), *kept, "{url} changed");
            if let Some(etag) = response.header("etag") {
                let condition = [("if-none-match", etag)];
                let again = connection
                    .call("GET", url, &condition, b"")
                    .expect("an answer");
                assert_eq!(again.status, 304, "{again:?}");
            }
        }
    }
}

#[test]
fn immutable_answers_never_change() {
    let mut model = Model {
        server: Setup {
            // Small, so that streams consist of many.
            log: "segment_bytes = \"4KiB\"".to_owned(),
            ..Setup::quick()
        }
        .start(),
        random: StdRng::seed_from_u64(seed()),
        streams: Vec::new(),
        cache: BTreeMap::new(),
    };
    model.create();
    for step in 0..STEPS {
        match model.random.random_range(0..100) {
            0..2 => model.create(),
            2..4 => model.close(),
            4..8 => model.fork(),
            8..60 => model.append(),
            _ => model.read(),
        }
        if step % 500 == 499 {
            model.check();
            // Neither the memory's content nor what is packed makes a difference.
            model.server.kill9();
            model.server.restart();
            model.check();
        }
    }
    let closed = model.streams.iter().filter(|stream| stream.closed).count();
    println!(
        "{} answers kept, {closed} streams closed",
        model.cache.len()
    );
    assert!(model.cache.len() > 50, "the test has something to test");
}

/// Appends once a long-poll waits for it, and gives the answer to the long-poll.
fn poll_while_appending(server: &Server, target: &str, offset: &str) -> Response {
    let url = format!("{target}?offset={offset}&live=long-poll");
    let mut connection = server.connect();
    connection
        .send(&request("GET", &url, &[], b""))
        .expect("sent");
    wait_until("the long-poll waits", || {
        let metrics = String::from_utf8(server.admin("/metrics").body).expect("text");
        metrics.contains("headwater_live_readers{mode=\"long_poll\"} 1\n")
    });
    server.append(target, "text/plain", b"more");
    connection.response().expect("an answer")
}

#[test]
fn what_long_polls_were_told_is_kept_no_longer_than_it_holds() {
    let server = Setup {
        streams: vec![r#"long_poll_timeout = "500ms""#.to_owned()],
        ..Setup::quick()
    }
    .start();
    let target = unique("polled");
    server.create(&target, "text/plain", b"one");
    let tail = server.call("HEAD", &target, &[], b"");
    let tail = tail.expect("stream-next-offset").to_owned();
    let poll = |offset: &str| {
        let url = format!("{target}?offset={offset}&live=long-poll");
        server.call("GET", &url, &[], b"")
    };

    let in_vain = poll(&tail);
    assert_eq!(in_vain.status, 204);
    let shared = "public, max-age=0, s-maxage=1";
    assert_eq!(in_vain.expect("cache-control"), shared);
    assert!(
        in_vain
            .expect("cache-tag")
            .ends_with(target.rsplit('/').next().unwrap())
    );
    assert_eq!(poll("now").expect("cache-control"), "no-store");

    server.close(&target);
    let closed = poll(&tail);
    assert_eq!(closed.status, 204);
    assert_eq!(closed.expect("stream-closed"), "true");
    assert!(is_immutable(&closed), "{closed:?}");
    assert_eq!(poll("now").expect("cache-control"), "no-store");
}

#[test]
fn what_came_after_now_is_not_kept_for_a_later_now() {
    let server = Setup {
        streams: vec![r#"long_poll_timeout = "1h""#.to_owned()],
        ..Setup::quick()
    }
    .start();
    let target = unique("now");
    server.create(&target, "text/plain", b"one");
    let tail = server.call("HEAD", &target, &[], b"");
    let tail = tail.expect("stream-next-offset").to_owned();
    let from_tail = poll_while_appending(&server, &target, &tail);
    assert_eq!(from_tail.body, b"more");
    assert!(
        from_tail
            .expect("cache-control")
            .starts_with("public, max-age=60")
    );
    for offset in ["now", "9999999999999999_9999999999999999"] {
        let answer = poll_while_appending(&server, &target, offset);
        assert_eq!(answer.body, b"more", "{offset}");
        assert_eq!(answer.expect("cache-control"), "no-store", "{offset}");
    }
}

/// More may have been appended when somebody else asks for the same.
#[test]
fn an_answer_from_beyond_the_tail_is_kept_by_nobody() {
    let server = Setup::quick().start();
    let target = unique("beyond");
    let created = server.create(&target, "text/plain", b"all");
    let tail = created.expect("stream-next-offset");
    server.close(&target);
    let get = |offset: &str| server.call("GET", &format!("{target}?offset={offset}"), &[], b"");
    assert!(is_immutable(&get(tail)));
    let beyond = get("9999999999999999_9999999999999999");
    assert_eq!((beyond.status, &beyond.body[..]), (200, &b""[..]));
    assert_eq!(beyond.expect("stream-next-offset"), tail);
    assert_eq!(beyond.expect("stream-closed"), "true");
    assert_eq!(beyond.expect("cache-control"), "no-store");
}
