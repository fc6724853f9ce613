//! What an origin lets a cache do with an answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, StatusCode, header};
use pingora::cache::cache_control::{CacheControl, InterpretCacheControl};

use super::Scope;
use crate::protocol::names;
use crate::types::UnixMs;

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It never changes: it is kept.
    Keep(Terms),
    /// Those who wait for it may have it, but nobody later: it ends where the stream does for now.
    Share(Terms),
    /// It is for the one who asked.
    Pass,
}

/// For how long an answer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// When the origin made it.
    pub(super) born_ms: UnixMs,
    pub(super) fresh_until_ms: UnixMs,
    /// Whether it may be given later than that while the origin is away.
    pub(super) stale_allowed: bool,
}

impl Terms {
    pub(super) fn is_fresh(&self, now_ms: UnixMs) -> bool {
        now_ms < self.fresh_until_ms
    }

    pub(super) fn age_seconds(&self, now_ms: UnixMs) -> u64 {
        now_ms.saturating_sub(self.born_ms) / 1000
    }
}

/// Judges an answer that was asked for at `asked_ms`. What is not said clearly is not done: the
/// answer goes to the one who asked.
pub(super) fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    scope: &Scope,
    asked_ms: UnixMs,
) -> Verdict {
    if status != StatusCode::OK || headers.contains_key(header::SET_COOKIE) || varies(headers) {
        return Verdict::Pass;
    }
    let Some(terms) = terms(headers, scope, asked_ms) else {
        return Verdict::Pass;
    };
    let closed = headers.get(names::STREAM_CLOSED);
    let closed = closed.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    let ends_at_tail = headers.contains_key(names::STREAM_UP_TO_DATE) && !closed;
    if ends_at_tail {
        Verdict::Share(terms)
    } else {
        Verdict::Keep(terms)
    }
}

fn terms(headers: &HeaderMap, scope: &Scope, asked_ms: UnixMs) -> Option<Terms> {
    let control = CacheControl::from_headers_named(header::CACHE_CONTROL.as_str(), headers)?;
    let forbidden = control.no_store()
        || control.no_cache()
        || control.private() && !scope.keeps_private()
        // Only some of the headers are meant, which is not worth telling apart.
        || control.private_field_names().is_some()
        || control.no_cache_field_names().is_some();
    if forbidden {
        return None;
    }
    let age = seconds(headers, &header::AGE).unwrap_or(0);
    let fresh_ms = duration_ms(control.fresh_duration()?);
    let born_ms = asked_ms.saturating_sub(age.saturating_mul(1000));
    let terms = Terms {
        born_ms,
        fresh_until_ms: born_ms.saturating_add(fresh_ms),
        stale_allowed: !control.must_revalidate()
            && !control.proxy_revalidate()
            && !control.has_key("s-maxage"),
    };
    terms.is_fresh(asked_ms).then_some(terms)
}

/// Whether there may be different answers to the same request. Encodings are told apart by the key.
fn varies(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::VARY);
    fields.iter().any(|field| {
        let names = field.to_str().unwrap_or("*").split(',').map(str::trim);
        names
            .filter(|name| !name.is_empty())
            .any(|name| !name.eq_ignore_ascii_case("accept-encoding"))
    })
}

