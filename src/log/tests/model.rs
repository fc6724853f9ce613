//! The protocol's rules once more, as plainly as possible: what the log is compared with.

use super::requests::{self, Append, Create, Fork, Request, Stamp};
use crate::log::CommitError;
use crate::log::state::{AppendRefusal, Unavailable};
use crate::types::{Lifetime, Position, Retention, UnixMs};
use std::collections::BTreeMap;

pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain";
pub(super) const BINARY: &str = "application/octet-stream";

/// Producers that a stream may have.
pub(super) const PRODUCERS_MAX: u32 = 3;

/// Streams that a fork may inherit from.
pub(super) const FORK_DEPTH_MAX: usize = 2;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Created {
        new: bool,
        tail: Position,
        closed: bool,
    },
    NotCreated(&'static str),
    Appended {
        duplicate: bool,
        tail: Position,
        closed: bool,
        producer_seq: Option<u64>,
    },
    NotAppended(AppendRefusal),
    Deleted,
    Touched,
    Unavailable(Unavailable),
    NotCommitted(CommitError),
}

/// The messages of one request, and where they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) end: Position,
    pub(super) messages: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Tells streams apart that follow each other at a path.
    pub(super) number: u64,
    pub(super) content_type: &'static str,
    lifetime: Lifetime,
    pub(super) retention: Retention,
    last_used_ms: UnixMs,
    pub(super) fork: Option<Forked>,
    /// Where what is kept begins. The log may choose, within the bounds of the retention.
    pub(super) earliest: Position,
    /// All data, also what was inherited, and what was trimmed since.
    pub(super) appends: Vec<Stored>,
    /// When each of them came here.
    pub(super) times: Vec<UnixMs>,
    /// Of how many streams there is data up to each of them.
    depths: Vec<usize>,
    /// The same for what is appended here.
    depth: usize,
    pub(super) closed: bool,
    closed_by: Option<Stamp>,
    /// The last `Stream-Seq`.
    last_seq: Option<String>,
    /// Epoch and last seq.
    pub(super) producers: BTreeMap<usize, (u64, u64)>,
    pub(super) forks: u32,
    deleted: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Forked {
    source: usize,
    source_number: u64,
    pub(super) offset: Position,
    sub_offset: u64,
    lifetime_inherited: bool,
}

impl Stream {
    pub(super) fn tail(&self) -> Position {
        self.appends.last().map_or(0, |stored| stored.end)
    }

    /// Where appends begin, and the tail.
    pub(super) fn boundaries(&self) -> Vec<Position> {
        let ends = self.appends.iter().map(|stored| stored.end);
        [0].into_iter().chain(ends).collect()
    }

    fn deadline_ms(&self) -> Option<UnixMs> {
        match self.lifetime {
            Lifetime::Unlimited => None,
            Lifetime::Ttl { seconds } => Some(self.last_used_ms + 1000 * seconds),
            Lifetime::Until { at_ms } => Some(at_ms),
        }
    }

    fn expired(&self, now_ms: UnixMs) -> bool {
        self.deadline_ms()
            .is_some_and(|deadline| deadline <= now_ms)
    }

    fn push(&mut self, messages: Vec<Vec<u8>>, now_ms: UnixMs) {
        if messages.is_empty() {
            return;
        }
        let bytes: usize = messages.iter().map(|message| 4 + message.len()).sum();
        let end = self.tail() + bytes as u64;
        self.appends.push(Stored { end, messages });
        self.times.push(now_ms);
        self.depths.push(self.depth);
    }
}

/// The streams by the number of their path.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) streams: BTreeMap<usize, Stream>,
    /// Sources that forks which are gone have not let go of yet.
    releases: Vec<(usize, u64)>,
    pub(super) now_ms: UnixMs,
    last_number: u64,
}

impl Model {
    pub(super) fn at(now_ms: UnixMs) -> Self {
        Self {
            now_ms,
            ..Self::default()
        }
    }

