//! Reading a stream: which bytes an answer holds, and those bytes in bounded pieces.
//!
//! Where answers end is fixed by the data alone, so that all readers and all caches ask for the same
//! ranges: at the end of a sealed segment or, in the open remainder, at the tail. What a fork
//! inherits ends where the fork begins; answers go on across that point, so that a small fork is
//! read whole.

use super::kv::Kv;
use super::segment::{self, cut};
use super::stream::Stream;
use super::{Log, ReadError};
use crate::frame;
use crate::hub::{Run, View};
use crate::types::{Position, StreamId};
use bytes::Bytes;
use std::sync::Arc;

/// About how many bytes are read into memory at once.
const PIECE_BYTES: u64 = 256 * 1024;

/// Inherited bytes after which an answer ends where the fork begins. Not a setting: what was answered
/// once must not change with the settings.
const STITCHED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What one catch-up answer holds.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The stream when the answer was made.
    pub view: View,
    /// Where the append that holds the asked position begins.
    pub from: Position,
    pub to: Position,
    pub body: AnswerBody,
}

/// Where the bytes of an answer are.
#[derive(Clone, Debug)]
pub enum AnswerBody {
    /// In memory.
    Hot(Vec<Run>),
    /// In the store, in parts that join each other.
    Cold(Vec<Part>),
}

/// A part of an answer that lies in the records or in one segment of one stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub id: StreamId,
    pub to: Position,
    /// Where the segment begins that holds the part; `None`: it lies in records.
    pub segment: Option<Position>,
}

impl Answer {
    /// Whether the answer reaches the end of the stream as it was.
    pub fn up_to_date(&self) -> bool {
        self.to == self.view.tail
    }

    /// Whether this answer will be the same for ever: more follows it, or nothing ever will.
    pub fn fixed(&self) -> bool {
        self.view.closed || !self.up_to_date()
    }
}

/// What the memory of a stream tells of a read.
#[derive(Debug)]
pub enum Look {
    /// All of the answer.
    Known(Answer),
    /// The bytes are in the store, of the stream as it is.
    Stored(View),
}

/// An answer from the store.
#[derive(Debug)]
pub enum Stored<T> {
    /// What was made of the answer and all of its bytes.
    Made(T),
    /// An answer with too many bytes to be read at once.
    Large(Answer),
}

impl Log {
    /// What is answered to a read from `at`: nothing if that is the tail or beyond it, and an error
    /// if it lies before what is kept.
    pub async fn answer(&self, stream: &Arc<Stream>, at: Position) -> Result<Answer, ReadError> {
        match self.look(stream, at)? {
            Look::Known(answer) => Ok(answer),
            Look::Stored(view) => {
                let id = view.meta.id;
                let answer = self.cold_answer(stream, view, at).await;
                self.explained(stream, id, at, answer).await
            }
        }
    }

    /// The answer to a read from `at`, if it is in memory.
    pub fn look(&self, stream: &Stream, at: Position) -> Result<Look, ReadError> {
        let (view, hot) = stream
            .tail()
            .read(at, |view| own_end(view, at))
            .ok_or(ReadError::Gone)?;
        if at < view.earliest {
            return Err(ReadError::Trimmed {
                earliest: view.earliest,
            });
        }
        if at >= view.tail {
            return Ok(Look::Known(Answer {
                from: view.tail,
                to: view.tail,
                view,
                body: AnswerBody::Hot(Vec::new()),
            }));
        }
        let Some(mut runs) = hot.filter(|runs| !runs.is_empty()) else {
            return Ok(Look::Stored(view));
        };
        runs[0] = segment::piece(&runs[0], at, u64::MAX);
        Ok(Look::Known(Answer {
            from: runs[0].start,
            to: runs[runs.len() - 1].end(),
            view,
            body: AnswerBody::Hot(runs),
        }))
    }

