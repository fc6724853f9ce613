//! What one client, or all of them, may take: beyond it they are refused with a
//! clear answer, and the others are served as before.

use crate::common::http::{Connection, EventStream};
use crate::common::{Noise, Server, Setup, assert_problem, headwater, unique, wait_until};
use std::process::{Command, Stdio};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const BINARY: (&str, &str) = ("content-type", "application/octet-stream");

fn limited(limits: &str) -> Server {
    Setup {
        limits: limits.to_owned(),
        ..Setup::quick()
    }
    .start()
}

#[test]
fn the_size_of_heads() {
    let mut server = limited("header_bytes_max = \"4KiB\"\npath_bytes_max = \"128B\"");
    let target = unique("heads");
    server.create(&target, "text/plain", b"abc");
    let mut connection = server.connect();
    let large = "x".repeat(5_000);
    let response = connection.call("GET", &target, &[("x", &large)], b"");
    assert_problem(&response.unwrap(), 431);
    let many: Vec<_> = (0..200).map(|_| ("x", "twenty bytes of text")).collect();
    let response = connection.call("GET", &target, &many, b"");
    assert_problem(&response.unwrap(), 431);
    let long = format!("{target}/{}", "x".repeat(128));
    for method in ["GET", "PUT", "POST"] {
        let response = connection.call(method, &long, &[TEXT], b"body");
        assert_problem(&response.unwrap(), 414);
    }
    let small = "x".repeat(2_000);
    let response = connection.call("GET", &target, &[("x", &small)], b"");
    assert_eq!(response.unwrap().body, b"abc");
    server.assert_healthy();
}

/// A head that is never finished takes no more than it may.
#[test]
fn heads_without_an_end() {
    let mut server = limited("header_bytes_max = \"4KiB\"\npath_bytes_max = \"128B\"");
    let refused = |begin: &str, rest: &str| {
        let mut connection = server.connect();
        connection.send(begin.as_bytes()).unwrap();
        connection.send(rest.as_bytes()).unwrap();
        let response = connection.response().unwrap();
        assert!(connection.is_closed());
        let status = response.status;
        assert_problem(&response, status)
    };
    let much = "x".repeat(300_000);
    assert_eq!(refused("GET / HTTP/1.1\r\na: ", &much), "HEADERS_TOO_LARGE");
    assert_eq!(
        refused("GET /a b HTTP/1.1\r\na: ", &much),
        "HEADERS_TOO_LARGE"
    );
    assert_eq!(refused("GET /", &much), "PATH_TOO_LONG");
    let many = "a: b\r\n".repeat(300);
    assert_eq!(refused("GET / HTTP/1.1\r\n", &many), "HEADERS_TOO_LARGE");
    // Who speaks something else need not say it all.
    assert_eq!(refused("\u{16}\u{3}\u{1}", ""), "MALFORMED_REQUEST");
    let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
    let count = |status: &str| {
        let series = format!("status=\"{status}\"}}");
        let of_status = metrics.lines().filter(|line| line.contains(&series));
        of_status
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum::<u64>()
    };
    assert_eq!((count("431"), count("414")), (3, 1));
    server.assert_healthy();
}

#[test]
fn the_number_of_live_readers() {
    let mut server = limited("live_readers_max = 3");
    let target = unique("readers");
    server.create(&target, "text/plain", b"abc");
    let sse = format!("{target}?offset=-1&live=sse");
    let mut readers: Vec<_> = (0..3)
        .map(|_| EventStream::open(server.address(), &sse).unwrap())
        .collect();
    for live in ["sse", "long-poll"] {
        let refused = server.call("GET", &format!("{target}?offset=now&live={live}"), &[], b"");
        assert_problem(&refused, 503);
        refused.expect("retry-after");
    }
    // All else goes on.
    server.append(&target, "text/plain", b"def");
    assert_eq!(server.read_all(&target), b"abcdef");
    for reader in &mut readers {
        let mut seen = String::new();
        while seen != "abcdef" {
            seen.push_str(&reader.next_batch().unwrap().expect("an event").0);
        }
    }
    readers.pop();
    wait_until("there is room again", || {
        let poll = format!("{target}?offset=now&live=long-poll");
        server.call("GET", &poll, &[], b"").status == 204
    });
    drop(readers);
    server.assert_healthy();
}

