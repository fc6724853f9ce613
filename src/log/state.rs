//! What a stream is and what may be done to it: pure rules, without IO; time is an argument.

use crate::types::{
    Kind, Lifetime, Position, ProducerStamp, Retention, Span, StreamEnd, StreamId, StreamMeta,
    StreamPath, UnixMs, same_content_type,
};
use std::sync::Arc;
use thiserror::Error;

/// The spans of a fork at `offset` of a source: those of the source's own ancestors and its own,
/// cut at the divergence point. `None` if they are more than `depth_max`: each stream carries its
/// spans in its row and in memory, and those of a chain of forks grow with its square.
pub fn fork_spans(source: &StreamMeta, offset: Position, depth_max: usize) -> Option<Vec<Span>> {
    let inherited = source
        .fork
        .iter()
        .flat_map(|fork| fork.spans.iter().copied());
    let own = Span {
        id: source.id,
        end: Position::MAX,
    };
    let mut spans = Vec::new();
    let mut begin = 0;
    for span in inherited.chain([own]) {
        if begin >= offset {
            break;
        }
        let end = span.end.min(offset);
        spans.push(Span { id: span.id, end });
        begin = end;
    }
    (spans.len() <= depth_max).then_some(spans)
}

/// What changes while a stream lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    pub meta: Arc<StreamMeta>,
    /// Where what is kept begins: all before it was trimmed.
    pub earliest: Position,
    /// Where the next append begins.
    pub tail: Position,
    /// Where the open remainder begins: all before it lies in sealed segments.
    pub sealed: Position,
    /// Where the last sealed segment begins; `sealed` if there is none.
    pub last_seal: Position,
    /// Appends in the open remainder.
    pub open_appends: u32,
    pub closed: bool,
    /// The producer that closed the stream, if one did.
    pub closed_by: Option<ProducerStamp>,
    /// How what it records ended, once that is known.
    pub end: Option<Arc<StreamEnd>>,
    /// Whether a recording is under way that a crash would leave open.
    pub unfinished: bool,
    /// Whether a timer is set for the retention of its data.
    pub retaining: bool,
    /// The highest `Stream-Seq`; its scope is the stream.
    pub stream_seq: Option<Arc<str>>,
    /// Forks that read from this stream.
    pub forks: u32,
    /// Deleted by its owner, kept for its forks.
    pub deleted: bool,
    /// Producers that ever wrote.
    pub producers: u32,
    /// The last read or write, as far as it is written down.
    pub last_used_ms: UnixMs,
    /// What of this is on disk; appends may be ahead of it.
    pub row: Row,
}

/// What the row of a stream's state says of what appends change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub tail: Position,
    pub last_used_ms: UnixMs,
}

impl Row {
    /// The row of a state that is written down.
    pub(super) fn of(state: &StreamState) -> Self {
        Self {
            tail: state.tail,
            last_used_ms: state.last_used_ms,
        }
    }
}

impl StreamState {
    /// A stream without data.
    pub fn new(meta: Arc<StreamMeta>, now_ms: UnixMs) -> Self {
        let start = meta.start();
        Self {
            meta,
            earliest: 0,
            tail: start,
            sealed: start,
            last_seal: start,
            open_appends: 0,
            closed: false,
            closed_by: None,
            end: None,
            unfinished: false,
            retaining: false,
            stream_seq: None,
            forks: 0,
            deleted: false,
            producers: 0,
            last_used_ms: now_ms,
            row: Row {
                tail: start,
                last_used_ms: now_ms,
            },
        }
    }

    /// When the stream ends if nobody uses it.
    pub fn deadline_ms(&self) -> Option<UnixMs> {
        self.meta.lifetime.deadline_ms(self.last_used_ms)
    }

    /// Whether the stream has ended by `now_ms`.
    pub fn expired(&self, now_ms: UnixMs) -> bool {
        self.deadline_ms()
            .is_some_and(|deadline| now_ms >= deadline)
    }

    /// Whether the path answers: neither deleted nor expired.
    pub fn check_alive(&self, now_ms: UnixMs) -> Result<(), Unavailable> {
        if self.deleted {
            return Err(Unavailable::Gone);
        }
        if self.expired(now_ms) {
            return Err(if self.forks > 0 {
                Unavailable::Gone
            } else {
                Unavailable::NotFound
            });
        }
        Ok(())
    }
}

/// Why a path has no stream to work on.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unavailable {
    #[error("there is no stream here")]
    NotFound,
    #[error("the stream was deleted; forks still read its data")]
    Gone,
}

/// What the log remembers of one producer of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    pub epoch: u64,
    pub last_seq: u64,
}

