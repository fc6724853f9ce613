//! Many small streams: created and closed by one request each, left idle, and found again after a
//! crash.

use super::{Sizes, failed, fill};
use crate::http::Client;
use crate::load::Outcome;
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use std::io;

const FILES_FEW: u32 = 1024;
/// Streams that are read back.
const SAMPLES: usize = 1000;

fn name(stream: usize) -> String {
    format!("session/{stream:08}")
}

/// What a closed stream holds.
fn body(stream: usize) -> Vec<u8> {
    format!("stream {stream:08} was created, filled and closed at once.").into_bytes()
}

/// So many streams to be created: closed ones with a body, or open, empty ones.
fn create(server: &Server, count: usize, closed: bool) -> io::Result<Outcome> {
    let creates = fill::Creates {
        next: 0,
        end: count,
        content_type: "text/plain",
        closed,
        name,
        body: |stream| if closed { body(stream) } else { Vec::new() },
    };
    creates.run(server)
}

/// Many closed streams on a server that may open few files.
pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let mut server = Server::start(setup, kind, FILES_FEW)?;
    let meter = Meter::begin(&server)?;
    let outcome = create(&server, sizes.streams, true)?;
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
    let meter = Meter::begin(&server)?;
    let outcome = create(&server, count, false)?.complete()?;
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
    let outcome = create(&server, streams, true)?.complete()?;
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
    let took = server.crash_and_restart(&name(stream), &body(stream))?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Reads some of the streams, spread over all of them.
fn verify(server: &Server, count: usize) -> io::Result<()> {
    let mut client = Client::connect(server.address)?;
    for stream in (0..count).step_by((count / SAMPLES).max(1)) {
        let answer = client.request("GET", &name(stream), "", b"")?;
        if answer.status != 200 || answer.body != body(stream) || !answer.closed {
            return Err(failed(format!("stream {stream} is not as it was created")));
        }
    }
    Ok(())
}
