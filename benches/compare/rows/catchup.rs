//! Reading streams from their beginnings to their ends.

use super::{FILES_MAX, Sizes, TIME_MAX, failed, fill};
use crate::decode::Head;
use crate::http;
use crate::live::{JSON, TEXT};
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

/// Appends of the filling with JSON, and messages of each.
const JSON_APPENDS: usize = 1000;
const JSON_MESSAGES: usize = 100;
/// With the comma behind it, as long as divides the pattern's length.
const JSON_MESSAGE: &str = r#"{"role":"assistant","text":"and so it goes on, token by token"}"#;

/// What a stream holds.
#[derive(Clone)]
pub(super) struct Content {
    stream: &'static str,
    /// Of JSON: of all messages, each with a comma behind it.
    length: u64,
    pattern: fill::Pattern,
    json: bool,
}

impl Content {
    pub(super) fn bytes(stream: &'static str, length: u64, pattern: fill::Pattern) -> Self {
        Self {
            stream,
            length,
            pattern,
            json: false,
        }
    }

    /// Messages that are all alike; the pattern is of one and its comma.
    fn json(stream: &'static str, length: u64, pattern: fill::Pattern) -> Self {
        Self {
            json: true,
            ..Self::bytes(stream, length, pattern)
        }
    }

    /// How much of the stream a piece of an answer is, if it is what must come at a position.
    fn check(&self, position: u64, begins: bool, mut piece: &[u8]) -> Option<u64> {
        let mut brackets = 0;
        if self.json {
            if begins {
                piece = piece.strip_prefix(b"[")?;
            }
            if let Some(inner) = piece.strip_suffix(b"]") {
                // It stands where a comma would, if more came.
                let comma = self.pattern.is_at(position + inner.len() as u64, b",");
                (piece, brackets) = (comma.then_some(inner)?, 1);
            }
        }
        let same = self.pattern.is_at(position, piece);
        same.then_some(piece.len() as u64 + brackets)
    }
}

/// Where a reader is.
struct Reader {
    offset: String,
    position: u64,
    /// The next piece is the first of an answer.
    begins: bool,
    begun: Instant,
    /// It reads no more.
    done: bool,
}

impl Reader {
    fn new() -> Self {
        Self {
            offset: "-1".to_owned(),
            position: 0,
            begins: true,
            begun: Instant::now(),
            done: false,
        }
    }
}

/// Readers that read the same stream again and again, and compare it with what it must be.
pub(super) struct Readers {
    content: Content,
    all: Vec<Reader>,
    /// When no more reads begin.
    until: Instant,
    /// Bytes that came.
    pub(super) bytes: u64,
    /// Nanoseconds that whole reads took.
    reads: Histogram<u64>,
}

impl Readers {
    /// So many readers, who read at least once, and begin no other read after a moment.
    pub(super) fn new(content: Content, count: usize, until: Instant) -> Self {
        Self {
            content,
            all: (0..count).map(|_| Reader::new()).collect(),
            until,
            bytes: 0,
            reads: histogram(),
        }
    }
}

impl Workload for Readers {
    fn next(&mut self, connection: usize, due: Instant, request: &mut Vec<u8>) -> bool {
        let reader = &mut self.all[connection];
        if reader.done {
            return false;
        }
        if reader.position == 0 {
            reader.begun = due;
        }
        let target = format!("{}?offset={}", self.content.stream, reader.offset);
        http::put_head(request, "GET", &target, "");
        true
    }

    fn body(&mut self, connection: usize, piece: &[u8]) -> Result<(), String> {
        let reader = &mut self.all[connection];
        let begins = std::mem::take(&mut reader.begins);
        let length = self.content.check(reader.position, begins, piece);
        let length = length.ok_or_else(|| format!("other content from {} on", reader.position))?;
        reader.position += length;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        fill::expect(head, 200, "a GET")?;
        let reader = &mut self.all[connection];
        reader.begins = true;
        if head.field("stream-up-to-date").is_some() {
            if reader.position != self.content.length {
                return Err(format!("the stream ended at {}", reader.position));
            }
            let took = reader.begun.elapsed();
            self.reads.saturating_record(took.as_nanos() as u64);
            *reader = Reader::new();
            reader.done = Instant::now() >= self.until;
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
    let content = Content::bytes(STREAM, bytes, fill::Pattern::new());
    read(&server, &content, sizes.time())
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
    client.create(STREAM, TEXT, b"")?;
    // Equal pieces whose length divides the pattern's.
    let pattern = fill::Pattern::of_piece(b"sixteen bytes...");
    let piece = pattern.bytes(0, 16);
    fill::Equal::new(STREAM, TEXT, TINY_APPENDS, &piece).run(&server)?;
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
    let content = Content::bytes(STREAM, length, pattern);
    read(&server, &content, sizes.time())
}

/// 64 clients read a stream of 100,000 JSON messages.
pub(super) fn measure_json(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    http::Client::connect(server.address)?.create(STREAM, JSON, b"")?;
    let array = format!("[{}]", [JSON_MESSAGE; JSON_MESSAGES].join(","));
    fill::Equal::new(STREAM, JSON, JSON_APPENDS, array.as_bytes()).run(&server)?;
    let pattern = fill::Pattern::of_piece(format!("{JSON_MESSAGE},").as_bytes());
    let length = JSON_APPENDS * JSON_MESSAGES * (JSON_MESSAGE.len() + 1);
    let content = Content::json(STREAM, length as u64, pattern);
    read(&server, &content, sizes.time())
}

fn read(server: &Server, content: &Content, time: Duration) -> io::Result<Vec<Figure>> {
    // Once, by one: what was never read may have to be fetched.
    let mut first = Readers::new(content.clone(), 1, Instant::now());
    Load::closed(server.address, 1, TIME_MAX)
        .run(&mut first)?
        .complete()?;
    let run = Load::closed(server.address, CLIENTS, TIME_MAX).connect()?;
    // Each ends the read that it is in.
    let mut readers = Readers::new(content.clone(), CLIENTS, Instant::now() + time);
    let meter = Meter::begin(server)?;
    let outcome = run.run(&mut readers)?.complete()?;
    let mib = readers.bytes as f64 / f64::from(1 << 20);
    let rate = mib / outcome.elapsed.as_secs_f64();
    let mut figures = vec![Figure::more("MiB per second", rate)];
    figures.extend(meter.figures_of(server, mib, "per MiB")?);
    figures.extend(latency("whole read ", &readers.reads));
    Ok(figures)
}
