//! Origins that say little, or say it late: an edge makes the best of it, and no reader hangs.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::http::EventStream;
use crate::common::{Server, Setup, unique, wait_until};
use crate::edge::{edge, edge_with, url, wait_until_followed};
use crate::edge_incarnations::{Gate, answer, parameter};
use crate::edge_live::poll;
use crate::reverse_proxy_upstream::{Call, Peer, Upstream};

/// The heads of events, and the first of them: the stream ends here.
fn begin_events(peer: &mut Peer, headers: &str, at: &str, closed: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{headers}\
         stream-sse-data-encoding: base64\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    peer.send(head.as_bytes())?;
    let end = if closed { "streamClosed" } else { "upToDate" };
    let control =
        format!("event: control\ndata:{{\"streamNextOffset\":\"{at}\",\"{end}\":true}}\n\n");
    peer.chunk(control.as_bytes())
}

/// `two`, up to this offset.
fn event_of_two(peer: &mut Peer, next: &str) -> io::Result<()> {
    let control =
        format!("event: control\ndata:{{\"streamNextOffset\":\"{next}\",\"upToDate\":true}}\n\n");
    peer.chunk(format!("event: data\ndata:dHdv\n\n{control}").as_bytes())
}

/// Nothing more comes on this connection, until the edge or the test ends it.
fn say_nothing(peer: &mut Peer) -> io::Result<()> {
    peer.read_some()?;
    Err(io::ErrorKind::ConnectionAborted.into())
}

fn is_live(call: &Call, mode: &str) -> bool {
    parameter(call, "live") == Some(mode)
}

/// Opens events, and waits until the edge follows the stream for so many readers.
fn follow(edge: &Server, stream: &str, from: &str, readers: u64) -> EventStream {
    let target = format!("{stream}?offset={from}&live=sse");
    let events = EventStream::open(edge.address(), &target).unwrap();
    wait_until_followed(edge, readers);
    events
}

/// An origin before which a cache still has an answer of the stream that was there before.
fn behind_an_old_answer(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |call, peer| {
        let new = "etag: \"0a1b2c3d:2:3:3:t\"\r\nstream-up-to-date: true\r\n";
        if is_live(call, "sse") {
            begin_events(peer, "stream-id: 0a1b2c3d:2\r\n", "0003", false)?;
            gate.wait();
            event_of_two(peer, "0006")?;
            return say_nothing(peer);
        }
        match parameter(call, "offset") {
            Some("-1") => answer(
                peer,
                "0003",
                "etag: \"0a1b2c3d:1:0:3:c\"\r\nstream-closed: true\r\n",
                "old",
            ),
            _ => answer(peer, "0003", new, ""),
        }
    })
}

#[test]
fn an_old_answer_does_not_end_the_readers_of_a_new_stream() {
    let gate = Gate::default();
    let origin = behind_an_old_answer(&gate);
    let edge = edge(&[origin.url()], "");
    let stream = unique("old");
    let mut events = follow(&edge, &stream, "0003", 1);
    assert_eq!(
        events.next_batch().unwrap().unwrap().1["streamNextOffset"],
        "0003"
    );
    for _ in 0..3 {
        assert_eq!(
            edge.call("GET", &format!("{stream}?offset=-1"), &[], b"")
                .body,
            b"old"
        );
        edge.call("GET", &format!("{stream}?offset=0003"), &[], b"");
    }
    gate.open();
    assert_eq!(events.next_batch().unwrap().unwrap().0, "two");
}

/// An origin that names no streams. Its stream ends at 0100; once the gate is open the connection to
/// it ends, and another stream is there, which ends at 0010 and brings nothing.
fn made_anew_and_shorter(gate: &Gate, closed: bool) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |call, peer| {
        let at = if gate.is_open() { "0010" } else { "0100" };
        if is_live(call, "sse") {
            begin_events(peer, "", at, closed && gate.is_open())?;
            if gate.is_open() {
                return say_nothing(peer);
            }
            gate.wait();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        answer(peer, at, "stream-up-to-date: true\r\n", "")
    })
}

#[test]
fn readers_end_where_a_stream_has_become_shorter() {
    for closed in [false, true] {
        let gate = Gate::default();
        let origin = made_anew_and_shorter(&gate, closed);
        let edge = edge(&[origin.url()], "");
        let stream = unique("shorter");
        let mut events = follow(&edge, &stream, "now", 1);
        assert_eq!(
            events.next_batch().unwrap().unwrap().1["streamNextOffset"],
            "0100"
        );
        gate.open();
        assert!(events.next_batch().unwrap().is_none(), "closed: {closed}");
        let mut new =
            EventStream::open(edge.address(), &format!("{stream}?offset=now&live=sse")).unwrap();
        assert_eq!(
            new.next_batch().unwrap().unwrap().1["streamNextOffset"],
            "0010"
        );
    }
}

