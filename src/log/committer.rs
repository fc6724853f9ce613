//! The committer: takes all operations that wait, writes them as one batch, syncs, publishes.
//!
//! Two threads take turns: while one waits for the disk to sync what it wrote, the other writes the
//! next batch. A batch stays with its thread, so that no thread waits to be woken between. An
//! operation is acknowledged, and visible to readers, only after the sync that covers it. A failed
//! write or sync ends all writing until a restart: a sync that is tried again may report success
//! for data that was lost.

use super::keys::{self, Pending};
use super::kv::{Kv, KvError, Table, Write};
use super::state::StreamState;
use super::stream::{Stream, view_of};
use crate::config::Durability;
use crate::hub::Run;
use crate::observe::metrics::Metrics;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The bounds of the queue to the committer.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) bytes_max: u64,
    pub(super) ops_max: usize,
    /// The longest wait for room before an operation is refused.
    pub(super) wait: Duration,
}

/// Why an operation was not committed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommitError {
    #[error("the log has more to write than it can; try again later")]
    Overloaded,
    #[error("the store has failed; nothing is written until a restart")]
    Failed,
    #[error("the server is stopping")]
    Stopped,
}

/// The changes of one stream in one operation.
pub(super) struct Change {
    pub(super) stream: Arc<Stream>,
    /// `None` removes the stream.
    pub(super) state: Option<StreamState>,
    pub(super) appended: Option<Run>,
}

/// What becomes durable together.
pub(super) struct Operation {
    pub(super) changes: Vec<Change>,
    pub(super) writes: Vec<Write>,
    /// Work that begins once this is durable. Its record is among `writes`.
    pub(super) work: Vec<Pending>,
    /// Whether somebody waits: otherwise it needs no sync of its own.
    pub(super) acknowledged: bool,
}

impl Operation {
    /// Writes that change no stream.
    pub(super) fn of_writes(writes: Vec<Write>) -> Self {
        Self {
            changes: Vec::new(),
            writes,
            work: Vec::new(),
            acknowledged: true,
        }
    }

    /// A stream's new state, or its removal, with what is written and done beside it.
    pub(super) fn of_state(
        stream: &Arc<Stream>,
        state: Option<StreamState>,
        writes: Vec<Write>,
        work: Vec<Pending>,
    ) -> Self {
        let change = Change {
            stream: stream.clone(),
            state,
            appended: None,
        };
        Self {
            changes: vec![change],
            work,
            ..Self::of_writes(writes)
        }
    }

    /// The same, if nobody waits for it.
    pub(super) fn unacknowledged(self) -> Self {
        Self {
            acknowledged: false,
            ..self
        }
    }
}

/// Room in the queue; held until the operation is done.
pub(super) struct Room(
    #[expect(dead_code, reason = "held for its drop")] [OwnedSemaphorePermit; 2],
);

/// Resolves when the operation is durable.
pub(super) type Ack = oneshot::Receiver<Result<(), CommitError>>;

struct Queued {
    ticket: u64,
    operation: Operation,
    ack: oneshot::Sender<Result<(), CommitError>>,
    room: Option<Room>,
}

/// Bytes that an operation costs beside its data.
const OPERATION_BYTES: u64 = 512;
/// Bytes that a permit of the queue stands for.
const PERMIT_BYTES: u64 = 256;
/// Most bytes of one batch.
const BATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Hands operations to the committer's threads.
pub(super) struct Committer {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    limits: QueueLimits,
}

struct Shared {
    kv: Arc<dyn Kv>,
    durability: Durability,
    queue: Mutex<Queue>,
    filled: Condvar,
    synced: Condvar,
    bytes: Arc<Semaphore>,
    operations: Arc<Semaphore>,
    failed: AtomicBool,
    /// Streams with changes that were written and not synced when the store failed. They are held
    /// in memory as they were before, so that they are not loaded again.
    withheld: Mutex<Vec<Arc<Stream>>>,
    /// All operations up to this ticket are durable.
    durable: AtomicU64,
    work: tokio::sync::mpsc::UnboundedSender<Pending>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Queued>,
    last_ticket: u64,
    /// Whether a thread is writing.
    writing: bool,
    /// Whether a thread is syncing and publishing.
    syncing: bool,
    stopped: bool,
}

