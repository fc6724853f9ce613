//! What the log may choose: how much it trims, within the bounds of a stream's retention.

use super::model::{Model, Stream};
use crate::types::{Position, Retention, UnixMs};

/// Segments of what is kept by bytes.
const BYTES_PARTS: u64 = 8;

impl Model {
    /// Takes over what the log trimmed of a stream.
    pub(super) fn trim_to(&mut self, path: usize, earliest: Position) {
        if let Some(stream) = self.streams.get_mut(&path) {
            stream.trim_to(earliest, self.now_ms);
        }
    }
}

impl Stream {
    /// Takes over what the log trimmed, all work being done: nothing that must be kept, and enough
    /// of the rest.
    fn trim_to(&mut self, earliest: Position, now_ms: UnixMs) {
        assert!(earliest >= self.earliest && self.boundaries().contains(&earliest));
        if self.forks > 0 {
            assert_eq!(earliest, self.earliest, "trimmed under its forks");
            return;
        }
        let tail = self.tail();
        let Retention { bytes, age_ms } = self.retention;
        for (stored, at_ms) in self.appends.iter().zip(&self.times) {
            let must_be_kept = stored.end > self.earliest
                && bytes.is_none_or(|bytes| tail - stored.end < bytes)
                && age_ms.is_none_or(|age_ms| at_ms + age_ms > now_ms);
            assert!(
                !must_be_kept || earliest < stored.end,
                "too much of {self:?}"
            );
        }
        self.earliest = earliest;
        if let Some(bytes) = bytes {
            let inherited = self.fork.as_ref().map_or(0, |fork| fork.offset);
            let lengths = self
                .boundaries()
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .max();
            let two_segments = 2 * ((bytes / BYTES_PARTS).max(1) + lengths.unwrap_or(0));
            let most = inherited.saturating_sub(earliest) + bytes + two_segments;
            assert!(tail - earliest <= most, "too little of {self:?}");
        }
    }
}