    /// The stream at a path, if it answers.
    pub(super) fn alive(&self, path: usize) -> Result<&Stream, Unavailable> {
        let stream = self.streams.get(&path).ok_or(Unavailable::NotFound)?;
        if stream.deleted || (stream.expired(self.now_ms) && stream.forks > 0) {
            return Err(Unavailable::Gone);
        }
        if stream.expired(self.now_ms) {
            return Err(Unavailable::NotFound);
        }
        Ok(stream)
    }

    pub(super) fn run(&mut self, request: &Request) -> Outcome {
        match request {
            Request::Create(create) => self.create(create),
            Request::Append(append) => self.append(append),
            Request::Delete(path) => self.delete(*path),
            Request::Touch(path) => self.touch(*path),
        }
    }

    fn create(&mut self, create: &Create) -> Outcome {
        match self.alive(create.path) {
            Ok(there) if matches(there, create) => {
                return Outcome::Created {
                    new: false,
                    tail: there.tail(),
                    closed: there.closed,
                };
            }
            Ok(_) => return Outcome::NotCreated("Conflict"),
            Err(Unavailable::Gone) => return Outcome::NotCreated("PathHeld"),
            Err(Unavailable::NotFound) => {}
        }
        let made = match &create.fork {
            Some(fork) => self.make_fork(create, fork),
            None => Ok(self.make(create)),
        };
        let mut stream = match made {
            Ok(stream) => stream,
            Err(refusal) => return Outcome::NotCreated(refusal),
        };
        self.remove(create.path);
        if let Some(fork) = &stream.fork
            && let Some(source) = self.streams.get_mut(&fork.source)
        {
            source.forks += 1;
        }
        self.last_number += 1;
        stream.number = self.last_number;
        let outcome = Outcome::Created {
            new: true,
            tail: stream.tail(),
            closed: stream.closed,
        };
        self.streams.insert(create.path, stream);
        outcome
    }

    fn make(&self, create: &Create) -> Stream {
        let mut stream = Stream {
            number: 0,
            content_type: create.content_type.unwrap_or(BINARY),
            lifetime: create.lifetime.unwrap_or_default(),
            retention: create.retention.unwrap_or_default(),
            earliest: 0,
            last_used_ms: self.now_ms,
            fork: None,
            appends: Vec::new(),
            times: Vec::new(),
            depths: Vec::new(),
            depth: 1,
            closed: create.closed,
            closed_by: None,
            last_seq: None,
            producers: BTreeMap::new(),
            forks: 0,
            deleted: false,
        };
        stream.push(create.messages.clone(), self.now_ms);
        stream
    }

