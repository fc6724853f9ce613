//! The streams in memory: those in use, and for a while those that were.

use super::stream::Stream;
use crate::hub::HotBytes;
use crate::types::StreamPath;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const SHARDS: usize = 64;
/// Sweeps that a stream may go unused before it is let go.
const IDLE_SWEEPS: u32 = 5;

/// All streams in memory. One that nobody uses costs nothing but disk once it was swept.
pub(super) struct Registry {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    sweep: AtomicU32,
    count: AtomicUsize,
    shard_max: usize,
    /// Streams whose last use waits to be written down.
    touched: Mutex<Vec<Arc<Stream>>>,
}

#[derive(Default)]
struct Shard {
    streams: HashMap<StreamPath, Arc<Stream>>,
    /// At this size the shard is swept before it grows.
    full_at: usize,
}

impl Registry {
    /// Keeps about `streams_max` unused streams at the most.
    pub(super) fn new(streams_max: usize) -> Self {
        let shard_max = (streams_max / SHARDS).max(1);
        let shard = || Shard {
            full_at: shard_max,
            ..Shard::default()
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            sweep: AtomicU32::new(0),
            count: AtomicUsize::new(0),
            shard_max,
            touched: Mutex::default(),
        }
    }

    /// The one entry of a path. It stays in memory at least while it is held.
    pub(super) fn entry(&self, path: &StreamPath, hot: &Arc<HotBytes>) -> Arc<Stream> {
        let sweep = self.sweep.load(Ordering::Relaxed);
        let mut shard = self.shard(path).lock();
        if let Some(stream) = shard.streams.get(path) {
            stream.sweep.store(sweep, Ordering::Relaxed);
            return stream.clone();
        }
        if shard.streams.len() >= shard.full_at {
            self.drop_unused(&mut shard, |_| true);
            shard.full_at = self.shard_max.max(shard.streams.len() * 2);
        }
        let stream = Arc::new(Stream::new(path.clone(), hot.clone()));
        stream.sweep.store(sweep, Ordering::Relaxed);
        shard.streams.insert(path.clone(), stream.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        stream
    }

    /// Lets go of streams that were not used for some sweeps.
    pub(super) fn sweep(&self) {
        let now = self.sweep.fetch_add(1, Ordering::Relaxed) + 1;
        for shard in &self.shards {
            let mut shard = shard.lock();
            self.drop_unused(&mut shard, |stream| {
                now.wrapping_sub(stream.sweep.load(Ordering::Relaxed)) > IDLE_SWEEPS
            });
            if shard.streams.capacity() > 4 * shard.streams.len().max(64) {
                shard.streams.shrink_to_fit();
            }
        }
    }

    /// Operations in flight, readers and unwritten uses all hold their stream, so an entry that
    /// only the registry holds says nothing that the store does not.
    fn drop_unused(&self, shard: &mut Shard, idle: impl Fn(&Stream) -> bool) {
        let before = shard.streams.len();
        shard
            .streams
            .retain(|_, stream| Arc::strong_count(stream) > 1 || !idle(stream));
        let dropped = before - shard.streams.len();
        self.count.fetch_sub(dropped, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn shard(&self, path: &StreamPath) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(path) as usize % SHARDS]
    }

    /// Notes that the last use of a stream, whose lifetime slides, is to be written down.
    pub(super) fn touched(&self, stream: &Arc<Stream>) {
        if !stream.touched.swap(true, Ordering::AcqRel) {
            self.touched.lock().push(stream.clone());
        }
    }

    pub(super) fn take_touched(&self) -> Vec<Arc<Stream>> {
        std::mem::take(&mut self.touched.lock())
    }
}
