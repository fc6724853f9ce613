//! Many small streams: created and closed by one request each, left idle, and found again after a
//! crash.

use super::{CONNECTIONS, Sizes, TIME_MAX, failed, fill};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::load::{Load, Outcome, Workload};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use std::io::{self, Write};
use std::time::Instant;

const FILES_FEW: u32 = 1024;
/// Streams that are read back.
const SAMPLES: usize = 1000;

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
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        if self.next == self.count {
            return false;
        }
        let stream = self.next;
        self.next += 1;
        self.body.clear();
        let written = put_body(&mut self.body, stream);
        let length = self.body.len();
        let fields = format!(
            "Content-Type: text/plain\r\nStream-Closed: true\r\nContent-Length: {length}\r\n"
        );
        http::put_head(request, "PUT", &name(stream), &fields);
        request.extend_from_slice(&self.body);
        written.is_ok()
    }

    fn answered(&mut self, _: usize, head: Head<'_>) -> Result<(), String> {
        fill::expect(head, 201, "a PUT")
    }
}

fn create(server: &Server, count: usize) -> io::Result<Outcome> {
    Load::closed(server.address, CONNECTIONS, TIME_MAX).run(&mut Creates::new(count))
}

/// Many closed streams on a server that may open few files.
pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let mut server = Server::start(setup, kind, FILES_FEW)?;
    let meter = Meter::begin(&server)?;
    let outcome = create(&server, sizes.streams)?;
    let count = outcome.operations as usize;
    let mut figures = vec![Figure::more("streams created", count as f64)];
    if let Some(failure) = &outcome.failure {
        // It got no further; what it may still do is not comparable.
        eprintln!("{} ended after {count} streams: {failure}", kind.name());
        return Ok(figures);
    }
    figures.push(Figure::more("per second", outcome.rate()));
    figures.extend(latency("", &outcome.latency));
    figures.extend(meter.figures(&server, outcome.operations)?);
    std::thread::sleep(sizes.settle_time());
    let resident = server.cost()?.resident_mib;
    figures.push(Figure::less("RSS MiB, idle", resident));
    figures.push(Figure::less("restart ms", restart_ms(&mut server, count)?));
    let resident = server.cost()?.resident_mib;
    figures.push(Figure::less("RSS MiB, restarted", resident));
    verify(&server, count)?;
    Ok(figures)
}

/// Streams are created, and nothing else, for a time.
pub(super) fn measure_create(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, crate::open_files_max()?)?;
    // So many that no server comes near what it may open.
    let count = sizes.creates;
    let mut creates = fill::Creates {
        next: 0,
        end: count,
        content_type: "text/plain",
        name,
    };
    let meter = Meter::begin(&server)?;
    let load = Load::closed(server.address, CONNECTIONS, TIME_MAX);
    let outcome = load.run(&mut creates)?.complete()?;
    let mut figures = vec![Figure::more("per second", outcome.rate())];
    figures.extend(latency("", &outcome.latency));
    figures.extend(meter.figures(&server, outcome.operations)?);
    let mut client = Client::connect(server.address)?;
    for stream in 0..count {
        let answer = client.request("GET", &name(stream), "", b"")?;
        if answer.status != 200 {
            return Err(failed(format!("stream {stream} is not there")));
        }
    }
    Ok(figures)
}

/// Restart after a crash, with so many closed streams.
pub(super) fn measure_restart(
    setup: &Setup,
    kind: Kind,
    streams: usize,
) -> io::Result<Vec<Figure>> {
    let mut server = Server::start(setup, kind, crate::open_files_max()?)?;
    let outcome = create(&server, streams)?.complete()?;
    let restart = restart_ms(&mut server, streams)?;
    verify(&server, streams)?;
    Ok(vec![
        Figure::more("created per second", outcome.rate()),
        Figure::less("restart ms", restart),
        Figure::less("RSS MiB, restarted", server.cost()?.resident_mib),
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
        if answer.status != 200 || answer.body != expected || !answer.closed {
            return Err(failed(format!("stream {stream} is not as it was created")));
        }
    }
    Ok(())
}
