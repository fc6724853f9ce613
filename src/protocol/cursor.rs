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
/// cache is never asked the same question twice, one beyond the client's own by a random jitter. A
/// cursor that nothing lies beyond is as good as none.
///
/// `random` is any number; `client` is the `cursor` parameter of the request.
pub fn next(now_ms: UnixMs, client: Option<u64>, random: u64) -> u64 {
    let current = interval(now_ms);
    let jitter_ms = (1 + random % JITTER_SECONDS_MAX) * 1000;
    client
        .filter(|client| *client >= current)
        .and_then(|client| client.checked_add((jitter_ms / INTERVAL_MS).max(1)))
        .unwrap_or(current)
}

/// The cursors of one connection. Only the first is drawn: the others would go backwards by their
/// jitter.
#[derive(Debug)]
pub struct Cursors {
    client: Option<u64>,
    last: Option<u64>,
}

impl Cursors {
    /// Those of a client that came with a cursor of its own, or with none.
    pub fn new(client: Option<u64>) -> Self {
        Self { client, last: None }
    }

    /// The next one: never one before the last.
    pub fn next(&mut self, now_ms: UnixMs, random: u64) -> u64 {
        let cursor = match self.last {
            Some(last) => last.max(interval(now_ms)),
            None => next(now_ms, self.client, random),
        };
        self.last = Some(cursor);
        cursor
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

    #[test]
    fn the_last_cursor_of_all_is_not_asked_for_again() {
        let now_ms = EPOCH_MS + 100 * INTERVAL_MS;
        for client in [u64::MAX, u64::MAX - 1] {
            let cursor = next(now_ms, Some(client), JITTER_SECONDS_MAX - 1);
            assert_eq!(cursor, 100, "{client}");
        }
        assert_eq!(next(now_ms, Some(u64::MAX - 1), 0), u64::MAX);
    }

    #[test]
    fn who_has_no_cursor_gets_the_interval_that_all_others_get() {
        let mut cursors = Cursors::new(None);
        for number in [5, 5, 6, 900] {
            let now_ms = EPOCH_MS + number * INTERVAL_MS;
            assert_eq!(cursors.next(now_ms, 7), number);
        }
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

        #[test]
        fn a_connection_never_goes_backwards(client in proptest::option::of(0u64..400), steps in proptest::collection::vec((0..5 * INTERVAL_MS, any::<u64>()), 1..20)) {
            let mut cursors = Cursors::new(client);
            let (mut now_ms, mut last) = (EPOCH_MS, client);
            for (later_ms, random) in steps {
                now_ms += later_ms;
                let cursor = cursors.next(now_ms, random);
                prop_assert!(cursor >= interval(now_ms) && Some(cursor) >= last);
                last = Some(cursor);
            }
            // Once time has come to where a client was ahead, it is as for all others.
            let later_ms = now_ms + 1000 * INTERVAL_MS;
            prop_assert_eq!(cursors.next(later_ms, 0), interval(later_ms));
        }
    }
}
