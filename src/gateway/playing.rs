//! A recorded answer, on a connection without its session: as its client would have got it from the
//! upstream. A recording that did not complete is an answer that breaks off.

use super::bare::{Begun, Connection};
use super::connection::Open;
use super::session::Gateway;
use super::wire::{left, write_chunk};
use crate::recorder::{Next, Playback};
use crate::types::Offset;
use crate::waits::in_time;
use std::sync::Arc;
use std::time::Duration;

/// A recorded answer whose head is written.
pub(super) struct Playing {
    pub(super) playback: Box<Playback>,
    pub(super) begun: Begun,
}

/// How an answer ended.
enum Ended {
    Whole,
    /// As the recording did.
    Broken,
    /// The client has left, or takes nothing.
    Left,
}

impl Playing {
    /// Sends what is recorded until the answer ends, and gives the connection to its next request.
    pub(super) async fn run(
        mut self: Box<Self>,
        mut connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
    ) {
        let ended = self.send(&mut connection, gateway.write_timeout).await;
        if matches!(ended, Ended::Left) && self.playback.goes_on() {
            gateway.server.metrics.recordings.disconnects.inc();
        }
        let Self { playback, begun } = *self;
        let position = Offset(playback.position()).to_string();
        let whole = matches!(ended, Ended::Whole);
        begun.end(connection, gateway, open, position, whole).await;
    }

    async fn send(&mut self, connection: &mut Connection, write_timeout: Duration) -> Ended {
        loop {
            let next = tokio::select! {
                biased;
                next = self.playback.next() => next,
                () = left(&mut connection.stream, &mut connection.ahead) => return Ended::Left,
            };
            let bytes = match next {
                Next::Bytes(bytes) => bytes,
                Next::End => return Ended::Whole,
                Next::Broken(_) => return Ended::Broken,
            };
            self.begun.sent.bytes += bytes.len() as u64;
            let written = write_chunk(&mut connection.stream, &bytes);
            if !matches!(in_time(write_timeout, written).await, Ok(Ok(()))) {
                return Ended::Left;
            }
        }
    }
}
