//! What holds of the stored tables at every moment, also after a crash.

use crate::frame::Frames;
use crate::log::keys::{self, Pending, SegmentHeader, TimerKind};
use crate::log::kv::{Entry, Kv, Table};
use crate::log::load::{Purpose, read_open};
use crate::log::pack::RECORD_BYTES_LARGE;
use crate::log::state::StreamState;
use crate::types::{Position, StreamId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// All tables, decoded.
struct Tables {
    streams: Vec<StreamState>,
    records: BTreeMap<(StreamId, Position), Vec<u8>>,
    segments: BTreeMap<(StreamId, Position), SegmentHeader>,
    packed: BTreeMap<(StreamId, Position), Vec<u8>>,
    producers: Vec<Vec<u8>>,
    timers: Vec<(u64, StreamId, TimerKind)>,
    packs: BTreeSet<(StreamId, Position, Position)>,
    /// Streams to purge, with the source to let go of.
    purges: BTreeMap<StreamId, Option<StreamId>>,
    /// Streams to trim.
    trims: BTreeSet<StreamId>,
    /// Streams that are being recorded.
    unfinished: BTreeSet<StreamId>,
    /// Streams with notes.
    notes: BTreeSet<StreamId>,
}

/// Panics unless the tables agree with each other.
pub(super) fn audit(kv: &dyn Kv) {
    let tables = Tables::read(kv);
    for state in &tables.streams {
        tables.check_data(state);
        tables.check_counts(state);
    }
    tables.check_nothing_leaks();
}

/// Panics unless all work is done: nothing waits, and small sealed records are packed.
pub(super) fn audit_at_rest(kv: &dyn Kv) {
    audit(kv);
    let tables = Tables::read(kv);
    let waiting = (tables.packs.len(), tables.purges.len(), tables.trims.len());
    assert_eq!(waiting, (0, 0, 0));
    let deleted = tables.streams.iter().find(|s| s.deleted && s.forks == 0);
    assert_eq!(deleted, None, "a deleted stream outlived its forks");
}

impl Tables {
    fn read(kv: &dyn Kv) -> Self {
        let mut packs = BTreeSet::new();
        let mut purges = BTreeMap::new();
        let mut trims = BTreeSet::new();
        let mut unfinished = BTreeSet::new();
        for (key, value) in entries(kv, Table::Pending) {
            match Pending::read(&key, &value).unwrap() {
                Pending::Pack { id, start, end } => drop(packs.insert((id, start, end))),
                Pending::Purge { id, source } => {
                    purges.insert(id, source.map(|(id, _)| id));
                }
                Pending::Trim { id, .. } => drop(trims.insert(id)),
                Pending::Finish { id, .. } => drop(unfinished.insert(id)),
            }
        }
        let positions = |table| {
            entries(kv, table)
                .into_iter()
                .map(|(key, value)| (keys::read_position_key(&key).unwrap(), value))
        };
        Self {
            streams: entries(kv, Table::Streams)
                .iter()
                .map(|(_, value)| state_of(kv, value))
                .collect(),
            records: positions(Table::Records).collect(),
            segments: positions(Table::Segments)
                .map(|(key, header)| (key, SegmentHeader::read(&header).unwrap()))
                .collect(),
            packed: positions(Table::Packed).collect(),
            producers: entries(kv, Table::Producers)
                .into_iter()
                .map(|(key, _)| key)
                .collect(),
            timers: entries(kv, Table::Timers)
                .iter()
                .map(|(key, _)| keys::read_timer_key(key).unwrap())
                .collect(),
            packs,
            purges,
            trims,
            unfinished,
            notes: entries(kv, Table::Notes)
                .into_iter()
                .map(|(key, _)| owner(&key))
                .collect(),
        }
    }

    /// Segments join from the start to `sealed`, records from there to the tail.
    fn check_data(&self, state: &StreamState) {
        let id = state.meta.id;
        assert!(state.earliest <= state.sealed || state.earliest <= state.meta.start());
        let mut at = state.earliest.max(state.meta.start());
        let mut last_seal = at;
        for (start, header) in self.segments_of(id) {
            assert_eq!(start, at, "segments of {state:?} do not join");
            let packed = self.packed.get(&(id, start));
            assert_eq!(packed.is_some(), header.packed, "{start} of {state:?}");
            if let Some(frames) = packed {
                assert_eq!(start + frames.len() as u64, header.end);
                assert_eq!(self.records_of(id, start, header.end).count(), 0);
                assert!(!self.packs.contains(&(id, start, header.end)));
            } else {
                let appends = self.check_records(id, start, header.end);
                let records = self.records_of(id, start, header.end).count() as u64;
                let stay = records <= (header.end - start) / RECORD_BYTES_LARGE;
                let waits = self.packs.contains(&(id, start, header.end));
                assert!(waits || stay || appends == 1, "{start} of {state:?}");
                assert!(!waits || appends > 1, "{start} of {state:?}");
            }
            last_seal = start;
            at = header.end;
        }
        assert_eq!(
            (at, last_seal),
            (state.sealed, state.last_seal),
            "{state:?}"
        );
        let open = self.check_records(id, state.sealed, state.tail);
        assert_eq!(open, state.open_appends as usize, "{state:?}");
        assert_eq!(self.records_of(id, state.tail, u64::MAX).count(), 0);
    }

    /// Records join from `start` to `end`; returns how many appends they hold.
    fn check_records(&self, id: StreamId, start: Position, end: Position) -> usize {
        let (mut at, mut appends) = (start, 0);
        for (record, frames) in self.records_of(id, start, end) {
            assert_eq!(record, at, "records of {id} do not join");
            appends += appends_of(frames);
            at += frames.len() as u64;
        }
        assert_eq!(at, end, "records of {id} from {start} are missing");
        appends
    }

    /// Producers, forks and timers are as many as the state says.
    fn check_counts(&self, state: &StreamState) {
        let id = state.meta.id;
        let producers = self.producers.iter().filter(|key| owner(key) == id);
        assert_eq!(producers.count(), state.producers as usize, "{state:?}");
        let living = self.streams.iter().filter_map(|s| s.meta.fork.as_ref());
        let living = living.filter(|fork| fork.source_id == id).count();
        let leaving = self.purges.values().filter(|s| **s == Some(id)).count();
        assert_eq!(living + leaving, state.forks as usize, "{state:?}");
        assert_eq!(self.notes.contains(&id), state.meta.note.is_some());
        assert_eq!(self.unfinished.contains(&id), state.unfinished);
        if let Some(deadline) = state.deadline_ms().filter(|_| !state.deleted) {
            let mut timers = self.timers.iter();
            let in_time = |timer: &(u64, StreamId, TimerKind)| {
                timer.0 <= deadline && (timer.1, timer.2) == (id, TimerKind::Expiry)
            };
            assert!(timers.any(in_time), "no timer for {state:?}");
        }
        if state.meta.retention.age_ms.is_some() && !state.deleted {
            let mine = |timer: &&(u64, StreamId, TimerKind)| {
                (timer.1, timer.2) == (id, TimerKind::Retention)
            };
            let timers = self.timers.iter().filter(mine).count();
            assert_eq!(timers, usize::from(state.retaining), "{state:?}");
            let has_data = state.tail > state.earliest;
            assert!(state.retaining || !has_data, "nobody looks at {state:?}");
        }
    }

    /// All data belongs to a stream, or to one that waits to be purged; all sources of forks live.
    fn check_nothing_leaks(&self) {
        let living: BTreeSet<_> = self.streams.iter().map(|state| state.meta.id).collect();
        assert_eq!(living.len(), self.streams.len(), "an id is used twice");
        let with_data = (self.records.keys())
            .chain(self.segments.keys())
            .chain(self.packed.keys())
            .map(|(id, _)| *id)
            .chain(self.producers.iter().map(|key| owner(key)));
        for id in with_data.chain(self.notes.iter().copied()) {
            let known = living.contains(&id) || self.purges.contains_key(&id);
            assert!(known, "data of {id} is left behind");
        }
        for id in &self.unfinished {
            assert!(living.contains(id), "{id} is finished no more");
        }
        for id in self.purges.keys() {
            assert!(!living.contains(id), "{id} is purged while it lives");
        }
        let forks = self.streams.iter().filter_map(|s| s.meta.fork.as_ref());
        for fork in forks {
            assert!(living.contains(&fork.source_id), "{fork:?} lost its source");
            for span in &fork.spans {
                assert!(living.contains(&span.id), "{fork:?} lost a span");
            }
        }
    }

    fn segments_of(&self, id: StreamId) -> impl Iterator<Item = (Position, SegmentHeader)> {
        self.segments
            .range((id, 0)..=(id, u64::MAX))
            .map(|((_, start), header)| (*start, *header))
    }

    fn records_of(
        &self,
        id: StreamId,
        start: Position,
        end: Position,
    ) -> impl Iterator<Item = (Position, &Vec<u8>)> {
        self.records
            .range((id, start)..(id, end))
            .map(|((_, start), frames)| (*start, frames))
    }
}

fn appends_of(frames: &[u8]) -> usize {
    let ends = Frames::new(frames, 0).filter(|frame| frame.ends_append);
    let ends: Vec<usize> = ends.map(|frame| frame.end).collect();
    assert_eq!(ends.last(), Some(&frames.len()));
    ends.len()
}

/// A state with the appends that its row does not tell.
fn state_of(kv: &dyn Kv, row: &[u8]) -> StreamState {
    let mut state = keys::read_state(row).unwrap();
    read_open(kv, &mut state, Purpose::State, 0).unwrap();
    state
}

fn owner(key: &[u8]) -> StreamId {
    StreamId::from_be_bytes(key[..8].try_into().unwrap())
}

fn entries(kv: &dyn Kv, table: Table) -> Vec<Entry> {
    let mut entries = Vec::new();
    kv.scan(table, &[], &[0xff; 32], &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    entries
}
