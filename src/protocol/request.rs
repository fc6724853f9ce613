//! Requests to commands: what method, query and headers ask for (protocol, section 5).

use super::coding::Accepted;
use super::names;
use crate::types::{
    Lifetime, Offset, Position, ProducerStamp, Retention, SAFE_INTEGER_MAX, UnixMs,
};
use http::{HeaderMap, HeaderName, Method, header};
use percent_encoding::percent_decode_str;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// What a client asks of one stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Create(Create),
    Append(Append),
    Read(Read),
    Head,
    Delete,
    Options,
}

/// PUT (section 5.1).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Create {
    pub content_type: Option<String>,
    /// `None`: the request names no lifetime.
    pub lifetime: Option<Lifetime>,
    /// `None`: the request names no retention.
    pub retention: Option<Retention>,
    pub closed: bool,
    pub fork: Option<Fork>,
}

/// The fork headers of a PUT (section 4.2).
#[derive(Debug, PartialEq, Eq)]
pub struct Fork {
    /// The path of the source's URL, as sent.
    pub source: String,
    /// `None`: the tail of the source.
    pub offset: Option<Position>,
    /// Messages (JSON) or bytes past the offset.
    pub sub_offset: u64,
}

/// POST (sections 5.2 and 5.3).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Append {
    pub content_type: Option<String>,
    pub stream_seq: Option<Arc<str>>,
    pub close: bool,
    pub producer: Option<ProducerStamp>,
}

/// GET (sections 5.6 to 5.8).
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub from: From,
    pub mode: Mode,
    /// The `cursor` parameter, if it is one of ours.
    pub cursor: Option<u64>,
    pub if_none_match: Option<String>,
    pub accepted: Accepted,
    /// Whether the events of SSE are to carry exact bytes, whatever kind the stream is of.
    pub sse_base64: bool,
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// `-1`, or no offset.
    Start,
    /// `now`.
    Tail,
    At(Position),
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("-1"),
            Self::Tail => f.write_str("now"),
            Self::At(position) => Offset(*position).fmt(f),
        }
    }
}

/// How a read waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    CatchUp,
    LongPoll,
    Sse,
}

/// Why a request asks for nothing that can be done.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    #[error("the method is not one of a stream's")]
    Method(Method),
    #[error("the header {0} is not readable text")]
    HeaderText(HeaderName),
    #[error("the query is not readable text")]
    QueryText,
    #[error("the parameter offset is given more than once")]
    OffsetTwice,
    #[error("the offset {0:?} is not one: use a Stream-Next-Offset, -1 or now")]
    Offset(String),
    #[error("live={0:?} is not a mode: use long-poll or sse")]
    Mode(String),
    #[error("a live read needs the parameter offset")]
    LiveWithoutOffset,
    #[error("Stream-TTL must be a whole number of seconds without sign or leading zeros")]
    Ttl,
    #[error("Stream-Expires-At must be an RFC 3339 time, up to the year 9999 in UTC")]
    ExpiresAt,
    #[error("Stream-TTL and Stream-Expires-At exclude each other")]
    TwoLifetimes,
    #[error(
        "Stream-Retention must be bytes=N, age=N (seconds) or both, whole numbers from 1 to 2^53 - 1"
    )]
    Retention,
    #[error("Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From")]
    ForkWithoutSource,
    #[error("Stream-Forked-From must be the path of a stream's URL")]
    ForkSource,
    #[error("Stream-Fork-Offset is not an offset of the source")]
    ForkOffset,
    #[error("Stream-Fork-Sub-Offset must be a whole number")]
    ForkSubOffset,
    #[error("Producer-Id, Producer-Epoch and Producer-Seq go together")]
    ProducerIncomplete,
    #[error("Producer-Id must not be empty and at most {PRODUCER_ID_BYTES_MAX} bytes long")]
    ProducerId,
    #[error("{0} must be a whole number up to 2^53 - 1")]
    ProducerNumber(HeaderName),
    #[error("{0} is longer than {1} bytes")]
    TooLong(HeaderName, usize),
}

