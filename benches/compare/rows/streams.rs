//! Many small streams: created and closed by one request each, left idle, and found again after a
//! crash.

use super::{Sizes, failed};
use crate::http::{self, Client};
use crate::load::{self, Outcome, Workload};
use crate::servers::{Kind, Server, Setup};
use crate::stats::Figure;
use std::io::{self, Write};
use std::time::Duration;

const CONNECTIONS: usize = 64;
const FILES_MAX: u32 = 1024;
/// As many as the competitor can hold open where 20,000 open files are allowed.
pub(super) const RESTART_STREAMS: usize = 19_000;
/// Streams that are read back.
const SAMPLES: usize = 1000;
const TIME_MAX: Duration = Duration::from_mins(10);

struct Creates {
    next: usize,
    count: usize,
    body: Vec<u8>,
}

impl Creates {
    fn new(count: usize) -> Self {
        Self {
            next: 0,
            count,
            body: Vec::new(),
        }
    }
}

fn name(stream: usize) -> String {
    format!("session/{stream:08}")
}

/// What a stream holds.
fn put_body(out: &mut Vec<u8>, stream: usize) -> io::Result<()> {
    write!(
        out,
        "stream {stream:08} was created, filled and closed at once."
    )
}

impl Workload for Creates {
    fn next(&mut self, _: usize, request: &mut Vec<u8>) -> bool {
        if self.next == self.count {
            return false;
        }
        let stream = self.next;
        self.next += 1;
        self.body.clear();
        let length = put_body(&mut self.body, stream).map(|()| self.body.len());
        let written = length.and_then(|length| {
            write!(
                request,
                "PUT {}session/{stream:08} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                 Stream-Closed: true\r\nContent-Length: {length}\r\n\r\n",
                http::PREFIX,
            )
        });
        request.extend_from_slice(&self.body);
        written.is_ok()
    }

    fn answered(&mut self, _: usize, status: u16, _: &[u8]) -> Result<(), String> {
        match status {
            201 => Ok(()),
            other => Err(format!("a PUT was answered with {other}")),
        }
    }
}

fn create(server: &Server, count: usize) -> io::Result<Outcome> {
    load::run(
        server.address,
        CONNECTIONS,
        TIME_MAX,
        &mut Creates::new(count),
    )
}

pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let mut server = Server::start(setup, kind, FILES_MAX)?;
    let before = server.usage()?;
    let outcome = create(&server, sizes.streams)?;
    let count = outcome.operations as usize;
    let mut figures = vec![Figure::more("streams created", count as f64)];
    if let Some(failure) = &outcome.failure {
        // It got no further; what it may still do is not comparable.
        eprintln!("{} ended after {count} streams: {failure}", kind.name());
        return Ok(figures);
    }
    let after = server.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    figures.push(Figure::more("per second", outcome.rate()));
    figures.push(Figure::less("server CPU µs each", cpu * 1e6 / count as f64));
    figures.push(Figure::less("p99 ms", outcome.latency_ms(0.99)));
    figures.push(Figure::less("RSS MiB, at once", after.resident_mib()));
    std::thread::sleep(sizes.settle_time());
    figures.push(Figure::less(
        "RSS MiB, idle",
        server.usage()?.resident_mib(),
    ));
    figures.push(Figure::less("restart ms", restart_ms(&mut server, count)?));
    figures.push(Figure::less(
        "RSS MiB, restarted",
        server.usage()?.resident_mib(),
    ));
    verify(&server, count)?;
    Ok(figures)
}

pub(super) fn measure_restart(setup: &Setup, kind: Kind) -> io::Result<Vec<Figure>> {
    let mut server = Server::start(setup, kind, crate::open_files_max()?)?;
    let outcome = create(&server, RESTART_STREAMS)?.complete()?;
    let restart = restart_ms(&mut server, RESTART_STREAMS)?;
    verify(&server, RESTART_STREAMS)?;
    Ok(vec![
        Figure::more("per second", outcome.rate()),
        Figure::less("restart ms", restart),
        Figure::less("RSS MiB, restarted", server.usage()?.resident_mib()),
    ])
}

/// The time from the start after a crash to the first answer.
fn restart_ms(server: &mut Server, count: usize) -> io::Result<f64> {
    let stream = count / 2;
    let mut expected = Vec::new();
    put_body(&mut expected, stream)?;
    let took = server.crash_and_restart(&name(stream), &expected)?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Reads some of the streams, spread over all of them.
fn verify(server: &Server, count: usize) -> io::Result<()> {
    let mut client = Client::connect(server.address)?;
    for stream in (0..count).step_by((count / SAMPLES).max(1)) {
        let mut expected = Vec::new();
        put_body(&mut expected, stream)?;
        let answer = client.request("GET", &name(stream), "", b"")?;
        let closed = http::field(&answer.head, "stream-closed").is_some();
        if answer.status != 200 || answer.body != expected || !closed {
            return Err(failed(format!("stream {stream} is not as it was created")));
        }
    }
    Ok(())
}