    /// The answer to a read from `at`, from the store. If it has at most `bytes_max` bytes, they are
    /// read and something is `make`d of them, where neither holds up anybody. They go past the memory
    /// for segments: who reads so much at once keeps what is made of it.
    pub async fn stored<T: Send + 'static>(
        &self,
        stream: &Arc<Stream>,
        view: View,
        at: Position,
        bytes_max: u64,
        make: impl FnOnce(Answer, Vec<Run>) -> T + Send + 'static,
    ) -> Result<Stored<T>, ReadError> {
        let id = view.meta.id;
        let whole_view = view.clone();
        let whole = self.blocking(move |kv: &dyn Kv| {
            let whole = whole_answer(kv, whole_view, at, bytes_max)?;
            Ok(whole.map(|(answer, runs)| make(answer, runs)))
        });
        let stored = match whole.await {
            Ok(Some(made)) => Ok(Stored::Made(made)),
            Ok(None) => self.cold_answer(stream, view, at).await.map(Stored::Large),
            Err(error) => Err(error),
        };
        self.explained(stream, id, at, stored).await
    }

    /// Says of data that is gone whether it was trimmed.
    async fn explained<T>(
        &self,
        stream: &Stream,
        id: StreamId,
        at: Position,
        read: Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        match read {
            Err(ReadError::Gone) => Err(self.why_gone(stream, id, at).await),
            read => read,
        }
    }

    async fn cold_answer(
        &self,
        stream: &Arc<Stream>,
        view: View,
        at: Position,
    ) -> Result<Answer, ReadError> {
        let plan_view = view.clone();
        let parts = self
            .blocking(move |kv: &dyn Kv| plan(kv, &plan_view, at))
            .await?;
        let to = parts.last().map_or(at, |part| part.to);
        let first = self.piece(&parts, at).await?;
        let from = first.start;
        let whole_in_memory = first.end() == to;
        if whole_in_memory && own_end(&view, from) == Some(to) {
            // The next reader of this tail finds it in memory.
            stream.tail().remember(view.meta.id, first.clone());
        }
        let body = if whole_in_memory {
            AnswerBody::Hot(vec![first])
        } else {
            AnswerBody::Cold(parts)
        };
        Ok(Answer {
            view,
            from,
            to,
            body,
        })
    }

    /// The next whole appends of an answer's parts, from the one that holds `at` on: about
    /// [`PIECE_BYTES`], or one append if that is larger.
    pub async fn piece(&self, parts: &[Part], at: Position) -> Result<Run, ReadError> {
        let part = parts
            .iter()
            .find(|part| at < part.to)
            .copied()
            .ok_or(ReadError::Gone)?;
        let run = match part.segment {
            Some(start) => {
                let segment = self.segment(part.id, start).await?;
                // A copy, so that a slow client does not hold the whole segment.
                copied(segment::piece(&segment.run, at, PIECE_BYTES))
            }
            None => {
                self.blocking(move |kv: &dyn Kv| read_open(kv, part.id, at, part.to, PIECE_BYTES))
                    .await?
            }
        };
        Ok(cut(run, part.to))
    }

    /// How many messages and payload bytes the parts hold from `from` on, where that is known
    /// without reading all records.
    pub async fn measure(
        &self,
        parts: &[Part],
        from: Position,
    ) -> Result<Option<(u64, u64)>, ReadError> {
        let (mut at, mut total) = (from, (0, 0));
        for part in parts {
            let Some(start) = part.segment else {
                return Ok(None);
            };
            let segment = self.segment(part.id, start).await?;
            let run = cut(segment.run.clone(), part.to);
            let (messages, bytes) = frame::measure(&run.frames, (at - run.start) as usize);
            total = (total.0 + messages, total.1 + bytes);
            at = part.to;
        }
        Ok(Some(total))
    }

    /// The append that holds `at`; `None` at the tail.
    pub(super) async fn append_at(
        &self,
        stream: &Arc<Stream>,
        view: &View,
        at: Position,
    ) -> Result<Option<Run>, ReadError> {
        let answer = self.answer(stream, at).await?;
        if answer.view.meta.id != view.meta.id {
            return Err(ReadError::Gone);
        }
        let run = match &answer.body {
            AnswerBody::Hot(runs) => match runs.first() {
                Some(run) => run.clone(),
                None => return Ok(None),
            },
            AnswerBody::Cold(parts) => self.piece(parts, at).await?,
        };
        Ok(Some(segment::piece(&run, run.start, 1)))
    }
}

