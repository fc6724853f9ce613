//! What tells a stream from another that was at its path before, where its origin says so.

use std::sync::Arc;

use http::{HeaderMap, header};
use quick_cache::sync::Cache;

use crate::types::Coding;

/// Streams whose identity is remembered; of others, it is learned again.
const STREAMS_MAX: usize = 100_000;

/// The identities that origins named last.
pub(super) struct Identities {
    /// By stream: origin and path.
    known: Cache<Arc<str>, Arc<str>>,
}

/// What was learned from an identity.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// It is the first one of this stream, or the same.
    Nothing,
    /// Another stream was at this path before.
    Replaced,
}

impl Identities {
    pub(super) fn new() -> Self {
        Self {
            known: Cache::new(STREAMS_MAX),
        }
    }

    /// An origin has just said who a stream is.
    pub(super) fn learn(&self, stream: &Arc<str>, identity: &str) -> Learned {
        let before = self.known.get(stream);
        if before.as_deref() == Some(identity) {
            return Learned::Nothing;
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

/// Who a stream is, by the `ETag` of an answer: `"database:stream:from:to"`, and what follows it,
/// which is how it ends, and its coding.
/// Other servers' tags say nothing of it.
pub(super) fn identity(headers: &HeaderMap) -> Option<&str> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?;
    let tag = tag.strip_prefix('"')?.strip_suffix('"')?;
    let (whole, coding) = tag.rsplit_once(':')?;
    let tag = Coding::named(coding).map_or(tag, |_| whole);
    let tag = tag
        .strip_suffix(":t")
        .or(tag.strip_suffix(":c"))
        .unwrap_or(tag);
    let mut parts = tag.split(':');
    let (database, stream) = (parts.next()?, parts.next()?);
    let is_number = !stream.is_empty() && stream.bytes().all(|byte| byte.is_ascii_digit());
    if database.is_empty() || !is_number || parts.count() != 2 {
        return None;
    }
    tag.get(..database.len() + 1 + stream.len())
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
        for tag in [
            "\"0a1b:7:0:120\"",
            "\"0a1b:7:0:120:t\"",
            "\"0a1b:7:5:9:c\"",
            "\"0a1b:7:5:9:gzip\"",
            "\"0a1b:7:5:9:c:zstd\"",
            "\"0a1b:7:0000_05:0000_09:t\"",
        ] {
            assert_eq!(identity(&of(tag)), Some("0a1b:7"), "{tag}");
        }
        for tag in [
            "\"x\"",
            "\"path:0_0:0_9\"",
            "\"path:-1:0_9:c\"",
            "\"7:0:5:c\"",
            "\"a:1:2:gzip\"",
            "W/\"a:1:2:3\"",
        ] {
            assert_eq!(identity(&of(tag)), None, "{tag}");
        }
    }

    #[test]
    fn another_stream_at_the_same_path_is_noticed() {
        let identities = Identities::new();
        let stream: Arc<str> = "a/b".into();
        let kept = of("\"d:1:0:9\"");
        assert!(!identities.contradict(&stream, &kept), "nothing is known");
        assert_eq!(identities.learn(&stream, "d:1"), Learned::Nothing);
        assert_eq!(identities.learn(&stream, "d:1"), Learned::Nothing);
        assert!(!identities.contradict(&stream, &kept));
        assert_eq!(identities.learn(&stream, "d:2"), Learned::Replaced);
        assert!(identities.contradict(&stream, &kept));
        assert!(!identities.contradict(&stream, &of("\"other\"")));
    }
}
