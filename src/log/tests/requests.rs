//! Requests at random. They are drawn without knowing the streams, so that a failing sequence can be
//! shortened, and resolved against the model when their turn comes.

use super::model::{BINARY, JSON, Model, Stream, TEXT};
use crate::types::{Lifetime, Position, Retention};
use proptest::prelude::*;
use proptest::sample::Index;
use std::ops::Range;

#[derive(Clone, Debug)]
pub(super) struct Create {
    pub(super) path: usize,
    pub(super) content_type: Option<&'static str>,
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) closed: bool,
    pub(super) lifetime: Option<Lifetime>,
    pub(super) retention: Option<Retention>,
    pub(super) fork: Option<Fork>,
}

#[derive(Clone, Debug)]
pub(super) struct Fork {
    pub(super) source: usize,
    pub(super) offset: Option<Position>,
    pub(super) sub_offset: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Append {
    pub(super) path: usize,
    pub(super) content_type: Option<&'static str>,
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) stream_seq: Option<String>,
    pub(super) close: bool,
    pub(super) producer: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) producer: usize,
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    Create(Create),
    Append(Append),
    Delete(usize),
    /// A read, which counts as a use.
    Touch(usize),
}

/// A stream of bytes without data.
pub(super) fn stream(path: usize) -> Create {
    Create {
        path,
        content_type: Some(BINARY),
        messages: Vec::new(),
        closed: false,
        lifetime: None,
        retention: None,
        fork: None,
    }
}

/// A fork at the tail of a stream.
pub(super) fn fork(path: usize, source: usize) -> Create {
    Create {
        content_type: None,
        fork: Some(Fork {
            source,
            offset: None,
            sub_offset: 0,
        }),
        ..stream(path)
    }
}

/// An append to a stream of bytes.
pub(super) fn append(path: usize, message: &[u8]) -> Append {
    Append {
        path,
        content_type: Some(BINARY),
        messages: vec![message.to_vec()],
        stream_seq: None,
        close: false,
        producer: None,
    }
}

/// A close without data.
pub(super) fn close(path: usize) -> Append {
    Append {
        messages: Vec::new(),
        close: true,
        ..append(path, b"")
    }
}

impl Request {
    pub(super) fn path(&self) -> usize {
        match self {
            Self::Create(create) => create.path,
            Self::Append(append) => append.path,
            Self::Delete(path) | Self::Touch(path) => *path,
        }
    }
}

/// A request that is not resolved yet.
#[derive(Clone, Debug)]
pub(super) enum Draw {
    Create(DrawCreate),
    Append(DrawAppend),
    Delete(Index),
    Touch(Index),
}

#[derive(Clone, Debug)]
pub(super) struct DrawCreate {
    path: Index,
    content_type: Option<&'static str>,
    messages: Vec<Vec<u8>>,
    closed: bool,
    lifetime: Option<DrawLifetime>,
    retention: Option<Retention>,
    fork: Option<DrawFork>,
}

#[derive(Clone, Debug)]
enum DrawLifetime {
    Ttl(u64),
    UntilIn(u64),
}

#[derive(Clone, Debug)]
struct DrawFork {
    source: Index,
    offset: DrawOffset,
    sub_offset: u64,
}

#[derive(Clone, Debug)]
enum DrawOffset {
    Tail,
    Boundary(Index),
    Anywhere(Index),
    Beyond,
}

#[derive(Clone, Debug)]
pub(super) struct DrawAppend {
    path: Index,
    content_type: DrawType,
    messages: Vec<Vec<u8>>,
    stream_seq: Option<String>,
    close: bool,
    producer: Option<DrawStamp>,
}

#[derive(Clone, Debug)]
enum DrawType {
    Right,
    Wrong,
    None,
}

#[derive(Clone, Debug)]
struct DrawStamp {
    producer: usize,
    epoch: DrawEpoch,
    seq: DrawSeq,
}

