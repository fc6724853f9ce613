//! The store on disk. The only file that names RocksDB.

use super::kv::{Cached, Entry, Kv, KvError, Table, Visit, Write};
use crate::config::LogConfig;
use crate::observe::metrics::{DatabaseFigures, Stall};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily,
    ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType, ErrorKind, Options, ReadOptions,
    ReadTier, WriteBatch, WriteOptions, checkpoint::Checkpoint,
};
use std::path::Path;

/// Records from this size on lie in blob files, so that compaction does not copy them about: most of
/// them are never packed.
const RECORD_BLOB_BYTES_MIN: u64 = 4 * 1024;
/// The same of packed segments.
const PACKED_BLOB_BYTES_MIN: u64 = 16 * 1024;
const BLOB_FILE_BYTES: u64 = 128 * 1024 * 1024;
const BLOCK_BYTES: usize = 16 * 1024;
/// Indexes and filters are read in pieces, as the data is. As one block of each file they would be
/// larger than a part of a small cache, and with a million streams would be read whole for each.
const METADATA_BLOCK_BYTES: usize = 4 * 1024;
const BLOOM_BITS: f64 = 10.0;
/// Files that the store holds open at most, however many streams there are.
pub const OPEN_FILES_MAX: i32 = 256;
const ARENA_BLOCK_BYTES: usize = 128 * 1024;
const SST_BYTES: &str = "rocksdb.total-sst-files-size";
const BLOB_GC: &str = "enable_blob_garbage_collection";
/// What a start after a crash replays at the most, and what stays on disk after all is deleted.
const WAL_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Files of the write-ahead log that are used again.
const WAL_FILES_KEPT: usize = 2;
/// Most bytes of such a file that are written beforehand.
const WAL_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// In small pieces: the file system keeps a file in memory in pieces of the size of its writes, and
/// counts the whole piece as written whenever a part of it is.
const WAL_FILL_BYTES: usize = 8 * 1024;
/// What RocksDB puts before the writes of a batch: its sequence number, and how many there are.
const BATCH_HEAD_BYTES: usize = 12;
/// What it puts before the bytes of a write, at the most: a tag, the table, and two lengths.
const WRITE_BYTES_MAX: usize = 16;
/// A key of no meaning, which is removed at once.
const WAL_FILL_KEY: &[u8] = b"fill";
/// A record mostly lies behind the last one of its stream, which begins the same. The memtable keeps
/// that place, instead of looking for it among the records of all streams.
const RECORD_PLACES: &str = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.8";
/// Files of a table that are not sorted in yet, with which writes can wait that nobody waits for.
/// RocksDB slows all writes down at 20.
const UNSORTED_FILES_MAX: u64 = 8;
const UNSORTED_FILES: &str = "rocksdb.num-files-at-level0";
/// Memtables that are full and not flushed. RocksDB stops all writes at 3.
const FULL_MEMTABLES: &str = "rocksdb.num-immutable-mem-table";
/// Locks that share the values which are replaced where they lie.
const INPLACE_LOCKS: usize = 1024;

/// A RocksDB database with a column family for each table.
pub struct Rocks {
    db: DB,
    writes: WriteOptions,
    cache: Cache,
}

impl Rocks {
    /// Opens or creates the database in a directory.
    pub fn open(dir: &Path, config: &LogConfig) -> Result<Self, KvError> {
        std::fs::create_dir_all(dir)
            .map_err(|error| KvError(format!("cannot create {}: {error}", dir.display())))?;
        let cache = Cache::new_lru_cache(config.block_cache_bytes as usize);
        let families = Table::ALL.map(|table| {
            let options = table_options(table, config, &cache)?;
            Ok(ColumnFamilyDescriptor::new(table.name(), options))
        });
        let families: Result<Vec<_>, KvError> = families.into_iter().collect();
        let db = DB::open_cf_descriptors(&database_options(config), dir, families?);
        let db = db.map_err(|error| match error.to_string() {
            text if text.contains("/LOCK: ") => {
                KvError(format!("another process has it open ({text})"))
            }
            text => KvError(text),
        })?;
        Ok(Self {
            db,
            writes: WriteOptions::default(),
            cache,
        })
    }

