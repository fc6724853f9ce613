//! What became of a request at the cache: the header `Cache-Status` (RFC 9211).

use http::{HeaderName, HeaderValue};

/// The header's name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What became of a request at the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// Answered with what was in memory.
    Hit,
    /// Answered with what was on disk.
    DiskHit,
    /// Answered with what was there although it had been fresh only until some seconds ago: the
    /// origin is away.
    Stale { seconds: u64 },
    /// Answered with what was there, which the origin says is unchanged.
    Revalidated { collapsed: bool },
    /// Answered by the origin. `stale`: what was there was too old; `collapsed`: together with
    /// other requests; `stored`: it is kept.
    Forwarded {
        stale: bool,
        stored: bool,
        collapsed: bool,
    },
    /// Passed to the origin without a look into the cache.
    Bypass,
}

impl CacheStatus {
    /// The value of the header, for a cache of this name.
    pub fn to_header(self) -> HeaderValue {
        let text = match self {
            Self::Hit => "headwater; hit",
            Self::DiskHit => "headwater; hit; detail=disk",
            Self::Stale { seconds } => return stale(seconds),
            Self::Revalidated { collapsed: false } => "headwater; fwd=stale; fwd-status=304",
            Self::Revalidated { collapsed: true } => {
                "headwater; fwd=stale; fwd-status=304; collapsed"
            }
            Self::Forwarded {
                stale,
                stored,
                collapsed,
            } => match (stale, stored, collapsed) {
                (false, false, false) => "headwater; fwd=uri-miss",
                (false, false, true) => "headwater; fwd=uri-miss; collapsed",
                (false, true, false) => "headwater; fwd=uri-miss; stored",
                (false, true, true) => "headwater; fwd=uri-miss; stored; collapsed",
                (true, false, false) => "headwater; fwd=stale",
                (true, false, true) => "headwater; fwd=stale; collapsed",
                (true, true, false) => "headwater; fwd=stale; stored",
                (true, true, true) => "headwater; fwd=stale; stored; collapsed",
            },
            Self::Bypass => "headwater; fwd=bypass",
        };
        HeaderValue::from_static(text)
    }
}

/// A negative time to live says that the answer is stale.
fn stale(seconds: u64) -> HeaderValue {
    HeaderValue::try_from(format!("headwater; hit; ttl=-{seconds}"))
        .unwrap_or(HeaderValue::from_static("headwater; hit"))
}
