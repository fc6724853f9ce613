//! Measures what recording costs: the time from when an upstream writes a token until its client has
//! it, directly, through nginx, and through Headwater, which makes it durable on the way.
//!
//! The upstream and the clients are in this process and share its clock, which each token carries.
//! The ways are measured in turns; the figures of two runs on a shared machine are not comparable,
//! the ratios within one run are.

mod client;
mod durable;
mod pacer;
#[path = "../compare/process.rs"]
mod process;
mod report;
#[path = "../edge/served.rs"]
mod served;
#[path = "../compare/stolen.rs"]
mod stolen;
mod upstream;
mod ways;

use clap::Parser;
use client::Load;
use pacer::Pacer;
use report::{DurableWrite, Measured, Report};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;
use ways::{Kind, Way};

/// Measures what recording costs each token.
#[derive(Parser)]
struct Args {
    /// How many answers stream at one time; each number is measured.
    #[arg(long, value_delimiter = ',', default_value = "1,50,500")]
    streams: Vec<usize>,

    /// Tokens a second of each answer.
    #[arg(long, default_value_t = 50)]
    rate: u64,

    /// Seconds that each answer takes.
    #[arg(long, default_value_t = 10)]
    seconds: u64,

    /// How often each way is measured, in turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Measures these ways alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,

    /// Another binary of Headwater than the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_headwater"))]
    headwater: PathBuf,

    /// Where data lies while it is measured: on a disk that syncs.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/record"))]
    scratch: PathBuf,

    /// Repeats a run of which the host of a virtual machine has stolen more of the processors' time, in
    /// percent: twice at the most.
    #[arg(long, default_value_t = 3.0)]
    stolen_max: f64,

    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn load(&self, way: &Way, streams: usize) -> Load {
        Load {
            address: way.address,
            streams,
            tokens: self.rate * self.seconds,
            rate: self.rate,
        }
    }

    /// Between two tokens of an answer.
    fn pause(&self) -> Duration {
        Duration::from_secs(1) / self.rate as u32
    }
}

/// How long an answer is read before each measurement.
const WARM_UP_SECONDS: u64 = 1;

fn main() -> io::Result<()> {
    let args = Args::parse();
    process::raise_open_files()?;
    std::fs::create_dir_all(&args.scratch)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let pacer = Pacer::start()?;
    let upstream = runtime.block_on(async { upstream::start(&pacer) })?;
    let kinds = if args.only.is_empty() {
        Kind::ALL.to_vec()
    } else {
        args.only.clone()
    };
    let mut report = Report::default();
    for &streams in &args.streams {
        for round in 0..args.rounds {
            for &kind in &kinds {
                let run = || {
                    let way = Way::start(kind, &args.headwater, &args.scratch, upstream)?;
                    runtime.block_on(measure(&way, &args.load(&way, streams)))
                };
                let (mut measured, stolen_percent) = stolen::least(args.stolen_max, run)?;
                measured.stolen_percent = stolen_percent;
                report.add(streams, kind, round, measured);
            }
            // In each round, because a disk that others use is not as quick at all times.
            let (write, _) = stolen::least(args.stolen_max, || {
                Ok(DurableWrite {
                    file: file_beside(&args, &runtime, upstream, streams)?,
                    log: log_beside(&args, &runtime, upstream, streams, &pacer)?,
                })
            })?;
            report.add_write(streams, write);
        }
    }
    report.print();
    Ok(())
}

/// What a durable write to a file takes, for each token of one answer more, where nginx passes the
/// others on: under the load under which what nginx takes is measured.
fn file_beside(
    args: &Args,
    runtime: &Runtime,
    upstream: SocketAddr,
    streams: usize,
) -> io::Result<Duration> {
    let way = Way::start(Kind::Nginx, &args.headwater, &args.scratch, upstream)?;
    let load = args.load(&way, streams);
    std::thread::scope(|threads| {
        let writes = threads.spawn(|| durable::to_a_file(&args.scratch, args.pause(), load.tokens));
        runtime.block_on(client::run(&load))?;
        let written = writes.join();
        written.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What an append to the log takes, for each token of all answers, where nginx passes them on: what is
/// recorded is passed on and made durable as well.
fn log_beside(
    args: &Args,
    runtime: &Runtime,
    upstream: SocketAddr,
    streams: usize,
    pacer: &Pacer,
) -> io::Result<Duration> {
    let way = Way::start(Kind::Nginx, &args.headwater, &args.scratch, upstream)?;
    let load = args.load(&way, streams);
    runtime.block_on(async {
        let appends = durable::to_the_log(&args.scratch, &load, args.pause(), pacer);
        let (_, append) = tokio::try_join!(client::run(&load), appends)?;
        Ok(append)
    })
}

async fn measure(way: &Way, load: &Load) -> io::Result<Measured> {
    // What a server does once, when it has started, is no cost of a token.
    client::run(&Load {
        streams: 1,
        tokens: load.rate * WARM_UP_SECONDS,
        ..*load
    })
    .await?;
    let before = way.usage()?;
    let outcome = client::run(load).await?;
    let after = way.usage()?;
    let tokens = load.tokens * load.streams as u64;
    let used = after.zip(before);
    let cpu = used.map(|(after, before)| after.cpu.saturating_sub(before.cpu));
    let written = used.map(|(after, before)| after.written.saturating_sub(before.written));
    Ok(Measured {
        latencies: outcome.latencies,
        late: outcome.elapsed.as_secs_f64() - load.tokens as f64 / load.rate as f64,
        cpu_us_per_token: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / tokens as f64),
        written_per_token: written.map(|bytes| bytes as f64 / tokens as f64),
        resident_mib: after.map(|usage| usage.resident_mib()),
        // Known when all of the run is over.
        stolen_percent: 0.0,
    })
}
