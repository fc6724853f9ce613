//! The committer: takes all operations that wait, writes them as one batch, syncs, publishes.
//!
//! One thread does that, one batch after the other: what comes while it writes and syncs gathers to
//! the next batch, so that batches, and with them syncs, are few and large. Where nothing else goes
//! on, who appends takes the turn of the thread: waking it takes as long as a small write. An
//! operation is acknowledged, and visible to readers, only after the sync that covers it. A failed
//! write or sync ends all writing until a restart: a sync that is tried again may report success for
//! data that was lost.

use super::keys::Pending;
use super::kv::{Kv, KvError, Write};
use super::operation::{Operation, writes_of};
use super::rest::Rest;
use super::stream::{Stream, view_of};
use crate::config::Durability;
use crate::observe::metrics::Metrics;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
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

/// Room in the queue; held until the operation is done.
pub(super) struct Room(
    #[expect(dead_code, reason = "held for its drop")] [OwnedSemaphorePermit; 2],
);

/// Resolves when the operation is durable, to when it became so.
pub(super) type Ack = oneshot::Receiver<Result<Instant, CommitError>>;

struct Queued {
    ticket: u64,
    operation: Operation,
    ack: oneshot::Sender<Result<Instant, CommitError>>,
    room: Option<Room>,
}

/// Bytes that an operation costs beside its data.
const OPERATION_BYTES: u64 = 512;
/// Bytes that a permit of the queue stands for.
const PERMIT_BYTES: u64 = 256;
/// Most bytes of one batch.
const BATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The longest sync that an async worker may be held up for.
const QUICK_SYNC: Duration = Duration::from_millis(1);

/// After which time it is looked again whether a write that nobody waits for may go on.
const WRITER_DELAY: Duration = Duration::from_millis(10);

/// Hands operations to the committer's thread.
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    limits: QueueLimits,
    /// Whether another async worker goes on while one commits.
    several_workers: bool,
}

