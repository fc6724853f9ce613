//! The one table of keys, and how keys and values are written.
//!
//! | table     | key                          | value                                        |
//! |-----------|------------------------------|----------------------------------------------|
//! | meta      | `format`                     | format version, u32                          |
//! | meta      | `ids`                        | stream ids below this may be in use, u64     |
//! | streams   | namespace NUL path           | [`StreamState`]                              |
//! | records   | id, start                    | the frames of one append                     |
//! | segments  | id, start                    | [`SegmentHeader`]                            |
//! | packed    | id, start                    | the frames of a packed segment               |
//! | producers | id, producer id              | epoch, last seq                              |
//! | timers    | deadline in ms, id           | stream key                                   |
//! | pending   | `p`, id, start               | pack this segment: end                       |
//! | pending   | `d`, id                      | purge this stream: source id and key, if any |
//!
//! Numbers in keys are big endian, so that they sort. Numbers in values are LEB128, but for fixed
//! headers. Every state begins with its own version.

use super::state::{ProducerState, StreamState};
use crate::types::{
    ForkMeta, Kind, Lifetime, Position, ProducerStamp, Span, StreamId, StreamMeta, StreamPath,
    UnixMs,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use thiserror::Error;

/// The version of this layout.
pub const FORMAT: u32 = 1;
pub const FORMAT_KEY: &[u8] = b"format";
pub const IDS_KEY: &[u8] = b"ids";

const STATE_VERSION: u8 = 1;

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

/// (deadline, id): keys of timers.
pub fn timer_key(deadline_ms: UnixMs, id: StreamId) -> [u8; 16] {
    position_key(deadline_ms, id)
}

pub fn read_timer_key(key: &[u8]) -> Result<(UnixMs, StreamId), Corrupt> {
    read_position_key(key)
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
}

impl Pending {
    pub fn key(&self) -> Bytes {
        match self {
            Self::Pack { id, start, .. } => [&b"p"[..], &position_key(*id, *start)].concat().into(),
            Self::Purge { id, .. } => [&b"d"[..], &id.to_be_bytes()].concat().into(),
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
            _ => Err(Corrupt("pending work")),
        }
    }
}

/// How a segment lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub end: Position,
    /// Whether the frames are one value; otherwise they still are records.
    pub packed: bool,
}

impl SegmentHeader {
    pub const BYTES: usize = 9;

    pub fn write(self) -> [u8; Self::BYTES] {
        let mut bytes = [u8::from(self.packed); Self::BYTES];
        bytes[1..].copy_from_slice(&self.end.to_be_bytes());
        bytes
    }

    pub fn read(value: &[u8]) -> Result<Self, Corrupt> {
        match value.split_first() {
            Some((packed, end)) if end.len() == 8 => Ok(Self {
                packed: *packed == 1,
                end: be_u64(end)?,
            }),
            _ => Err(Corrupt("segment")),
        }
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
    out.0.put_u8(STATE_VERSION);
    write_meta(&mut out, &state.meta);
    out.number(state.tail);
    out.number(state.sealed);
    out.number(state.last_seal);
    out.number(u64::from(state.open_records));
    out.flag(state.closed);
    out.option(state.closed_by.as_ref(), |out, stamp| {
        out.text(&stamp.id);
        out.number(stamp.epoch);
        out.number(stamp.seq);
    });
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
        Lifetime::Unlimited => out.0.put_u8(0),
        Lifetime::Ttl { seconds } => {
            out.0.put_u8(1);
            out.number(seconds);
        }
        Lifetime::Until { at_ms } => {
            out.0.put_u8(2);
            out.number(at_ms);
        }
    }
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

pub fn read_state(value: &[u8]) -> Result<StreamState, Corrupt> {
    let mut input = In::new(value, "stream state");
    if input.byte()? != STATE_VERSION {
        return Err(input.corrupt());
    }
    let meta = read_meta(&mut input)?;
    Ok(StreamState {
        meta: Arc::new(meta),
        tail: input.number()?,
        sealed: input.number()?,
        last_seal: input.number()?,
        open_records: input.number()? as u32,
        closed: input.flag()?,
        closed_by: input.option(|input| {
            Ok(ProducerStamp {
                id: input.text()?.into(),
                epoch: input.number()?,
                seq: input.number()?,
            })
        })?,
        stream_seq: input.option(|input| Ok(input.text()?.into()))?,
        forks: input.number()? as u32,
        deleted: input.flag()?,
        producers: input.number()? as u32,
        last_used_ms: input.number()?,
    })
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
    Ok(StreamMeta {
        id,
        kind: Kind::of(&content_type),
        content_type,
        lifetime,
        created_ms: input.number()?,
        fork: input.option(read_fork)?,
    })
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

/// Writes the fields of a value.
#[derive(Default)]
struct Out(BytesMut);

impl Out {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.put_u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.put_u8(number as u8);
    }

    fn flag(&mut self, flag: bool) {
        self.0.put_u8(u8::from(flag));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.put_slice(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Reads them back.
struct In<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> In<'a> {
    fn new(rest: &'a [u8], what: &'static str) -> Self {
        Self { rest, what }
    }

    fn corrupt(&self) -> Corrupt {
        Corrupt(self.what)
    }

    fn byte(&mut self) -> Result<u8, Corrupt> {
        let (first, rest) = self.rest.split_first().ok_or(self.corrupt())?;
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, Corrupt> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.corrupt())
    }

    fn flag(&mut self) -> Result<bool, Corrupt> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt()),
        }
    }

    fn text(&mut self) -> Result<&'a str, Corrupt> {
        let bytes = self.number()? as usize;
        let (text, rest) = self.rest.split_at_checked(bytes).ok_or(self.corrupt())?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| self.corrupt())
    }

    fn path(&mut self) -> Result<StreamPath, Corrupt> {
        StreamPath::from_key(self.text()?).ok_or(self.corrupt())
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Corrupt>,
    ) -> Result<Option<T>, Corrupt> {
        self.flag()?.then(|| read(self)).transpose()
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
