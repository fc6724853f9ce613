//! Much data, in few and in many pieces.

use std::fmt::Write as _;

use crate::common::http::request;
use crate::common::{Noise, Server, Setup, unique};

const BODY_BYTES: usize = 32 << 20;
const BODIES: usize = 64;
const SEED: u64 = 1;

/// The most memory that the server may ever have had, whatever the stream's
/// size: a few bodies on their way, the database's own, the caches' caps.
const PEAK_MEMORY_KIB: u64 = 700 << 10;

#[test]
fn two_gibibytes_go_in_and_come_out() {
    let server = Setup::quick().start();
    let target = unique("huge");
    server.create(&target, "application/octet-stream", b"");
    let mut noise = Noise::new(SEED);
    let mut body = vec![0; BODY_BYTES];
    let mut connection = server.connect();
    for _ in 0..BODIES {
        noise.fill(&mut body);
        let headers = [("content-type", "application/octet-stream")];
        let response = connection.call("POST", &target, &headers, &body).unwrap();
        assert_eq!(response.status, 204, "{response:?}");
    }
    check_noise(&server, &target);
    server.close(&target);
    check_noise(&server, &target);
    let peak = server.memory_kib("VmHWM");
    println!("the most memory the server had: {} MiB", peak >> 10);
    assert!(peak < PEAK_MEMORY_KIB, "{peak} KiB");
}

/// The stream holds exactly what was written, without holding it here.
fn check_noise(server: &Server, target: &str) {
    let mut noise = Noise::new(SEED);
    let mut expected = vec![0; 64 << 10];
    let mut at = expected.len();
    let mut total = 0;
    server.read_each(target, |mut part| {
        while !part.is_empty() {
            if at == expected.len() {
                noise.fill(&mut expected);
                at = 0;
            }
            let length = part.len().min(expected.len() - at);
            assert!(
                part[..length] == expected[at..at + length],
                "the content differs near byte {total}"
            );
            part = &part[length..];
            at += length;
            total += length;
        }
    });
    assert_eq!(total, BODY_BYTES * BODIES);
}

const WRITERS: usize = 8;
const APPENDS_PER_WRITER: usize = 25_000;
const PIPELINED: usize = 100;

#[test]
fn two_hundred_thousand_tiny_appends() {
    let mut server = Setup::quick().start();
    let target = unique("tiny");
    server.create(&target, "text/plain", b"");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (server, target) = (&server, &target);
            scope.spawn(move || write_tiny(server, target, writer));
        }
    });

    let content = server.read_all(&target);
    let text = std::str::from_utf8(&content).expect("UTF-8");
    let mut next = [0; WRITERS];
    for line in text.lines() {
        let (writer, n) = line.split_once(' ').expect("a whole message");
        let next = &mut next[writer.parse::<usize>().expect("a writer")];
        assert_eq!(n.parse(), Ok(*next), "writer {writer}");
        *next += 1;
    }
    assert_eq!(next, [APPENDS_PER_WRITER; WRITERS]);

    server.close(&target);
    assert!(server.read_all(&target) == content, "changed by the close");
    server.terminate();
    server.restart();
    assert!(
        server.read_all(&target) == content,
        "changed by the restart"
    );
    let head = server.call("HEAD", &target, &[], b"");
    assert_eq!(head.expect("stream-closed"), "true");
}

fn write_tiny(server: &Server, target: &str, writer: usize) {
    let mut connection = server.connect();
    let mut message = String::new();
    for first in (0..APPENDS_PER_WRITER).step_by(PIPELINED) {
        let mut bytes = Vec::new();
        for n in first..first + PIPELINED {
            message.clear();
            let _ = writeln!(message, "{writer} {n}");
            let headers = [("content-type", "text/plain")];
            bytes.extend(request("POST", target, &headers, message.as_bytes()));
        }
        connection.send(&bytes).expect("send");
        for _ in 0..PIPELINED {
            let response = connection.response().expect("an answer");
            assert_eq!(response.status, 204, "{response:?}");
        }
    }
}