/// Whether a stream is read on a connection.
fn is_served(connection: &mut Connection, target: &str) -> bool {
    let response = connection.call("GET", target, &[], b"");
    response.is_ok_and(|response| response.status == 200)
}

/// Connects until no more are taken, which are `most`.
fn open_all(server: &Server, target: &str, most: usize) -> Vec<Connection> {
    let mut open = Vec::new();
    wait_until("the server takes no more", || {
        let mut connection = server.connect();
        let taken = is_served(&mut connection, target);
        if taken {
            open.push(connection);
        }
        assert!(open.len() <= most);
        !taken
    });
    assert_eq!(open.len(), most);
    open
}

#[test]
fn the_number_of_connections() {
    let mut server = limited("connections_max = 20");
    let target = unique("connections");
    server.create(&target, "text/plain", b"abc");
    let works = |connection: &mut Connection| is_served(connection, &target);
    let mut open = open_all(&server, &target, 20);
    assert!(open.iter_mut().all(works), "those that are open stay");
    assert_eq!(server.admin("/healthz").status, 200);
    drop(open);
    wait_until("there is room again", || works(&mut server.connect()));
    wait_until("it is left alone", || {
        let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
        metrics.contains("headwater_open_connections 0\n")
    });
    server.assert_healthy();
}

#[test]
fn the_number_of_connections_from_one_address() {
    let mut server = limited("connections_per_address_max = 3");
    let target = unique("addresses");
    server.create(&target, "text/plain", b"abc");
    let works = |connection: &mut Connection| is_served(connection, &target);
    let open = open_all(&server, &target, 3);
    let elsewhere = Command::new("curl")
        .args(["--silent", "--fail", "--interface", "127.0.0.2"])
        .arg(format!("http://{}{target}", server.address()))
        .output()
        .unwrap();
    assert_eq!(elsewhere.stdout, b"abc", "{elsewhere:?}");
    let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
    let refused = "headwater_refusals_total{reason=\"connections_per_address\"} ";
    assert!(metrics.contains(refused));
    assert!(!metrics.contains(&format!("{refused}0\n")));
    drop(open);
    wait_until("there is room again", || works(&mut server.connect()));
    server.assert_healthy();
}

/// Who says nothing to the admin listener keeps nobody else away for long, nor takes files.
#[test]
fn the_number_of_admin_connections() {
    let mut server = limited("");
    let address = server.admin_address();
    let works = || {
        let mut connection = Connection::open(address).unwrap();
        let response = connection.call("GET", "/healthz", &[], b"");
        response.is_ok_and(|response| response.status == 200)
    };
    let mut silent = Vec::new();
    wait_until("no more are taken", || {
        silent.push(Connection::open(address).unwrap());
        !works()
    });
    assert!(silent.len() >= 64);
    let target = unique("admin");
    server.create(&target, "text/plain", b"abc");
    silent.truncate(60);
    wait_until("there is room again", works);
    drop(silent);
    server.assert_healthy();
}

/// Idle clients leave the store the files that it needs to go on.
#[test]
fn the_number_of_open_files() {
    const OPEN_FILES: u32 = 544;
    const APPENDS: usize = 2_000;
    let mut server = Setup {
        open_files: Some(OPEN_FILES),
        limits: "idle_timeout = \"1h\"".to_owned(),
        // Each MiB takes new files.
        log: "memtable_bytes = \"1MiB\"".to_owned(),
        ..Setup::quick()
    }
    .start();
    assert!(server.said().contains("LimitNOFILE"), "{}", server.said());
    let target = unique("files");
    server.create(&target, BINARY.1, b"");
    let mut writer = server.connect();
    let chunk = Noise::bytes(1, 5_000);
    let mut append = || {
        let response = writer.call("POST", &target, &[BINARY], &chunk).unwrap();
        assert_eq!(response.status, 204, "{response:?}");
    };
    append();
    let refused_none = "headwater_refusals_total{reason=\"connections\"} 0\n";
    let metrics = || String::from_utf8(server.admin("/metrics").body).unwrap();
    assert!(metrics().contains(refused_none));
    let idle: Vec<_> = (0..=OPEN_FILES).map(|_| server.connect()).collect();
    wait_until("there is no more room", || {
        !metrics().contains(refused_none)
    });
    for _ in 1..APPENDS {
        append();
    }
    let works = || {
        let response = server.connect().call("HEAD", &target, &[], b"");
        response.is_ok_and(|response| response.status == 200)
    };
    assert!(!works(), "the places are taken");
    drop(idle);
    wait_until("there is room again", works);
    assert!(server.read_all(&target) == chunk.repeat(APPENDS));
    server.assert_healthy();
}

