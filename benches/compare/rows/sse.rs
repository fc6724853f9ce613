//! SSE readers of one stream: what each costs while nothing happens, and how fast all of them get
//! the events.

use super::Sizes;
use crate::http::Client;
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::sse::Readers;
use crate::stats::{Figure, latency};
use std::io;
use std::time::Duration;

const STREAM: &str = "news";
/// Of fewer readers, memory says nothing.
const READERS_MANY: usize = 100;
const SETTLE: Duration = Duration::from_secs(3);
/// A server gives back what it took to start when its allocator has seen for some time that it is not
/// needed. The memory of readers must not be counted from before that.
pub(super) const SETTLE_START: Duration = Duration::from_secs(25);

/// So many readers, and so many events a second.
pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    (count, content_type): (usize, &'static str),
    per_second: f64,
) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, crate::open_files_max()?)?;
    Client::connect(server.address)?.create(STREAM, content_type, b"")?;
    // What a first reader brings into memory is not the cost of a reader.
    drop(Readers::connect(server.address, STREAM, 10)?);
    let many = count >= READERS_MANY;
    std::thread::sleep(if many { SETTLE_START } else { SETTLE });
    let before = server.cost()?;
    let mut readers = Readers::connect(server.address, STREAM, count)?;
    std::thread::sleep(SETTLE);
    let idle = server.cost()?;
    let meter = Meter::begin(&server)?;
    let (deliveries, appends) = readers.publish(
        server.address,
        (STREAM, content_type),
        per_second,
        sizes.live_time(),
    )?;
    let costs = meter.figures_of(&server, deliveries.len() as f64, "per delivery")?;
    let live = server.cost()?;
    readers.expect_silence()?;
    let each = |mib: f64| (mib - before.resident_mib) * 1024.0 / count as f64;
    let mut figures = Vec::new();
    if many {
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
    figures.extend(costs);
    Ok(figures)
}
