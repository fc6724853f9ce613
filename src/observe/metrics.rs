//! Counters, gauges and histograms, and their text for Prometheus.
//!
//! A [`Metrics`] has a registry of its own. What happens for each request is counted through handles
//! that were resolved before: a request costs a handful of atomic additions, no lock, no allocation,
//! no hashing. No label is ever made of what a client sends: routes come from the configuration,
//! and methods, modes, statuses and reasons are closed sets. There is no label per stream.

mod cache;
mod edge;
mod labels;
mod recorder;
mod registrar;
mod requests;
mod storage;
mod upstreams;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter, IntGauge, Registry, TextEncoder};

pub use cache::{Cache, CacheAnswer, CacheFigures, DiskTrouble, FillEnd};
pub use edge::{EdgeMetrics, OriginRequest};
pub use labels::{Live, Method, Mode, Refusal};
pub use recorder::{Recordings, Way};
use registrar::Registrar;
pub use requests::RouteMetrics;
use requests::Routes;
pub use storage::{Commit, Database, DatabaseFigures, KeptAnswers, Queue, Stall, Traffic};
use upstreams::Upstreams;
pub use upstreams::{UpstreamFailure, UpstreamMetrics};

/// The content type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The label `route` of requests that match no route. No pattern can be equal: they begin with `/`.
pub const UNMATCHED_ROUTE: &str = "unmatched";

/// What is called at each scrape before the figures are gathered.
pub type ScrapeHook = Box<dyn Fn(&Metrics) + Send + Sync>;

type SharedHook = Arc<dyn Fn(&Metrics) + Send + Sync>;

/// All figures of one server. Share it by [`Arc`]; every method takes `&self`.
pub struct Metrics {
    registry: Registry,
    routes: Routes,
    unmatched: Arc<RouteMetrics>,
    upstreams: Upstreams,
    live_readers: [IntGauge; Live::ALL.len()],
    refusals: [IntCounter; Refusal::ALL.len()],
    hooks: Mutex<Vec<SharedHook>>,
    /// Payload appended, counted when it is durable.
    pub appended: Traffic,
    /// Payload sent to readers.
    pub read: Traffic,
    /// Answers to catch-up reads that are kept.
    pub kept_answers: KeptAnswers,
    /// The committer's batches.
    pub commit: Commit,
    /// Seconds that writing and syncing one batch took.
    pub sync_seconds: Histogram,
    /// What waits for the committer.
    pub queue: Queue,
    /// Streams that hold memory now: their state, their tail, their readers.
    pub open_streams: IntGauge,
    /// Bytes of recent records that are kept in memory.
    pub hot_tail_bytes: IntGauge,
    /// Segments packed from records, or found to lie well as they are.
    pub packed_segments: IntCounter,
    /// Deleted or expired streams whose data was removed from the disk.
    pub purged_streams: IntCounter,
    /// Bytes that streams with retention need not keep any longer, and that were removed.
    pub trimmed_bytes: IntCounter,
    /// Pieces of packing, purging, trimming and expiry that could not be done.
    pub work_errors: IntCounter,
    /// Streams that ended because their time was over.
    pub expired_streams: IntCounter,
    /// Connections of clients that are open; [`Held`] counts one while it lives.
    pub open_connections: IntGauge,
    /// Handshakes of TLS that failed or took too long.
    pub handshake_failures: IntCounter,
    /// Streams whose home is elsewhere.
    pub edge: Arc<EdgeMetrics>,
    /// Upstreams' answers that become streams.
    pub recordings: Recordings,
    /// What an edge keeps of its origins' answers.
    pub cache: Cache,
    /// Lines of the log that were dropped because its reader was too slow;
    /// [`logs::init`](super::logs::init) takes a clone.
    pub dropped_log_lines: IntCounter,
    /// The database's own figures; set them in a hook given to [`Metrics::on_scrape`].
    pub database: Database,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Figures that all start at zero, in a registry of their own.
    pub fn new() -> Self {
        Self::build(Registrar::default()).0
    }