#[test]
fn too_few_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let output = headwater(Some(300))
        .args(["dev", "--listen", "127.0.0.1:0", "--admin", "none"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("300") && said.contains("LimitNOFILE"),
        "{said}"
    );
}

#[test]
fn the_number_of_producers() {
    let mut server = limited("producers_per_stream_max = 5");
    let target = unique("producers");
    server.create(&target, "text/plain", b"");
    let append = |id: &str, epoch: &str, seq: &str| {
        let headers = [
            TEXT,
            ("producer-id", id),
            ("producer-epoch", epoch),
            ("producer-seq", seq),
        ];
        server.call("POST", &target, &headers, b"x")
    };
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(append(id, "0", "0").status, 200);
    }
    let refused = append("f", "0", "0");
    assert!(matches!(refused.status, 400..=499), "{refused:?}");
    assert_problem(&refused, refused.status);
    // Those that it knows are as they were, also in a new epoch.
    assert_eq!(append("a", "0", "0").status, 204);
    assert_eq!(append("a", "0", "1").status, 200);
    assert_eq!(append("b", "1", "0").status, 200);
    server.append(&target, "text/plain", b"y");
    assert_eq!(server.read_all(&target), b"xxxxxxxy");
    server.assert_healthy();
}

/// Forks of forks, as many as may be; what is refused leaves nothing behind.
#[test]
fn the_depth_of_forks() {
    let mut server = limited("fork_depth_max = 2");
    let targets: Vec<_> = (0..4).map(|_| unique("deep")).collect();
    server.create(&targets[0], "text/plain", b"0");
    let fork = |number: usize, more: &[(&str, &str)]| {
        let source = ("stream-forked-from", targets[number - 1].as_str());
        let headers = [&[TEXT, source], more].concat();
        server.call(
            "PUT",
            &targets[number],
            &headers,
            number.to_string().as_bytes(),
        )
    };
    assert_eq!(fork(1, &[]).status, 201);
    assert_eq!(fork(2, &[]).status, 201);
    assert_eq!(assert_problem(&fork(3, &[]), 409), "FORK_TOO_DEEP");
    assert_eq!(server.call("HEAD", &targets[3], &[], b"").status, 404);
    assert_eq!(server.read_all(&targets[2]), b"012");
    let early = ("stream-fork-offset", "0000000000000000_0000000000000005");
    // Again is not deeper, and what has no data of the last one is not either.
    assert_eq!(fork(2, &[]).status, 200);
    assert_eq!(fork(3, &[early]).status, 201);
    assert_eq!(server.read_all(&targets[3]), b"03");
    // A refused fork holds nothing of its source, so this one goes whole.
    for target in targets.iter().rev() {
        assert_eq!(server.call("DELETE", target, &[], b"").status, 204);
    }
    wait_until("all are gone", || {
        let status = |target: &String| server.call("HEAD", target, &[], b"").status;
        targets.iter().all(|target| status(target) == 404)
    });
    server.assert_healthy();
}

/// Clients that announce the largest bodies and then say nothing take no room
/// from those that send what they have.
#[test]
fn announced_bodies_hold_nobody_up() {
    let mut server = limited(
        "body_timeout = \"1h\"\nbody_bytes_max = \"32MiB\"\nbodies_in_flight_bytes_max = \"64MiB\"",
    );
    let target = unique("announced");
    server.create(&target, "text/plain", b"");
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut connection = server.connect();
        let head = format!(
            "POST {target} HTTP/1.1\r\nhost: localhost\r\n\
             content-type: text/plain\r\ncontent-length: {}\r\n\r\nx",
            32 << 20
        );
        connection.send(head.as_bytes()).unwrap();
        stalled.push(connection);
    }
    wait_until("all of them are under way", || {
        let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
        metrics.contains("headwater_in_flight_requests{route=\"/v1/stream/*\"} 4\n")
    });
    for _ in 0..20 {
        server.append(&target, "text/plain", b"small ");
    }
    assert_eq!(server.read_all(&target), b"small ".repeat(20));
    drop(stalled);
    server.assert_healthy();
}

