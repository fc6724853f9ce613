//! A store in memory that tells written from synced: it can crash, fail and be held up on demand.

use crate::log::kv::{Cached, Entry, Kv, KvError, Table, Visit, Write};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rand::Rng;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

type Entries = BTreeMap<(Table, Bytes), Bytes>;

/// What a write to [`MemoryStore`] reaches depends on what happens next: a sync makes it last, a
/// crash keeps all synced batches and any number of those that follow them.
#[derive(Default)]
pub(in crate::log) struct MemoryStore {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What reads see.
    written: Entries,
    /// What survives every crash.
    synced: Entries,
    /// The batches between the two, in order.
    unsynced: Vec<Vec<Write>>,
    calls: BTreeMap<Call, Control>,
    /// How long a sync takes, so that more is written meanwhile.
    sync_time: Duration,
    /// Counts writes and syncs.
    death: Countdown,
    dead: bool,
    /// A sync that failed makes nothing durable later on, whatever it reports.
    sync_failed: bool,
    /// Whether it is behind with its own work.
    behind: bool,
    cached_reads: u64,
    /// Of all values that were handed out.
    bytes_read: u64,
    /// The thread that asked for the last sync.
    synced_by: Option<ThreadId>,
}

/// Calls that can be counted, held up and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    Write,
    Sync,
    Scan,
    /// Counted only.
    IsBehind,
}

#[derive(Default)]
struct Control {
    count: u64,
    failure: Countdown,
    held: bool,
    /// How many are being held up.
    waiting: u64,
}

/// Strikes once, at the n-th call.
#[derive(Default)]
struct Countdown(Option<u64>);

impl Countdown {
    fn strikes(&mut self) -> bool {
        let left = self.0.map(|calls| calls - 1);
        self.0 = left.filter(|left| *left > 0);
        left == Some(0)
    }
}

impl MemoryStore {
    pub(in crate::log) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The store as a machine finds it that crashed now: all synced batches and some of the
    /// batches behind them.
    pub(super) fn crash(&self, rng: &mut impl Rng) -> Arc<Self> {
        let state = self.state.lock();
        let kept = rng.random_range(0..=state.unsynced.len());
        let mut survived = state.synced.clone();
        for batch in &state.unsynced[..kept] {
            apply(&mut survived, batch);
        }
        drop(state);
        Arc::new(Self {
            state: Mutex::new(State {
                written: survived.clone(),
                synced: survived,
                ..State::default()
            }),
            changed: Condvar::new(),
        })
    }

    /// Ends the store at its n-th write or sync from now on: that call and all later ones fail. What
    /// was synced before has survived.
    pub(super) fn die_at(&self, nth: u64) {
        self.state.lock().death = Countdown(Some(nth));
    }

    /// Makes the n-th call of a kind that ends from now on fail; the next one is the first.
    pub(super) fn fail(&self, call: Call, nth: u64) {
        self.state.lock().control(call).failure = Countdown(Some(nth));
    }

    /// Says from now on whether it is behind with its own work.
    pub(super) fn set_behind(&self, behind: bool) {
        self.state.lock().behind = behind;
    }

    /// Holds up all calls of a kind until they are released.
    pub(super) fn hold(&self, call: Call) {
        self.state.lock().control(call).held = true;
    }

    pub(super) fn release(&self, call: Call) {
        self.state.lock().control(call).held = false;
        self.changed.notify_all();
    }

    pub(super) fn release_all(&self) {
        for call in [Call::Write, Call::Sync, Call::Scan] {
            self.release(call);
        }
    }

    /// Whether a call of a kind is being held up.
    pub(super) fn waits(&self, call: Call) -> bool {
        self.state.lock().control(call).waiting > 0
    }

    /// Calls of a kind so far.
    pub(super) fn count(&self, call: Call) -> u64 {
        self.state.lock().control(call).count
    }

    /// The thread that asked for the last sync.
    pub(super) fn synced_by(&self) -> Option<ThreadId> {
        self.state.lock().synced_by
    }

    /// Makes syncs take so long.
    pub(super) fn slow_syncs(&self, sync_time: Duration) {
        self.state.lock().sync_time = sync_time;
    }

