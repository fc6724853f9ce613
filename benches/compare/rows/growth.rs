//! What appends and reads cost as streams become many, and as one stream becomes long.

use super::{CONNECTIONS, Sizes, fill};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::load::{Load, Workload};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::Figure;
use std::io;
use std::time::Instant;

const BODY_BYTES: usize = 256;
const PIECE_BYTES: usize = 1 << 20;
const STREAMS_FEW: usize = 1000;
const MIB_FEW: u64 = 1;
const LONG: &str = "long";
/// Numbers without a common divisor with the numbers of streams: they visit all in no order.
const STRIDE: usize = 7919;

fn name(stream: usize) -> String {
    format!("growth/{stream}")
}

/// Requests to streams in no order; each must succeed.
struct Requests<'a> {
    method: &'static str,
    fields: String,
    body: Vec<u8>,
    status: u16,
    next: usize,
    name: &'a dyn Fn(usize) -> String,
}

impl Workload for Requests<'_> {
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        self.next = self.next.wrapping_add(STRIDE);
        let stream = (self.name)(self.next);
        http::put_head(request, self.method, &stream, &self.fields);
        request.extend_from_slice(&self.body);
        true
    }

    fn answered(&mut self, _: usize, head: Head<'_>) -> Result<(), String> {
        fill::expect(head, self.status, "a request")
    }
}

/// From few streams to many.
pub(super) fn measure_streams(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, crate::open_files_max()?)?;
    let mut figures = Vec::new();
    let mut created = 0;
    for count in [STREAMS_FEW, sizes.growth_streams] {
        fill::create(&server, count - created, "text/plain", |stream| {
            name(created + stream)
        })?;
        created = count;
        let what = format!("{count} streams");
        let pick = |number: usize| name(number % count);
        figures.extend(costs(&server, sizes, &what, &pick, &pick)?);
    }
    Ok(figures)
}

/// From a short stream to a long one: its end is appended to and read.
pub(super) fn measure_length(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, super::FILES_MAX)?;
    Client::connect(server.address)?.create(LONG, "text/plain", b"")?;
    let mut figures = Vec::new();
    let mut begin = 0;
    for mib in [MIB_FEW, sizes.growth_mib] {
        fill::extend_filled(&server, LONG, begin << 20, mib << 20, PIECE_BYTES)?;
        begin = mib;
        // Readers resume at the end of what was filled.
        let tail = end_of(&server)?;
        let tail = format!("{LONG}?offset={tail}");
        let what = format!("{mib} MiB");
        let append = |_| LONG.to_owned();
        let read = |_| tail.clone();
        figures.extend(costs(&server, sizes, &what, &append, &read)?);
    }
    Ok(figures)
}

/// The offset at which the long stream ends.
fn end_of(server: &Server) -> io::Result<String> {
    let mut client = Client::connect(server.address)?;
    let answer = client.request("GET", &format!("{LONG}?offset=now"), "", b"")?;
    answer
        .next
        .ok_or_else(|| super::failed("it names no next offset"))
}

/// Processor time and latency of reads, and then of appends.
fn costs(
    server: &Server,
    sizes: &Sizes,
    what: &str,
    append: &dyn Fn(usize) -> String,
    read: &dyn Fn(usize) -> String,
) -> io::Result<Vec<Figure>> {
    let reads = Requests {
        method: "GET",
        fields: String::new(),
        body: Vec::new(),
        status: 200,
        next: 0,
        name: read,
    };
    let appends = Requests {
        method: "POST",
        fields: format!("Content-Type: text/plain\r\nContent-Length: {BODY_BYTES}\r\n"),
        body: vec![b'.'; BODY_BYTES],
        status: 204,
        next: 0,
        name: append,
    };
    let mut figures = Vec::new();
    for (operation, mut requests) in [("read", reads), ("append", appends)] {
        let meter = Meter::begin(server)?;
        let load = Load::closed(server.address, CONNECTIONS, sizes.time());
        let outcome = load.run(&mut requests)?.complete()?;
        let cpu = meter.server(server)?.cpu_us / outcome.operations as f64;
        let p99 = outcome.latency.value_at_quantile(0.99) as f64 / 1e6;
        figures.push(Figure::less(format!("{operation} CPU µs, {what}"), cpu));
        figures.push(Figure::less(format!("{operation} p99 ms, {what}"), p99));
    }
    Ok(figures)
}
