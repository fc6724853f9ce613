//! The one table of keys, and how keys and values are written.
//!
//! | table     | key                          | value                                        |
//! |-----------|------------------------------|----------------------------------------------|
//! | meta      | `format`                     | format version, u32                          |
//! | meta      | `ids`                        | stream ids below this may be in use, u64     |
//! | meta      | `secret`                     | 32 random bytes of this database             |
//! | meta      | `database`                   | 4 random bytes that name this database       |
//! | streams   | namespace NUL path           | [`StreamState`]; [records](super::row) go on |
//! | records   | id, start                    | the frames of appends, in one segment        |
//! | segments  | id, start                    | [`SegmentHeader`]                            |
//! | packed    | id, start                    | the frames of a packed segment               |
//! | producers | id, producer id              | epoch, last seq                              |
//! | notes     | id                           | what the creator keeps with the stream       |
//! | timers    | deadline in ms, id           | stream key: it may have expired then         |
//! | timers    | time in ms, id, `r`          | stream key: look at its retention then       |
//! | pending   | `p`, id, start               | pack this segment: end                       |
//! | pending   | `d`, id                      | purge this stream: source id and key, if any |
//! | pending   | `t`, id                      | trim this stream: stream key                 |
//! | pending   | `u`, id                      | this stream is being recorded: stream key    |
//!
//! Numbers in keys are big endian, so that they sort. Numbers in values are LEB128, but for fixed
//! headers. Every state begins with its own version.

use super::codec::{In, Out};
use super::state::{ProducerState, Row, StreamState};
use crate::types::{
    ForkMeta, Kind, Lifetime, Outcome, Position, ProducerStamp, Retention, Span, StreamEnd,
    StreamId, StreamMeta, StreamPath, UnixMs,
};
use bytes::Bytes;
use std::sync::Arc;
use thiserror::Error;

/// The version of this layout. In the first one no row of a state lay behind its records.
pub const FORMAT: u32 = 2;
pub const FORMAT_KEY: &[u8] = b"format";
pub const IDS_KEY: &[u8] = b"ids";
pub const SECRET_KEY: &[u8] = b"secret";
pub const DATABASE_KEY: &[u8] = b"database";

/// The version in which states are written; those of earlier versions are read as well.
const STATE_VERSION: u8 = 2;

/// A value that is not what its table says.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a stored {0} cannot be read")]
pub struct Corrupt(pub &'static str);

/// (id, start): keys of records and segments.
pub fn position_key(id: StreamId, start: Position) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.to_be_bytes());
    key[8..].copy_from_slice(&start.to_be_bytes());
    key
}

pub fn read_position_key(key: &[u8]) -> Result<(StreamId, Position), Corrupt> {
    let (id, start) = key.split_at_checked(8).ok_or(Corrupt("position key"))?;
    Ok((be_u64(id)?, be_u64(start)?))
}

/// (id, producer id).
pub fn producer_key(id: StreamId, producer: &str) -> Bytes {
    [&id.to_be_bytes(), producer.as_bytes()].concat().into()
}

/// The keys of all entries of a stream in a table that is keyed by id first.
pub fn id_range(id: StreamId) -> ([u8; 8], [u8; 8]) {
    (id.to_be_bytes(), (id + 1).to_be_bytes())
}

/// The key of a stream's note.
pub fn note_key(id: StreamId) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// The stream may have expired.
    Expiry,
    /// Data of the stream may be too old.
    Retention,
}

impl TimerKind {
    /// The key of a timer of this kind.
    pub fn key(self, at_ms: UnixMs, id: StreamId) -> Bytes {
        let kind: &[u8] = match self {
            Self::Expiry => b"",
            Self::Retention => b"r",
        };
        [&timers_until(at_ms), &id.to_be_bytes()[..], kind]
            .concat()
            .into()
    }
}

/// The keys of all timers before `at_ms` are below this one.
pub fn timers_until(at_ms: UnixMs) -> [u8; 8] {
    at_ms.to_be_bytes()
}

pub fn read_timer_key(key: &[u8]) -> Result<(UnixMs, StreamId, TimerKind), Corrupt> {
    let (key, kind) = key.split_at_checked(16).ok_or(Corrupt("timer"))?;
    let (at_ms, id) = read_position_key(key)?;
    match kind {
        b"" => Ok((at_ms, id, TimerKind::Expiry)),
        b"r" => Ok((at_ms, id, TimerKind::Retention)),
        _ => Err(Corrupt("timer")),
    }
}

fn be_u64(bytes: &[u8]) -> Result<u64, Corrupt> {
    Ok(u64::from_be_bytes(
        bytes.try_into().map_err(|_| Corrupt("number"))?,
    ))
}

