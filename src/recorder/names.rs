//! Names of recordings: unguessable, and for a request with a key the same each time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::{digest, hmac};
use std::fmt;
use std::net::IpAddr;

const ID_BYTES: usize = 16;

/// What makes the name of a recording unique: 128 bits that cannot be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; ID_BYTES]);

impl Id {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// The same as a random UUID (RFC 9562, version 4).
    pub(super) fn to_uuid(self) -> String {
        let mut bytes = self.0;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = format!("{:032x}", u128::from_be_bytes(bytes));
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        parts.join("-")
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

/// Who asks, as far as a recording is theirs: a digest of the credentials, which are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope([u8; 32]);

impl Scope {
    pub(super) fn to_text(self) -> String {
        BASE64.encode(self.0)
    }
}

/// Makes names with a key of this server, so that nobody else can.
pub(super) struct Naming {
    key: hmac::Key,
}

impl Naming {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// The scope of a caller: what these headers of the request hold.
    pub(super) fn scope(&self, credentials: &[HeaderName], headers: &HeaderMap) -> Scope {
        let mut parts: Vec<&[u8]> = vec![b"scope"];
        for name in credentials {
            parts.push(name.as_str().as_bytes());
            parts.extend(headers.get_all(name).iter().map(HeaderValue::as_bytes));
        }
        Scope(self.digest(&parts))
    }

    /// The scope of a caller without credentials.
    pub(super) fn address(&self, address: Option<IpAddr>) -> Scope {
        let text = address
            .map(|address| address.to_string())
            .unwrap_or_default();
        Scope(self.digest(&[b"address", text.as_bytes()]))
    }

    /// The id of the request that a caller names by a key at a route.
    pub(super) fn keyed(&self, route: &str, scope: Scope, key: &[u8]) -> Id {
        let digest = self.digest(&[b"key", route.as_bytes(), &scope.0, key]);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&digest[..ID_BYTES]);
        Id(id)
    }

    fn digest(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            // With their lengths, so that no two lists of parts look the same.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// What tells two requests apart that come with the same key.
pub(super) fn fingerprint(method: &str, target: &str, body: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [method.as_bytes(), b"\n", target.as_bytes(), b"\n", body] {
        context.update(part);
    }
    BASE64.encode(context.finish())
}

/// The `id` of an event: in which recording it is, and where it ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventId {
    pub recording: Id,
    /// Where the append begins in which the event ends.
    pub position: u64,
    /// How many events end in that append before this one.
    pub index: u32,
}

impl EventId {
    /// Reads an id that [`EventId`] wrote; anything else is an id of the upstream's own.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let id = Self {
            recording: Id::parse(parts.next()?)?,
            position: parts.next()?.parse().ok()?,
            index: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.recording, self.position, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::AUTHORIZATION;

    #[test]
    fn event_ids_come_back() {
        let id = EventId {
            recording: Id::random(),
            position: 4711,
            index: 3,
        };
        assert_eq!(EventId::parse(&id.to_string()), Some(id));
        for wrong in [
            "",
            "7",
            "a.b.c",
            "AAAAAAAAAAAAAAAAAAAAAA.1",
            "AAAAAAAAAAAAAAAAAAAAAA.1.2.3",
        ] {
            assert_eq!(EventId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_belongs_to_its_caller_and_route() {
        let naming = Naming::new(b"secret");
        let scope = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            naming.scope(&[AUTHORIZATION], &headers)
        };
        let (one, other) = (scope("Bearer a"), scope("Bearer b"));
        assert_eq!(one, scope("Bearer a"));
        let id = naming.keyed("/v1/*", one, b"k");
        assert_eq!(id, naming.keyed("/v1/*", one, b"k"));
        assert_ne!(id, naming.keyed("/v1/*", other, b"k"));
        assert_ne!(id, naming.keyed("/v2/*", one, b"k"));
        assert_ne!(id, naming.keyed("/v1/*", one, b"l"));
        assert_ne!(id, Naming::new(b"other").keyed("/v1/*", one, b"k"));
    }

    #[test]
    fn requests_differ_in_method_target_and_body() {
        let first = fingerprint("POST", "/a?b", b"c");
        assert_eq!(first, fingerprint("POST", "/a?b", b"c"));
        assert_ne!(first, fingerprint("PUT", "/a?b", b"c"));
        assert_ne!(first, fingerprint("POST", "/a", b"c"));
        assert_ne!(first, fingerprint("POST", "/a?b", b""));
    }
}
