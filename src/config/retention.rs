//! How much of a stream is kept while it lives.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types;
use crate::units::{self, DurationText, SizeText};

/// How much of each stream is kept while it lives, unless its creator says otherwise by
/// `Stream-Retention`. What is older is removed, a piece at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// At least the last so many bytes are kept, and at most about a quarter more. Without it, any
    /// number is.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_size",
        deserialize_with = "read_size"
    )]
    #[schemars(with = "SizeText")]
    pub bytes: Option<u64>,

    /// What is younger is kept, and what is older by more than about a quarter is not. Without it,
    /// the age does not matter.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_duration",
        deserialize_with = "read_duration"
    )]
    #[schemars(with = "DurationText")]
    pub age: Option<Duration>,
}

impl From<Retention> for types::Retention {
    fn from(retention: Retention) -> Self {
        Self {
            bytes: retention.bytes,
            age_ms: retention.age.map(|age| age.as_millis() as u64),
        }
    }
}

fn read_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    units::size::deserialize(deserializer).map(Some)
}

fn read_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    units::duration::deserialize(deserializer).map(Some)
}

#[expect(clippy::ref_option, reason = "serde passes the field")]
fn write_size<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => units::size::serialize(bytes, serializer),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::ref_option, reason = "serde passes the field")]
fn write_duration<S: Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match age {
        Some(age) => units::duration::serialize(age, serializer),
        None => serializer.serialize_none(),
    }
}
