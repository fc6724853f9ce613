//! Several origins behind an edge: weights, health, and coming back after being away.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::common::http::EventStream;
use crate::common::{Server, Setup, assert_problem, unique, wait_until};
use crate::edge::{edge, figure, url};
use crate::reverse_proxy_upstream::{Call, Peer, Upstream};

const TEXT: (&str, &str) = ("content-type", "text/plain");

#[test]
fn an_origin_with_more_weight_is_the_home_of_more_streams() {
    const STREAMS: usize = 300;
    let origin = || {
        Upstream::start(|call, peer| {
            peer.body(call)?;
            peer.send(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
        })
    };
    let (light, heavy) = (origin(), origin());
    let mut setup = Setup::quick();
    setup.streams.push(format!(
        "origin = {{ upstreams = [{:?}, {{ url = {:?}, weight = 9 }}] }}",
        light.url(),
        heavy.url(),
    ));
    let edge = setup.start();
    let mut connection = edge.connect();
    for n in 0..STREAMS {
        let created = connection.call("PUT", &unique(&format!("s{n}")), &[TEXT], b"");
        assert_eq!(created.unwrap().status, 201);
    }
    let (light, heavy) = (light.calls().len(), heavy.calls().len());
    assert_eq!(light + heavy, STREAMS);
    // Nine tenths, and not all of them.
    assert!((STREAMS * 3 / 4..STREAMS).contains(&heavy), "{heavy}");
}

/// A stream of each of the origins, by what an edge has created there.
pub(crate) fn streams_by_home<const N: usize>(edge: &Server, origins: [&Server; N]) -> [String; N] {
    let mut found = [const { None }; N];
    while found.iter().any(Option::is_none) {
        let stream = unique("home");
        edge.create(&stream, "text/plain", b"first;");
        let has = |origin: &&Server| origin.call("HEAD", &stream, &[], b"").status == 200;
        let home = origins.iter().position(has).expect("a home");
        found[home].get_or_insert(stream);
    }
    found.map(Option::unwrap)
}

#[test]
fn while_an_origin_is_down_its_streams_are_away_and_the_others_go_on() {
    let mut failing = Setup::quick().start();
    let steady = Setup::quick().start();
    let check = "health_check = { interval = \"50ms\", unhealthy_after = 1, healthy_after = 1 }";
    let edge = edge(&[&url(&failing), &url(&steady)], check);
    let [away, here] = streams_by_home(&edge, [&failing, &steady]);
    let follow = |stream: &str| {
        let target = format!("{stream}?offset=-1&live=sse");
        let mut events = EventStream::open(edge.address(), &target).unwrap();
        assert_eq!(events.next_batch().unwrap().unwrap().0, "first;");
        events
    };
    let (mut waiting, mut going) = (follow(&away), follow(&here));
    let unhealthy = || {
        figure(
            &edge,
            "headwater_upstream_unhealthy_addresses{route=\"/v1/stream/*\"}",
        )
    };
    assert_eq!(unhealthy(), 0);
    for round in 0..2 {
        failing.kill9();
        wait_until("a check fails", || unhealthy() == 1);
        for (method, body) in [("GET", ""), ("POST", "x"), ("HEAD", "")] {
            let refused = edge.call(method, &away, &[TEXT], body.as_bytes());
            assert!(refused.expect("retry-after").parse::<u64>().unwrap() > 0);
            if method == "HEAD" {
                assert_eq!(refused.status, 503);
            } else {
                assert_eq!(assert_problem(&refused, 503), "ORIGIN_AWAY");
            }
        }
        let body = format!("round {round};");
        edge.append(&here, "text/plain", body.as_bytes());
        assert_eq!(going.next_batch().unwrap().unwrap().0, body);
        assert!(edge.read_all(&here).ends_with(body.as_bytes()));

        failing.restart();
        wait_until("a check succeeds", || unhealthy() == 0);
        edge.append(&away, "text/plain", body.as_bytes());
        assert!(edge.read_all(&away).ends_with(body.as_bytes()));
        // Who waited for it all the time has missed nothing.
        assert_eq!(waiting.next_batch().unwrap().unwrap().0, body);
    }
}

/// An origin of empty streams that can let go of all who follow them, and then lets nobody in
/// until it is told to.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<Crowd>, Condvar)>);

/// Who follows streams there, or asks to.
#[derive(Default)]
struct Crowd {
    is_closed: bool,
    /// How often all were let go.
    turn: u32,
    following: usize,
    /// How many ask at this moment, by edge.
    asking: HashMap<String, usize>,
    /// The most that asked at one time, of any edge.
    asking_most: usize,
}

impl Gate {
    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.0.0.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Crowd)) {
        change(&mut self.crowd());
        self.0.1.notify_all();
    }

    fn wait_while(&self, condition: impl Fn(&Crowd) -> bool) {
        let crowd = self.0.1.wait_while(self.crowd(), |crowd| condition(crowd));
        drop(crowd.unwrap());
    }

    /// Answers one who follows a stream.
    fn follow(&self, call: &Call, peer: &mut Peer) -> io::Result<()> {
        let edge = call.header("via").expect("an edge").to_owned();
        let turn = {
            let crowd = &mut *self.crowd();
            let asking = crowd.asking.entry(edge.clone()).or_default();
            *asking += 1;
            crowd.asking_most = crowd.asking_most.max(*asking);
            crowd.turn
        };
        self.wait_while(|crowd| crowd.is_closed);
        self.change(|crowd| {
            *crowd.asking.get_mut(&edge).unwrap() -= 1;
            crowd.following += 1;
        });
        peer.begin_chunked("text/event-stream")?;
        peer.chunk(b"event: control\ndata:{\"streamNextOffset\":\"1\",\"upToDate\":true}\n\n")?;
        self.wait_while(|crowd| crowd.turn == turn);
        self.change(|crowd| crowd.following -= 1);
        Err(io::ErrorKind::ConnectionReset.into())
    }

    fn start(&self) -> Upstream {
        let gate = self.clone();
        Upstream::start(move |call, peer| {
            if call.target.contains("live=sse") {
                return gate.follow(call, peer);
            }
            peer.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nstream-next-offset: 1\r\n\
                  stream-up-to-date: true\r\ncontent-length: 2\r\n\r\n[]",
            )
        })
    }
}