/// An append to judge: everything of it but its bytes.
#[derive(Clone, Debug)]
pub struct AppendRequest<'a> {
    /// The one stream that is meant; another one at its path is as good as none.
    pub id: Option<StreamId>,
    pub content_type: Option<&'a str>,
    /// Frame bytes; 0 for a close without data.
    pub frame_bytes: u64,
    pub stream_seq: Option<&'a Arc<str>>,
    pub close: bool,
    /// How what the stream records ended; it comes with the closing.
    pub end: Option<&'a StreamEnd>,
    pub producer: Option<&'a ProducerStamp>,
    pub producers_max: u32,
}

/// What becomes of a permitted append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is new: apply it.
    Accept,
    /// The same request was accepted before; `highest_seq` is the producer's last.
    Duplicate { highest_seq: Option<u64> },
}

/// Why an append is refused (protocol, sections 5.2 and 5.2.1).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AppendRefusal {
    #[error("the stream is closed")]
    Closed {
        tail: Position,
        end: Option<Arc<StreamEnd>>,
        /// The seq of the refused producer, which must learn that waiting does not help.
        received_seq: Option<u64>,
    },
    #[error("the stream holds {expected}")]
    ContentType { expected: Arc<str> },
    #[error("Stream-Seq must be greater than {last:?}")]
    StreamSeq { last: Arc<str> },
    #[error("a newer epoch of this producer, {current}, writes here")]
    StaleEpoch { current: u64 },
    #[error("a new epoch begins with Producer-Seq 0")]
    EpochStart,
    #[error("expected Producer-Seq {expected}, received {received}")]
    SeqGap { expected: u64, received: u64 },
    #[error("the stream has {0} producers already")]
    TooManyProducers(u32),
}

impl StreamState {
    /// Judges an append to a stream that is alive. `known` is the state of the request's producer.
    ///
    /// Closed comes before content type, which comes before sequence; deduplication comes before
    /// `Stream-Seq`.
    pub fn judge(
        &self,
        request: &AppendRequest<'_>,
        known: Option<ProducerState>,
    ) -> Result<Verdict, AppendRefusal> {
        if self.closed {
            return self.judge_closed(request, known);
        }
        if request.frame_bytes > 0
            && !request
                .content_type
                .is_some_and(|given| same_content_type(given, &self.meta.content_type))
        {
            return Err(AppendRefusal::ContentType {
                expected: self.meta.content_type.clone(),
            });
        }
        if let Some(stamp) = request.producer {
            let verdict = judge_producer(stamp, known)?;
            if verdict != Verdict::Accept {
                return Ok(verdict);
            }
            if known.is_none() && self.producers >= request.producers_max {
                return Err(AppendRefusal::TooManyProducers(self.producers));
            }
        }
        match (request.stream_seq, &self.stream_seq) {
            (Some(seq), Some(last)) if seq.as_bytes() <= last.as_bytes() => {
                Err(AppendRefusal::StreamSeq { last: last.clone() })
            }
            _ => Ok(Verdict::Accept),
        }
    }

    fn judge_closed(
        &self,
        request: &AppendRequest<'_>,
        known: Option<ProducerState>,
    ) -> Result<Verdict, AppendRefusal> {
        let repeats_the_close = match request.producer {
            Some(stamp) => self.closed_by.as_ref() == Some(stamp),
            None => request.close && request.frame_bytes == 0,
        };
        if repeats_the_close {
            let highest_seq = known.map(|state| state.last_seq);
            return Ok(Verdict::Duplicate { highest_seq });
        }
        Err(AppendRefusal::Closed {
            tail: self.tail,
            end: self.end.clone(),
            received_seq: request.producer.map(|stamp| stamp.seq),
        })
    }

    /// Applies an accepted append. Returns the segment that it seals, if it does.
    pub fn apply(
        &mut self,
        request: &AppendRequest<'_>,
        known: Option<ProducerState>,
        segment_bytes: u64,
        now_ms: UnixMs,
    ) -> Option<Seal> {
        self.tail += request.frame_bytes;
        if request.frame_bytes > 0 {
            self.open_appends += 1;
        }
        if let Some(seq) = request.stream_seq {
            self.stream_seq = Some(seq.clone());
        }
        if request.producer.is_some() && known.is_none() {
            self.producers += 1;
        }
        if request.close {
            self.closed = true;
            self.closed_by = request.producer.cloned();
            self.end = request.end.cloned().map(Arc::new);
        }
        self.last_used_ms = self.last_used_ms.max(now_ms);
        self.seal(segment_bytes, now_ms)
    }

