//! Opening a log: nothing is walked but the work that a crash left unfinished.

use super::committer::{Committer, QueueLimits};
use super::keys::{self, Corrupt, Pending};
use super::kv::{Kv, KvError, Table, Write};
use super::loader::Loader;
use super::registry::Registry;
use super::{Log, Options, segment};
use crate::clock::Clock;
use crate::hub::HotBytes;
use crate::observe::metrics::Metrics;
use crate::types::StreamId;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::RngCore;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Why a log does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] KvError),
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    #[error("the data was written by another version: its format is {found}, this server's is {known}", known = keys::FORMAT)]
    Format { found: u32 },
    #[error("the log's thread does not start: {0}")]
    Threads(#[from] std::io::Error),
}

impl Log {
    /// Opens the log over a store. Returns with it the work to hand to [`Log::start_work`].
    pub fn open(
        kv: Arc<dyn Kv>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        options: &Options<'_>,
    ) -> Result<(Arc<Self>, UnboundedReceiver<Pending>), OpenError> {
        check_format(&*kv)?;
        let identity = Identity::open(&*kv)?;
        let ids = Ids::open(&*kv)?;
        let (work, to_do) = unbounded_channel();
        let mut left_unfinished = Vec::new();
        for pending in left_over(&*kv)? {
            match pending {
                Pending::Finish { id, path } => left_unfinished.push((id, path)),
                pending => drop(work.send(pending)),
            }
        }
        let limits = QueueLimits {
            bytes_max: options.log.queue_bytes_max,
            ops_max: options.log.queue_ops_max,
            wait: options.queue_wait,
        };
        let durability = options.log.durability;
        let committer = Committer::start(kv.clone(), durability, limits, work, metrics.clone())?;
        let log = Self {
            loader: Loader::new(kv.clone()),
            kv,
            clock,
            metrics,
            committer,
            streams: Registry::new(options.log.streams_in_memory_max),
            segments: segment::cache(options.log.segments_bytes()),
            ids,
            identity,
            left_unfinished: Mutex::new(left_unfinished),
            hot: HotBytes::new(options.log.hot_bytes_max),
            two_streams: Mutex::new(()),
            segment_bytes: options.log.segment_bytes,
            producers_max: options.producers_max,
            fork_depth_max: options.fork_depth_max,
        };
        Ok((Arc::new(log), to_do))
    }
}

fn check_format(kv: &dyn Kv) -> Result<(), OpenError> {
    match kv.get(Table::Meta, keys::FORMAT_KEY)? {
        Some(value) => {
            let bytes = value.try_into().map_err(|_| Corrupt("format"))?;
            let found = u32::from_be_bytes(bytes);
            match found {
                keys::FORMAT => Ok(()),
                // All that it says holds in this one too.
                1 => Ok(write_format(kv)?),
                found => Err(OpenError::Format { found }),
            }
        }
        None => Ok(write_format(kv)?),
    }
}

fn write_format(kv: &dyn Kv) -> Result<(), KvError> {
    let value = Bytes::copy_from_slice(&keys::FORMAT.to_be_bytes());
    let key = Bytes::from_static(keys::FORMAT_KEY);
    kv.write(&[Write::Put(Table::Meta, key, value)])?;
    kv.sync()
}

fn left_over(kv: &dyn Kv) -> Result<Vec<Pending>, OpenError> {
    let mut found = Vec::new();
    kv.scan(Table::Pending, &[], &[0xff], &mut |key, value| {
        found.push(Pending::read(key, value));
        ControlFlow::Continue(())
    })?;
    Ok(found.into_iter().collect::<Result<_, _>>()?)
}

/// What tells this database from all others.
pub(super) struct Identity {
    pub(super) secret: [u8; 32],
    /// Eight hex digits.
    pub(super) database: String,
}

impl Identity {
    fn open(kv: &dyn Kv) -> Result<Self, OpenError> {
        Ok(Self {
            secret: kept_random(kv, keys::SECRET_KEY)?,
            database: format!(
                "{:08x}",
                u32::from_be_bytes(kept_random(kv, keys::DATABASE_KEY)?)
            ),
        })
    }
}

/// Random bytes that are made once in the life of a database.
fn kept_random<const BYTES: usize>(
    kv: &dyn Kv,
    key: &'static [u8],
) -> Result<[u8; BYTES], OpenError> {
    if let Some(value) = kv.get(Table::Meta, key)? {
        return Ok(value.try_into().map_err(|_| Corrupt("random value"))?);
    }
    let mut made = [0; BYTES];
    rand::rng().fill_bytes(&mut made);
    let value = Bytes::copy_from_slice(&made);
    kv.write(&[Write::Put(Table::Meta, Bytes::from_static(key), value)])?;
    kv.sync()?;
    Ok(made)
}

/// Hands out stream ids, each once for the life of the data.
///
/// Ids are reserved in blocks, one block ahead, by a write in the batch of the stream that begins a
/// block: after a crash the ids go on behind the reservation.
pub(super) struct Ids {
    next: AtomicU64,
}

const BLOCK: u64 = 1 << 20;

impl Ids {
    fn open(kv: &dyn Kv) -> Result<Self, OpenError> {
        let reserved = match kv.get(Table::Meta, keys::IDS_KEY)? {
            Some(value) => u64::from_be_bytes(value.try_into().map_err(|_| Corrupt("ids"))?),
            None => BLOCK,
        };
        kv.write(&[reservation(reserved + 2 * BLOCK)])?;
        kv.sync()?;
        Ok(Self {
            next: AtomicU64::new(reserved),
        })
    }

    pub(super) fn next(&self) -> (StreamId, Option<Write>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let begins_block = id.is_multiple_of(BLOCK);
        (id, begins_block.then(|| reservation(id + 3 * BLOCK)))
    }
}

fn reservation(below: StreamId) -> Write {
    Write::Put(
        Table::Meta,
        Bytes::from_static(keys::IDS_KEY),
        Bytes::copy_from_slice(&below.to_be_bytes()),
    )
}