/// Where an answer from `at` ends that lies in the stream's last, unsealed or just sealed, part.
fn own_end(view: &View, at: Position) -> Option<Position> {
    if at < view.meta.start() {
        None
    } else if at >= view.sealed {
        Some(view.tail)
    } else if at >= view.last_seal {
        Some(view.sealed)
    } else {
        None
    }
}

/// The parts of an answer from `at`.
fn plan(kv: &dyn Kv, view: &View, at: Position) -> Result<Vec<Part>, ReadError> {
    let mut parts = Vec::new();
    let mut begin = at;
    for span in view.meta.fork.iter().flat_map(|fork| &fork.spans) {
        if begin >= span.end {
            continue;
        }
        let sealed = segment::bounds(kv, span.id, begin)?;
        let to = sealed.map_or(span.end, |(_, end)| end.min(span.end));
        parts.push(Part {
            id: span.id,
            to,
            segment: sealed.map(|(start, _)| start),
        });
        if to < span.end || to - at >= STITCHED_BYTES_MAX {
            return Ok(parts);
        }
        begin = to;
    }
    if begin < view.tail {
        parts.push(own_part(kv, view, begin)?);
    }
    Ok(parts)
}

fn own_part(kv: &dyn Kv, view: &View, at: Position) -> Result<Part, ReadError> {
    let id = view.meta.id;
    if at >= view.sealed {
        return Ok(Part {
            id,
            to: view.tail,
            segment: None,
        });
    }
    let (start, to) = segment::bounds(kv, id, at)?.ok_or(ReadError::Gone)?;
    Ok(Part {
        id,
        to,
        segment: Some(start),
    })
}

/// The answer to a read from `at` with all its bytes; `None` if they are more than `bytes_max`.
fn whole_answer(
    kv: &dyn Kv,
    view: View,
    at: Position,
    bytes_max: u64,
) -> Result<Option<(Answer, Vec<Run>)>, ReadError> {
    let parts = plan(kv, &view, at)?;
    if parts.last().is_none_or(|part| part.to - at > bytes_max) {
        return Ok(None);
    }
    let runs = read_whole(kv, &parts, at)?;
    let answer = Answer {
        from: runs.first().map_or(at, |run| run.start),
        to: runs.last().map_or(at, Run::end),
        view,
        body: AnswerBody::Cold(parts),
    };
    Ok(Some((answer, runs)))
}

/// Reads all parts of an answer from `at` on, each as one run.
fn read_whole(kv: &dyn Kv, parts: &[Part], mut at: Position) -> Result<Vec<Run>, ReadError> {
    let mut runs = Vec::with_capacity(parts.len());
    for part in parts {
        let run = match part.segment {
            Some(start) => {
                let segment = segment::read(kv, part.id, start)?;
                segment::piece(&segment.run, at, u64::MAX)
            }
            None => read_open(kv, part.id, at, part.to, u64::MAX)?,
        };
        let run = cut(run, part.to);
        at = run.end();
        runs.push(run);
    }
    Ok(runs)
}

/// Reads from what was the open remainder when the answer was made. It may have been sealed and
/// packed since.
fn read_open(
    kv: &dyn Kv,
    id: StreamId,
    at: Position,
    to: Position,
    bytes_max: u64,
) -> Result<Run, ReadError> {
    if let Some(run) = segment::records(kv, id, at, to, bytes_max)? {
        return Ok(run);
    }
    let (start, _) = segment::bounds(kv, id, at)?.ok_or(ReadError::Gone)?;
    let segment = segment::read(kv, id, start)?;
    Ok(copied(segment::piece(&segment.run, at, bytes_max)))
}

fn copied(mut run: Run) -> Run {
    run.frames = Bytes::copy_from_slice(&run.frames);
    run
}
