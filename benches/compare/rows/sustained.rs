//! Appends at a part of the peak for a long time: whether latency and memory stay as they are.

use super::append::{Appends, BODY_BYTES};
use super::{CONNECTIONS, FILES_MAX, Sizes, WARM_UP, failed};
use crate::decode::Head;
use crate::load::{Load, Workload, histogram};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use hdrhistogram::Histogram;
use std::io;
use std::time::{Duration, Instant};

const STREAMS: usize = 100;
/// The time is looked at in so many parts.
const PARTS: u32 = 10;

/// Appends whose latencies are also kept by when they were due.
struct ByTime<'a> {
    appends: &'a mut Appends,
    /// When the first was due.
    begun: Option<Instant>,
    part: Duration,
    /// When the append that each connection waits for was due.
    due: Vec<Instant>,
    parts: Vec<Histogram<u64>>,
}

impl<'a> ByTime<'a> {
    fn new(appends: &'a mut Appends, part: Duration) -> Self {
        Self {
            appends,
            begun: None,
            part,
            due: vec![Instant::now(); CONNECTIONS],
            parts: (0..PARTS).map(|_| histogram()).collect(),
        }
    }
}

impl Workload for ByTime<'_> {
    fn next(&mut self, connection: usize, due: Instant, request: &mut Vec<u8>) -> bool {
        self.begun.get_or_insert(due);
        self.due[connection] = due;
        self.appends.next(connection, due, request)
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        let due = self.due[connection];
        let after = due - self.begun.unwrap_or(due);
        let part = (after.as_secs_f64() / self.part.as_secs_f64()) as usize;
        let part = part.min(self.parts.len() - 1);
        self.parts[part].saturating_record(due.elapsed().as_nanos() as u64);
        self.appends.answered(connection, head)
    }
}

pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    let mut appends = Appends::new(STREAMS);
    appends.create_streams(&server)?;
    let peak = |time| Load::closed(server.address, CONNECTIONS, time);
    peak(WARM_UP).run(&mut appends)?.complete()?;
    let peak = peak(WARM_UP).run(&mut appends)?.complete()?.rate();
    let rate = peak * f64::from(sizes.sustained_percent) / 100.0;
    let time = Duration::from_secs(sizes.sustained_seconds);
    let part = time / PARTS;
    let mut by_time = ByTime::new(&mut appends, part);
    let compactions = server.compactions();
    let meter = Meter::begin(&server)?;
    let (outcome, memory) = std::thread::scope(|scope| {
        let memory = scope.spawn(|| memory(&server, part));
        let load = Load::open(server.address, CONNECTIONS, rate, time);
        let outcome = load.run(&mut by_time)?.complete()?;
        let memory = memory.join().map_err(|_| failed("memory was not read"))??;
        Ok::<_, io::Error>((outcome, memory))
    })?;
    let last = PARTS as usize - 1;
    let p99 = |part: usize| by_time.parts[part].value_at_quantile(0.99) as f64 / 1e6;
    let mut figures = vec![
        Figure::more("per second, given", rate),
        Figure::more("per second, reached", outcome.rate()),
    ];
    figures.extend(latency("", &outcome.latency));
    for part in 0..=last {
        let name = format!("p99 ms, tenth {}", part + 1);
        figures.push(Figure::less(name, p99(part)));
    }
    figures.push(Figure::less("RSS MiB, first tenth", memory[0]));
    figures.push(Figure::less("RSS MiB, last tenth", memory[last]));
    figures.extend(meter.figures(&server, outcome.operations)?);
    let payload = outcome.operations * BODY_BYTES as u64;
    figures.push(meter.amplification(&server, payload)?);
    if let (Some(before), Some(now)) = (compactions, server.compactions()) {
        let during = now.saturating_sub(before) as f64;
        figures.push(Figure::more("compactions meanwhile", during));
    }
    appends.verify(&server)?;
    Ok(figures)
}

/// The server's memory at the end of each part of the time.
fn memory(server: &Server, part: Duration) -> io::Result<Vec<f64>> {
    let at_end = |_| {
        std::thread::sleep(part);
        Ok(server.cost()?.resident_mib)
    };
    (0..PARTS).map(at_end).collect()
}
