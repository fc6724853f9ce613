//! Sealed segments: pieces of a stream that will never change, joined in memory when they are read.

use super::keys::{self, Corrupt, SegmentHeader};
use super::kv::{Kv, Table};
use super::{Log, ReadError};
use crate::frame;
use crate::hub::Run;
use crate::types::{Position, StreamId};
use bytes::{Bytes, BytesMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Segments that were read lately, by id and start.
pub(super) type Segments = Cache<(StreamId, Position), Arc<Segment>, Weight>;

/// A sealed segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) run: Run,
}

#[derive(Clone)]
pub(super) struct Weight;

impl Weighter<(StreamId, Position), Arc<Segment>> for Weight {
    fn weight(&self, _: &(StreamId, Position), segment: &Arc<Segment>) -> u64 {
        segment.run.frames.len() as u64 + 128
    }
}

/// A cache of segments with at most `bytes_max` bytes.
pub(super) fn cache(bytes_max: u64) -> Segments {
    // An estimate of how many there will be: it only sizes the tables.
    let count = (bytes_max / (64 * 1024)).clamp(16, 100_000) as usize;
    Cache::with_weighter(count, bytes_max, Weight)
}

/// How often a read tries again when a segment is packed or purged under it.
const TRIES: usize = 3;

/// The bounds of the sealed segment that holds `at`, without its data; `None` if `at` lies behind
/// the sealed part.
pub(super) fn bounds(
    kv: &dyn Kv,
    id: StreamId,
    at: Position,
) -> Result<Option<(Position, Position)>, ReadError> {
    let key = keys::position_key(id, at);
    let Some((key, value)) = kv.get_at_or_before(Table::Segments, &key)? else {
        return Ok(None);
    };
    let (found, start) = keys::read_position_key(&key)?;
    let end = SegmentHeader::read(&value)?.end;
    Ok((found == id && at < end).then_some((start, end)))
}

/// Reads a segment, packed or, while it waits to be packed, from its records.
pub(super) fn read(kv: &dyn Kv, id: StreamId, start: Position) -> Result<Segment, ReadError> {
    let key = keys::position_key(id, start);
    for _ in 0..TRIES {
        let Some(value) = kv.get(Table::Segments, &key)? else {
            return Err(ReadError::Gone);
        };
        let header = SegmentHeader::read(&value)?;
        let frames = if header.packed {
            kv.get(Table::Packed, &key)?.map(Bytes::from)
        } else {
            records(kv, id, start, header.end, u64::MAX)?.map(|run| run.frames)
        };
        match frames {
            Some(frames) if start + frames.len() as u64 == header.end => {
                return Ok(Segment {
                    run: Run { start, frames },
                });
            }
            Some(_) if header.packed => return Err(Corrupt("segment").into()),
            // Packed or purged between the two reads.
            _ => {}
        }
    }
    Err(Corrupt("segment").into())
}

/// Joins the appends from the one that holds `at` up to `end`, which is the end of one, until they
/// have `bytes_max` bytes. `None` if a record is missing.
pub(super) fn records(
    kv: &dyn Kv,
    id: StreamId,
    at: Position,
    end: Position,
    bytes_max: u64,
) -> Result<Option<Run>, ReadError> {
    let Some((key, _)) = kv.get_at_or_before(Table::Records, &keys::position_key(id, at))? else {
        return Ok(None);
    };
    let (found, start) = keys::read_position_key(&key)?;
    if found != id {
        return Ok(None);
    }
    let bytes = end.saturating_sub(start).min(bytes_max);
    let mut frames = BytesMut::with_capacity(bytes as usize);
    let mut broken = false;
    let last = keys::position_key(id, end);
    kv.scan(Table::Records, &key, &last, &mut |key, value| {
        let next = start + frames.len() as u64;
        broken = keys::read_position_key(key) != Ok((id, next));
        if broken || (!frames.is_empty() && frames.len() as u64 >= bytes_max) {
            return ControlFlow::Break(());
        }
        frames.extend_from_slice(value);
        ControlFlow::Continue(())
    })?;
    let run = Run {
        start,
        frames: frames.freeze(),
    };
    let complete = run.end() >= end || run.frames.len() as u64 >= bytes_max;
    // A record may hold appends before the one that is asked for, and behind the last one.
    let run = piece(&cut(run, end), at, u64::MAX);
    Ok((!broken && run.end() > at && complete).then_some(run))
}

/// Drops what lies behind `to`, which is the beginning of an append.
pub(super) fn cut(mut run: Run, to: Position) -> Run {
    if run.end() > to {
        run.frames.truncate((to - run.start) as usize);
    }
    run
}

impl Log {
    /// A segment, from the cache or the store.
    pub(super) async fn segment(
        &self,
        id: StreamId,
        start: Position,
    ) -> Result<Arc<Segment>, ReadError> {
        if let Some(segment) = self.segments.get(&(id, start)) {
            return Ok(segment);
        }
        let segment = self
            .blocking(move |kv: &dyn Kv| read(kv, id, start).map(Arc::new))
            .await?;
        self.segments.insert((id, start), segment.clone());
        Ok(segment)
    }
}

/// The part of a run from the append that holds `at` on, whole appends, about `bytes_max` bytes.
pub(super) fn piece(run: &Run, at: Position, bytes_max: u64) -> Run {
    if at <= run.start && run.frames.len() as u64 <= bytes_max {
        return run.clone();
    }
    let begin = frame::append_start(&run.frames, (at.saturating_sub(run.start)) as usize);
    let mut end = begin;
    for frame in frame::Frames::new(&run.frames, begin) {
        if frame.ends_append {
            end = frame.end;
            if (end - begin) as u64 >= bytes_max {
                break;
            }
        }
    }
    Run {
        start: run.start + begin as u64,
        frames: run.frames.slice(begin..end),
    }
}
