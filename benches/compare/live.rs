//! Events that are published at a given rate, and what readers make of them.

use crate::decode::Head;
use crate::http;
use crate::load::{Load, Workload, histogram};
use hdrhistogram::Histogram;
use memchr::memchr;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Publishes numbered events to streams in turn, each with the time at which it was due.
pub(crate) struct Publisher<'a> {
    pub(crate) streams: &'a [String],
    /// Of JSON, an event is a string.
    pub(crate) content_type: &'static str,
    /// What the times are counted from.
    pub(crate) base: Instant,
    pub(crate) next: u64,
}

/// Events that may be on their way at once: fewer than there are streams, so that those of one
/// stream stay in order.
const CONNECTIONS: usize = 8;
pub(crate) const TEXT: &str = "text/plain";
pub(crate) const JSON: &str = "application/json";

impl Publisher<'_> {
    /// Publishes so many events a second and tells the latency of their appends.
    pub(crate) fn run(
        mut self,
        address: SocketAddr,
        per_second: f64,
        time: Duration,
    ) -> io::Result<Histogram<u64>> {
        let connections = if self.streams.len() > CONNECTIONS {
            CONNECTIONS
        } else {
            1
        };
        let load = Load::open(address, connections, per_second, time);
        let outcome = load.run(&mut self)?.complete()?;
        Ok(outcome.latency)
    }
}

impl Workload for Publisher<'_> {
    fn next(&mut self, _: usize, due: Instant, request: &mut Vec<u8>) -> bool {
        let count = self.streams.len() as u64;
        let (number, stream) = (self.next / count, self.next % count);
        self.next += 1;
        let due_ns = (due - self.base).as_nanos();
        let quote = if self.content_type == JSON { "\"" } else { "" };
        let mut body = Vec::with_capacity(64);
        let written = write!(body, "{quote}<{number} {due_ns}>{quote}");
        let (content_type, length) = (self.content_type, body.len());
        let fields = format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n");
        http::put_head(request, "POST", &self.streams[stream as usize], &fields);
        request.extend_from_slice(&body);
        written.is_ok()
    }

    fn answered(&mut self, _: usize, head: Head<'_>) -> Result<(), String> {
        match head.status {
            204 => Ok(()),
            other => Err(format!("an event was answered with {other}")),
        }
    }
}

/// What one reader has of the events of its stream.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// The number of the next event.
    pub(crate) next: u64,
    partial: Vec<u8>,
}

/// What all readers received.
pub(crate) struct Deliveries {
    pub(crate) base: Instant,
    /// Nanoseconds from when an event was due until a reader had it.
    pub(crate) latency: Histogram<u64>,
}

impl Deliveries {
    pub(crate) fn new(base: Instant) -> Self {
        let latency = histogram();
        Self { base, latency }
    }

    /// Takes what a reader received. Each event must come once and in order.
    pub(crate) fn receive(&mut self, seen: &mut Seen, piece: &[u8]) -> Result<(), String> {
        let now_ns = self.base.elapsed().as_nanos() as u64;
        let whole;
        let mut rest = if seen.partial.is_empty() {
            piece
        } else {
            whole = [std::mem::take(&mut seen.partial).as_slice(), piece].concat();
            &whole
        };
        while let Some(begin) = memchr(b'<', rest) {
            let Some(length) = memchr(b'>', &rest[begin..]) else {
                seen.partial = rest[begin..].to_vec();
                return Ok(());
            };
            let event = parse(&rest[begin + 1..begin + length]);
            let (number, due_ns) = event.ok_or("an event was altered")?;
            if number != seen.next {
                return Err(format!("event {number} came in place of {}", seen.next));
            }
            seen.next += 1;
            self.latency
                .saturating_record(now_ns.saturating_sub(due_ns).max(1));
            rest = &rest[begin + length + 1..];
        }
        Ok(())
    }
}

fn parse(event: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(event).ok()?;
    let (number, due_ns) = text.split_once(' ')?;
    Some((number.parse().ok()?, due_ns.parse().ok()?))
}
