//! When a stream's state is written down, and what its records say beyond that.
//!
//! An append that does nothing but make a stream longer writes its record alone: so the row of the
//! state lies behind the records, by no more than is read quickly when the stream is loaded.

use super::keys::Corrupt;
use super::state::{Row, StreamState};
use crate::frame::Frames;
use crate::types::{Lifetime, Position};

/// Most bytes of a stream that its row does not tell, but for one append.
const BEHIND_BYTES_MAX: u64 = 16 * 1024;
/// How far the last use of a stream with a sliding lifetime may lie behind. After a crash it lives
/// longer by as much, never shorter.
pub(super) const BEHIND_MS_MAX: u64 = 1000;
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
    pub(super) fn take_record(&mut self, start: Position, frames: &[u8]) -> Result<(), Corrupt> {
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
