//! SSE readers of one stream: what each costs while nothing happens, and how fast all of them get
//! the events.

use super::Sizes;
use crate::http::Client;
use crate::servers::{Kind, Server, Setup};
use crate::sse::Readers;
use crate::stats::{Figure, latency};
use std::io;
use std::time::Duration;

const STREAM: &str = "news";
const READERS_MANY: usize = 100;
const SETTLE: Duration = Duration::from_secs(3);
/// How long after the last delivery a second one of the same event would be noticed.
const REPEAT: Duration = Duration::from_millis(300);

/// So many readers, and so many events a second.
pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    count: usize,
    per_second: f64,
) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, crate::open_files_max()?)?;
    Client::connect(server.address)?.create(STREAM, "text/plain", b"")?;
    // What a first reader brings into memory is not the cost of a reader.
    drop(Readers::connect(server.address, STREAM, 10)?);
    std::thread::sleep(SETTLE);
    let before = server.cost()?;
    let mut readers = Readers::connect(server.address, STREAM, count)?;
    std::thread::sleep(SETTLE);
    let idle = server.cost()?;
    let (deliveries, appends) =
        readers.publish(server.address, STREAM, per_second, sizes.live_time())?;
    let live = server.cost()?;
    readers.expect_silence(REPEAT)?;
    let each = |mib: f64| (mib - before.resident_mib) * 1024.0 / count as f64;
    let used = live.since(idle);
    let delivered = deliveries.len() as f64;
    let mut figures = Vec::new();
    // Of few readers, memory says nothing.
    if count >= READERS_MANY {
        figures.push(Figure::less(
            "KiB per reader, idle",
            each(idle.resident_mib),
        ));
        figures.push(Figure::less(
            "KiB per reader, live",
            each(live.resident_mib),
        ));
    }
    figures.extend(latency("delivery ", &deliveries));
    figures.extend(latency("append ", &appends));
    figures.push(Figure::less(
        "server CPU µs per delivery",
        used.cpu_us / delivered,
    ));
    let switches = used.switches as f64 / delivered;
    figures.push(Figure::less("context switches per delivery", switches));
    Ok(figures)
}
