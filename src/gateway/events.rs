//! The events of a live answer, on a connection without its session.

use super::admission::Open;
use super::bare::{Begun, Connection};
use super::crowd::{Crowds, Waiting};
use super::session::Gateway;
use super::wire::{left, write_chunk};
use crate::observe::access::LiveEnd;
use crate::serve::{Hot, Sse};
use crate::waits::in_time;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A live answer whose head is written.
pub(super) struct Events {
    pub(super) live: Box<Sse>,
    pub(super) begun: Begun,
}

/// Where the events of an answer go on.
enum Next {
    /// In a crowd, with all that wait for the same.
    Crowd(Arc<Notify>),
    /// Nowhere: they have ended.
    Ended(LiveEnd<'static>),
    /// Nowhere: nobody reads them any more.
    Broken(LiveEnd<'static>),
}

impl Next {
    /// For why nothing follows.
    fn over(end: LiveEnd<'static>) -> Self {
        if end.is_failure() {
            Self::Broken(end)
        } else {
            Self::Ended(end)
        }
    }
}

impl Events {
    /// Sends the events until the answer ends, and gives the connection to its next request.
    pub(super) async fn run(
        self: Box<Self>,
        connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
    ) {
        self.send(connection, gateway, open, true).await;
    }

    /// The same after the reader was in a crowd, which could not go on with it.
    pub(super) fn go_on(
        self: Box<Self>,
        connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.send(connection, gateway, open, false))
    }

    async fn send(
        mut self: Box<Self>,
        mut connection: Connection,
        gateway: Arc<Gateway>,
        open: Open,
        may_join: bool,
    ) {
        let write_timeout = gateway.keeping.write_timeout;
        let (end, whole) = match self.send_on(&mut connection, write_timeout, may_join).await {
            Next::Crowd(moved) => {
                let reader = Waiting {
                    events: self,
                    connection,
                    open,
                };
                return Crowds::join(&gateway, moved, reader);
            }
            Next::Ended(end) => (end, true),
            Next::Broken(end) => (end, false),
        };
        let Self { live, mut begun } = *self;
        begun.sent.live_end = Some(end);
        let position = live.position();
        begun.end(connection, gateway, open, position, whole).await;
    }

    /// Sends until there is nothing more, nobody reads any more, or there is nothing to do but to
    /// wait with many others. `may_join`: that may be so at once.
    async fn send_on(
        &mut self,
        connection: &mut Connection,
        write_timeout: Duration,
        mut may_join: bool,
    ) -> Next {
        let mut written = in_time(write_timeout, connection.write_rest()).await;
        loop {
            match written {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Next::Broken(LiveEnd::ClientLeft),
                Err(_) => return Next::Broken(LiveEnd::TooSlow),
            }
            let hot = if may_join {
                self.live.hot(Instant::now())
            } else {
                Hot::Unknown
            };
            let events = match hot {
                Hot::Events(events) => events,
                Hot::Nothing | Hot::Unknown => {
                    if matches!(hot, Hot::Nothing)
                        && let Some(moved) = self.live.crowd()
                    {
                        return Next::Crowd(moved);
                    }
                    let events = tokio::select! {
                        biased;
                        events = self.live.next() => events,
                        () = left(&mut connection.stream, &mut connection.ahead) => {
                            return Next::Broken(LiveEnd::ClientLeft);
                        }
                    };
                    match events {
                        Some(events) => events,
                        None => return Next::over(self.live.end()),
                    }
                }
            };
            self.begun.sent.bytes += events.len() as u64;
            written = in_time(write_timeout, write_chunk(&mut connection.stream, &events)).await;
            may_join = true;
        }
    }
}
