//! Many SSE readers of one stream: what each costs while nothing happens, and how fast all of them
//! get an event.

use super::{Sizes, failed};
use crate::http::Client;
use crate::servers::{Kind, Server, Setup};
use crate::sse::Readers;
use crate::stats::Figure;
use hdrhistogram::Histogram;
use std::io;
use std::time::{Duration, Instant};

const STREAM: &str = "news";
const CONTENT_TYPE: &str = "text/plain";
/// Events that are delivered to all readers, one after the other.
const EVENTS: usize = 10;
const SETTLE: Duration = Duration::from_secs(3);
/// How long after the last delivery a second one of the same event would be noticed.
const REPEAT: Duration = Duration::from_millis(300);

pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, crate::open_files_max()?)?;
    let mut client = Client::connect(server.address)?;
    client.create(STREAM, CONTENT_TYPE, b"")?;
    // What a first reader brings into memory is not the cost of a reader.
    drop(Readers::connect(server.address, STREAM, 10)?);
    std::thread::sleep(SETTLE);
    let before = server.usage()?;
    let mut readers = Readers::connect(server.address, STREAM, sizes.readers)?;
    std::thread::sleep(SETTLE);
    let idle = server.usage()?;
    let mut latency =
        Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?;
    for event in 0..EVENTS {
        deliver(&mut client, &mut readers, event, &mut latency)?;
    }
    let live = server.usage()?;
    std::thread::sleep(SETTLE);
    let after = server.usage()?;
    let deliveries = (EVENTS * sizes.readers) as f64;
    let each =
        |bytes: u64| bytes.saturating_sub(before.resident) as f64 / 1024.0 / sizes.readers as f64;
    let cpu = live.cpu.saturating_sub(idle.cpu).as_secs_f64();
    Ok(vec![
        Figure::less("KiB per reader, idle", each(idle.resident)),
        Figure::less("KiB per reader, after events", each(after.resident)),
        Figure::less(
            "delivery p50 ms",
            latency.value_at_quantile(0.5) as f64 / 1e6,
        ),
        Figure::less(
            "delivery p99 ms",
            latency.value_at_quantile(0.99) as f64 / 1e6,
        ),
        Figure::less("server CPU µs per delivery", cpu * 1e6 / deliveries),
    ])
}

/// Appends one event and waits until each reader has it, once.
fn deliver(
    client: &mut Client,
    readers: &mut Readers,
    event: usize,
    latency: &mut Histogram<u64>,
) -> io::Result<()> {
    let fields = format!("Content-Type: {CONTENT_TYPE}\r\n");
    let body = format!("event {event:04}");
    let begun = Instant::now();
    client.send("POST", STREAM, &fields, body.as_bytes())?;
    readers.expect(body.as_bytes(), |now| {
        latency.saturating_record((now - begun).as_nanos() as u64);
    })?;
    let status = client.receive()?.status;
    if status != 204 {
        return Err(failed(format!("an append was answered with {status}")));
    }
    readers.expect_silence(REPEAT)
}
