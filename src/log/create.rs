//! Creating streams and forks.

use super::append::{finished, side_writes};
use super::committer::{Ack, acknowledged};
use super::keys::{self, Pending, TimerKind};
use super::kv::{Table, Write};
use super::operation::{Change, Operation};
use super::queue::{CommitError, Room};
use super::state::{
    AppendRequest, CreateRequest, DEFAULT_CONTENT_TYPE, StreamState, Unavailable, fork_spans,
};
use super::stream::{Sequenced, Stream};
use super::{Log, ReadError};
use crate::frame::{self, Frames};
use crate::hub::Run;
use crate::types::{
    ForkMeta, Kind, Lifetime, Offset, Position, Span, StreamEnd, StreamMeta, UnixMs,
    same_content_type,
};
use bytes::Bytes;
use std::sync::Arc;
use thiserror::Error;

/// A PUT, its body framed as the stream's kind asks.
pub struct Create<'a> {
    pub request: CreateRequest<'a>,
    /// The first append, framed.
    pub frames: Option<Bytes>,
    /// What to keep with the stream, at most [`NOTE_BYTES_MAX`]: the log does not look at it.
    pub note: Option<Bytes>,
    /// Whether the creator will say how the stream ends: if a crash keeps it from closing the
    /// stream, [`Log::take_unfinished`] names it after the next start.
    pub unfinished: bool,
}

/// The longest note of a stream.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;

/// A stream that is there as asked.
#[derive(Clone, Debug)]
pub struct Created {
    pub meta: Arc<StreamMeta>,
    pub tail: Position,
    pub closed: bool,
    /// How what the stream records ended, once that is known.
    pub end: Option<Arc<StreamEnd>>,
    /// Whether this request made it. What is there already has the note, and is as unfinished, as
    /// its own creator said.
    pub new: bool,
}

/// Why there is no stream as asked (protocol, sections 4.2 and 5.1).
#[derive(Clone, Debug, Error)]
pub enum CreateError {
    #[error("a stream with another configuration is here")]
    Conflict,
    #[error("the path belongs to a deleted stream whose forks live")]
    PathHeld,
    #[error("the source of the fork does not exist")]
    SourceNotFound,
    #[error("the source of the fork was deleted")]
    SourceGone,
    #[error("the source holds {0}")]
    SourceContentType(Arc<str>),
    #[error("Stream-Fork-Offset is not a position of the source")]
    ForkOffset,
    #[error("Stream-Fork-Sub-Offset reaches beyond the next append of the source")]
    ForkSubOffset,
    #[error("the source begins at {}: what was before it was trimmed", Offset(*earliest))]
    ForkTrimmed { earliest: Position },
    #[error("a fork inherits from {0} streams at the most")]
    ForkTooDeep(usize),
    #[error("the note is longer than {NOTE_BYTES_MAX} bytes")]
    NoteTooLong,
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A fork whose point in the source is known to exist.
struct ForkPoint {
    source: Arc<Stream>,
    meta: Arc<StreamMeta>,
    offset: Position,
    /// Whose data lies before it.
    spans: Vec<Span>,
    /// Where the source begins.
    earliest: Position,
    /// What a sub-offset takes of the source's next append, as frames.
    part: Option<Bytes>,
}

impl ForkPoint {
    fn check(&self) -> Result<(), CreateError> {
        let earliest = self.earliest;
        if self.offset < earliest {
            return Err(CreateError::ForkTrimmed { earliest });
        }
        Ok(())
    }
}

impl Log {
    /// Creates a stream, or finds that it is there as asked. Returns when that is durable.
    ///
    /// A stream that is there and alive is never changed: it is `Created { new: false, .. }` if it
    /// is as asked, and otherwise [`CreateError::Conflict`].
    pub async fn create(
        &self,
        stream: &Arc<Stream>,
        create: Create<'_>,
    ) -> Result<Created, CreateError> {
        let note_bytes = create.note.as_ref().map_or(0, Bytes::len);
        if note_bytes > NOTE_BYTES_MAX {
            return Err(CreateError::NoteTooLong);
        }
        let frame_bytes = create.frames.as_ref().map_or(0, Bytes::len);
        let bytes = (frame_bytes + note_bytes) as u64;
        let room = self.committer.admit(bytes).await?;
        let sequencing = if create.request.fork.is_some() {
            if let Some((ticket, outcome)) = self.find(stream, &create.request) {
                self.committer.settled(ticket).await?;
                return outcome;
            }
            let mut point = self.fork_point(stream, &create.request).await?;
            self.sequence_fork(stream, &create, &mut point, room)
        } else {
            let mut sequenced = stream.sequenced.lock();
            self.sequence_create(stream, &mut sequenced, &create, None, room)
        };
        match sequencing {
            Sequencing::Accepted(mut ack, created) => {
                acknowledged(&mut ack).await?;
                Ok(created)
            }
            Sequencing::Decided(ticket, outcome) => {
                self.committer.settled(ticket).await?;
                outcome
            }
        }
    }

