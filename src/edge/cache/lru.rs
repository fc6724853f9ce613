//! Who leaves a tier when it is full: whoever was used the longest time ago.

use std::time::SystemTime;

use pingora::cache::eviction::lru::Manager;
use pingora::cache::eviction::{CacheEntryKey, CacheEntryKeyRef, EvictionManager};
use pingora::cache::key::CompactCacheKey;

use super::key::Place;

/// The order in which places were used, and their bytes together.
///
/// Pingora's manager, in one part: with several it takes the longest of two by chance, which for
/// a few large answers would not be the one that was used the longest time ago.
pub(super) struct Lru(Manager<1>);

const CAPACITY_EXPECTED: usize = 1024;

impl Lru {
    pub(super) fn new(bytes_max: u64, entries_max: Option<usize>) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self(Manager::with_capacity_and_watermark(
            bytes_max,
            CAPACITY_EXPECTED,
            entries_max,
        ))
    }

    /// Whether something of this size may come in. What is larger than all would drive out
    /// everything else before it leaves itself.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.0.weight_limit()
    }

    /// Takes a place in, or gives it another size; returns those that have to leave.
    #[must_use]
    pub(super) fn admit(&self, place: Place, bytes: usize) -> Vec<Place> {
        let left = self.0.admit(key(place), bytes, SystemTime::UNIX_EPOCH);
        left.iter().filter_map(place_of).collect()
    }

    /// Moves a place to the front, if it is there.
    pub(super) fn touch(&self, place: Place) {
        let key = key(place);
        if let Some(bytes) = self.0.peek_weight(&key) {
            self.0.access(&key, bytes, SystemTime::UNIX_EPOCH);
        }
    }

    pub(super) fn remove(&self, place: Place) {
        self.0.remove(CacheEntryKeyRef::from(&key(place)));
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        self.0.peek(&key(place))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.total_size()
    }

    pub(super) fn entries(&self) -> usize {
        self.0.total_items()
    }

    /// How many had to leave so far.
    pub(super) fn evicted(&self) -> usize {
        self.0.evicted_items()
    }
}

fn key(place: Place) -> CacheEntryKey {
    CacheEntryKey::key_only(CompactCacheKey {
        primary: place.stream,
        variance: Some(Box::new(place.range)),
        user_tag: Box::default(),
    })
}

fn place_of(key: &CacheEntryKey) -> Option<Place> {
    let key = key.key();
    Some(Place {
        stream: key.primary,
        range: **key.variance.as_ref()?,
    })
}
