//! Measures what an edge gives and costs: immutable ranges from its memory beside nginx's proxy cache,
//! the time that it adds to a live event, the memory of its readers, and what they cost its origin.
//!
//! The load generator is in this process; the servers are processes beside it, on the same machine.
//! What is compared is measured in turns: the ratios within one run mean something, the figures of two
//! runs on a shared machine do not.

#[path = "../compare/decode.rs"]
mod decode;
mod events;
#[allow(dead_code, reason = "the comparison uses more of it")]
#[path = "../compare/http.rs"]
mod http;
#[path = "../compare/live.rs"]
mod live;
#[path = "../compare/load.rs"]
mod load;
mod net;
#[allow(dead_code, reason = "the comparison uses more of it")]
#[path = "../compare/process.rs"]
mod process;
mod ranges;
mod served;
#[path = "../compare/sse.rs"]
mod sse;

use clap::{Parser, ValueEnum};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Measures an edge.
#[derive(Parser)]
struct Args {
    /// Measures these alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,

    /// Seconds that each measurement takes.
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// How often each is measured, in turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How many readers of events the edge has; each number is measured.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    readers: Vec<usize>,

    /// Another binary of Headwater than the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_headwater"))]
    headwater: PathBuf,

    /// Where data lies while it is measured: on a disk that syncs.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/edge"))]
    scratch: PathBuf,

    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Immutable ranges from the edge's memory, beside nginx's proxy cache.
    Ranges,
    /// The time until a reader has an event, at the origin and at the edge.
    Added,
    /// Memory of the edge's readers, and the processor time of its origin.
    Readers,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    process::raise_open_files()?;
    std::fs::create_dir_all(&args.scratch)?;
    let time = Duration::from_secs(args.seconds);
    let rows = match args.rows.as_slice() {
        [] => Row::value_variants(),
        rows => rows,
    };
    let world = net::World {
        headwater: args.headwater.clone(),
        scratch: args.scratch.clone(),
    };
    for row in rows {
        match row {
            Row::Ranges => ranges::measure(&world, time, args.rounds)?,
            Row::Added => events::measure_added(&world, time, args.rounds)?,
            Row::Readers => events::measure_readers(&world, time, &args.readers)?,
        }
    }
    Ok(())
}

/// The middle one; of an even number, the upper of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
