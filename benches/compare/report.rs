//! Results: a table for people, a line of JSON for each run.

use crate::servers::Kind;
use crate::stats::{Better, Figure, median, spread};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// What one run of a row on one server gave.
struct Run {
    row: String,
    kind: Kind,
    pair: usize,
    figures: Vec<Figure>,
}

/// All that was measured.
pub(crate) struct Report {
    runs: Vec<Run>,
    lines: File,
}

impl Report {
    /// Begins a report; the lines of earlier ones stay in the file.
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        Ok(Self {
            runs: Vec::new(),
            lines: File::options().create(true).append(true).open(path)?,
        })
    }

    pub(crate) fn add(
        &mut self,
        row: &str,
        kind: Kind,
        pair: usize,
        figures: Vec<Figure>,
    ) -> io::Result<()> {
        let values: serde_json::Map<String, serde_json::Value> = figures
            .iter()
            .map(|figure| (figure.name.to_owned(), figure.value.into()))
            .collect();
        let line = serde_json::json!({
            "row": row, "server": kind.name(), "pair": pair, "figures": values,
        });
        writeln!(self.lines, "{line}")?;
        let shown: Vec<String> = figures
            .iter()
            .map(|figure| format!("{} {}", figure.name, number(figure.value)))
            .collect();
        eprintln!("{row} [{}, {}] {}", pair + 1, kind.name(), shown.join(", "));
        self.runs.push(Run {
            row: row.to_owned(),
            kind,
            pair,
            figures,
        });
        Ok(())
    }

    /// The table of medians, with the ratio of each pair of runs.
    pub(crate) fn print(&self) {
        println!(
            "| | | {} | {} | ratio |",
            Kind::ALL[0].name(),
            Kind::ALL[1].name()
        );
        println!("| --- | --- | ---: | ---: | --- |");
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for run in &self.runs {
            for figure in &run.figures {
                if !seen.contains(&(run.row.as_str(), figure.name)) {
                    seen.push((&run.row, figure.name));
                }
            }
        }
        for (row, name) in seen {
            let [ours, theirs] = Kind::ALL.map(|kind| self.values(row, name, kind));
            let shown = |values: &[(usize, f64)]| {
                let values: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
                median(&values).map_or("–".to_owned(), number)
            };
            let (ours_shown, theirs_shown) = (shown(&ours), shown(&theirs));
            let ratio = ratio(&ours, &theirs);
            let better = match self.better(name) {
                Some(Better::Less) => ", less is better",
                _ => "",
            };
            println!("| {row} | {name}{better} | {ours_shown} | {theirs_shown} | {ratio} |");
        }
    }

    fn values(&self, row: &str, name: &str, kind: Kind) -> Vec<(usize, f64)> {
        let runs = self
            .runs
            .iter()
            .filter(|run| run.row == row && run.kind == kind);
        runs.flat_map(|run| {
            let figures = run.figures.iter().filter(|figure| figure.name == name);
            figures.map(|figure| (run.pair, figure.value))
        })
        .collect()
    }

    fn better(&self, name: &str) -> Option<Better> {
        let mut figures = self.runs.iter().flat_map(|run| &run.figures);
        figures
            .find(|figure| figure.name == name)
            .map(|figure| figure.better)
    }
}

/// The ratio of each pair of runs: its median, and from where to where it goes.
fn ratio(ours: &[(usize, f64)], theirs: &[(usize, f64)]) -> String {
    let ratios: Vec<f64> = ours
        .iter()
        .filter_map(|(pair, ours)| {
            let (_, theirs) = theirs.iter().find(|(other, _)| other == pair)?;
            (*theirs != 0.0).then(|| ours / theirs)
        })
        .collect();
    match (median(&ratios), spread(&ratios)) {
        (Some(middle), Some((least, greatest))) => {
            format!("{middle:.2} ({least:.2} to {greatest:.2})")
        }
        _ => "–".to_owned(),
    }
}

/// A number with as many digits as it deserves.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
