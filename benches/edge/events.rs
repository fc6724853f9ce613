//! Live events through an edge.

use crate::http::Client;
use crate::live::TEXT;
use crate::median;
use crate::net::World;
use crate::served::Served;
use crate::sse::Readers;
use hdrhistogram::Histogram;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const STREAM: &str = "news";
/// Events a second where their delay is measured.
const ADDED_PER_SECOND: f64 = 50.0;
const ADDED_READERS: [usize; 2] = [1, 100];
/// Events a second where readers are many.
const MANY_PER_SECOND: f64 = 3.0;
const SETTLE: Duration = Duration::from_secs(2);

/// An origin with a stream that the edge before it knows.
struct Pair {
    origin: Served,
    edge: Served,
}

impl Pair {
    fn start(world: &World) -> io::Result<Self> {
        let origin = world.origin()?;
        let edge = world.edge(&origin)?;
        Client::connect(origin.address)?.create(STREAM, TEXT, b"")?;
        Ok(Self { origin, edge })
    }
}

/// How long after it was due an event is with readers of the origin, and with readers of the edge.
pub(crate) fn measure_added(world: &World, time: Duration, rounds: usize) -> io::Result<()> {
    println!("Events, {ADDED_PER_SECOND} a second (medians of {rounds} runs, in turns)\n");
    println!(
        "| readers | origin p50 ms | edge p50 ms | added p50 ms | origin p99 ms | edge p99 ms |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    for readers in ADDED_READERS {
        let pair = Pair::start(world)?;
        let mut runs = Vec::new();
        for _ in 0..rounds {
            let of = |readers_at: SocketAddr| -> io::Result<Histogram<u64>> {
                let mut readers = Readers::connect(readers_at, STREAM, readers)?;
                publish(&pair.origin, &mut readers, ADDED_PER_SECOND, time)
            };
            runs.push((of(pair.origin.address)?, of(pair.edge.address)?));
        }
        let ms = |histogram: &Histogram<u64>, quantile| {
            histogram.value_at_quantile(quantile) as f64 / 1e6
        };
        let origin = |quantile| median(runs.iter().map(|run| ms(&run.0, quantile)).collect());
        let edge = |quantile| median(runs.iter().map(|run| ms(&run.1, quantile)).collect());
        let added = runs.iter().map(|run| ms(&run.1, 0.5) - ms(&run.0, 0.5));
        println!(
            "| {readers} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            origin(0.5),
            edge(0.5),
            median(added.collect()),
            origin(0.99),
            edge(0.99),
        );
    }
    println!();
    Ok(())
}

/// What readers of an edge cost it, and its origin.
pub(crate) fn measure_readers(world: &World, time: Duration, counts: &[usize]) -> io::Result<()> {
    println!("Readers of one edge, {MANY_PER_SECOND} events a second\n");
    println!(
        "| readers | KiB each, idle | KiB each, live | edge CPU µs per delivery | origin CPU ms per event | edge p50 ms | edge p99 ms |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for &count in counts {
        let pair = Pair::start(world)?;
        // What a first reader brings into memory is not the cost of a reader.
        drop(Readers::connect(pair.edge.address, STREAM, 10)?);
        std::thread::sleep(SETTLE);
        let empty = pair.edge.usage()?.resident_mib();
        let mut readers = Readers::connect(pair.edge.address, STREAM, count)?;
        std::thread::sleep(SETTLE);
        let idle = pair.edge.usage()?.resident_mib();
        let (edge_before, origin_before) = (pair.edge.usage()?.cpu, pair.origin.usage()?.cpu);
        let latency = publish(&pair.origin, &mut readers, MANY_PER_SECOND, time)?;
        let edge_cpu = pair.edge.usage()?.cpu.saturating_sub(edge_before);
        let origin_cpu = pair.origin.usage()?.cpu.saturating_sub(origin_before);
        let live = pair.edge.usage()?.resident_mib();
        let each = |mib: f64| (mib - empty) * 1024.0 / count as f64;
        println!(
            "| {count} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} |",
            each(idle),
            each(live),
            edge_cpu.as_secs_f64() * 1e6 / latency.len() as f64,
            origin_cpu.as_secs_f64() * 1e3 / events(MANY_PER_SECOND, time) as f64,
            latency.value_at_quantile(0.5) as f64 / 1e6,
            latency.value_at_quantile(0.99) as f64 / 1e6,
        );
    }
    println!();
    Ok(())
}

fn events(per_second: f64, time: Duration) -> u64 {
    (per_second * time.as_secs_f64()) as u64
}

/// Publishes to the origin for a time, and tells the delays of deliveries.
fn publish(
    origin: &Served,
    readers: &mut Readers,
    per_second: f64,
    time: Duration,
) -> io::Result<Histogram<u64>> {
    let (deliveries, _) = readers.publish(origin.address, (STREAM, TEXT), per_second, time)?;
    readers.expect_silence()?;
    Ok(deliveries)
}
