//! Appends at a part of the peak for a long time: whether latency and memory stay as they are.

use super::append::{Appends, BODY_BYTES};
use super::{CONNECTIONS, FILES_MAX, Sizes, WARM_UP};
use crate::load::{Load, histogram};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use std::io;
use std::time::Duration;

const STREAMS: usize = 100;
/// The time is cut into so many parts, of which the first and the last are compared.
const PARTS: u32 = 10;

pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    let mut appends = Appends::new(STREAMS);
    appends.create_streams(&server)?;
    let peak = |time| Load::closed(server.address, CONNECTIONS, time);
    peak(WARM_UP).run(&mut appends)?.complete()?;
    let peak = peak(WARM_UP).run(&mut appends)?.complete()?.rate();
    let rate = peak * f64::from(sizes.sustained_percent) / 100.0;
    let part = Duration::from_secs(sizes.sustained_seconds) / PARTS;
    let load = Load::open(server.address, CONNECTIONS, rate, part);
    let meter = Meter::begin(&server)?;
    let mut all = histogram();
    let mut parts = Vec::new();
    for _ in 0..PARTS {
        let outcome = load.run(&mut appends)?.complete()?;
        all.add(&outcome.latency).map_err(io::Error::other)?;
        let p99 = outcome.latency.value_at_quantile(0.99) as f64 / 1e6;
        parts.push((p99, server.cost()?.resident_mib));
    }
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    let mut figures = vec![Figure::more("per second, given", rate)];
    figures.extend(latency("", &all));
    figures.push(Figure::less("p99 ms, first tenth", first.0));
    figures.push(Figure::less("p99 ms, last tenth", last.0));
    figures.push(Figure::less("RSS MiB, first tenth", first.1));
    figures.push(Figure::less("RSS MiB, last tenth", last.1));
    figures.push(meter.amplification(&server, all.len() * BODY_BYTES as u64)?);
    appends.verify(&server)?;
    Ok(figures)
}