#[derive(Clone, Debug)]
enum DrawEpoch {
    Same,
    Next,
    Last,
}

#[derive(Clone, Debug)]
enum DrawSeq {
    Next,
    Repeated(u64),
    Gap,
    Zero,
}

pub(super) fn draws() -> impl Strategy<Value = Draw> {
    prop_oneof![
        6 => creates().prop_map(Draw::Create),
        14 => appends().prop_map(Draw::Append),
        2 => any::<Index>().prop_map(Draw::Delete),
        2 => any::<Index>().prop_map(Draw::Touch),
    ]
}

/// Up to four messages; none with this weight against ten.
fn messages(none: u32) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let message = prop::collection::vec(any::<u8>(), 1..24);
    prop_oneof![
        none => Just(Vec::new()),
        10 => prop::collection::vec(message, 1..=4),
    ]
}

fn content_types() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec![JSON, TEXT, BINARY]))
}

prop_compose! {
    fn creates()(
        path: Index,
        content_type in content_types(),
        messages in messages(8),
        closed in prop::bool::weighted(0.15),
        lifetime in prop::option::weighted(0.3, lifetimes()),
        retention in prop::option::weighted(0.4, retentions()),
        fork in prop::option::weighted(0.5, forks()),
    ) -> DrawCreate {
        DrawCreate { path, content_type, messages, closed, lifetime, retention, fork }
    }
}

prop_compose! {
    fn retentions()(
        bytes in prop::option::of(prop_oneof![1u64..50, 50u64..600]),
        age_ms in prop::option::of(1000u64..6000),
    ) -> Retention {
        Retention { bytes, age_ms }
    }
}

fn lifetimes() -> impl Strategy<Value = DrawLifetime> {
    prop_oneof![
        (1u64..6).prop_map(DrawLifetime::Ttl),
        (0u64..8000).prop_map(DrawLifetime::UntilIn),
    ]
}

prop_compose! {
    fn forks()(
        source: Index,
        offset in prop_oneof![
            2 => Just(DrawOffset::Tail),
            6 => any::<Index>().prop_map(DrawOffset::Boundary),
            1 => any::<Index>().prop_map(DrawOffset::Anywhere),
            1 => Just(DrawOffset::Beyond),
        ],
        sub_offset in prop_oneof![2 => Just(0u64), 1 => 0u64..30],
    ) -> DrawFork {
        DrawFork { source, offset, sub_offset }
    }
}

prop_compose! {
    fn appends()(
        path: Index,
        content_type in prop_oneof![
            12 => Just(DrawType::Right),
            1 => Just(DrawType::Wrong),
            1 => Just(DrawType::None),
        ],
        messages in messages(1),
        stream_seq in prop::option::weighted(0.15, "[a-c]{1,3}"),
        close in prop::bool::weighted(0.06),
        producer in prop::option::weighted(0.5, stamps()),
    ) -> DrawAppend {
        DrawAppend { path, content_type, messages, stream_seq, close, producer }
    }
}

prop_compose! {
    fn stamps()(
        producer in 0usize..4,
        epoch in prop_oneof![
            8 => Just(DrawEpoch::Same),
            1 => Just(DrawEpoch::Next),
            1 => Just(DrawEpoch::Last),
        ],
        seq in prop_oneof![
            8 => Just(DrawSeq::Next),
            3 => (0u64..3).prop_map(DrawSeq::Repeated),
            1 => Just(DrawSeq::Gap),
            2 => Just(DrawSeq::Zero),
        ],
    ) -> DrawStamp {
        DrawStamp { producer, epoch, seq }
    }
}

impl Draw {
    /// The same for a stream that keeps everything.
    pub(super) fn without_retention(mut self) -> Self {
        if let Self::Create(create) = &mut self {
            create.retention = None;
        }
        self
    }

