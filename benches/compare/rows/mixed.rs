//! Writers alone, and then beside readers of history and of what is new.

use super::append::{Appends, BODY_BYTES};
use super::{CONNECTIONS, FILES_MAX, Sizes, TIME_MAX, WARM_UP, catchup, failed, fill};
use crate::http::Client;
use crate::live::TEXT;
use crate::load::{Load, Outcome};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::sse::Readers;
use crate::stats::{Figure, latency};
use hdrhistogram::Histogram;
use std::io;
use std::time::Instant;

const HISTORY: &str = "history";
const PIECE_BYTES: usize = 1 << 20;
/// Clients that read the history at once.
const HISTORY_READERS: usize = 4;
const NEWS: &str = "news";
const NEWS_READERS: usize = 100;
const NEWS_PER_SECOND: f64 = 20.0;
const STREAMS: usize = 100;

pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    let bytes = sizes.history_mib << 20;
    fill::create_filled(&server, HISTORY, bytes, PIECE_BYTES)?;
    Client::connect(server.address)?.create(NEWS, TEXT, b"")?;
    let mut appends = Appends::new(STREAMS);
    appends.create_streams(&server)?;
    let load = |time| Load::open(server.address, CONNECTIONS, sizes.append_rate, time);
    load(WARM_UP).run(&mut appends)?.complete()?;
    let alone = load(sizes.time()).run(&mut appends)?.complete()?;
    // They read again and again for as long as others append.
    let endless = Instant::now() + TIME_MAX;
    let content = catchup::Content::bytes(HISTORY, bytes, fill::Pattern::new());
    let mut history = catchup::Readers::new(content, HISTORY_READERS, endless);
    let meter = Meter::begin(&server)?;
    let begun = Instant::now();
    let (beside, delivered) = std::thread::scope(|scope| {
        let reading = Load::closed(server.address, HISTORY_READERS, sizes.time());
        let history = &mut history;
        let reads = scope.spawn(move || reading.run(history)?.complete());
        let news = scope.spawn(|| read_news(&server, sizes));
        let beside = load(sizes.time()).run(&mut appends)?.complete();
        let reads = reads.join().map_err(|_| failed("reading history failed"))?;
        let news = news.join().map_err(|_| failed("reading news failed"))?;
        reads?;
        Ok::<(Outcome, Histogram<u64>), io::Error>((beside?, news?))
    })?;
    let mib = history.bytes as f64 / f64::from(1 << 20);
    let rate = mib / begun.elapsed().as_secs_f64();
    let costs = meter.figures(&server, beside.operations)?;
    let amplification = meter.amplification(&server, beside.operations * BODY_BYTES as u64)?;
    appends.verify(&server)?;
    let mut figures = latency("append alone ", &alone.latency);
    figures.extend(latency("append beside readers ", &beside.latency));
    figures.push(Figure::more(
        "appends per second, beside readers",
        beside.rate(),
    ));
    figures.push(Figure::more("MiB of history per second", rate));
    figures.extend(latency("delivery ", &delivered));
    // For everything that went on, by appends.
    figures.extend(costs);
    figures.push(amplification);
    Ok(figures)
}

/// Publishes events and receives them by many readers.
fn read_news(server: &Server, sizes: &Sizes) -> io::Result<Histogram<u64>> {
    let mut readers = Readers::connect(server.address, NEWS, NEWS_READERS)?;
    let (deliveries, _) =
        readers.publish(server.address, (NEWS, TEXT), NEWS_PER_SECOND, sizes.time())?;
    readers.expect_silence()?;
    Ok(deliveries)
}
