//! Where an answer may be cut, and the ids of its events.

use bytes::{BufMut as _, Bytes, BytesMut};
use memchr::memrchr;

use super::events::Scanner;
use super::last_id::LastId;
use crate::types::{Kind, same_content_type};

const LINE_TYPES: [&str; 3] = [
    "application/x-ndjson",
    "application/jsonl",
    "application/jsonlines",
];

/// What UTF-8 may begin with, and is no part of the text.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the pieces of an answer are: where a batch of it ends, and a comment may be put in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Server-sent events.
    Events,
    /// A message in each line.
    Lines,
    /// Anything else: what came together stays together.
    Chunks,
}

impl Framing {
    /// The framing of a content type.
    pub(super) fn of(content_type: &str) -> Self {
        if same_content_type(content_type, "text/event-stream") {
            Self::Events
        } else if LINE_TYPES
            .iter()
            .any(|line_type| same_content_type(content_type, line_type))
        {
            Self::Lines
        } else {
            Self::Chunks
        }
    }
}

/// Gathers an answer into batches that end where a piece of it does. The bytes pass unchanged and in
/// order, but for the ids that it adds to events.
#[derive(Debug)]
pub(super) struct Splitter {
    framing: Framing,
    is_text: bool,
    add_ids: bool,
    scanner: Scanner,
    pending: BytesMut,
    /// How much of `pending` is whole pieces.
    complete: usize,
    /// The ids that were added in `pending`.
    ids: u32,
    /// Whether what holds no event is left out.
    events_only: bool,
    /// Whether nothing is complete of what the present connection brings.
    at_start: bool,
    last_id: LastId,
}

impl Splitter {
    /// For an answer of this content type. `add_ids`: give an id to each event that has none.
    pub(super) fn new(content_type: &str, add_ids: bool) -> Self {
        let framing = Framing::of(content_type);
        Self {
            framing,
            is_text: framing != Framing::Chunks || Kind::of(content_type) == Kind::Text,
            add_ids: add_ids && framing == Framing::Events,
            scanner: Scanner::new(),
            pending: BytesMut::new(),
            complete: 0,
            ids: 0,
            events_only: false,
            at_start: true,
            last_id: LastId::default(),
        }
    }

    /// For a feed without end: comments, which only keep a connection alive, are left out.
    pub(super) fn of_feed(content_type: &str, add_ids: bool) -> Self {
        Self {
            events_only: true,
            ..Self::new(content_type, add_ids)
        }
    }

    /// The last id that the upstream gave to an event whose end has come.
    pub(super) fn last_id(&self) -> Option<&[u8]> {
        self.last_id.get()
    }

    /// Forgets what is not complete: its upstream will say it again.
    pub(super) fn drop_part(&mut self) {
        self.pending.truncate(self.complete);
        self.scanner = Scanner::new();
        self.at_start = true;
        self.last_id.drop_part();
    }

    /// Takes the next bytes. `put_id` writes the id of an event whose end they hold: it gets a number
    /// that no other event of the same batch has.
    pub(super) fn push(&mut self, chunk: &[u8], put_id: impl FnMut(u32, &mut BytesMut)) {
        self.pending.reserve(chunk.len());
        match self.framing {
            Framing::Events => self.push_events(chunk, put_id),
            Framing::Lines => {
                if let Some(end) = memrchr(b'\n', chunk) {
                    self.complete = self.pending.len() + end + 1;
                }
                self.pending.put_slice(chunk);
            }
            Framing::Chunks => {
                self.pending.put_slice(chunk);
                self.complete = self.whole_characters();
            }
        }
    }

    fn push_events(&mut self, mut chunk: &[u8], mut put_id: impl FnMut(u32, &mut BytesMut)) {
        while !chunk.is_empty() {
            let piece = self.scanner.next(chunk);
            if let Some(end) = piece.block_end
                && self.add_ids
                && end.has_field
                && !end.has_id
            {
                self.pending.put_slice(b"id: ");
                put_id(self.ids, &mut self.pending);
                self.pending.put_slice(end.line_end.bytes());
                self.ids += 1;
            }
            self.pending.put_slice(&chunk[..piece.len]);
            self.last_id.take(&piece);
            if let Some(end) = piece.block_end {
                if self.events_only && !end.has_field {
                    self.pending.truncate(self.complete);
                }
                self.drop_mark();
                self.complete = self.pending.len();
            }
            chunk = &chunk[piece.len..];
        }
    }

    /// Leaves a byte order mark out of a feed: what it begins is not the beginning of the stream.
    fn drop_mark(&mut self) {
        if std::mem::take(&mut self.at_start)
            && self.events_only
            && self.pending[self.complete..].starts_with(BYTE_ORDER_MARK)
        {
            let event = self.pending.split_off(self.complete);
            self.pending.put_slice(&event[BYTE_ORDER_MARK.len()..]);
        }
    }

    /// All bytes that wait.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// The next batch: all pieces that are complete, if there is one.
    pub(super) fn take_complete(&mut self) -> Option<Bytes> {
        self.take(self.complete)
    }

    /// The next batch: all that is there, but for the beginning of a character.
    pub(super) fn take_all(&mut self) -> Option<Bytes> {
        self.take(self.whole_characters())
    }

    /// The last batch: all that is there.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        self.take(self.pending.len())
    }

    fn take(&mut self, len: usize) -> Option<Bytes> {
        if len == 0 {
            return None;
        }
        self.complete = 0;
        self.ids = 0;
        Some(self.pending.split_to(len).freeze())
    }

    fn whole_characters(&self) -> usize {
        let len = self.pending.len();
        if self.is_text {
            len - open_character(&self.pending)
        } else {
            len
        }
    }
}

/// How many bytes at the end are the beginning of a UTF-8 character that is not complete.
fn open_character(bytes: &[u8]) -> usize {
    for (n, byte) in bytes.iter().rev().enumerate().take(3) {
        let len = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if len > n + 1 { n + 1 } else { 0 };
    }
    0
}

/// Whether what a reader has been sent ends where a piece does.
#[derive(Debug)]
pub(super) struct Boundary {
    framing: Framing,
    /// The last bytes. Three tell a blank line: a line end of one or two, and the one before.
    last: [u8; 3],
    sent: usize,
}

impl Boundary {
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            framing,
            last: [0; 3],
            sent: 0,
        }
    }

    /// Takes what is sent next.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in &bytes[bytes.len().saturating_sub(self.last.len())..] {
            self.last = [self.last[1], self.last[2], byte];
        }
        self.sent = self.sent.saturating_add(bytes.len());
    }

    /// Whether nothing was sent yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.sent == 0
    }

    /// Whether something may be put in here.
    pub(super) fn is_here(&self) -> bool {
        let last = &self.last[self.last.len().saturating_sub(self.sent)..];
        match self.framing {
            Framing::Events => ends_blank(last),
            Framing::Lines => last.last().is_none_or(|&byte| byte == b'\n'),
            Framing::Chunks => true,
        }
    }
}

/// Whether `bytes` are empty or end in a blank line.
fn ends_blank(bytes: &[u8]) -> bool {
    let line = match bytes {
        [] => return true,
        [line @ .., b'\r', b'\n'] | [line @ .., b'\r' | b'\n'] => line,
        _ => return false,
    };
    matches!(line, [] | [.., b'\r' | b'\n'])
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
