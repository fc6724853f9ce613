//! A log under test: its store, its clock, and the work that it does only when told to.

use super::model::{FORK_DEPTH_MAX, Outcome, PRODUCERS_MAX};
use super::requests::{self, Request};
use super::store::MemoryStore;
use crate::clock::{Clock, ManualClock};
use crate::config::LogConfig;
use crate::frame;
use crate::hub::View;
use crate::log::keys::Pending;
use crate::log::kv::Kv;
use crate::log::rocks::Rocks;
use crate::log::state::{AppendRequest, CreateRequest, ForkRequest, Unavailable};
use crate::log::{AppendError, Create, CreateError, DeleteError, Log, Options, Stream};
use crate::observe::metrics::{DatabaseFigures, Metrics};
use crate::types::{ProducerStamp, Retention, StreamPath};
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// Where a log lies between restarts.
pub(super) enum Disk {
    Memory(Arc<MemoryStore>),
    Rocks(TempDir),
}

impl Disk {
    pub(super) fn rocks() -> Self {
        Self::Rocks(TempDir::new().unwrap())
    }

    fn open(&self, config: &LogConfig) -> Arc<dyn Kv> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Rocks(dir) => Arc::new(Rocks::open(dir.path(), config).unwrap()),
        }
    }
}

pub(super) struct World {
    disk: Disk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) config: LogConfig,
    queue_wait: Duration,
    running: Option<Running>,
}

struct Running {
    log: Arc<Log>,
    store: Arc<dyn Kv>,
    /// Packing and purging that waits for [`World::work`].
    work: UnboundedReceiver<Pending>,
}

/// When tests begin.
pub(super) const BEGIN_MS: u64 = 1_000_000;

/// A wait that only ends when a test fails.
pub(super) const LONG: Duration = Duration::from_mins(2);

/// Small segments, so that sealing and packing happen often.
pub(super) fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 150,
        ..LogConfig::default()
    }
}

pub(super) fn options(config: &LogConfig) -> Options<'_> {
    Options {
        log: config,
        producers_max: PRODUCERS_MAX,
        fork_depth_max: FORK_DEPTH_MAX,
        queue_wait: LONG,
    }
}

pub(super) fn path_of(path: usize) -> StreamPath {
    StreamPath::new("default", &path.to_string())
}

/// Waits for something that another thread does.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap();
}

impl World {
    pub(super) fn open(disk: Disk, config: LogConfig) -> Self {
        let mut world = Self {
            disk,
            clock: Arc::new(ManualClock::at(BEGIN_MS)),
            config,
            queue_wait: LONG,
            running: None,
        };
        world.start();
        world
    }

    /// A log over a store in memory.
    pub(super) fn over(store: &Arc<MemoryStore>, config: LogConfig) -> Self {
        Self::open(Disk::Memory(store.clone()), config)
    }

    /// Refuses what finds no room in the queue at once.
    pub(super) fn impatient(store: &Arc<MemoryStore>, config: LogConfig) -> Self {
        let mut world = Self::over(store, config);
        world.stop();
        world.queue_wait = Duration::ZERO;
        world.start();
        world
    }