#[test]
fn an_origin_that_refuses_events_is_asked_by_long_polls() {
    for status in [
        "400 Bad Request",
        "406 Not Acceptable",
        "501 Not Implemented",
    ] {
        let gate = Gate::default();
        let origin = {
            let gate = gate.clone();
            Upstream::start(move |call, peer| {
                if is_live(call, "sse") {
                    let refused = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    return peer.send(refused.as_bytes());
                }
                if is_live(call, "long-poll") {
                    gate.wait();
                    return answer(peer, "0006", "stream-closed: true\r\n", "two");
                }
                answer(peer, "0003", "stream-up-to-date: true\r\n", "")
            })
        };
        let edge = edge(&[origin.url()], "");
        let stream = unique("refused");
        let mut events = follow(&edge, &stream, "0003", 1);
        assert_eq!(
            events.next_batch().unwrap().unwrap().1["streamNextOffset"],
            "0003"
        );
        gate.open();
        assert_eq!(events.next_batch().unwrap().unwrap().0, "two", "{status}");
    }
}

#[test]
fn heads_that_do_not_come_keep_no_other_stream_waiting() {
    let gate = Gate::default();
    let hanging = AtomicUsize::new(0);
    let origin = {
        let gate = gate.clone();
        Upstream::start(move |call, peer| {
            if !is_live(call, "sse") {
                return answer(peer, "0003", "stream-up-to-date: true\r\n", "");
            }
            if call.target.contains("hanging") {
                hanging.fetch_add(1, Ordering::Relaxed);
                gate.wait();
            }
            begin_events(peer, "", "0003", false)?;
            event_of_two(peer, "0006")?;
            say_nothing(peer)
        })
    };
    let edge = edge(&[origin.url()], "");
    let open = |name: &str| {
        let target = format!("{}?offset=0003&live=sse", unique(name));
        EventStream::open(edge.address(), &target).unwrap()
    };
    let hung: Vec<_> = (0..20).map(|_| open("hanging")).collect();
    wait_until("they hang", || {
        let calls = origin.calls();
        calls.iter().filter(|call| is_live(call, "sse")).count() >= 16
    });
    let mut events = open("healthy");
    assert_eq!(
        events.next_batch().unwrap().unwrap().1["streamNextOffset"],
        "0003"
    );
    assert_eq!(events.next_batch().unwrap().unwrap().0, "two");
    gate.open();
    for mut events in hung {
        while events.next_batch().unwrap().unwrap().0 != "two" {}
    }
}