    /// Judges a fork by what is at its path already, before its source is looked at.
    fn find(
        &self,
        stream: &Stream,
        request: &CreateRequest<'_>,
    ) -> Option<(u64, Result<Created, CreateError>)> {
        let mut sequenced = stream.sequenced.lock();
        let ticket = sequenced.ticket;
        let now_ms = self.clock.now_ms();
        judge_existing(&mut sequenced, stream.used_ms(), request, now_ms)
            .map(|outcome| (ticket, outcome))
    }

    fn sequence_fork(
        &self,
        stream: &Arc<Stream>,
        create: &Create<'_>,
        point: &mut ForkPoint,
        room: Room,
    ) -> Sequencing {
        let _two = self.two_streams.lock();
        let mut source = point.source.sequenced.lock();
        let ticket = source.ticket;
        let now_ms = self.clock.now_ms();
        let alive = match source.alive(point.source.used_ms(), now_ms) {
            Ok(state) if state.meta.id == point.meta.id => {
                // It may have been trimmed meanwhile.
                point.earliest = state.earliest;
                point.check().map(|()| state)
            }
            Ok(_) | Err(Unavailable::NotFound) => Err(CreateError::SourceNotFound),
            Err(Unavailable::Gone) => Err(CreateError::SourceGone),
        };
        let state = match alive {
            Ok(state) => state,
            Err(error) => return Sequencing::Decided(ticket, Err(error)),
        };
        state.forks += 1;
        let change = Change {
            stream: point.source.clone(),
            state: Some(state.clone()),
            written: true,
            appended: None,
        };
        let mut sequenced = stream.sequenced.lock();
        let sequencing =
            self.sequence_create(stream, &mut sequenced, create, Some((point, change)), room);
        match &sequencing {
            Sequencing::Accepted(..) => source.ticket = sequenced.ticket,
            // Refused: the source keeps no trace of it.
            Sequencing::Decided(..) => state.forks -= 1,
        }
        sequencing
    }

    /// Makes the stream and queues it, under its lock, unless one is there.
    fn sequence_create(
        &self,
        stream: &Arc<Stream>,
        sequenced: &mut Sequenced,
        create: &Create<'_>,
        fork: Option<(&ForkPoint, Change)>,
        room: Room,
    ) -> Sequencing {
        let now_ms = self.clock.now_ms();
        let ticket = sequenced.ticket;
        if let Some(outcome) = judge_existing(sequenced, stream.used_ms(), &create.request, now_ms)
        {
            return Sequencing::Decided(ticket, outcome);
        }
        let mut writes = Vec::new();
        // What expired here makes room; its data is purged like that of a deleted stream.
        let purge = sequenced.state.take().map(|mut expired| {
            writes.extend(finished(stream, &mut expired));
            purge_of(&expired)
        });
        if let Some(purge) = &purge {
            writes.push(Write::Put(Table::Pending, purge.key(), purge.value()));
        }
        let (id, reservation) = self.ids.next();
        writes.extend(reservation);
        let point = fork.as_ref().map(|(point, _)| *point);
        let meta = Arc::new(new_meta(id, create, point, now_ms));
        let mut state = StreamState::new(meta.clone(), now_ms);
        state.earliest = point.map_or(0, |point| point.earliest);
        Self::mark(stream, &mut state, create, &mut writes);
        if let Some(deadline) = state.deadline_ms() {
            let key = TimerKind::Expiry.key(deadline, id);
            let path = Bytes::copy_from_slice(stream.path().key().as_bytes());
            writes.push(Write::Put(Table::Timers, key, path));
        }
        let start = state.tail;
        let part = point.and_then(|point| point.part.clone());
        let frames = join(meta.kind, part, create.frames.clone());
        let mut work = self.fill(
            stream,
            &mut state,
            &create.request,
            frames.as_ref(),
            now_ms,
            &mut writes,
        );
        work.extend(purge);
        let mut changes: Vec<Change> = fork.into_iter().map(|(_, change)| change).collect();
        changes.push(Change {
            stream: stream.clone(),
            state: Some(state.clone()),
            written: true,
            appended: frames.map(|frames| Run { start, frames }),
        });
        let created = created(&state, true);
        sequenced.producers.clear();
        sequenced.state = Some(state);
        let operation = Operation {
            changes,
            writes,
            work,
            acknowledged: true,
        };
        let (ticket, ack) = self.committer.push(operation, Some(room));
        sequenced.ticket = ticket;
        Sequencing::Accepted(ack, created)
    }

