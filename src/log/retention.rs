//! Retention: what is too old, or too far behind the tail, is trimmed from the beginning of a
//! stream.
//!
//! Only whole sealed segments go. So the open remainder of a stream with retention is sealed early:
//! when it holds a fraction of the bytes that are kept, and as often as a fraction of the age has
//! passed. A stream that forks read from keeps what it has until the last of them is gone.

use super::append::seal_writes;
use super::committer::acknowledged;
use super::keys::{self, Pending, SegmentHeader, TimerKind, position_key, read_position_key};
use super::kv::{Kv, Table, Write};
use super::operation::Operation;
use super::purge::remove_range;
use super::state::StreamState;
use super::stream::Stream;
use super::worker::WorkError;
use super::{Log, ReadError};
use crate::types::{Position, StreamId, StreamPath, UnixMs};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Segments that the bytes which are kept make. Two more are there at the most, one that waits to be
/// trimmed and one that is open, and each may be longer by an append.
const BYTES_PARTS: u64 = 8;
/// How often a stream is looked at while its data ages. Data is sealed at the next look, and goes at
/// the first one at which the seal is too old: at most two looks late.
const AGE_PARTS: u64 = 8;
const INTERVAL_MS_MIN: u64 = 1000;
/// Segments that go in one batch.
const SEGMENTS_MAX: usize = 1000;

impl StreamState {
    /// The size at which the open remainder is sealed; `segment_bytes` without retention.
    pub(super) fn seal_bytes(&self, segment_bytes: u64) -> u64 {
        let kept = self.meta.retention.bytes;
        kept.map_or(segment_bytes, |kept| {
            (kept / BYTES_PARTS).clamp(1, segment_bytes)
        })
    }

    /// How often the stream is looked at, if its data ages.
    fn interval_ms(&self) -> Option<u64> {
        let age_ms = self.meta.retention.age_ms?;
        Some((age_ms / AGE_PARTS).max(INTERVAL_MS_MIN))
    }

    /// Whether data that ends at `end`, and was whole at `since_ms`, need not be kept at `now_ms`.
    fn is_over(&self, end: Position, since_ms: UnixMs, now_ms: UnixMs) -> bool {
        let kept = self.meta.retention;
        kept.bytes.is_some_and(|bytes| self.tail - end >= bytes)
            || (kept.age_ms).is_some_and(|age_ms| since_ms.saturating_add(age_ms) <= now_ms)
    }

    /// Moves the beginning to the end of a segment.
    fn trim_to(&mut self, earliest: Position) {
        self.earliest = earliest;
        if self.last_seal < earliest {
            self.last_seal = self.sealed;
        }
    }
}

/// Sees to the retention of a stream that has grown: sets a timer for data that ages, and asks for
/// trimming if a segment that was just `sealed` makes too many bytes.
pub(super) fn attend(
    stream: &Stream,
    state: &mut StreamState,
    sealed: bool,
    now_ms: UnixMs,
    writes: &mut Vec<Write>,
) -> Option<Pending> {
    set_timer(stream, state, now_ms, writes);
    let kept = state.meta.retention.bytes?;
    let too_many = sealed && state.tail - state.earliest > kept;
    if too_many {
        ask_to_trim(stream, state, writes)
    } else {
        None
    }
}

/// Sets a timer for the next look at a stream whose data ages, unless there is one.
fn set_timer(stream: &Stream, state: &mut StreamState, now_ms: UnixMs, writes: &mut Vec<Write>) {
    if let Some(interval_ms) = state.interval_ms()
        && !state.retaining
        && state.tail > state.earliest
    {
        state.retaining = true;
        let at_ms = now_ms.saturating_add(interval_ms);
        let key = TimerKind::Retention.key(at_ms, state.meta.id);
        let path = Bytes::copy_from_slice(stream.path().key().as_bytes());
        writes.push(Write::Put(Table::Timers, key, path));
    }
}

/// Writes down that a stream is to be trimmed, unless forks keep it as it is.
pub(super) fn ask_to_trim(
    stream: &Stream,
    state: &StreamState,
    writes: &mut Vec<Write>,
) -> Option<Pending> {
    if state.forks > 0 || state.meta.retention.is_unlimited() {
        return None;
    }
    let trim = Pending::Trim {
        id: state.meta.id,
        path: stream.path().clone(),
    };
    writes.push(Write::Put(Table::Pending, trim.key(), trim.value()));
    Some(trim)
}

/// The turn of a stream whose data ages: what is open is sealed, what is too old will be trimmed,
/// and while there is data the stream gets another turn.
pub(super) fn age(
    stream: &Arc<Stream>,
    state: &mut StreamState,
    mut writes: Vec<Write>,
    now_ms: UnixMs,
) -> Operation {
    state.retaining = false;
    let mut work = Vec::new();
    if let Some(seal) = state.seal_open(now_ms) {
        work.extend(seal_writes(state.meta.id, seal, &mut writes));
    }
    if state.tail > state.earliest {
        work.extend(ask_to_trim(stream, state, &mut writes));
    }
    set_timer(stream, state, now_ms, &mut writes);
    Operation::of_state(stream, Some(state.clone()), writes, work)
}

