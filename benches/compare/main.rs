//! Measures Headwater beside another server of the protocol, on one machine, in one run.
//!
//! Each row starts each server anew, one at a time and in turns, and checks what it measured. The
//! figures of two runs on a shared machine are not comparable; the ratios within one run are.

mod http;
mod load;
mod process;
mod report;
mod rows;
mod servers;
mod sse;
mod stats;

use clap::Parser;
use report::Report;
use rows::{Row, Sizes};
use servers::{Kind, Setup};
use std::io;
use std::path::{Path, PathBuf};

/// Measures Headwater beside another server of the protocol.
#[derive(Parser)]
struct Args {
    /// What to measure; all of it, if none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,

    /// How often each server is measured, in turns.
    #[arg(long, default_value_t = 3)]
    pairs: usize,

    /// Measures one server alone.
    #[arg(long, value_enum)]
    only: Option<Kind>,

    #[command(flatten)]
    sizes: Sizes,

    /// Another binary of Headwater than the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_headwater"))]
    headwater: PathBuf,

    /// Further lines for the table `[log]` of Headwater's configuration.
    #[arg(long, default_value = "")]
    log_settings: String,

    /// Where the servers' data lies while they run.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/compare"))]
    scratch: PathBuf,

    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    process::raise_open_files()?;
    let cache = std::env::var("HOME").map(|home| Path::new(&home).join(".cache/headwater"));
    let setup = Setup {
        competitor: servers::install_competitor(&cache.unwrap_or_else(|_| args.scratch.clone()))?,
        headwater: args.headwater,
        scratch: args.scratch,
        log_settings: args.log_settings,
    };
    std::fs::create_dir_all(&setup.scratch)?;
    let results = setup.scratch.join("results.jsonl");
    let mut report = Report::begin(&results)?;
    let rows = if args.rows.is_empty() {
        Row::ALL.to_vec()
    } else {
        args.rows
    };
    for row in rows {
        for pair in 0..args.pairs {
            for kind in Kind::ALL {
                if args.only.is_none_or(|only| only == kind) {
                    let figures = row.measure(&setup, kind, &args.sizes)?;
                    report.add(&row.title(&args.sizes), kind, pair, figures)?;
                }
            }
        }
    }
    report.print();
    eprintln!("each run: {}", results.display());
    Ok(())
}

/// The most files that a process started here may open.
fn open_files_max() -> io::Result<u32> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(4)?.parse().ok())
        .ok_or_else(|| io::Error::other("the limit of open files cannot be read"))
}