    /// The request that is meant, with the streams as they are, on one of some paths.
    pub(super) fn resolve(self, model: &Model, paths: &Paths) -> Request {
        match self {
            Self::Create(draw) => Request::Create(draw.resolve(model, paths)),
            Self::Append(draw) => Request::Append(draw.resolve(model, paths)),
            Self::Delete(path) => Request::Delete(pick(path, paths)),
            Self::Touch(path) => Request::Touch(pick(path, paths)),
        }
    }
}

pub(super) type Paths = Range<usize>;

fn pick(path: Index, paths: &Paths) -> usize {
    paths.start + path.index(paths.len())
}

impl DrawCreate {
    fn resolve(self, model: &Model, paths: &Paths) -> Create {
        let fork = self.fork.map(|fork| fork.resolve(model, paths));
        let source = fork
            .as_ref()
            .and_then(|fork| model.streams.get(&fork.source));
        let kind = (self.content_type)
            .or(source.map(|source| source.content_type))
            .unwrap_or(BINARY);
        Create {
            path: pick(self.path, paths),
            content_type: self.content_type,
            messages: as_sent(kind, self.messages),
            closed: self.closed,
            lifetime: self.lifetime.map(|lifetime| match lifetime {
                DrawLifetime::Ttl(seconds) => Lifetime::Ttl { seconds },
                DrawLifetime::UntilIn(ms) => Lifetime::Until {
                    at_ms: model.now_ms + ms,
                },
            }),
            retention: self.retention,
            fork,
        }
    }
}

impl DrawFork {
    fn resolve(self, model: &Model, paths: &Paths) -> Fork {
        let source = pick(self.source, paths);
        let boundaries = model.streams.get(&source).map(Stream::boundaries);
        let boundaries = boundaries.unwrap_or_else(|| vec![0]);
        let tail = boundaries[boundaries.len() - 1];
        Fork {
            source,
            offset: match self.offset {
                DrawOffset::Tail => None,
                DrawOffset::Boundary(index) => Some(*index.get(&boundaries)),
                DrawOffset::Anywhere(index) => Some(index.index(tail as usize + 1) as u64),
                DrawOffset::Beyond => Some(tail + 1),
            },
            sub_offset: self.sub_offset,
        }
    }
}

impl DrawAppend {
    fn resolve(self, model: &Model, paths: &Paths) -> Append {
        let path = pick(self.path, paths);
        let stream = model.streams.get(&path);
        let right = stream.map_or(BINARY, |stream| stream.content_type);
        Append {
            path,
            content_type: match self.content_type {
                DrawType::Right => Some(right),
                DrawType::Wrong if right == JSON => Some(TEXT),
                DrawType::Wrong => Some(JSON),
                DrawType::None => None,
            },
            // A request without data is only there to close.
            close: self.close || self.messages.is_empty(),
            messages: as_sent(right, self.messages),
            stream_seq: self.stream_seq,
            producer: self.producer.map(|stamp| stamp.resolve(stream)),
        }
    }
}

impl DrawStamp {
    fn resolve(self, stream: Option<&Stream>) -> Stamp {
        let known = stream.and_then(|stream| stream.producers.get(&self.producer).copied());
        let (epoch, last) = known.unwrap_or((0, 0));
        Stamp {
            producer: self.producer,
            epoch: match self.epoch {
                DrawEpoch::Same => epoch,
                DrawEpoch::Next => epoch + 1,
                DrawEpoch::Last => epoch.saturating_sub(1),
            },
            seq: match self.seq {
                DrawSeq::Next => known.map_or(0, |_| last + 1),
                DrawSeq::Repeated(back) => last.saturating_sub(back),
                DrawSeq::Gap => last + 2,
                DrawSeq::Zero => 0,
            },
        }
    }
}

/// Only JSON has several messages in one append.
pub(super) fn as_sent(content_type: &str, messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if content_type == JSON || messages.is_empty() {
        messages
    } else {
        vec![messages.concat()]
    }
}
