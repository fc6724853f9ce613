//! JSON mode (protocol, section 9.1): appends are split into messages, answers are arrays.
//!
//! Messages are the bytes that were sent: no number is rounded, no key reordered.

use crate::frame::{self, Append, HEADER_BYTES};
use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use thiserror::Error;

/// Why a body is not a JSON append.
#[derive(Debug, Error)]
pub enum JsonError {
    #[error("the body is not valid JSON: {0}")]
    Invalid(#[from] serde_json::Error),
    #[error("the body is an empty array: there is nothing to append")]
    EmptyArray,
}

/// The messages of a body as the frames of one append, and how many they are: the elements of an array,
/// one level deep, or the one value. `None` for an empty array.
pub fn frame(body: &[u8]) -> Result<Option<(Bytes, u64)>, JsonError> {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if !is_array {
        let value: &RawValue = serde_json::from_slice(body)?;
        let message = value.get().as_bytes();
        return Ok(Some((frame::encode([message].into_iter()), 1)));
    }
    let mut append = Append::with_capacity(frames_bytes_max(body));
    let mut body = serde_json::Deserializer::from_slice(body);
    body.deserialize_seq(Elements(&mut append))?;
    body.end()?;
    Ok(append.finish())
}

/// The bytes of an array's elements as frames, if each comma parts two elements; else they are fewer.
/// Each element but the last gives its comma for its header, the last one both brackets.
fn frames_bytes_max(array: &[u8]) -> usize {
    let commas = memchr::memchr_iter(b',', array).count();
    array.len() + commas * (HEADER_BYTES - 1) + HEADER_BYTES - 2
}

/// Frames the elements of an array as they are read: a list of them could be many times their size.
struct Elements<'a>(&'a mut Append);

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            self.0.push(element.get().as_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, Frames};
    use proptest::prelude::*;

    fn split_text(body: &str) -> Vec<String> {
        let Some((run, messages)) = frame(body.as_bytes()).unwrap() else {
            return Vec::new();
        };
        let frames: Vec<_> = Frames::new(&run, 0).collect();
        assert_eq!(frames.len() as u64, messages);
        let ends: Vec<_> = frames.iter().filter(|frame| frame.ends_append).collect();
        assert_eq!(ends, [&frames[frames.len() - 1]]);
        let message = |frame: &Frame| String::from_utf8(run[frame.payload()].to_vec()).unwrap();
        frames.iter().map(message).collect()
    }

    #[test]
    fn one_level_is_flattened() {
        assert_eq!(split_text(r#"{"a":1}"#), [r#"{"a":1}"#]);
        assert_eq!(
            split_text(r#" [ {"a":1} , "x" ] "#),
            [r#"{"a":1}"#, r#""x""#]
        );
        assert_eq!(split_text("[[1,2],[3,4]]"), ["[1,2]", "[3,4]"]);
        assert_eq!(split_text("[[[1]]]"), ["[[1]]"]);
        assert_eq!(
            split_text(" 12345678901234567890 "),
            ["12345678901234567890"]
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for body in ["", " ", "{", "[1,]", "[1] 2", "{} {}", "nul", "\u{feff}1"] {
            assert!(
                matches!(frame(body.as_bytes()), Err(JsonError::Invalid(_))),
                "{body}"
            );
        }
        assert!(frame(b"\"\xff\"").is_err());
        assert!(frame(b"[1,\"\xff\"]").is_err());
    }

    #[test]
    fn an_empty_array_is_no_append() {
        assert_eq!(frame(b"[]").unwrap(), None);
        assert_eq!(frame(b" [ ] ").unwrap(), None);
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
        let _ = frame(deep.as_bytes());
    }

    proptest! {
        #[test]
        fn joining_the_messages_gives_the_same_values(values in proptest::collection::vec(any::<i64>(), 1..20)) {
            let body = serde_json::to_string(&values).unwrap();
            let messages = split_text(&body);
            let joined = format!("[{}]", messages.join(","));
            prop_assert_eq!(serde_json::from_str::<Vec<i64>>(&joined).unwrap(), values);
        }

        #[test]
        fn frames_fit_where_they_are_gathered(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3), 1..20)) {
            let body = serde_json::to_vec(&values).unwrap();
            let (run, _) = frame(&body).unwrap().unwrap();
            let inner: usize = values.iter().map(|value| value.len().saturating_sub(1)).sum();
            prop_assert_eq!(run.len() + inner * (HEADER_BYTES - 1), frames_bytes_max(&body));
        }
    }
}
