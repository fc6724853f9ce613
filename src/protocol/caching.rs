//! How long answers may be kept, and by whom (protocol, section 10).

use http::header::HeaderValue;

use crate::config::{CacheScope, Streams};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// For those whose requests a shared cache held back while it asked for the first of them: without
/// a copy they would all have to wait anew, one after the other in some caches.
pub const SHARED_BY_THOSE_WHO_WAITED: HeaderValue =
    HeaderValue::from_static("public, max-age=0, s-maxage=1");

/// How long an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It will never differ.
    Fixed,
    /// It ends at the tail of an open stream.
    Tail,
    /// It says, after a wait, that there is nothing yet.
    Waited,
    /// It says only that there is nothing yet.
    Nothing,
}

/// How a route lets answers be kept, with the values of streams that never end made beforehand.
#[derive(Debug)]
pub struct CachePolicy {
    scope: &'static str,
    fixed_seconds: u64,
    tail_seconds: u64,
    stale_seconds: u64,
    fixed: HeaderValue,
    tail: HeaderValue,
    waited: HeaderValue,
    live: HeaderValue,
}

impl CachePolicy {
    pub fn new(route: &Streams) -> Self {
        let mut policy = Self {
            scope: match route.cache {
                CacheScope::Public => "public",
                CacheScope::Private => "private",
            },
            fixed_seconds: route.cache_max_age.as_secs(),
            tail_seconds: route.tail_max_age.as_secs(),
            stale_seconds: route.stale_while_revalidate.as_secs(),
            fixed: NO_STORE,
            tail: NO_STORE,
            waited: NO_STORE,
            live: NO_STORE,
        };
        policy.fixed = policy.value(Freshness::Fixed, u64::MAX);
        policy.tail = policy.value(Freshness::Tail, u64::MAX);
        policy.waited = policy.value(Freshness::Waited, u64::MAX);
        let live = HeaderValue::try_from(format!("{}, no-cache", policy.scope));
        policy.live = live.unwrap_or(NO_STORE);
        policy
    }

    /// `Cache-Control` of an answer of a stream that ends in `remaining_ms`, if it ends.
    pub fn cache_control(&self, freshness: Freshness, remaining_ms: Option<u64>) -> HeaderValue {
        match (freshness, remaining_ms) {
            (Freshness::Nothing, _) => NO_STORE,
            (Freshness::Waited, None) => self.waited.clone(),
            (Freshness::Fixed, None) => self.fixed.clone(),
            (Freshness::Tail, None) => self.tail.clone(),
            (_, Some(remaining_ms)) => self.value(freshness, remaining_ms / 1000),
        }
    }

    /// `Cache-Control` of events for an edge: they are not to be kept, and it says who may be given
    /// what the edge makes of them.
    pub fn live(&self) -> HeaderValue {
        self.live.clone()
    }

    fn value(&self, freshness: Freshness, remaining_seconds: u64) -> HeaderValue {
        let scope = self.scope;
        let text = match freshness {
            Freshness::Waited if scope == "public" && remaining_seconds > 0 => {
                return SHARED_BY_THOSE_WHO_WAITED;
            }
            Freshness::Waited | Freshness::Nothing => return NO_STORE,
            Freshness::Fixed => {
                let age = self.fixed_seconds.min(remaining_seconds);
                format!("{scope}, max-age={age}, immutable")
            }
            Freshness::Tail => {
                let age = self.tail_seconds.min(remaining_seconds);
                let stale = self.stale_seconds.min(remaining_seconds - age);
                format!("{scope}, max-age={age}, stale-while-revalidate={stale}")
            }
        };
        HeaderValue::try_from(text).unwrap_or(NO_STORE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nothing_is_kept_beyond_the_end_of_its_stream() {
        let route = Streams::default();
        let text = |freshness, remaining| {
            let value = CachePolicy::new(&route).cache_control(freshness, remaining);
            value.to_str().unwrap().to_owned()
        };
        assert_eq!(
            text(Freshness::Fixed, None),
            "public, max-age=31536000, immutable"
        );
        assert_eq!(
            text(Freshness::Fixed, Some(90_500)),
            "public, max-age=90, immutable"
        );
        assert_eq!(
            text(Freshness::Tail, None),
            "public, max-age=60, stale-while-revalidate=300"
        );
        assert_eq!(
            text(Freshness::Tail, Some(70_000)),
            "public, max-age=60, stale-while-revalidate=10"
        );
        assert_eq!(
            text(Freshness::Waited, None),
            "public, max-age=0, s-maxage=1"
        );
        assert_eq!(text(Freshness::Waited, Some(900)), "no-store");
        assert_eq!(text(Freshness::Nothing, None), "no-store");
        let private = Streams {
            cache: CacheScope::Private,
            cache_max_age: Duration::from_secs(5),
            ..Streams::default()
        };
        let private = CachePolicy::new(&private);
        let value = private.cache_control(Freshness::Fixed, None);
        assert_eq!(value, "private, max-age=5, immutable");
        let value = private.cache_control(Freshness::Waited, None);
        assert_eq!(value, "no-store");
        assert_eq!(private.live(), "private, no-cache");
    }
}
