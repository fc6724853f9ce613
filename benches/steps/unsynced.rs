//! A store whose syncs take no time.

use headwater::log::kv::{Cached, Entry, Kv, KvError, Table, Visit, Write};
use headwater::log::rocks::Rocks;

/// RocksDB without syncs.
pub(super) struct Unsynced(pub(super) Rocks);

impl Kv for Unsynced {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(table, key)
    }

    fn get_cached(&self, table: Table, key: &[u8]) -> Result<Cached, KvError> {
        self.0.get_cached(table, key)
    }

    fn get_at_or_before(&self, table: Table, key: &[u8]) -> Result<Option<Entry>, KvError> {
        self.0.get_at_or_before(table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), KvError> {
        self.0.scan(table, from, to, visit)
    }

    fn write(&self, writes: &[Write]) -> Result<(), KvError> {
        self.0.write(writes)
    }

    fn is_behind(&self) -> bool {
        self.0.is_behind()
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }

    fn compact(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError> {
        self.0.compact(table, from, to)
    }

    fn collect(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), KvError> {
        self.0.collect(table, from, to)
    }
}
