//! Purging: what a deleted stream leaves behind is removed from the disk.

use super::ReadError;
use super::keys::{self, Pending};
use super::kv::{Kv, Table, Write};
use crate::types::StreamId;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Entries that are removed one by one; more are removed as a range.
const SINGLE_REMOVALS_MAX: usize = 512;

/// The changes that remove all data of a stream, and about how many bytes it has.
pub(super) fn purge(kv: &dyn Kv, id: StreamId) -> Result<(Vec<Write>, u64), ReadError> {
    let mut writes = Vec::new();
    let mut bytes = 0;
    for table in [Table::Records, Table::Segments, Table::Producers] {
        let (from, to) = keys::id_range(id);
        let mut keys = Vec::new();
        kv.scan(table, &from, &to, &mut |key, value| {
            bytes += value.len() as u64;
            keys.push(Bytes::copy_from_slice(key));
            if keys.len() > SINGLE_REMOVALS_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if keys.len() > SINGLE_REMOVALS_MAX {
            let (from, to) = (Bytes::copy_from_slice(&from), Bytes::copy_from_slice(&to));
            writes.push(Write::DeleteRange(table, from, to));
        } else {
            writes.extend(keys.into_iter().map(|key| Write::Delete(table, key)));
        }
    }
    let done = Pending::Purge { id, source: None };
    writes.push(Write::Delete(Table::Pending, done.key()));
    Ok((writes, bytes))
}
