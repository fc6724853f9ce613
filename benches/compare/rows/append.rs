//! Durable appends of 256 bytes.

use super::{CONNECTIONS, FILES_MAX, Sizes, WARM_UP, failed, fill};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::load::{Load, Outcome, Pace, Workload};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use std::io::{self, Write};
use std::time::{Duration, Instant};

pub(super) const BODY_BYTES: usize = 256;
const CONTENT_TYPE: &str = "application/octet-stream";
/// Requests of an idempotent producer that are on their way at once.
const PIPELINED: usize = 5;

/// Each connection numbers its appends, so that all of them can be told apart when they are read
/// back.
pub(super) struct Appends {
    streams: usize,
    producers: bool,
    sent: Vec<usize>,
    acknowledged: Vec<usize>,
}

impl Appends {
    /// Appends to so many streams in turn.
    pub(super) fn new(streams: usize) -> Self {
        Self {
            streams,
            producers: false,
            sent: vec![0; CONNECTIONS],
            acknowledged: vec![0; CONNECTIONS],
        }
    }

    /// Each connection is an idempotent producer, and appends to one stream.
    fn producers(streams: usize) -> Self {
        Self {
            producers: true,
            ..Self::new(streams)
        }
    }

    pub(super) fn create_streams(&self, server: &Server) -> io::Result<()> {
        fill::create(server, self.streams, CONTENT_TYPE, name)
    }

    fn put(&self, connection: usize, request: &mut Vec<u8>) -> io::Result<()> {
        let number = self.sent[connection];
        let turn = if self.producers { 0 } else { number };
        let stream = (connection + turn * CONNECTIONS) % self.streams;
        write!(
            request,
            "POST {}append-{stream} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {CONTENT_TYPE}\r\n\
             Content-Length: {BODY_BYTES}\r\n",
            http::PREFIX
        )?;
        if self.producers {
            write!(
                request,
                "Producer-Id: producer-{connection}\r\nProducer-Epoch: 0\r\nProducer-Seq: {number}\r\n"
            )?;
        }
        request.extend_from_slice(b"\r\n");
        let end = request.len() + BODY_BYTES;
        write!(request, "{connection} {number} ")?;
        request.resize(end, b'.');
        Ok(())
    }

    /// Reads all streams and finds each acknowledged append once, those of a connection in order.
    pub(super) fn verify(&self, server: &Server) -> io::Result<()> {
        let mut client = Client::connect(server.address)?;
        let acknowledged = self.acknowledged.iter();
        let mut found: Vec<Vec<bool>> = acknowledged.map(|count| vec![false; *count]).collect();
        for stream in 0..self.streams {
            let data = client.read_all(&name(stream))?;
            let mut last = [None; CONNECTIONS];
            if data.len() % BODY_BYTES != 0 {
                return Err(failed("a stream ends within an append"));
            }
            for body in data.chunks(BODY_BYTES) {
                let numbers = parse(body).ok_or_else(|| failed("an append was altered"))?;
                let (connection, number) = numbers;
                let slot = found.get_mut(connection).and_then(|of| of.get_mut(number));
                let slot = slot.ok_or_else(|| failed("an append is there that was never sent"))?;
                if std::mem::replace(slot, true) || last[connection] >= Some(number) {
                    return Err(failed("an append is there twice, or out of order"));
                }
                last[connection] = Some(number);
            }
        }
        let missing = found.iter().flatten().filter(|found| !**found).count();
        match missing {
            0 => Ok(()),
            missing => Err(failed(format!(
                "{missing} acknowledged appends are missing"
            ))),
        }
    }
}

fn name(stream: usize) -> String {
    format!("append-{stream}")
}

fn parse(body: &[u8]) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(body).ok()?;
    let mut words = text.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

impl Workload for Appends {
    fn next(&mut self, connection: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        let written = self.put(connection, request);
        self.sent[connection] += 1;
        written.is_ok()
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        self.acknowledged[connection] += 1;
        match (head.status, self.producers) {
            (204, false) | (200, true) => Ok(()),
            (other, _) => Err(format!("an append was answered with {other}")),
        }
    }
}

/// Closed load on so many streams.
pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    streams: usize,
) -> io::Result<Vec<Figure>> {
    let load = |server: &Server, time| Load::closed(server.address, CONNECTIONS, time);
    measure_load(setup, kind, sizes, Appends::new(streams), load)
}

/// Idempotent producers that do not wait for each answer.
pub(super) fn measure_producers(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
) -> io::Result<Vec<Figure>> {
    let load = |server: &Server, time| Load {
        pace: Pace::InFlight(PIPELINED),
        ..Load::closed(server.address, CONNECTIONS, time)
    };
    measure_load(setup, kind, sizes, Appends::producers(CONNECTIONS), load)
}

/// A given rate, which both servers can serve: latency that does not depend on who is faster.
pub(super) fn measure_rate(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let rate = sizes.append_rate;
    let load = |server: &Server, time| Load::open(server.address, CONNECTIONS, rate, time);
    measure_load(setup, kind, sizes, Appends::new(100), load)
}

fn measure_load(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    mut appends: Appends,
    load: impl Fn(&Server, Duration) -> Load,
) -> io::Result<Vec<Figure>> {
    let files = if appends.streams < FILES_MAX as usize / 2 {
        FILES_MAX
    } else {
        crate::open_files_max()?
    };
    let server = Server::start(setup, kind, files)?;
    appends.create_streams(&server)?;
    load(&server, WARM_UP).run(&mut appends)?.complete()?;
    let meter = Meter::begin(&server)?;
    let outcome = load(&server, sizes.time()).run(&mut appends)?.complete()?;
    let figures = figures(&server, &meter, &outcome)?;
    appends.verify(&server)?;
    Ok(figures)
}

pub(super) fn figures(
    server: &Server,
    meter: &Meter,
    outcome: &Outcome,
) -> io::Result<Vec<Figure>> {
    let mut figures = vec![Figure::more("per second", outcome.rate())];
    figures.extend(latency("", &outcome.latency));
    figures.extend(meter.figures(server, outcome.operations)?);
    let payload = outcome.operations * BODY_BYTES as u64;
    figures.push(meter.amplification(server, payload)?);
    Ok(figures)
}
