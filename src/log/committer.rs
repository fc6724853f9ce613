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
use super::queue::{CommitError, Queue, Queued, Room, Watch, fail_all};
use super::stream::{Stream, view_of};
use super::writer::Writer;
use crate::config::Durability;
use crate::hub::Handover;
use crate::observe::metrics::Metrics;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// The bounds of the queue to the committer.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) bytes_max: u64,
    pub(super) ops_max: usize,
    /// The longest wait for room before an operation is refused.
    pub(super) wait: Duration,
}

/// Resolves when the operation is durable, to when it became so.
pub(super) type Ack = oneshot::Receiver<Result<Instant, CommitError>>;

/// Bytes that an operation costs beside its data.
const OPERATION_BYTES: u64 = 512;
/// Bytes that a permit of the queue stands for.
const PERMIT_BYTES: u64 = 256;
/// The longest sync that an async worker may be held up for.
const QUICK_SYNC: Duration = Duration::from_millis(1);
/// How many followers of a batch are handed what was appended. The others look by themselves.
pub(super) const HANDOVERS_MAX: usize = 64;
/// How often it is looked whether a worker is held up all the same.
const WATCH: Duration = Duration::from_millis(50);
/// After how many looks at which nobody had been given the turn none follows.
const IDLE_LOOKS: u32 = 20;

/// Hands operations to the committer's thread.
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    limits: QueueLimits,
}

pub(super) struct Shared {
    kv: Arc<dyn Kv>,
    durability: Durability,
    /// That of the async workers, if others go on while one of them commits.
    workers: Option<Handle>,
    /// Locked by all who append, and by the committer between its syncs. Who finds it locked sleeps: a
    /// lock that gives way instead (`sched_yield`) loses its turn of the processor, some milliseconds.
    queue: std::sync::Mutex<Queue>,
    filled: Condvar,
    bytes: Arc<Semaphore>,
    operations: Arc<Semaphore>,
    /// Why nothing more is written.
    failure: OnceLock<KvError>,
    /// Streams with changes that were written and not synced when the store failed. They are held
    /// in memory as they were before, so that they are not loaded again.
    withheld: Mutex<Vec<Arc<Stream>>>,
    /// All operations up to this ticket are durable.
    durable: AtomicU64,
    committed_bytes: AtomicU64,
    work: tokio::sync::mpsc::UnboundedSender<Pending>,
    metrics: Arc<Metrics>,
}

impl Committer {
    pub(super) fn start(
        kv: Arc<dyn Kv>,
        durability: Durability,
        limits: QueueLimits,
        work: tokio::sync::mpsc::UnboundedSender<Pending>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let runtime = Handle::try_current().ok();
        let permits = (limits.bytes_max / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS as u64);
        let shared = Arc::new(Shared {
            kv,
            durability,
            workers: runtime.filter(|runtime| runtime.metrics().num_workers() > 1),
            queue: std::sync::Mutex::default(),
            filled: Condvar::new(),
            bytes: Arc::new(Semaphore::new(permits as usize)),
            operations: Arc::new(Semaphore::new(limits.ops_max.min(Semaphore::MAX_PERMITS))),
            failure: OnceLock::new(),
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
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            limits,
        })
    }

    /// Waits for room for an operation with so many bytes of data.
    pub(super) async fn admit(&self, data_bytes: u64) -> Result<Room, CommitError> {
        let shared = &self.shared;
        if shared.has_failed() {
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
        self.enqueue(operation, room, self.shared.workers.is_some())
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
            queue.turns += 1;
            if queue.watch.is_none() {
                queue.watch = Some(Watch::default());
                self.shared.filled.notify_one();
            }
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
        Writer::new(self.shared.clone())
    }

    /// The write that has failed, if one has.
    pub(super) fn failure(&self) -> Option<&KvError> {
        self.shared.failure.get()
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
            queue = if !queue.committing && !queue.waiting.is_empty() {
                queue.committing = true;
                self.commit(queue)
            } else if queue.stopped && !queue.committing {
                return;
            } else if let Some(watch) = queue.watch {
                self.look_later(queue, watch)
            } else {
                let woken = self.filled.wait(queue);
                woken.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Waits for something to do or for the time of a look at who has the turn. If that is who had it
    /// at the last look, he is held up by the disk, and may be the one that waits for sockets and
    /// timers: the runtime wakes none of the others for that.
    fn look_later<'q>(
        &'q self,
        queue: MutexGuard<'q, Queue>,
        last: Watch,
    ) -> MutexGuard<'q, Queue> {
        let woken = self.filled.wait_timeout(queue, WATCH);
        let (mut queue, waited) = woken.unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return queue;
        }
        let same = queue.turns == last.turns;
        if same
            && queue.committing
            && let Some(workers) = &self.workers
        {
            workers.spawn(async {});
        }
        let idle = if same && !queue.committing {
            last.idle + 1
        } else {
            0
        };
        queue.watch = (idle < IDLE_LOOKS).then_some(Watch {
            turns: queue.turns,
            idle,
        });
        queue
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

    /// Bytes that were committed, with what operations cost beside their data.
    pub(super) fn committed_bytes(&self) -> u64 {
        self.committed_bytes.load(Ordering::Relaxed)
    }

    /// Whether the store is behind with its own work.
    pub(super) fn is_behind(&self) -> bool {
        self.kv.is_behind()
    }

    /// Whether nothing more is to come.
    pub(super) fn has_ended(&self) -> bool {
        self.has_failed() || self.queue().stopped
    }

    fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Nothing is written from now on.
    fn fail(&self, error: &KvError) {
        tracing::error!(%error, "a write failed: nothing more is written");
        let _ = self.failure.set(error.clone());
    }

    /// Writes, unless a write has failed before.
    pub(super) fn apply(&self, writes: &[Write]) -> Result<(), KvError> {
        if self.has_failed() {
            return Err(KvError("nothing more is written".into()));
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.kv.write(writes).inspect_err(|error| self.fail(error))
    }

    /// Syncs and publishes a batch. Returns how long the sync took, if somebody waits for one.
    fn sync_batch(&self, batch: Vec<Queued>) -> Option<Duration> {
        let awaited = batch.iter().any(|queued| queued.operation.acknowledged);
        // Somebody may have failed beside the queue since this was written.
        let synced_in = (awaited && !self.has_failed()).then(|| self.sync());
        // After a failure also what nobody waits for: it may rest on what was lost.
        if self.has_failed() {
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
            self.fail(error);
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
        let (mut crowds, mut handovers) = (Vec::new(), Vec::new());
        for queued in batch {
            for change in queued.operation.changes {
                let tail = change.stream.tail();
                handovers.extend(tail.show(change.state.as_ref().map(view_of), change.appended));
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
        hand_over(handovers);
        for stream in crowds {
            stream.tail().wake();
        }
    }
}

/// Hands followers what was shown; to all of them, if that takes no longer than a few syncs.
fn hand_over(handovers: Vec<Handover>) {
    for (number, handover) in handovers.into_iter().enumerate() {
        if number < HANDOVERS_MAX {
            handover.carry_out();
        } else {
            handover.leave_to_follower();
        }
    }
}
