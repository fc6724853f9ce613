//! Purging: what a deleted stream leaves behind is removed from the disk.

use super::ReadError;
use super::keys::{self, Pending, SegmentHeader, read_position_key};
use super::kv::{Kv, Table, Write};
use crate::types::StreamId;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Entries that are removed one by one; more are removed as a range.
const SINGLE_REMOVALS_MAX: usize = 512;
/// Bytes of values that are read only to remove them.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// The changes that remove all data of a stream, and about how many bytes it has.
pub(super) fn purge(kv: &dyn Kv, id: StreamId) -> Result<(Vec<Write>, u64), ReadError> {
    let mut writes = Vec::new();
    let (from, to) = keys::id_range(id);
    let (from, to) = (Bytes::copy_from_slice(&from), Bytes::copy_from_slice(&to));
    let mut bytes = 0;
    for table in [
        Table::Records,
        Table::Segments,
        Table::Producers,
        Table::Notes,
    ] {
        bytes += remove_range(kv, &mut writes, table, &from, &to)?;
    }
    let done = Pending::Purge { id, source: None };
    writes.push(Write::Delete(Table::Pending, done.key()));
    Ok((writes, bytes))
}

/// Adds the changes that remove the entries of a table from `from` up to `to`, with segments what
/// was packed of them. Returns about how many bytes they stand for.
pub(super) fn remove_range(
    kv: &dyn Kv,
    writes: &mut Vec<Write>,
    table: Table,
    from: &Bytes,
    to: &Bytes,
) -> Result<u64, ReadError> {
    let (mut keys, mut bytes, mut read_bytes) = (Vec::new(), 0, 0);
    let mut many = false;
    kv.scan(table, from, to, &mut |key, value| {
        bytes += data_bytes(table, key, value);
        read_bytes += value.len();
        keys.push(Bytes::copy_from_slice(key));
        many = keys.len() > SINGLE_REMOVALS_MAX || read_bytes > READ_BYTES_MAX;
        if many {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    let mut remove = |table| {
        if many {
            writes.push(Write::DeleteRange(table, from.clone(), to.clone()));
        } else {
            writes.extend(keys.iter().map(|key| Write::Delete(table, key.clone())));
        }
    };
    remove(table);
    if table == Table::Segments {
        // They have the same keys, and are too large to be looked at.
        remove(Table::Packed);
    }
    Ok(bytes)
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