const PRODUCER_ID_BYTES_MAX: usize = 256;
const STREAM_SEQ_BYTES_MAX: usize = 256;
const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Reads a command from a request. `query` is the raw query string.
pub fn parse(
    method: &Method,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Command, RequestError> {
    match *method {
        Method::GET => read(query.unwrap_or_default(), headers).map(Command::Read),
        Method::POST => append(headers).map(Command::Append),
        Method::PUT => create(headers).map(Command::Create),
        Method::HEAD => Ok(Command::Head),
        Method::DELETE => Ok(Command::Delete),
        Method::OPTIONS => Ok(Command::Options),
        _ => Err(RequestError::Method(method.clone())),
    }
}

fn create(headers: &HeaderMap) -> Result<Create, RequestError> {
    Ok(Create {
        content_type: content_type(headers)?,
        lifetime: lifetime(headers)?,
        retention: retention(headers)?,
        closed: is_true(headers, &names::STREAM_CLOSED),
        fork: fork(headers)?,
    })
}

fn lifetime(headers: &HeaderMap) -> Result<Option<Lifetime>, RequestError> {
    let ttl = text(headers, &names::STREAM_TTL)?;
    let expires_at = text(headers, &names::STREAM_EXPIRES_AT)?;
    match (ttl, expires_at) {
        (Some(_), Some(_)) => Err(RequestError::TwoLifetimes),
        (Some(ttl), None) => whole_number(ttl)
            .filter(|_| ttl == "0" || !ttl.starts_with('0'))
            .map(|seconds| Some(Lifetime::Ttl { seconds }))
            .ok_or(RequestError::Ttl),
        (None, Some(at)) => rfc3339_ms(at)
            .map(|at_ms| Some(Lifetime::Until { at_ms }))
            .ok_or(RequestError::ExpiresAt),
        (None, None) => Ok(None),
    }
}

fn retention(headers: &HeaderMap) -> Result<Option<Retention>, RequestError> {
    let Some(text) = text(headers, &names::STREAM_RETENTION)? else {
        return Ok(None);
    };
    let mut retention = Retention::default();
    for part in text.split(',') {
        let (name, number) = part.split_once('=').ok_or(RequestError::Retention)?;
        let number = whole_number(number.trim())
            .filter(|number| (1..=SAFE_INTEGER_MAX).contains(number))
            .ok_or(RequestError::Retention)?;
        let before = match name.trim() {
            "bytes" => retention.bytes.replace(number),
            "age" => retention.age_ms.replace(number.saturating_mul(1000)),
            _ => return Err(RequestError::Retention),
        };
        if before.is_some() {
            return Err(RequestError::Retention);
        }
    }
    Ok(Some(retention))
}

/// 9999-12-31T23:59:59.999Z: no later time can be written in RFC 3339, though some can be read, by
/// their zone.
const RFC3339_MS_MAX: UnixMs = 253_402_300_799_999;

fn rfc3339_ms(text: &str) -> Option<UnixMs> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    // A time before 1970 has passed, like any other in the past.
    let at_ms = u64::try_from(time.timestamp_millis()).unwrap_or(0);
    (at_ms <= RFC3339_MS_MAX).then_some(at_ms)
}

fn fork(headers: &HeaderMap) -> Result<Option<Fork>, RequestError> {
    let source = text(headers, &names::STREAM_FORKED_FROM)?;
    let offset = text(headers, &names::STREAM_FORK_OFFSET)?;
    let sub_offset = text(headers, &names::STREAM_FORK_SUB_OFFSET)?;
    let Some(source) = source else {
        return if offset.is_some() || sub_offset.is_some() {
            Err(RequestError::ForkWithoutSource)
        } else {
            Ok(None)
        };
    };
    if source.is_empty() {
        return Err(RequestError::ForkSource);
    }
    let offset = match offset {
        None => None,
        Some("-1") => Some(0),
        Some(offset) => Some(Offset::parse(offset).ok_or(RequestError::ForkOffset)?.0),
    };
    let sub_offset = match sub_offset {
        None => 0,
        Some(number) => whole_number(number).ok_or(RequestError::ForkSubOffset)?,
    };
    Ok(Some(Fork {
        source: source.to_owned(),
        offset,
        sub_offset,
    }))
}

