//! The figures of the log: what is appended and read, the committer, the database.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::registrar::Registrar;

/// Operations in one batch: from a lone append to a burst of all connections.
const BATCH_OPERATIONS_BUCKETS: [f64; 14] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
];

/// Bytes of one batch: 256 bytes to 64 MiB, in steps of four.
const BATCH_BYTES_BUCKETS: [f64; 10] = [
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// From a disk with a write cache that holds through a power loss to one in trouble: seconds.
const SYNC_BUCKETS_SECONDS: [f64; 16] = [
    0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0,
];

/// Payload that went one way: into streams or out of them.
#[derive(Debug)]
pub struct Traffic {
    /// Bytes of payload, without framing or encoding.
    pub bytes: IntCounter,
    /// Messages: elements of JSON arrays, or bodies of other types.
    pub messages: IntCounter,
}

impl Traffic {
    /// Counts `bytes` of payload in `messages` messages.
    pub fn add(&self, bytes: u64, messages: u64) {
        self.bytes.inc_by(bytes);
        self.messages.inc_by(messages);
    }

    pub(super) fn appended(registrar: &mut Registrar) -> Self {
        Self {
            bytes: registrar.counter(
                "headwater_appended_bytes_total",
                "Bytes of payload appended and durable.",
            ),
            messages: registrar.counter(
                "headwater_appended_messages_total",
                "Messages appended and durable.",
            ),
        }
    }

    pub(super) fn read(registrar: &mut Registrar) -> Self {
        Self {
            bytes: registrar.counter(
                "headwater_read_bytes_total",
                "Bytes of payload sent to readers.",
            ),
            messages: registrar
                .counter("headwater_read_messages_total", "Messages sent to readers."),
        }
    }
}

/// Answers to catch-up reads whose bodies are kept in memory.
#[derive(Debug)]
pub struct KeptAnswers {
    /// Bodies that were made from the store.
    pub made: IntCounter,
    /// Answers that were sent as they were made before.
    pub reused: IntCounter,
    /// Bodies that were compressed.
    pub compressed: IntCounter,
    /// Bytes of the bodies that are kept, or held by those who send them.
    pub bytes: IntGauge,
}

impl KeptAnswers {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        Self {
            made: registrar.counter(
                "headwater_made_answers_total",
                "Bodies of catch-up answers that were made from the store.",
            ),
            reused: registrar.counter(
                "headwater_reused_answers_total",
                "Catch-up answers that were sent as they were made before.",
            ),
            compressed: registrar.counter(
                "headwater_compressed_answers_total",
                "Bodies of catch-up answers that were compressed.",
            ),
            bytes: registrar.gauge(
                "headwater_kept_answers_bytes",
                "Bytes of bodies of catch-up answers that are in memory.",
            ),
        }
    }
}

/// How large the committer's batches are.
#[derive(Debug)]
pub struct Commit {
    operations: Histogram,
    bytes: Histogram,
}

impl Commit {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        Self {
            operations: registrar.histogram(
                "headwater_commit_batch_operations",
                "Operations (creates, appends, closes, deletes) committed in one batch.",
                &BATCH_OPERATIONS_BUCKETS,
            ),
            bytes: registrar.histogram(
                "headwater_commit_batch_bytes",
                "Bytes written to the database in one batch.",
                &BATCH_BYTES_BUCKETS,
            ),
        }
    }

    /// Counts one batch of `operations` operations and `bytes` bytes.
    pub fn observe(&self, operations: usize, bytes: usize) {
        self.operations.observe(operations as f64);
        self.bytes.observe(bytes as f64);
    }
}

/// Makes the histogram of the time a sync takes.
pub(super) fn sync_seconds(registrar: &mut Registrar) -> Histogram {
    registrar.histogram(
        "headwater_sync_duration_seconds",
        "Seconds that writing and syncing one batch took.",
        &SYNC_BUCKETS_SECONDS,
    )
}

/// What waits for the committer.
#[derive(Debug)]
pub struct Queue {
    /// Operations that wait.
    pub operations: IntGauge,
    /// Bytes of payload that wait.
    pub bytes: IntGauge,
}

impl Queue {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        Self {
            operations: registrar.gauge(
                "headwater_queue_operations",
                "Operations that wait for the committer.",
            ),
            bytes: registrar.gauge(
                "headwater_queue_bytes",
                "Bytes of payload that wait for the committer.",
            ),
        }
    }

    /// Counts an operation of `bytes` bytes that begins to wait.
    pub fn enter(&self, bytes: usize) {
        self.operations.inc();
        self.bytes.add(bytes as i64);
    }

    /// Counts `operations` operations of `bytes` bytes in all that the committer has taken.
    pub fn leave(&self, operations: usize, bytes: usize) {
        self.operations.sub(operations as i64);
        self.bytes.sub(bytes as i64);
    }
}

