//! Signed URLs: whoever has one may use the stream that it names, until it expires.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::hmac;
use thiserror::Error;

const EXPIRES: &str = "expires";
const SIGNATURE: &str = "signature";

/// Separates these signatures from any others that are made with the same key.
const PURPOSE: &str = "headwater signed url";

/// Why a URL is not accepted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SignatureError {
    #[error("the URL is not signed: it needs `expires` and `signature`")]
    Missing,
    #[error("the signature is not one for this URL")]
    Invalid,
    #[error("the URL has expired")]
    Expired,
}

/// Signs URLs with HMAC-SHA256, and verifies them.
#[derive(Debug)]
pub struct Signer {
    current: hmac::Key,
    previous: Vec<hmac::Key>,
}

impl Signer {
    /// Signs with `current`. What was signed with one of `previous` stays valid, so that a key can be
    /// replaced without breaking URLs that are in use.
    pub fn new<K: AsRef<[u8]>>(current: &[u8], previous: impl IntoIterator<Item = K>) -> Self {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        Self {
            current: key(current),
            previous: previous.into_iter().map(|old| key(old.as_ref())).collect(),
        }
    }

    /// The signature of a path until a time.
    pub fn sign(&self, path: &str, expires_unix_s: u64) -> String {
        let tag = hmac::sign(&self.current, message(path, expires_unix_s).as_bytes());
        BASE64URL.encode(tag)
    }

    /// The query that makes a URL of this path valid until a time.
    pub fn query(&self, path: &str, expires_unix_s: u64) -> String {
        let signature = self.sign(path, expires_unix_s);
        format!("{EXPIRES}={expires_unix_s}&{SIGNATURE}={signature}")
    }

    /// Whether `query`, which may hold other parameters too, makes `path` valid now.
    pub fn verify(&self, path: &str, query: &str, now_unix_s: u64) -> Result<(), SignatureError> {
        let expires = parameter(query, EXPIRES)?;
        let signature = parameter(query, SIGNATURE)?;
        let expires_unix_s = expires.parse().map_err(|_| SignatureError::Invalid)?;
        let signature = BASE64URL
            .decode(signature.as_bytes())
            .map_err(|_| SignatureError::Invalid)?;
        let message = message(path, expires_unix_s);
        // `hmac::verify` compares in constant time.
        let is_signed = std::iter::once(&self.current)
            .chain(&self.previous)
            .any(|key| hmac::verify(key, message.as_bytes(), &signature).is_ok());
        if !is_signed {
            return Err(SignatureError::Invalid);
        }
        if now_unix_s >= expires_unix_s {
            return Err(SignatureError::Expired);
        }
        Ok(())
    }
}

fn message(path: &str, expires_unix_s: u64) -> String {
    // The number comes first and a path holds no LF before it, so that no two pairs read the same.
    format!("{PURPOSE}\n{expires_unix_s}\n{path}")
}

/// The only value of a parameter. One that is there twice could be read differently elsewhere.
fn parameter(query: &str, name: &str) -> Result<String, SignatureError> {
    let mut values = url::form_urlencoded::parse(query.as_bytes())
        .filter(|(other, _)| other == name)
        .map(|(_, value)| value.into_owned());
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(SignatureError::Missing),
        (Some(_), Some(_)) => Err(SignatureError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    const PATH: &str = "/_recordings/chat/a%20b";
    const NO_KEYS: [&[u8]; 0] = [];

    fn signer() -> Signer {
        Signer::new(b"one", NO_KEYS)
    }

    #[test]
    fn a_signed_url_is_valid_until_it_expires() {
        let query = signer().query(PATH, 1000);
        assert_eq!(signer().verify(PATH, &query, 999), Ok(()));
        assert_eq!(
            signer().verify(PATH, &query, 1000),
            Err(SignatureError::Expired)
        );
        let more = format!("offset=-1&{query}&live=sse");
        assert_eq!(signer().verify(PATH, &more, 0), Ok(()));
    }

    #[test]
    fn nothing_can_be_changed() {
        let query = signer().query(PATH, 1000);
        let signature = signer().sign(PATH, 1000);
        let invalid = |path: &str, query: &str| {
            let result = signer().verify(path, query, 0);
            assert_eq!(result, Err(SignatureError::Invalid), "{path} {query}");
        };
        invalid("/_recordings/chat/a b", &query);
        invalid("/_recordings/chat", &query);
        invalid(&format!("{PATH}/"), &query);
        for expires in ["1001", "", "-1", "1e3", "18446744073709551616", "1000\n"] {
            invalid(PATH, &format!("expires={expires}&signature={signature}"));
        }
        for wrong in [
            "",
            "%00",
            &signature[..42],
            &signature[1..],
            &format!("{signature}A"),
            &format!("{signature}="),
        ] {
            invalid(PATH, &format!("expires=1000&signature={wrong}"));
        }
        // Whether it would have expired is told to those who have signed it, not to others.
        let forged = Signer::new(b"two", NO_KEYS).query(PATH, 1000);
        let late = signer().verify(PATH, &forged, 2000);
        assert_eq!(late, Err(SignatureError::Invalid));
    }

    #[test]
    fn what_is_missing_is_said() {
        for query in [
            "",
            "offset=-1",
            "expires=1000",
            "signature=x",
            "Expires=1000&Signature=x",
        ] {
            let result = signer().verify(PATH, query, 0);
            assert_eq!(result, Err(SignatureError::Missing), "{query}");
        }
    }

    #[test]
    fn a_parameter_counts_however_it_is_written_but_once() {
        let signature = signer().sign(PATH, 1000);
        let encoded = percent_encode(signature.as_bytes(), NON_ALPHANUMERIC);
        let query = format!("%65xpires=100%30&%73ignature={encoded}");
        assert_eq!(signer().verify(PATH, &query, 0), Ok(()));
        for twice in [
            format!("expires=1000&expires=1000&signature={signature}"),
            format!("expires=1000&signature={signature}&%73ignature=x"),
        ] {
            let result = signer().verify(PATH, &twice, 0);
            assert_eq!(result, Err(SignatureError::Invalid), "{twice}");
        }
    }

    #[test]
    fn keys_can_be_replaced() {
        let old = Signer::new(b"one", NO_KEYS);
        let new = Signer::new(b"two", [b"one"]);
        let query = old.query(PATH, 1000);
        assert_eq!(new.verify(PATH, &query, 0), Ok(()));
        let query = new.query(PATH, 1000);
        assert_eq!(new.verify(PATH, &query, 0), Ok(()));
        assert_eq!(old.verify(PATH, &query, 0), Err(SignatureError::Invalid));
    }

    proptest! {
        #[test]
        fn no_bit_of_a_signature_can_be_flipped(path: String, expires in 1u64.., bit in 0usize..256) {
            let signer = signer();
            prop_assert_eq!(signer.verify(&path, &signer.query(&path, expires), 0), Ok(()));
            let mut signature = BASE64URL.decode(signer.sign(&path, expires)).unwrap();
            signature[bit / 8] ^= 1 << (bit % 8);
            let query = format!("expires={expires}&signature={}", BASE64URL.encode(&signature));
            prop_assert_eq!(signer.verify(&path, &query, 0), Err(SignatureError::Invalid));
        }

        #[test]
        fn no_query_is_too_strange(query: String) {
            prop_assert!(signer().verify(PATH, &query, 0).is_err());
        }
    }
}
