//! One encoding for all readers of the same events.

use crate::protocol::sse::{Control, Encoding};
use crate::types::{Position, StreamId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

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
    last: Mutex<Option<(EncodedKey, Kept)>>,
}

/// Larger events are kept only as long as any reader has them: they would lie in memory for nothing.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Events for readers who come later.
#[derive(Debug)]
enum Kept {
    Whole(Bytes),
    WhileHeld(Weak<Bytes>),
}

/// Events that a reader has.
struct Held(Arc<Bytes>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Kept {
    /// Events as their first reader gets them, and what is kept of them.
    fn of(events: Bytes) -> (Bytes, Self) {
        if events.len() <= KEPT_BYTES_MAX {
            return (events.clone(), Self::Whole(events));
        }
        let events = Arc::new(events);
        let kept = Self::WhileHeld(Arc::downgrade(&events));
        (Bytes::from_owner(Held(events)), kept)
    }

    fn get(&self) -> Option<Bytes> {
        match self {
            Self::Whole(events) => Some(events.clone()),
            Self::WhileHeld(events) => Some(Bytes::from_owner(Held(events.upgrade()?))),
        }
    }
}

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
        let same = last.as_ref().filter(|(last, _)| *last == key);
        if let Some(events) = same.and_then(|(_, kept)| kept.get()) {
            return events;
        }
        let (events, kept) = Kept::of(encode());
        *last = Some((key, kept));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: EncodedKey = EncodedKey {
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

    #[test]
    fn events_are_encoded_once_for_several_readers() {
        let fanout = Fanout::default();
        let key = KEY;
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

    #[test]
    fn larger_events_are_kept_as_long_as_a_reader_has_them() {
        let fanout = Fanout::default();
        let encode = || Bytes::from(vec![b'x'; KEPT_BYTES_MAX + 1]);
        fanout.enter();
        fanout.enter();
        let one = fanout.get(KEY, encode);
        let other = fanout.get(KEY, || panic!("it is there"));
        assert_eq!((one.as_ptr(), one.len()), (other.as_ptr(), other.len()));
        let kept = || {
            let last = fanout.last.lock();
            last.as_ref().and_then(|(_, kept)| kept.get())
        };
        drop(one);
        assert_eq!(kept(), Some(other));
        assert_eq!(kept(), None);
        assert_eq!(fanout.get(KEY, encode), encode());
    }
}
