//! The words every room uses: stream paths, positions, content kinds, producers and lifetimes.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The name of a stream: a namespace and the path below its route, percent-decoded.
///
/// Two routes that share a namespace see the same streams.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamPath {
    /// `namespace`, NUL, `path`: also the stream's key in the log.
    joined: Arc<str>,
    namespace_bytes: u32,
}

impl StreamPath {
    /// Joins a namespace and a path; neither contains NUL.
    pub fn new(namespace: &str, path: &str) -> Self {
        debug_assert!(!namespace.contains('\0') && !path.contains('\0'));
        let mut joined = String::with_capacity(namespace.len() + 1 + path.len());
        joined.push_str(namespace);
        joined.push('\0');
        joined.push_str(path);
        Self {
            joined: joined.into(),
            namespace_bytes: namespace.len() as u32,
        }
    }

    /// Reads a path back from its key; `None` if the key holds no NUL.
    pub fn from_key(key: &str) -> Option<Self> {
        let namespace_bytes = key.find('\0')? as u32;
        Some(Self {
            joined: key.into(),
            namespace_bytes,
        })
    }

    /// The key of this stream in the log.
    pub fn key(&self) -> &str {
        &self.joined
    }

    pub fn namespace(&self) -> &str {
        &self.joined[..self.namespace_bytes as usize]
    }

    pub fn path(&self) -> &str {
        &self.joined[self.namespace_bytes as usize + 1..]
    }
}

impl fmt::Debug for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace(), self.path())
    }
}

/// Milliseconds since the Unix epoch.
pub type UnixMs = u64;

/// A place in a stream, counted in frame bytes from its beginning.
pub type Position = u64;

/// The number of a stream. It is never used again, also when its path is.
pub type StreamId = u64;

/// The largest integer that every client can represent (2^53 - 1).
pub const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// An offset as it goes over the wire: two 16-digit decimals joined by `_`, the second being the
/// position (protocol, section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset(pub Position);

impl Offset {
    const DIGITS: usize = 16;
    const TEXT_BYTES: usize = 2 * Self::DIGITS + 1;

    /// Reads an offset. Anything but the exact form is `None`; a form whose first part is not zero
    /// was never minted here and lies beyond every tail.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != Self::TEXT_BYTES || bytes[Self::DIGITS] != b'_' {
            return None;
        }
        let high = decimal(&bytes[..Self::DIGITS])?;
        let position = decimal(&bytes[Self::DIGITS + 1..])?;
        Some(Self(if high == 0 { position } else { Position::MAX }))
    }

    /// The wire form in a fixed array, for building headers without formatting machinery.
    pub fn to_text(self) -> OffsetText {
        let mut text = [b'0'; Self::TEXT_BYTES];
        text[Self::DIGITS] = b'_';
        let mut rest = self.0;
        for digit in text[Self::DIGITS + 1..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        OffsetText(text)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_text().as_str())
    }
}

/// The text of an [`Offset`].
#[derive(Clone, Copy)]
pub struct OffsetText([u8; Offset::TEXT_BYTES]);

impl OffsetText {
    pub fn as_str(&self) -> &str {
        // Only ASCII digits and `_` are ever written.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + u64::from(digit - b'0'))
    })
}

/// How the bytes of a stream are read, by its content type (protocol, sections 5.8 and 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `application/json`: an append is split into messages, an answer is an array.
    Json,
    /// `text/*`: SSE carries the text itself.
    Text,
    /// Anything else: SSE carries base64.
    Binary,
}

impl Kind {
    /// The kind of a content type; case and parameters do not count.
    pub fn of(content_type: &str) -> Self {
        let essence = essence(content_type);
        if essence.eq_ignore_ascii_case("application/json") {
            Self::Json
        } else if essence
            .get(..5)
            .is_some_and(|top| top.eq_ignore_ascii_case("text/"))
        {
            Self::Text
        } else {
            Self::Binary
        }
    }
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// How the bytes of an answer are compressed on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Coding {
    #[serde(rename = "zstd")]
    Zstd,
    #[serde(rename = "br")]
    Brotli,
    #[serde(rename = "gzip")]
    Gzip,
}

impl Coding {
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// The name of the coding in HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The coding with this name; case does not count.
    pub fn named(name: &str) -> Option<Self> {
        let is_alias = name.eq_ignore_ascii_case("x-gzip");
        let mut all = Self::ALL.into_iter();
        all.find(|coding| name.eq_ignore_ascii_case(coding.as_str()))
            .or(is_alias.then_some(Self::Gzip))
    }
}

/// Whether two content types name the same format: case and parameters do not count.
pub fn same_content_type(one: &str, other: &str) -> bool {
    one == other || essence(one).eq_ignore_ascii_case(essence(other))
}

/// How long a stream lives (protocol, section 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    #[default]
    Unlimited,
    /// `Stream-TTL`: seconds since the last read or write.
    Ttl { seconds: u64 },
    /// `Stream-Expires-At`.
    Until { at_ms: UnixMs },
}

impl Lifetime {
    /// When a stream that was last used at `last_used_ms` ends; `None` if it never does.
    pub fn deadline_ms(self, last_used_ms: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Unlimited => None,
            Self::Ttl { seconds } => {
                Some(last_used_ms.saturating_add(seconds.saturating_mul(1000)))
            }
            Self::Until { at_ms } => Some(at_ms),
        }
    }
}