    /// Writes the files of the write-ahead log once, as those that are used again were. A sync of a
    /// file that does not grow takes two thirds of the time: the file system has nothing to note.
    pub fn prepare_log(&self, config: &LogConfig) -> Result<(), KvError> {
        let meta = self.family(Table::Meta)?;
        let zeros = vec![0; WAL_FILL_BYTES];
        let pieces = prepared_bytes(config) / WAL_FILL_BYTES as u64;
        for _ in 0..WAL_FILES_KEPT {
            for _ in 0..pieces {
                self.db.put_cf(meta, WAL_FILL_KEY, &zeros)?;
            }
            self.db.delete_cf(meta, WAL_FILL_KEY)?;
            self.db.flush_cf(meta)?;
        }
        Ok(())
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily, KvError> {
        self.db
            .cf_handle(table.name())
            .ok_or_else(|| KvError(format!("the table {} is missing", table.name())))
    }

    fn batch(&self, writes: &[Write]) -> Result<WriteBatch, KvError> {
        let mut batch = WriteBatch::with_capacity_bytes(batch_bytes(writes));
        for write in writes {
            match write {
                Write::Put(table, key, value) => batch.put_cf(self.family(*table)?, key, value),
                Write::Delete(table, key) => batch.delete_cf(self.family(*table)?, key),
                Write::DeleteRange(table, from, to) => {
                    batch.delete_range_cf(self.family(*table)?, from, to);
                }
            }
        }
        Ok(batch)
    }

    /// A figure of each table.
    fn of_tables<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u64> + 'a {
        Table::ALL.into_iter().filter_map(move |table| {
            let value = self.db.property_value_cf(self.family(table).ok()?, name);
            value.ok().flatten()?.parse().ok()
        })
    }

    /// Writes a copy of the database, consistent in itself, into a new directory. It shares files
    /// with the database where the file system allows, so it costs little until they part.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        Ok(Checkpoint::new(&self.db)?.create_checkpoint(dir)?)
    }

    /// The database's own main figures.
    pub fn figures(&self) -> DatabaseFigures {
        let sum = |name: &str| self.of_tables(name).sum();
        let one = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        let stopped = one("rocksdb.is-write-stopped") > 0;
        let delayed = one("rocksdb.actual-delayed-write-rate") > 0;
        DatabaseFigures {
            memtable_bytes: sum("rocksdb.cur-size-all-mem-tables"),
            block_cache_bytes: self.cache.get_usage() as u64,
            sst_bytes: sum(SST_BYTES),
            blob_bytes: sum("rocksdb.total-blob-file-size"),
            estimated_keys: sum("rocksdb.estimate-num-keys"),
            pending_compaction_bytes: sum("rocksdb.estimate-pending-compaction-bytes"),
            running_compactions: one("rocksdb.num-running-compactions"),
            background_errors: one("rocksdb.background-errors"),
            stall: match (stopped, delayed) {
                (true, _) => Stall::Stopped,
                (false, true) => Stall::Delayed,
                (false, false) => Stall::None,
            },
        }
    }
}

/// How much of each file of the write-ahead log is written beforehand. RocksDB begins another file
/// when the memtable is seven eighths full: what was meant for one would be in two, and the second
/// be short.
fn prepared_bytes(config: &LogConfig) -> u64 {
    config.memtable_bytes.min(WAL_FILE_BYTES_MAX) / 4 * 3
}

/// At least as many bytes as a batch of these writes takes, so that it need not grow.
fn batch_bytes(writes: &[Write]) -> usize {
    let bytes = writes.iter().map(|write| {
        WRITE_BYTES_MAX
            + match write {
                Write::Put(_, key, value) => key.len() + value.len(),
                Write::Delete(_, key) => key.len(),
                Write::DeleteRange(_, from, to) => from.len() + to.len(),
            }
    });
    BATCH_HEAD_BYTES + bytes.sum::<usize>()
}

