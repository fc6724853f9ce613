//! A recording while it runs: shared by the task that owns the upstream call and all who wait for it.

use super::names::{Id, Scope};
use super::note::Note;
use super::readers::{Reader, Readers};
use crate::hub::View;
use crate::log::Stream;
use crate::types::{Position, StreamMeta, StreamPath};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// An upstream call whose answer is, or may become, a stream.
pub struct Recording {
    pub path: StreamPath,
    /// What the ids of its events begin with.
    pub(super) id: Id,
    /// Whose it is, and what was asked.
    pub(super) asked: Asked,
    /// Whether it is a feed that all clients share.
    pub shared: bool,
    pub(super) readers: Arc<Readers>,
    abort: CancellationToken,
    /// Cancelled when nothing more will be recorded.
    pub(super) over: CancellationToken,
    stage: watch::Sender<Stage>,
}

/// What a request must have in common with a recording to attach to it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) route: Arc<str>,
    pub(super) scope: Scope,
    pub(super) fingerprint: String,
}

/// How far a recording has come.
#[derive(Clone)]
pub(super) enum Stage {
    /// The upstream has not answered yet.
    Calling,
    /// Its answer is being recorded.
    Started(Arc<Started>),
    /// There is no recording, or no more: its stream says how it ended, if there is one.
    Over,
}

/// A recording that has its stream.
pub(super) struct Started {
    pub(super) stream: Arc<Stream>,
    pub(super) meta: Arc<StreamMeta>,
    pub(super) note: Note,
    /// Where in the stream it began.
    pub(super) begin: Position,
}

impl Started {
    /// The recording that a stream holds, and that may go on; `None` if it holds none.
    pub(super) fn stored(stream: Arc<Stream>, view: &View) -> Option<Self> {
        let note = view.meta.note.as_deref().and_then(Note::read)?;
        Some(Self {
            stream,
            meta: view.meta.clone(),
            note,
            begin: view.tail,
        })
    }

    pub(super) fn content_type(&self) -> &str {
        self.note.content_type().unwrap_or_default()
    }
}

impl Recording {
    pub(super) fn new(path: StreamPath, id: Id, asked: Asked, shared: bool) -> Self {
        Self {
            path,
            id,
            asked,
            shared,
            readers: Arc::default(),
            abort: CancellationToken::new(),
            over: CancellationToken::new(),
            stage: watch::Sender::new(Stage::Calling),
        }
    }

    /// Counts a reader, for as long as what it returns lives.
    pub fn enter(&self) -> Reader {
        self.readers.enter()
    }

    /// Ends the upstream call, and returns when the closing of the stream is durable.
    pub async fn abort(&self) {
        self.abort.cancel();
        self.ended().await;
    }

    /// Returns when nothing more will be recorded.
    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    pub(super) async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    pub(super) fn come_to(&self, stage: Stage) {
        if matches!(stage, Stage::Over) {
            self.over.cancel();
        }
        self.stage.send_replace(stage);
    }

    /// Whether the upstream has not answered yet.
    pub(super) fn is_calling(&self) -> bool {
        matches!(&*self.stage.borrow(), Stage::Calling)
    }

    /// Waits until the upstream has answered; `None` if there is no recording after all.
    pub(super) async fn started(&self) -> Option<Arc<Started>> {
        let mut stage = self.stage.subscribe();
        let known = stage.wait_for(|stage| !matches!(stage, Stage::Calling));
        match &*known.await.ok()? {
            Stage::Started(started) => Some(started.clone()),
            Stage::Calling | Stage::Over => None,
        }
    }
}
