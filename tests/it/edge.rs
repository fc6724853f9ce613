//! Streams whose home is another server: reads, writes and what readers of both see of each other.

use std::collections::BTreeSet;

use crate::common::http::{EventStream, Response};
use crate::common::{Server, Setup, assert_problem, free_port, unique, wait_until};
use crate::reverse_proxy_upstream::{Upstream, nobody};

const TEXT: (&str, &str) = ("content-type", "text/plain");

/// An edge in front of these origins, with further settings of `origin`.
pub(crate) fn edge(origins: &[&str], settings: &str) -> Server {
    edge_with(origins, settings, Setup::quick())
}

pub(crate) fn edge_with(origins: &[&str], settings: &str, mut setup: Setup) -> Server {
    let separator = if settings.is_empty() { "" } else { ", " };
    let origin = format!("origin = {{ upstreams = {origins:?}{separator}{settings} }}");
    setup.streams.push(origin);
    setup.start()
}

pub(crate) fn url(server: &Server) -> String {
    format!("http://{}", server.address())
}

/// An origin and an edge in front of it.
pub(crate) fn pair() -> (Server, Server) {
    let origin = Setup::quick().start();
    let edge = edge(&[&url(&origin)], "");
    (origin, edge)
}

/// A figure of a server's metrics.
pub(crate) fn figure(server: &Server, series: &str) -> u64 {
    let metrics = server.admin("/metrics");
    let text = String::from_utf8(metrics.body).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}"))
        .parse()
        .unwrap()
}

/// Waits until an edge has so many live readers, and hears all that is said to them.
pub(crate) fn wait_until_followed(edge: &Server, readers: u64) {
    wait_until("it is followed", || {
        figure(edge, "headwater_followed_stream_readers") == readers
            && figure(edge, "headwater_unfollowed_streams") == 0
    });
}

fn status(response: &Response) -> &str {
    response.expect("cache-status")
}

#[test]
fn requests_of_all_kinds_pass() {
    let (origin, mut edge) = pair();
    let stream = unique("pass");
    let created = edge.create(&stream, "text/plain", b"one ");
    assert_eq!(
        created.expect("location"),
        format!("{}{stream}", "http://localhost")
    );
    assert_eq!(status(&created), "headwater; fwd=method");
    assert!(created.expect("via").starts_with("1.1 headwater-"));
    assert_eq!(edge.call("PUT", &stream, &[TEXT], b"one ").status, 200);
    edge.append(&stream, "text/plain", b"two");
    let large = vec![b'x'; 3 << 20];
    edge.append(&stream, "text/plain", &large);
    let whole = [b"one two".as_slice(), &large].concat();
    assert_eq!(edge.read_all(&stream), whole);
    assert_eq!(origin.read_all(&stream), whole);
    let head = edge.call("HEAD", &stream, &[], b"");
    assert_eq!(
        (head.status, head.expect("content-type")),
        (200, "text/plain")
    );
    // A client that lets the connection go gets its answer all the same.
    let head = edge.call("HEAD", &stream, &[("connection", "close")], b"");
    assert_eq!(head.status, 200);
    assert_eq!(edge.call("OPTIONS", &stream, &[], b"").status, 204);
    let fork = unique("fork");
    let forked = edge.call(
        "PUT",
        &fork,
        &[("stream-forked-from", stream.as_str())],
        b"",
    );
    assert_eq!(forked.status, 201, "{forked:?}");
    assert_eq!(edge.read_all(&fork), whole);
    edge.close(&stream);
    let refused = edge.call("POST", &stream, &[TEXT], b"more");
    assert_eq!(assert_problem(&refused, 409), "STREAM_CLOSED");
    assert_eq!(edge.call("DELETE", &fork, &[], b"").status, 204);
    assert_eq!(edge.call("DELETE", &stream, &[], b"").status, 204);
    wait_until("nothing of it is left", || {
        edge.call("GET", &stream, &[], b"").status == 404
    });
    edge.assert_healthy();
}

