//! Wiring: what is started in which order, and how it stops.
//!
//! A stop goes against the way of a request: readiness first, then live readers, then listeners,
//! then what is in flight, the log last.

use crate::clock::SystemClock;
use crate::config::Config;
use crate::descriptors::{self, TooFewFiles};
use crate::edge::Edge;
use crate::edge::cache::{Cache, OpenError};
use crate::gateway::{self, Certificates, Connections, Sockets};
use crate::log::rocks::Rocks;
use crate::log::{self, Log};
use crate::observe::admin::{self, CheckpointError, Parts, Readiness};
use crate::observe::logs;
use crate::observe::metrics::Metrics;
use crate::recorder::{RecordError, Recorder};
use crate::serve::{Bodies, Outgoing, Reads, Server, Turns};
use pingora::server::ListenFds;
use pingora::services::Service as _;
use pingora::services::listening::Service;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why the server does not run.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Logs(#[from] logs::LogError),
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    #[error("the database in {dir} does not open: {source}")]
    Database {
        dir: String,
        source: log::kv::KvError,
    },
    #[error(transparent)]
    Log(#[from] log::OpenError),
    #[error(transparent)]
    Bind(#[from] gateway::BindError),
    #[error(transparent)]
    Listen(#[from] gateway::ListenError),
    #[error(transparent)]
    Cache(#[from] OpenError),
    #[error(transparent)]
    Admin(#[from] admin::AddressError),
    #[error("recordings that a crash cut off cannot be closed: {0}")]
    Recover(#[from] RecordError),
    #[error("the threads do not start: {0}")]
    Threads(io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The terminal is gone, so the server stops.
    Stop,
    /// The certificates are to be read again.
    Reload,
}

/// Runs a server until SIGTERM or SIGINT, or a SIGHUP that means so, and stops it cleanly.
pub fn run(mut config: Config, hangup: Hangup) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new());
    let _logs = logs::init(&config.logging, metrics.dropped_log_lines.clone())?;
    config.limits.connections_max = descriptors::connections_max(&config)?;
    let runtime = runtime(config.threads)?;
    let timeout = config.shutdown_timeout;
    let outcome = runtime.block_on(run_on(config, metrics, hangup));
    // What still blocks after the time for a stop is left behind.
    runtime.shutdown_timeout(timeout.min(Duration::from_secs(1)));
    outcome
}

fn runtime(threads: Option<usize>) -> Result<Runtime, RunError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .thread_name("headwater")
        .build()
        .map_err(RunError::Threads)
}

async fn run_on(config: Config, metrics: Arc<Metrics>, hangup: Hangup) -> Result<(), RunError> {
    // Before anybody can connect: a stop is to be clean from then on.
    let hung_up = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let stopped = stop_signal().map_err(RunError::Signals)?;
    let sites = config.site.iter().flat_map(|site| &site.listen);
    let addresses: BTreeSet<_> = sites.chain(&config.admin).collect();
    let addresses: Vec<_> = addresses.into_iter().collect();
    let sockets = Sockets::bind(&addresses, config.limits.unsent_bytes_max)?;
    let bound = sockets.bound.clone();
    let fds = sockets.into_fds();
    let lifecycle = Arc::new(Lifecycle::default());
    let stop_admin = start_admin(&config, &metrics, &lifecycle, &fds)?;
    let config = Arc::new(config);
    let rocks = open_database(&config).await?;
    let (server, stop_work) = start_log(&config, &metrics, &rocks)?;
    report_figures(&server, &rocks);
    let recorder = start_recorder(&config, &server);
    recorder.recover().await?;
    let stop_upstreams = CancellationToken::new();
    let edge = start_edge(&config, &server, &lifecycle, &stop_upstreams)?;
    let edge = edge.as_ref();
    let listeners = gateway::listeners(&config, &server, &recorder, edge, &stop_upstreams)?;
    let certificates = listeners.certificates;
    let listeners = Listeners::start(listeners.services, &fds);
    let _ = lifecycle.opened.set((server.log.clone(), rocks));
    for (configured, bound) in &bound {
        let admin = config.admin.as_ref() == Some(configured);
        tracing::info!(address = %bound, admin, "listening");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "headwater is ready");
    tokio::select! {
        () = stopped => {}
        () = at_hangups(hung_up, hangup, &certificates) => {}
    }
    tracing::info!("stopping");
    lifecycle.stopping.store(true, Ordering::Release);
    let recordings = recorder.stop(config.shutdown_timeout.mul_f64(RECORDINGS_SHARE));
    // What is not closed by then is found and closed at the next start.
    let recordings = tokio::time::timeout(config.shutdown_timeout, recordings);
    let listeners = listeners.stop(&server, config.shutdown_timeout);
    let _ = tokio::join!(recordings, listeners);
    stop_upstreams.cancel();
    stop_work.cancel();
    server.log.stop().await;
    let _ = stop_admin.send(true);
    tracing::info!("stopped");
    Ok(())
}

/// What the admin listener asks, once it is there.
#[derive(Default)]
struct Lifecycle {
    opened: OnceLock<(Arc<Log>, Arc<Rocks>)>,
    edge: OnceLock<Arc<Edge>>,
    stopping: AtomicBool,
}

async fn open_database(config: &Arc<Config>) -> Result<Arc<Rocks>, RunError> {
    let config = config.clone();
    let open = move || {
        let dir = config.data_dir.join("streams");
        let opened = Rocks::open(&dir, &config.log).and_then(|rocks| {
            rocks.prepare_log(&config.log)?;
            Ok(rocks)
        });
        opened.map_err(|source| RunError::Database {
            dir: dir.display().to_string(),
            source,
        })
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened
        .map_err(|error| RunError::Threads(error.into()))?
        .map(Arc::new)
}

fn start_log(
    config: &Config,
    metrics: &Arc<Metrics>,
    rocks: &Arc<Rocks>,
) -> Result<(Arc<Server>, CancellationToken), RunError> {
    let options = log::Options {
        log: &config.log,
        producers_max: config.limits.producers_per_stream_max as u32,
        fork_depth_max: config.limits.fork_depth_max,
        queue_wait: config.limits.queue_wait,
    };
    let limits = &config.limits;
    let clock = Arc::new(SystemClock);
    let (log, work) = Log::open(rocks.clone(), clock.clone(), metrics.clone(), &options)?;
    let stop_work = CancellationToken::new();
    log.start_work(work, config.log.expiry_interval, &stop_work);
    let server = Arc::new(Server {
        log,
        clock,
        metrics: metrics.clone(),
        bodies: Bodies::new(config.log.bodies_bytes(), config.limits.queue_wait),
        outgoing: Arc::new(Outgoing::new(
            limits.answers_in_flight_bytes_max,
            limits.write_timeout,
        )),
        reads: Reads::new(limits.write_timeout),
        framing: Turns::new(1, config.limits.queue_wait),
        producers_max: options.producers_max,
        live_readers: Arc::new(Semaphore::new(config.limits.live_readers_max)),
        draining: CancellationToken::new(),
    });
    Ok((server, stop_work))
}

fn start_recorder(config: &Config, server: &Arc<Server>) -> Arc<Recorder> {
    Arc::new(Recorder::new(server, config.limits.recordings_max))
}

/// What edge routes share, if there is one.
fn start_edge(
    config: &Config,
    server: &Arc<Server>,
    lifecycle: &Lifecycle,
    stop: &CancellationToken,
) -> Result<Option<Arc<Edge>>, RunError> {
    if !config.has_origins() {
        return Ok(None);
    }
    let cache = Cache::open(config, server.clock.clone(), server.metrics.clone())?;
    let edge = Edge::new(
        server.clone(),
        cache,
        config.limits.followed_streams_max,
        config.log.hot_bytes_max,
        stop.clone(),
    );
    edge.report_figures();
    let _ = lifecycle.edge.set(edge.clone());
    Ok(Some(edge))
}

/// Lets a scrape of the metrics take the figures that are only worth asking for then.
fn report_figures(server: &Arc<Server>, rocks: &Arc<Rocks>) {
    let (scraped, rocks) = (Arc::downgrade(server), rocks.clone());
    server.metrics.on_scrape(Box::new(move |metrics| {
        let Some(server) = scraped.upgrade() else {
            return;
        };
        let kept_bytes = server.bodies.alive_bytes();
        metrics.kept_answers.bytes.set(kept_bytes as i64);
        let figures = server.log.figures();
        metrics.open_streams.set(figures.streams_in_memory as i64);
        metrics.hot_tail_bytes.set(figures.hot_bytes as i64);
        metrics
            .queue
            .operations
            .set(figures.queued_operations as i64);
        metrics.queue.bytes.set(figures.queued_bytes as i64);
        metrics.database.set(&rocks.figures());
    }));
}

/// The listeners of all sites while they run.
struct Listeners {
    stop: watch::Sender<bool>,
    running: Vec<JoinHandle<()>>,
}

impl Listeners {
    fn start(services: Vec<Service<Connections>>, fds: &ListenFds) -> Self {
        let (stop, stopped) = watch::channel(false);
        let start = |mut service: Service<_>| {
            let (stopped, fds) = (stopped.clone(), fds.clone());
            tokio::spawn(async move { service.start_service(Some(fds), stopped, 1).await })
        };
        let running = services.into_iter().map(start).collect();
        Self { stop, running }
    }

    /// Sends live readers away, takes no new connection, and gives what is in flight until the
    /// timeout.
    async fn stop(self, server: &Server, timeout: Duration) {
        server.draining.cancel();
        let _ = self.stop.send(true);
        let drained = async {
            for listener in self.running {
                let _ = listener.await;
            }
            while server.metrics.open_connections.get() > 0 {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        if tokio::time::timeout(timeout, drained).await.is_err() {
            let connections = server.metrics.open_connections.get();
            tracing::warn!(connections, "the time for the stop is over");
        }
    }
}

/// The share of the time for a stop that recordings have to come to their end by themselves.
const RECORDINGS_SHARE: f64 = 0.7;

const DRAIN_CHECK: Duration = Duration::from_millis(20);

/// Starts the admin listener, if there is one. What it returns ends it.
fn start_admin(
    config: &Config,
    metrics: &Arc<Metrics>,
    lifecycle: &Arc<Lifecycle>,
    fds: &ListenFds,
) -> Result<watch::Sender<bool>, RunError> {
    let (stop, stopped) = watch::channel(false);
    let Some(address) = &config.admin else {
        return Ok(stop);
    };
    let (ready, opened, purged) = (lifecycle.clone(), lifecycle.clone(), lifecycle.clone());
    let runtime = tokio::runtime::Handle::current();
    let checkpoints = config.data_dir.join("checkpoints");
    let parts = Parts {
        metrics: metrics.clone(),
        readiness: Arc::new(move || readiness(&ready)),
        checkpoint: Arc::new(move |name| checkpoint(&opened, &checkpoints, name)),
        purge: Arc::new(move |target| {
            let edge = purged.edge.get()?;
            Some(runtime.block_on(edge.purge(target)))
        }),
    };
    let mut service = admin::service(parts, address)?;
    let fds = fds.clone();
    tokio::spawn(async move { service.start_service(Some(fds), stopped, 1).await });
    Ok(stop)
}

fn readiness(lifecycle: &Lifecycle) -> Readiness {
    if lifecycle.stopping.load(Ordering::Acquire) {
        return Readiness::Stopping;
    }
    match lifecycle.opened.get().map(|(log, _)| log.check()) {
        None => Readiness::Starting,
        Some(Ok(())) => Readiness::Ready,
        Some(Err(error)) => Readiness::StorageFailed(error.to_string()),
    }
}

fn checkpoint(
    lifecycle: &Lifecycle,
    checkpoints: &Path,
    name: &str,
) -> Result<PathBuf, CheckpointError> {
    let failed = |error: &dyn std::fmt::Display| CheckpointError::Failed(error.to_string());
    let Some((_, rocks)) = lifecycle.opened.get() else {
        return Err(failed(&"the database is not open yet"));
    };
    let dir = checkpoints.join(name);
    if dir.exists() {
        return Err(CheckpointError::Exists);
    }
    std::fs::create_dir_all(checkpoints).map_err(|error| failed(&error))?;
    rocks.checkpoint(&dir).map_err(|error| failed(&error))?;
    Ok(dir)
}

/// Returns at the first SIGHUP, or does at each what it is for.
async fn at_hangups(mut hung_up: Signal, hangup: Hangup, certificates: &[Arc<Certificates>]) {
    loop {
        hung_up.recv().await;
        if hangup == Hangup::Stop {
            return;
        }
        // A few small files: not worth a thread.
        let failed: Vec<_> = certificates.iter().flat_map(|one| one.reload()).collect();
        for error in &failed {
            tracing::error!(%error, "a certificate is not read again, and stays as it was");
        }
        if failed.is_empty() {
            tracing::info!(
                listeners = certificates.len(),
                "the certificates are read again"
            );
        }
    }
}

/// Returns at the signal to stop, which is received from this call on, not only while it is awaited.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
