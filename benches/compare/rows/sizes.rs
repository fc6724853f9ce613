//! How much to measure.

use std::time::Duration;

/// How much to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sizes {
    /// Seconds for which a rate is measured.
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,

    /// Seconds in which events are published in the rows `sse` and `long-poll`: there are far fewer of
    /// them than of requests, and the slowest hundredth of a few is nothing but the slowest.
    #[arg(long, default_value_t = 10)]
    pub(crate) live_seconds: u64,

    /// Appends a second where their rate is given: in the rows `append-rate` and `mixed`.
    #[arg(long, default_value_t = 10_000.0)]
    pub(crate) append_rate: f64,

    /// Streams to create in the row `create`.
    #[arg(long, default_value_t = 15_000)]
    pub(crate) creates: usize,

    /// Streams to create in the row `streams`.
    #[arg(long, default_value_t = 500_000)]
    pub(crate) streams: usize,

    /// Streams to find again in the row `restart`, each number by itself.
    #[arg(long, value_delimiter = ',', default_value = "19000")]
    pub(crate) restart: Vec<usize>,

    /// Sessions at once, each number by itself.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    pub(crate) sessions: Vec<usize>,

    /// Readers to hold in the row `sse`, each number by itself.
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000,10000")]
    pub(crate) readers: Vec<usize>,

    /// Connections in the row `long-poll`, each number by itself.
    #[arg(long, value_delimiter = ',', default_value = "256,2048")]
    pub(crate) polls: Vec<usize>,

    /// MiB of history that is read in the row `mixed`.
    #[arg(long, default_value_t = 1024)]
    pub(crate) history_mib: u64,

    /// Seconds of the row `sustained`.
    #[arg(long, default_value_t = 60)]
    pub(crate) sustained_seconds: u64,

    /// What is appended in the row `sustained`, in percent of the peak.
    #[arg(long, default_value_t = 50)]
    pub(crate) sustained_percent: u8,

    /// Streams up to which the row `growth` goes.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) growth_streams: usize,

    /// MiB of one stream up to which the row `growth` goes.
    #[arg(long, default_value_t = 1024)]
    pub(crate) growth_mib: u64,

    /// Seconds in which a server may settle before its idle memory is read.
    #[arg(long, default_value_t = 30)]
    pub(crate) settle: u64,
}

impl Sizes {
    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(super) fn live_time(&self) -> Duration {
        Duration::from_secs(self.live_seconds)
    }

    pub(super) fn settle_time(&self) -> Duration {
        Duration::from_secs(self.settle)
    }
}