#[test]
fn what_is_wrong_with_a_read_is_for_the_origin_to_say() {
    let (_origin, edge) = pair();
    let stream = unique("wrong");
    edge.create(&stream, "text/plain", b"x");
    for (query, code) in [
        ("offset=", "INVALID_OFFSET"),
        ("offset=1&offset=2", "OFFSET_TWICE"),
        ("offset=a,b", "INVALID_OFFSET"),
        ("offset=a,b&live=sse", "INVALID_OFFSET"),
        ("offset=a,b&live=long-poll", "INVALID_OFFSET"),
        ("live=sse", "OFFSET_REQUIRED"),
        ("offset=-1&live=other", "INVALID_LIVE_MODE"),
    ] {
        let response = edge.call("GET", &format!("{stream}?{query}"), &[], b"");
        let found = assert_problem(&response, 400);
        assert!(found == code || code == "OFFSET_TWICE", "{query}: {found}");
    }
    for live in ["", "&live=sse", "&live=long-poll"] {
        let missing = unique("missing");
        let response = edge.call("GET", &format!("{missing}?offset=-1{live}"), &[], b"");
        assert_eq!(assert_problem(&response, 404), "NOT_FOUND");
    }
}

#[test]
fn who_wrote_reads_it() {
    let (_origin, edge) = pair();
    let stream = unique("own");
    let mut at = edge
        .create(&stream, "text/plain", b"")
        .expect("stream-next-offset")
        .to_owned();
    let mut events =
        EventStream::open(edge.address(), &format!("{stream}?offset=-1&live=sse")).unwrap();
    let mut connection = edge.connect();
    for n in 0..200 {
        let body = format!("{n};");
        let appended = edge.append(&stream, "text/plain", body.as_bytes());
        let read = match n % 3 {
            0 => format!("{stream}?offset={at}"),
            _ => format!("{stream}?offset={at}&live=long-poll"),
        };
        let read = connection.call("GET", &read, &[], b"").unwrap();
        assert_eq!(
            (read.status, read.body.as_slice()),
            (200, body.as_bytes()),
            "{n}"
        );
        let tail = connection
            .call("GET", &format!("{stream}?offset=now"), &[], b"")
            .unwrap();
        let next = appended.expect("stream-next-offset");
        assert_eq!(tail.expect("stream-next-offset"), next);
        next.clone_into(&mut at);
        if n % 10 == 0 {
            // From here on, and not from where the edge is just now.
            let target = format!("{stream}?offset=now&live=sse");
            let mut late = EventStream::open(edge.address(), &target).unwrap();
            let (data, control) = late.next_batch().unwrap().unwrap();
            assert_eq!(
                (data.as_str(), control["streamNextOffset"].as_str()),
                ("", Some(&*at))
            );
        }
    }
    let closing = edge.call("POST", &stream, &[("stream-closed", "true")], b"");
    assert_eq!(closing.status, 204);
    let target = format!("{stream}?offset={at}&live=long-poll");
    let closed = edge.call("GET", &target, &[], b"");
    assert_eq!(
        (closed.status, closed.expect("stream-closed")),
        (204, "true")
    );
    let mut text = String::new();
    while let Some((data, _)) = events.next_batch().unwrap() {
        text.push_str(&data);
    }
    let heard: Vec<_> = text.split_terminator(';').map(str::to_owned).collect();
    let written: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(heard, written);
}

#[test]
fn a_stream_that_was_deleted_and_created_again_is_another() {
    let (origin, edge) = pair();
    for through_edge in [true, false] {
        let stream = unique("again");
        let by = if through_edge { &edge } else { &origin };
        by.create(&stream, "text/plain", b"old");
        by.close(&stream);
        assert_eq!(edge.read_all(&stream), b"old");
        let target = format!("{stream}?offset=-1&live=sse");
        let mut reader = EventStream::open(edge.address(), &target).unwrap();
        while reader.next_batch().unwrap().is_some() {}
        assert_eq!(by.call("DELETE", &stream, &[], b"").status, 204);
        by.create(&stream, "text/plain", b"new");
        if !through_edge {
            // The edge learns it from the first answer that it does not have already.
            let tail = edge.call(
                "GET",
                &format!("{stream}?offset=0000000000000000_0000000000000007"),
                &[],
                b"",
            );
            assert_eq!(tail.status, 200);
        }
        assert_eq!(
            edge.read_all(&stream),
            b"new",
            "through the edge: {through_edge}"
        );
    }
}