    fn make_fork(&self, create: &Create, fork: &Fork) -> Result<Stream, &'static str> {
        if fork.source == create.path {
            return Err("SourceNotFound");
        }
        let source = self.alive(fork.source).map_err(|error| match error {
            Unavailable::NotFound => "SourceNotFound",
            Unavailable::Gone => "SourceGone",
        })?;
        let content_type = create.content_type.unwrap_or(source.content_type);
        if content_type != source.content_type {
            return Err("SourceContentType");
        }
        let offset = fork.offset.unwrap_or(source.tail());
        if offset <= source.tail() && offset < source.earliest {
            return Err("ForkTrimmed");
        }
        if !source.boundaries().contains(&offset) {
            return Err("ForkOffset");
        }
        let (inherited, rest): (Vec<_>, Vec<_>) =
            (source.appends.iter().cloned()).partition(|stored| stored.end <= offset);
        let depths = &source.depths[..inherited.len()];
        let depth = depths.last().copied().unwrap_or(0);
        if depth > FORK_DEPTH_MAX {
            return Err("ForkTooDeep");
        }
        let mut messages = match (fork.sub_offset, rest.first()) {
            (0, _) => Vec::new(),
            (count, Some(next)) => part(content_type, &next.messages, count)?,
            (_, None) => return Err("ForkSubOffset"),
        };
        messages.extend(create.messages.clone());
        let mut stream = self.make(create);
        stream.content_type = content_type;
        stream.lifetime = create.lifetime.unwrap_or(source.lifetime);
        stream.earliest = source.earliest;
        stream.times = vec![self.now_ms; inherited.len()];
        stream.appends = inherited;
        stream.depths = depths.to_vec();
        stream.depth = depth + 1;
        stream.push(requests::as_sent(content_type, messages), self.now_ms);
        stream.fork = Some(Forked {
            source: fork.source,
            source_number: source.number,
            offset,
            sub_offset: fork.sub_offset,
            lifetime_inherited: create.lifetime.is_none(),
        });
        Ok(stream)
    }

    fn append(&mut self, append: &Append) -> Outcome {
        let now_ms = self.now_ms;
        if let Err(unavailable) = self.alive(append.path) {
            return Outcome::Unavailable(unavailable);
        }
        let Some(stream) = self.streams.get_mut(&append.path) else {
            return Outcome::Unavailable(Unavailable::NotFound);
        };
        let last_seq = append.producer.and_then(|stamp| {
            let (_, last_seq) = stream.producers.get(&stamp.producer)?;
            Some(*last_seq)
        });
        match judge(stream, append) {
            Err(refusal) => Outcome::NotAppended(refusal),
            Ok(duplicate) => {
                if duplicate {
                    stream.last_used_ms = now_ms;
                } else {
                    apply(stream, append, now_ms);
                }
                let seq = append.producer.map(|stamp| stamp.seq);
                Outcome::Appended {
                    duplicate,
                    tail: stream.tail(),
                    closed: stream.closed,
                    producer_seq: if duplicate { last_seq } else { seq },
                }
            }
        }
    }

    fn delete(&mut self, path: usize) -> Outcome {
        if let Err(unavailable) = self.alive(path) {
            return Outcome::Unavailable(unavailable);
        }
        self.remove(path);
        Outcome::Deleted
    }

    fn touch(&mut self, path: usize) -> Outcome {
        if let Err(unavailable) = self.alive(path) {
            return Outcome::Unavailable(unavailable);
        }
        let now_ms = self.now_ms;
        if let Some(stream) = self.streams.get_mut(&path) {
            stream.last_used_ms = now_ms;
        }
        Outcome::Touched
    }

    /// Removes what has expired.
    pub(super) fn expire(&mut self) {
        let expired = |(path, stream): (&usize, &Stream)| {
            (stream.expired(self.now_ms) && !stream.deleted).then_some(*path)
        };
        let due: Vec<_> = self.streams.iter().filter_map(expired).collect();
        for path in due {
            self.remove(path);
        }
    }

    /// Lets go of the sources of all forks that are gone.
    pub(super) fn work(&mut self) {
        while let Some((path, number)) = self.releases.pop() {
            let Some(source) = self.streams.get_mut(&path) else {
                continue;
            };
            assert_eq!(
                source.number, number,
                "a source was replaced under its forks"
            );
            source.forks -= 1;
            if source.forks == 0 && (source.deleted || source.expired(self.now_ms)) {
                self.remove(path);
            }
        }
    }

    /// Removes a stream, or hides it while forks read from it.
    fn remove(&mut self, path: usize) {
        match self.streams.get_mut(&path) {
            Some(stream) if stream.forks > 0 => stream.deleted = true,
            Some(_) => {
                let removed = self.streams.remove(&path);
                let fork = removed.and_then(|stream| stream.fork);
                self.releases
                    .extend(fork.map(|fork| (fork.source, fork.source_number)));
            }
            None => {}
        }
    }
}