fn seconds(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// The length of a body, where the origin said it.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    seconds(headers, &header::CONTENT_LENGTH)
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as Pingora's types have it.
pub(super) fn to_system_time(ms: UnixMs) -> SystemTime {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    time.unwrap_or(UNIX_EPOCH)
}

/// A time as this program has it.
pub(super) fn to_unix_ms(time: SystemTime) -> UnixMs {
    time.duration_since(UNIX_EPOCH).map_or(0, duration_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: UnixMs = 1_000_000_000;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(HeaderName, &'static str)| {
            (name.clone(), http::HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    fn judge_control(control: &'static str, scope: &Scope) -> Verdict {
        let headers = headers(&[(header::CACHE_CONTROL, control)]);
        judge(StatusCode::OK, &headers, scope, NOW_MS)
    }

    fn kept_for_seconds(verdict: Verdict) -> Option<u64> {
        match verdict {
            Verdict::Keep(terms) => Some((terms.fresh_until_ms - NOW_MS) / 1000),
            Verdict::Share(_) | Verdict::Pass => None,
        }
    }

    #[test]
    fn only_what_says_for_how_long_it_is_good_is_kept() {
        for (control, seconds) in [
            ("public, max-age=31536000, immutable", Some(31_536_000)),
            ("max-age=60, stale-while-revalidate=300", Some(60)),
            ("max-age=60, s-maxage=10", Some(10)),
            ("public", None),
            ("max-age=0", None),
            ("no-store", None),
            ("no-store, max-age=60", None),
            ("no-cache, max-age=60", None),
            ("private, max-age=60", None),
            ("private=\"x-user\", max-age=60", None),
            ("max-age=soon", None),
        ] {
            let verdict = judge_control(control, &Scope::Anonymous);
            assert_eq!(kept_for_seconds(verdict), seconds, "{control}");
        }
        let silent = judge(StatusCode::OK, &HeaderMap::new(), &Scope::Anonymous, NOW_MS);
        assert_eq!(silent, Verdict::Pass);
    }

    #[test]
    fn private_answers_are_kept_for_their_own_callers() {
        for scope in [Scope::Shared, Scope::Caller([7; 32])] {
            let verdict = judge_control("private, max-age=60", &scope);
            assert_eq!(kept_for_seconds(verdict), Some(60), "{scope:?}");
        }
    }

    #[test]
    fn nothing_but_a_plain_200_is_kept() {
        let control = (header::CACHE_CONTROL, "max-age=60");
        for status in [204, 206, 304, 404, 410, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            let headers = headers(std::slice::from_ref(&control));
            let verdict = judge(status, &headers, &Scope::Anonymous, NOW_MS);
            assert_eq!(verdict, Verdict::Pass, "{status}");
        }
        for (field, seconds) in [
            ((header::SET_COOKIE, "a=b"), None),
            ((header::VARY, "*"), None),
            ((header::VARY, "Accept-Encoding, Origin"), None),
            ((header::VARY, "accept-encoding"), Some(60)),
        ] {
            let headers = headers(&[control.clone(), field.clone()]);
            let verdict = judge(StatusCode::OK, &headers, &Scope::Anonymous, NOW_MS);
            assert_eq!(kept_for_seconds(verdict), seconds, "{field:?}");
        }
    }

    #[test]
    fn an_open_tail_is_shared_and_a_closed_one_kept() {
        let control = (header::CACHE_CONTROL, "max-age=60");
        let up_to_date = (names::STREAM_UP_TO_DATE, "true");
        let closed = (names::STREAM_CLOSED, "true");
        let open = headers(&[control.clone(), up_to_date.clone()]);
        let verdict = judge(StatusCode::OK, &open, &Scope::Anonymous, NOW_MS);
        assert!(matches!(verdict, Verdict::Share(_)));
        let closed = headers(&[control, up_to_date, closed]);
        let verdict = judge(StatusCode::OK, &closed, &Scope::Anonymous, NOW_MS);
        assert!(matches!(verdict, Verdict::Keep(_)));
    }

    #[test]
    fn the_time_in_other_caches_counts() {
        let fields = [(header::CACHE_CONTROL, "max-age=60"), (header::AGE, "20")];
        let verdict = judge(StatusCode::OK, &headers(&fields), &Scope::Shared, NOW_MS);
        let Verdict::Keep(terms) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(terms.age_seconds(NOW_MS), 20);
        assert!(terms.is_fresh(NOW_MS + 39_999));
        assert!(!terms.is_fresh(NOW_MS + 40_000));
        let fields = [(header::CACHE_CONTROL, "max-age=60"), (header::AGE, "60")];
        let verdict = judge(StatusCode::OK, &headers(&fields), &Scope::Shared, NOW_MS);
        assert_eq!(verdict, Verdict::Pass);
    }

    #[test]
    fn some_answers_are_never_given_stale() {
        for (control, allowed) in [
            ("max-age=60", true),
            ("max-age=60, must-revalidate", false),
            ("max-age=60, proxy-revalidate", false),
            ("s-maxage=60", false),
        ] {
            let Verdict::Keep(terms) = judge_control(control, &Scope::Anonymous) else {
                panic!("{control}")
            };
            assert_eq!(terms.stale_allowed, allowed, "{control}");
        }
    }
}
