//! Which answers are compressed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::Coding;
use crate::units::{self, SizeText};

/// How answers that never change are compressed for clients that accept it: once, and then kept.
/// Only text and JSON is; never events, and never what ends at the tail of an open stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// The codings, the preferred one first: a client's own preference counts more. None: nothing is
    /// compressed.
    pub codings: Vec<Coding>,

    /// The least bytes of an answer that is compressed.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub bytes_min: u64,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            bytes_min: 1 << 10,
        }
    }
}