    /// Writes down what a creator keeps with its stream, and that it is unfinished.
    fn mark(
        stream: &Stream,
        state: &mut StreamState,
        create: &Create<'_>,
        writes: &mut Vec<Write>,
    ) {
        let id = state.meta.id;
        if let Some(note) = &create.note {
            writes.push(Write::Put(Table::Notes, keys::note_key(id), note.clone()));
        }
        state.unfinished = create.unfinished && !create.request.closed;
        if state.unfinished {
            let path = stream.path().clone();
            let finish = Pending::Finish { id, path };
            writes.push(Write::Put(Table::Pending, finish.key(), finish.value()));
        }
    }

    /// Appends the first data to a new stream, and closes it if asked.
    fn fill(
        &self,
        stream: &Stream,
        state: &mut StreamState,
        request: &CreateRequest<'_>,
        frames: Option<&Bytes>,
        now_ms: UnixMs,
        writes: &mut Vec<Write>,
    ) -> Vec<Pending> {
        let append = AppendRequest {
            id: None,
            content_type: None,
            frame_bytes: frames.map_or(0, Bytes::len) as u64,
            stream_seq: None,
            close: request.closed,
            end: None,
            producer: None,
            producers_max: self.producers_max,
        };
        let seal = state.apply(&append, None, self.segment_bytes, now_ms);
        let (side, work) = side_writes(stream, state, None, seal, now_ms);
        writes.extend(side);
        work
    }

