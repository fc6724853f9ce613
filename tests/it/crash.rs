//! The process is killed at random moments, with appends, creations, closes,
//! deletions and forks on their way. Whatever was acknowledged holds after it.
//!
//! `HEADWATER_SEED` repeats a run's choices, `HEADWATER_CRASH_ROUNDS` makes it
//! longer.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::http::{Connection, Response, request};
use crate::common::{PATIENCE, Server, Setup, seed, unique};

const ROUNDS: u32 = 8;
const PRODUCERS_PER_STREAM: usize = 2;
const CONTENT_TYPES: [&str; 3] = ["application/json", "text/plain", "application/octet-stream"];

#[test]
fn what_was_acknowledged_survives_kill_9_sync() {
    survive("sync");
}

#[test]
fn what_was_acknowledged_survives_kill_9_os() {
    survive("os");
}

fn survive(durability: &'static str) {
    let mut random = StdRng::seed_from_u64(seed());
    let rounds = std::env::var("HEADWATER_CRASH_ROUNDS")
        .map_or(ROUNDS, |text| text.parse().expect("a number"));
    let mut server = Setup {
        durability,
        // Small, so that streams are packed all the time, also while killed.
        log: "segment_bytes = \"64KiB\"".to_owned(),
        ..Setup::default()
    }
    .start();

    let streams = CONTENT_TYPES.map(|content_type| {
        let target = unique("crash");
        server.create(&target, content_type, b"");
        (target, content_type)
    });
    let producers: Vec<_> = streams
        .iter()
        .flat_map(|(target, content_type)| {
            (0..PRODUCERS_PER_STREAM).map(move |n| Producer {
                target: target.clone(),
                content_type,
                id: format!("producer-{n}"),
                acknowledged: AtomicU64::new(0),
            })
        })
        .collect();
    let ledger = Ledger::default();
    let address = server.address();
    let load = Load::default();

    std::thread::scope(|scope| {
        // Also when a check fails: the threads must not wait for a server
        // that is not coming back.
        let _stopping = StopOnDrop(&load);
        for producer in &producers {
            let random = StdRng::seed_from_u64(random.random());
            let load = &load;
            scope.spawn(move || producer.run(address, random, load));
        }
        scope.spawn(|| ledger.run(address, &load));

        for round in 0..rounds {
            std::thread::sleep(Duration::from_millis(random.random_range(20..500)));
            let before: Vec<_> = producers.iter().map(Producer::acknowledged).collect();
            let entries_before = ledger.len();
            server.kill9();
            while random.random_bool(0.3) {
                // Killed again before or while it recovers.
                server.spawn();
                std::thread::sleep(Duration::from_millis(random.random_range(0..200)));
                server.kill9();
            }
            server.restart();
            println!(
                "round {round}: {} appends acknowledged, {entries_before} other changes",
                before.iter().sum::<u64>()
            );
            load.pause(true);
            for (target, content_type) in &streams {
                let found = messages(&server, target, content_type);
                check_order(&producers, target, &found, &before);
            }
            ledger.check(&server, entries_before.saturating_sub(100)..entries_before);
            load.pause(false);
        }
    });

    // Everything is acknowledged now; nothing is on its way.
    let after: Vec<_> = producers.iter().map(Producer::acknowledged).collect();
    let check_all = |server: &Server| {
        for (target, content_type) in &streams {
            let found = messages(server, target, content_type);
            check_order(&producers, target, &found, &after);
            let expected = producers.iter().zip(&after);
            let expected = expected.filter(|(producer, _)| producer.target == *target);
            let expected: u64 = expected.map(|(_, acknowledged)| acknowledged).sum();
            assert_eq!(found.values().map(Vec::len).sum::<usize>() as u64, expected);
        }
        ledger.check(server, 0..ledger.len());
    };
    check_all(&server);
    for producer in &producers {
        producer.check_state(&server);
    }
    check_after_close(&mut server, &streams);
}

/// Closed streams give the same bytes after a crash and after a proper stop.
fn check_after_close(server: &mut Server, streams: &[(String, &str)]) {
    let contents: Vec<_> = streams
        .iter()
        .map(|(target, _)| {
            server.close(target);
            server.read_all(target)
        })
        .collect();
    for crash in [true, false] {
        if crash {
            server.kill9();
        } else {
            server.terminate();
        }
        server.restart();
        for ((target, _), content) in streams.iter().zip(&contents) {
            assert!(
                server.read_all(target) == *content,
                "{target} changed, crash: {crash}"
            );
            let head = server.call("HEAD", target, &[], b"");
            assert_eq!(head.expect("stream-closed"), "true");
        }
    }
}

/// Whether the threads go on writing.
#[derive(Default)]
struct Load {
    paused: AtomicBool,
    stopped: AtomicBool,
}

impl Load {
    /// While something is checked nothing need be written, only while
    /// something is killed.
    fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// Whether to go on; waits while the load is paused.
    fn goes_on(&self) -> bool {
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                return false;
            }
            if !self.paused.load(Ordering::SeqCst) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct StopOnDrop<'a>(&'a Load);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::SeqCst);
    }
}

