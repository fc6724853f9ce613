//! Durations and sizes as people write them: `"30s"`, `"1h30m"`, `"64MiB"`.
//!
//! The configuration and the command line share these forms, so a value that was copied from one
//! works in the other.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The units of a duration, longest first, in milliseconds.
const DURATION_UNITS_MS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The units of a size, largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Why a text is not a duration or not a size. The sentence says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// Reads a duration: one or more whole numbers, each with its unit (`ms`, `s`, `m`, `h` or `d`),
/// such as `30s`, `500ms` or `1h30m`. A lone `0` is no time at all.
///
/// # Errors
/// When a number or a unit is missing or unknown, or the sum does not fit 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let refuse = |why: &str| {
        UnitError(format!(
            "`{text}` is not a duration: {why}; write a whole number with a unit, such as 500ms, 30s, 10m, 24h or 7d"
        ))
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let (digits, after) = split_while(rest, |c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(refuse("a number is missing"));
        }
        let (unit, after) = split_while(after, |c| !c.is_ascii_digit());
        let (_, unit_ms) = DURATION_UNITS_MS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| match unit {
                "" => refuse("the unit is missing"),
                _ => refuse(&format!("the unit `{unit}` is unknown")),
            })?;
        total_ms = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*unit_ms))
            .and_then(|part| total_ms.checked_add(part))
            .ok_or_else(|| refuse("it is too long"))?;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration so that [`parse_duration`] reads it back, in the largest unit that is exact.
/// Anything below a millisecond is dropped: no setting is that fine.
pub fn format_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    write_exact(ms, &DURATION_UNITS_MS)
}

/// Reads a size in bytes: a whole number, alone or with a unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`).
///
/// # Errors
/// When the number is missing, the unit is unknown, or the size does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let refuse = |why: &str| {
        UnitError(format!(
            "`{text}` is not a size: {why}; write a number of bytes, or a whole number with KiB, MiB, GiB or TiB, such as 64MiB"
        ))
    };
    let (digits, unit) = split_while(text, |c| c.is_ascii_digit() || c == '_');
    if digits.is_empty() {
        return Err(refuse("a whole number is missing"));
    }
    let unit = unit.trim_start();
    let (_, bytes) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit || (unit.is_empty() && *name == "B"))
        .ok_or_else(|| refuse(&format!("the unit `{unit}` is unknown")))?;
    digits
        .replace('_', "")
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*bytes))
        .ok_or_else(|| refuse("it is too large"))
}

/// Writes a size so that [`parse_size`] reads it back, in the largest unit that is exact.
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    write_exact(bytes, &SIZE_UNITS)
}

/// `amount` in the largest of `units` that divides it. The last unit is 1, so one always does.
fn write_exact(amount: u64, units: &[(&str, u64)]) -> String {
    let mut text = String::new();
    if let Some((name, unit)) = units.iter().find(|(_, unit)| amount.is_multiple_of(*unit)) {
        let _ = write!(text, "{}{name}", amount / unit);
    }
    text
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

/// For `#[serde(with = …)]`: a [`Duration`] written as a string such as `"30s"`.
pub mod duration {
    use std::time::Duration;

    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes the duration as a string.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*value))
    }

    /// Reads a duration from a string.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }

    struct DurationVisitor;

    impl Visitor<'_> for DurationVisitor {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration in quotes with its unit, such as \"30s\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            super::parse_duration(text).map_err(E::custom)
        }

        // A bare number has no unit; only nothing needs none.
        fn visit_i64<E: Error>(self, number: i64) -> Result<Duration, E> {
            match number {
                0 => Ok(Duration::ZERO),
                _ => Err(E::invalid_type(Unexpected::Signed(number), &self)),
            }
        }
    }
}

/// For `#[serde(with = …)]`: a size in bytes written as an integer or as a string such as `"64MiB"`.
pub mod size {
    use std::marker::PhantomData;

    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes the size as a string with the largest exact unit.
    pub fn serialize<T, S>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Copy + TryInto<u64>,
        S: Serializer,
    {
        let bytes = (*value).try_into().unwrap_or(u64::MAX);
        serializer.serialize_str(&super::format_size(bytes))
    }

    /// Reads a size from an integer or a string.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: TryFrom<u64>,
        D: Deserializer<'de>,
    {
        deserializer.deserialize_any(SizeVisitor(PhantomData))
    }

    struct SizeVisitor<T>(PhantomData<T>);

    impl<T: TryFrom<u64>> Visitor<'_> for SizeVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a size in bytes, or in quotes with its unit, such as \"64MiB\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let bytes = super::parse_size(text).map_err(E::custom)?;
            T::try_from(bytes).map_err(|_| E::custom(format_args!("`{text}` is too large")))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
            T::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
            u64::try_from(number)
                .ok()
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
        }
    }
}

/// The JSON Schema of a duration; the fields themselves are [`Duration`].
#[derive(Debug)]
pub struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time: whole numbers with the units ms, s, m, h and d, such as \"30s\", \"500ms\" or \"1h30m\".",
            "type": "string",
            "pattern": "^(0|([0-9]+(ms|s|m|h|d))+)$",
        })
    }
}

/// The JSON Schema of a size in bytes; the fields themselves are integers.
#[derive(Debug)]
pub struct SizeText;

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes: an integer, or a whole number with the unit B, KiB, MiB, GiB or TiB, such as \"64MiB\".",
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": "^([0-9_]+ *(B|KiB|MiB|GiB|TiB)?)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("365d", 31_536_000_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_that_mean_nothing_are_refused() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "30 s",
            "30sec",
            "1h30",
            "99999999999999999999s",
            "300000000000000d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("65_536", 65_536),
            ("12B", 12),
            ("32KiB", 32 << 10),
            ("64 MiB", 64 << 20),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_mean_nothing_are_refused() {
        for text in ["", "MiB", "-1", "1.5MiB", "64MB", "64mib", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(ms in any::<u64>()) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_written_size_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