/// Work that outlives a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Join the records of a sealed segment.
    Pack {
        id: StreamId,
        start: Position,
        end: Position,
    },
    /// Remove what is left of a deleted stream, then let go of its source.
    Purge {
        id: StreamId,
        source: Option<(StreamId, StreamPath)>,
    },
    /// Remove what the stream need not keep.
    Trim { id: StreamId, path: StreamPath },
    /// Close a stream whose recording did not end. Nothing works on it but the recorder.
    Finish { id: StreamId, path: StreamPath },
}

impl Pending {
    /// The stream that the work is about.
    pub fn id(&self) -> StreamId {
        match self {
            Self::Pack { id, .. }
            | Self::Purge { id, .. }
            | Self::Trim { id, .. }
            | Self::Finish { id, .. } => *id,
        }
    }

    pub fn key(&self) -> Bytes {
        match self {
            Self::Pack { id, start, .. } => [&b"p"[..], &position_key(*id, *start)].concat().into(),
            Self::Purge { id, .. } => id_key(b'd', *id),
            Self::Trim { id, .. } => id_key(b't', *id),
            Self::Finish { id, .. } => id_key(b'u', *id),
        }
    }

    pub fn value(&self) -> Bytes {
        let mut out = Out::default();
        match self {
            Self::Pack { end, .. } => out.number(*end),
            Self::Purge { source, .. } => out.option(source.as_ref(), |out, (id, path)| {
                out.number(*id);
                out.text(path.key());
            }),
            Self::Trim { path, .. } | Self::Finish { path, .. } => out.text(path.key()),
        }
        out.finish()
    }

    pub fn read(key: &[u8], value: &[u8]) -> Result<Self, Corrupt> {
        let mut input = In::new(value, "pending work");
        match key.split_first() {
            Some((b'p', rest)) => {
                let (id, start) = read_position_key(rest)?;
                let end = input.number()?;
                Ok(Self::Pack { id, start, end })
            }
            Some((b'd', rest)) => {
                let id = be_u64(rest)?;
                let source = input.option(|input| Ok((input.number()?, input.path()?)))?;
                Ok(Self::Purge { id, source })
            }
            Some((b't', rest)) => Ok(Self::Trim {
                id: be_u64(rest)?,
                path: input.path()?,
            }),
            Some((b'u', rest)) => Ok(Self::Finish {
                id: be_u64(rest)?,
                path: input.path()?,
            }),
            _ => Err(Corrupt("pending work")),
        }
    }
}

/// The key of work that a stream has once.
fn id_key(kind: u8, id: StreamId) -> Bytes {
    [&[kind][..], &id.to_be_bytes()].concat().into()
}

/// How a segment lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub end: Position,
    /// When it was sealed; 0 if that was before this was written down.
    pub sealed_ms: UnixMs,
    /// Whether the frames are one value; otherwise they still are records.
    pub packed: bool,
}

impl SegmentHeader {
    pub fn write(self) -> Bytes {
        let packed = [u8::from(self.packed)];
        let numbers = [self.end.to_be_bytes(), self.sealed_ms.to_be_bytes()];
        [&packed[..], &numbers.concat()].concat().into()
    }

    pub fn read(value: &[u8]) -> Result<Self, Corrupt> {
        let (packed, numbers) = value.split_first().ok_or(Corrupt("segment"))?;
        let (end, sealed_ms) = numbers.split_at_checked(8).ok_or(Corrupt("segment"))?;
        Ok(Self {
            packed: *packed == 1,
            end: be_u64(end)?,
            sealed_ms: match sealed_ms {
                [] => 0,
                sealed_ms => be_u64(sealed_ms)?,
            },
        })
    }
}

pub fn write_producer(state: ProducerState) -> Bytes {
    let mut out = Out::default();
    out.number(state.epoch);
    out.number(state.last_seq);
    out.finish()
}

pub fn read_producer(value: &[u8]) -> Result<ProducerState, Corrupt> {
    let mut input = In::new(value, "producer");
    Ok(ProducerState {
        epoch: input.number()?,
        last_seq: input.number()?,
    })
}

pub fn write_state(state: &StreamState) -> Bytes {
    let mut out = Out::default();
    out.byte(STATE_VERSION);
    write_meta(&mut out, &state.meta);
    out.number(state.earliest);
    out.number(state.tail);
    out.number(state.sealed);
    out.number(state.last_seal);
    out.number(u64::from(state.open_appends));
    out.flag(state.closed);
    out.option(state.closed_by.as_ref(), |out, stamp| {
        out.text(&stamp.id);
        out.number(stamp.epoch);
        out.number(stamp.seq);
    });
    out.option(state.end.as_ref(), |out, end| {
        out.byte(match end.outcome {
            Outcome::Completed => 0,
            Outcome::Aborted => 1,
            Outcome::Failed => 2,
        });
        out.option(end.reason.as_ref(), |out, reason| out.text(reason));
    });
    out.flag(state.unfinished);
    out.flag(state.retaining);
    out.option(state.stream_seq.as_ref(), |out, seq| out.text(seq));
    out.number(u64::from(state.forks));
    out.flag(state.deleted);
    out.number(u64::from(state.producers));
    out.number(state.last_used_ms);
    out.finish()
}

