//! Results: a line of JSON for each run, tables and plots for people.

mod machine;
mod page;
mod plot;
mod table;

use crate::rows::Case;
use crate::servers::Kind;
use crate::stats::{Better, Figure, Target, median, spread};
use crate::stolen;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What one run on one server gave.
#[derive(Clone, Serialize, Deserialize)]
struct Run {
    title: String,
    kind: Kind,
    pair: usize,
    figures: Vec<Figure>,
    /// Why the server could not be measured.
    failure: Option<String>,
}

/// The figure that says how much of a run's processor time the host gave to others.
const STOLEN: &str = "stolen by the host %";

/// What was measured in one case.
struct Measured {
    title: String,
    servers: &'static [Kind],
    targets: Vec<Target>,
    runs: Vec<Run>,
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
    /// Runs of an earlier time, which need not be repeated.
    known: Vec<Run>,
    /// Most percent of the processors that the host may steal of a run.
    stolen_max: f64,
}

impl Report {
    /// Begins a report whose runs are also lines of a file: after those that are there, or without
    /// them.
    pub(crate) fn begin(path: &Path, resume: bool, stolen_max: f64) -> io::Result<Self> {
        let mut known = Vec::new();
        if resume && path.exists() {
            for line in fs::read_to_string(path)?.lines() {
                known.push(serde_json::from_str(line)?);
            }
        } else {
            File::create(path)?;
        }
        Ok(Self {
            cases: Vec::new(),
            lines: File::options().append(true).open(path)?,
            known,
            stolen_max,
        })
    }

    pub(crate) fn begin_case(&mut self, case: &Case) {
        self.cases.push(Measured {
            title: case.title.clone(),
            servers: case.servers,
            targets: case.targets.clone(),
            runs: Vec::new(),
        });
    }

    /// Adds a run to the case that was begun last; it is measured unless it is known.
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        pair: usize,
        measure: impl Fn() -> io::Result<Vec<Figure>>,
    ) -> io::Result<()> {
        let Some(case) = self.cases.last_mut() else {
            return Ok(());
        };
        let mut known = self.known.iter();
        let same = |run: &&Run| run.title == case.title && (run.kind, run.pair) == (kind, pair);
        if let Some(run) = known.find(same) {
            case.runs.push(run.clone());
            return Ok(());
        }
        let measured = stolen::least(self.stolen_max, measure).map(|(mut figures, percent)| {
            figures.push(Figure::less(STOLEN, percent));
            figures
        });
        let run = Run {
            title: case.title.clone(),
            kind,
            pair,
            failure: measured.as_ref().err().map(ToString::to_string),
            figures: measured.unwrap_or_default(),
        };
        writeln!(self.lines, "{}", serde_json::to_string(&run)?)?;
        let shown = |figure: &Figure| format!("{} {}", figure.name, table::number(figure.value));
        let figures: Vec<String> = run.figures.iter().map(shown).collect();
        let failure = run.failure.as_deref().unwrap_or_default();
        eprintln!(
            "{} [{}, {}] {}{failure}",
            case.title,
            pair + 1,
            kind.name(),
            figures.join(", "),
        );
        case.runs.push(run);
        Ok(())
    }

    /// Whether Headwater could not be measured somewhere.
    pub(crate) fn headwater_failed(&self) -> bool {
        let mut runs = self.cases.iter().flat_map(|case| &case.runs);
        runs.any(|run| run.kind == Kind::Headwater && run.failure.is_some())
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
