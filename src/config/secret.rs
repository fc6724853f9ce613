//! Secrets in the configuration.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::secrets::REDACTED;

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

#[cfg(test)]
mod tests {
    use super::*;

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
