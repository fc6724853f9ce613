//! Cursors of live answers (protocol, section 10.1).

use crate::types::UnixMs;

/// 2024-10-09T00:00:00Z: where the counting of intervals begins.
const EPOCH_MS: UnixMs = 1_728_432_000_000;
const INTERVAL_MS: u64 = 20_000;
const JITTER_SECONDS_MAX: u64 = 3600;

/// The number of the interval that holds `now_ms`.
pub fn interval(now_ms: UnixMs) -> u64 {
    now_ms.saturating_sub(EPOCH_MS) / INTERVAL_MS
}

/// The cursor of a live answer: the current interval or, so that cursors never go backwards and a
/// cache is never asked the same question twice, one beyond the client's own by a random jitter.
///
/// `random` is any number; `client` is the `cursor` parameter of the request.
pub fn next(now_ms: UnixMs, client: Option<u64>, random: u64) -> u64 {
    let current = interval(now_ms);
    match client {
        Some(client) if client >= current => {
            let jitter_ms = (1 + random % JITTER_SECONDS_MAX) * 1000;
            client.saturating_add((jitter_ms / INTERVAL_MS).max(1))
        }
        _ => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn intervals_count_from_the_epoch() {
        assert_eq!(interval(EPOCH_MS - 1), 0);
        assert_eq!(interval(EPOCH_MS + 19_999), 0);
        assert_eq!(interval(EPOCH_MS + 20_000), 1);
    }

    proptest! {
        #[test]
        fn a_cursor_never_goes_backwards(now in EPOCH_MS..EPOCH_MS * 2, client in proptest::option::of(0u64..1 << 50), random: u64) {
            let cursor = next(now, client, random);
            prop_assert!(cursor >= interval(now));
            if let Some(client) = client {
                prop_assert!(cursor > client || client < interval(now));
            }
        }
    }
}