struct Shared {
    kv: Arc<dyn Kv>,
    durability: Durability,
    /// Locked by all who append, and by the committer between its syncs. Who finds it locked sleeps: a
    /// lock that gives way instead (`sched_yield`) loses its turn of the processor, some milliseconds.
    queue: std::sync::Mutex<Queue>,
    filled: Condvar,
    bytes: Arc<Semaphore>,
    operations: Arc<Semaphore>,
    failed: AtomicBool,
    /// Streams with changes that were written and not synced when the store failed. They are held
    /// in memory as they were before, so that they are not loaded again.
    withheld: Mutex<Vec<Arc<Stream>>>,
    /// All operations up to this ticket are durable.
    durable: AtomicU64,
    /// Bytes that were committed, with what operations cost beside their data.
    committed_bytes: AtomicU64,
    work: tokio::sync::mpsc::UnboundedSender<Pending>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Queued>,
    last_ticket: u64,
    /// Whether somebody is writing, syncing or publishing.
    committing: bool,
    /// Whether the last batch was one operation, and its sync quick.
    calm: bool,
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
            queue: std::sync::Mutex::default(),
            filled: Condvar::new(),
            bytes: Arc::new(Semaphore::new(permits as usize)),
            operations: Arc::new(Semaphore::new(limits.ops_max.min(Semaphore::MAX_PERMITS))),
            failed: AtomicBool::new(false),
            withheld: Mutex::default(),
            durable: AtomicU64::new(0),
            committed_bytes: AtomicU64::new(0),
            work,
            metrics,
        });
        let committing = shared.clone();
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || committing.commit_all())?;
        let runtime = tokio::runtime::Handle::try_current();
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            limits,
            several_workers: runtime.is_ok_and(|runtime| runtime.metrics().num_workers() > 1),
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
        let (ticket, ack, _) = self.enqueue(operation, room, false);
        (ticket, ack)
    }

    /// The same for a caller who commits it, if he is given the turn, as soon as he has let go of
    /// the locks.
    pub(super) fn push_in_turn(
        &self,
        operation: Operation,
        room: Option<Room>,
    ) -> (u64, Ack, Option<Turn>) {
        self.enqueue(operation, room, self.several_workers)
    }

    fn enqueue(
        &self,
        operation: Operation,
        room: Option<Room>,
        may_commit: bool,
    ) -> (u64, Ack, Option<Turn>) {
        let (ack, done) = oneshot::channel();
        let mut queue = self.shared.queue();
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
            return (ticket, done, None);
        }
        let alone = queue.waiting.is_empty() && !queue.committing;
        queue.waiting.push(queued);
        if alone && queue.calm && may_commit {
            queue.committing = true;
            return (ticket, done, Some(Turn(self.shared.clone())));
        }
        drop(queue);
        // Otherwise the thread is awake already, or looks again before it sleeps.
        if alone {
            self.shared.filled.notify_one();
        }
        (ticket, done, None)
    }

    /// Waits until the operation with this ticket is durable: an answer that depends on it must not
    /// be given before.
    pub(super) async fn settled(&self, ticket: u64) -> Result<(), CommitError> {
        if self.shared.durable.load(Ordering::Acquire) >= ticket {
            return Ok(());
        }
        let barrier = Operation::of_writes(Vec::new());
        acknowledged(&mut self.push(barrier, None).1).await?;
        Ok(())
    }

    /// Writes what nobody waits for, beside the queue.
    pub(super) fn writer(&self) -> Writer {
        Writer {
            shared: self.shared.clone(),
            begun: Instant::now(),
        }
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

    /// Commits what is queued and ends the thread. What comes later is refused.
    pub(super) fn stop(&self) {
        self.shared.queue().stopped = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// The right to commit, which nobody else has until it is used.
#[must_use]
pub(super) struct Turn(Arc<Shared>);

impl Turn {
    /// Commits what waits. It blocks for one sync, which is expected to be quick.
    pub(super) fn commit(self) {
        let queue = self.0.commit(self.0.queue());
        // The thread did not look while somebody else had its turn.
        if queue.stopped || !queue.waiting.is_empty() {
            self.0.filled.notify_one();
        }
    }
}

/// Writes to the store of a committer, and fails with it. What it holds up is what is appended
/// meanwhile, so it gives way.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// When the work for the next write began.
    begun: Instant,
}

impl Writer {
    /// Writes once the store is not behind.
    pub(super) fn write(&self, writes: &[Write]) -> Result<(), KvError> {
        self.wait_for_store();
        self.shared.apply(writes)
    }

    /// The same, and then rests until appends have come as far as these bytes, or come no more. What
    /// appends cost is counted beside their data, so that this work catches up with them.
    pub(super) fn write_and_rest(&mut self, writes: &[Write], bytes: u64) -> Result<(), KvError> {
        let made_in = self.begun.elapsed();
        self.wait_for_store();
        let begun = Instant::now();
        self.shared.apply(writes)?;
        let took = made_in + begun.elapsed();
        let mut rest = Rest::new(Instant::now(), took, bytes, self.committed_bytes());
        while !self.shared.has_ended() {
            std::thread::sleep(WRITER_DELAY);
            if rest.is_over(Instant::now(), self.committed_bytes()) {
                break;
            }
        }
        self.begun = Instant::now();
        Ok(())
    }

    fn wait_for_store(&self) {
        while self.shared.kv.is_behind() && !self.shared.has_ended() {
            std::thread::sleep(WRITER_DELAY);
        }
    }

    fn committed_bytes(&self) -> u64 {
        self.shared.committed_bytes.load(Ordering::Relaxed)
    }
}

/// Waits for an acknowledgement; a committer that is gone gives none. Returns when the operation
/// became durable.
pub(super) async fn acknowledged(ack: &mut Ack) -> Result<Instant, CommitError> {
    ack.await.unwrap_or(Err(CommitError::Stopped))
}

impl Shared {
    /// Room that need not be waited for: all of it, or nothing is taken.
    fn room_at_once(&self, permits: u32) -> Option<Room> {
        let operation = self.operations.clone().try_acquire_owned().ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(permits).ok()?;
        Some(Room([operation, bytes]))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that is done under the lock leaves it half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn commit_all(&self) {
        let mut queue = self.queue();
        loop {
            if queue.committing || queue.waiting.is_empty() {
                if queue.stopped && !queue.committing {
                    return;
                }
                let woken = self.filled.wait(queue);
                queue = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.committing = true;
            queue = self.commit(queue);
        }
    }

    /// Takes a batch of what waits and makes it durable, with the queue unlocked meanwhile. The right to
    /// commit ends with it.
    fn commit<'q>(&'q self, mut queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue> {
        let batch = queue.take();
        drop(queue);
        let operations = batch.len();
        let synced_in = self.write_and_publish(batch);
        let mut queue = self.queue();
        queue.committing = false;
        if let Some(took) = synced_in {
            queue.calm = operations == 1 && took < QUICK_SYNC;
        }
        queue
    }

    /// Writes a batch, syncs and publishes it. Returns how long the sync took, if there was one.
    fn write_and_publish(&self, batch: Vec<Queued>) -> Option<Duration> {
        let writes = writes_of(batch.iter().map(|queued| &queued.operation));
        let data_bytes: u64 = batch.iter().map(Queued::data_bytes).sum();
        self.metrics
            .commit
            .observe(batch.len(), data_bytes as usize);
        let bytes = data_bytes + OPERATION_BYTES * batch.len() as u64;
        self.committed_bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.durability {
            _ if self.apply(&writes).is_err() => {
                fail_all(batch);
                None
            }
            Durability::Sync => self.sync_batch(batch),
            Durability::Os => {
                self.publish(batch);
                None
            }
        }
    }

    /// Whether nothing more is to come.
    fn has_ended(&self) -> bool {
        self.failed.load(Ordering::Acquire) || self.queue().stopped
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

    /// Syncs and publishes a batch. Returns how long the sync took, if somebody waits for one.
    fn sync_batch(&self, batch: Vec<Queued>) -> Option<Duration> {
        let awaited = batch.iter().any(|queued| queued.operation.acknowledged);
        let synced_in = awaited.then(|| self.sync());
        // After a failure also what nobody waits for: it may rest on what was lost.
        if self.failed.load(Ordering::Acquire) {
            self.withhold(batch);
        } else {
            self.publish(batch);
        }
        synced_in
    }

    /// Syncs. Returns how long that took.
    fn sync(&self) -> Duration {
        let begun = Instant::now();
        let synced = self.kv.sync();
        let took = begun.elapsed();
        self.metrics.sync_seconds.observe(took.as_secs_f64());
        if let Err(error) = &synced {
            tracing::error!(%error, "a sync failed: nothing more is written");
            self.failed.store(true, Ordering::Release);
        }
        took
    }

    /// Fails what was written and may be lost, and sees to it that nobody reads it from the store.
    fn withhold(&self, batch: Vec<Queued>) {
        let changes = batch.iter().flat_map(|queued| &queued.operation.changes);
        let streams = changes.map(|change| change.stream.clone());
        self.withheld.lock().extend(streams);
        fail_all(batch);
    }

    fn publish(&self, batch: Vec<Queued>) {
        let now = Instant::now();
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
            let _ = queued.ack.send(Ok(now));
        }
        self.durable.fetch_max(last, Ordering::AcqRel);
        for stream in crowds {
            stream.tail().wake();
        }
    }
}

impl Queued {
    fn data_bytes(&self) -> u64 {
        self.operation.data_bytes()
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

impl Queue {
    /// Takes what waits, in order, up to the size of a batch.
    fn take(&mut self) -> Vec<Queued> {
        let fitting = fitting(&self.waiting);
        if fitting == self.waiting.len() {
            return std::mem::take(&mut self.waiting);
        }
        self.waiting.drain(..fitting).collect()
    }
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
