//! An answer that is kept in memory, and what is made of one.

use super::coded::{Codings, may_be_coded};
use super::terms::Terms;
use super::{Ask, CacheStatus, Cached, CachedBody};
use crate::protocol::coding::matched_etag;
use crate::types::{Coding, UnixMs};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::OwnedSemaphorePermit;

use super::status::CACHE_STATUS;

/// A whole answer.
pub(super) struct Entry {
    pub(super) headers: Arc<HeaderMap>,
    pub(super) terms: Terms,
    pub(super) body: Bytes,
    pub(super) codings: Codings,
    /// When its place among those that were used last was renewed.
    used_ms: AtomicU64,
    /// Until when it is given although it is stale, because the origin was away just now.
    excused_until_ms: AtomicU64,
}

/// How often at most an entry that is used moves to the front. What is used all the time need not
/// take a lock each time.
const USE_INTERVAL_MS: u64 = 100;

/// For how long an origin that is away is not asked again for the same.
const EXCUSE_MS: u64 = 1000;

/// What an entry takes besides its body: its headers, roughly, and its places in the index.
const OVERHEAD_BYTES: usize = 2048;

impl Entry {
    pub(super) fn new(headers: Arc<HeaderMap>, terms: Terms, body: Bytes) -> Self {
        Self {
            headers,
            terms,
            body,
            codings: Codings::default(),
            used_ms: AtomicU64::new(0),
            excused_until_ms: AtomicU64::new(0),
        }
    }

    /// The same answer, which is good for longer.
    pub(super) fn renewed(&self, headers: Arc<HeaderMap>, terms: Terms) -> Self {
        Self {
            codings: self.codings.with_headers(&headers),
            ..Self::new(headers, terms, self.body.clone())
        }
    }

    /// The same answer, which is not given before the origin has said that it is unchanged.
    pub(super) fn doubted(&self) -> Self {
        let terms = Terms {
            fresh_until_ms: 0,
            stale_allowed: false,
            ..self.terms
        };
        self.renewed(self.headers.clone(), terms)
    }

    pub(super) fn etag(&self) -> Option<&HeaderValue> {
        self.headers.get(header::ETAG)
    }

    /// The memory that it takes.
    pub(super) fn weight(&self) -> usize {
        self.body.len() + self.codings.bytes() + OVERHEAD_BYTES
    }

    /// Whether its use is to be written down.
    pub(super) fn begin_use(&self, now_ms: UnixMs) -> bool {
        let used_ms = self.used_ms.load(Ordering::Relaxed);
        let due = now_ms.saturating_sub(used_ms) >= USE_INTERVAL_MS;
        if due {
            self.used_ms.store(now_ms, Ordering::Relaxed);
        }
        due
    }

    /// Lets it be given for a moment although it is stale.
    pub(super) fn excuse(&self, now_ms: UnixMs) {
        let until_ms = now_ms.saturating_add(EXCUSE_MS);
        self.excused_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// How it is given from memory now, if it is.
    pub(super) fn ready(&self, now_ms: UnixMs) -> Option<CacheStatus> {
        if self.terms.is_fresh(now_ms) {
            return Some(CacheStatus::Hit);
        }
        let excused = now_ms < self.excused_until_ms.load(Ordering::Relaxed);
        excused.then(|| self.stale(now_ms))
    }

    pub(super) fn stale(&self, now_ms: UnixMs) -> CacheStatus {
        CacheStatus::Stale {
            seconds: now_ms.saturating_sub(self.terms.fresh_until_ms) / 1000,
        }
    }

    /// The answer made of it.
    pub(super) fn answer(&self, ask: &Ask<'_>, status: CacheStatus, now_ms: UnixMs) -> Cached {
        let age_seconds = Some(self.terms.age_seconds(now_ms));
        let coding = ask.wish.map(|wish| wish.coding);
        if let Some(tag) = unchanged(&self.headers, ask.if_none_match, coding) {
            return Cached::not_modified(&self.headers, tag, status, age_seconds);
        }
        let coded = coding.and_then(|coding| self.codings.of(coding));
        let (headers, body) = match coded {
            Some(coded) => (&coded.headers, &coded.body),
            None => (&self.headers, &self.body),
        };
        Cached {
            status: StatusCode::OK,
            headers: headers.clone(),
            body: CachedBody::Full(body.clone()),
            cache_status: status,
            age_seconds,
        }
    }
}

impl Cached {
    /// A 304 for an answer with these headers.
    pub(super) fn not_modified(
        headers: &HeaderMap,
        tag: HeaderValue,
        cache_status: CacheStatus,
        age_seconds: Option<u64>,
    ) -> Self {
        let mut headers = headers.clone();
        for name in OF_THE_BODY {
            headers.remove(name);
        }
        headers.insert(header::ETAG, tag);
        Self {
            status: StatusCode::NOT_MODIFIED,
            headers: Arc::new(headers),
            body: CachedBody::Empty,
            cache_status,
            age_seconds,
        }
    }
}

/// What describes the body, and is not repeated when there is none.
const OF_THE_BODY: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
];

/// The tag of a 304 for an answer with these headers, if the client has it already, in whatever
/// coding.
pub(super) fn unchanged(
    headers: &HeaderMap,
    if_none_match: Option<&str>,
    coding: Option<Coding>,
) -> Option<HeaderValue> {
    let given = if_none_match?;
    let etag = headers.get(header::ETAG)?.to_str().ok()?;
    // Weak tags are equal to strong ones here.
    let (weak, strong) = match etag.strip_prefix("W/") {
        Some(strong) => ("W/", strong),
        None => ("", etag),
    };
    let tag = matched_etag(given, strong, coding)?;
    HeaderValue::try_from(format!("{weak}{tag}")).ok()
}

/// The headers that are the same for all who get an answer.
pub(super) fn shared_headers(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::AGE, header::CONTENT_LENGTH, CACHE_STATUS] {
        headers.remove(name);
    }
    // It may be given in another coding once it is kept.
    if may_be_coded(&headers) {
        let name = HeaderValue::from_static("accept-encoding");
        headers.insert(header::VARY, name);
    }
    headers
}

/// The headers of an answer that a 304 with headers of its own says is unchanged (RFC 9111,
/// section 3.2).
pub(super) fn refreshed_headers(kept: &HeaderMap, mut given: HeaderMap) -> HeaderMap {
    for name in OF_THE_BODY {
        given.remove(name);
    }
    let mut headers = kept.clone();
    for name in given.keys() {
        headers.remove(name);
    }
    for (name, value) in &given {
        headers.append(name, value.clone());
    }
    headers
}

/// Bytes of an answer with the room in memory that they take, which is given back when nobody has
/// them any longer: neither the cache nor a client that takes them slowly.
struct Held {
    bytes: Vec<u8>,
    /// Where the body begins.
    begin: usize,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

/// The bytes from `begin` on, which hold `room`.
pub(super) fn hold(bytes: Vec<u8>, begin: usize, room: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Held {
        bytes,
        begin,
        _room: room,
    })
}
