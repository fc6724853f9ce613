//! Secrets in the configuration.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::secrets::{Announced, REDACTED, announced};

/// A shorter one could be found by trying, by anybody who holds something that was signed with it.
const SECRET_BYTES_MIN: usize = 16;

/// Why a text is no secret. It is not shown.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "the secret is shorter than {SECRET_BYTES_MIN} bytes; take the output of `openssl rand -hex 32`"
)]
pub struct TooShort;

/// A secret. It is never shown, neither in logs nor where the configuration is printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Secret(String);

impl Secret {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl TryFrom<String> for Secret {
    type Error = TooShort;

    fn try_from(text: String) -> Result<Self, TooShort> {
        if text.len() < SECRET_BYTES_MIN {
            return Err(TooShort);
        }
        Ok(Self(text))
    }
}

impl From<Secret> for String {
    fn from(_: Secret) -> Self {
        REDACTED.to_owned()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// A line of the file as it may be shown: with each character of a string masked that stands behind a
/// name of a secret. Variables stay, as `${NAME}` alone says nothing.
pub(super) fn masked(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let (mut name, mut is_secret) = ("", false);
    let mut rest = line;
    while let Some(at) = rest.find(['"', '\'', '=', '#']) {
        let (before, mark) = (&rest[..at], rest.as_bytes()[at]);
        shown.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        let word = before.trim_end().rsplit([' ', '\t', '.', ',', '{']).next();
        name = word.filter(|word| !word.is_empty()).unwrap_or(name);
        match mark {
            b'=' => is_secret = announced(name) == Some(Announced::Secret),
            b'#' => break,
            quote => {
                let end = string_end(rest, quote);
                name = &rest[..end];
                // With the quote at its end, if it has one.
                let closed = (end + 1).min(rest.len());
                let is_key = rest[closed..].trim_start().starts_with('=');
                if is_secret && !is_key {
                    mask(name, &mut shown);
                } else {
                    shown.push_str(name);
                }
                shown.push_str(&rest[end..closed]);
                rest = &rest[closed..];
            }
        }
    }
    shown + rest
}

/// The length of a string that ends with this quote, or with the line.
fn string_end(text: &str, quote: u8) -> usize {
    let mut escaped = false;
    let ends = |byte: u8| {
        let ends = byte == quote && !escaped;
        escaped = quote == b'"' && byte == b'\\' && !escaped;
        ends
    };
    text.bytes().position(ends).unwrap_or(text.len())
}

fn mask(text: &str, shown: &mut String) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let variable = rest.strip_prefix("${").and_then(|name| name.find('}'));
        match variable {
            Some(end) if !rest[2..2 + end].contains(':') => {
                let (variable, behind) = rest.split_at(end + 3);
                shown.push_str(variable);
                rest = behind;
            }
            _ => {
                shown.push('•');
                rest = &rest[first.len_utf8()..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_without_their_secrets() {
        for (line, shown) in [
            (
                "port = \"a\" # secret = \"b\"",
                "port = \"a\" # secret = \"b\"",
            ),
            ("secret = \"abc\"", "secret = \"•••\""),
            (
                "  proxy.secret='a\"b', path = 'c'",
                "  proxy.secret='•••', path = 'c'",
            ),
            (
                r#"set = { Authorization = "a\"é", "X-Api-Key" = 'b', X-B = 'c' }"#,
                r#"set = { Authorization = "••••", "X-Api-Key" = '•', X-B = 'c' }"#,
            ),
            (
                "previous_secrets = [\"a\", \"b\"]",
                "previous_secrets = [\"•\", \"•\"]",
            ),
            (
                "Authorization = \"B ${KEY}${K:d}\"",
                "Authorization = \"••${KEY}••••••\"",
            ),
            ("secret = \"abc", "secret = \"•••"),
            ("key = 'server.key'", "key = 'server.key'"),
            ("= = \"\" '", "= = \"\" '"),
        ] {
            assert_eq!(masked(line), shown);
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::try_from("0123456789abcdef".to_owned()).unwrap();
        assert_eq!(secret.as_bytes(), b"0123456789abcdef");
        assert_eq!(format!("{secret:?}"), REDACTED);
        assert_eq!(serde_json::to_value(&secret).unwrap(), REDACTED);
    }

    #[test]
    fn a_secret_is_long() {
        let short = Secret::try_from("0123456789abcde".to_owned());
        assert_eq!(short, Err(TooShort));
    }
}
