//! What an operator relies on: health, metrics, starting and stopping, routes,
//! and that what has expired goes away by itself.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::http::{Connection, EventStream};
use crate::common::{Noise, Server, Setup, assert_problem, free_port, unique, wait_until};

const TEXT: (&str, &str) = ("content-type", "text/plain");

#[test]
fn the_admin_port_tells_how_it_is() {
    let server = Server::start();
    let target = unique("measured");
    server.create(&target, "text/plain", b"abc");
    server.append(&target, "text/plain", b"def");
    assert_eq!(server.read_all(&target), b"abcdef");
    server.call("GET", &unique("nothing"), &[], b"");

    assert_eq!(server.admin("/healthz").status, 200);
    assert_eq!(server.admin("/readyz").status, 200);
    assert_eq!(server.admin("/nothing").status, 404);
    // An answer is counted once it is sent.
    wait_until("all answers are counted", || {
        let metrics = server.admin("/metrics").body;
        String::from_utf8(metrics)
            .unwrap()
            .contains("status=\"404\"")
    });
    let metrics = server.admin("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.expect("content-type").starts_with("text/plain"));
    let metrics = String::from_utf8(metrics.body).unwrap();
    for part in [
        "headwater_requests_total{method=\"GET\"",
        "status=\"404\"",
        "headwater_appended_bytes_total",
        "headwater_read_bytes_total",
        "headwater_live_readers",
        "headwater_sync_duration_seconds",
        "headwater_rocksdb_",
    ] {
        assert!(metrics.contains(part), "no {part} in\n{metrics}");
    }
    // A label for each stream would grow without bound.
    assert!(!metrics.contains("measured"), "{metrics}");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }

    // Streams and administration are apart.
    assert_problem(&server.call("GET", "/metrics", &[], b""), 404);
    let mut admin = Connection::open(server.admin_address()).unwrap();
    assert_eq!(admin.call("GET", &target, &[], b"").unwrap().status, 404);
}

#[test]
fn unknown_routes_and_hosts_are_not_found() {
    let server = Setup {
        site: "hosts = [\"localhost\", \"*.streams.test\"]".to_owned(),
        ..Setup::quick()
    }
    .start();
    let target = unique("hosted");
    server.create(&target, "text/plain", b"abc");
    let ask = |target: &str, host: &str| {
        let mut connection = server.connect();
        let bytes = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        connection.send(bytes.as_bytes()).unwrap();
        connection.response().unwrap()
    };
    let port = server.address().port();
    for host in [
        "localhost",
        "LocalHost",
        &format!("localhost:{port}"),
        "a.streams.test",
        "a.b.streams.test",
    ] {
        assert_eq!(ask(&target, host).status, 200, "{host}");
    }
    for host in [
        "example.com",
        "streams.test",
        "localhost.example.com",
        "127.0.0.1",
    ] {
        assert_problem(&ask(&target, host), 404);
    }
    for path in ["/", "/v1", "/v1/streams/x", "/v1/stream", "/favicon.ico"] {
        assert_problem(&ask(path, "localhost"), 404);
    }
}

