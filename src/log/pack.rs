//! Packing: the records of a sealed segment become one value, where they are small.
//!
//! What readers get does not change by it.

use super::keys::{Pending, SegmentHeader, position_key};
use super::kv::{Kv, Table, Write};
use super::purge::remove_range;
use super::{ReadError, segment};
use crate::types::{Position, StreamId};
use bytes::Bytes;
use std::ops::ControlFlow;

/// Records that are this large in the mean stay: reading them takes no longer than reading one
/// value, and packing would write all of it once more.
pub(super) const RECORD_BYTES_LARGE: u64 = 4 * 1024;

/// The changes that pack one segment; only its end as work, if its records are large, if it is
/// packed already, or its stream purged.
pub(super) fn pack(
    kv: &dyn Kv,
    id: StreamId,
    start: Position,
    end: Position,
) -> Result<Vec<Write>, ReadError> {
    let done = Pending::Pack { id, start, end };
    let mut writes = vec![Write::Delete(Table::Pending, done.key())];
    let key = position_key(id, start);
    // None: its stream was purged, or the segment trimmed.
    let header = match kv.get(Table::Segments, &key)? {
        Some(value) => SegmentHeader::read(&value)?,
        None => return Ok(writes),
    };
    if header.packed || has_large_records(kv, id, start, end)? {
        return Ok(writes);
    }
    let run = segment::read(kv, id, start)?.run;
    let header = SegmentHeader {
        packed: true,
        ..header
    };
    let key = Bytes::copy_from_slice(&key);
    writes.push(Write::Put(Table::Segments, key.clone(), header.write()));
    writes.push(Write::Put(Table::Packed, key.clone(), run.frames));
    let end = Bytes::copy_from_slice(&position_key(id, end));
    remove_range(kv, &mut writes, Table::Records, &key, &end)?;
    Ok(writes)
}

/// Whether a range has so few records that they are large.
fn has_large_records(
    kv: &dyn Kv,
    id: StreamId,
    start: Position,
    end: Position,
) -> Result<bool, ReadError> {
    let (first, last) = (position_key(id, start), position_key(id, end));
    let records_max = (end - start) / RECORD_BYTES_LARGE;
    let mut records = 0;
    kv.scan(Table::Records, &first, &last, &mut |_, _| {
        records += 1;
        if records > records_max {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(records <= records_max)
}
