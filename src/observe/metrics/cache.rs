//! The figures of an edge's cache.

use prometheus::{IntCounter, IntGauge};

use super::registrar::Registrar;
use super::storage::set;

/// How a request at the cache was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAnswer {
    /// From memory.
    Hit,
    /// From the disk.
    DiskHit,
    /// With what was there and had become stale, while its origin was away.
    Stale,
    /// With what was there, after its origin had said that it is unchanged.
    Revalidated,
    /// By the origin.
    Miss,
    /// By the origin, together with others.
    Collapsed,
    /// By the origin, without a look into the cache.
    Bypass,
}

impl CacheAnswer {
    const ALL: [Self; 7] = [
        Self::Hit,
        Self::DiskHit,
        Self::Stale,
        Self::Revalidated,
        Self::Miss,
        Self::Collapsed,
        Self::Bypass,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::DiskHit => "disk_hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Bypass => "bypass",
        }
    }
}

/// What became of a body that others could get as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillEnd {
    Kept,
    /// It was passed on, because it may change, is too large, or there was no room.
    Passed,
    /// It was forgotten while it came.
    Forgotten,
    /// The origin broke off.
    Failed,
    /// All who read it left, and it was not to be kept.
    Deserted,
}

impl FillEnd {
    const ALL: [Self; 5] = [
        Self::Kept,
        Self::Passed,
        Self::Forgotten,
        Self::Failed,
        Self::Deserted,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Passed => "passed",
            Self::Forgotten => "forgotten",
            Self::Failed => "failed",
            Self::Deserted => "deserted",
        }
    }
}

/// What went wrong with the cache's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskTrouble {
    Read,
    Write,
    /// What was read is not what was written.
    Damaged,
}

impl DiskTrouble {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Damaged];

    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Damaged => "damaged",
        }
    }
}

/// What the cache itself knows of what it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    pub memory_bytes: u64,
    pub memory_entries: u64,
    pub memory_evicted: u64,
    pub disk_bytes: u64,
    pub disk_entries: u64,
    pub disk_evicted: u64,
    pub held_bytes: u64,
}

/// The figures of an edge's cache.
#[derive(Debug)]
pub struct Cache {
    /// Purges, by whomever.
    pub purges: IntCounter,
    /// Compressed forms of answers that were made.
    pub compressed: IntCounter,
    answers: [IntCounter; CacheAnswer::ALL.len()],
    fills: [IntCounter; FillEnd::ALL.len()],
    disk_errors: [IntCounter; DiskTrouble::ALL.len()],
    memory: Tier,
    disk: Tier,
    held_bytes: IntGauge,
}

/// The figures of the memory, or of the disk.
#[derive(Debug)]
struct Tier {
    bytes: IntGauge,
    entries: IntGauge,
    evictions: IntCounter,
}

impl Cache {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let answers = registrar.counters(
            "headwater_cache_answers_total",
            "Requests answered through an edge's cache, by how.",
            &["status"],
        );
        let fills = registrar.counters(
            "headwater_cache_fills_total",
            "Bodies that came from origins for all who asked for them, by what became of them.",
            &["result"],
        );
        let disk_errors = registrar.counters(
            "headwater_cache_disk_errors_total",
            "Files of the cache that could not be read or written, or were damaged.",
            &["reason"],
        );
        let [memory, disk] = tiers(registrar);
        Self {
            purges: registrar.counter(
                "headwater_cache_purges_total",
                "Purges of streams from the cache.",
            ),
            compressed: registrar.counter(
                "headwater_cache_compressed_answers_total",
                "Compressed forms of kept answers that were made.",
            ),
            answers: CacheAnswer::ALL.map(|answer| answers.with_label_values(&[answer.as_str()])),
            fills: FillEnd::ALL.map(|end| fills.with_label_values(&[end.as_str()])),
            disk_errors: DiskTrouble::ALL
                .map(|trouble| disk_errors.with_label_values(&[trouble.as_str()])),
            memory,
            disk,
            held_bytes: registrar.gauge(
                "headwater_cache_held_bytes",
                "Memory of bodies that are kept, on their way, or with clients that take them.",
            ),
        }
    }

    /// How many requests were answered so.
    pub fn answered(&self, answer: CacheAnswer) -> &IntCounter {
        &self.answers[answer as usize]
    }

    /// How many bodies ended so.
    pub fn filled(&self, end: FillEnd) -> &IntCounter {
        &self.fills[end as usize]
    }

    /// How often this went wrong.
    pub fn disk_trouble(&self, trouble: DiskTrouble) -> &IntCounter {
        &self.disk_errors[trouble as usize]
    }

    /// Shows `figures` from now on.
    pub fn set(&self, figures: &CacheFigures) {
        self.memory.set(
            figures.memory_bytes,
            figures.memory_entries,
            figures.memory_evicted,
        );
        self.disk.set(
            figures.disk_bytes,
            figures.disk_entries,
            figures.disk_evicted,
        );
        set(&self.held_bytes, figures.held_bytes);
    }
}

impl Tier {
    fn set(&self, bytes: u64, entries: u64, evicted: u64) {
        set(&self.bytes, bytes);
        set(&self.entries, entries);
        self.evictions.reset();
        self.evictions.inc_by(evicted);
    }
}

fn tiers(registrar: &mut Registrar) -> [Tier; 2] {
    let bytes = registrar.gauges(
        "headwater_cache_bytes",
        "What the cache keeps, in memory and on disk.",
        &["tier"],
    );
    let entries = registrar.gauges(
        "headwater_cache_entries",
        "Answers that the cache keeps, in memory and on disk.",
        &["tier"],
    );
    let evictions = registrar.counters(
        "headwater_cache_evictions_total",
        "Answers that had to leave the memory, or the disk, for others.",
        &["tier"],
    );
    ["memory", "disk"].map(|tier| Tier {
        bytes: bytes.with_label_values(&[tier]),
        entries: entries.with_label_values(&[tier]),
        evictions: evictions.with_label_values(&[tier]),
    })
}
