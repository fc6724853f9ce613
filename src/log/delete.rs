//! Deleting streams, and letting go of the sources of deleted forks.

use super::append::finished;
use super::committer::{Ack, acknowledged};
use super::create::purge_of;
use super::keys::Pending;
use super::kv::{Table, Write};
use super::operation::Operation;
use super::queue::CommitError;
use super::state::Unavailable;
use super::stream::{Sequenced, Stream};
use super::worker::WorkError;
use super::{Log, ReadError, retention};
use crate::types::{StreamId, StreamPath};
use std::sync::Arc;
use thiserror::Error;

/// Why nothing was deleted.
#[derive(Clone, Debug, Error)]
pub enum DeleteError {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Log {
    /// Deletes a stream; one with forks stays for them, but answers no more (protocol, section 5.4).
    pub async fn delete(&self, stream: &Arc<Stream>) -> Result<(), DeleteError> {
        let room = self.committer.admit(0).await?;
        let (ticket, ack) = {
            let mut sequenced = stream.sequenced.lock();
            let alive = sequenced.alive(stream.used_ms(), self.clock.now_ms());
            match alive.map(drop) {
                Err(unavailable) => (sequenced.ticket, Err(unavailable)),
                Ok(()) => {
                    let operation = remove(stream, &mut sequenced, Vec::new());
                    let (ticket, ack) = self.committer.push(operation, Some(room));
                    sequenced.ticket = ticket;
                    (ticket, Ok(ack))
                }
            }
        };
        match ack {
            Ok(mut ack) => {
                acknowledged(&mut ack).await?;
                Ok(())
            }
            Err(unavailable) => {
                self.committer.settled(ticket).await?;
                Err(unavailable.into())
            }
        }
    }

    /// Queues that a purged fork is taken off its source, and that the source goes if it only lived
    /// for it. In the same batch it is written down that the fork let go.
    pub(super) async fn release(
        &self,
        fork_id: StreamId,
        source_id: StreamId,
        source: &StreamPath,
    ) -> Result<Ack, WorkError> {
        let stream = self.stream(source).await?;
        let room = self.committer.admit(0).await?;
        let mut sequenced = stream.sequenced.lock();
        let released = Pending::Purge {
            id: fork_id,
            source: None,
        };
        let mut writes = vec![Write::Put(Table::Pending, released.key(), released.value())];
        let now_ms = self.clock.now_ms();
        let used_ms = stream.used_ms();
        let release = match &mut sequenced.state {
            Some(state) if state.meta.id == source_id => {
                state.last_used_ms = state.last_used_ms.max(used_ms);
                state.forks = state.forks.saturating_sub(1);
                if state.forks == 0 && (state.deleted || state.expired(now_ms)) {
                    remove(&stream, &mut sequenced, writes)
                } else {
                    // What was kept for the forks alone may be more than the stream keeps.
                    let trim = retention::ask_to_trim(&stream, state, &mut writes);
                    let work = trim.into_iter().collect();
                    Operation::of_state(&stream, Some(state.clone()), writes, work)
                }
            }
            _ => Operation::of_writes(writes),
        };
        let (ticket, ack) = self.committer.push(release, Some(room));
        sequenced.ticket = ticket;
        Ok(ack)
    }
}

/// Removes the stream, or only hides it if forks read from it.
pub(super) fn remove(
    stream: &Arc<Stream>,
    sequenced: &mut Sequenced,
    mut writes: Vec<Write>,
) -> Operation {
    let mut work = Vec::new();
    if let Some(state) = &mut sequenced.state {
        writes.extend(finished(stream, state));
    }
    match &mut sequenced.state {
        Some(state) if state.forks > 0 => state.deleted = true,
        removed => {
            work.extend(removed.take().map(|state| purge_of(&state)));
            sequenced.producers.clear();
        }
    }
    for purge in &work {
        writes.push(Write::Put(Table::Pending, purge.key(), purge.value()));
    }
    Operation::of_state(stream, sequenced.state.clone(), writes, work)
}
