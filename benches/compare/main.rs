//! Measures Headwater beside other servers of the protocol, on one machine, in one run.
//!
//! Each row starts each server anew, one at a time and in turns, and checks what it measured. The
//! figures of two runs on a shared machine are not comparable; the ratios within one run are.

mod decode;
mod h2;
mod http;
mod live;
mod load;
mod meter;
mod process;
mod report;
mod rows;
mod servers;
mod sse;
mod stats;
mod stolen;
mod syscalls;

use clap::{Parser, ValueEnum};
use report::Report;
use rows::{Row, Sizes};
use servers::{Kind, Setup};
use std::io;
use std::path::{Path, PathBuf};

/// Measures Headwater beside other servers of the protocol.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// What to measure; all of it, if none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,

    /// What not to measure.
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<Row>,

    /// How often each server is measured, in turns.
    #[arg(long, default_value_t = 3)]
    pairs: usize,

    /// Measures these servers alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Kind>,

    #[command(flatten)]
    sizes: Sizes,

    /// Another binary of Headwater than the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_headwater"))]
    headwater: PathBuf,

    /// Further lines for the table `[log]` of Headwater's configuration.
    #[arg(long, default_value = "")]
    log_settings: String,

    /// Also counts system calls, which makes all else slower: for runs of their own. It needs `perf`
    /// and the right to use it.
    #[arg(long)]
    syscalls: bool,

    /// Repeats a run of which the host of a virtual machine has stolen more of the processors' time, in
    /// percent: twice at the most.
    #[arg(long, default_value_t = 3.0)]
    stolen_max: f64,

    /// Where the servers' data lies while they run.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/compare"))]
    scratch: PathBuf,

    /// Goes on where an earlier run with the same arguments ended.
    #[arg(long)]
    resume: bool,

    /// Writes the results into docs/benchmarks.md, with plots beside it.
    #[arg(long)]
    write: bool,

    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    process::raise_open_files()?;
    std::fs::create_dir_all(&args.scratch)?;
    let cache = std::env::var("HOME").map(|home| Path::new(&home).join(".cache/headwater"));
    let cache = cache.unwrap_or_else(|_| args.scratch.clone());
    let setup = Setup {
        headwater: args.headwater.clone(),
        competitors: cache.join("competitors"),
        scratch: args.scratch.clone(),
        log_settings: args.log_settings.clone(),
        syscalls: args.syscalls,
    };
    let results = setup.scratch.join("results.jsonl");
    let mut report = Report::begin(&results, args.resume, args.stolen_max)?;
    for row in chosen(&args) {
        for case in row.cases(&args.sizes) {
            let servers = case.servers.iter().copied();
            let servers =
                servers.filter(|kind| args.servers.is_empty() || args.servers.contains(kind));
            let servers: Vec<Kind> = servers.collect();
            report.begin_case(&case);
            for pair in 0..args.pairs {
                for &kind in &servers {
                    report.add(kind, pair, || (case.measure)(&setup, kind, &args.sizes))?;
                }
            }
        }
    }
    print!("{}", report.tables());
    if args.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        report.write(&docs, &std::env::args().skip(1).collect::<Vec<_>>())?;
    }
    eprintln!("each run: {}", results.display());
    if report.headwater_failed() {
        return Err(io::Error::other("a row failed on Headwater"));
    }
    Ok(())
}

fn chosen(args: &Args) -> Vec<Row> {
    let all = || Row::value_variants().to_vec();
    let mut rows = if args.rows.is_empty() {
        all()
    } else {
        args.rows.clone()
    };
    rows.retain(|row| !args.without.contains(row));
    rows
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
