//! Operations: what becomes durable together, and what a batch of them writes.

use super::keys::{self, Pending};
use super::kv::{Table, Write};
use super::state::StreamState;
use super::stream::Stream;
use crate::hub::Run;
use crate::types::StreamId;
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The changes of one stream in one operation.
pub(super) struct Change {
    pub(super) stream: Arc<Stream>,
    /// `None` removes the stream.
    pub(super) state: Option<StreamState>,
    /// Whether the state is written down; otherwise what is appended tells it.
    pub(super) written: bool,
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
            written: true,
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

/// Appends that become durable together are joined up to this size: joining copies them, and larger
/// records are read no faster.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// All that a batch changes. What it appends to one stream is joined to few records, and of a
/// stream's states only the last one is written, if any of them is.
pub(super) fn writes_of<'a>(
    batch: impl DoubleEndedIterator<Item = &'a Operation> + Clone,
) -> Vec<Write> {
    let mut writes = records_of(batch.clone().flat_map(|operation| &operation.changes));
    let others = batch.clone().flat_map(|operation| &operation.writes);
    writes.extend(others.cloned());
    let changes = batch.clone().flat_map(|operation| &operation.changes);
    let written = changes.filter(|change| change.written);
    let mut due: HashSet<_> = written.map(|change| Arc::as_ptr(&change.stream)).collect();
    for change in batch.rev().flat_map(|operation| &operation.changes) {
        if due.remove(&Arc::as_ptr(&change.stream)) {
            writes.push(state_write(change));
        }
    }
    writes
}

/// The records of what is appended.
fn records_of<'a>(changes: impl Iterator<Item = &'a Change> + Clone) -> Vec<Write> {
    // What is alone, as most is where little goes on, is joined with nothing.
    let alone = changes.clone().nth(1).is_none();
    let mut records: Vec<Record<'a>> = Vec::new();
    // Where the last record of a stream is that may grow.
    let mut growing: HashMap<StreamId, usize> = HashMap::new();
    for change in changes {
        let Some(state) = &change.state else { continue };
        let id = state.meta.id;
        if let Some(run) = &change.appended {
            match growing.get(&id) {
                Some(&last) if records[last].may_take(run) => records[last].take(run),
                _ => {
                    if !alone {
                        growing.insert(id, records.len());
                    }
                    records.push(Record::new(id, run));
                }
            }
        }
        // A record lies in one segment.
        if state.sealed == state.tail {
            growing.remove(&id);
        }
    }
    records.into_iter().map(Record::write).collect()
}

/// What becomes one record.
struct Record<'a> {
    id: StreamId,
    first: &'a Run,
    /// All of it, once that is more than the first run.
    joined: BytesMut,
}

impl<'a> Record<'a> {
    fn new(id: StreamId, first: &'a Run) -> Self {
        Self {
            id,
            first,
            joined: BytesMut::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.first.frames.len().max(self.joined.len())
    }

    fn may_take(&self, run: &Run) -> bool {
        self.first.start + self.bytes() as u64 == run.start
            && self.bytes() + run.frames.len() <= JOINED_BYTES_MAX
    }

    fn take(&mut self, run: &Run) {
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first.frames);
        }
        self.joined.extend_from_slice(&run.frames);
    }

    fn write(self) -> Write {
        let key = keys::position_key(self.id, self.first.start);
        let frames = if self.joined.is_empty() {
            self.first.frames.clone()
        } else {
            self.joined.freeze()
        };
        Write::Put(Table::Records, Bytes::copy_from_slice(&key), frames)
    }
}

fn state_write(change: &Change) -> Write {
    let key = Bytes::copy_from_slice(change.stream.path().key().as_bytes());
    match &change.state {
        Some(state) => Write::Put(Table::Streams, key, keys::write_state(state)),
        None => Write::Delete(Table::Streams, key),
    }
}
