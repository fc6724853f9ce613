//! Finding the answer to a catch-up read: in the memory of the stream, among the bodies that are
//! kept, or in the store.

use super::Server;
use super::bodies::{Kept, Key};
use super::compress::Wanted;
use crate::hub::{Run, View};
use crate::log::kv::KvError;
use crate::log::{Answer, AnswerBody, Look, ReadError, Stored, Stream};
use crate::protocol::request::From;
use crate::types::{Coding, Position};
use std::sync::Arc;

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
    /// What is answered to a read: one from the start begins where the stream does by then.
    pub(super) async fn answer_from(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        from: From,
        at: Position,
        wanted: Wanted<'_>,
    ) -> Result<Found, ReadError> {
        match self.find(stream, at, wanted).await {
            Err(ReadError::Trimmed { earliest }) if from == From::Start => {
                self.find(stream, earliest, wanted).await
            }
            found => found,
        }
    }

    async fn find(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        at: Position,
        wanted: Wanted<'_>,
    ) -> Result<Found, ReadError> {
        let view = match self.log.look(stream, at)? {
            Look::Known(answer) => return Ok(Found::of_log(answer)),
            Look::Stored(view) => view,
        };
        let key = Key::uncoded(&view, at);
        if let Some(found) = self.find_compressed(&view, key, wanted) {
            return Ok(found);
        }
        match self.bodies.get_or_make(key).await {
            Ok(kept) if kept.answers(&view) => Ok(self.reused(view, kept)),
            Ok(kept) => self.renew(stream, at, &kept).await,
            Err(making) => {
                let found = self.make(stream, view, at).await?;
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
    ) -> Result<Found, ReadError> {
        // It may be newer than what was seen.
        let view = match self.log.look(stream, at)? {
            Look::Known(answer) => return Ok(Found::of_log(answer)),
            Look::Stored(view) => view,
        };
        let key = Key::uncoded(&view, at);
        if kept.id() != key.id {
            return self.make(stream, view, at).await;
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
            None => self.make(stream, view, at).await?,
        };
        if let Some(kept) = &found.kept {
            self.bodies.put(key, kept.clone());
        }
        Ok(found)
    }

    /// Reads an answer from the store and makes its body, unless that is too large to be kept.
    async fn make(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        view: View,
        at: Position,
    ) -> Result<Found, ReadError> {
        let _turn = self.bodies.turn().await;
        let bytes_max = self.bodies.body_bytes_max();
        let Stored { answer, runs } = self.log.stored(stream, view, at, bytes_max).await?;
        let Some(runs) = runs else {
            return Ok(Found::of_log(answer));
        };
        self.encode(answer, runs, |server, answer, runs| {
            server.bodies.make(answer, runs)
        })
        .await
    }

    /// The answer that begins with a kept body and goes on with what was appended since; `None` if
    /// there is no such answer.
    async fn extend(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        kept: &Arc<Kept>,
    ) -> Result<Option<Found>, ReadError> {
        let begin = kept.end();
        let (rest, runs) = match self.log.look(stream, begin)? {
            Look::Known(mut answer) => match &mut answer.body {
                AnswerBody::Hot(runs) => {
                    let runs = std::mem::take(runs);
                    (answer, runs)
                }
                AnswerBody::Cold(_) => return Ok(None),
            },
            Look::Stored(view) => {
                let bytes_max = self.bodies.body_bytes_max();
                match self.log.stored(stream, view, begin, bytes_max).await? {
                    Stored {
                        answer,
                        runs: Some(runs),
                    } => (answer, runs),
                    Stored { runs: None, .. } => return Ok(None),
                }
            }
        };
        let joins = rest.from == begin && rest.up_to_date() && kept.is_prefix(&rest.view);
        if !joins || rest.view.meta.id != kept.id() {
            return Ok(None);
        }
        let answer = kept.extended(rest.view);
        let kept = kept.clone();
        let extend = move |server: &Self, answer: &Answer, runs: &[Run]| {
            server.bodies.extend(&kept, answer, runs)
        };
        self.encode(answer, runs, extend).await.map(Some)
    }

    /// Makes a body of what was read, where that holds up nobody.
    async fn encode(
        self: &Arc<Self>,
        answer: Answer,
        runs: Vec<Run>,
        make: impl FnOnce(&Self, &Answer, &[Run]) -> Kept + Send + 'static,
    ) -> Result<Found, ReadError> {
        let server = self.clone();
        let encode = move || {
            let kept = Arc::new(make(&server, &answer, &runs));
            Found::made(answer.view, kept)
        };
        self.metrics.kept_answers.made.inc();
        tokio::task::spawn_blocking(encode)
            .await
            .map_err(|_| ReadError::Store(KvError("a body was cut off".into())))
    }
}