impl Log {
    /// Trims a stream to its retention. Returns how many bytes went.
    pub(super) async fn trim(&self, id: StreamId, path: &StreamPath) -> Result<u64, WorkError> {
        let stream = self.stream(path).await?;
        let mut bytes = 0;
        loop {
            let state = stream.sequenced.lock().state.clone();
            let cut = match state.filter(|state| state.meta.id == id) {
                Some(state) => {
                    let now_ms = self.clock.now_ms();
                    self.blocking(move |kv: &dyn Kv| find_cut(kv, &state, now_ms))
                        .await?
                }
                None => Cut::default(),
            };
            bytes += cut.bytes;
            let more = cut.more;
            self.carry_out(&stream, id, cut).await?;
            if !more {
                return Ok(bytes);
            }
        }
    }

    /// Makes a cut durable, with the data that it removes. Forks that were made meanwhile prevent
    /// it.
    async fn carry_out(
        &self,
        stream: &Arc<Stream>,
        id: StreamId,
        cut: Cut,
    ) -> Result<(), WorkError> {
        let room = self.committer.admit(0).await?;
        let mut ack = {
            let mut sequenced = stream.sequenced.lock();
            let state = sequenced.state.as_mut();
            let state = state.filter(|state| state.meta.id == id && state.forks == 0);
            let operation = match state {
                Some(state) => {
                    let mut writes = cut.removals;
                    // What was sealed meanwhile has asked anew, under the same key.
                    if !cut.more && state.sealed == cut.sealed {
                        writes.push(trimmed(id, stream.path()));
                    }
                    state.trim_to(cut.earliest);
                    Operation::of_state(stream, Some(state.clone()), writes, Vec::new())
                }
                None => Operation::of_writes(vec![trimmed(id, stream.path())]),
            };
            let (ticket, ack) = self.committer.push(operation, Some(room));
            sequenced.ticket = ticket;
            ack
        };
        acknowledged(&mut ack).await?;
        Ok(())
    }

    /// Why data of stream `id` from `at` on is not there: it was trimmed, or all of it is gone.
    pub async fn why_gone(&self, stream: &Stream, id: StreamId, at: Position) -> ReadError {
        let (ticket, earliest) = {
            let sequenced = stream.sequenced.lock();
            let state = sequenced.state.as_ref();
            let state = state.filter(|state| state.meta.id == id);
            (sequenced.ticket, state.map_or(0, |state| state.earliest))
        };
        if at < earliest && self.committer.settled(ticket).await.is_ok() {
            return ReadError::Trimmed { earliest };
        }
        ReadError::Gone
    }
}

fn trimmed(id: StreamId, path: &StreamPath) -> Write {
    let path = path.clone();
    Write::Delete(Table::Pending, Pending::Trim { id, path }.key())
}

/// What trimming takes away.
#[derive(Default)]
struct Cut {
    earliest: Position,
    /// Where the open remainder began.
    sealed: Position,
    removals: Vec<Write>,
    bytes: u64,
    /// Whether there is more to take than fits one batch.
    more: bool,
}

/// Finds the segments that need not be kept, from the beginning on.
fn find_cut(kv: &dyn Kv, state: &StreamState, now_ms: UnixMs) -> Result<Cut, ReadError> {
    let id = state.meta.id;
    let mut cut = Cut {
        earliest: state.earliest,
        sealed: state.sealed,
        ..Cut::default()
    };
    let start = state.meta.start();
    if cut.earliest < start {
        // What a fork inherited goes first and as a whole; its data is the source's.
        if !state.is_over(start, state.meta.created_ms, now_ms) {
            return Ok(cut);
        }
        cut.earliest = start;
    }
    let (segments, more) = segments_that_are_over(kv, state, cut.earliest, now_ms)?;
    cut.more = more;
    for (segment, header) in segments {
        let key = Bytes::copy_from_slice(&position_key(id, segment));
        if header.packed {
            cut.removals.push(Write::Delete(Table::Packed, key.clone()));
        } else {
            let end = Bytes::copy_from_slice(&position_key(id, header.end));
            remove_range(kv, &mut cut.removals, Table::Records, &key, &end)?;
        }
        cut.removals.push(Write::Delete(Table::Segments, key));
        cut.bytes += header.end - segment;
        cut.earliest = header.end;
    }
    Ok(cut)
}

/// The first segments from `from` on that need not be kept, and whether there may be more.
fn segments_that_are_over(
    kv: &dyn Kv,
    state: &StreamState,
    from: Position,
    now_ms: UnixMs,
) -> Result<(Vec<(Position, SegmentHeader)>, bool), ReadError> {
    let id = state.meta.id;
    let mut segments = Vec::new();
    let mut unreadable = None;
    let (first, last) = (position_key(id, from), position_key(id, state.sealed));
    kv.scan(Table::Segments, &first, &last, &mut |key, value| {
        match (read_position_key(key), SegmentHeader::read(value)) {
            (Ok((_, start)), Ok(header))
                if segments.len() < SEGMENTS_MAX
                    && state.is_over(header.end, header.sealed_ms, now_ms) =>
            {
                segments.push((start, header));
                return ControlFlow::Continue(());
            }
            (Ok(_), Ok(_)) => {}
            (Err(error), _) | (_, Err(error)) => unreadable = Some(error),
        }
        ControlFlow::Break(())
    })?;
    let more = segments.len() == SEGMENTS_MAX;
    unreadable.map_or(Ok((segments, more)), |error: keys::Corrupt| {
        Err(error.into())
    })
}
