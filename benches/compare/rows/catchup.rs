//! Reading streams from their beginnings to their ends.

use super::{FILES_MAX, Sizes, failed, fill};
use crate::decode::Head;
use crate::http;
use crate::load::{Load, Workload, histogram};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use hdrhistogram::Histogram;
use std::io;
use std::time::{Duration, Instant};

const STREAM: &str = "history";
const CLIENTS: usize = 64;
/// What one append of the filling holds.
const PIECE_BYTES: usize = 256 * 1024;
const TINY_APPENDS: usize = 100_000;

/// Where a reader is.
struct Reader {
    offset: String,
    position: u64,
    begun: Instant,
}

impl Reader {
    fn new() -> Self {
        Self {
            offset: "-1".to_owned(),
            position: 0,
            begun: Instant::now(),
        }
    }
}

/// Readers that read the same stream again and again, and compare it with what it must be.
pub(super) struct Readers {
    stream: &'static str,
    length: u64,
    pattern: fill::Pattern,
    all: Vec<Reader>,
    /// Bytes that came.
    pub(super) bytes: u64,
    /// Nanoseconds that whole reads took.
    pub(super) reads: Histogram<u64>,
}

impl Readers {
    pub(super) fn new(
        stream: &'static str,
        length: u64,
        pattern: fill::Pattern,
        count: usize,
    ) -> Self {
        Self {
            stream,
            length,
            pattern,
            all: (0..count).map(|_| Reader::new()).collect(),
            bytes: 0,
            reads: histogram(),
        }
    }
}

impl Workload for Readers {
    fn next(&mut self, connection: usize, due: Instant, request: &mut Vec<u8>) -> bool {
        let reader = &mut self.all[connection];
        if reader.position == 0 {
            reader.begun = due;
        }
        let target = format!("{}?offset={}", self.stream, reader.offset);
        http::put_head(request, "GET", &target, "");
        true
    }

    fn body(&mut self, connection: usize, piece: &[u8]) -> Result<(), String> {
        let reader = &mut self.all[connection];
        if !self.pattern.is_at(reader.position, piece) {
            return Err(format!("other content from {} on", reader.position));
        }
        reader.position += piece.len() as u64;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        fill::expect(head, 200, "a GET")?;
        let reader = &mut self.all[connection];
        if head.field("stream-up-to-date").is_some() {
            if reader.position != self.length {
                return Err(format!("the stream ended at {}", reader.position));
            }
            let took = reader.begun.elapsed();
            self.reads.saturating_record(took.as_nanos() as u64);
            *reader = Reader::new();
        } else {
            let next = head.field("stream-next-offset");
            next.ok_or("an answer names no next offset")?
                .clone_into(&mut reader.offset);
        }
        Ok(())
    }
}

/// 64 clients read a stream of so many bytes.
pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    bytes: u64,
) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    fill::create_filled(&server, STREAM, bytes, PIECE_BYTES)?;
    let readers = Readers::new(STREAM, bytes, fill::Pattern::new(), CLIENTS);
    read(&server, readers, sizes.time())
}

/// 64 clients read a stream of 100,000 tiny appends, open or closed.
pub(super) fn measure_tiny(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    closed: bool,
) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    let mut client = http::Client::connect(server.address)?;
    client.create(STREAM, "text/plain", b"")?;
    // Equal pieces whose length divides the pattern's.
    let pattern = fill::Pattern::of_piece(b"sixteen bytes...");
    let piece = pattern.bytes(0, 16);
    fill::Tiny::new(STREAM, TINY_APPENDS, &piece).run(&server)?;
    if closed {
        let answer = client.request("POST", STREAM, "Stream-Closed: true\r\n", b"")?;
        if answer.status != 204 {
            return Err(failed(format!(
                "closing was answered with {}",
                answer.status
            )));
        }
    }
    let length = (TINY_APPENDS * piece.len()) as u64;
    let readers = Readers::new(STREAM, length, pattern, CLIENTS);
    read(&server, readers, sizes.time())
}

fn read(server: &Server, mut readers: Readers, time: Duration) -> io::Result<Vec<Figure>> {
    // Once, by one: what was never read may have to be fetched.
    let first = Load::closed(server.address, 1, Duration::from_millis(1));
    first.run(&mut readers)?.complete()?;
    let mut readers = Readers::new(readers.stream, readers.length, readers.pattern, CLIENTS);
    let meter = Meter::begin(server)?;
    let outcome = Load::closed(server.address, CLIENTS, time)
        .run(&mut readers)?
        .complete()?;
    let mib = readers.bytes as f64 / f64::from(1 << 20);
    let used = meter.server(server)?;
    let mut figures = vec![
        Figure::more("MiB per second", mib / outcome.elapsed.as_secs_f64()),
        Figure::less("server CPU µs per MiB", used.cpu_us / mib),
        Figure::less("RSS MiB", used.resident_mib),
    ];
    if !readers.reads.is_empty() {
        figures.extend(latency("whole read ", &readers.reads));
    }
    Ok(figures)
}
