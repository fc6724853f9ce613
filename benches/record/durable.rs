//! What one durable write takes: to a file at the pace of one answer, and to the log at the pace of
//! all. A disk and a processor that have been idle take longer than those that are kept busy, and what
//! comes beside others waits for their sync first.

use crate::client::Load;
use crate::pacer::Pacer;
use headwater::clock::SystemClock;
use headwater::config::LogConfig;
use headwater::frame;
use headwater::log::rocks::Rocks;
use headwater::log::state::{AppendRequest, CreateRequest};
use headwater::log::{Create, Log, Options, Stream};
use headwater::observe::metrics::Metrics;
use headwater::types::{Retention, StreamPath};
use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;

const TEXT: &str = "text/plain";
/// As long as an event of the upstream.
const EVENT: [u8; 39] = [b'x'; 39];

/// The median time of so many writes to a file, each with a sync.
pub(crate) fn to_a_file(dir: &Path, pause: Duration, writes: u64) -> io::Result<Duration> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::new();
    for _ in 0..writes {
        std::thread::sleep(pause);
        let begun = Instant::now();
        file.write_all(&[0; 256])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(median(times))
}

/// The median time of an append to the log, to as many streams as there are answers and as often as
/// they have tokens, without a recorder and a network.
pub(crate) async fn to_the_log(
    dir: &Path,
    load: &Load,
    pause: Duration,
    pacer: &Pacer,
) -> io::Result<Duration> {
    let dir = tempfile::tempdir_in(dir)?;
    let config = LogConfig::default();
    let log = tokio::task::block_in_place(|| open(dir.path(), &config)).map_err(failed)?;
    let mut writers = JoinSet::new();
    for number in 0..load.streams {
        let log = log.clone();
        let (tick, ticks) = channel(1);
        pacer.pace(pause, move || {
            // An append that takes longer than this delays those behind it.
            let _ = tick.try_send(());
            !tick.is_closed()
        });
        let appends = load.tokens;
        writers.spawn(async move { append(&log, number, appends, ticks).await });
    }
    let mut all = Vec::new();
    while let Some(times) = writers.join_next().await {
        all.extend(times.map_err(failed)?.map_err(failed)?);
    }
    Ok(median(all))
}

fn open(dir: &Path, config: &LogConfig) -> Result<Arc<Log>, Box<dyn Error + Send + Sync>> {
    let rocks = Rocks::open(dir, config)?;
    rocks.prepare_log(config)?;
    let options = Options {
        log: config,
        producers_max: 0,
        fork_depth_max: 0,
        queue_wait: Duration::from_mins(1),
    };
    let (clock, metrics) = (Arc::new(SystemClock), Arc::new(Metrics::new()));
    let (log, _) = Log::open(Arc::new(rocks), clock, metrics, &options)?;
    Ok(log)
}

async fn append(
    log: &Log,
    number: usize,
    appends: u64,
    mut ticks: Receiver<()>,
) -> Result<Vec<Duration>, Box<dyn Error + Send + Sync>> {
    let path = StreamPath::new("bench", &number.to_string());
    let stream = log.stream(&path).await?;
    create(log, &stream).await?;
    let frames = frame::encode([&EVENT[..]].into_iter());
    let mut times = Vec::new();
    for _ in 0..appends {
        ticks.recv().await;
        let begun = Instant::now();
        let request = AppendRequest {
            id: None,
            content_type: Some(TEXT),
            frame_bytes: frames.len() as u64,
            stream_seq: None,
            close: false,
            end: None,
            producer: None,
            producers_max: 0,
        };
        log.append(&stream, &request, Some(frames.clone())).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

async fn create(log: &Log, stream: &Arc<Stream>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let create = Create {
        request: CreateRequest {
            content_type: Some(TEXT),
            lifetime: None,
            retention: None,
            retention_default: Retention::default(),
            closed: false,
            fork: None,
        },
        frames: None,
        note: None,
        unfinished: false,
    };
    log.create(stream, create).await?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn failed(error: impl Display) -> io::Error {
    io::Error::other(error.to_string())
}