/// An origin whose second answer comes in parts, each once its gate is open: the head, and two halves
/// of the body.
fn in_parts(gates: &[Gate; 3]) -> Upstream {
    let gates = gates.clone();
    Upstream::start(move |call, peer| {
        if parameter(call, "offset") == Some("-1") {
            return answer(peer, "0003", "", "one");
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 0009\r\n\
                    stream-closed: true\r\ncontent-length: 6\r\n\r\n";
        for (gate, part) in gates.iter().zip([head, "two", "end"]) {
            gate.wait();
            peer.send(part.as_bytes())?;
        }
        Ok(())
    })
}

#[test]
fn heartbeats_go_on_between_events_while_an_origin_is_slow() {
    const HEARTBEAT: &str = ": heartbeat\n\n";
    let gates = <[Gate; 3]>::default();
    let origin = in_parts(&gates);
    let mut setup = Setup::quick();
    setup.streams.push("sse_heartbeat = \"50ms\"".to_owned());
    let edge = edge_with(&[origin.url()], "timeouts = { read = \"0\" }", setup);
    let mut reader = edge.connect();
    let target = format!("{}?offset=-1&live=sse", unique("parts"));
    reader.send_request("GET", &target, &[], b"").unwrap();
    assert_eq!(reader.read_head().unwrap().status, 200);
    let mut said = String::new();
    let mut hear_until = |end: &str| {
        while !said.ends_with(end) {
            match reader.read_chunk().unwrap() {
                Some(chunk) => said.push_str(&String::from_utf8(chunk).unwrap()),
                None => return std::mem::take(&mut said),
            }
        }
        std::mem::take(&mut said)
    };
    assert!(hear_until(HEARTBEAT).contains("one"));
    for gate in &gates[..2] {
        assert_eq!(hear_until(&HEARTBEAT.repeat(3)), HEARTBEAT.repeat(3));
        gate.open();
    }
    // Heartbeats may still come before the event, but none in it.
    hear_until("data:two");
    std::thread::sleep(Duration::from_millis(200));
    gates[2].open();
    let rest = hear_until("the end of the answer");
    assert!(rest.starts_with("end\n"), "{rest}");
    assert!(rest.contains("\"streamClosed\":true"), "{rest}");
}

#[test]
fn a_deletion_is_noticed_while_an_origin_is_slow() {
    let gate = Gate::default();
    let hung = gate.clone();
    let origin = Upstream::start(move |call, peer| {
        if call.method == "DELETE" {
            return peer.send(b"HTTP/1.1 204 No Content\r\n\r\n");
        }
        if parameter(call, "offset") == Some("-1") {
            return answer(peer, "0003", "", "one");
        }
        hung.wait();
        Err(io::ErrorKind::Other.into())
    });
    let mut setup = Setup::quick();
    setup.streams.push("sse_heartbeat = \"50ms\"".to_owned());
    setup.streams.push("sse_recycle = \"1h\"".to_owned());
    let edge = edge_with(&[origin.url()], "timeouts = { read = \"0\" }", setup);
    let stream = unique("deleted-meanwhile");
    let mut reader = edge.connect();
    let target = format!("{stream}?offset=-1&live=sse");
    reader.send_request("GET", &target, &[], b"").unwrap();
    assert_eq!(reader.read_head().unwrap().status, 200);
    while reader.read_chunk().unwrap().unwrap() != b": heartbeat\n\n" {}
    assert_eq!(edge.call("DELETE", &stream, &[], b"").status, 204);
    let heartbeats = (0..100).take_while(|_| reader.read_chunk().unwrap().is_some());
    assert!(heartbeats.count() < 100);
    gate.open();
}

#[test]
fn a_poll_gets_what_a_stream_of_another_kind_has() {
    let origin = Setup::quick().start();
    let setup = Setup {
        streams: vec!["long_poll_timeout = \"1h\"".to_owned()],
        ..Setup::quick()
    };
    let edge = edge_with(&[&url(&origin)], "", setup);
    let stream = unique("kinds");
    origin.create(&stream, "application/json", b"");
    let mut poll = edge.connect();
    let target = format!("{stream}?offset=-1&live=long-poll");
    poll.send_request("GET", &target, &[], b"").unwrap();
    wait_until_followed(&edge, 1);
    origin.call("DELETE", &stream, &[], b"");
    let polled = poll.response().unwrap();
    // Where the new stream was made in between, this is what it has; else there is none yet.
    assert_eq!(polled.status, 404, "{polled:?}");
    origin.create(&stream, "text/plain", b"hi");
    let polled = edge.call("GET", &target, &[], b"");
    assert_eq!((polled.status, &*polled.body), (200, &b"hi"[..]));
}

/// An origin that knows nothing of base64 for text, and answers long-polls.
fn plain_origin() -> Upstream {
    const BODIES: [&str; 3] = ["one\r\n", "two\r", "three\n"];
    let answer = |status: &str, next: usize, body: &str, more: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nstream-next-offset: {next:04}\r\n\
             stream-cursor: 7\r\n{more}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    Upstream::start(move |call, peer| {
        let query = call.target.split_once('?').map_or("", |parts| parts.1);
        let value = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name))
                .unwrap_or("")
        };
        if value("live=") == "sse" {
            peer.begin_chunked("text/event-stream")?;
            return peer.chunk(b": nothing\n\n");
        }
        let up_to_date = "stream-up-to-date: true\r\n";
        let at = value("offset=").parse().unwrap_or(0);
        match (BODIES.get(at), value("live=")) {
            (None, _) => {
                let closed = "stream-closed: true\r\n";
                if value("live=").is_empty() {
                    return peer.send(answer("200 OK", at, "", closed).as_bytes());
                }
                let bodiless = answer("204 No Content", at, "", closed);
                peer.send(bodiless.replace("content-length: 0\r\n", "").as_bytes())
            }
            (Some(_), "") => peer.send(answer("200 OK", at, "", up_to_date).as_bytes()),
            (Some(body), _) => {
                thread::sleep(Duration::from_millis(20));
                peer.send(answer("200 OK", at + 1, body, up_to_date).as_bytes())
            }
        }
    })
}

