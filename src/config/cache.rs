//! What an edge keeps of its origins' answers.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, SizeText};

/// What is kept of the answers of origins: those that never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// The memory for answers. What was not asked for the longest time leaves it, and is still on
    /// disk.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub memory_bytes: u64,

    /// How much of the disk answers may take. What was not asked for the longest time is removed.
    /// `0`: nothing is kept on disk.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub disk_bytes: u64,

    /// The most answers on disk. Each takes about 300 bytes of memory.
    #[schemars(range(min = 1))]
    pub disk_entries_max: usize,

    /// The directory of the answers on disk, which nothing else may use. It can be removed while the
    /// server is stopped. Without it: `cache` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub dir: Option<PathBuf>,

    /// The largest answer that is kept. A larger one is passed on as fast as its readers take it.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub entry_bytes_max: u64,

    /// The memory, besides `memory_bytes`, for answers that are on their way from origins and to
    /// clients. Without room there, an answer is passed on as fast as its readers take it, and not
    /// kept.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub in_flight_bytes_max: u64,

    /// The most answers that are fetched from origins, or from the disk, at one time. Further
    /// requests wait for `limits.queue_wait`, and are answered with 503 and `Retry-After` then.
    #[schemars(range(min = 1))]
    pub fetches_max: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            disk_bytes: 10 << 30,
            disk_entries_max: 500_000,
            dir: None,
            entry_bytes_max: 16 << 20,
            in_flight_bytes_max: 128 << 20,
            fetches_max: 1024,
        }
    }
}