/// How much of a stream is kept while it lives. What is older goes, in whole segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// At least the last so many bytes are kept, and not much more.
    pub bytes: Option<u64>,
    /// What is younger is kept, and what is much older is not.
    pub age_ms: Option<u64>,
}

impl Retention {
    /// Whether everything is kept.
    pub fn is_unlimited(self) -> bool {
        self == Self::default()
    }
}

/// How a recorded stream ended; one that a client closed says nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    pub outcome: Outcome,
    /// A token or a few words, in visible ASCII: it is shown in a header.
    pub reason: Option<Arc<str>>,
}

/// Longest reason of an end.
const REASON_BYTES_MAX: usize = 200;

impl StreamEnd {
    /// An end whose reason fits a header: cut to its length, anything unprintable replaced.
    pub fn new(outcome: Outcome, reason: Option<&str>) -> Self {
        let printable = |c: char| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        };
        let shown = |text: &str| {
            let text: String = text.chars().take(REASON_BYTES_MAX).map(printable).collect();
            Arc::from(text.trim())
        };
        Self {
            outcome,
            reason: reason
                .map(shown)
                .filter(|reason: &Arc<str>| !reason.is_empty()),
        }
    }
}

/// What became of what a stream records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is there.
    Completed,
    /// Somebody stopped it.
    Aborted,
    /// It broke off.
    Failed,
}

impl Outcome {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 3] = [Self::Completed, Self::Aborted, Self::Failed];

    /// The one that headers and events call so.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }

    /// The word for it in headers and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// What an idempotent producer says of one append (protocol, section 5.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    pub id: Arc<str>,
    pub epoch: u64,
    pub seq: u64,
}

/// What is fixed when a stream is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMeta {
    pub id: StreamId,
    pub content_type: Arc<str>,
    pub kind: Kind,
    pub lifetime: Lifetime,
    pub retention: Retention,
    /// Whether the retention is the route's because the request named none.
    pub retention_by_route: bool,
    pub created_ms: UnixMs,
    pub fork: Option<ForkMeta>,
    /// What the creator keeps with the stream, if it does. Forks do not inherit it.
    pub note: Option<Bytes>,
}

impl StreamMeta {
    /// Where the stream's own data begins: the end of what a fork inherits.
    pub fn start(&self) -> Position {
        self.fork.as_ref().map_or(0, ForkMeta::end)
    }
}

/// What a fork inherits (protocol, section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkMeta {
    pub source: StreamPath,
    pub source_id: StreamId,
    /// As requested, for the comparison with a repeated PUT.
    pub sub_offset: u64,
    /// Whether the lifetime was taken from the source because the request named none.
    pub lifetime_inherited: bool,
    /// The divergence point.
    pub offset: Position,
    /// Whose records hold the inherited data: spans that join each other and end at `offset`.
    pub spans: Vec<Span>,
}

impl ForkMeta {
    fn end(&self) -> Position {
        self.offset
    }
}

/// Inherited data up to `end` lies in the records of `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub id: StreamId,
    pub end: Position,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_have_one_form() {
        assert_eq!(Offset(42).to_string(), "0000000000000000_0000000000000042");
        for wrong in [
            "",
            "0",
            "42",
            "-1",
            "now",
            "0_1",
            "0000000000000000-0000000000000000",
        ] {
            assert_eq!(Offset::parse(wrong), None, "{wrong}");
        }
        assert_eq!(
            Offset::parse("9999999999999999_9999999999999999"),
            Some(Offset(Position::MAX))
        );
    }

    #[test]
    fn kinds_ignore_case_and_parameters() {
        assert_eq!(Kind::of("Application/JSON; charset=utf-8"), Kind::Json);
        assert_eq!(Kind::of("TEXT/plain"), Kind::Text);
        assert_eq!(Kind::of("application/jsonl"), Kind::Binary);
        assert_eq!(Kind::of("té/x"), Kind::Binary);
        assert!(same_content_type("text/plain", "Text/Plain;charset=x"));
    }

    #[test]
    fn reasons_fit_a_header() {
        let reason = |text| StreamEnd::new(Outcome::Failed, Some(text)).reason;
        assert_eq!(reason("timeout").as_deref(), Some("timeout"));
        assert_eq!(reason(" a\r\nb\u{e9} ").as_deref(), Some("a??b?"));
        assert_eq!(reason(" ").as_deref(), None);
        assert_eq!(reason(&"x".repeat(1000)).unwrap().len(), REASON_BYTES_MAX);
    }

    #[test]
    fn paths_come_back_from_their_keys() {
        let path = StreamPath::new("ns", "a/b");
        assert_eq!((path.namespace(), path.path()), ("ns", "a/b"));
        assert_eq!(StreamPath::from_key(path.key()), Some(path));
    }

    proptest! {
        #[test]
        fn offsets_round_trip_and_sort(a in 0u64..10_000_000_000_000_000, b in 0u64..10_000_000_000_000_000) {
            prop_assert_eq!(Offset::parse(&Offset(a).to_string()), Some(Offset(a)));
            prop_assert_eq!(a.cmp(&b), Offset(a).to_string().cmp(&Offset(b).to_string()));
        }
    }
}