fn database_options(config: &LogConfig) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_db_write_buffer_size(config.memtable_bytes as usize);
    // All tables together, so that a file of the write-ahead log is soon needed by none of them.
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    // A recycled file keeps its size, so a sync writes the data alone.
    options.set_recycle_log_file_num(WAL_FILES_KEPT);
    // Only the committer writes, and seldom somebody beside it.
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_skip_stats_update_on_db_open(true);
    options
}

fn table_options(table: Table, config: &LogConfig, cache: &Cache) -> Result<Options, KvError> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_bloom_filter(BLOOM_BITS, false);
    blocks.set_format_version(5);
    let mut options = Options::default();
    if table == Table::Records {
        options = options.get_options_from_string(RECORD_PLACES)?;
    }
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(config.memtable_bytes as usize);
    // Larger blocks would count against the memory of all tables while they are empty.
    options.set_arena_block_size(ARENA_BLOCK_BYTES);
    options.set_max_write_buffer_number(3);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    if matches!(table, Table::Streams | Table::Producers) {
        // These are written again and again, and looked up: the last value is enough. They are walked
        // only for streams that nobody writes to any more.
        options.set_inplace_update_support(true);
        options.set_inplace_update_locks(INPLACE_LOCKS);
    }
    if matches!(table, Table::Records | Table::Packed) {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(match table {
            Table::Records => RECORD_BLOB_BYTES_MIN,
            _ => PACKED_BLOB_BYTES_MIN,
        });
        options.set_blob_file_size(BLOB_FILE_BYTES);
        options.set_blob_compression_type(DBCompressionType::Lz4);
        // Without collection a blob is never copied; its file goes when nothing in it is alive.
        // [`Kv::compact`] and [`Kv::collect`] turn collection on while they run.
        options.set_enable_blob_gc(false);
        options.set_blob_gc_age_cutoff(1.0);
    }
    Ok(options)
}