#[test]
fn an_origin_that_comes_back_is_not_stormed() {
    const EDGES: usize = 2;
    const STREAMS: usize = 40;
    /// What docs/edge.md says of the requests of one edge.
    const ASKING_MAX: usize = 16;
    let gate = Gate::default();
    let origin = gate.start();
    let edges = [(); EDGES].map(|()| edge(&[origin.url()], ""));
    let mut readers = Vec::new();
    for n in 0..EDGES * STREAMS {
        let target = format!("{}?offset=-1&live=sse", unique(&format!("s{n}")));
        let mut events = EventStream::open(edges[n % EDGES].address(), &target).unwrap();
        assert_eq!(
            events.next_batch().unwrap().unwrap().1["streamNextOffset"],
            "1"
        );
        readers.push(events);
    }
    wait_until("all are followed", || {
        gate.crowd().following == EDGES * STREAMS
    });
    for _ in 0..2 {
        gate.change(|crowd| {
            crowd.is_closed = true;
            crowd.asking_most = 0;
            crowd.turn += 1;
        });
        wait_until("both edges ask as much as they may", || {
            let crowd = gate.crowd();
            crowd.asking.len() == EDGES && crowd.asking.values().all(|one| *one >= ASKING_MAX)
        });
        for edge in &edges {
            let waiting = figure(edge, "headwater_unfollowed_streams");
            assert_eq!(waiting, STREAMS as u64);
        }
        // Time for the others to show up, if they would not wait.
        thread::sleep(Duration::from_millis(300));
        gate.change(|crowd| crowd.is_closed = false);
        wait_until("all are followed again", || {
            gate.crowd().following == EDGES * STREAMS
        });
        assert_eq!(gate.crowd().asking_most, ASKING_MAX);
    }
    for edge in &edges {
        let readers = figure(edge, "headwater_live_readers{mode=\"sse\"}");
        assert_eq!(readers, STREAMS as u64, "nobody was sent away");
    }
}