/// Whether the database slows writers down to let compaction catch up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stall {
    /// It does not.
    #[default]
    None,
    /// It delays writes (`rocksdb.actual-delayed-write-rate` is not 0).
    Delayed,
    /// It takes no writes (`rocksdb.is-write-stopped` is 1).
    Stopped,
}

/// The database's own figures, over all column families, with the property each is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseFigures {
    /// `rocksdb.cur-size-all-mem-tables`: bytes.
    pub memtable_bytes: u64,
    /// `rocksdb.block-cache-usage`: bytes. One cache may serve all column families: count it once.
    pub block_cache_bytes: u64,
    /// `rocksdb.total-sst-files-size`: bytes.
    pub sst_bytes: u64,
    /// `rocksdb.total-blob-file-size`: bytes.
    pub blob_bytes: u64,
    /// `rocksdb.estimate-num-keys`.
    pub estimated_keys: u64,
    /// `rocksdb.estimate-pending-compaction-bytes`: bytes.
    pub pending_compaction_bytes: u64,
    /// `rocksdb.num-running-compactions`.
    pub running_compactions: u64,
    /// `rocksdb.background-errors`, since the database was opened.
    pub background_errors: u64,
    /// `rocksdb.is-write-stopped` and `rocksdb.actual-delayed-write-rate`.
    pub stall: Stall,
}

/// Gauges of [`DatabaseFigures`].
#[derive(Debug)]
pub struct Database {
    memtable_bytes: IntGauge,
    block_cache_bytes: IntGauge,
    sst_bytes: IntGauge,
    blob_bytes: IntGauge,
    estimated_keys: IntGauge,
    pending_compaction_bytes: IntGauge,
    running_compactions: IntGauge,
    background_errors: IntGauge,
    stall_state: IntGauge,
}

impl Database {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        Self {
            memtable_bytes: registrar.gauge(
                "headwater_rocksdb_memtable_bytes",
                "Bytes in RocksDB's memtables.",
            ),
            block_cache_bytes: registrar.gauge(
                "headwater_rocksdb_block_cache_bytes",
                "Bytes in RocksDB's block cache.",
            ),
            sst_bytes: registrar.gauge(
                "headwater_rocksdb_sst_bytes",
                "Bytes of RocksDB's table files on disk.",
            ),
            blob_bytes: registrar.gauge(
                "headwater_rocksdb_blob_bytes",
                "Bytes of RocksDB's blob files on disk.",
            ),
            estimated_keys: registrar.gauge(
                "headwater_rocksdb_estimated_keys",
                "Keys in RocksDB, by its own estimate.",
            ),
            pending_compaction_bytes: registrar.gauge(
                "headwater_rocksdb_pending_compaction_bytes",
                "Bytes that RocksDB still has to rewrite, by its own estimate.",
            ),
            running_compactions: registrar.gauge(
                "headwater_rocksdb_running_compactions",
                "Compactions that RocksDB runs now.",
            ),
            background_errors: registrar.gauge(
                "headwater_rocksdb_background_errors",
                "Failed flushes and compactions since the database was opened.",
            ),
            stall_state: registrar.gauge(
                "headwater_rocksdb_stall_state",
                "Whether RocksDB slows writes: 0 no, 1 delayed, 2 stopped.",
            ),
        }
    }

    /// Shows `figures` from now on.
    pub fn set(&self, figures: &DatabaseFigures) {
        set(&self.memtable_bytes, figures.memtable_bytes);
        set(&self.block_cache_bytes, figures.block_cache_bytes);
        set(&self.sst_bytes, figures.sst_bytes);
        set(&self.blob_bytes, figures.blob_bytes);
        set(&self.estimated_keys, figures.estimated_keys);
        set(
            &self.pending_compaction_bytes,
            figures.pending_compaction_bytes,
        );
        set(&self.running_compactions, figures.running_compactions);
        set(&self.background_errors, figures.background_errors);
        set(&self.stall_state, figures.stall as u64);
    }
}

/// Sets a gauge to a figure that has no sign; one too large is shown as the largest.
pub(super) fn set(gauge: &IntGauge, figure: u64) {
    gauge.set(i64::try_from(figure).unwrap_or(i64::MAX));
}
