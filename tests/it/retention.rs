//! Streams that keep only so much: what is gone is named, and never looks like
//! a gap.

use crate::common::http::{EventStream, Response};
use crate::common::{Noise, Server, Setup, assert_problem, unique, wait_until};

const ZERO: &str = "0000000000000000_0000000000000000";
const TEXT: &str = "text/plain";

fn server(streams: &[&str]) -> Server {
    let mut setup = Setup::quick();
    setup.log.push_str(r#"expiry_interval = "50ms""#);
    setup
        .streams
        .extend(streams.iter().map(ToString::to_string));
    setup.start()
}

fn put(server: &Server, target: &str, headers: &[(&str, &str)]) -> Response {
    let headers = [&[("content-type", TEXT)], headers].concat();
    server.call("PUT", target, &headers, b"")
}

fn get(server: &Server, target: &str, query: &str) -> Response {
    server.call("GET", &format!("{target}?{query}"), &[], b"")
}

fn head(server: &Server, target: &str) -> Response {
    server.call("HEAD", target, &[], b"")
}

/// Appends numbered lines until the stream begins later than at its start.
fn append_until_trimmed(server: &Server, target: &str) -> (Vec<u8>, String) {
    let mut all = Vec::new();
    let mut number = 0;
    wait_until("the stream is trimmed", || {
        let line = format!("{number:099}\n");
        number += 1;
        server.append(target, TEXT, line.as_bytes());
        all.extend_from_slice(line.as_bytes());
        head(server, target)
            .header("stream-earliest-offset")
            .is_some()
    });
    let head = head(server, target);
    (all, head.expect("stream-earliest-offset").to_owned())
}

fn assert_trimmed(answer: &Response, earliest: &str) {
    assert_eq!(assert_problem(answer, 410), "OFFSET_TRIMMED");
    // It may have moved on.
    assert!(answer.expect("stream-earliest-offset") >= earliest);
}

#[test]
fn a_retention_is_told_and_compared() {
    let server = server(&[]);
    let target = unique("told");
    let told = [("stream-retention", "age=3600,  bytes=1048576")];
    let created = put(&server, &target, &told);
    assert_eq!(created.status, 201);
    for answer in [
        created,
        head(&server, &target),
        put(&server, &target, &told),
    ] {
        assert_eq!(answer.expect("stream-retention"), "bytes=1048576, age=3600");
        assert!(answer.header("stream-earliest-offset").is_none());
    }
    for other in ["bytes=1048576", "bytes=1, age=3600"] {
        let refused = put(&server, &target, &[("stream-retention", other)]);
        assert_eq!(assert_problem(&refused, 409), "CONFLICT_EXISTS");
    }
    let refused = put(&server, &target, &[]);
    assert_eq!(assert_problem(&refused, 409), "CONFLICT_EXISTS");
    for wrong in [
        "",
        "all",
        "bytes=0",
        "bytes=1MiB",
        "age=1.5",
        "age=1, age=1",
    ] {
        let refused = put(&server, &unique("wrong"), &[("stream-retention", wrong)]);
        assert_eq!(assert_problem(&refused, 400), "INVALID_RETENTION");
    }
    let ordinary = unique("ordinary");
    server.create(&ordinary, TEXT, b"");
    assert!(
        head(&server, &ordinary)
            .header("stream-retention")
            .is_none()
    );
}

#[test]
fn the_route_says_how_much_is_kept_of_streams_that_do_not() {
    let server = server(&[r#"retention = { bytes = "1KiB", age = "7d" }"#]);
    let target = unique("default");
    for status in [201, 200] {
        let answer = put(&server, &target, &[]);
        assert_eq!(answer.status, status);
        assert_eq!(answer.expect("stream-retention"), "bytes=1024, age=604800");
    }
    append_until_trimmed(&server, &target);
    let own = unique("own");
    put(&server, &own, &[("stream-retention", "bytes=9")]);
    assert_eq!(head(&server, &own).expect("stream-retention"), "bytes=9");
}

#[test]
fn reads_from_before_what_is_kept_are_refused_in_every_mode() {
    let mut server = server(&[]);
    let target = unique("refused");
    put(&server, &target, &[("stream-retention", "bytes=1000")]);
    let mut early = EventStream::open(
        server.address(),
        &format!("{target}?offset={ZERO}&live=sse"),
    )
    .unwrap();
    server.append(&target, TEXT, b"seen by the reader\n");
    early.next_batch().unwrap().expect("a batch");
    let (all, earliest) = append_until_trimmed(&server, &target);
    for live in ["", "&live=long-poll", "&live=sse"] {
        let refused = get(&server, &target, &format!("offset={ZERO}{live}"));
        assert_trimmed(&refused, &earliest);
    }
    let kept = server.read_all(&target);
    assert!((1000..1600).contains(&kept.len()) && all.ends_with(&kept));
    for start in ["offset=-1", "", "offset=-1&live=long-poll"] {
        let answer = get(&server, &target, start);
        assert_eq!(answer.status, 200, "{start}: {answer:?}");
        let begin = all
            .windows(answer.body.len())
            .position(|part| part == answer.body);
        assert!(begin.is_some_and(|begin| begin >= all.len() - kept.len()));
    }
    server.kill9();
    server.restart();
    assert_trimmed(&get(&server, &target, &format!("offset={ZERO}")), &earliest);
    assert!(kept.ends_with(&server.read_all(&target)));
}

#[test]
fn forks_begin_where_their_source_does() {
    let server = server(&[]);
    let target = unique("source");
    put(&server, &target, &[("stream-retention", "bytes=1000")]);
    append_until_trimmed(&server, &target);
    let fork = unique("fork");
    let at_zero = [
        ("stream-forked-from", &target[..]),
        ("stream-fork-offset", ZERO),
    ];
    let refused = put(&server, &fork, &at_zero);
    assert_eq!(assert_problem(&refused, 409), "FORK_OFFSET_TRIMMED");
    let earliest = refused.expect("stream-earliest-offset").to_owned();
    let created = put(&server, &fork, &[("stream-forked-from", &target)]);
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.header("stream-retention").is_none());
    let begins = head(&server, &fork);
    assert!(begins.expect("stream-earliest-offset") >= &earliest[..]);
    let inherited = server.read_all(&fork);
    for _ in 0..50 {
        server.append(&target, TEXT, &[b'x'; 100]);
    }
    assert_eq!(server.read_all(&fork), inherited, "its source keeps it");
    let refused = get(&server, &fork, &format!("offset={ZERO}"));
    assert_trimmed(&refused, begins.expect("stream-earliest-offset"));
}

#[test]
fn an_age_goes_by_and_no_copy_outlives_it() {
    let server = server(&[]);
    let target = unique("aged");
    put(&server, &target, &[("stream-retention", "age=1")]);
    server.append(&target, TEXT, b"soon gone");
    let answer = get(&server, &target, &format!("offset={ZERO}"));
    if answer.status == 200 {
        let control = answer.expect("cache-control");
        assert!(control.contains("max-age=1,"), "{control}");
    }
    wait_until("it is gone", || {
        get(&server, &target, &format!("offset={ZERO}")).status == 410
    });
    let answer = get(&server, &target, "offset=-1");
    assert_eq!((answer.status, &answer.body[..]), (200, &b""[..]));
    assert_eq!(answer.expect("stream-up-to-date"), "true");
    let earliest = head(&server, &target);
    assert_eq!(
        earliest.expect("stream-earliest-offset"),
        earliest.expect("stream-next-offset")
    );
}

/// Where a stream begins moves: a cache must not go on saying where it began.
#[test]
fn the_start_of_what_is_kept_is_not_kept_by_caches() {
    let server = server(&[]);
    let target = unique("start");
    put(&server, &target, &[("stream-retention", "bytes=100000")]);
    server.append(&target, TEXT, b"data");
    server.close(&target);
    for query in ["offset=-1", ""] {
        let answer = get(&server, &target, query);
        assert_eq!(answer.expect("cache-control"), "no-store");
    }
    let answer = get(&server, &target, &format!("offset={ZERO}"));
    assert!(answer.expect("cache-control").contains("immutable"));
}

/// An SSE reader that is slower than what is trimmed is sent away, and learns
/// when it comes back that its place is gone.
#[test]
fn a_live_reader_that_falls_behind_is_sent_away() {
    let server = server(&[]);
    let target = unique("behind");
    put(&server, &target, &[("stream-retention", "bytes=300000")]);
    let mut reader = server.connect();
    let query = format!("{target}?offset={ZERO}&live=sse");
    reader.send_request("GET", &query, &[], b"").unwrap();
    assert_eq!(reader.read_head().unwrap().status, 200);
    let noise: String = Noise::bytes(7, 100_000)
        .iter()
        .map(|byte| char::from(b'a' + byte % 26))
        .collect();
    // More than sockets hold, and the reader takes nothing of it.
    for _ in 0..400 {
        server.append(&target, TEXT, noise.as_bytes());
    }
    let mut text = Vec::new();
    while let Some(chunk) = reader.read_chunk().unwrap() {
        text.extend_from_slice(&chunk);
        assert!(text.len() < 2 * 400 * noise.len(), "more than there was");
    }
    let text = String::from_utf8(text).unwrap();
    let offsets = text.split("\"streamNextOffset\":\"").skip(1);
    let last = offsets.last().map_or(ZERO, |rest| &rest[..33]);
    let answer = get(&server, &target, &format!("offset={last}&live=sse"));
    assert_eq!(assert_problem(&answer, 410), "OFFSET_TRIMMED");
}