    /// Finds the divergence point of a fork in its source, as far as it is durable.
    async fn fork_point(
        &self,
        stream: &Arc<Stream>,
        request: &CreateRequest<'_>,
    ) -> Result<ForkPoint, CreateError> {
        let fork = request.fork.as_ref().ok_or(CreateError::SourceNotFound)?;
        let source = self.stream(fork.source).await?;
        if Arc::ptr_eq(&source, stream) {
            return Err(CreateError::SourceNotFound);
        }
        let view = source
            .view(self.clock.now_ms())
            .map_err(|error| match error {
                Unavailable::NotFound => CreateError::SourceNotFound,
                Unavailable::Gone => CreateError::SourceGone,
            })?;
        let held = &view.meta.content_type;
        if request
            .content_type
            .is_some_and(|given| !same_content_type(given, held))
        {
            return Err(CreateError::SourceContentType(held.clone()));
        }
        if fork.body.is_some_and(|kind| kind != view.meta.kind) {
            // It was replaced since the body was framed.
            return Err(CreateError::SourceNotFound);
        }
        let offset = fork.offset.unwrap_or(view.tail);
        if offset > view.tail {
            return Err(CreateError::ForkOffset);
        }
        let mut point = ForkPoint {
            source: source.clone(),
            meta: view.meta.clone(),
            offset,
            spans: Vec::new(),
            earliest: view.earliest,
            part: None,
        };
        point.check()?;
        let next = self.append_at(&source, &view, offset).await;
        if let Err(ReadError::Trimmed { earliest }) = next {
            // It was trimmed meanwhile.
            return Err(CreateError::ForkTrimmed { earliest });
        }
        let next = next?;
        if next.as_ref().is_some_and(|run| run.start != offset) {
            return Err(CreateError::ForkOffset);
        }
        let depth_max = self.fork_depth_max;
        let spans = fork_spans(&view.meta, offset, depth_max);
        point.spans = spans.ok_or(CreateError::ForkTooDeep(depth_max))?;
        point.part = match (fork.sub_offset, next) {
            (0, _) => None,
            (count, Some(next)) => Some(
                part_of(view.meta.kind, &next.frames, count).ok_or(CreateError::ForkSubOffset)?,
            ),
            (_, None) => return Err(CreateError::ForkSubOffset),
        };
        Ok(point)
    }
}

enum Sequencing {
    Accepted(Ack, Created),
    /// The outcome rests on operations up to this ticket.
    Decided(u64, Result<Created, CreateError>),
}

fn created(state: &StreamState, new: bool) -> Created {
    Created {
        meta: state.meta.clone(),
        tail: state.tail,
        closed: state.closed,
        end: state.end.clone(),
        new,
    }
}

/// What a PUT meets at its path; `None` if the path is free.
fn judge_existing(
    sequenced: &mut Sequenced,
    used_ms: UnixMs,
    request: &CreateRequest<'_>,
    now_ms: UnixMs,
) -> Option<Result<Created, CreateError>> {
    match sequenced.alive(used_ms, now_ms) {
        Ok(state) if state.matches(request) => Some(Ok(created(state, false))),
        Ok(_) => Some(Err(CreateError::Conflict)),
        Err(Unavailable::Gone) => Some(Err(CreateError::PathHeld)),
        Err(Unavailable::NotFound) => None,
    }
}

fn new_meta(id: u64, create: &Create<'_>, point: Option<&ForkPoint>, now_ms: UnixMs) -> StreamMeta {
    let request = &create.request;
    let content_type: Arc<str> = match (request.content_type, point) {
        (Some(given), _) => given.into(),
        (None, Some(point)) => point.meta.content_type.clone(),
        (None, None) => DEFAULT_CONTENT_TYPE.into(),
    };
    let inherited = point.map_or(Lifetime::Unlimited, |point| point.meta.lifetime);
    let sub_offset = request.fork.as_ref().map_or(0, |fork| fork.sub_offset);
    StreamMeta {
        id,
        kind: Kind::of(&content_type),
        content_type,
        lifetime: request.lifetime.unwrap_or(inherited),
        retention: request.retention.unwrap_or(request.retention_default),
        retention_by_route: request.retention.is_none(),
        created_ms: now_ms,
        note: create.note.clone(),
        fork: point.map(|point| ForkMeta {
            source: point.source.path().clone(),
            source_id: point.meta.id,
            sub_offset,
            lifetime_inherited: request.lifetime.is_none(),
            offset: point.offset,
            spans: point.spans.clone(),
        }),
    }
}

/// The work that removes what a stream leaves behind.
pub(super) fn purge_of(state: &StreamState) -> Pending {
    let fork = state.meta.fork.as_ref();
    Pending::Purge {
        id: state.meta.id,
        source: fork.map(|fork| (fork.source_id, fork.source.clone())),
    }
}

/// The first `count` messages (JSON) or bytes of an append, framed as an append of its own. `None`
/// if it has fewer.
fn part_of(kind: Kind, append: &[u8], count: u64) -> Option<Bytes> {
    let count = usize::try_from(count).ok()?;
    let messages: Vec<&[u8]> = messages(append).collect();
    match kind {
        Kind::Json => {
            let part = messages.get(..count)?;
            Some(frame::encode(part.iter().copied()))
        }
        Kind::Text | Kind::Binary => {
            let part = messages.first()?.get(..count)?;
            Some(frame::encode([part].into_iter()))
        }
    }
}

/// One append of two: it becomes one record, so no position between them may look like a beginning.
fn join(kind: Kind, first: Option<Bytes>, second: Option<Bytes>) -> Option<Bytes> {
    let (Some(first), Some(second)) = (&first, &second) else {
        return first.or(second);
    };
    let both: Vec<&[u8]> = messages(first).chain(messages(second)).collect();
    Some(match kind {
        Kind::Json => frame::encode(both.into_iter()),
        Kind::Text | Kind::Binary => frame::encode([&both.concat()[..]].into_iter()),
    })
}

fn messages(append: &[u8]) -> impl Iterator<Item = &[u8]> {
    Frames::new(append, 0).map(|frame| &append[frame.payload()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fork_inherits_in_part_and_its_body_are_one_append() {
        let source = frame::encode([&b"one"[..], b"two", b"three"].into_iter());
        let body = frame::encode([&b"mine"[..]].into_iter());
        for (kind, expected) in [
            (Kind::Json, vec![&b"one"[..], b"two", b"mine"]),
            (Kind::Text, vec![b"onmine"]),
        ] {
            let part = part_of(kind, &source, 2);
            let both = join(kind, part, Some(body.clone())).unwrap();
            assert_eq!(messages(&both).collect::<Vec<_>>(), expected);
            assert_eq!(frame::append_start(&both, both.len() - 1), 0);
        }
        assert_eq!(join(Kind::Json, None, Some(body.clone())), Some(body));
    }

    #[test]
    fn a_part_is_at_most_the_whole_append() {
        let source = frame::encode([&b"one"[..], b"two"].into_iter());
        assert_eq!(part_of(Kind::Json, &source, 2).as_ref(), Some(&source));
        assert_eq!(part_of(Kind::Json, &source, 3), None);
        let source = frame::encode([&b"one"[..]].into_iter());
        assert_eq!(part_of(Kind::Binary, &source, 3).as_ref(), Some(&source));
        assert_eq!(part_of(Kind::Binary, &source, 4), None);
    }
}
