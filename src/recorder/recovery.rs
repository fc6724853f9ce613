//! Recordings that a crash cut off.

use super::{RecordError, Recorder};
use crate::log::AppendError;
use crate::types::{Outcome, StreamEnd};
use bytes::Bytes;

/// Why a recording failed that was running when the server ended.
pub(super) const INTERRUPTED: &str = "interrupted";

impl Recorder {
    /// Closes the streams of recordings that were running when the server last ended.
    pub async fn recover(&self) -> Result<(), RecordError> {
        let end = StreamEnd::new(Outcome::Failed, Some(INTERRUPTED));
        for (id, path) in self.log.take_unfinished() {
            let stream = self.log.stream(&path).await?;
            let Ok(view) = stream.view(self.clock.now_ms()) else {
                continue;
            };
            if view.meta.id != id || view.closed {
                continue;
            }
            match self
                .append(&stream, &view.meta, Bytes::new(), Some(&end))
                .await
            {
                Ok(()) => tracing::info!(stream = path.path(), "a recording was interrupted"),
                Err(AppendError::Unavailable(_) | AppendError::Refused(_)) => {}
                Err(AppendError::Commit(error)) => return Err(error.into()),
                Err(AppendError::Read(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