/// The first messages (JSON) or bytes of an append.
fn part(
    content_type: &str,
    messages: &[Vec<u8>],
    count: u64,
) -> Result<Vec<Vec<u8>>, &'static str> {
    let count = count as usize;
    if content_type == JSON {
        let part = messages.get(..count).ok_or("ForkSubOffset")?;
        return Ok(part.to_vec());
    }
    let bytes = messages.concat();
    let part = bytes.get(..count).ok_or("ForkSubOffset")?;
    Ok(vec![part.to_vec()])
}

fn matches(there: &Stream, create: &Create) -> bool {
    let content_type = match create.content_type {
        Some(asked) => asked == there.content_type,
        None => create.fork.is_some() || there.content_type == BINARY,
    };
    let inherited = there.fork.as_ref().is_some_and(|f| f.lifetime_inherited);
    let lifetime = match create.lifetime {
        Some(asked) => asked == there.lifetime,
        None => inherited || there.lifetime == Lifetime::Unlimited,
    };
    let fork = match (&create.fork, &there.fork) {
        (None, None) => true,
        (Some(asked), Some(fork)) => {
            asked.source == fork.source
                && asked.offset.is_none_or(|offset| offset == fork.offset)
                && asked.sub_offset == fork.sub_offset
        }
        _ => false,
    };
    let retention = create.retention.unwrap_or_default() == there.retention;
    content_type && lifetime && retention && fork && create.closed == there.closed
}

/// Whether the append is one that was accepted before.
fn judge(stream: &Stream, append: &Append) -> Result<bool, AppendRefusal> {
    if stream.closed {
        let repeats = match append.producer {
            Some(stamp) => stream.closed_by == Some(stamp),
            None => append.close && append.messages.is_empty(),
        };
        return if repeats {
            Ok(true)
        } else {
            Err(AppendRefusal::Closed {
                tail: stream.tail(),
                end: None,
                received_seq: append.producer.map(|stamp| stamp.seq),
            })
        };
    }
    if !append.messages.is_empty() && append.content_type != Some(stream.content_type) {
        return Err(AppendRefusal::ContentType {
            expected: stream.content_type.into(),
        });
    }
    if let Some(stamp) = append.producer
        && judge_producer(stream, stamp)?
    {
        return Ok(true);
    }
    match (&append.stream_seq, &stream.last_seq) {
        (Some(seq), Some(last)) if seq <= last => Err(AppendRefusal::StreamSeq {
            last: last.as_str().into(),
        }),
        _ => Ok(false),
    }
}

fn judge_producer(stream: &Stream, stamp: Stamp) -> Result<bool, AppendRefusal> {
    let Some(&(epoch, last)) = stream.producers.get(&stamp.producer) else {
        if stamp.seq > 0 {
            return Err(gap(0, stamp));
        }
        if stream.producers.len() as u32 == PRODUCERS_MAX {
            return Err(AppendRefusal::TooManyProducers(PRODUCERS_MAX));
        }
        return Ok(false);
    };
    if stamp.epoch < epoch {
        return Err(AppendRefusal::StaleEpoch { current: epoch });
    }
    if stamp.epoch > epoch && stamp.seq > 0 {
        return Err(AppendRefusal::EpochStart);
    }
    if stamp.epoch == epoch && stamp.seq > last + 1 {
        return Err(gap(last + 1, stamp));
    }
    Ok(stamp.epoch == epoch && stamp.seq <= last)
}

fn gap(expected: u64, stamp: Stamp) -> AppendRefusal {
    AppendRefusal::SeqGap {
        expected,
        received: stamp.seq,
    }
}

fn apply(stream: &mut Stream, append: &Append, now_ms: UnixMs) {
    stream.push(append.messages.clone(), now_ms);
    stream.last_used_ms = now_ms;
    if let Some(seq) = &append.stream_seq {
        stream.last_seq = Some(seq.clone());
    }
    if let Some(stamp) = append.producer {
        stream
            .producers
            .insert(stamp.producer, (stamp.epoch, stamp.seq));
    }
    if append.close {
        stream.closed = true;
        stream.closed_by = append.producer;
    }
}
