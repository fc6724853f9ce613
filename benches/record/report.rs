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
}

/// What one durable write takes by itself (medians).
pub(crate) struct DurableWrite {
    /// To a file.
    pub(crate) file: Duration,
    /// To the log of streams.
    pub(crate) log: Duration,
}

/// All runs.
#[derive(Default)]
pub(crate) struct Report {
    runs: Vec<(usize, Kind, Measured)>,
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

    /// Prints the figures of all rounds together, and what each way adds to the direct one.
    pub(crate) fn print(&self, write: &DurableWrite) {
        println!(
            "| streams | way | p50 µs | p99 µs | added p50 µs | added p99 µs | late s | CPU µs per token | bytes to disk per token | RSS MiB |"
        );
        println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
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
        self.print_aim(write);
    }

    /// Prints the medians beside what is aimed at: one and a half times those of nginx, and one durable
    /// write.
    fn print_aim(&self, write: &DurableWrite) {
        let [file, log] = [write.file, write.log].map(|time| time.as_secs_f64() * 1e6);
        println!(
            "\nA small write to a file is durable in {file:.0} µs, an append to the log in {log:.0} µs (medians).\n"
        );
        println!(
            "| streams | p50 µs | 1.5 × nginx + write | … + append | added p50 µs | 1.5 × nginx + write | … + append |"
        );
        println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        for streams in self.counts() {
            let [direct, nginx, record] =
                [Kind::Direct, Kind::Nginx, Kind::Record].map(|kind| self.us(streams, kind, 0.5));
            let cells = [0.0, direct].map(|base| {
                let proxied = 1.5 * (nginx - base);
                let (write, append) = (proxied + file, proxied + log);
                format!("{:.0} | {write:.0} | {append:.0}", record - base)
            });
            println!("| {streams} | {} |", cells.join(" | "));
        }
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
    ]
}
