//! What appends and reads cost as streams become many, and as one stream becomes long.

use super::{CONNECTIONS, Sizes, failed, fill};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::live::TEXT;
use crate::load::{Load, Workload};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::Figure;
use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Instant;

const BODY_BYTES: usize = 256;
const PIECE_BYTES: usize = 1 << 20;
const STREAMS_FEW: usize = 1000;
const MIB_FEW: u64 = 1;
const LONG: &str = "long";
/// What readers of the long stream find at its end.
const END_BYTES: u64 = 1024;
/// Numbers without a common divisor with the numbers of streams: they visit all in no order.
const STRIDE: usize = 7919;
/// Streams that are read back.
const SAMPLES: usize = 1000;

fn name(stream: usize) -> String {
    format!("growth/{stream}")
}

/// What a stream begins with, of many.
fn beginning(stream: usize) -> Vec<u8> {
    padded(&format!("stream {stream}"))
}

fn padded(text: &str) -> Vec<u8> {
    format!("{text:<BODY_BYTES$}").into_bytes()
}

/// Reads of streams in no order.
struct Reads<'a> {
    next: usize,
    target: &'a dyn Fn(usize) -> String,
    /// What an answer begins with.
    expected: &'a dyn Fn(usize) -> Vec<u8>,
    /// What each connection waits for, and how much of its answer it has.
    waits: Vec<(Vec<u8>, usize)>,
}

impl Workload for Reads<'_> {
    fn next(&mut self, connection: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        self.next = self.next.wrapping_add(STRIDE);
        self.waits[connection] = ((self.expected)(self.next), 0);
        http::put_head(request, "GET", &(self.target)(self.next), "");
        true
    }

    fn body(&mut self, connection: usize, piece: &[u8]) -> Result<(), String> {
        let (expected, position) = &mut self.waits[connection];
        let rest = expected.get(*position..).unwrap_or_default();
        let count = rest.len().min(piece.len());
        *position += piece.len();
        let same = rest[..count] == piece[..count];
        same.then_some(()).ok_or("other content was read".into())
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        fill::expect(head, 200, "a GET")?;
        let (expected, position) = &self.waits[connection];
        let whole = *position >= expected.len();
        whole.then_some(()).ok_or("too little was read".into())
    }
}

impl<'a> Reads<'a> {
    fn of(target: &'a dyn Fn(usize) -> String, expected: &'a dyn Fn(usize) -> Vec<u8>) -> Self {
        Self {
            next: 0,
            target,
            expected,
            waits: vec![(Vec::new(), 0); CONNECTIONS],
        }
    }

    fn costs(&mut self, server: &Server, sizes: &Sizes, what: &str) -> io::Result<Vec<Figure>> {
        costs(server, sizes, ("read", what), self).map(|(figures, _)| figures)
    }
}

/// Appends to streams in no order, each with a number of its own.
struct Appends<'a> {
    next: usize,
    stream: &'a dyn Fn(usize) -> usize,
    name: &'a dyn Fn(usize) -> String,
    /// The numbers of appends of earlier stages are below this.
    first: u64,
    /// The stream of each append.
    sent: Vec<usize>,
}

impl Workload for Appends<'_> {
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        self.next = self.next.wrapping_add(STRIDE);
        let stream = (self.stream)(self.next);
        let number = self.first + self.sent.len() as u64;
        self.sent.push(stream);
        let fields = format!("Content-Type: {TEXT}\r\nContent-Length: {BODY_BYTES}\r\n");
        http::put_head(request, "POST", &(self.name)(stream), &fields);
        write!(request, "{number:<BODY_BYTES$}").is_ok()
    }

    fn answered(&mut self, _: usize, head: Head<'_>) -> Result<(), String> {
        fill::expect(head, 204, "an append")
    }
}

impl Appends<'_> {
    /// Reads some of the streams from an offset on, and finds each append to them once.
    fn verify(&self, server: &Server, offset: &str) -> io::Result<()> {
        let mut expected: HashMap<usize, Vec<u64>> = HashMap::new();
        for stream in self.sent.iter().step_by((self.sent.len() / SAMPLES).max(1)) {
            expected.entry(*stream).or_default();
        }
        for (number, stream) in (self.first..).zip(&self.sent) {
            expected.entry(*stream).and_modify(|all| all.push(number));
        }
        let mut client = Client::connect(server.address)?;
        for (stream, expected) in expected {
            let data = client.read_from(&(self.name)(stream), offset)?;
            let numbers = data.chunks(BODY_BYTES).filter_map(number);
            let mut found: Vec<u64> = numbers.filter(|number| *number >= self.first).collect();
            found.sort_unstable();
            if found != expected {
                return Err(failed("an append is missing, altered, or there twice"));
            }
        }
        Ok(())
    }
}

