//! Memory for what is sent to one client and kept for nobody else.
//!
//! How long it lasts is up to the client, and what lies in the store may be as large as the largest
//! append. Small answers do not count: there are no more of them than connections.

use crate::log::ReadError;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes that a permit stands for.
const PERMIT_BYTES: usize = 4096;

/// The room that there is.
pub struct Outgoing {
    free: Arc<Semaphore>,
    permits_max: u32,
    wait_max: Duration,
}

/// Room that is taken, as long as this lives.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

impl Outgoing {
    /// Room for so many bytes in all. Who has begun to send waits for more for `wait_max`.
    pub fn new(bytes_max: u64, wait_max: Duration) -> Self {
        let permits_max = bytes_max / PERMIT_BYTES as u64;
        let permits_max = permits_max.clamp(1, u64::from(u32::MAX >> 3)) as u32;
        Self {
            free: Arc::new(Semaphore::new(permits_max as usize)),
            permits_max,
            wait_max,
        }
    }

    /// Room for so many bytes, if there is.
    pub fn take(&self, bytes: usize) -> Option<Room> {
        let permits = self.permits(bytes);
        let taken = self.free.clone().try_acquire_many_owned(permits);
        taken.ok().map(Room)
    }

    /// What `read` gives, with room for as many bytes as it says. If there is none, what was read is
    /// let go, and read again once there is. For no bytes it takes none.
    pub async fn with_room<T, F>(
        &self,
        read: impl Fn() -> F,
    ) -> Result<(T, Option<Room>), ReadError>
    where
        F: Future<Output = Result<(T, usize), ReadError>>,
    {
        let mut waited = None;
        loop {
            let (what, bytes) = read().await?;
            if bytes == 0 {
                return Ok((what, None));
            }
            let room = waited.take().or_else(|| self.take(bytes));
            if room.is_some() {
                return Ok((what, room));
            }
            drop(what);
            // Boxed: those who need no room should have none for this either.
            let room = Box::pin(self.wait(bytes)).await;
            waited = Some(room.ok_or(ReadError::NoRoom)?);
        }
    }

    /// Room for so many bytes; `None` if there is none in time.
    async fn wait(&self, bytes: usize) -> Option<Room> {
        let permits = self.permits(bytes);
        let taken = self.free.clone().acquire_many_owned(permits);
        timeout(self.wait_max, taken).await.ok()?.ok().map(Room)
    }

    /// What is larger than all that there is, is sent alone.
    fn permits(&self, bytes: usize) -> u32 {
        let permits = bytes.div_ceil(PERMIT_BYTES);
        u32::try_from(permits).map_or(self.permits_max, |permits| permits.min(self.permits_max))
    }
}

impl Room {
    /// The bytes, which keep the room as long as anybody has them.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Owner {
            bytes,
            _room: self.0,
        })
    }
}

struct Owner {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_taken_as_long_as_the_bytes_live() {
        let outgoing = Outgoing::new(10 * PERMIT_BYTES as u64, Duration::ZERO);
        let bytes = Bytes::from(vec![b'x'; 6 * PERMIT_BYTES]);
        let held = outgoing.take(bytes.len()).unwrap().hold(bytes);
        let part = held.slice(1..2);
        assert!(outgoing.take(5 * PERMIT_BYTES).is_none());
        assert!(outgoing.wait(5 * PERMIT_BYTES).await.is_none());
        assert!(outgoing.take(4 * PERMIT_BYTES).is_some());
        drop(held);
        assert!(outgoing.take(5 * PERMIT_BYTES).is_none());
        assert_eq!(part, "x");
        drop(part);
        assert!(outgoing.wait(10 * PERMIT_BYTES).await.is_some());
    }

    #[test]
    fn what_is_larger_than_all_is_sent_alone() {
        let outgoing = Outgoing::new(10 * PERMIT_BYTES as u64, Duration::ZERO);
        let small = outgoing.take(1).unwrap();
        assert!(outgoing.take(usize::MAX).is_none());
        drop(small);
        let _large = outgoing.take(usize::MAX).unwrap();
        assert!(outgoing.take(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_becomes_free() {
        let outgoing = Outgoing::new(2 * PERMIT_BYTES as u64, Duration::from_secs(5));
        let room = outgoing.take(2 * PERMIT_BYTES).unwrap();
        let free = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(room);
        };
        let (waited, ()) = tokio::join!(outgoing.wait(1), free);
        assert!(waited.is_some());
    }
}
