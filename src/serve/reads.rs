//! What readers of events who are at the same place read together.
//!
//! A large append is not in memory. Without this, each of its live readers would read it from the
//! store and hold it encoded, all at the same time.

use super::outgoing::Room;
use super::turns::Turns;
use crate::held::HeldMap;
use crate::hub::Run;
use crate::protocol::sse::Encoding;
use crate::types::{Position, StreamId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Where readers are to whom the same can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) id: StreamId,
    pub(super) at: Position,
    pub(super) encoding: Encoding,
}

/// What was read.
#[derive(Debug)]
pub(super) enum Read {
    Small(Vec<Run>),
    Large(Large),
}

/// A large data event. Its control event is another one, because readers have different cursors.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) event: Bytes,
    pub(super) to: Position,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// What the event takes of the memory for all.
    pub(super) room: Option<Room>,
}

/// What is read or held by readers now. What lies between two positions never changes, so whoever
/// comes while somebody has it is given the same.
pub struct Reads {
    held: Mutex<HeldMap<Place, OnceCell<Read>>>,
    /// Turns at reading: what many read at one time is nobody's yet, and counts nowhere.
    pub(super) turns: Turns,
}

/// What is read at one time at the least.
const READS_MIN: usize = 2;

/// A large event, as long as anybody has it.
struct Held(Arc<OnceCell<Read>>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        match self.0.get() {
            Some(Read::Large(large)) => &large.event,
            _ => &[],
        }
    }
}

impl Reads {
    /// Who is to read waits for a turn for `wait_max`.
    pub fn new(wait_max: Duration) -> Self {
        Self {
            held: Mutex::default(),
            turns: Turns::new(READS_MIN, wait_max),
        }
    }

    /// What there is at a place: read by the first who asks, and waited for by all others. If it
    /// fails or is given up, the next one reads.
    pub(super) async fn get<E>(
        &self,
        place: Place,
        read: impl Future<Output = Result<Read, E>>,
    ) -> Result<Read, E> {
        let cell = self.held.lock().get_or_insert(place, OnceCell::new);
        Ok(match cell.get_or_try_init(|| read).await? {
            Read::Small(runs) => Read::Small(runs.clone()),
            Read::Large(large) => Read::Large(Large {
                event: Bytes::from_owner(Held(cell.clone())),
                room: None,
                ..*large
            }),
        })
    }

    /// How many places are read or held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.lock().values().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::{pending, ready};
    use tokio::task::yield_now;

    const PLACE: Place = Place {
        id: 1,
        at: 0,
        encoding: Encoding::Text,
    };

    fn large() -> Read {
        Read::Large(Large {
            event: Bytes::from(vec![b'x'; 100]),
            to: 104,
            messages: 1,
            bytes: 100,
            room: None,
        })
    }

    fn event(read: Result<Read, ()>) -> Bytes {
        match read {
            Ok(Read::Large(large)) => large.event,
            read => panic!("{read:?}"),
        }
    }

    #[tokio::test]
    async fn a_large_event_is_read_once_and_freed_with_its_last_reader() {
        let reads = Reads::new(Duration::ZERO);
        let times = Cell::new(0);
        let get = || {
            reads.get(PLACE, async {
                yield_now().await;
                times.set(times.get() + 1);
                Ok(large())
            })
        };
        let (one, other) = tokio::join!(get(), get());
        let (one, other) = (event(one), event(other));
        assert_eq!((one.as_ptr(), one.len()), (other.as_ptr(), 100));
        drop(one);
        let late = event(get().await);
        assert_eq!((late.as_ptr(), times.get()), (other.as_ptr(), 1));
        drop((other, late));
        assert_eq!(reads.held(), 0);
        event(get().await);
        assert_eq!(times.get(), 2);
    }

    #[tokio::test]
    async fn the_next_one_reads_if_the_first_fails_or_leaves() {
        let reads = Reads::new(Duration::ZERO);
        let failed = reads.get(PLACE, ready(Err(())));
        let left = reads.get(PLACE, pending::<Result<Read, ()>>());
        let left = async {
            tokio::select! {
                biased;
                _ = left => {}
                () = yield_now() => {}
            }
        };
        let (failed, (), read) = tokio::join!(failed, left, reads.get(PLACE, ready(Ok(large()))));
        assert!(failed.is_err());
        assert_eq!(event(read).len(), 100);
    }
}
