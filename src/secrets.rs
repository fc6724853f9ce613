//! Which names announce a secret: those of headers, query parameters and fields.

/// What stands in a secret's place where it is shown.
pub const REDACTED: &str = "[redacted]";

/// A name that contains one of these names a secret. In lower case, `-` written as `_`.
const STEMS: [&str; 12] = [
    "authorization",
    "cookie",
    "signature",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "api_key",
    "apikey",
    "access_key",
];

/// A name that is one of these names a secret, but they are also ordinary words.
const WORDS: [&str; 7] = ["token", "sig", "key", "auth", "jwt", "hmac", "pwd"];

/// What a name says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// It is a secret.
    Secret,
    /// It is a secret, if the name is one and not just a word.
    Perhaps,
}

/// What `name` announces, if anything. Case does not matter.
pub fn announced(name: &str) -> Option<Announced> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    if WORDS.contains(&name.as_str()) {
        return Some(Announced::Perhaps);
    }
    let is_secret = STEMS.iter().any(|stem| name.contains(stem));
    is_secret.then_some(Announced::Secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_announce_secrets() {
        for name in ["Authorization", "X-Api-Key", "OPENAI_API_KEY", "Set-Cookie"] {
            assert_eq!(announced(name), Some(Announced::Secret), "{name}");
        }
        assert_eq!(announced("Token"), Some(Announced::Perhaps));
        for name in ["", "X-Api-Version", "monkey", "keyed"] {
            assert_eq!(announced(name), None, "{name}");
        }
    }
}
