//! Bringing a stream into memory: its state, and its end if that is short.

use super::keys::{self, Corrupt};
use super::kv::{Cached, Kv, Table};
use super::row::BEHIND_MS_MAX;
use super::state::StreamState;
use super::stream::Stream;
use super::{Log, ReadError, segment};
use crate::hub::Run;
use crate::types::UnixMs;
use bytes::BytesMut;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The longest end of a stream that comes into memory with it. Most streams are read when they are
/// loaded, and of a small one that is all, in the blocks that tell its state or next to them.
pub(super) const END_BYTES_MAX: u64 = 16 * 1024;

/// What a stream is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its state is all that is asked for.
    State,
    /// Its end is wanted too, if it is short.
    Read,
}

/// What the store says of a stream.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) state: StreamState,
    /// The appends up to the tail, if they are few.
    pub(super) end: Option<Run>,
}

impl Log {
    /// Loads an entry, once.
    pub(super) async fn load(&self, stream: &Stream, purpose: Purpose) -> Result<(), ReadError> {
        let load = || async {
            let key = stream.path().key().as_bytes();
            let loaded = match self.load_cached(key)? {
                Known::Loaded(loaded) => loaded,
                Known::InPart => {
                    let (key, now_ms) = (key.to_vec(), self.clock.now_ms());
                    let read = move |kv: &dyn Kv| read(kv, &key, purpose, now_ms);
                    self.loader.run(read).await?
                }
            };
            let (state, end) = loaded.map(|loaded| (loaded.state, loaded.end)).unzip();
            stream.load(state, end.flatten());
            Ok(())
        };
        stream.loaded.get_or_try_init(load).await.copied()
    }

    /// What is known of a stream without waiting for the disk.
    fn load_cached(&self, key: &[u8]) -> Result<Known, ReadError> {
        let value = match self.kv.get_cached(Table::Streams, key)? {
            Cached::Known(Some(value)) => value,
            Cached::Known(None) => return Ok(Known::Loaded(None)),
            Cached::NotInMemory => return Ok(Known::InPart),
        };
        let state = keys::read_state(&value)?;
        let next = keys::position_key(state.meta.id, state.tail);
        let whole = state.meta.note.is_none()
            // A closed stream grows no more.
            && (state.closed || self.kv.get_cached(Table::Records, &next)? == Cached::Known(None));
        Ok(if whole {
            Known::Loaded(Some(Loaded { state, end: None }))
        } else {
            Known::InPart
        })
    }
}

enum Known {
    Loaded(Option<Loaded>),
    /// The rest is on disk.
    InPart,
}

/// Reads a stream from the store; `None` if there is none with this key.
pub(super) fn read(
    kv: &dyn Kv,
    key: &[u8],
    purpose: Purpose,
    now_ms: UnixMs,
) -> Result<Option<Loaded>, ReadError> {
    let Some(value) = kv.get(Table::Streams, key)? else {
        return Ok(None);
    };
    let mut state = keys::read_state(&value)?;
    if state.meta.note.is_some() {
        let note = kv.get(Table::Notes, &keys::note_key(state.meta.id))?;
        let note = note.ok_or(Corrupt("note"))?;
        Arc::make_mut(&mut state.meta).note = Some(note.into());
    }
    let end = match (state.closed, purpose) {
        // A closed stream grows no more.
        (true, Purpose::State) => None,
        (true, Purpose::Read) => read_closed(kv, &state),
        (false, purpose) => read_open(kv, &mut state, purpose, now_ms)?,
    };
    Ok(Some(Loaded { state, end }))
}

/// The end of a closed stream, if it is short. Who asks for it is told why it cannot be read.
fn read_closed(kv: &dyn Kv, state: &StreamState) -> Option<Run> {
    let (id, tail) = (state.meta.id, state.tail);
    let open = state.sealed < tail;
    let begin = if open { state.sealed } else { state.last_seal };
    if begin == tail || tail - begin > END_BYTES_MAX {
        return None;
    }
    if open {
        segment::records(kv, id, begin, tail, u64::MAX).ok()?
    } else {
        Some(segment::read(kv, id, begin).ok()?.run)
    }
}

/// Adds all records behind the row of a state to it. Gives the open remainder, if that is wanted and
/// short.
pub(super) fn read_open(
    kv: &dyn Kv,
    state: &mut StreamState,
    purpose: Purpose,
    now_ms: UnixMs,
) -> Result<Option<Run>, ReadError> {
    let known = state.tail;
    let open = state.sealed.max(state.earliest);
    let with_end = purpose == Purpose::Read && known - open <= END_BYTES_MAX;
    if !with_end && !is_behind(kv, state)? {
        return Ok(None);
    }
    let mut end = with_end.then(BytesMut::new);
    let first = if with_end { open } else { known };
    let from = keys::position_key(state.meta.id, first);
    let (_, to) = keys::id_range(state.meta.id);
    let mut read = Ok(());
    kv.scan(Table::Records, &from, &to, &mut |key, frames| {
        end = end.take().and_then(|end| joined(end, frames));
        read = keys::read_position_key(key).and_then(|(_, start)| {
            if start < known {
                return Ok(());
            }
            state.take_record(start, frames)
        });
        match read {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    read?;
    if state.tail > known {
        // Some time in it was the last append.
        let latest_ms = state.row.last_used_ms.saturating_add(BEHIND_MS_MAX);
        state.last_used_ms = latest_ms.min(now_ms).max(state.last_used_ms);
    }
    Ok(end.map(|end| Run {
        start: open,
        frames: end.freeze(),
    }))
}

/// Whether there are records behind a row. Mostly a filter in memory tells that there are none.
fn is_behind(kv: &dyn Kv, state: &StreamState) -> Result<bool, ReadError> {
    let next = keys::position_key(state.meta.id, state.tail);
    Ok(kv.get(Table::Records, &next)?.is_some())
}

/// The next record behind those that were read, unless they become too long.
fn joined(mut end: BytesMut, frames: &[u8]) -> Option<BytesMut> {
    end.extend_from_slice(frames);
    (end.len() as u64 <= END_BYTES_MAX).then_some(end)
}
