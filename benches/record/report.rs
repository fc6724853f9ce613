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
    pub(crate) fn print(&self, durable_write: Duration) {
        let write_us = durable_write.as_secs_f64() * 1e6;
        println!("A small write is durable on this disk in {write_us:.0} µs (median).\n");
        println!(
            "| streams | way | p50 µs | p99 µs | added p50 µs | added p99 µs | late s | CPU µs per token | bytes to disk per token | RSS MiB |"
        );
        println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        let all: BTreeSet<usize> = self.runs.iter().map(|(streams, ..)| *streams).collect();
        for streams in all {
            let direct = joined(&self.of(streams, Kind::Direct));
            for kind in Kind::ALL {
                let runs = self.of(streams, kind);
                if runs.is_empty() {
                    continue;
                }
                let latencies = joined(&runs);
                let added = |quantile| {
                    us(latencies.value_at_quantile(quantile))
                        - us(direct.value_at_quantile(quantile))
                };
                let mut cells = row(&runs);
                cells.insert(2, format!("{:.0}", added(0.5)));
                cells.insert(3, format!("{:.0}", added(0.99)));
                println!("| {streams} | {} | {} |", kind.name(), cells.join(" | "));
            }
        }
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