#[test]
fn live_readers_of_a_deleted_stream_end() {
    let (origin, edge) = pair();
    for by in [&origin, &edge] {
        let stream = unique("deleted");
        edge.create(&stream, "text/plain", b"x");
        let target = format!("{stream}?offset=-1&live=sse");
        let mut reader = EventStream::open(edge.address(), &target).unwrap();
        assert!(reader.next_batch().unwrap().is_some());
        let mut poll = edge.connect();
        let at = "0000000000000000_0000000000000005";
        let target = format!("{stream}?offset={at}&live=long-poll");
        poll.send_request("GET", &target, &[], b"").unwrap();
        assert_eq!(by.call("DELETE", &stream, &[], b"").status, 204);
        assert!(reader.next_batch().unwrap().is_none());
        let polled = poll.response().unwrap();
        assert!([204, 404].contains(&polled.status), "{polled:?}");
        let gone = edge.call("GET", &stream, &[], b"");
        assert_eq!(assert_problem(&gone, 404), "NOT_FOUND");
    }
}

#[test]
fn streams_spread_over_origins_and_forks_stay_with_their_source() {
    let origins = [
        Setup::quick().start(),
        Setup::quick().start(),
        Setup::quick().start(),
    ];
    let urls: Vec<String> = origins.iter().map(url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let edge = edge(&urls, "shard_by = 1");
    let mut homes = BTreeSet::new();
    for n in 0..20 {
        let team = unique(&format!("team{n}"));
        let (source, fork) = (format!("{team}/source"), format!("{team}/fork"));
        edge.create(&source, "text/plain", b"shared");
        let forked = edge.call(
            "PUT",
            &fork,
            &[("stream-forked-from", source.as_str())],
            b"",
        );
        assert_eq!(forked.status, 201, "{forked:?}");
        assert_eq!(edge.read_all(&fork), b"shared");
        let has = |origin: &&Server| origin.call("HEAD", &fork, &[], b"").status == 200;
        let home: Vec<u16> = origins
            .iter()
            .filter(has)
            .map(|home| home.address().port())
            .collect();
        assert_eq!(home.len(), 1);
        homes.extend(home);
    }
    assert!(homes.len() > 1, "{homes:?}");
}

#[test]
fn a_stream_is_not_asked_for_at_another_origin() {
    let here = Setup::quick().start();
    let settings = "health_check = { interval = \"100ms\", unhealthy_after = 1 }";
    let edge = edge(&[&url(&here), &nobody()], settings);
    let mut away = 0;
    for n in 0..40 {
        let created = edge.call("PUT", &unique(&format!("s{n}")), &[TEXT], b"x");
        if created.status != 201 {
            assert_eq!(assert_problem(&created, 503), "ORIGIN_AWAY");
            assert!(created.header("retry-after").is_some());
            away += 1;
        }
    }
    assert!((1..40).contains(&away), "{away}");
}

#[test]
fn requests_that_go_in_a_circle_are_ended() {
    let port = free_port();
    let setup = |to: u16| {
        let mut setup = Setup::quick();
        setup.listen = Vec::new();
        (setup, format!("http://127.0.0.1:{to}"))
    };
    let (one, to_other) = setup(port);
    let one = edge_with(&[&to_other], "", one);
    let (mut other, to_one) = setup(one.address().port());
    other.listen = vec![format!("127.0.0.1:{port}")];
    let other = edge_with(&[&to_one], "", other);
    for live in ["", "&live=sse", "&live=long-poll"] {
        let target = format!("{}?offset=-1{live}", unique("loop"));
        let read = one.call("GET", &target, &[], b"");
        assert_eq!(assert_problem(&read, 508), "LOOP");
    }
    let written = other.call("PUT", &unique("loop"), &[TEXT], b"x");
    assert_eq!(written.status, 508, "{written:?}");
}

#[test]
fn an_edge_may_stand_behind_an_edge() {
    let (origin, near) = pair();
    let far = edge(&[&url(&near)], "");
    let stream = unique("far");
    far.create(&stream, "application/json", b"[1]");
    let target = format!("{stream}?offset=-1&live=sse");
    let mut readers: Vec<_> = (0..5)
        .map(|_| EventStream::open(far.address(), &target).unwrap())
        .collect();
    for n in 2..50 {
        let body = format!("[{n}, \"\\r\\n\"]");
        origin.append(&stream, "application/json", body.as_bytes());
    }
    origin.close(&stream);
    for reader in &mut readers {
        let mut count = 0;
        while let Some((data, _)) = reader.next_batch().unwrap() {
            if !data.is_empty() {
                let messages: Vec<serde_json::Value> = serde_json::from_str(&data).unwrap();
                count += messages.len();
            }
        }
        assert_eq!(count, 1 + 2 * 48);
    }
    assert_eq!(far.read_json(&stream), origin.read_json(&stream));
    let via = far.call("GET", &stream, &[], b"");
    assert_eq!(
        via.headers.iter().filter(|(name, _)| name == "via").count(),
        2
    );
    let passed = figure(&origin, "headwater_live_readers{mode=\"sse\"}");
    assert_eq!(passed, 0, "nobody follows what is closed");
}

/// Answers each caller with who they are.
fn by_credentials() -> Upstream {
    Upstream::start(|call, peer| {
        let who = call.header("authorization").unwrap_or("nobody").to_owned();
        let scope = if who == "nobody" { "public" } else { "private" };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 0_{}\r\n\
             cache-control: {scope}, max-age=1000, immutable\r\ncontent-length: {}\r\n\r\n{who}",
            who.len(),
            who.len(),
        );
        peer.send(head.as_bytes())
    })
}

