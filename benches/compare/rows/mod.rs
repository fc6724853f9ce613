//! What is measured. Each row starts a server of its own, measures it, and checks what it measured.

mod append;
mod get;
mod readers;
mod streams;

use crate::load::Outcome;
use crate::process::Usage;
use crate::servers::{Kind, Server, Setup};
use crate::stats::Figure;
use std::io;
use std::time::Duration;

/// How much to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sizes {
    /// Seconds for which a rate is measured.
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,

    /// Streams to create in the row `streams`.
    #[arg(long, default_value_t = 500_000)]
    pub(crate) streams: usize,

    /// Readers to hold in the row `readers`.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) readers: usize,

    /// Seconds in which a server may settle before its idle memory is read.
    #[arg(long, default_value_t = 30)]
    pub(crate) settle: u64,
}

impl Sizes {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn settle_time(&self) -> Duration {
        Duration::from_secs(self.settle)
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// GET of a stream of 1 KiB by 32 connections.
    Get,
    /// Durable appends of 256 bytes by 64 connections to one stream.
    #[value(name = "append-1")]
    Append1,
    /// The same to 100 streams.
    #[value(name = "append-100")]
    Append100,
    /// The same to 2,000 streams.
    #[value(name = "append-2000")]
    Append2000,
    /// Many small streams under a low limit of open files: creating, memory, restart.
    Streams,
    /// 19,000 small streams under a higher limit: restart.
    Restart,
    /// Idle SSE readers: memory of each, and delivery to all.
    Readers,
}

impl Row {
    pub(crate) const ALL: [Self; 7] = [
        Self::Get,
        Self::Append1,
        Self::Append100,
        Self::Append2000,
        Self::Streams,
        Self::Restart,
        Self::Readers,
    ];

    pub(crate) fn title(self, sizes: &Sizes) -> String {
        match self {
            Self::Get => "GET 1 KiB, 32 connections".to_owned(),
            Self::Append1 => "append 256 B, 64 connections, 1 stream".to_owned(),
            Self::Append100 => "append 256 B, 64 connections, 100 streams".to_owned(),
            Self::Append2000 => "append 256 B, 64 connections, 2,000 streams".to_owned(),
            Self::Streams => format!("{} closed streams, 1,024 open files", sizes.streams),
            Self::Restart => format!("{} closed streams, restart", streams::RESTART_STREAMS),
            Self::Readers => format!("{} SSE readers of one stream", sizes.readers),
        }
    }

    pub(crate) fn measure(
        self,
        setup: &Setup,
        kind: Kind,
        sizes: &Sizes,
    ) -> io::Result<Vec<Figure>> {
        match self {
            Self::Get => get::measure(setup, kind, sizes),
            Self::Append1 => append::measure(setup, kind, sizes, 1),
            Self::Append100 => append::measure(setup, kind, sizes, 100),
            Self::Append2000 => append::measure(setup, kind, sizes, 2000),
            Self::Streams => streams::measure(setup, kind, sizes),
            Self::Restart => streams::measure_restart(setup, kind),
            Self::Readers => readers::measure(setup, kind, sizes),
        }
    }
}

/// Files that a server may open where that is not what is measured.
const FILES_MAX: u32 = 4096;
/// For how long a server is used before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What the server and this program had used when a measurement began.
struct Meter {
    server: Usage,
    generator: Usage,
}

impl Meter {
    fn begin(server: &Server) -> io::Result<Self> {
        Ok(Self {
            server: server.usage()?,
            generator: Usage::of(std::process::id())?,
        })
    }

    /// The figures of a run at full load.
    fn figures(&self, server: &Server, outcome: &Outcome) -> io::Result<Vec<Figure>> {
        let after = server.usage()?;
        let generator = Usage::of(std::process::id())?;
        let each = |before: &Usage, after: &Usage| {
            let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
            cpu * 1e6 / outcome.operations as f64
        };
        Ok(vec![
            Figure::more("per second", outcome.rate()),
            Figure::less("server CPU µs each", each(&self.server, &after)),
            Figure::less("generator CPU µs each", each(&self.generator, &generator)),
            Figure::less("p50 ms", outcome.latency_ms(0.5)),
            Figure::less("p99 ms", outcome.latency_ms(0.99)),
            Figure::less("RSS MiB", after.resident_mib()),
        ])
    }
}

fn failed(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
