//! JSON mode (protocol, section 9.1): appends are split into messages, answers are arrays.
//!
//! Messages are raw slices of what was sent: no number is rounded, no key reordered.

use serde_json::value::RawValue;
use thiserror::Error;

/// Why a body is not a JSON append.
#[derive(Debug, Error)]
pub enum JsonError {
    #[error("the body is not valid JSON: {0}")]
    Invalid(#[from] serde_json::Error),
    #[error("the body is an empty array: there is nothing to append")]
    EmptyArray,
}

/// Splits a body into its messages: the elements of an array, one level deep, or the one value.
pub fn split(body: &[u8]) -> Result<Vec<&[u8]>, JsonError> {
    let messages = split_initial(body)?;
    if messages.is_empty() {
        return Err(JsonError::EmptyArray);
    }
    Ok(messages)
}

/// Like [`split`], but an empty array is no message at all: the form of a creating PUT.
pub fn split_initial(body: &[u8]) -> Result<Vec<&[u8]>, JsonError> {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if is_array {
        let elements: Vec<&RawValue> = serde_json::from_slice(body)?;
        Ok(elements.iter().map(|e| e.get().as_bytes()).collect())
    } else {
        let value: &RawValue = serde_json::from_slice(body)?;
        Ok(vec![value.get().as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split_text(body: &str) -> Vec<String> {
        split(body.as_bytes())
            .unwrap()
            .iter()
            .map(|m| String::from_utf8(m.to_vec()).unwrap())
            .collect()
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
                matches!(split(body.as_bytes()), Err(JsonError::Invalid(_))),
                "{body}"
            );
        }
        assert!(split(b"\"\xff\"").is_err());
        assert!(matches!(split(b" [ ] "), Err(JsonError::EmptyArray)));
        assert!(split_initial(b"[]").unwrap().is_empty());
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
        let _ = split(deep.as_bytes());
    }

    proptest! {
        #[test]
        fn joining_the_messages_gives_the_same_values(values in proptest::collection::vec(any::<i64>(), 1..20)) {
            let body = serde_json::to_string(&values).unwrap();
            let messages = split_text(&body);
            let joined = format!("[{}]", messages.join(","));
            prop_assert_eq!(serde_json::from_str::<Vec<i64>>(&joined).unwrap(), values);
        }
    }
}
