//! A recorded answer, on a connection without its session: as its client would have got it from the
//! upstream. A recording that did not complete is an answer that breaks off.

use super::admission::Open;
use super::bare::{Begun, Connection};
use super::following::{Answer, Back};
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
        self: Box<Self>,
        connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
    ) {
        let Self {
            playback,
            mut begun,
        } = *self;
        let mut answer = Answer {
            playback,
            connection,
            sent_bytes: 0,
        };
        let ended = loop {
            let back;
            (answer, back) = answer.follow().await;
            if let Back::Leave = back {
                break Ended::Whole;
            }
            if let Some(ended) = answer.send_next(gateway.keeping.write_timeout).await {
                break ended;
            }
        };
        if matches!(ended, Ended::Left) && answer.playback.goes_on() {
            gateway.server.metrics.recordings.disconnects.inc();
        }
        begun.sent.bytes += answer.sent_bytes;
        let position = Offset(answer.playback.position()).to_string();
        let whole = matches!(ended, Ended::Whole);
        begun
            .end(answer.connection, gateway, open, position, whole)
            .await;
    }
}

impl Answer {
    /// Sends what comes next. Returns how the answer ended, if it did.
    async fn send_next(&mut self, write_timeout: Duration) -> Option<Ended> {
        let connection = &mut self.connection;
        if !matches!(
            in_time(write_timeout, connection.write_rest()).await,
            Ok(Ok(()))
        ) {
            return Some(Ended::Left);
        }
        let next = tokio::select! {
            biased;
            next = self.playback.next() => next,
            () = left(&mut connection.stream, &mut connection.ahead) => return Some(Ended::Left),
        };
        let bytes = match next {
            Next::Bytes(bytes) => bytes,
            Next::End => return Some(Ended::Whole),
            Next::Broken(_) => return Some(Ended::Broken),
        };
        self.sent_bytes += bytes.len() as u64;
        let written = write_chunk(&mut connection.stream, &bytes);
        let written = in_time(write_timeout, written).await;
        (!matches!(written, Ok(Ok(())))).then_some(Ended::Left)
    }
}
