//! Operations: what becomes durable together, and what a batch of them writes.

use super::keys::{self, Pending};
use super::kv::{Table, Write};
use super::state::StreamState;
use super::stream::Stream;
use crate::hub::Run;
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;

/// The changes of one stream in one operation.
pub(super) struct Change {
    pub(super) stream: Arc<Stream>,
    /// `None` removes the stream.
    pub(super) state: Option<StreamState>,
    pub(super) appended: Option<Run>,
}

/// What becomes durable together.
pub(super) struct Operation {
    pub(super) changes: Vec<Change>,
    pub(super) writes: Vec<Write>,
    /// Work that begins once this is durable. Its record is among `writes`.
    pub(super) work: Vec<Pending>,
    /// Whether somebody waits: otherwise it needs no sync of its own.
    pub(super) acknowledged: bool,
}

impl Operation {
    /// Writes that change no stream.
    pub(super) fn of_writes(writes: Vec<Write>) -> Self {
        Self {
            changes: Vec::new(),
            writes,
            work: Vec::new(),
            acknowledged: true,
        }
    }

    /// A stream's new state, or its removal, with what is written and done beside it.
    pub(super) fn of_state(
        stream: &Arc<Stream>,
        state: Option<StreamState>,
        writes: Vec<Write>,
        work: Vec<Pending>,
    ) -> Self {
        let change = Change {
            stream: stream.clone(),
            state,
            appended: None,
        };
        Self {
            changes: vec![change],
            work,
            ..Self::of_writes(writes)
        }
    }

    /// The same, if nobody waits for it.
    pub(super) fn unacknowledged(self) -> Self {
        Self {
            acknowledged: false,
            ..self
        }
    }

    /// Bytes of what is appended.
    pub(super) fn data_bytes(&self) -> u64 {
        let appended = self
            .changes
            .iter()
            .filter_map(|change| change.appended.as_ref());
        appended.map(|run| run.frames.len() as u64).sum()
    }
}

/// All that a batch changes. Of a stream's states only the last one is written.
pub(super) fn writes_of<'a>(
    batch: impl DoubleEndedIterator<Item = &'a Operation> + Clone,
) -> Vec<Write> {
    let mut writes = Vec::new();
    for operation in batch.clone() {
        for change in &operation.changes {
            if let (Some(run), Some(state)) = (&change.appended, &change.state) {
                let key = keys::position_key(state.meta.id, run.start);
                let key = Bytes::copy_from_slice(&key);
                writes.push(Write::Put(Table::Records, key, run.frames.clone()));
            }
        }
        writes.extend(operation.writes.iter().cloned());
    }
    let mut seen = HashSet::new();
    for change in batch.rev().flat_map(|operation| &operation.changes) {
        if seen.insert(Arc::as_ptr(&change.stream)) {
            writes.push(state_write(change));
        }
    }
    writes
}

fn state_write(change: &Change) -> Write {
    let key = Bytes::copy_from_slice(change.stream.path().key().as_bytes());
    match &change.state {
        Some(state) => Write::Put(Table::Streams, key, keys::write_state(state)),
        None => Write::Delete(Table::Streams, key),
    }
}