fn append(headers: &HeaderMap) -> Result<Append, RequestError> {
    let stream_seq = bounded(headers, &names::STREAM_SEQ, STREAM_SEQ_BYTES_MAX)?;
    Ok(Append {
        content_type: content_type(headers)?,
        stream_seq: stream_seq.map(Arc::from),
        close: is_true(headers, &names::STREAM_CLOSED),
        producer: producer(headers)?,
    })
}

fn producer(headers: &HeaderMap) -> Result<Option<ProducerStamp>, RequestError> {
    let id = text(headers, &names::PRODUCER_ID)?;
    let epoch = text(headers, &names::PRODUCER_EPOCH)?;
    let seq = text(headers, &names::PRODUCER_SEQ)?;
    let (id, epoch, seq) = match (id, epoch, seq) {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(seq)) => (id, epoch, seq),
        _ => return Err(RequestError::ProducerIncomplete),
    };
    if id.is_empty() || id.len() > PRODUCER_ID_BYTES_MAX {
        return Err(RequestError::ProducerId);
    }
    let number = |name, text| {
        whole_number(text)
            .filter(|number| *number <= SAFE_INTEGER_MAX)
            .ok_or(RequestError::ProducerNumber(name))
    };
    Ok(Some(ProducerStamp {
        id: id.into(),
        epoch: number(names::PRODUCER_EPOCH, epoch)?,
        seq: number(names::PRODUCER_SEQ, seq)?,
    }))
}

fn read(query: &str, headers: &HeaderMap) -> Result<Read, RequestError> {
    let (mut offset, mut live, mut cursor) = (None, None, None);
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            names::OFFSET if offset.is_some() => return Err(RequestError::OffsetTwice),
            names::OFFSET => offset = Some(decoded(value)?),
            names::LIVE => live = Some(decoded(value)?),
            names::CURSOR => cursor = decoded(value)?.parse().ok(),
            _ => {}
        }
    }
    let mode = match live.as_deref() {
        None => Mode::CatchUp,
        Some("long-poll") => Mode::LongPoll,
        Some("sse") => Mode::Sse,
        Some(_) => return Err(RequestError::Mode(live.unwrap_or_default())),
    };
    let from = match offset.as_deref() {
        None if mode != Mode::CatchUp => return Err(RequestError::LiveWithoutOffset),
        None | Some("-1") => From::Start,
        Some("now") => From::Tail,
        Some(text) => match Offset::parse(text) {
            Some(offset) => From::At(offset.0),
            None => return Err(RequestError::Offset(offset.unwrap_or_default())),
        },
    };
    Ok(Read {
        from,
        mode,
        cursor,
        if_none_match: text(headers, &header::IF_NONE_MATCH)?.map(str::to_owned),
        accepted: Accepted::of(headers),
        sse_base64: is_base64(headers),
    })
}

fn decoded(value: &str) -> Result<String, RequestError> {
    percent_decode_str(value)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| RequestError::QueryText)
}

fn content_type(headers: &HeaderMap) -> Result<Option<String>, RequestError> {
    let text = bounded(headers, &header::CONTENT_TYPE, CONTENT_TYPE_BYTES_MAX)?;
    Ok(text
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned))
}

fn bounded<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    bytes_max: usize,
) -> Result<Option<&'a str>, RequestError> {
    match text(headers, name)? {
        Some(text) if text.len() > bytes_max => Err(RequestError::TooLong(name.clone(), bytes_max)),
        text => Ok(text),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, RequestError> {
    headers
        .get(name)
        .map(|value| {
            value
                .to_str()
                .map_err(|_| RequestError::HeaderText(name.clone()))
        })
        .transpose()
}

/// Only the value `true` counts, in any case; anything else is as if the header were absent
/// (section 4.1).
fn is_true(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers
        .get(name)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// Whether a reader of SSE asks for exact bytes.
pub fn is_base64(headers: &HeaderMap) -> bool {
    let encoding = headers.get(names::STREAM_SSE_DATA_ENCODING);
    encoding.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"base64"))
}

/// Digits only: no sign, no white space.
fn whole_number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
