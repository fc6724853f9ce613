//! The seam under the log: an ordered store of keys and values in a few tables.
//!
//! RocksDB implements it; tests put a store below that loses what was not synced.

use bytes::Bytes;
use std::ops::ControlFlow;
use thiserror::Error;

/// The tables of the log; see [`super::keys`] for what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Format version and counters.
    Meta,
    /// Path to stream state.
    Streams,
    /// (id, start) to the frames of appends that are not packed.
    Records,
    /// (id, start) to where a sealed segment ends.
    Segments,
    /// (id, start) to the frames of a packed segment.
    Packed,
    /// (id, producer) to producer state.
    Producers,
    /// Stream id to what its creator keeps with it.
    Notes,
    /// (deadline, id) to the path of a stream that may have expired then.
    Timers,
    /// Work that a crash must not lose: segments to pack, streams to purge.
    Pending,
}

impl Table {
    pub const ALL: [Self; 9] = [
        Self::Meta,
        Self::Streams,
        Self::Records,
        Self::Segments,
        Self::Packed,
        Self::Producers,
        Self::Notes,
        Self::Timers,
        Self::Pending,
    ];

    /// The name of the table on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "default",
            Self::Streams => "streams",
            Self::Records => "records",
            Self::Segments => "segments",
            Self::Packed => "packed",
            Self::Producers => "producers",
            Self::Notes => "notes",
            Self::Timers => "timers",
            Self::Pending => "pending",
        }
    }
}

/// A failure of the store. After one, nothing more is written until a restart.
#[derive(Clone, Debug, Error)]
#[error("the store failed: {0}")]
pub struct KvError(pub String);

/// One change.
#[derive(Clone, Debug)]
pub enum Write {
    Put(Table, Bytes, Bytes),
    Delete(Table, Bytes),
    /// From the first key up to, not including, the second.
    DeleteRange(Table, Bytes, Bytes),
}

/// What a look-up that must not wait for the disk found.
#[derive(Debug, PartialEq, Eq)]
pub enum Cached {
    Known(Option<Vec<u8>>),
    /// Only the disk knows.
    NotInMemory,
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Looks at a key and its value, and tells whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered store with atomic batches. Its calls block: only [`Kv::get_cached`] may be called on
/// an async worker.
pub trait Kv: Send + Sync + 'static {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Looks a key up without waiting for the disk.
    fn get_cached(&self, table: Table, key: &[u8]) -> Result<Cached, KvError>;

    /// The greatest entry of the table that is not greater than `key`.
    fn get_at_or_before(&self, table: Table, key: &[u8]) -> Result<Option<Entry>, KvError>;

    /// Visits the entries from `from` up to, not including, `to`, in order.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), KvError>;

    /// Applies all changes or, if the process or machine dies, perhaps none. They survive a crash
    /// of the machine only after [`Kv::sync`].
    fn write(&self, writes: &[Write]) -> Result<(), KvError>;

    /// Whether so much was written that the store would soon slow all writes down: what can wait
    /// should.
    fn is_behind(&self) -> bool;

    /// Makes all that was written durable.
    fn sync(&self) -> Result<(), KvError>;

    /// Gives the disk space of deleted keys back. May take long.
    fn compact(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError>;

    /// The same where keys are deleted for ever, among others that stay: values that stay are copied
    /// only when that gives back as much as it copies.
    fn collect(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError>;
}
