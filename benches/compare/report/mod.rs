//! Results: a line of JSON for each run, tables and plots for people.

mod machine;
mod page;
mod plot;
mod table;

use crate::rows::Case;
use crate::servers::Kind;
use crate::stats::{Better, Figure, Target, median, spread};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// What one run on one server gave.
struct Run {
    kind: Kind,
    pair: usize,
    figures: Vec<Figure>,
}

/// What was measured in one case.
struct Measured {
    title: String,
    servers: &'static [Kind],
    targets: Vec<Target>,
    runs: Vec<Run>,
    /// Why a server could not be measured.
    failures: Vec<(Kind, String)>,
}

/// Ratios of pairs of runs.
struct Ratio {
    median: f64,
    least: f64,
    greatest: f64,
}

/// All that was measured.
pub(crate) struct Report {
    cases: Vec<Measured>,
    lines: File,
}

impl Report {
    /// Begins a report; the lines of earlier ones stay in the file.
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        Ok(Self {
            cases: Vec::new(),
            lines: File::options().create(true).append(true).open(path)?,
        })
    }

    pub(crate) fn begin_case(&mut self, case: &Case) {
        self.cases.push(Measured {
            title: case.title.clone(),
            servers: case.servers,
            targets: case.targets.clone(),
            runs: Vec::new(),
            failures: Vec::new(),
        });
    }

    /// Adds a run to the case that was begun last.
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        pair: usize,
        measured: io::Result<Vec<Figure>>,
    ) -> io::Result<()> {
        let Some(case) = self.cases.last_mut() else {
            return Ok(());
        };
        let shown = format!("{} [{}, {}]", case.title, pair + 1, kind.name());
        let figures = match measured {
            Ok(figures) => figures,
            Err(error) => {
                eprintln!("{shown} failed: {error}");
                case.failures.push((kind, error.to_string()));
                return Ok(());
            }
        };
        let values: serde_json::Map<String, serde_json::Value> = figures
            .iter()
            .map(|figure| (figure.name.clone(), figure.value.into()))
            .collect();
        let line = serde_json::json!({
            "row": case.title, "server": kind.name(), "pair": pair, "figures": values,
        });
        writeln!(self.lines, "{line}")?;
        let texts = figures
            .iter()
            .map(|figure| format!("{} {}", figure.name, table::number(figure.value)));
        eprintln!("{shown} {}", texts.collect::<Vec<_>>().join(", "));
        case.runs.push(Run {
            kind,
            pair,
            figures,
        });
        Ok(())
    }

    /// Whether Headwater could not be measured somewhere.
    pub(crate) fn headwater_failed(&self) -> bool {
        let mut failures = self.cases.iter().flat_map(|case| &case.failures);
        failures.any(|(kind, _)| *kind == Kind::Headwater)
    }

    /// All tables.
    pub(crate) fn tables(&self) -> String {
        self.cases.iter().map(table::of).collect()
    }

    /// Writes the results into the page of benchmarks, with plots beside it.
    pub(crate) fn write(&self, docs: &Path, arguments: &[String]) -> io::Result<()> {
        page::write(&self.cases, docs, arguments)?;
        plot::write(&self.cases, &docs.join("benchmarks"))
    }
}

impl Measured {
    /// The names of all figures, in order.
    fn figures(&self) -> Vec<(&str, Better)> {
        let mut names: Vec<(&str, Better)> = Vec::new();
        for figure in self.runs.iter().flat_map(|run| &run.figures) {
            if !names.iter().any(|(name, _)| *name == figure.name) {
                names.push((&figure.name, figure.better));
            }
        }
        names
    }

    fn values(&self, name: &str, kind: Kind) -> Vec<(usize, f64)> {
        let runs = self.runs.iter().filter(|run| run.kind == kind);
        runs.flat_map(|run| {
            let figures = run.figures.iter().filter(|figure| figure.name == name);
            figures.map(|figure| (run.pair, figure.value))
        })
        .collect()
    }

    fn median(&self, name: &str, kind: Kind) -> Option<f64> {
        let values = self.values(name, kind).into_iter();
        median(&values.map(|(_, value)| value).collect::<Vec<_>>())
    }

    /// How Headwater's figure relates to that of the server it is compared with, pair by pair.
    fn ratio(&self, name: &str) -> Option<Ratio> {
        let [ours, theirs] = [self.servers[0], self.servers[1]].map(|kind| self.values(name, kind));
        let ratios: Vec<f64> = ours
            .iter()
            .filter_map(|(pair, ours)| {
                let (_, theirs) = theirs.iter().find(|(other, _)| other == pair)?;
                (*theirs != 0.0).then(|| ours / theirs)
            })
            .collect();
        let (least, greatest) = spread(&ratios)?;
        Some(Ratio {
            median: median(&ratios)?,
            least,
            greatest,
        })
    }

    /// Whether a target is met, if that can be told.
    fn is_met(&self, target: &Target) -> Option<bool> {
        let value = self.median(target.figure, self.servers[0]);
        let ratio = self.ratio(target.figure).map(|ratio| ratio.median);
        target.is_met(value, ratio)
    }
}
