//! Work behind the answers: packing and purging, expiry, sweeping what nobody uses.
//!
//! Work that must not be lost is written down with the change that caused it, so a crash only
//! delays it.

use super::committer::{Operation, Writer};
use super::keys::Pending;
use super::kv::{Kv, KvError, Table, Write};
use super::{Log, ReadError, pack, purge};
use crate::types::{StreamId, StreamPath};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

/// Pieces of work that become one batch.
const BATCH_MAX: usize = 128;
/// Bytes of segments that become one batch.
const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Purged bytes after which the disk space is claimed back.
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
        let mut purged = Purged::default();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while work.recv_many(&mut batch, BATCH_MAX).await > 0 {
            while let Err(error) = self.work_batch(&mut batch, &mut purged).await {
                tracing::warn!(%error, "packing or purging failed");
                if self.failed() {
                    return;
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
            batch.clear();
        }
    }

    async fn work_batch(
        &self,
        batch: &mut [Pending],
        purged: &mut Purged,
    ) -> Result<(), ReadError> {
        let mut purges = Vec::new();
        for work in batch.iter_mut() {
            if let Pending::Purge { id, source } = work {
                if let Some((source_id, path)) = source {
                    self.let_go(*id, *source_id, path).await?;
                    // Done, also if the rest of the batch is tried again.
                    *source = None;
                }
                purges.push(*id);
            }
        }
        let packs: Vec<_> = batch
            .iter()
            .filter_map(|work| match *work {
                Pending::Pack { id, start, end } => Some((id, start, end)),
                Pending::Purge { .. } | Pending::Finish { .. } => None,
            })
            .collect();
        let packed = packs.len() as u64;
        let removed = purges.len() as u64;
        let bytes = self
            .blocking({
                let purges = purges.clone();
                let writer = self.committer.writer();
                move |kv: &dyn Kv| write_work(kv, &writer, &packs, &purges)
            })
            .await?;
        self.metrics.packed_segments.inc_by(packed);
        self.metrics.purged_streams.inc_by(removed);
        purged.add(&purges, bytes);
        self.reclaim(purged).await
    }

    /// Takes a purged fork off its source.
    async fn let_go(
        &self,
        id: StreamId,
        source_id: StreamId,
        source: &StreamPath,
    ) -> Result<(), ReadError> {
        let released = Pending::Purge { id, source: None };
        self.release(source_id, source, &released)
            .await
            .map_err(|error| ReadError::Store(KvError(error.to_string())))
    }

    /// Claims the disk space back once enough was purged.
    async fn reclaim(&self, purged: &mut Purged) -> Result<(), ReadError> {
        if purged.bytes < COMPACT_BYTES {
            return Ok(());
        }
        let (from, to) = (purged.from.to_be_bytes(), (purged.to + 1).to_be_bytes());
        *purged = Purged::default();
        self.blocking(move |kv: &dyn Kv| {
            kv.compact(Table::Packed, &from, &to)?;
            Ok(kv.compact(Table::Records, &from, &to)?)
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

/// Writes a batch of work. Returns about how many bytes were purged.
fn write_work(
    kv: &dyn Kv,
    writer: &Writer,
    packs: &[(StreamId, u64, u64)],
    purges: &[StreamId],
) -> Result<u64, ReadError> {
    let mut writes = Vec::new();
    let mut bytes = 0;
    for (id, start, end) in packs {
        writes.extend(pack::pack(kv, *id, *start, *end)?);
        if size_of_writes(&writes) > BATCH_BYTES_MAX {
            writer.write(&std::mem::take(&mut writes))?;
        }
    }
    for id in purges {
        let (removals, purged) = purge::purge(kv, *id)?;
        writes.extend(removals);
        bytes += purged;
    }
    writer.write(&writes)?;
    Ok(bytes)
}

fn size_of_writes(writes: &[Write]) -> usize {
    let size = |write: &Write| match write {
        Write::Put(_, key, value) => key.len() + value.len(),
        Write::Delete(..) | Write::DeleteRange(..) => 0,
    };
    writes.iter().map(size).sum()
}

/// What was purged since disk space was last claimed back.
#[derive(Default)]
struct Purged {
    from: StreamId,
    to: StreamId,
    bytes: u64,
}

impl Purged {
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
}
