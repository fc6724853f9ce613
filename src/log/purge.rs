//! Purging: what a deleted stream leaves behind is removed from the disk.

use super::ReadError;
use super::keys::{self, Pending, SegmentHeader, read_position_key};
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
    let (from, to) = keys::id_range(id);
    for table in [
        Table::Records,
        Table::Segments,
        Table::Producers,
        Table::Notes,
    ] {
        let mut keys = Vec::new();
        kv.scan(table, &from, &to, &mut |key, value| {
            bytes += data_bytes(table, key, value);
            keys.push(Bytes::copy_from_slice(key));
            if keys.len() > SINGLE_REMOVALS_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if table == Table::Segments {
            // They have the same keys, and are too large to be looked at.
            remove(&mut writes, Table::Packed, id, keys.clone());
        }
        remove(&mut writes, table, id, keys);
    }
    let done = Pending::Purge { id, source: None };
    writes.push(Write::Delete(Table::Pending, done.key()));
    Ok((writes, bytes))
}

/// How much data an entry stands for.
fn data_bytes(table: Table, key: &[u8], value: &[u8]) -> u64 {
    if table == Table::Segments
        && let (Ok((_, start)), Ok(header)) = (read_position_key(key), SegmentHeader::read(value))
    {
        return header.end.saturating_sub(start);
    }
    value.len() as u64
}

/// Removes the first entries of a stream in a table; all of them, if they are too many.
fn remove(writes: &mut Vec<Write>, table: Table, id: StreamId, keys: Vec<Bytes>) {
    if keys.len() > SINGLE_REMOVALS_MAX {
        let (from, to) = keys::id_range(id);
        let (from, to) = (Bytes::copy_from_slice(&from), Bytes::copy_from_slice(&to));
        writes.push(Write::DeleteRange(table, from, to));
    } else {
        writes.extend(keys.into_iter().map(|key| Write::Delete(table, key)));
    }
}