fn write_meta(out: &mut Out, meta: &StreamMeta) {
    out.number(meta.id);
    out.text(&meta.content_type);
    match meta.lifetime {
        Lifetime::Unlimited => out.byte(0),
        Lifetime::Ttl { seconds } => {
            out.byte(1);
            out.number(seconds);
        }
        Lifetime::Until { at_ms } => {
            out.byte(2);
            out.number(at_ms);
        }
    }
    out.option(meta.retention.bytes, Out::number);
    out.option(meta.retention.age_ms, Out::number);
    out.flag(meta.retention_by_route);
    out.flag(meta.note.is_some());
    out.number(meta.created_ms);
    out.option(meta.fork.as_ref(), |out, fork| {
        out.text(fork.source.key());
        out.number(fork.source_id);
        out.number(fork.sub_offset);
        out.flag(fork.lifetime_inherited);
        out.number(fork.offset);
        out.number(fork.spans.len() as u64);
        for span in &fork.spans {
            out.number(span.id);
            out.number(span.end);
        }
    });
}

/// Reads a state of any version. A note comes back empty: it has a table of its own, so that it is
/// not written again with every append.
pub fn read_state(value: &[u8]) -> Result<StreamState, Corrupt> {
    let mut input = In::new(value, "stream state");
    input.version = input.byte()?;
    if !(1..=STATE_VERSION).contains(&input.version) {
        return Err(input.corrupt());
    }
    let meta = read_meta(&mut input)?;
    let mut state = StreamState {
        meta: Arc::new(meta),
        earliest: input.since(2, In::number)?,
        tail: input.number()?,
        sealed: input.number()?,
        last_seal: input.number()?,
        open_appends: input.number()? as u32,
        closed: input.flag()?,
        closed_by: input.option(|input| {
            Ok(ProducerStamp {
                id: input.text()?.into(),
                epoch: input.number()?,
                seq: input.number()?,
            })
        })?,
        end: input.since(2, |input| input.option(read_end))?,
        unfinished: input.since(2, In::flag)?,
        retaining: input.since(2, In::flag)?,
        stream_seq: input.option(|input| Ok(input.text()?.into()))?,
        forks: input.number()? as u32,
        deleted: input.flag()?,
        producers: input.number()? as u32,
        last_used_ms: input.number()?,
        row: Row::default(),
    };
    state.row = Row::of(&state);
    Ok(state)
}

fn read_meta(input: &mut In<'_>) -> Result<StreamMeta, Corrupt> {
    let id = input.number()?;
    let content_type: Arc<str> = input.text()?.into();
    let lifetime = match input.byte()? {
        0 => Lifetime::Unlimited,
        1 => Lifetime::Ttl {
            seconds: input.number()?,
        },
        2 => Lifetime::Until {
            at_ms: input.number()?,
        },
        _ => return Err(input.corrupt()),
    };
    let retention = Retention {
        bytes: input.since(2, |input| input.option(In::number))?,
        age_ms: input.since(2, |input| input.option(In::number))?,
    };
    Ok(StreamMeta {
        id,
        kind: Kind::of(&content_type),
        content_type,
        lifetime,
        retention,
        retention_by_route: input.since(2, In::flag)?,
        note: input.since(2, In::flag)?.then(Bytes::new),
        created_ms: input.number()?,
        fork: input.option(read_fork)?,
    })
}

fn read_end(input: &mut In<'_>) -> Result<Arc<StreamEnd>, Corrupt> {
    let outcome = match input.byte()? {
        0 => Outcome::Completed,
        1 => Outcome::Aborted,
        2 => Outcome::Failed,
        _ => return Err(input.corrupt()),
    };
    Ok(Arc::new(StreamEnd {
        outcome,
        reason: input.option(|input| Ok(input.text()?.into()))?,
    }))
}

fn read_fork(input: &mut In<'_>) -> Result<ForkMeta, Corrupt> {
    Ok(ForkMeta {
        source: input.path()?,
        source_id: input.number()?,
        sub_offset: input.number()?,
        lifetime_inherited: input.flag()?,
        offset: input.number()?,
        spans: (0..input.number()?)
            .map(|_| {
                Ok(Span {
                    id: input.number()?,
                    end: input.number()?,
                })
            })
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
