//! What tells a stream from another that was at its path before, where its origin says so.

use std::sync::Arc;

use http::{HeaderMap, header};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::types::Coding;

/// The memory for identities; of other streams, they are learned again.
const BYTES_MAX: u64 = 32 << 20;
/// How many there are room for, at the usual length of paths.
const STREAMS_EXPECTED: usize = 100_000;
/// What one takes beside its text.
const OVERHEAD_BYTES: usize = 128;

/// The identities that origins named last.
pub(super) struct Identities {
    /// By stream: origin, host and path.
    known: Cache<Arc<str>, Arc<str>, Bytes>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Arc<str>, Arc<str>> for Bytes {
    fn weight(&self, stream: &Arc<str>, identity: &Arc<str>) -> u64 {
        (stream.len() + identity.len() + OVERHEAD_BYTES) as u64
    }
}

/// What was learned from an identity.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// It is the first one of this stream, or the same.
    Nothing,
    /// Another stream was at this path before.
    Replaced,
    /// It is of a stream that was at this path before: what was said is old, or for others.
    Outdated,
}

impl Identities {
    pub(super) fn new() -> Self {
        Self {
            known: Cache::with_weighter(STREAMS_EXPECTED, BYTES_MAX, Bytes),
        }
    }

    /// An origin, or a cache before it, has named a stream.
    pub(super) fn learn(&self, stream: &Arc<str>, identity: &str) -> Learned {
        let before = self.known.get(stream);
        if before.as_deref() == Some(identity) {
            return Learned::Nothing;
        }
        if before
            .as_deref()
            .is_some_and(|before| is_older(identity, before))
        {
            return Learned::Outdated;
        }
        self.known.insert(stream.clone(), identity.into());
        match before {
            None => Learned::Nothing,
            Some(_) => Learned::Replaced,
        }
    }

    /// Who a stream is, if that is known.
    pub(super) fn known(&self, stream: &Arc<str>) -> Option<Arc<str>> {
        self.known.get(stream)
    }

    /// Whether an answer that was kept is of another stream than the one that is there.
    pub(super) fn contradict(&self, stream: &Arc<str>, headers: &HeaderMap) -> bool {
        let Some(identity) = identity(headers) else {
            return false;
        };
        let known = self.known.get(stream);
        known.is_some_and(|known| *known != *identity)
    }
}

/// Whether one stream was made before another: within a database, their numbers only grow.
fn is_older(one: &str, other: &str) -> bool {
    let parts = |identity: &'_ str| {
        let (database, number) = identity.split_once(':')?;
        Some((database.to_owned(), number.parse::<u64>().ok()?))
    };
    let both = parts(one).zip(parts(other));
    both.is_some_and(|(one, other)| one.0 == other.0 && one.1 < other.1)
}

/// Who a stream is, by the `ETag` of an answer: `"database:stream:from:to"`, and what follows it,
/// which is how it ends, and its coding. Other servers' tags say nothing of it.
pub(super) fn identity(headers: &HeaderMap) -> Option<&str> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?;
    let tag = tag.strip_prefix('"')?.strip_suffix('"')?;
    let (whole, coding) = tag.rsplit_once(':')?;
    let tag = Coding::named(coding).map_or(tag, |_| whole);
    let tag = tag
        .strip_suffix(":t")
        .or(tag.strip_suffix(":c"))
        .unwrap_or(tag);
    let (of, to) = tag.rsplit_once(':')?;
    let (of, from) = of.rsplit_once(':')?;
    let is_place = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    (is_identity(of) && is_place(from) && is_place(to)).then_some(of)
}

/// Whether a text is the name of a database, eight hex digits, and the number of a stream in it.
pub(super) fn is_identity(text: &str) -> bool {
    let Some((database, number)) = text.split_once(':') else {
        return false;
    };
    let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    database.len() == 8
        && database.bytes().all(is_hex)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tag: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, tag.parse().unwrap());
        headers
    }

    #[test]
    fn tags_tell_who_a_stream_is() {
        for rest in [
            "0:120",
            "0:120:t",
            "5:9:c",
            "5:9:gzip",
            "5:9:c:zstd",
            "0000_05:0000_09:t",
        ] {
            let headers = of(&format!("\"0a1b2c3d:7:{rest}\""));
            assert_eq!(identity(&headers), Some("0a1b2c3d:7"), "{rest}");
        }
        for tag in [
            "\"x\"",
            "\"path:0_0:0_9\"",
            "\"path:-1:0_9:c\"",
            "\"7:0:5:c\"",
            "\"s3:10:20:99\"",
            "\"0a1b2c3d:7:a:b\"",
            "\"0a1b2c3d:7:1:2:3\"",
            "\"0a1b2c3d:1:2:gzip\"",
            "W/\"0a1b2c3d:1:2:3\"",
        ] {
            assert_eq!(identity(&of(tag)), None, "{tag}");
        }
    }

    #[test]
    fn another_stream_at_the_same_path_is_noticed() {
        let identities = Identities::new();
        let stream: Arc<str> = "a/b".into();
        let kept = of("\"0a1b2c3d:9:0:9\"");
        assert!(!identities.contradict(&stream, &kept), "nothing is known");
        assert_eq!(identities.learn(&stream, "0a1b2c3d:9"), Learned::Nothing);
        assert_eq!(identities.learn(&stream, "0a1b2c3d:9"), Learned::Nothing);
        assert!(!identities.contradict(&stream, &kept));
        assert_eq!(identities.learn(&stream, "0a1b2c3d:10"), Learned::Replaced);
        assert!(identities.contradict(&stream, &kept));
        assert!(!identities.contradict(&stream, &of("\"other\"")));
    }

    #[test]
    fn what_is_old_teaches_nothing() {
        let identities = Identities::new();
        let stream: Arc<str> = "a/b".into();
        identities.learn(&stream, "0a1b2c3d:10");
        for _ in 0..2 {
            assert_eq!(identities.learn(&stream, "0a1b2c3d:9"), Learned::Outdated);
            assert_eq!(identities.known(&stream).as_deref(), Some("0a1b2c3d:10"));
        }
        // In another database, which is the newer one cannot be told: what was said last counts.
        assert_eq!(identities.learn(&stream, "ffffffff:1"), Learned::Replaced);
    }
}