    /// Seals the open remainder when it has grown to a segment, or when the stream is closed.
    ///
    /// One record that ends a closed stream needs no seal: it is the last segment as it lies.
    fn seal(&mut self, segment_bytes: u64, now_ms: UnixMs) -> Option<Seal> {
        let full = self.tail - self.sealed >= self.seal_bytes(segment_bytes);
        let last = self.closed && self.open_appends > 1;
        if full || last {
            self.seal_open(now_ms)
        } else {
            None
        }
    }

    /// Seals the open remainder, if there is one.
    pub(super) fn seal_open(&mut self, now_ms: UnixMs) -> Option<Seal> {
        if self.open_appends == 0 {
            return None;
        }
        let seal = Seal {
            start: self.sealed,
            end: self.tail,
            appends: self.open_appends,
            at_ms: now_ms,
        };
        self.last_seal = seal.start;
        self.sealed = seal.end;
        self.open_appends = 0;
        Some(seal)
    }
}

/// A piece of a stream that will never change, as records that wait to be packed into one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    pub start: Position,
    pub end: Position,
    pub appends: u32,
    pub at_ms: UnixMs,
}

fn judge_producer(
    stamp: &ProducerStamp,
    known: Option<ProducerState>,
) -> Result<Verdict, AppendRefusal> {
    let Some(known) = known else {
        return if stamp.seq == 0 {
            Ok(Verdict::Accept)
        } else {
            Err(AppendRefusal::SeqGap {
                expected: 0,
                received: stamp.seq,
            })
        };
    };
    if stamp.epoch < known.epoch {
        return Err(AppendRefusal::StaleEpoch {
            current: known.epoch,
        });
    }
    if stamp.epoch > known.epoch {
        return if stamp.seq == 0 {
            Ok(Verdict::Accept)
        } else {
            Err(AppendRefusal::EpochStart)
        };
    }
    match stamp.seq {
        seq if seq <= known.last_seq => Ok(Verdict::Duplicate {
            highest_seq: Some(known.last_seq),
        }),
        seq if seq == known.last_seq + 1 => Ok(Verdict::Accept),
        seq => Err(AppendRefusal::SeqGap {
            expected: known.last_seq + 1,
            received: seq,
        }),
    }
}

/// What a PUT asks of a path that has a stream.
#[derive(Clone, Debug)]
pub struct CreateRequest<'a> {
    pub content_type: Option<&'a str>,
    pub lifetime: Option<Lifetime>,
    /// `None`: the request names no retention, and `retention_default` holds.
    pub retention: Option<Retention>,
    pub retention_default: Retention,
    pub closed: bool,
    pub fork: Option<ForkRequest<'a>>,
}

/// The fork part of a PUT, with the source resolved to a path of the log.
#[derive(Clone, Debug)]
pub struct ForkRequest<'a> {
    pub source: &'a StreamPath,
    pub offset: Option<Position>,
    pub sub_offset: u64,
    /// As what the body was framed, if there is one: a source of another kind is not the one that
    /// was meant.
    pub body: Option<Kind>,
}

/// The content type of a stream whose creator named none.
pub const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

impl StreamState {
    /// Whether a repeated PUT asks for what is there (protocol, sections 5.1 and 4.2). What a fork
    /// left to its source is not compared.
    pub fn matches(&self, request: &CreateRequest<'_>) -> bool {
        self.closed == request.closed
            && self.matches_content_type(request)
            && self.matches_lifetime(request)
            && self.matches_retention(request)
            && self.matches_fork(request)
    }

    fn matches_content_type(&self, request: &CreateRequest<'_>) -> bool {
        match request.content_type {
            Some(given) => same_content_type(given, &self.meta.content_type),
            None => {
                request.fork.is_some()
                    || same_content_type(DEFAULT_CONTENT_TYPE, &self.meta.content_type)
            }
        }
    }

    fn matches_lifetime(&self, request: &CreateRequest<'_>) -> bool {
        let inherited = self
            .meta
            .fork
            .as_ref()
            .is_some_and(|fork| fork.lifetime_inherited);
        match request.lifetime {
            Some(asked) => asked == self.meta.lifetime,
            None => inherited || self.meta.lifetime == Lifetime::Unlimited,
        }
    }

    fn matches_retention(&self, request: &CreateRequest<'_>) -> bool {
        match request.retention {
            Some(asked) => asked == self.meta.retention,
            None => self.meta.retention_by_route || self.meta.retention.is_unlimited(),
        }
    }

    fn matches_fork(&self, request: &CreateRequest<'_>) -> bool {
        match (&request.fork, &self.meta.fork) {
            (None, None) => true,
            (Some(asked), Some(fork)) => {
                *asked.source == fork.source
                    && asked.offset.is_none_or(|offset| offset == fork.offset)
                    && asked.sub_offset == fork.sub_offset
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