fn number(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    (text.len() == BODY_BYTES).then(|| text.trim_end().parse().ok())?
}

/// From few streams to many.
pub(super) fn measure_streams(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, crate::open_files_max()?)?;
    let mut figures = Vec::new();
    let mut created = 0;
    for (stage, count) in [STREAMS_FEW, sizes.growth_streams].into_iter().enumerate() {
        let creates = fill::Creates {
            next: created,
            end: count,
            content_type: TEXT,
            closed: false,
            name,
            body: beginning,
        };
        creates.run(&server)?.complete()?;
        let what = format!("{count} streams");
        // Earlier ones have become longer.
        let new = |number: usize| created + number % (count - created);
        let target = |number: usize| name(new(number));
        let expected = |number: usize| beginning(new(number));
        figures.extend(Reads::of(&target, &expected).costs(&server, sizes, &what)?);
        let stream = |number: usize| number % count;
        let mut appends = Appends::of_stage(stage, &stream, &name);
        figures.extend(appends.costs(&server, sizes, &what)?);
        appends.verify(&server, "-1")?;
        created = count;
    }
    Ok(figures)
}

/// From a short stream to a long one: its end is appended to and read.
pub(super) fn measure_length(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, super::FILES_MAX)?;
    Client::connect(server.address)?.create(LONG, TEXT, b"")?;
    let mut figures = Vec::new();
    let mut position = 0;
    for (stage, mib) in [MIB_FEW, sizes.growth_mib].into_iter().enumerate() {
        let (before_end, end) = ((mib << 20) - END_BYTES, mib << 20);
        fill::extend_filled(&server, LONG, position, before_end, PIECE_BYTES)?;
        // Readers resume a little before the end.
        let tail = end_of(&server)?;
        fill::extend_filled(&server, LONG, before_end, end, PIECE_BYTES)?;
        position = end;
        let last = fill::Pattern::new().bytes(before_end, END_BYTES as usize);
        let what = format!("{mib} MiB");
        let target = |_| format!("{LONG}?offset={tail}");
        let expected = |_| last.clone();
        figures.extend(Reads::of(&target, &expected).costs(&server, sizes, &what)?);
        let long = |_| LONG.to_owned();
        let mut appends = Appends::of_stage(stage, &|_| 0, &long);
        figures.extend(appends.costs(&server, sizes, &what)?);
        appends.verify(&server, &tail)?;
    }
    Ok(figures)
}

/// The offset at which the long stream ends.
fn end_of(server: &Server) -> io::Result<String> {
    let mut client = Client::connect(server.address)?;
    let answer = client.request("GET", &format!("{LONG}?offset=now"), "", b"")?;
    let next = answer.next;
    next.ok_or_else(|| failed("it names no next offset"))
}

impl<'a> Appends<'a> {
    fn of_stage(
        stage: usize,
        stream: &'a dyn Fn(usize) -> usize,
        name: &'a dyn Fn(usize) -> String,
    ) -> Self {
        Self {
            next: 0,
            stream,
            name,
            first: (stage as u64 + 1) << 40,
            sent: Vec::new(),
        }
    }

    fn costs(&mut self, server: &Server, sizes: &Sizes, what: &str) -> io::Result<Vec<Figure>> {
        let (mut figures, meter) = costs(server, sizes, ("append", what), self)?;
        let payload = (self.sent.len() * BODY_BYTES) as u64;
        let mut written = meter.amplification(server, payload)?;
        written.name = format!("{}, {what}", written.name);
        figures.push(written);
        Ok(figures)
    }
}

/// Processor time and latency of an operation.
fn costs(
    server: &Server,
    sizes: &Sizes,
    (operation, what): (&str, &str),
    workload: &mut impl Workload,
) -> io::Result<(Vec<Figure>, Meter)> {
    let meter = Meter::begin(server)?;
    let load = Load::closed(server.address, CONNECTIONS, sizes.time());
    let outcome = load.run(workload)?.complete()?;
    let p99 = outcome.latency.value_at_quantile(0.99) as f64 / 1e6;
    let mut figures = vec![Figure::less(format!("{operation} p99 ms, {what}"), p99)];
    let all = meter.figures(server, outcome.operations)?.into_iter();
    for mut figure in all.filter(|figure| !figure.name.starts_with("generator")) {
        figure.name = format!("{operation}: {}, {what}", figure.name);
        figures.push(figure);
    }
    Ok((figures, meter))
}