impl Kv for Rocks {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.db.get_cf(self.family(table)?, key)?)
    }

    fn get_cached(&self, table: Table, key: &[u8]) -> Result<Cached, KvError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        match self.db.get_cf_opt(self.family(table)?, key, &options) {
            Ok(value) => Ok(Cached::Known(value)),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Cached::NotInMemory),
            Err(error) => Err(error.into()),
        }
    }

    fn get_at_or_before(&self, table: Table, key: &[u8]) -> Result<Option<Entry>, KvError> {
        let mut entries = self.db.raw_iterator_cf(self.family(table)?);
        entries.seek_for_prev(key);
        entries.status()?;
        Ok(entries
            .item()
            .map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), KvError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(table)?, options);
        entries.seek(from);
        while let Some((key, value)) = entries.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            entries.next();
        }
        Ok(entries.status()?)
    }

    fn write(&self, writes: &[Write]) -> Result<(), KvError> {
        let batch = self.batch(writes)?;
        Ok(self.db.write_opt(batch, &self.writes)?)
    }

    fn is_behind(&self) -> bool {
        let unsorted = |files| files >= UNSORTED_FILES_MAX;
        self.of_tables(FULL_MEMTABLES).any(|full| full > 0)
            || self.of_tables(UNSORTED_FILES).any(unsorted)
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(self.db.flush_wal(true)?)
    }

    fn compact(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError> {
        let family = self.family(table)?;
        // Only what is in files can be compacted.
        self.db.flush_cf(family)?;
        self.db.set_options_cf(family, &[(BLOB_GC, "true")])?;
        self.db.compact_range_cf(family, Some(from), Some(to));
        Ok(self.db.set_options_cf(family, &[(BLOB_GC, "false")])?)
    }

    fn collect(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError> {
        let family = self.family(table)?;
        self.db.flush_cf(family)?;
        // Blob files without anything alive go with it; of the others it is known then how much of
        // them is garbage.
        self.db.compact_range_cf(family, Some(from), Some(to));
        let figure = |name: &str| {
            let value = self.db.property_int_value_cf(family, name).ok().flatten();
            value.unwrap_or(0)
        };
        let garbage = figure("rocksdb.live-blob-file-garbage-size");
        let copied = figure("rocksdb.live-blob-file-size") + figure(SST_BYTES) - garbage;
        if garbage < copied.max(1) {
            return Ok(());
        }
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.set_options_cf(family, &[(BLOB_GC, "true")])?;
        self.db
            .compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
        Ok(self.db.set_options_cf(family, &[(BLOB_GC, "false")])?)
    }
}

impl From<rocksdb::Error> for KvError {
    fn from(error: rocksdb::Error) -> Self {
        Self(error.into_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::time::Duration;

    /// A file that grows is noted by the file system with each sync.
    #[test]
    fn the_log_is_written_where_it_was_written_before() {
        let dir = tempfile::TempDir::new().unwrap();
        let config = LogConfig::default();
        let rocks = Rocks::open(dir.path(), &config).unwrap();
        rocks.prepare_log(&config).unwrap();
        let prepared = prepared_bytes(&config);
        assert!(wal_bytes(dir.path()) >= prepared);
        let value = Bytes::from(vec![0; WAL_FILL_BYTES]);
        for number in 0..3 * prepared / WAL_FILL_BYTES as u64 {
            // A file is used again once what it holds has been flushed.
            while rocks.is_behind() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let key = Bytes::copy_from_slice(&number.to_be_bytes());
            let put = Write::Put(Table::Records, key, value.clone());
            rocks.write(&[put]).unwrap();
            assert!(wal_bytes(dir.path()) >= prepared, "{number}");
        }
    }

    #[test]
    fn a_database_that_is_open_elsewhere_says_so() {
        let dir = tempfile::TempDir::new().unwrap();
        let _open = Rocks::open(dir.path(), &LogConfig::default()).unwrap();
        let refused = Rocks::open(dir.path(), &LogConfig::default())
            .err()
            .unwrap();
        let text = refused.to_string();
        assert!(text.contains("another process has it open"), "{text}");
    }

    #[test]
    fn a_batch_has_room_for_its_writes() {
        let dir = tempfile::TempDir::new().unwrap();
        let rocks = Rocks::open(dir.path(), &LogConfig::default()).unwrap();
        let of = |length| Bytes::from(vec![7; length]);
        for length in [0, 1, 127, 128, 20_000, 1 << 22] {
            let writes = Table::ALL.map(|table| {
                [
                    Write::Put(table, of(length), of(length)),
                    Write::Delete(table, of(length)),
                    Write::DeleteRange(table, of(length), of(length + 1)),
                ]
            });
            let writes = writes.as_flattened();
            let batch = rocks.batch(writes).unwrap();
            assert!(batch.size_in_bytes() <= batch_bytes(writes), "{length}");
        }
    }

    /// The length of the file of the write-ahead log that was begun last.
    fn wal_bytes(dir: &Path) -> u64 {
        let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        let logs = files.filter(|file| file.path().extension().is_some_and(|name| name == "log"));
        let last = logs.max_by_key(std::fs::DirEntry::file_name).unwrap();
        last.metadata().unwrap().len()
    }

    /// RocksDB says nothing where it does not know a figure's name.
    #[test]
    fn how_far_it_is_behind_is_known() {
        let dir = tempfile::TempDir::new().unwrap();
        let rocks = Rocks::open(dir.path(), &LogConfig::default()).unwrap();
        let family = rocks.family(Table::Records).unwrap();
        for name in [FULL_MEMTABLES, UNSORTED_FILES] {
            assert!(rocks.of_tables(name).eq([0; Table::ALL.len()]), "{name}");
        }
        let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
        for table in [Table::Records, Table::Streams] {
            let put = Write::Put(table, key.clone(), value.clone());
            rocks.write(&[put]).unwrap();
        }
        rocks.db.flush_cf(family).unwrap();
        assert_eq!(rocks.of_tables(UNSORTED_FILES).max(), Some(1));
        assert!(!rocks.is_behind());
    }
}