    /// The metrics, and the registrar that knows every family's name.
    fn build(mut registrar: Registrar) -> (Self, Registrar) {
        let r = &mut registrar;
        let routes = Routes::new(r);
        r.process();
        build_info(r);
        let metrics = Self {
            unmatched: routes.get(UNMATCHED_ROUTE),
            routes,
            upstreams: Upstreams::new(r),
            live_readers: live_readers(r),
            refusals: refusals(r),
            hooks: Mutex::default(),
            appended: Traffic::appended(r),
            read: Traffic::read(r),
            kept_answers: KeptAnswers::new(r),
            commit: Commit::new(r),
            sync_seconds: storage::sync_seconds(r),
            queue: Queue::new(r),
            open_streams: r.gauge(
                "headwater_open_streams",
                "Streams that hold memory because they are written, read or waited for.",
            ),
            hot_tail_bytes: r.gauge(
                "headwater_hot_tail_bytes",
                "Bytes of recent records that are kept in memory.",
            ),
            packed_segments: r.counter(
                "headwater_packed_segments_total",
                "Segments packed from records, or found to lie well as they are.",
            ),
            purged_streams: r.counter(
                "headwater_purged_streams_total",
                "Deleted or expired streams whose data was removed from the disk.",
            ),
            trimmed_bytes: r.counter(
                "headwater_trimmed_bytes_total",
                "Bytes that streams with retention need not keep any longer, and that were removed.",
            ),
            work_errors: r.counter(
                "headwater_work_errors_total",
                "Pieces of packing, purging, trimming and expiry that could not be done.",
            ),
            expired_streams: r.counter(
                "headwater_expired_streams_total",
                "Streams that ended because their time was over.",
            ),
            open_connections: r.gauge(
                "headwater_open_connections",
                "Connections of clients that are open.",
            ),
            handshake_failures: r.counter(
                "headwater_tls_handshake_failures_total",
                "Handshakes of TLS that failed or took too long.",
            ),
            edge: Arc::new(EdgeMetrics::new(r)),
            recordings: Recordings::new(r),
            cache: Cache::new(r),
            dropped_log_lines: r.counter(
                "headwater_dropped_log_lines_total",
                "Lines of the log that were dropped because its reader was too slow.",
            ),
            database: Database::new(r),
            registry: r.registry.clone(),
        };
        (metrics, registrar)
    }

    /// The figures of the route with this path pattern, for the time of its life. Call it at
    /// start-up for each configured route; a pattern that was asked before gives the same figures.
    pub fn route(&self, pattern: &str) -> Arc<RouteMetrics> {
        self.routes.get(pattern)
    }

    /// The figures of the upstreams of the route with this path pattern, for the time of its life. A
    /// pattern that was asked before gives the same figures.
    pub fn upstreams(&self, pattern: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.get(pattern)
    }

    /// The figures of requests that match no route; their label is [`UNMATCHED_ROUTE`].
    pub fn unmatched(&self) -> &Arc<RouteMetrics> {
        &self.unmatched
    }

    /// How many readers wait at a tail in this mode; [`Held`] counts one while it lives.
    pub fn live_readers(&self, live: Live) -> &IntGauge {
        &self.live_readers[live as usize]
    }

    /// How many connections or requests were refused for this reason.
    pub fn refused(&self, reason: Refusal) -> &IntCounter {
        &self.refusals[reason as usize]
    }

    /// Calls `hook` at each scrape, for figures that are read rather than counted. It may block: a
    /// scrape never runs on an async worker. It is given these metrics, so it needs no handle to
    /// them, which would keep them alive for ever.
    pub fn on_scrape(&self, hook: ScrapeHook) {
        self.hooks.lock().push(Arc::from(hook));
    }

    /// All figures in the text format of Prometheus, after the hooks were called. Blocks as long as
    /// they do.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        // Not under the lock: a hook may register another.
        let hooks = self.hooks.lock().clone();
        for hook in hooks {
            hook(self);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Counts one in a gauge for as long as it lives, however its owner ends.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    /// Adds one to `gauge`, and takes it away when dropped.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn live_readers(registrar: &mut Registrar) -> [IntGauge; Live::ALL.len()] {
    let readers = registrar.gauges(
        "headwater_live_readers",
        "Readers that wait at a stream's tail, by mode.",
        &["mode"],
    );
    Live::ALL.map(|live| readers.with_label_values(&[live.as_str()]))
}

fn refusals(registrar: &mut Registrar) -> [IntCounter; Refusal::ALL.len()] {
    let refusals = registrar.counters(
        "headwater_refusals_total",
        "Connections and requests refused because of a limit, by which.",
        &["reason"],
    );
    Refusal::ALL.map(|reason| refusals.with_label_values(&[reason.as_str()]))
}

fn build_info(registrar: &mut Registrar) {
    registrar
        .gauges(
            "headwater_build_info",
            "Always 1; the label says which version runs.",
            &["version"],
        )
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1);
}

#[cfg(test)]
mod tests;
