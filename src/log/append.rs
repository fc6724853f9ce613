//! Appending to a stream: the rules under its lock, then the committer.

use super::committer::{Ack, Turn, acknowledged};
use super::keys::{self, Pending, SegmentHeader};
use super::kv::{Cached, Kv, Table, Write};
use super::operation::{Change, Operation};
use super::queue::{CommitError, Room};
use super::state::{
    AppendRefusal, AppendRequest, ProducerState, Seal, StreamState, Unavailable, Verdict,
};
use super::stream::{Sequenced, Stream};
use super::{Log, ReadError, retention};
use crate::hub::Run;
use crate::types::{Position, ProducerStamp, StreamEnd, StreamId, StreamMeta, UnixMs};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;

/// A durable append.
#[derive(Clone, Debug)]
pub struct Appended {
    pub meta: Arc<StreamMeta>,
    /// Where the next append begins.
    pub tail: Position,
    pub closed: bool,
    /// How what the stream records ended, once that is known.
    pub end: Option<Arc<StreamEnd>>,
    /// The highest accepted seq of the request's producer.
    pub producer_seq: Option<u64>,
    /// The same request was accepted before: nothing was added.
    pub duplicate: bool,
}

/// An append that waits for its turn in the log: it becomes durable by itself.
pub struct Queued {
    appended: Appended,
    /// `None` once it is durable.
    ack: Option<Ack>,
}

/// Why nothing was appended.
#[derive(Clone, Debug, Error)]
pub enum AppendError {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Refused(#[from] AppendRefusal),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Log {
    /// Appends frames, closes, or both, as `request` says; `frames` is the bytes that it measures.
    /// Returns when that is durable. A refusal also waits until what it rests on is durable.
    pub async fn append(
        &self,
        stream: &Arc<Stream>,
        request: &AppendRequest<'_>,
        frames: Option<Bytes>,
    ) -> Result<Appended, AppendError> {
        let mut queued = self.queue(stream, request, frames).await?;
        queued.durable().await?;
        Ok(queued.appended)
    }

    /// The same for those who need not wait until it is durable: returns when it is accepted, and
    /// may not be shown to anybody yet.
    pub async fn queue(
        &self,
        stream: &Arc<Stream>,
        request: &AppendRequest<'_>,
        frames: Option<Bytes>,
    ) -> Result<Queued, AppendError> {
        let room = self.committer.admit(request.frame_bytes).await?;
        if let Some(stamp) = request.producer {
            self.load_producer(stream, &stamp.id).await?;
        }
        match self.sequence(stream, request, frames, room) {
            Sequencing::Accepted(ack, turn, appended) => {
                if let Some(turn) = turn {
                    turn.commit();
                }
                let ack = Some(ack);
                Ok(Queued { appended, ack })
            }
            Sequencing::Decided(ticket, outcome) => {
                self.committer.settled(ticket).await?;
                let ack = None;
                outcome.map(|appended| Queued { appended, ack })
            }
        }
    }

    /// Judges an append without carrying it out.
    pub async fn judge(
        &self,
        stream: &Arc<Stream>,
        request: &AppendRequest<'_>,
    ) -> Result<Verdict, AppendError> {
        if let Some(stamp) = request.producer {
            self.load_producer(stream, &stamp.id).await?;
        }
        let (ticket, verdict) = {
            let mut sequenced = stream.sequenced.lock();
            let known = request.producer.and_then(|stamp| sequenced.producer(stamp));
            let ticket = sequenced.ticket;
            let alive = sequenced.alive(stream.used_ms(), self.clock.now_ms());
            let verdict = match alive.and_then(|state| meant(state, request)) {
                Ok(state) => state.judge(request, known).map_err(AppendError::from),
                Err(unavailable) => Err(unavailable.into()),
            };
            (ticket, verdict)
        };
        self.committer.settled(ticket).await?;
        verdict
    }

    /// Judges and applies an append, and queues it, all under the stream's lock.
    fn sequence(
        &self,
        stream: &Arc<Stream>,
        request: &AppendRequest<'_>,
        frames: Option<Bytes>,
        room: Room,
    ) -> Sequencing {
        let now_ms = self.clock.now_ms();
        let mut sequenced = stream.sequenced.lock();
        let known = request.producer.and_then(|stamp| sequenced.producer(stamp));
        let ticket = sequenced.ticket;
        let alive = sequenced.alive(stream.used_ms(), now_ms);
        let state = match alive.and_then(|state| meant(state, request)) {
            Ok(state) => state,
            Err(unavailable) => return Sequencing::Decided(ticket, Err(unavailable.into())),
        };
        match state.judge(request, known) {
            Err(refusal) => return Sequencing::Decided(ticket, Err(refusal.into())),
            Ok(Verdict::Duplicate { highest_seq }) => {
                let appended = appended(state, highest_seq, true);
                // To its writer it is an append like any other.
                self.touch_seen(stream, &state.meta, now_ms);
                return Sequencing::Decided(ticket, Ok(appended));
            }
            Ok(Verdict::Accept) => {}
        }
        let before = state.clone();
        let start = before.tail;
        let seal = state.apply(request, known, self.segment_bytes, now_ms);
        stream.use_at(now_ms);
        let (mut writes, work) = side_writes(stream, state, request.producer, seal, now_ms);
        if request.close {
            writes.extend(finished(stream, state));
        }
        let written = state.write_down(before);
        let answer = appended(state, request.producer.map(|stamp| stamp.seq), false);
        let operation = Operation {
            changes: vec![Change {
                stream: stream.clone(),
                state: Some(state.clone()),
                written,
                appended: frames.map(|frames| Run { start, frames }),
            }],
            writes,
            work,
            acknowledged: true,
        };
        if let Some(stamp) = request.producer {
            sequenced.remember(stamp);
        }
        let (ticket, ack, turn) = self.committer.push_in_turn(operation, Some(room));
        sequenced.ticket = ticket;
        Sequencing::Accepted(ack, turn, answer)
    }

    /// Brings the state of a producer into memory, so that the rules find it.
    async fn load_producer(&self, stream: &Stream, producer: &Arc<str>) -> Result<(), ReadError> {
        loop {
            let Some(id) = stream.sequenced.lock().unknown_producer(producer) else {
                return Ok(());
            };
            let key = keys::producer_key(id, producer);
            let value = match self.kv.get_cached(Table::Producers, &key)? {
                Cached::Known(value) => value,
                Cached::NotInMemory => {
                    self.blocking(move |kv: &dyn Kv| Ok(kv.get(Table::Producers, &key)?))
                        .await?
                }
            };
            let known = value.map(|value| keys::read_producer(&value)).transpose()?;
            let mut sequenced = stream.sequenced.lock();
            // Unless the stream was replaced, or the producer wrote, while we looked.
            if sequenced.unknown_producer(producer) == Some(id) {
                sequenced.producers.insert(producer.clone(), known);
            }
        }
    }
}

impl Queued {
    /// Waits until the append is durable. Returns when it became so, if that was waited for. Nothing
    /// is lost when the future is dropped.
    pub async fn durable(&mut self) -> Result<Option<Instant>, AppendError> {
        let Some(ack) = &mut self.ack else {
            return Ok(None);
        };
        let at = acknowledged(ack).await?;
        self.ack = None;
        Ok(Some(at))
    }
}

enum Sequencing {
    Accepted(Ack, Option<Turn>, Appended),
    /// The outcome rests on operations up to this ticket.
    Decided(u64, Result<Appended, AppendError>),
}

/// The stream, if it is the one that the request means.
fn meant<'a>(
    state: &'a mut StreamState,
    request: &AppendRequest<'_>,
) -> Result<&'a mut StreamState, Unavailable> {
    match request.id {
        Some(id) if id != state.meta.id => Err(Unavailable::NotFound),
        _ => Ok(state),
    }
}