#[test]
fn a_restart_keeps_everything() {
    let mut server = Server::start();
    let open = unique("open");
    let closed = unique("closed");
    let deleted = unique("deleted");
    let source = unique("source");
    let fork = unique("fork");
    let lasting = unique("lasting");
    server.create(&open, "application/json", b"[1,2]");
    server.append(&open, "application/json", b"{\"big\":18446744073709551615}");
    server.create(&closed, "text/plain; charset=utf-8", b"abc");
    server.close(&closed);
    server.create(&deleted, "text/plain", b"abc");
    assert_eq!(server.call("DELETE", &deleted, &[], b"").status, 204);
    server.create(&source, "text/plain", b"source ");
    let forked = server.call("PUT", &fork, &[("stream-forked-from", &source)], b"");
    assert_eq!(forked.status, 201);
    server.append(&fork, "text/plain", b"and fork");
    server.append(&source, "text/plain", b"goes on");
    assert_eq!(server.call("DELETE", &source, &[], b"").status, 204);
    let until = "2099-01-02T03:04:05Z";
    let created = server.call("PUT", &lasting, &[TEXT, ("stream-expires-at", until)], b"x");
    assert_eq!(created.status, 201);
    let seq = server.call("POST", &lasting, &[TEXT, ("stream-seq", "b")], b"y");
    assert_eq!(seq.status, 204);

    let facts = |server: &Server| {
        let mut facts = Vec::new();
        for target in [&open, &closed, &deleted, &source, &fork, &lasting] {
            let head = server.call("HEAD", target, &[], b"");
            let mut headers: Vec<_> = head.headers.clone();
            headers.retain(|(name, _)| {
                let name = name.to_ascii_lowercase();
                name.starts_with("stream-") || matches!(name.as_str(), "content-type" | "etag")
            });
            headers.sort();
            let read = server.call("GET", target, &[], b"");
            facts.push((
                head.status,
                headers,
                read.status,
                read.header("etag").map(ToOwned::to_owned),
                String::from_utf8(read.body).unwrap(),
            ));
        }
        facts
    };
    let before = facts(&server);
    let bodies: Vec<_> = before
        .iter()
        .map(|fact| (fact.0, fact.4.as_str()))
        .collect();
    assert_eq!(bodies[0], (200, r#"[1,2,{"big":18446744073709551615}]"#));
    assert_eq!(bodies[1], (200, "abc"));
    assert_eq!((bodies[2].0, bodies[3].0), (404, 410));
    assert_eq!(bodies[4], (200, "source and fork"));
    assert_eq!(bodies[5], (200, "xy"));

    for _ in 0..2 {
        server.terminate();
        server.restart();
        assert_eq!(facts(&server), before);
        let regression = server.call("POST", &lasting, &[TEXT, ("stream-seq", "b")], b"z");
        assert_problem(&regression, 409);
    }
}

#[test]
fn dev_needs_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let (port, admin) = (free_port(), free_port());
    let mut process = Command::new(env!("CARGO_BIN_EXE_headwater"))
        .arg("dev")
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--admin", &format!("127.0.0.1:{admin}")])
        .arg("--data")
        .arg(dir.path().join("data"))
        .args(["--long-poll-timeout", "500ms", "--durability", "os"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let get = |port: u16, target: &str| {
        Connection::open(([127, 0, 0, 1], port).into())
            .and_then(|mut connection| connection.call("GET", target, &[], b""))
    };
    wait_until("it is ready", || {
        assert!(process.try_wait().unwrap().is_none(), "it ended");
        get(admin, "/readyz").is_ok_and(|response| response.status == 200)
    });
    let target = unique("dev");
    let mut connection = Connection::open(([127, 0, 0, 1], port).into()).unwrap();
    assert_eq!(
        connection
            .call("PUT", &target, &[TEXT], b"abc")
            .unwrap()
            .status,
        201
    );
    let polled = get(port, &format!("{target}?offset=now&live=long-poll")).unwrap();
    assert_eq!(polled.status, 204);
    assert!(dir.path().join("data").is_dir());
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let mut server = Setup::quick().start();
    let output = Command::new(env!("CARGO_BIN_EXE_headwater"))
        .arg("dev")
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .args(["--admin", &format!("127.0.0.1:{}", free_port())])
        .arg("--data")
        .arg(server.data_dir())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty(), "it says why");
    server.assert_healthy();
}

// --- Stopping

#[test]
fn live_readers_are_ended_cleanly() {
    let mut server = Setup {
        streams: vec![r#"long_poll_timeout = "1h""#.to_owned()],
        ..Setup::default()
    }
    .start();
    let target = unique("watched");
    server.create(&target, "text/plain", b"abc");
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut events =
            EventStream::open(server.address(), &format!("{target}?offset=-1&live=sse")).unwrap();
        let (data, control) = events.next_batch().unwrap().unwrap();
        assert_eq!((data.as_str(), &control["upToDate"]), ("abc", &true.into()));
        readers.push(events);
    }
    let mut pollers = Vec::new();
    for _ in 0..20 {
        let mut poller = server.connect();
        let poll = format!("{target}?offset=now&live=long-poll");
        poller.send_request("GET", &poll, &[], b"").unwrap();
        pollers.push(poller);
    }
    wait_until("the pollers wait", || {
        let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
        metrics.contains("headwater_live_readers{mode=\"long_poll\"} 20\n")
    });

    server.send_sigterm();
    for mut reader in readers {
        // Up to the last chunk: a client must not take it for a failure.
        while let Some(event) = reader.next().unwrap() {
            assert_eq!(event.kind, "control");
            assert!(!event.data.contains("streamClosed"), "{event:?}");
        }
    }
    for mut poller in pollers {
        let response = poller.response().unwrap();
        assert_eq!(response.status, 204, "{response:?}");
        assert_eq!(response.expect("stream-up-to-date"), "true");
        assert!(response.header("stream-closed").is_none());
    }
    assert!(server.wait_for_exit().success(), "{}", server.said());
    server.restart();
    server.append(&target, "text/plain", b"def");
    assert_eq!(server.read_all(&target), b"abcdef");
}

#[test]
fn a_stop_is_clean_as_soon_as_a_client_can_connect() {
    let mut server = Server::start();
    for _ in 0..5 {
        server.terminate();
        server.spawn();
        wait_until("the port is open", || {
            TcpStream::connect(server.address()).is_ok()
        });
        server.send_sigterm();
        let status = server.wait_for_exit();
        assert!(status.success(), "{status}: {}", server.said());
        server.spawn();
        server.wait_until_ready().unwrap();
    }
}

#[test]
fn an_append_in_flight_finishes() {
    let mut server = Setup {
        top: "shutdown_timeout = \"120s\"".to_owned(),
        ..Setup::default()
    }
    .start();
    let target = unique("in-flight");
    server.create(&target, "text/plain", b"");
    let mut writer = server.connect();
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\n\
         content-type: text/plain\r\ncontent-length: 6\r\n\r\nabc"
    );
    writer.send(head.as_bytes()).unwrap();
    wait_until("the append is under way", || {
        let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
        let in_flight = "headwater_in_flight_requests{route=\"/v1/stream/*\"} 1\n";
        metrics.contains(in_flight)
    });
    server.send_sigterm();
    // From here on nobody should send it more work.
    wait_until("it is not ready any more", || !server.is_ready());
    assert!(server.is_alive(), "it did not wait for the append");
    writer.send(b"def").unwrap();
    let response = writer.response().unwrap();
    assert_eq!(response.status, 204, "{response:?}");
    assert!(server.wait_for_exit().success(), "{}", server.said());
    server.restart();
    assert_eq!(server.read_all(&target), b"abcdef");
}

#[test]
fn a_client_that_stays_does_not_hold_up_the_stop() {
    let mut server = Setup {
        top: "shutdown_timeout = \"1s\"".to_owned(),
        ..Setup::default()
    }
    .start();
    let target = unique("stuck");
    server.create(&target, "text/plain", b"");
    let idle = server.connect();
    let mut kept = server.connect();
    assert_eq!(kept.call("GET", &target, &[], b"").unwrap().status, 200);
    let mut half = server.connect();
    half.send(b"GET /v1/str").unwrap();
    let mut stalled = server.connect();
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\n\
         content-type: text/plain\r\ncontent-length: 6\r\n\r\nabc"
    );
    stalled.send(head.as_bytes()).unwrap();
    server.terminate();
    drop((idle, kept, half, stalled));
    server.restart();
    assert_eq!(server.read_all(&target), b"");
}

