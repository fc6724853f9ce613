//! What was measured, as a table.

use crate::client::histogram;
use crate::ways::Kind;
use hdrhistogram::Histogram;
use std::collections::BTreeSet;
use std::time::Duration;

/// One run of one way.
pub(crate) struct Measured {
    pub(crate) latencies: Histogram<u64>,
    /// Seconds by which the last answer ended later than it was to.
    pub(crate) late: f64,
    pub(crate) cpu_us_per_token: Option<f64>,
    /// Bytes written to the disk.
    pub(crate) written_per_token: Option<f64>,
    pub(crate) resident_mib: Option<f64>,
    /// Of the processors' time, by the host of a virtual machine.
    pub(crate) stolen_percent: f64,
}

/// What one durable write takes, in one round (medians).
pub(crate) struct DurableWrite {
    /// To a file, beside the answers that nginx passes on.
    pub(crate) file: Duration,
    /// To the log of streams, one for each token of all answers that nginx passes on beside it.
    pub(crate) log: Duration,
}

/// All runs.
#[derive(Default)]
pub(crate) struct Report {
    runs: Vec<(usize, Kind, Measured)>,
    writes: Vec<(usize, DurableWrite)>,
}

impl Report {
    pub(crate) fn add(&mut self, streams: usize, kind: Kind, round: usize, measured: Measured) {
        let shown = row(&[&measured]);
        eprintln!(
            "{streams} streams [{}, {}] {}",
            round + 1,
            kind.name(),
            shown.join(", ")
        );
        self.runs.push((streams, kind, measured));
    }

    pub(crate) fn add_write(&mut self, streams: usize, write: DurableWrite) {
        self.writes.push((streams, write));
    }

    /// Prints the figures of all rounds together, and what each way adds to the direct one.
    pub(crate) fn print(&self) {
        println!(
            "| streams | way | p50 µs | p99 µs | added p50 µs | added p99 µs | late s | CPU µs per token | bytes to disk per token | RSS MiB | stolen % |"
        );
        println!("| ---: | --- |{}", " ---: |".repeat(9));
        for streams in self.counts() {
            for kind in Kind::ALL {
                let runs = self.of(streams, kind);
                if runs.is_empty() {
                    continue;
                }
                let added = |quantile| {
                    self.us(streams, kind, quantile) - self.us(streams, Kind::Direct, quantile)
                };
                let mut cells = row(&runs);
                cells.insert(2, format!("{:.0}", added(0.5)));
                cells.insert(3, format!("{:.0}", added(0.99)));
                println!("| {streams} | {} | {} |", kind.name(), cells.join(" | "));
            }
        }
        self.print_aim();
    }

    /// Prints the medians beside what is aimed at: one and a half times those of nginx, and one durable
    /// write, to a file or to the log.
    fn print_aim(&self) {
        println!(
            "\n| streams | write µs | append µs | p50 µs | 1.5 × nginx + write | … + append | added p50 µs | 1.5 × nginx + write | … + append |"
        );
        println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        for streams in self.counts() {
            let [file, log] = self.write_us(streams);
            let [direct, nginx, record] =
                [Kind::Direct, Kind::Nginx, Kind::Record].map(|kind| self.us(streams, kind, 0.5));
            let cells = [0.0, direct].map(|base| {
                let proxied = 1.5 * (nginx - base);
                let (write, append) = (proxied + file, proxied + log);
                format!("{:.0} | {write:.0} | {append:.0}", record - base)
            });
            println!(
                "| {streams} | {file:.0} | {log:.0} | {} |",
                cells.join(" | ")
            );
        }
    }

    /// The median of all rounds of a write to a file and of an append to the log.
    fn write_us(&self, streams: usize) -> [f64; 2] {
        let of = |time: fn(&DurableWrite) -> Duration| {
            let writes = self.writes.iter().filter(|write| write.0 == streams);
            let mut times: Vec<_> = writes.map(|write| time(&write.1)).collect();
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1e6
        };
        [of(|write| write.file), of(|write| write.log)]
    }

    fn counts(&self) -> BTreeSet<usize> {
        self.runs.iter().map(|(streams, ..)| *streams).collect()
    }

    /// A quantile of all rounds, in microseconds.
    fn us(&self, streams: usize, kind: Kind, quantile: f64) -> f64 {
        us(joined(&self.of(streams, kind)).value_at_quantile(quantile))
    }

    fn of(&self, streams: usize, kind: Kind) -> Vec<&Measured> {
        let runs = self.runs.iter();
        runs.filter(|run| (run.0, run.1) == (streams, kind))
            .map(|run| &run.2)
            .collect()
    }
}

fn joined(runs: &[&Measured]) -> Histogram<u64> {
    let mut all = histogram();
    for run in runs {
        let _ = all.add(&run.latencies);
    }
    all
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn row(runs: &[&Measured]) -> Vec<String> {
    let latencies = joined(runs);
    let mean = |values: Vec<f64>| match values.len() {
        0 => "–".to_owned(),
        count => format!("{:.1}", values.iter().sum::<f64>() / count as f64),
    };
    vec![
        format!("{:.0}", us(latencies.value_at_quantile(0.5))),
        format!("{:.0}", us(latencies.value_at_quantile(0.99))),
        mean(runs.iter().map(|run| run.late).collect()),
        mean(runs.iter().filter_map(|run| run.cpu_us_per_token).collect()),
        mean(
            runs.iter()
                .filter_map(|run| run.written_per_token)
                .collect(),
        ),
        mean(runs.iter().filter_map(|run| run.resident_mib).collect()),
        mean(runs.iter().map(|run| run.stolen_percent).collect()),
    ]
}