impl Committer {
    pub(super) fn start(
        kv: Arc<dyn Kv>,
        durability: Durability,
        limits: QueueLimits,
        work: tokio::sync::mpsc::UnboundedSender<Pending>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let permits = (limits.bytes_max / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS as u64);
        let shared = Arc::new(Shared {
            kv,
            durability,
            queue: Mutex::default(),
            filled: Condvar::new(),
            synced: Condvar::new(),
            bytes: Arc::new(Semaphore::new(permits as usize)),
            operations: Arc::new(Semaphore::new(limits.ops_max.min(Semaphore::MAX_PERMITS))),
            failed: AtomicBool::new(false),
            withheld: Mutex::default(),
            durable: AtomicU64::new(0),
            work,
            metrics,
        });
        let spawn = |name: &str| {
            let shared = shared.clone();
            let run = move || shared.commit_all();
            std::thread::Builder::new().name(name.into()).spawn(run)
        };
        let threads = vec![spawn("log-1")?, spawn("log-2")?];
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
            limits,
        })
    }

    /// Waits for room for an operation with so many bytes of data.
    pub(super) async fn admit(&self, data_bytes: u64) -> Result<Room, CommitError> {
        let shared = &self.shared;
        if shared.failed.load(Ordering::Acquire) {
            return Err(CommitError::Failed);
        }
        let most = (self.limits.bytes_max / PERMIT_BYTES).max(1);
        let permits = ((data_bytes + OPERATION_BYTES) / PERMIT_BYTES).min(most) as u32;
        if let Some(room) = shared.room_at_once(permits) {
            return Ok(room);
        }
        let wait = async {
            let operation = shared.operations.clone().acquire_owned().await.ok()?;
            let bytes = shared
                .bytes
                .clone()
                .acquire_many_owned(permits)
                .await
                .ok()?;
            Some(Room([operation, bytes]))
        };
        match tokio::time::timeout(self.limits.wait, wait).await {
            Ok(Some(room)) => Ok(room),
            Ok(None) => Err(CommitError::Stopped),
            Err(_) => Err(CommitError::Overloaded),
        }
    }

    /// Queues an operation. The caller holds the locks of the streams it changes, so that the order
    /// of the queue is the order in which their states were made. Returns its ticket.
    pub(super) fn push(&self, operation: Operation, room: Option<Room>) -> (u64, Ack) {
        let (ack, done) = oneshot::channel();
        let mut queue = self.shared.queue.lock();
        queue.last_ticket += 1;
        let ticket = queue.last_ticket;
        let queued = Queued {
            ticket,
            operation,
            ack,
            room,
        };
        if queue.stopped {
            drop(queue);
            queued.fail(&CommitError::Stopped);
        } else {
            queue.waiting.push(queued);
            let writing = queue.writing;
            drop(queue);
            // Who writes looks again when that is done.
            if !writing {
                self.shared.filled.notify_one();
            }
        }
        (ticket, done)
    }

    /// Waits until the operation with this ticket is durable: an answer that depends on it must not
    /// be given before.
    pub(super) async fn settled(&self, ticket: u64) -> Result<(), CommitError> {
        if self.shared.durable.load(Ordering::Acquire) >= ticket {
            return Ok(());
        }
        let barrier = Operation::of_writes(Vec::new());
        acknowledged(self.push(barrier, None).1).await
    }

    /// Writes what nobody waits for, beside the queue.
    pub(super) fn writer(&self) -> Writer {
        Writer(self.shared.clone())
    }

    /// Whether a write has failed.
    pub(super) fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Operations that wait, and the bytes of room they took.
    pub(super) fn depth(&self) -> (u64, u64) {
        let bytes_free = self.shared.bytes.available_permits() as u64 * PERMIT_BYTES;
        let operations_free = self.shared.operations.available_permits();
        (
            self.limits.ops_max.saturating_sub(operations_free) as u64,
            self.limits.bytes_max.saturating_sub(bytes_free),
        )
    }

    /// Commits what is queued and ends the threads. What comes later is refused.
    pub(super) fn stop(&self) {
        self.shared.queue.lock().stopped = true;
        self.shared.filled.notify_all();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

/// Writes to the store of a committer, and fails with it.
pub(super) struct Writer(Arc<Shared>);

impl Writer {
    pub(super) fn write(&self, writes: &[Write]) -> Result<(), KvError> {
        self.0.apply(writes)
    }
}

/// Waits for an acknowledgement; a committer that is gone gives none.
pub(super) async fn acknowledged(ack: Ack) -> Result<(), CommitError> {
    ack.await.unwrap_or(Err(CommitError::Stopped))
}

impl Shared {
    /// Room that need not be waited for: all of it, or nothing is taken.
    fn room_at_once(&self, permits: u32) -> Option<Room> {
        let operation = self.operations.clone().try_acquire_owned().ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(permits).ok()?;
        Some(Room([operation, bytes]))
    }

    /// One of the two threads.
    fn commit_all(&self) {
        loop {
            let Some(batch) = self.take_batch() else {
                return;
            };
            let writes = writes_of(&batch);
            self.metrics
                .commit
                .observe(batch.len(), bytes_of(&batch) as usize);
            if self.apply(&writes).is_err() {
                fail_all(batch);
                self.let_write();
                continue;
            }
            match self.durability {
                Durability::Sync => {
                    self.begin_sync();
                    self.sync_batch(batch);
                    self.end_sync();
                }
                Durability::Os => {
                    self.publish(batch);
                    self.let_write();
                }
            }
        }
    }

    /// Takes what waits, in order, up to the size of a batch, when nobody else writes. `None` once
    /// stopped and empty.
    fn take_batch(&self) -> Option<Vec<Queued>> {
        let mut queue = self.queue.lock();
        while queue.writing || queue.waiting.is_empty() {
            if queue.stopped && !queue.writing {
                return None;
            }
            self.filled.wait(&mut queue);
        }
        queue.writing = true;
        let fitting = fitting(&queue.waiting);
        if fitting == queue.waiting.len() {
            return Some(std::mem::take(&mut queue.waiting));
        }
        Some(queue.waiting.drain(..fitting).collect())
    }

    /// Writes, unless a write has failed before.
    fn apply(&self, writes: &[Write]) -> Result<(), KvError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(KvError("nothing more is written".into()));
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.kv.write(writes).inspect_err(|error| {
            tracing::error!(%error, "a write failed: nothing more is written");
            self.failed.store(true, Ordering::Release);
        })
    }

    /// Lets the other thread write. It is woken only if there is something to write: that takes as
    /// long as a small write.
    fn let_write(&self) {
        let mut queue = self.queue.lock();
        self.stop_writing(&mut queue);
    }

    fn stop_writing(&self, queue: &mut Queue) {
        queue.writing = false;
        if queue.stopped || !queue.waiting.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Waits for the last sync, so that syncs are in the order of writes, and then lets the other
    /// thread write. Until that sync is done more operations gather, so that batches, and with them
    /// syncs, are few and large.
    fn begin_sync(&self) {
        let mut queue = self.queue.lock();
        while queue.syncing {
            self.synced.wait(&mut queue);
        }
        queue.syncing = true;
        self.stop_writing(&mut queue);
    }

    fn end_sync(&self) {
        self.queue.lock().syncing = false;
        self.synced.notify_one();
    }

    /// Syncs and publishes a batch, while the other thread writes the next.
    fn sync_batch(&self, batch: Vec<Queued>) {
        let awaited = batch.iter().any(|queued| queued.operation.acknowledged);
        // After a failure also what nobody waits for: it may rest on what was lost.
        if self.failed.load(Ordering::Acquire) || (awaited && !self.sync()) {
            self.withhold(batch);
        } else {
            self.publish(batch);
        }
    }

    fn sync(&self) -> bool {
        let begun = Instant::now();
        let synced = self.kv.sync();
        self.metrics
            .sync_seconds
            .observe(begun.elapsed().as_secs_f64());
        if let Err(error) = &synced {
            tracing::error!(%error, "a sync failed: nothing more is written");
            self.failed.store(true, Ordering::Release);
        }
        synced.is_ok()
    }

    /// Fails what was written and may be lost, and sees to it that nobody reads it from the store.
    fn withhold(&self, batch: Vec<Queued>) {
        let changes = batch.iter().flat_map(|queued| &queued.operation.changes);
        let streams = changes.map(|change| change.stream.clone());
        self.withheld.lock().extend(streams);
        fail_all(batch);
    }

    fn publish(&self, batch: Vec<Queued>) {
        let last = batch.last().map_or(0, |queued| queued.ticket);
        // What is shown is read from now on; waking a crowd takes longer than its writers should wait.
        let mut crowds = Vec::new();
        for queued in batch {
            for change in queued.operation.changes {
                let tail = change.stream.tail();
                tail.show(change.state.as_ref().map(view_of), change.appended);
                if tail.is_crowded() {
                    crowds.push(change.stream);
                } else {
                    tail.wake();
                }
            }
            for work in queued.operation.work {
                let _ = self.work.send(work);
            }
            drop(queued.room);
            let _ = queued.ack.send(Ok(()));
        }
        self.durable.fetch_max(last, Ordering::AcqRel);
        for stream in crowds {
            stream.tail().wake();
        }
    }
}

impl Queued {
    fn data_bytes(&self) -> u64 {
        let changes = self.operation.changes.iter();
        changes
            .filter_map(|change| change.appended.as_ref())
            .map(|run| run.frames.len() as u64)
            .sum()
    }

    fn fail(self, error: &CommitError) {
        let _ = self.ack.send(Err(error.clone()));
    }
}

fn fail_all(batch: Vec<Queued>) {
    for queued in batch {
        queued.fail(&CommitError::Failed);
    }
}

fn bytes_of(batch: &[Queued]) -> u64 {
    batch.iter().map(Queued::data_bytes).sum()
}

/// How many operations of what waits are one batch: at least one.
fn fitting(waiting: &[Queued]) -> usize {
    let mut bytes = 0;
    let fits = |queued: &&Queued| {
        bytes += queued.data_bytes();
        bytes <= BATCH_BYTES_MAX
    };
    waiting.iter().take_while(fits).count().max(1)
}

/// All changes of a batch. Of a stream's states only the last one is written.
fn writes_of(batch: &[Queued]) -> Vec<Write> {
    let mut writes = Vec::with_capacity(2 * batch.len());
    for queued in batch {
        for change in &queued.operation.changes {
            if let (Some(run), Some(state)) = (&change.appended, &change.state) {
                let key = keys::position_key(state.meta.id, run.start);
                let key = Bytes::copy_from_slice(&key);
                writes.push(Write::Put(Table::Records, key, run.frames.clone()));
            }
        }
        writes.extend(queued.operation.writes.iter().cloned());
    }
    let mut seen = HashSet::with_capacity(batch.len());
    for queued in batch.iter().rev() {
        for change in &queued.operation.changes {
            if seen.insert(Arc::as_ptr(&change.stream)) {
                writes.push(state_write(change));
            }
        }
    }
    writes
}

fn state_write(change: &Change) -> Write {
    let key = Bytes::copy_from_slice(change.stream.path().key().as_bytes());
    match &change.state {
        Some(state) => Write::Put(Table::Streams, key, keys::write_state(state)),
        None => Write::Delete(Table::Streams, key),
    }
}
