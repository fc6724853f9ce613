//! When a stream's state is written down, and what its records say beyond that.
//!
//! An append that does nothing but make a stream longer writes its record alone: so the row of the
//! state lies behind the records, by no more than is read quickly when the stream is loaded.

use super::keys::{self, Corrupt};
use super::kv::{Cached, Kv, Table};
use super::state::{Row, StreamState};
use super::{Log, ReadError};
use crate::frame::Frames;
use crate::types::{Lifetime, Position};
use std::ops::ControlFlow;

/// Most bytes of a stream that its row does not tell, but for one append.
const BEHIND_BYTES_MAX: u64 = 16 * 1024;
/// How far the last use of a stream with a sliding lifetime may lie behind. After a crash it lives
/// longer by as much, never shorter.
const BEHIND_MS_MAX: u64 = 1000;
/// The last use is exact where a lifetime is shorter than this.
const SHORT_LIFETIME_SECONDS: u64 = 60;

impl StreamState {
    /// Decides whether this state, which came from `before`, is written down with the append that
    /// made it. Otherwise its records tell it.
    pub(super) fn write_down(&mut self, before: Self) -> bool {
        let due = !self.grew_from(before)
            || self.tail - self.row.tail >= BEHIND_BYTES_MAX
            || self.last_used_ms - self.row.last_used_ms >= self.behind_ms_max();
        if due {
            self.row = Row::of(self);
        }
        due
    }

    /// Whether the stream has become longer, and nothing else.
    fn grew_from(&self, before: Self) -> bool {
        let grown = Self {
            tail: self.tail,
            open_appends: self.open_appends,
            last_used_ms: self.last_used_ms,
            ..before
        };
        *self == grown
    }

    fn behind_ms_max(&self) -> u64 {
        match self.meta.lifetime {
            Lifetime::Ttl { seconds } if seconds < SHORT_LIFETIME_SECONDS => 0,
            Lifetime::Ttl { .. } => BEHIND_MS_MAX,
            Lifetime::Unlimited | Lifetime::Until { .. } => u64::MAX,
        }
    }

    /// Adds the record that begins at the tail.
    fn take_record(&mut self, start: Position, frames: &[u8]) -> Result<(), Corrupt> {
        let ends = Frames::new(frames, 0).filter(|frame| frame.ends_append);
        let (appends, end) = ends.fold((0, 0), |(appends, _), frame| (appends + 1, frame.end));
        if start != self.tail || end != frames.len() {
            return Err(Corrupt("record"));
        }
        self.tail += frames.len() as u64;
        self.open_appends += appends;
        Ok(())
    }
}

impl Log {
    /// Brings a state that was just read up to its records.
    pub(super) async fn catch_up(&self, state: &mut StreamState) -> Result<(), ReadError> {
        // A closed stream grows no more.
        if state.closed {
            return Ok(());
        }
        let next = keys::position_key(state.meta.id, state.tail);
        if self.kv.get_cached(Table::Records, &next)? == Cached::Known(None) {
            return Ok(());
        }
        let mut behind = state.clone();
        let caught_up = self.blocking(move |kv: &dyn Kv| {
            read_behind(kv, &mut behind)?;
            Ok(behind)
        });
        *state = caught_up.await?;
        if state.tail > state.row.tail {
            // Some time in it was the last append.
            let latest_ms = state.row.last_used_ms.saturating_add(BEHIND_MS_MAX);
            state.last_used_ms = latest_ms.min(self.clock.now_ms()).max(state.last_used_ms);
        }
        Ok(())
    }
}

/// Adds all records behind a state to it.
pub(super) fn read_behind(kv: &dyn Kv, state: &mut StreamState) -> Result<(), ReadError> {
    let from = keys::position_key(state.meta.id, state.tail);
    let (_, to) = keys::id_range(state.meta.id);
    let mut taken = Ok(());
    kv.scan(Table::Records, &from, &to, &mut |key, frames| {
        let position = keys::read_position_key(key);
        taken = position.and_then(|(_, start)| state.take_record(start, frames));
        match taken {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    Ok(taken?)
}
