//! Packing: the records of a sealed segment become one value.
//!
//! What readers get does not change by it.

use super::keys::{Pending, SegmentHeader, position_key};
use super::kv::{Kv, Table, Write};
use super::{ReadError, segment};
use crate::frame::Frames;
use crate::types::{Position, StreamId};
use bytes::Bytes;

/// The changes that pack one segment; none if it is packed already, or its stream purged.
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
    if header.packed {
        return Ok(writes);
    }
    let run = segment::read(kv, id, start)?.run;
    let header = SegmentHeader {
        packed: true,
        ..header
    };
    let key = Bytes::copy_from_slice(&key);
    writes.push(Write::Put(Table::Segments, key.clone(), header.write()));
    writes.push(Write::Put(Table::Packed, key, run.frames.clone()));
    writes.extend(remove_records(id, start, end, &run.frames));
    Ok(writes)
}

/// Few records are removed one by one: a removed range costs every later look-up near it a little.
const SINGLE_REMOVALS_MAX: usize = 512;

fn remove_records(id: StreamId, start: Position, end: Position, frames: &[u8]) -> Vec<Write> {
    let mut next = start;
    let keys: Vec<Bytes> = Frames::new(frames, 0)
        .filter(|frame| frame.ends_append)
        .map(|frame| {
            let key = position_key(id, next);
            next = start + frame.end as u64;
            Bytes::copy_from_slice(&key)
        })
        .take(SINGLE_REMOVALS_MAX + 1)
        .collect();
    if keys.len() <= SINGLE_REMOVALS_MAX {
        keys.into_iter()
            .map(|key| Write::Delete(Table::Records, key))
            .collect()
    } else {
        let from = Bytes::copy_from_slice(&position_key(id, start));
        let to = Bytes::copy_from_slice(&position_key(id, end));
        vec![Write::DeleteRange(Table::Records, from, to)]
    }
}
