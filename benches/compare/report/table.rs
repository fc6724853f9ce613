//! Tables in Markdown.

use super::{Measured, Ratio};
use crate::stats::Better;
use std::fmt::Write;

/// The table of a case: medians, and the ratio of each pair of runs.
pub(super) fn of(case: &Measured) -> String {
    let mut out = format!("\n#### {}\n\n| |", case.title);
    for kind in case.servers {
        let _ = write!(out, " {} |", kind.name());
    }
    out += " ratio | target | met |\n| --- |";
    out += &" ---: |".repeat(case.servers.len());
    out += " --- | --- | --- |\n";
    for (name, better) in case.figures() {
        let hint = match better {
            Better::More => "more is better",
            Better::Less => "less is better",
        };
        let _ = write!(out, "| {name} ({hint}) |");
        for kind in case.servers {
            let value = case.median(name, *kind);
            let _ = write!(out, " {} |", value.map_or("–".to_owned(), number));
        }
        let target = case.targets.iter().find(|target| target.figure == name);
        let met = target.and_then(|target| case.is_met(target));
        let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
        let target = target.map(ToString::to_string).unwrap_or_default();
        let ratio = ratio(case.ratio(name));
        let _ = writeln!(out, " {ratio} | {target} | {met} |");
    }
    for kind in case.servers {
        let mut runs = case.runs.iter().filter(|run| run.kind == *kind);
        if let Some(failure) = runs.find_map(|run| run.failure.as_deref()) {
            let _ = writeln!(out, "\n{} could not: {}", kind.name(), first_line(failure));
        }
    }
    out
}

fn first_line(text: &str) -> &str {
    const BYTES_MAX: usize = 160;
    let line = text.lines().next().unwrap_or_default();
    &line[..line.floor_char_boundary(BYTES_MAX)]
}

/// The ratio of each pair of runs: its median, and from where to where it goes.
fn ratio(ratio: Option<Ratio>) -> String {
    ratio.map_or("–".to_owned(), |ratio| {
        format!(
            "{} ({} to {})",
            number(ratio.median),
            number(ratio.least),
            number(ratio.greatest),
        )
    })
}

/// A number with as many digits as it deserves.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
