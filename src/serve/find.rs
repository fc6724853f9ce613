//! Finding the answer to a catch-up read: in the memory of the stream, among the bodies that are
//! kept, or in the store.

use super::bodies::{Kept, Key};
use super::compress::Wanted;
use super::{ServeError, Server};
use crate::hub::{Run, View};
use crate::log::kv::KvError;
use crate::log::{Answer, AnswerBody, Look, ReadError, Stored, Stream};
use crate::types::{Coding, Position};
use std::sync::Arc;
use tokio::time::Instant;

/// An answer, and its body if that is kept.
pub(super) struct Found {
    pub(super) answer: Answer,
    pub(super) kept: Option<Arc<Kept>>,
}

impl Found {
    fn of_log(answer: Answer) -> Self {
        Self { answer, kept: None }
    }

    /// How the body is compressed.
    pub(super) fn coding(&self) -> Option<Coding> {
        self.kept.as_ref()?.coding()
    }

    fn made(view: View, kept: Arc<Kept>) -> Self {
        Self {
            answer: kept.answer(view),
            kept: Some(kept),
        }
    }
}

impl Server {
    /// What is answered to a read that begins at `at`.
    pub(super) async fn find(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        at: Position,
        wanted: Wanted<'_>,
    ) -> Result<Found, ServeError> {
        let view = match self.log.look(stream, at)? {
            Look::Known(answer) => return Ok(Found::of_log(answer)),
            Look::Stored(view) => view,
        };
        let key = Key::uncoded(&view, at);
        if let Some(found) = self.find_compressed(&view, key, wanted) {
            return Ok(found);
        }
        // To wait for others who make it counts as well.
        let deadline = self.bodies.making.deadline();
        match self.bodies.get_or_make(key).await {
            Ok(kept) if kept.answers(&view) => Ok(self.reused(view, kept)),
            Ok(kept) => self.renew(stream, at, &kept, deadline).await,
            Err(making) => {
                let found = self.make(stream, view, at, deadline).await?;
                if let Some(kept) = &found.kept {
                    let _ = making.insert(kept.clone());
                }
                Ok(found)
            }
        }
    }

    fn reused(&self, view: View, kept: Arc<Kept>) -> Found {
        self.metrics.kept_answers.reused.inc();
        Found::made(view, kept)
    }

    /// The answer as the client wants it, if it was compressed before.
    fn find_compressed(&self, view: &View, key: Key, wanted: Wanted<'_>) -> Option<Found> {
        let coding = Some(wanted.coding?);
        let kept = self.bodies.get(Key { coding, ..key })?;
        let usable = kept.is_smaller() && kept.answers(view) && self.bodies.has_room();
        // What was seen of the stream may be older than its closing.
        (usable && wanted.applies(&kept.answer(view.clone())))
            .then(|| self.reused(view.clone(), kept))
    }

    /// The answer where a body is kept that does not fit the stream as it was seen.
    async fn renew(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        at: Position,
        kept: &Arc<Kept>,
        deadline: Instant,
    ) -> Result<Found, ServeError> {
        // It may be newer than what was seen.
        let view = match self.log.look(stream, at)? {
            Look::Known(answer) => return Ok(Found::of_log(answer)),
            Look::Stored(view) => view,
        };
        let key = Key::uncoded(&view, at);
        if kept.id() != key.id {
            return self.make(stream, view, at, deadline).await;
        }
        if kept.answers(&view) {
            return Ok(self.reused(view, kept.clone()));
        }
        let extended = if kept.is_prefix(&view) {
            self.extend(stream, kept).await?
        } else {
            None
        };
        let found = match extended {
            Some(found) => found,
            None => self.make(stream, view, at, deadline).await?,
        };
        if let Some(kept) = &found.kept {
            self.bodies.put(key, kept.clone());
        }
        Ok(found)
    }

    /// Reads an answer from the store and makes its body, unless that is too large to be kept: when
    /// it has its turn, which must come before the deadline.
    async fn make(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        view: View,
        at: Position,
        deadline: Instant,
    ) -> Result<Found, ServeError> {
        let turn = self.bodies.making.wait_until(deadline).await;
        let turn = Arc::new(turn.ok_or(ServeError::TooManyFetches)?);
        let (server, bytes_max) = (self.clone(), self.bodies.body_bytes_max());
        // The work goes on if its reader leaves, and keeps its turn then.
        let held = turn.clone();
        let make = move |answer: Answer, runs: Vec<Run>| {
            let _held = held;
            let kept = server.bodies.make(&answer, &runs);
            server.made(answer.view, kept)
        };
        let stored = self.log.stored(stream, view, at, bytes_max, make).await?;
        Ok(match stored {
            Stored::Made(found) => found,
            Stored::Large(answer) => Found::of_log(answer),
        })
    }

    /// The answer that begins with a kept body and goes on with what was appended since; `None` if
    /// there is no such answer.
    async fn extend(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        kept: &Arc<Kept>,
    ) -> Result<Option<Found>, ReadError> {
        let begin = kept.end();
        let (server, kept) = (self.clone(), kept.clone());
        let extend = move |rest: Answer, runs: Vec<Run>| server.extended(&kept, rest, &runs);
        match self.log.look(stream, begin)? {
            Look::Known(mut rest) => {
                let AnswerBody::Hot(runs) = &mut rest.body else {
                    return Ok(None);
                };
                let runs = std::mem::take(runs);
                // A long body takes a while.
                tokio::task::spawn_blocking(move || extend(rest, runs))
                    .await
                    .map_err(|_| ReadError::Store(KvError("a body was cut off".into())))
            }
            Look::Stored(view) => {
                let bytes_max = self.bodies.body_bytes_max();
                let stored = self.log.stored(stream, view, begin, bytes_max, extend);
                Ok(match stored.await? {
                    Stored::Made(found) => found,
                    Stored::Large(_) => None,
                })
            }
        }
    }

    /// The answer of a kept body and of the rest, if they join each other.
    fn extended(&self, kept: &Kept, rest: Answer, runs: &[Run]) -> Option<Found> {
        let joins = rest.from == kept.end() && rest.up_to_date() && kept.is_prefix(&rest.view);
        if !joins || rest.view.meta.id != kept.id() {
            return None;
        }
        let answer = kept.extended(rest.view);
        let kept = self.bodies.extend(kept, &answer, runs);
        Some(self.made(answer.view, kept))
    }

    fn made(&self, view: View, kept: Kept) -> Found {
        self.metrics.kept_answers.made.inc();
        Found::made(view, Arc::new(kept))
    }
}
