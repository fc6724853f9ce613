//! Purges of an edge by its operator: what is kept, and what was last heard of streams that are
//! followed.

use crate::common::http::{Connection, EventStream, Response};
use crate::common::{Server, Setup, unique, wait_until};
use crate::edge::{edge, figure, pair, url};

fn purge(server: &Server, query: &str) -> Response {
    let mut admin = Connection::open(server.admin_address()).unwrap();
    let target = format!("/purge?{query}");
    admin.call("POST", &target, &[], b"").unwrap()
}

/// How many answers were forgotten.
fn purged(server: &Server, query: &str) -> u64 {
    let purged = purge(server, query);
    assert_eq!(purged.status, 200, "{purged:?}");
    let told: serde_json::Value = serde_json::from_slice(&purged.body).unwrap();
    told["answers"].as_u64().unwrap()
}

/// The tag of a stream's answers.
fn tag(stream: &str) -> String {
    format!("stream:default/{}", stream.rsplit('/').next().unwrap())
}

/// How an answer came about, once it is clear that it is the right one.
fn read(edge: &Server, stream: &str) -> String {
    let read = edge.call("GET", stream, &[], b"");
    assert_eq!((read.status, &*read.body), (200, &b"kept"[..]));
    read.expect("cache-status").to_owned()
}

fn disk_entries(edge: &Server) -> u64 {
    figure(edge, "headwater_cache_entries{tier=\"disk\"}")
}

const HIT: &str = "headwater; hit";
const STORED: &str = "headwater; fwd=uri-miss; stored";

#[test]
fn what_was_purged_is_asked_for_again() {
    let origin = Setup::quick().start();
    let mut edge = edge(&[&url(&origin)], "");
    let [stream, other] = ["purged", "other"].map(unique);
    for stream in [&stream, &other] {
        origin.create(stream, "text/plain", b"kept");
        origin.close(stream);
        assert_eq!(read(&edge, stream), STORED);
        wait_until("it is stored", || read(&edge, stream) == HIT);
    }
    let edge_keeps = |query: &str, answers: u64| {
        wait_until("it is stored", || read(&edge, &stream) == HIT);
        assert_eq!(purged(&edge, query), answers, "{query}");
        let then = if answers == 0 { HIT } else { STORED };
        assert_eq!(read(&edge, &stream), then, "after {query}");
        assert_eq!(read(&edge, &other), HIT, "after {query}");
    };
    let (path, tag) = (&stream, tag(&stream));
    edge_keeps(&format!("path={path}"), 1);
    edge_keeps(&format!("tag={tag}"), 1);
    edge_keeps(&format!("path={path}&origin={}", url(&origin)), 1);
    edge_keeps(&format!("path={path}&origin=http://elsewhere:1"), 0);
    edge_keeps("path=/v1/stream/nothing", 0);
    edge_keeps("tag=nothing", 0);

    purged(&edge, &format!("tag={tag}"));
    assert_eq!(figure(&edge, "headwater_cache_purges_total"), 7);
    wait_until("the other is on disk", || disk_entries(&edge) == 1);
    edge.terminate();
    edge.restart();
    wait_until("what is on disk is known", || disk_entries(&edge) == 1);
    assert_eq!(read(&edge, &other), "headwater; hit; detail=disk");
    assert_eq!(read(&edge, &stream), STORED);
}

#[test]
fn a_purge_that_is_not_clear_is_refused() {
    let (origin, edge) = pair();
    for query in [
        "",
        "path",
        "path=a&path=b",
        "path=a&tag=b",
        "origin=a",
        "stream=a",
    ] {
        let refused = purge(&edge, query);
        let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(
            (refused.status, &problem["code"]),
            (400, &"PURGE_TARGET".into()),
            "{query}"
        );
    }
    assert_eq!(edge.admin("/purge?path=a").status, 405);
    let nothing = purge(&origin, "path=a");
    let problem: serde_json::Value = serde_json::from_slice(&nothing.body).unwrap();
    assert_eq!(
        (nothing.status, &problem["code"]),
        (404, &"NO_CACHE".into())
    );
}

#[test]
fn live_readers_stay_when_what_was_heard_is_purged() {
    const LIVE: &str = "headwater; hit; detail=live";
    let (origin, edge) = pair();
    let stream = unique("ring");
    origin.create(&stream, "text/plain", b"");
    let target = format!("{stream}?offset=-1&live=sse");
    let mut reader = EventStream::open(edge.address(), &target).unwrap();
    let mut heard = |expected: &str| {
        let (data, control) = reader.next_batch().unwrap().unwrap();
        assert_eq!(data, expected);
        control["streamNextOffset"].as_str().unwrap().to_owned()
    };
    let begin = heard("");
    wait_until("it is followed", || {
        figure(&edge, "headwater_followed_streams") == 1
            && figure(&edge, "headwater_unfollowed_streams") == 0
    });
    let poll = |offset: &str| {
        let target = format!("{stream}?offset={offset}&live=long-poll");
        let polled = edge.call("GET", &target, &[], b"");
        let status = polled.expect("cache-status").to_owned();
        (String::from_utf8(polled.body).unwrap(), status)
    };
    let mut at = begin.clone();
    let mut whole = String::new();
    let by_path = format!("path={stream}");
    let by_origin = format!("path={stream}&origin={}", url(&origin));
    for (round, query) in [by_path, by_origin, format!("tag={}", tag(&stream))]
        .iter()
        .enumerate()
    {
        let part = format!("part {round};");
        origin.append(&stream, "text/plain", part.as_bytes());
        whole.push_str(&part);
        let next = heard(&part);
        assert_eq!(poll(&at), (part.clone(), LIVE.to_owned()));
        assert!(figure(&edge, "headwater_followed_hot_bytes") > 0);

        purged(&edge, "path=/v1/stream/another");
        assert_eq!(poll(&at), (part.clone(), LIVE.to_owned()));
        purged(&edge, query);
        assert_eq!(figure(&edge, "headwater_followed_hot_bytes"), 0, "{query}");
        for (from, expected) in [(&at, &part), (&begin, &whole)] {
            let (body, status) = poll(from);
            assert_eq!(body, *expected);
            assert!(status.starts_with("headwater; fwd="), "{status}");
        }
        at = next;
    }
    assert_eq!(
        figure(&edge, "headwater_origin_requests_total{purpose=\"live\"}"),
        1
    );
}