    fn start(&mut self) {
        let store = self.disk.open(&self.config);
        let options = Options {
            queue_wait: self.queue_wait,
            ..options(&self.config)
        };
        let metrics = Arc::new(Metrics::new());
        let (log, work) = Log::open(store.clone(), self.clock.clone(), metrics, &options).unwrap();
        self.running = Some(Running { log, store, work });
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.log.write_touches();
            running.log.committer.stop();
        }
    }

    /// Stops the log cleanly and opens it again.
    pub(super) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Crashes the machine and opens what a log in memory finds then; one on disk is only stopped.
    /// Uses of streams are written down before, so that the model need not guess which are lost.
    pub(super) async fn crash(&mut self, seed: u64) {
        self.log().write_touches();
        self.settle().await;
        if let Disk::Memory(store) = &self.disk {
            let image = store.crash(&mut StdRng::seed_from_u64(seed));
            self.stop();
            self.disk = Disk::Memory(image);
        }
        self.restart();
    }

    pub(super) fn log(&self) -> &Arc<Log> {
        &self.running().log
    }

    pub(super) fn store(&self) -> &dyn Kv {
        &*self.running().store
    }

    /// What RocksDB says of itself, after a restart.
    pub(super) fn rocks_figures(&mut self) -> DatabaseFigures {
        self.stop();
        let Disk::Rocks(dir) = &self.disk else {
            panic!("this log is not in RocksDB");
        };
        let figures = Rocks::open(dir.path(), &self.config).unwrap().figures();
        self.start();
        figures
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Waits until all that was queued is durable.
    pub(super) async fn settle(&self) {
        self.log().committer.settled(u64::MAX).await.unwrap();
    }

    /// Packs, purges and lets go of sources until nothing is left to do.
    pub(super) async fn work(&mut self) {
        let running = self.running.as_mut().unwrap();
        loop {
            let (waiting, work) = unbounded_channel();
            while let Ok(pending) = running.work.try_recv() {
                waiting.send(pending).unwrap();
            }
            drop(waiting);
            if work.is_empty() {
                return;
            }
            running.log.clone().work_off(work).await;
        }
    }

    /// Does all work behind the answers as a server does it, until the token is cancelled.
    pub(super) fn start_work(&mut self) -> CancellationToken {
        let running = self.running.as_mut().unwrap();
        let work = std::mem::replace(&mut running.work, unbounded_channel().1);
        let stop = CancellationToken::new();
        running
            .log
            .start_work(work, Duration::from_millis(20), &stop);
        stop
    }

    /// Packs segments from now on as soon as they are sealed. Purges wait for a restart.
    pub(super) fn pack_at_once(&mut self) {
        let running = self.running.as_mut().unwrap();
        let (pack, packs) = unbounded_channel();
        let mut work = std::mem::replace(&mut running.work, unbounded_channel().1);
        tokio::spawn(running.log.clone().work_off(packs));
        tokio::spawn(async move {
            while let Some(pending) = work.recv().await {
                if matches!(pending, Pending::Pack { .. }) {
                    pack.send(pending).unwrap();
                }
            }
        });
    }

    /// Lets go of the streams that nobody uses.
    pub(super) fn sweep(&self) {
        for _ in 0..10 {
            self.log().streams.sweep();
        }
    }

    /// Lets go of all streams in memory: nobody uses them.
    pub(super) async fn evict(&self) {
        self.log().write_touches();
        self.settle().await;
        self.sweep();
        let figures = self.log().figures();
        assert_eq!((figures.streams_in_memory, figures.hot_bytes), (0, 0));
    }

    pub(super) async fn expire(&self) {
        self.log().expire_due().await.unwrap();
    }

    pub(super) async fn stream(&self, path: usize) -> Arc<Stream> {
        self.log().stream(&path_of(path)).await.unwrap()
    }

    /// The stream at a path as readers see it.
    pub(super) async fn view(&self, path: usize) -> Result<View, Unavailable> {
        self.stream(path).await.view(self.clock.now_ms())
    }

    pub(super) async fn run(&self, request: &Request) -> Outcome {
        match request {
            Request::Create(create) => self.create(create).await,
            Request::Append(append) => self.append(append).await,
            Request::Delete(path) => self.delete(*path).await,
            Request::Touch(path) => {
                match self.view(*path).await {
                    Ok(_) => self.log().touch(&self.stream(*path).await),
                    Err(unavailable) => return Outcome::Unavailable(unavailable),
                }
                Outcome::Touched
            }
        }
    }

    pub(super) async fn create(&self, create: &requests::Create) -> Outcome {
        let source = create.fork.as_ref().map(|fork| path_of(fork.source));
        let request = CreateRequest {
            content_type: create.content_type,
            lifetime: create.lifetime,
            retention: create.retention,
            retention_default: Retention::default(),
            closed: create.closed,
            fork: create
                .fork
                .as_ref()
                .zip(source.as_ref())
                .map(|(fork, source)| ForkRequest {
                    source,
                    offset: fork.offset,
                    sub_offset: fork.sub_offset,
                    body: None,
                }),
        };
        let frames = framed(&create.messages);
        let stream = self.stream(create.path).await;
        let create = Create {
            request,
            frames,
            note: None,
            unfinished: false,
        };
        match self.log().create(&stream, create).await {
            Ok(created) => Outcome::Created {
                new: created.new,
                tail: created.tail,
                closed: created.closed,
            },
            Err(CreateError::Commit(error)) => Outcome::NotCommitted(error),
            Err(CreateError::Conflict) => Outcome::NotCreated("Conflict"),
            Err(CreateError::PathHeld) => Outcome::NotCreated("PathHeld"),
            Err(CreateError::SourceNotFound) => Outcome::NotCreated("SourceNotFound"),
            Err(CreateError::SourceGone) => Outcome::NotCreated("SourceGone"),
            Err(CreateError::SourceContentType(_)) => Outcome::NotCreated("SourceContentType"),
            Err(CreateError::ForkOffset) => Outcome::NotCreated("ForkOffset"),
            Err(CreateError::ForkTrimmed { .. }) => Outcome::NotCreated("ForkTrimmed"),
            Err(CreateError::ForkTooDeep(_)) => Outcome::NotCreated("ForkTooDeep"),
            Err(CreateError::ForkSubOffset) => Outcome::NotCreated("ForkSubOffset"),
            Err(error @ (CreateError::NoteTooLong | CreateError::Read(_))) => panic!("{error}"),
        }
    }

    pub(super) async fn append(&self, append: &requests::Append) -> Outcome {
        let frames = framed(&append.messages);
        let stream_seq = append.stream_seq.as_deref().map(Arc::from);
        let producer = append.producer.map(|stamp| ProducerStamp {
            id: format!("producer {}", stamp.producer).into(),
            epoch: stamp.epoch,
            seq: stamp.seq,
        });
        let request = AppendRequest {
            id: None,
            content_type: append.content_type,
            frame_bytes: frames.as_ref().map_or(0, Bytes::len) as u64,
            stream_seq: stream_seq.as_ref(),
            close: append.close,
            end: None,
            producer: producer.as_ref(),
            producers_max: PRODUCERS_MAX,
        };
        let stream = self.stream(append.path).await;
        match self.log().append(&stream, &request, frames).await {
            Ok(appended) => Outcome::Appended {
                duplicate: appended.duplicate,
                tail: appended.tail,
                closed: appended.closed,
                producer_seq: appended.producer_seq,
            },
            Err(AppendError::Unavailable(unavailable)) => Outcome::Unavailable(unavailable),
            Err(AppendError::Refused(refusal)) => Outcome::NotAppended(refusal),
            Err(AppendError::Commit(error)) => Outcome::NotCommitted(error),
            Err(AppendError::Read(error)) => panic!("{error}"),
        }
    }

    pub(super) async fn delete(&self, path: usize) -> Outcome {
        match self.log().delete(&self.stream(path).await).await {
            Ok(()) => Outcome::Deleted,
            Err(DeleteError::Unavailable(unavailable)) => Outcome::Unavailable(unavailable),
            Err(DeleteError::Commit(error)) => Outcome::NotCommitted(error),
            Err(DeleteError::Read(error)) => panic!("{error}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Disk::Memory(store) = &self.disk {
            // A test that failed may have left them held.
            store.release_all();
        }
        self.stop();
    }
}

fn framed(messages: &[Vec<u8>]) -> Option<Bytes> {
    (!messages.is_empty()).then(|| frame::encode(messages.iter().map(Vec::as_slice)))
}
