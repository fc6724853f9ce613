//! The log: streams as records and segments in an ordered store.
//!
//! An append goes from [`Log::append`] (rules, position) through the committer (batch, sync,
//! publish) to the hub. A read takes the hot tail from the hub, anything older from the store.

mod append;
mod codec;
mod committer;
mod create;
mod delete;
mod expiry;
pub mod keys;
pub mod kv;
mod load;
mod loader;
mod operation;
mod pack;
mod purge;
mod queue;
mod reader;
mod recovery;
mod registry;
mod rest;
mod retention;
pub mod rocks;
mod row;
mod segment;
pub mod state;
mod stream;
#[cfg(test)]
mod tests;
mod worker;
mod writer;

pub use append::{AppendError, Appended, Queued};
pub use create::{Create, CreateError, Created, NOTE_BYTES_MAX};
pub use delete::DeleteError;
pub use queue::CommitError;
pub use reader::{Answer, AnswerBody, Look, Part, Stored};
pub use recovery::OpenError;
pub use stream::Stream;

use crate::clock::Clock;
use crate::config::LogConfig;
use crate::hub::HotBytes;
use crate::observe::metrics::Metrics;
use crate::types::{Lifetime, Offset, Position, StreamId, StreamMeta, StreamPath, UnixMs};
use committer::Committer;
use kv::{Kv, KvError};
use load::Purpose;
use loader::Loader;
use parking_lot::Mutex;
use recovery::{Identity, Ids};
use registry::Registry;
use segment::Segments;
use std::sync::Arc;
use thiserror::Error;

/// The streams of one database.
pub struct Log {
    kv: Arc<dyn Kv>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    committer: Committer,
    streams: Registry,
    loader: Arc<Loader>,
    segments: Segments,
    ids: Ids,
    identity: Identity,
    /// Streams whose recording did not end before this start.
    left_unfinished: Mutex<Vec<(StreamId, StreamPath)>>,
    hot: Arc<HotBytes>,
    /// Held while two streams are locked at once, so that no two tasks wait for each other.
    two_streams: Mutex<()>,
    segment_bytes: u64,
    producers_max: u32,
    fork_depth_max: usize,
}

/// Why a stored stream could not be read.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    Store(#[from] KvError),
    #[error(transparent)]
    Corrupt(#[from] keys::Corrupt),
    #[error("the stream is gone")]
    Gone,
    #[error("the stream begins at {}: what was before it was trimmed", Offset(*earliest))]
    Trimmed { earliest: Position },
    #[error("too much is being sent at this time")]
    NoRoom,
}

impl ReadError {
    /// Of a read whose thread ended before it.
    fn cut_off() -> Self {
        Self::Store(KvError("a read was cut off".into()))
    }
}

/// Figures of the log for the metrics.
#[derive(Clone, Copy, Debug)]
pub struct LogFigures {
    pub streams_in_memory: u64,
    pub hot_bytes: u64,
    pub queued_operations: u64,
    pub queued_bytes: u64,
}

impl Log {
    /// The stream at a path, loaded if the path is new to memory. It may hold nothing.
    pub async fn stream(&self, path: &StreamPath) -> Result<Arc<Stream>, ReadError> {
        self.stream_for(path, Purpose::State).await
    }

    /// The same for those who read its data next: if it is loaded and short, all at once.
    pub async fn stream_to_read(&self, path: &StreamPath) -> Result<Arc<Stream>, ReadError> {
        self.stream_for(path, Purpose::Read).await
    }

    async fn stream_for(
        &self,
        path: &StreamPath,
        purpose: Purpose,
    ) -> Result<Arc<Stream>, ReadError> {
        let stream = self.streams.entry(path, &self.hot);
        self.load(&stream, purpose).await?;
        Ok(stream)
    }

    /// Counts a read or write against a sliding lifetime. What it changes is written down within a
    /// second, without a sync.
    pub fn touch(&self, stream: &Arc<Stream>) {
        if let Some(view) = stream.tail().view() {
            self.touch_seen(stream, &view.meta, self.clock.now_ms());
        }
    }

    /// The same for those who have just seen the stream.
    pub fn touch_seen(&self, stream: &Arc<Stream>, meta: &StreamMeta, now_ms: UnixMs) {
        stream.use_at(now_ms);
        if matches!(meta.lifetime, Lifetime::Ttl { .. }) {
            self.streams.touched(stream);
        }
    }

    /// Whether a write has failed: then the log only reads.
    pub fn failed(&self) -> bool {
        self.committer.failure().is_some()
    }

    /// Whether the log reads and writes. It blocks, if only for a moment: what it asks for is
    /// always in memory.
    pub fn check(&self) -> Result<(), KvError> {
        if let Some(failure) = self.committer.failure() {
            let told = format!("{}; nothing more is written", failure.0);
            return Err(KvError(told));
        }
        self.kv.get(kv::Table::Meta, keys::FORMAT_KEY).map(drop)
    }

    /// A random secret that belongs to this database, for signing what others hand back.
    pub fn secret(&self) -> [u8; 32] {
        self.identity.secret
    }

    /// A random name of this database: eight hex digits.
    pub fn database_id(&self) -> &str {
        &self.identity.database
    }

    /// The streams that were created as unfinished and were neither closed nor deleted when the log
    /// was last left. They are told once; whoever takes them closes them, as their ids say.
    pub fn take_unfinished(&self) -> Vec<(StreamId, StreamPath)> {
        std::mem::take(&mut self.left_unfinished.lock())
    }

    pub fn figures(&self) -> LogFigures {
        let (queued_operations, queued_bytes) = self.committer.depth();
        LogFigures {
            streams_in_memory: self.streams.len() as u64,
            hot_bytes: self.hot.used(),
            queued_operations,
            queued_bytes,
        }
    }

    /// Writes what is queued, ends the committer, and syncs whatever the durability. Later appends
    /// are refused.
    pub async fn stop(self: &Arc<Self>) {
        self.write_touches();
        let log = self.clone();
        let stop = move || {
            log.committer.stop();
            if !log.failed()
                && let Err(error) = log.kv.sync()
            {
                tracing::error!(%error, "the last sync failed");
            }
        };
        let _ = tokio::task::spawn_blocking(stop).await;
    }

    /// Runs a call that may wait for the disk where it holds up nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Kv) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let kv = self.kv.clone();
        tokio::task::spawn_blocking(move || call(&*kv))
            .await
            .map_err(|_| ReadError::cut_off())?
    }
}

/// What the log takes from the configuration.
pub struct Options<'a> {
    pub log: &'a LogConfig,
    pub producers_max: u32,
    pub fork_depth_max: usize,
    pub queue_wait: std::time::Duration,
}