#[test]
fn text_of_an_origin_without_exact_events_is_followed_by_long_polls() {
    let origin = plain_origin();
    let edge = edge(&[origin.url()], "");
    let read = poll(&edge, &unique("plain"), "0000", false);
    assert_eq!(String::from_utf8_lossy(&read), "one\r\ntwo\rthree\n");
    let polls = origin.calls();
    let polls = polls
        .iter()
        .filter(|call| call.target.contains("live=long-poll"));
    assert!(polls.clone().count() >= 3);
    assert!(polls.skip(1).any(|call| call.target.contains("cursor=7")));
}

/// An origin that first answers with data up to 0005, and then with `later`, whatever it is asked.
fn odd_origin(later: &'static str) -> Upstream {
    Upstream::start(move |call, peer| {
        let first = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 0005\r\ncontent-length: 5\r\n\r\nfirst";
        let is_first = call.target.contains("offset=-1");
        peer.send(if is_first { first } else { later }.as_bytes())?;
        // A body that is too short is known to be so by its end.
        Err(io::ErrorKind::ConnectionAborted.into())
    })
}

#[test]
fn what_brings_a_reader_no_farther_is_not_its_data() {
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nsorry";
    let again = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 0005\r\ncontent-length: 5\r\n\r\nfirst";
    let before = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 0003\r\ncontent-length: 3\r\n\r\nfir";
    for later in [page, again, before] {
        let origin = odd_origin(later);
        let mut setup = Setup::quick();
        setup.streams.push("sse_recycle = \"4s\"".to_owned());
        let edge = edge_with(&[origin.url()], "", setup);
        let target = format!("{}?offset=-1&live=sse", unique("odd"));
        let mut events = EventStream::open(edge.address(), &target).unwrap();
        let mut read = String::new();
        while let Some((data, control)) = events.next_batch().unwrap() {
            read.push_str(&data);
            assert_eq!(control["streamNextOffset"], "0005", "{later}");
        }
        assert_eq!(read, "first", "{later}");
        // Once or so a second, and not as often as it can.
        assert!(origin.calls().len() < 50, "{later}");
    }
}

/// An origin of text without exact events, whose first answer behind 0003 is coded though nobody asked
/// for that, and whose long-polls do not wait until the gate is open.
fn hasty_origin(gate: &Gate) -> Upstream {
    let (gate, is_first) = (gate.clone(), AtomicBool::new(true));
    Upstream::start(move |call, peer| match parameter(call, "offset") {
        Some("-1") => answer(peer, "0003", "", "one"),
        Some("0003") if is_first.swap(false, Ordering::Relaxed) => {
            answer(peer, "0006", "content-encoding: gzip\r\n", "\x1f\x0b")
        }
        Some("0003") => answer(peer, "0006", "stream-up-to-date: true\r\n", "two"),
        _ if parameter(call, "live") == Some("long-poll") && gate.is_open() => {
            answer(peer, "0009", "stream-closed: true\r\n", "end")
        }
        _ if parameter(call, "live") == Some("long-poll") => {
            peer.send(b"HTTP/1.1 204 No Content\r\nstream-next-offset: 0006\r\n\r\n")
        }
        _ => answer(peer, "0006", "stream-up-to-date: true\r\n", ""),
    })
}

#[test]
fn an_origin_that_codes_and_does_not_wait_is_borne_with() {
    let gate = Gate::default();
    let origin = hasty_origin(&gate);
    let edge = edge(&[origin.url()], "");
    let target = format!("{}?offset=-1&live=sse", unique("hasty"));
    let mut events = EventStream::open(edge.address(), &target).unwrap();
    for data in ["one", "two"] {
        assert_eq!(events.next_batch().unwrap().unwrap().0, data);
    }
    thread::sleep(Duration::from_secs(2));
    let polls = origin.calls().len();
    gate.open();
    assert_eq!(events.next_batch().unwrap().unwrap().0, "end");
    // Ever less often, and not as often as it can.
    assert!(polls < 60, "{polls}");
}

#[test]
fn events_that_broke_off_do_not_look_complete() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 0010\r\ncontent-length: 5\r\n\r\nse";
    let origin = odd_origin(cut);
    let edge = edge(&[origin.url()], "");
    let target = format!("{}?offset=-1&live=sse", unique("cut"));
    let mut events = EventStream::open(edge.address(), &target).unwrap();
    assert_eq!(events.next_batch().unwrap().unwrap().0, "first");
    assert!(events.next_batch().is_err());
}
