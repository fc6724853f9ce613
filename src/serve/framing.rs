//! Request bodies as the frames of one append.

use super::{ServeError, Server};
use crate::frame;
use crate::log::CommitError;
use crate::protocol::json::{self, JsonError};
use crate::types::Kind;
use bytes::Bytes;

/// Longer bodies are framed where they hold up nobody. To copy is quicker than to split.
const SPLIT_BYTES_MAX: usize = 64 * 1024;
const COPIED_BYTES_MAX: usize = 1024 * 1024;

/// A body as frames; without any, if nothing is to be appended.
#[derive(Default)]
pub(super) struct Framed {
    pub(super) frames: Option<Bytes>,
    pub(super) messages: u64,
}

/// Whether it takes long to frame a body.
pub(super) fn is_long(kind: Kind, body: &[u8]) -> bool {
    let bytes_max = match kind {
        Kind::Json => SPLIT_BYTES_MAX,
        Kind::Text | Kind::Binary => COPIED_BYTES_MAX,
    };
    body.len() > bytes_max
}

/// Frames a body: JSON as its elements, anything else as one message.
pub(super) fn frame(kind: Kind, body: &[u8]) -> Result<Framed, JsonError> {
    if body.is_empty() {
        return Ok(Framed::default());
    }
    if kind != Kind::Json {
        return Ok(Framed {
            frames: Some(frame::encode([body].into_iter())),
            messages: 1,
        });
    }
    let append = json::frame(body)?;
    Ok(
        append.map_or_else(Framed::default, |(frames, messages)| Framed {
            frames: Some(frames),
            messages,
        }),
    )
}

impl Server {
    /// Frames a long body, when it has its turn.
    pub(super) async fn frame_long(
        &self,
        kind: Kind,
        body: Bytes,
    ) -> Result<Result<Framed, JsonError>, ServeError> {
        let turn = self.framing.wait().await;
        let turn = turn.ok_or(ServeError::TooManyBodies)?;
        let framed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            frame(kind, &body)
        });
        // It is only cut off with the runtime.
        framed.await.map_err(|_| CommitError::Stopped.into())
    }
}