#[test]
fn callers_with_different_credentials_share_nothing() {
    let origin = by_credentials();
    let edge = edge(&[origin.url()], "");
    let stream = unique("private");
    for _ in 0..3 {
        for who in ["anna", "bert"] {
            let read = edge.call("GET", &stream, &[("authorization", who)], b"");
            assert_eq!(read.body, who.as_bytes());
        }
        assert_eq!(edge.call("GET", &stream, &[], b"").body, b"nobody");
    }
}

#[test]
fn figures_tell_what_an_edge_does() {
    let (origin, edge) = pair();
    let closed = unique("figures");
    edge.create(&closed, "text/plain", &[b'x'; 1000]);
    edge.close(&closed);
    // While it is being stored, who asks joins.
    wait_until("it is answered from memory", || {
        assert_eq!(edge.read_all(&closed).len(), 1000);
        figure(&edge, "headwater_cache_answers_total{status=\"hit\"}") == 2
    });
    let stream = unique("figures");
    edge.create(&stream, "text/plain", b"x");
    let target = format!("{stream}?offset=-1&live=sse");
    let readers: Vec<_> = (0..10)
        .map(|_| EventStream::open(edge.address(), &target).unwrap())
        .collect();
    wait_until("all of them follow", || {
        figure(&edge, "headwater_followed_stream_readers") == 10
            && figure(&edge, "headwater_unfollowed_streams") == 0
    });
    assert_eq!(figure(&edge, "headwater_followed_streams"), 1);
    assert_eq!(figure(&origin, "headwater_live_readers{mode=\"sse\"}"), 1);
    assert_eq!(
        figure(&edge, "headwater_origin_requests_total{purpose=\"live\"}"),
        1
    );
    assert_eq!(
        figure(&edge, "headwater_origin_requests_total{purpose=\"pass\"}"),
        3
    );
    let by_readers = |le: &str| {
        let series = format!("headwater_followed_streams_by_readers{{le=\"{le}\"}}");
        figure(&edge, &series)
    };
    assert_eq!(
        (by_readers("1"), by_readers("10"), by_readers("+Inf")),
        (0, 1, 1)
    );
    assert_eq!(figure(&edge, "headwater_most_followed_stream_readers"), 10);
    for (series, expected) in [
        ("headwater_cache_answers_total{status=\"hit\"}", 2..3),
        // Of readers that came at the same time, some were given the same answer.
        ("headwater_cache_answers_total{status=\"miss\"}", 2..12),
        ("headwater_cache_fills_total{result=\"kept\"}", 1..2),
        ("headwater_cache_entries{tier=\"memory\"}", 1..2),
        ("headwater_cache_bytes{tier=\"memory\"}", 1000..10_000),
        ("headwater_cache_held_bytes", 1000..100_000),
        ("headwater_origin_read_bytes_total", 1001..100_000),
        ("headwater_follow_behind_seconds", 0..1),
    ] {
        let found = figure(&edge, series);
        assert!(expected.contains(&found), "{series} is {found}");
    }
    let connections = |reused: &str| {
        let labels = format!("reused=\"{reused}\",route=\"/v1/stream/*\"");
        figure(
            &edge,
            &format!("headwater_upstream_connections_total{{{labels}}}"),
        )
    };
    assert!(connections("false") > 0 && connections("true") > 0);
    wait_until("it is on disk", || {
        figure(&edge, "headwater_cache_bytes{tier=\"disk\"}") > 1000
    });
    drop(readers);
}
