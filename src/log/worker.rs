//! Work behind the answers: packing, purging and trimming, expiry, sweeping what nobody uses.
//!
//! Work that must not be lost is written down with the change that caused it, so a crash only
//! delays it.

use super::committer::acknowledged;
use super::keys::Pending;
use super::kv::{Kv, Table, Write};
use super::operation::Operation;
use super::queue::CommitError;
use super::writer::Writer;
use super::{Log, ReadError, pack, purge};
use crate::types::StreamId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

/// Pieces of work that become one batch.
const BATCH_MAX: usize = 128;
/// What becomes one write, if it is more than one segment: appends wait for it.
const WRITE_BYTES_MAX: u64 = 256 * 1024;
/// Bytes that a key takes as much time as.
const KEY_BYTES: u64 = 256;
/// Removed bytes after which the disk space is claimed back.
const COMPACT_BYTES: u64 = 64 * 1024 * 1024;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Log {
    /// Starts the work behind the answers. It ends with `stop`.
    pub fn start_work(
        self: &Arc<Self>,
        work: UnboundedReceiver<Pending>,
        expiry_interval: Duration,
        stop: &CancellationToken,
    ) {
        let (log, stopped) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            stopped.run_until_cancelled_owned(log.work_off(work)).await;
        });
        let (log, stopped) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            stopped.run_until_cancelled_owned(log.sweep_often()).await;
        });
        let (log, stopped) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            let expire = log.expire_often(expiry_interval);
            stopped.run_until_cancelled_owned(expire).await;
        });
    }

    /// Does the work that comes, until no more can come.
    pub(super) async fn work_off(self: Arc<Self>, mut work: UnboundedReceiver<Pending>) {
        let mut space = Space::default();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while work.recv_many(&mut batch, BATCH_MAX).await > 0 {
            if self.work_batch(&mut batch, &mut space).await.is_err() {
                // One by one, so that what cannot be done holds up nothing else.
                for piece in batch.chunks_mut(1) {
                    self.work_alone(piece, &mut space).await;
                }
            }
            if self.failed() {
                return;
            }
            batch.clear();
        }
    }

    /// Does one piece of work. What cannot be done stays written down, for the next start.
    async fn work_alone(&self, piece: &mut [Pending], space: &mut Space) {
        while !self.failed() {
            match self.work_batch(piece, space).await {
                Err(WorkError::Commit(CommitError::Overloaded)) => {
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(WorkError::Read(error)) => {
                    // Its number, and not its name, which may be as good as a key.
                    let stream = piece.first().map(Pending::id);
                    tracing::error!(%error, stream, "work on a stream is left to the next start");
                    self.metrics.work_errors.inc();
                    return;
                }
                Ok(()) | Err(WorkError::Commit(_)) => return,
            }
        }
    }

    async fn work_batch(&self, batch: &mut [Pending], space: &mut Space) -> Result<(), WorkError> {
        self.let_go(batch).await?;
        let (mut packs, mut purges, mut trims) = (Vec::new(), Vec::new(), Vec::new());
        for work in batch.iter() {
            match work {
                Pending::Pack { id, start, end } => packs.push((*id, *start, *end)),
                Pending::Purge { id, .. } => purges.push(*id),
                Pending::Trim { id, path } => trims.push((*id, path)),
                Pending::Finish { .. } => {}
            }
        }
        let packed = packs.len() as u64;
        let bytes = self
            .blocking({
                let purges = purges.clone();
                let writer = self.committer.writer();
                move |kv: &dyn Kv| write_work(kv, writer, &packs, &purges)
            })
            .await?;
        self.metrics.packed_segments.inc_by(packed);
        self.metrics.purged_streams.inc_by(purges.len() as u64);
        space.purged.add(&purges, bytes);
        for (id, path) in trims {
            let bytes = self.trim(id, path).await?;
            self.metrics.trimmed_bytes.inc_by(bytes);
            space.trimmed.add(&[id], bytes);
        }
        Ok(self.reclaim(space).await?)
    }

    /// Takes purged forks off their sources, all with one sync if they come together.
    async fn let_go(&self, batch: &mut [Pending]) -> Result<(), WorkError> {
        let mut acks = Vec::new();
        let mut refused = None;
        for work in batch {
            if let Pending::Purge { id, source } = work
                && let Some((source_id, path)) = source
            {
                match self.release(*id, *source_id, path).await {
                    Ok(ack) => acks.push(ack),
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
                // Done, also if the rest of the batch is tried again.
                *source = None;
            }
        }
        for mut ack in acks {
            acknowledged(&mut ack).await?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Claims the disk space back once enough was removed.
    async fn reclaim(&self, space: &mut Space) -> Result<(), ReadError> {
        let (purged, trimmed) = (space.purged.take(), space.trimmed.take());
        if purged.is_none() && trimmed.is_none() {
            return Ok(());
        }
        self.blocking(move |kv: &dyn Kv| {
            for table in [Table::Packed, Table::Records] {
                if let Some((from, to)) = purged {
                    kv.compact(table, &from, &to)?;
                }
                if let Some((from, to)) = trimmed {
                    kv.collect(table, &from, &to)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn sweep_often(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.write_touches();
            self.streams.sweep();
        }
    }

    /// Queues the last uses of streams with sliding lifetimes to be written down.
    pub(super) fn write_touches(&self) {
        for stream in self.streams.take_touched() {
            stream.touched.store(false, Ordering::Release);
            let mut sequenced = stream.sequenced.lock();
            let Some(state) = &mut sequenced.state else {
                continue;
            };
            state.last_used_ms = state.last_used_ms.max(stream.used_ms());
            let state = Some(state.clone());
            let touch = Operation::of_state(&stream, state, Vec::new(), Vec::new());
            sequenced.ticket = self.committer.push(touch.unacknowledged(), None).0;
        }
    }
}

/// Why a piece of work was not done.
#[derive(Debug, Error)]
pub(super) enum WorkError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Writes a batch of work. Returns about how many bytes were purged.
fn write_work(
    kv: &dyn Kv,
    mut writer: Writer,
    packs: &[(StreamId, u64, u64)],
    purges: &[StreamId],
) -> Result<u64, ReadError> {
    let mut writes = Vec::new();
    let mut bytes = 0;
    for (id, start, end) in packs {
        writes.extend(pack::pack(kv, *id, *start, *end)?);
        let packed = cost(&writes);
        if packed >= WRITE_BYTES_MAX {
            // Many segments may be full at once, and nobody waits for them.
            writer.write_and_rest(&std::mem::take(&mut writes), packed)?;
        }
    }
    for id in purges {
        let (removals, purged) = purge::purge(kv, *id)?;
        writes.extend(removals);
        bytes += purged;
        if cost(&writes) >= WRITE_BYTES_MAX {
            writer.write(&std::mem::take(&mut writes))?;
        }
    }
    writer.write(&writes)?;
    Ok(bytes)
}

/// About how many bytes as data take as much time as these changes.
fn cost(writes: &[Write]) -> u64 {
    let of_one = |write: &Write| match write {
        Write::Put(_, _, value) => KEY_BYTES + value.len() as u64,
        Write::Delete(..) | Write::DeleteRange(..) => KEY_BYTES,
    };
    writes.iter().map(of_one).sum()
}

/// What was removed since disk space was last claimed back.
#[derive(Default)]
struct Space {
    /// All that some streams had.
    purged: Removed,
    /// The beginnings of some streams.
    trimmed: Removed,
}

#[derive(Default)]
struct Removed {
    from: StreamId,
    to: StreamId,
    bytes: u64,
}

impl Removed {
    fn add(&mut self, ids: &[StreamId], bytes: u64) {
        for id in ids {
            self.from = if self.bytes == 0 && self.to == 0 {
                *id
            } else {
                self.from.min(*id)
            };
            self.to = self.to.max(*id);
        }
        self.bytes += bytes;
    }

    /// The range of ids, once it is worth it.
    fn take(&mut self) -> Option<([u8; 8], [u8; 8])> {
        if self.bytes < COMPACT_BYTES {
            return None;
        }
        let Self { from, to, .. } = std::mem::take(self);
        Some((from.to_be_bytes(), (to + 1).to_be_bytes()))
    }
}