/// Asks until there is an answer, over the server's crashes.
fn ask(
    address: SocketAddr,
    connection: &mut Option<Connection>,
    bytes: &[u8],
) -> (Response, Attempts) {
    let deadline = Instant::now() + PATIENCE;
    for attempt in 1.. {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::open(address) {
                Ok(open) => open,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(error) => panic!("the server stays away: {error}"),
            },
        };
        match open.send(bytes).and_then(|()| open.response()) {
            Ok(response) if response.status == 503 && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(response) => {
                *connection = Some(open);
                return (response, Attempts(attempt));
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
    unreachable!()
}

/// How often a request was sent before it was answered. After more than one
/// it may have been done already.
#[derive(Clone, Copy, PartialEq)]
struct Attempts(u32);

/// An idempotent producer that numbers its messages like its requests.
struct Producer {
    target: String,
    content_type: &'static str,
    id: String,
    /// How many of its requests are known to be done.
    acknowledged: AtomicU64,
}

impl Producer {
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Appends until it is told to stop, up to four requests at a time. After
    /// a lost connection it sends again what was not acknowledged.
    fn run(&self, address: SocketAddr, mut random: StdRng, load: &Load) {
        let mut waiting = Vec::new();
        let mut first = 0;
        let mut connection = None;
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            if waiting.is_empty() {
                if !load.goes_on() {
                    return;
                }
                first = self.acknowledged();
                for seq in first..first + random.random_range(1..=4) {
                    waiting.push(self.request(seq, &mut random));
                }
                deadline = Instant::now() + PATIENCE;
            }
            match self.exchange(address, &mut connection, &waiting, first) {
                Ok(()) => waiting.clear(),
                Err(error) => {
                    assert!(Instant::now() < deadline, "{error}");
                    connection = None;
                    let done = self.acknowledged() - first;
                    waiting.drain(..done as usize);
                    first += done;
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    fn exchange(
        &self,
        address: SocketAddr,
        connection: &mut Option<Connection>,
        requests: &[Vec<u8>],
        first: u64,
    ) -> std::io::Result<()> {
        if connection.is_none() {
            *connection = Some(Connection::open(address)?);
        }
        let open = connection.as_mut().expect("just opened");
        open.send(&requests.concat())?;
        for seq in (first..).take(requests.len()) {
            let response = open.response()?;
            match response.status {
                200 | 204 => {
                    assert_eq!(response.expect("producer-epoch"), "0");
                    self.acknowledged.store(seq + 1, Ordering::SeqCst);
                }
                // Those behind it leave a gap; they are sent again with it.
                503 => return Err(std::io::Error::other("busy")),
                _ => panic!("{} {seq}: {response:?}", self.id),
            }
        }
        Ok(())
    }

    fn request(&self, seq: u64, random: &mut StdRng) -> Vec<u8> {
        let length = match random.random_range(0..20) {
            0 => random.random_range(0..100_000),
            1..=5 => random.random_range(0..5_000),
            _ => random.random_range(0..100),
        };
        self.append(seq, "x".repeat(length).as_str())
    }

    fn append(&self, seq: u64, padding: &str) -> Vec<u8> {
        let body = if self.content_type == "application/json" {
            format!(r#"["{} {seq} {padding}"]"#, self.id)
        } else {
            format!("{} {seq} {padding}\n", self.id)
        };
        let seq = seq.to_string();
        let headers = [
            ("content-type", self.content_type),
            ("producer-id", &self.id),
            ("producer-epoch", "0"),
            ("producer-seq", &seq),
        ];
        request("POST", &self.target, &headers, body.as_bytes())
    }

    /// The state of the producer is that of its data: the last request is a
    /// duplicate, the one after the next a gap, and the next is accepted.
    fn check_state(&self, server: &Server) {
        let mut connection = server.connect();
        let mut send = |seq: u64| {
            connection.send(&self.append(seq, "")).unwrap();
            connection.response().unwrap()
        };
        let next = self.acknowledged();
        if let Some(last) = next.checked_sub(1) {
            let duplicate = send(last);
            assert_eq!(duplicate.status, 204, "{duplicate:?}");
            assert_eq!(duplicate.expect("producer-seq"), last.to_string());
        }
        let gap = send(next + 1);
        assert_eq!(gap.status, 409, "{gap:?}");
        assert_eq!(gap.expect("producer-expected-seq"), next.to_string());
        let accepted = send(next);
        assert_eq!(accepted.status, 200, "{accepted:?}");
        assert_eq!(accepted.expect("producer-seq"), next.to_string());
        self.acknowledged.store(next + 1, Ordering::SeqCst);
    }
}

/// The numbers of the messages of each producer, in the order of the stream.
fn messages(server: &Server, target: &str, content_type: &str) -> HashMap<String, Vec<u64>> {
    let mut lines = String::new();
    if content_type == "application/json" {
        for message in server.read_json(target) {
            let _ = writeln!(lines, "{}", message.as_str().expect("a string"));
        }
    } else {
        lines = String::from_utf8(server.read_all(target)).expect("UTF-8");
    }
    assert!(lines.is_empty() || lines.ends_with('\n'), "a torn message");
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for line in lines.lines() {
        let mut words = line.splitn(3, ' ');
        let mut word = || {
            words
                .next()
                .unwrap_or_else(|| panic!("a torn message {line:?}"))
        };
        let (id, seq, padding) = (word(), word(), word());
        assert!(padding.bytes().all(|byte| byte == b'x'), "{line:?}");
        let seq = seq.parse().expect("a number");
        found.entry(id.to_owned()).or_default().push(seq);
    }
    found
}

/// Each producer's messages are there once, in order, without a gap, and at
/// least those that were acknowledged.
fn check_order(
    producers: &[Producer],
    target: &str,
    found: &HashMap<String, Vec<u64>>,
    acknowledged: &[u64],
) {
    for (producer, acknowledged) in producers.iter().zip(acknowledged) {
        if producer.target != target {
            continue;
        }
        let seqs = found.get(&producer.id).map_or(&[][..], Vec::as_slice);
        for (expected, seq) in (0..).zip(seqs) {
            assert_eq!(*seq, expected, "{target} {}", producer.id);
        }
        let length = seqs.len() as u64;
        assert!(
            length >= *acknowledged,
            "{target} {}: {acknowledged} acknowledged, {length} there",
            producer.id
        );
    }
}

/// Streams that are created, closed, deleted and forked all the time, and what
/// has to be found of them.
#[derive(Default)]
struct Ledger {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    target: String,
    status: u16,
    closed: bool,
    content: String,
}

impl Ledger {
    fn len(&self) -> usize {
        self.entries
            .lock()
            .expect("no panic while it is held")
            .len()
    }

    fn run(&self, address: SocketAddr, load: &Load) {
        let mut connection = None;
        for n in 0.. {
            if !load.goes_on() {
                return;
            }
            let made = make(n, |bytes| ask(address, &mut connection, bytes));
            let mut entries = self.entries.lock().expect("no panic while it is held");
            entries.extend(made);
        }
    }

    fn check(&self, server: &Server, range: std::ops::Range<usize>) {
        let entries = self.entries.lock().expect("no panic while it is held")[range].to_vec();
        for entry in entries {
            let head = server.call("HEAD", &entry.target, &[], b"");
            assert_eq!(head.status, entry.status, "{entry:?}");
            assert_eq!(
                head.header("stream-closed").is_some(),
                entry.closed,
                "{entry:?}"
            );
            if entry.status == 200 {
                let content = server.read_all(&entry.target);
                assert_eq!(
                    String::from_utf8_lossy(&content),
                    entry.content,
                    "{entry:?}"
                );
            }
        }
    }
}

/// Makes one stream or two, and says what they must be from then on.
fn make(n: u64, mut ask: impl FnMut(&[u8]) -> (Response, Attempts)) -> Vec<Entry> {
    let mut change = |method: &str, target: &str, headers: &[(&str, &str)], body: &str| {
        let bytes = request(method, target, headers, body.as_bytes());
        let (response, attempts) = ask(&bytes);
        let good = match (method, attempts) {
            ("PUT", Attempts(1)) => response.status == 201,
            ("PUT", _) => matches!(response.status, 200 | 201),
            // Sent again, it finds the stream deleted already.
            ("DELETE", Attempts(2..)) => matches!(response.status, 204 | 404 | 410),
            _ => matches!(response.status, 200 | 204),
        };
        assert!(good, "{method} {target}: {response:?}");
    };
    let text = ("content-type", "text/plain");
    let target = unique("ledger");
    let content = format!("content {n}");
    let entry = Entry {
        target: target.clone(),
        status: 200,
        closed: false,
        content: content.clone(),
    };
    change("PUT", &target, &[text], &content);
    match n % 5 {
        0 => vec![entry],
        1 => {
            change("POST", &target, &[("stream-closed", "true")], "");
            vec![Entry {
                closed: true,
                ..entry
            }]
        }
        2 => {
            change("DELETE", &target, &[], "");
            vec![Entry {
                status: 404,
                ..entry
            }]
        }
        3 => {
            // Closed with its last message, by a producer.
            let closing = [
                text,
                ("stream-closed", "true"),
                ("producer-id", "p"),
                ("producer-epoch", "0"),
                ("producer-seq", "0"),
            ];
            change("POST", &target, &closing, " and an end");
            vec![Entry {
                closed: true,
                content: format!("{content} and an end"),
                ..entry
            }]
        }
        _ => {
            // The fork keeps what its deleted source held.
            let fork = unique("fork");
            change("PUT", &fork, &[("stream-forked-from", &target)], "");
            let more = [
                text,
                ("producer-id", "p"),
                ("producer-epoch", "0"),
                ("producer-seq", "0"),
            ];
            change("POST", &fork, &more, " and more");
            change("DELETE", &target, &[], "");
            let fork = Entry {
                target: fork,
                content: format!("{content} and more"),
                ..entry.clone()
            };
            vec![
                Entry {
                    status: 410,
                    ..entry
                },
                fork,
            ]
        }
    }
}
