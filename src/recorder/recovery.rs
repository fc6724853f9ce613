//! Recordings that a crash cut off.

use super::{RecordError, Recorder};
use crate::log::AppendError;
use crate::types::{Outcome, StreamEnd, StreamId, StreamPath};
use bytes::Bytes;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Why a recording failed that was running when the server ended.
pub(super) const INTERRUPTED: &str = "interrupted";

impl Recorder {
    /// Closes the streams of recordings that were running when the server last ended.
    pub async fn recover(self: &Arc<Self>) -> Result<(), RecordError> {
        // Together, so that they share syncs.
        let mut closing = JoinSet::new();
        for (id, path) in self.log.take_unfinished() {
            let recorder = self.clone();
            closing.spawn(async move { recorder.interrupt_left(id, &path).await });
        }
        while let Some(closed) = closing.join_next().await {
            closed.unwrap_or(Err(RecordError::Aborted))?;
        }
        Ok(())
    }

    async fn interrupt_left(&self, id: StreamId, path: &StreamPath) -> Result<(), RecordError> {
        let stream = self.log.stream(path).await?;
        let view = match stream.view(self.clock.now_ms()) {
            Ok(view) if view.meta.id == id && !view.closed => view,
            _ => return Ok(()),
        };
        let end = StreamEnd::new(Outcome::Failed, Some(INTERRUPTED));
        let closed = async {
            let closing = self.append(&stream, &view.meta, Bytes::new(), Some(&end));
            closing.await?.durable().await
        };
        match closed.await {
            Ok(_) => tracing::info!(stream = path.path(), "a recording was interrupted"),
            // Deleted or closed meanwhile.
            Err(AppendError::Unavailable(_) | AppendError::Refused(_)) => {}
            Err(AppendError::Commit(error)) => return Err(error.into()),
            Err(AppendError::Read(error)) => return Err(error.into()),
        }
        Ok(())
    }
}