#[test]
fn acknowledged_appends_survive_a_stop_under_load() {
    const WRITERS: usize = 8;
    let mut server = Server::start();
    let target = unique("loaded");
    server.create(&target, "text/plain", b"");
    let address = server.address();
    let stopped = AtomicBool::new(false);
    for round in 0..3 {
        stopped.store(false, Ordering::SeqCst);
        let acknowledged: Vec<Vec<String>> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (target, stopped) = (&target, &stopped);
                    scope.spawn(move || {
                        append_until_stopped(address, target, round, writer, stopped)
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(200));
            stopped.store(true, Ordering::SeqCst);
            server.terminate();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .collect()
        });
        server.restart();
        let content = String::from_utf8(server.read_all(&target)).unwrap();
        for (writer, lines) in acknowledged.iter().enumerate() {
            let prefix = format!("{round} {writer} ");
            let found: Vec<_> = content
                .lines()
                .filter(|line| line.starts_with(&prefix))
                .map(|line| format!("{line}\n"))
                .collect();
            assert!(found.starts_with(lines), "writer {writer} lost something");
            // One more may be there whose answer was lost.
            assert!(found.len() <= lines.len() + 1);
        }
    }
}

/// Appends one line after the other until the server ends the connection, which
/// it may do only when it is told to stop. Returns the acknowledged ones.
fn append_until_stopped(
    address: SocketAddr,
    target: &str,
    round: usize,
    writer: usize,
    stopped: &AtomicBool,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut connection = Connection::open(address).expect("connect");
    for n in 0.. {
        let line = format!("{round} {writer} {n}\n");
        match connection.call("POST", target, &[TEXT], line.as_bytes()) {
            Ok(response) if response.status == 204 => {
                acknowledged.push(line);
                if response.header("connection") == Some("close") {
                    break;
                }
            }
            // A stopping server may refuse, and then says so.
            Ok(response) => {
                assert_problem(&response, 503);
                break;
            }
            Err(error) => {
                assert!(stopped.load(Ordering::SeqCst), "cut off early: {error}");
                break;
            }
        }
    }
    acknowledged
}