/// A reader that takes nothing is cut off, and keeps no memory and no place.
#[test]
fn readers_that_take_nothing() {
    let mut server = limited("write_timeout = \"1s\"");
    let target = unique("slow");
    server.create(&target, "application/octet-stream", b"");
    let chunk = Noise::bytes(1, 1 << 20);
    for _ in 0..32 {
        server.append(&target, BINARY.1, &chunk);
    }
    let mut readers = Vec::new();
    for query in ["offset=-1", "offset=-1&live=sse", "offset=now&live=sse"] {
        for _ in 0..5 {
            let mut reader = server.connect();
            let target = format!("{target}?{query}");
            reader.send_request("GET", &target, &[], b"").unwrap();
            readers.push(reader);
        }
    }
    // Enough that no socket's buffers hold what the last five are sent.
    for _ in 0..32 {
        server.append(&target, BINARY.1, &chunk);
    }
    wait_until("all of them are cut off", || {
        let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
        metrics.contains("headwater_live_readers{mode=\"sse\"} 0\n")
            && metrics.contains("headwater_in_flight_requests{route=\"/v1/stream/*\"} 0\n")
    });
    for mut reader in readers {
        // What they were sent does not look complete, unless it is.
        if let Ok(response) = reader.response() {
            assert!(
                response.header("transfer-encoding").is_none(),
                "{response:?}"
            );
        }
    }
    assert_eq!(server.read_all(&target).len(), 64 << 20);
    server.assert_healthy();
}

/// What is sent to clients who take it slowly is bounded; there is room again when they leave.
#[test]
fn large_answers_that_nobody_takes() {
    let mut server = Setup {
        limits: "answers_in_flight_bytes_max = \"16MiB\"".to_owned(),
        // So little that none of them is kept.
        log: "cache_bytes = \"8MiB\"".to_owned(),
        ..Setup::quick()
    }
    .start();
    let targets: Vec<_> = (0..3).map(|n| unique(&format!("large-{n}"))).collect();
    let append = Noise::bytes(1, 8_000_000);
    for target in &targets {
        server.create(target, BINARY.1, b"");
        server.append(target, BINARY.1, &append);
    }
    let open = |target: &str| {
        let mut reader = server.connect();
        let target = format!("{target}?offset=-1");
        reader.send_request("GET", &target, &[], b"").unwrap();
        reader
    };
    let mut slow: Vec<_> = targets[..2].iter().map(|target| open(target)).collect();
    for reader in &mut slow {
        assert_eq!(reader.read_head().unwrap().status, 200);
    }
    let refused = open(&targets[2]).response().unwrap();
    assert_eq!(assert_problem(&refused, 503), "TOO_MANY_FETCHES");
    refused.expect("retry-after");
    slow.pop();
    wait_until("there is room again", || {
        let response = open(&targets[2]).response().unwrap();
        response.status == 200 && response.body == append
    });
    drop(slow);
    server.assert_healthy();
}

/// Readers of a long history share little memory: each comes to its end.
#[test]
fn many_long_answers_at_one_time() {
    let mut server = Setup {
        limits: "answers_in_flight_bytes_max = \"1MiB\"\nwrite_timeout = \"1h\"".to_owned(),
        log: "cache_bytes = \"8MiB\"".to_owned(),
        ..Setup::quick()
    }
    .start();
    let target = unique("long");
    server.create(&target, BINARY.1, b"");
    let append = Noise::bytes(1, 100_000);
    for _ in 0..100 {
        server.append(&target, BINARY.1, &append);
    }
    let whole = append.repeat(100);
    let address = server.address();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert!(server.read_all(&target) == whole));
            scope.spawn(|| {
                let sse = format!("{target}?offset=-1&live=sse");
                let mut events = EventStream::open(address, &sse).unwrap();
                let mut encoded = String::new();
                let mut tail = false;
                while !tail {
                    let (data, control) = events.next_batch().unwrap().expect("an event");
                    encoded.push_str(&data);
                    tail = control["upToDate"] == true;
                }
                assert!(encoded.len() > whole.len());
            });
        }
    });
    server.assert_healthy();
}
