//! Frames: how messages lie next to each other in records, segments and memory.
//!
//! ```text
//! frame  = header payload
//! header = u32, big endian: bit 31 set on the last message of an append, bits 0..31 payload bytes
//! ```
//!
//! An append is one or more frames, the last of them marked. A run is any number of whole appends.
//! Positions count frame bytes, so a position is also the place inside a run.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 4;
/// The largest payload of one message.
pub const PAYLOAD_BYTES_MAX: usize = (1 << 31) - 1;

const END_OF_APPEND: u32 = 1 << 31;

/// Frames the messages of one append. There is at least one message.
pub fn encode<'a>(messages: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Bytes {
    debug_assert!(messages.len() > 0, "an append has a message");
    let last = messages.len().saturating_sub(1);
    let bytes = messages.clone().map(|m| m.len() + HEADER_BYTES).sum();
    let mut run = BytesMut::with_capacity(bytes);
    for (index, message) in messages.enumerate() {
        debug_assert!(
            message.len() <= PAYLOAD_BYTES_MAX,
            "bounded by the body limit"
        );
        let mark = if index == last { END_OF_APPEND } else { 0 };
        run.put_u32(message.len() as u32 | mark);
        run.put_slice(message);
    }
    run.freeze()
}

/// Frames the messages of one append as they come.
pub struct Append {
    run: Vec<u8>,
    /// Where the last frame begins.
    last: usize,
    messages: u64,
}

impl Append {
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            run: Vec::with_capacity(bytes),
            last: 0,
            messages: 0,
        }
    }

    pub fn push(&mut self, message: &[u8]) {
        debug_assert!(
            message.len() <= PAYLOAD_BYTES_MAX,
            "bounded by the body limit"
        );
        self.last = self.run.len();
        self.run.put_u32(message.len() as u32);
        self.run.put_slice(message);
        self.messages += 1;
    }

    /// The frames, and how many they are; `None` if there are none.
    pub fn finish(mut self) -> Option<(Bytes, u64)> {
        let mark = END_OF_APPEND.to_be_bytes()[0];
        *self.run.get_mut(self.last)? |= mark;
        // They may be kept for long, so without what they leave free.
        Some((self.run.into_boxed_slice().into(), self.messages))
    }
}

/// One message inside a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the frame begins in the run.
    pub start: usize,
    /// Where its payload ends, which is where the next frame begins.
    pub end: usize,
    /// Whether it is the last message of its append.
    pub ends_append: bool,
}

impl Frame {
    /// The range of the payload in the run.
    pub fn payload(&self) -> std::ops::Range<usize> {
        self.start + HEADER_BYTES..self.end
    }
}

/// Walks the frames of a run, from a frame's beginning on. A torn frame ends the walk.
#[derive(Clone)]
pub struct Frames<'a> {
    run: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    pub fn new(run: &'a [u8], at: usize) -> Self {
        Self { run, at }
    }
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let header = self.run.get(self.at..self.at + HEADER_BYTES)?;
        let header = u32::from_be_bytes(header.try_into().ok()?);
        let frame = Frame {
            start: self.at,
            end: self.at + HEADER_BYTES + (header & !END_OF_APPEND) as usize,
            ends_append: header & END_OF_APPEND != 0,
        };
        if frame.end > self.run.len() {
            return None;
        }
        self.at = frame.end;
        Some(frame)
    }
}

/// Where the append that holds the byte `at` begins. `at` itself, if an append begins there or the
/// run ends before it.
///
/// A position inside an append means that append: some clients ask for "the offset I know, plus
/// one" and must not miss the append that follows.
pub fn append_start(run: &[u8], at: usize) -> usize {
    let mut start = 0;
    for frame in Frames::new(run, 0) {
        if frame.ends_append {
            if at < frame.end {
                return start;
            }
            start = frame.end;
        }
    }
    at.min(run.len())
}

/// How many messages and payload bytes a run holds from `at` on.
pub fn measure(run: &[u8], at: usize) -> (u64, u64) {
    Frames::new(run, at).fold((0, 0), |(messages, bytes), frame| {
        (messages + 1, bytes + frame.payload().len() as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn append(messages: &[Vec<u8>]) -> Bytes {
        encode(messages.iter().map(Vec::as_slice))
    }

    #[test]
    fn an_append_without_messages_is_none() {
        assert!(Append::with_capacity(10).finish().is_none());
    }

    #[test]
    fn a_torn_frame_ends_the_walk() {
        let run = append(&[b"abc".to_vec(), b"de".to_vec()]);
        assert_eq!(Frames::new(&run[..run.len() - 1], 0).count(), 1);
        assert_eq!(Frames::new(&run[..3], 0).count(), 0);
    }

    proptest! {
        #[test]
        fn frames_come_back(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..20)) {
            let run = append(&messages);
            let frames: Vec<_> = Frames::new(&run, 0).collect();
            prop_assert_eq!(frames.len(), messages.len());
            for (index, (frame, message)) in frames.iter().zip(&messages).enumerate() {
                prop_assert_eq!(&run[frame.payload()], &message[..]);
                prop_assert_eq!(frame.ends_append, index + 1 == messages.len());
            }
            let total: usize = messages.iter().map(Vec::len).sum();
            prop_assert_eq!(measure(&run, 0), (messages.len() as u64, total as u64));
            let mut one_by_one = Append::with_capacity(0);
            for message in &messages {
                one_by_one.push(message);
            }
            prop_assert_eq!(one_by_one.finish(), Some((run, messages.len() as u64)));
        }

        #[test]
        fn every_byte_belongs_to_one_append(sizes in proptest::collection::vec(1usize..5, 1..8)) {
            let mut run = Vec::new();
            let mut starts = Vec::new();
            for size in sizes {
                starts.push(run.len());
                run.extend_from_slice(&append(&vec![vec![7; size]; size]));
            }
            for at in 0..run.len() {
                let expected = *starts.iter().rev().find(|start| **start <= at).unwrap();
                prop_assert_eq!(append_start(&run, at), expected);
            }
            prop_assert_eq!(append_start(&run, run.len()), run.len());
        }
    }
}