    /// Bytes of all values that were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.state.lock().bytes_read
    }

    /// The batches that were written and not synced.
    pub(super) fn unsynced(&self) -> Vec<Vec<Write>> {
        self.state.lock().unsynced.clone()
    }

    /// Counts a call, waits as long as it is held up, and fails it if told so.
    fn begin(&self, call: Call) -> Result<MutexGuard<'_, State>, KvError> {
        let mut state = self.state.lock();
        state.control(call).count += 1;
        while state.control(call).held {
            state.control(call).waiting += 1;
            self.changed.wait(&mut state);
            state.control(call).waiting -= 1;
        }
        if state.control(call).failure.strikes() {
            state.sync_failed |= call == Call::Sync;
            return Err(KvError(format!("this {call:?} was told to fail")));
        }
        Ok(state)
    }
}

impl State {
    fn control(&mut self, call: Call) -> &mut Control {
        self.calls.entry(call).or_default()
    }

    /// Whether the store dies at this write or sync, or did before.
    fn check_alive(&mut self) -> Result<(), KvError> {
        self.dead |= self.death.strikes();
        if self.dead {
            return Err(KvError("the store is dead".into()));
        }
        Ok(())
    }
}

fn apply(entries: &mut Entries, batch: &[Write]) {
    for write in batch {
        match write.clone() {
            Write::Put(table, key, value) => {
                entries.insert((table, key), value);
            }
            Write::Delete(table, key) => {
                entries.remove(&(table, key));
            }
            Write::DeleteRange(table, from, to) => {
                entries.retain(|(at, key), _| *at != table || *key < from || *key >= to);
            }
        }
    }
}

fn key_of(table: Table, key: &[u8]) -> (Table, Bytes) {
    (table, Bytes::copy_from_slice(key))
}

impl Kv for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let mut state = self.state.lock();
        let value = state.written.get(&key_of(table, key)).map(|v| v.to_vec());
        state.bytes_read += value.as_ref().map_or(0, Vec::len) as u64;
        Ok(value)
    }

    /// Pretends every other time that only the disk knows.
    fn get_cached(&self, table: Table, key: &[u8]) -> Result<Cached, KvError> {
        let mut state = self.state.lock();
        state.cached_reads += 1;
        if state.cached_reads.is_multiple_of(2) {
            return Ok(Cached::NotInMemory);
        }
        drop(state);
        Ok(Cached::Known(self.get(table, key)?))
    }

    fn get_at_or_before(&self, table: Table, key: &[u8]) -> Result<Option<Entry>, KvError> {
        let mut state = self.state.lock();
        let range = (Included(key_of(table, &[])), Included(key_of(table, key)));
        let last = state.written.range(range).next_back();
        let last = last.map(|((_, key), value)| (key.to_vec(), value.to_vec()));
        state.bytes_read += last.as_ref().map_or(0, |(_, value)| value.len()) as u64;
        Ok(last)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), KvError> {
        let mut state = self.begin(Call::Scan)?;
        let range = (Included(key_of(table, from)), Excluded(key_of(table, to)));
        let found: Vec<_> = state
            .written
            .range(range)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let bytes: usize = found.iter().map(|(_, value)| value.len()).sum();
        state.bytes_read += bytes as u64;
        drop(state);
        for (key, value) in found {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, writes: &[Write]) -> Result<(), KvError> {
        let mut state = self.begin(Call::Write)?;
        if !state.dead {
            // Also the last write of a dying store may reach the disk.
            state.unsynced.push(writes.to_vec());
        }
        state.check_alive()?;
        apply(&mut state.written, writes);
        Ok(())
    }

    fn is_behind(&self) -> bool {
        let mut state = self.state.lock();
        state.control(Call::IsBehind).count += 1;
        state.behind
    }

    fn sync(&self) -> Result<(), KvError> {
        // What is written while it runs is not part of it.
        let covered = self.state.lock().unsynced.len();
        let mut state = self.begin(Call::Sync)?;
        let sync_time = state.sync_time;
        if !sync_time.is_zero() {
            self.changed.wait_for(&mut state, sync_time);
        }
        state.check_alive()?;
        state.synced_by = Some(std::thread::current().id());
        if !state.sync_failed {
            let batches: Vec<_> = state.unsynced.drain(..covered).collect();
            for batch in batches {
                apply(&mut state.synced, &batch);
            }
        }
        Ok(())
    }

    fn compact(&self, _: Table, _: &[u8], _: &[u8]) -> Result<(), KvError> {
        Ok(())
    }

    fn collect(&self, _: Table, _: &[u8], _: &[u8]) -> Result<(), KvError> {
        Ok(())
    }
}