fn appended(state: &StreamState, producer_seq: Option<u64>, duplicate: bool) -> Appended {
    Appended {
        meta: state.meta.clone(),
        tail: state.tail,
        closed: state.closed,
        end: state.end.clone(),
        producer_seq,
        duplicate,
    }
}

/// What an append writes beside its record and the stream's state.
pub(super) fn side_writes(
    stream: &Stream,
    state: &mut StreamState,
    producer: Option<&ProducerStamp>,
    seal: Option<Seal>,
    now_ms: UnixMs,
) -> (Vec<Write>, Vec<Pending>) {
    let id = state.meta.id;
    let mut writes = Vec::new();
    if let Some(stamp) = producer {
        let value = keys::write_producer(ProducerState {
            epoch: stamp.epoch,
            last_seq: stamp.seq,
        });
        let key = keys::producer_key(id, &stamp.id);
        writes.push(Write::Put(Table::Producers, key, value));
    }
    let pack = seal.and_then(|seal| seal_writes(id, seal, &mut writes));
    let trim = retention::attend(stream, state, seal.is_some(), now_ms, &mut writes);
    (writes, pack.into_iter().chain(trim).collect())
}

/// Takes the mark off a stream that was unfinished, on disk as well.
pub(super) fn finished(stream: &Stream, state: &mut StreamState) -> Option<Write> {
    let was_unfinished = std::mem::take(&mut state.unfinished);
    was_unfinished.then(|| {
        let (id, path) = (state.meta.id, stream.path().clone());
        Write::Delete(Table::Pending, Pending::Finish { id, path }.key())
    })
}

/// Marks a segment as sealed. Its records are joined later; that of a single append may lie as it is.
pub(super) fn seal_writes(id: StreamId, seal: Seal, writes: &mut Vec<Write>) -> Option<Pending> {
    let header = SegmentHeader {
        end: seal.end,
        sealed_ms: seal.at_ms,
        packed: false,
    };
    writes.push(Write::Put(
        Table::Segments,
        Bytes::copy_from_slice(&keys::position_key(id, seal.start)),
        header.write(),
    ));
    (seal.appends > 1).then(|| {
        let work = Pending::Pack {
            id,
            start: seal.start,
            end: seal.end,
        };
        writes.push(Write::Put(Table::Pending, work.key(), work.value()));
        work
    })
}

impl Sequenced {
    /// What is known of a request's producer. A stream without producers knows that it is new.
    ///
    /// That it never wrote here is told once: now it writes, or it is refused and leaves nothing
    /// behind. Who else has looked it up before it writes finds nothing, which means the same.
    fn producer(&mut self, stamp: &ProducerStamp) -> Option<ProducerState> {
        let known = self.producers.get(&stamp.id).copied().flatten();
        if known.is_none() {
            self.producers.remove(&stamp.id);
        }
        known
    }

    /// The id under which to look a producer up; `None` if there is nothing to look up.
    fn unknown_producer(&self, producer: &Arc<str>) -> Option<StreamId> {
        let state = self.state.as_ref()?;
        let may_be_stored = state.producers > 0 && !self.producers.contains_key(producer);
        may_be_stored.then_some(state.meta.id)
    }

    fn remember(&mut self, stamp: &ProducerStamp) {
        let state = ProducerState {
            epoch: stamp.epoch,
            last_seq: stamp.seq,
        };
        self.producers.insert(stamp.id.clone(), Some(state));
    }
}