// --- Expiry

#[test]
fn what_has_expired_is_gone_for_every_request() {
    let server = Server::start();
    let ttl = unique("ttl");
    let soon = unique("soon");
    let read = unique("read");
    let created = server.call("PUT", &ttl, &[TEXT, ("stream-ttl", "1")], b"x");
    assert_eq!(created.status, 201);
    let created = server.call("PUT", &read, &[TEXT, ("stream-ttl", "3600")], b"x");
    assert_eq!(created.status, 201);
    assert_eq!(created.header("stream-closed"), None);
    let at = rfc3339(SystemTime::now() + Duration::from_secs(2));
    let created = server.call("PUT", &soon, &[TEXT, ("stream-expires-at", &at)], b"x");
    assert_eq!(created.status, 201);
    for target in [&ttl, &soon] {
        // HEAD renews nothing.
        wait_until("it has expired", || {
            server.call("HEAD", target, &[], b"").status == 404
        });
        assert_problem(&server.call("GET", target, &[], b""), 404);
        assert_problem(&server.call("POST", target, &[TEXT], b"x"), 404);
        let live = format!("{target}?offset=-1&live=sse");
        assert_problem(&server.call("GET", &live, &[], b""), 404);
        assert_problem(&server.call("DELETE", target, &[], b""), 404);
        // Another stream may take its place, and has nothing of it.
        server.create(target, "application/json", b"");
        assert_eq!(server.read_all(target), b"[]");
    }
    assert_eq!(server.read_all(&read), b"x");
}

/// Streams enough that the server claims their room back, whatever it leaves
/// lying for a while: 320 MiB.
const DISK_STREAMS: u64 = 80;
const DISK_STREAM_BYTES: usize = 4 << 20;

/// Fills the disk, and returns the streams' paths and how much it was.
fn fill_disk(server: &Server, headers: &[(&str, &str)]) -> (Vec<String>, u64) {
    let targets: Vec<_> = (0..DISK_STREAMS).map(|_| unique("filling")).collect();
    for (seed, target) in (0..).zip(&targets) {
        let content = Noise::bytes(seed, DISK_STREAM_BYTES);
        let created = server.call("PUT", target, headers, &content);
        assert_eq!(created.status, 201, "{created:?}");
    }
    let full = disk_usage(&server.data_dir());
    println!("{} MiB on disk", full >> 20);
    (targets, DISK_STREAMS * DISK_STREAM_BYTES as u64)
}

fn wait_for_disk(server: &Server, below: u64) {
    wait_until("the disk is free again", || {
        disk_usage(&server.data_dir()) < below
    });
    println!("{} MiB on disk", disk_usage(&server.data_dir()) >> 20);
}

/// Expired streams go from the disk although nobody asks for them.
#[test]
fn what_has_expired_frees_the_disk_by_itself() {
    let server = Setup::quick().start();
    let kept = unique("kept");
    server.create(&kept, "text/plain", b"kept");
    let (_, total) = fill_disk(&server, &[("stream-ttl", "2")]);
    wait_for_disk(&server, total / 2);
    assert_eq!(server.read_all(&kept), b"kept");
}

#[test]
fn what_is_deleted_frees_the_disk() {
    let server = Setup::quick().start();
    let (targets, total) = fill_disk(&server, &[]);
    // A fork keeps its source's data until it goes itself.
    let fork = unique("fork");
    let source = ("stream-forked-from", targets[0].as_str());
    assert_eq!(server.call("PUT", &fork, &[source], b"").status, 201);
    for target in &targets {
        assert_eq!(server.call("DELETE", target, &[], b"").status, 204);
    }
    wait_for_disk(&server, total / 2);
    assert!(server.read_all(&fork) == Noise::bytes(0, DISK_STREAM_BYTES));
    assert_eq!(server.call("HEAD", &targets[0], &[], b"").status, 410);
    assert_eq!(server.call("DELETE", &fork, &[], b"").status, 204);
    wait_until("the source goes with its last fork", || {
        server.call("HEAD", &targets[0], &[], b"").status == 404
    });
}

/// The bytes of all files below a directory; one that vanishes counts nothing.
fn disk_usage(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// A time as RFC 3339 writes it, in UTC.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let time = chrono::DateTime::from_timestamp(seconds as i64, 0).unwrap();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
