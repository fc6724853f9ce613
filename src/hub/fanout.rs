//! One encoding for all readers of the same events.

use crate::protocol::sse::{Control, Encoding};
use crate::types::{Position, StreamId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// What makes encoded events the same for two readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedKey {
    pub id: StreamId,
    pub from: Position,
    pub to: Position,
    pub encoding: Encoding,
    pub control: Control,
}

/// The events that were encoded last, as long as several readers may want them.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    readers: AtomicU32,
    last: Mutex<Option<(EncodedKey, Bytes)>>,
}

/// Larger events are encoded for each reader: they would only lie in memory.
const KEPT_BYTES_MAX: usize = 16 * 1024;

impl Fanout {
    pub(super) fn enter(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn readers(&self) -> u32 {
        self.readers.load(Ordering::Relaxed)
    }

    pub(super) fn leave(&self) {
        if self.readers.fetch_sub(1, Ordering::Relaxed) <= 2 {
            *self.last.lock() = None;
        }
    }

    /// The events for this key, encoded unless another reader just had them.
    pub(super) fn get(&self, key: EncodedKey, encode: impl FnOnce() -> Bytes) -> Bytes {
        if self.readers.load(Ordering::Relaxed) < 2 {
            return encode();
        }
        let mut last = self.last.lock();
        match &*last {
            Some((last, events)) if *last == key => events.clone(),
            _ => {
                let events = encode();
                if events.len() <= KEPT_BYTES_MAX {
                    *last = Some((key, events.clone()));
                }
                events
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_encoded_once_for_several_readers() {
        let fanout = Fanout::default();
        let key = EncodedKey {
            id: 1,
            from: 0,
            to: 9,
            encoding: Encoding::Text,
            control: Control {
                cursor: Some(1),
                up_to_date: true,
                closed: false,
            },
        };
        let encoded = std::cell::Cell::new(0);
        let get = |key| {
            fanout.get(key, || {
                encoded.set(encoded.get() + 1);
                Bytes::from_static(b"events")
            })
        };
        fanout.enter();
        get(key);
        get(key);
        assert_eq!(encoded.get(), 2, "one reader: nothing is kept");
        fanout.enter();
        get(key);
        get(key);
        assert_eq!(encoded.get(), 3);
        get(EncodedKey { from: 5, ..key });
        assert_eq!(encoded.get(), 4);
        fanout.leave();
        assert!(fanout.last.lock().is_none());
    }
}
