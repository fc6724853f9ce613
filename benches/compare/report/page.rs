//! The results as a part of the page about benchmarks.

use super::{Measured, STOLEN, machine, plot, table};
use crate::servers::Kind;
use crate::stats::Better;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// What stands between these lines of the page is written here.
const BEGIN: &str = "<!-- results -->\n";
const END: &str = "<!-- end of results -->";

pub(super) fn write(cases: &[Measured], docs: &Path, arguments: &[String]) -> io::Result<()> {
    let path = docs.join("benchmarks.md");
    let page = fs::read_to_string(&path)?;
    let begin = page.find(BEGIN).map(|begin| begin + BEGIN.len());
    let (Some(begin), Some(end)) = (begin, page.find(END)) else {
        return Err(io::Error::other("the page has no place for results"));
    };
    let results = results(cases, arguments);
    fs::write(path, [&page[..begin], &results, &page[end..]].concat())
}

/// The arguments that matter to others: not where files lie here.
fn told(arguments: &[String]) -> Vec<&str> {
    let mut told = Vec::new();
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument {
            "--bench" | "--resume" | "--write" => {}
            "--headwater" | "--scratch" => {
                arguments.next();
            }
            _ => told.push(argument),
        }
    }
    told
}

fn results(cases: &[Measured], arguments: &[String]) -> String {
    let mut out = format!(
        "\nMeasured on {}, on {}, with `{}`.\n\n",
        machine::today(),
        machine::describe(),
        told(arguments).join(" "),
    );
    for kind in Kind::ALL {
        if cases
            .iter()
            .any(|case| case.runs.iter().any(|run| run.kind == kind))
        {
            let _ = writeln!(out, "- {}: {}", kind.name(), kind.description());
        }
    }
    if cases
        .iter()
        .all(|case| case.runs.iter().all(|run| run.pair == 0))
    {
        out += "\nEach server was measured once: enough to see where it stands, not to rely on.\n";
    }
    out += "\n### At a glance\n\n";
    for (file, what) in plot::FILES {
        let _ = writeln!(out, "![{what}](benchmarks/{file})\n");
    }
    out += &targets(cases);
    out += &losses(cases);
    out += "\n### All figures\n";
    out.extend(cases.iter().map(table::of));
    out.push('\n');
    out
}

/// All targets, and whether they are met.
fn targets(cases: &[Measured]) -> String {
    let mut out = "### Targets\n\n| | figure | target | measured | met |\n".to_owned();
    out += "| --- | --- | --- | ---: | --- |\n";
    for case in cases {
        for target in &case.targets {
            let Some(met) = case.is_met(target) else {
                continue;
            };
            let value = case
                .median(target.figure, case.servers[0])
                .map(table::number);
            let ratio = case.ratio(target.figure);
            let ratio = ratio.map(|ratio| format!("{} times", table::number(ratio.median)));
            let both: Vec<String> = value.into_iter().chain(ratio).collect();
            let _ = writeln!(
                out,
                "| {} | {} | {target} | {} | {} |",
                case.title,
                target.figure,
                both.join(", "),
                if met { "yes" } else { "**no**" },
            );
        }
    }
    out
}

/// Less of a difference than this is none.
const MARGIN: f64 = 1.05;
/// Figures in which nobody loses: what the generator used, what the host took, and what a few
/// requests decide.
const UNJUDGED: [&str; 4] = ["generator", STOLEN, "p99.9", "max ms"];

/// Where the server that Headwater is compared with is ahead in every pair.
fn losses(cases: &[Measured]) -> String {
    let mut out = "\n### Where Headwater loses\n\nIn every pair of runs:\n\n".to_owned();
    let mut none = true;
    for case in cases {
        let mut behind = Vec::new();
        for (name, better) in case.figures() {
            let Some(ratio) = case.ratio(name) else {
                continue;
            };
            if UNJUDGED.iter().any(|part| name.contains(part)) {
                continue;
            }
            let loses = match better {
                Better::More => ratio.greatest < 1.0 / MARGIN,
                Better::Less => ratio.least > MARGIN,
            };
            if loses {
                behind.push(format!("{name} ({:.2} times)", ratio.median));
            }
        }
        if !behind.is_empty() {
            none = false;
            let _ = writeln!(out, "- {}: {}", case.title, behind.join(", "));
        }
    }
    if none {
        out += "- nowhere\n";
    }
    out
}
