//! What answers are kept under.

use ring::digest::{Context, SHA256};

/// A stream of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey<'a> {
    /// Which origin, or group of origins that share the streams among them: a name that stays the
    /// same when the edge starts again.
    pub origin: &'a str,
    /// The path of the stream there.
    pub path: &'a str,
}

/// One answer of a stream, as one kind of caller gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeKey<'a> {
    pub stream: StreamKey<'a>,
    pub scope: &'a Scope,
    /// All that decides which answer it is: the query in one spelling, and, where an answer exists
    /// in several encodings, which.
    pub range: &'a str,
}

/// Who may be given an answer again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everybody without credentials: only answers for any shared cache are kept.
    Anonymous,
    /// Everybody at a route that has authorised its callers itself: also `private` answers are kept.
    Shared,
    /// Callers with the same credentials, of which this is a digest: also `private` answers are kept.
    Caller([u8; 32]),
}

impl Scope {
    /// Whether an answer that is for one user only may be kept.
    pub(super) fn keeps_private(&self) -> bool {
        !matches!(self, Self::Anonymous)
    }

    fn tag(&self) -> (u8, &[u8]) {
        match self {
            Self::Anonymous => (0, &[]),
            Self::Shared => (1, &[]),
            Self::Caller(digest) => (2, digest),
        }
    }
}

/// 128 bits of SHA-256.
pub(super) type Digest = [u8; 16];

/// Where an answer lies: the digest of its stream, and that of which of its answers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) stream: Digest,
    pub(super) range: Digest,
}

impl StreamKey<'_> {
    pub(super) fn digest(&self) -> Digest {
        digest(&[self.origin.as_bytes(), self.path.as_bytes()])
    }
}

impl RangeKey<'_> {
    pub(super) fn place(&self) -> Place {
        let (tag, caller) = self.scope.tag();
        Place {
            stream: self.stream.digest(),
            range: digest(&[&[tag], caller, self.range.as_bytes()]),
        }
    }

    /// The whole key, as it is written next to its answer.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let (tag, caller) = self.scope.tag();
        let parts = [
            self.stream.origin.as_bytes(),
            self.stream.path.as_bytes(),
            &[tag],
            caller,
            self.range.as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
        for part in parts {
            bytes.extend(length(part));
            bytes.extend(part);
        }
        bytes
    }
}

/// Reads a key that [`RangeKey::to_bytes`] wrote: where its answer lies, and the digest of its
/// stream's path.
pub(super) fn read(mut bytes: &[u8]) -> Option<(Place, Digest)> {
    let mut part = || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(part)
    };
    let (origin, path, tag, caller, range) = (part()?, part()?, part()?, part()?, part()?);
    let place = Place {
        stream: digest(&[origin, path]),
        range: digest(&[tag, caller, range]),
    };
    bytes.is_empty().then(|| (place, digest(&[path])))
}

/// The digest of parts that cannot run into each other.
pub(super) fn digest(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&length(part));
        context.update(part);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(&context.finish().as_ref()[..16]);
    digest
}

fn length(part: &[u8]) -> [u8; 4] {
    (part.len() as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_written_key_is_read(
            origin in ".{0,8}",
            path in ".{0,8}",
            range in ".{0,8}",
            caller in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let stream = StreamKey { origin: &origin, path: &path };
            let scope = caller.map_or(Scope::Shared, Scope::Caller);
            let key = RangeKey { stream, scope: &scope, range: &range };
            let (place, of_path) = read(&key.to_bytes()).unwrap();
            prop_assert_eq!(place, key.place());
            prop_assert_eq!(of_path, digest(&[path.as_bytes()]));
        }
    }

    #[test]
    fn nothing_runs_into_anything_else() {
        let key = |origin, path, scope, range| RangeKey {
            stream: StreamKey { origin, path },
            scope,
            range,
        };
        let caller = Scope::Caller([0; 32]);
        let keys = [
            key("a", "b", &Scope::Anonymous, "c"),
            key("ab", "", &Scope::Anonymous, "c"),
            key("a", "b", &Scope::Shared, "c"),
            key("a", "b", &caller, "c"),
            key("a", "bc", &Scope::Anonymous, ""),
        ];
        for (index, one) in keys.iter().enumerate() {
            for other in &keys[index + 1..] {
                assert_ne!(one.place(), other.place());
            }
        }
    }
}
