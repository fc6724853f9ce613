//! Reading a log under test, and comparing it with the model.

use super::model::{Model, Stored};
use super::requests::Paths;
use super::world::{World, path_of};
use crate::frame::Frames;
use crate::hub::Run;
use crate::log::state::Unavailable;
use crate::log::{Answer, AnswerBody, Look, ReadError, Stored as FromStore};
use crate::types::Position;

/// What one answer held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) from: Position,
    pub(super) to: Position,
    pub(super) appends: Vec<Stored>,
    pub(super) up_to_date: bool,
    /// Whether it says that nothing will ever follow.
    pub(super) closed: bool,
    pub(super) fixed: bool,
}

impl World {
    /// A stream from where it begins to its end, or why it does not answer.
    pub(super) async fn read_all(&self, path: usize) -> Result<Vec<Stored>, Unavailable> {
        let view = self.view(path).await?;
        let (mut at, tail, mut appends) = (view.earliest, view.tail, Vec::new());
        while at < tail {
            let read = self.read(path, at).await.unwrap();
            at = read.to;
            appends.extend(read.appends);
        }
        Ok(appends)
    }

    /// One answer from `at`, read whole.
    pub(super) async fn read(&self, path: usize, at: Position) -> Result<Read, ReadError> {
        let stream = self.log().stream_to_read(&path_of(path)).await?;
        let answer = self.log().answer(&stream, at).await?;
        let runs = self.runs(&answer).await?;
        Ok(read_of(&answer, &runs))
    }

    /// The same, read at once from the store; `None` if it is in memory.
    async fn read_stored(&self, path: usize, at: Position) -> Option<Read> {
        let stream = self.stream(path).await;
        let Look::Stored(view) = self.log().look(&stream, at).unwrap() else {
            return None;
        };
        let make = |answer: Answer, runs: Vec<Run>| read_of(&answer, &runs);
        let stored = self.log().stored(&stream, view, at, u64::MAX, make);
        match stored.await.unwrap() {
            FromStore::Made(read) => Some(read),
            FromStore::Large(answer) => panic!("{answer:?} was not read whole"),
        }
    }

    async fn runs(&self, answer: &Answer) -> Result<Vec<Run>, ReadError> {
        let parts = match &answer.body {
            AnswerBody::Hot(runs) => return Ok(runs.clone()),
            AnswerBody::Cold(parts) => parts,
        };
        let mut runs = Vec::new();
        let mut at = answer.from;
        while at < answer.to {
            let run = self.log().piece(parts, at).await?;
            at = run.end();
            runs.push(run);
        }
        if let Some(measured) = self.log().measure(parts, answer.from).await? {
            let payloads: Vec<_> = runs.iter().flat_map(payloads).collect();
            let bytes: usize = payloads.iter().map(|payload| payload.len()).sum();
            assert_eq!(measured, (payloads.len() as u64, bytes as u64));
        }
        Ok(runs)
    }

    /// What was trimmed is refused, and the refusal says where the stream begins.
    async fn compare_trimmed(&self, path: usize, at: Position, earliest: Position) {
        let refused = self.read(path, at).await;
        let told =
            matches!(refused, Err(ReadError::Trimmed { earliest: told }) if told == earliest);
        assert!(told, "{refused:?} from {at} of stream {path}");
    }

    /// Compares all streams with the model: what is there, and what is read from everywhere.
    pub(super) async fn compare(&self, model: &Model, paths: Paths) {
        for path in paths {
            self.compare_stream(model, path).await;
        }
    }

    pub(super) async fn compare_stream(&self, model: &Model, path: usize) {
        let seen = self.view(path).await;
        let expected = match (model.alive(path), seen) {
            (Ok(stream), Ok(view)) => {
                assert_eq!((view.tail, view.closed), (stream.tail(), stream.closed));
                assert_eq!(view.earliest, stream.earliest, "stream {path}");
                stream
            }
            (expected, seen) => {
                assert_eq!(seen.err(), expected.err(), "stream {path}");
                return;
            }
        };
        let boundaries = expected.boundaries();
        for (index, &from) in boundaries.iter().enumerate() {
            let next = boundaries.get(index + 1);
            // Every position of an append means its beginning; at and behind the tail is nothing.
            let inside = next.map_or(from + 3, |end| end - 1);
            for at in [from, from + 1, inside] {
                if from < expected.earliest {
                    self.compare_trimmed(path, at, expected.earliest).await;
                    continue;
                }
                let stored = self.read_stored(path, at).await;
                let read = self.read(path, at).await.unwrap();
                assert!(stored.is_none_or(|stored| stored == read));
                assert_eq!(read.from, from, "asked from {at} of stream {path}");
                let rest = expected.appends[index..].iter();
                let held: Vec<_> = rest.take_while(|stored| stored.end <= read.to).collect();
                assert_eq!(read.appends.iter().collect::<Vec<_>>(), held);
                assert!(
                    read.to > from || next.is_none(),
                    "an answer holds something"
                );
                let at_end = read.to == expected.tail();
                assert_eq!(read.up_to_date, at_end);
                assert_eq!(read.closed, at_end && expected.closed);
            }
        }
    }
}

pub(super) fn payloads(run: &Run) -> impl Iterator<Item = &[u8]> {
    Frames::new(&run.frames, 0).map(|frame| &run.frames[frame.payload()])
}

fn read_of(answer: &Answer, runs: &[Run]) -> Read {
    let mut at = answer.from;
    for run in runs {
        assert_eq!(run.start, at, "the pieces of an answer join");
        at = run.end();
    }
    assert_eq!(at, answer.to, "an answer is as long as it says");
    Read {
        from: answer.from,
        to: answer.to,
        appends: appends_of(runs),
        up_to_date: answer.up_to_date(),
        closed: answer.up_to_date() && answer.view.closed,
        fixed: answer.fixed(),
    }
}

fn appends_of(runs: &[Run]) -> Vec<Stored> {
    let mut appends = Vec::new();
    let mut messages = Vec::new();
    for run in runs {
        for frame in Frames::new(&run.frames, 0) {
            messages.push(run.frames[frame.payload()].to_vec());
            if frame.ends_append {
                appends.push(Stored {
                    end: run.start + frame.end as u64,
                    messages: std::mem::take(&mut messages),
                });
            }
        }
    }
    assert!(messages.is_empty(), "an answer ends with an append");
    appends
}
