//! The id that the upstream gave last: what it is told when the connection is made again.

use super::events::{Piece, Scanner};

/// The longest id that an upstream is told: longer ones would not fit its headers.
const ID_BYTES_MAX: usize = 4096;

/// The ids of events as they come.
#[derive(Debug, Default)]
pub(super) struct LastId {
    /// The value of the line that has begun.
    line: Vec<u8>,
    /// Whether that is longer than an id can be.
    too_long: bool,
    /// That of the event that has begun.
    event: Option<Vec<u8>>,
    /// That of the last event whose end has come.
    last: Option<Vec<u8>>,
}

impl LastId {
    /// Takes the next piece of a line.
    pub(super) fn take(&mut self, piece: &Piece<'_>) {
        if let Some(part) = piece.id {
            if self.line.len() + part.len() <= ID_BYTES_MAX {
                self.line.extend_from_slice(part);
            } else {
                self.too_long = true;
            }
            if piece.is_end {
                let id = std::mem::take(&mut self.line);
                // Clients ignore an id with a zero byte, and no header could say it.
                if !std::mem::take(&mut self.too_long) && !id.contains(&0) {
                    self.event = Some(id);
                }
            }
        }
        if piece.block_end.is_some() && self.event.is_some() {
            self.last = self.event.take();
        }
    }

    /// The id of the last event that had one.
    pub(super) fn get(&self) -> Option<&[u8]> {
        self.last.as_deref()
    }

    /// Forgets the event that has only begun.
    pub(super) fn drop_part(&mut self) {
        self.line.clear();
        self.too_long = false;
        self.event = None;
    }
}

/// Looks for the last id in what was recorded, but for those that were added then.
#[derive(Debug)]
pub(super) struct LastIdSearch {
    scanner: Scanner,
    ids: LastId,
    added: Vec<u8>,
    last: Option<Vec<u8>>,
}

impl LastIdSearch {
    /// `added` is what the added ids begin with.
    pub(super) fn new(added: &str) -> Self {
        Self {
            scanner: Scanner::new(),
            ids: LastId::default(),
            added: added.into(),
            last: None,
        }
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = self.scanner.next(bytes);
            self.ids.take(&piece);
            if piece.block_end.is_some()
                && let Some(id) = self.ids.last.take()
                && !id.starts_with(&self.added)
            {
                self.last = Some(id);
            }
            bytes = &bytes[piece.len..];
        }
    }

    pub(super) fn found(self) -> Option<Vec<u8>> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_id_of_a_whole_event_is_found() {
        let mut search = LastIdSearch::new("ours.");
        search.take(b"id: 1\ndata: a\n\nid: ");
        search.take(b"2\n\ndata: b\nid: ours.7.0\n\nid: 3\ndata: c\n");
        assert_eq!(search.found().as_deref(), Some(&b"2"[..]));
        let mut none = LastIdSearch::new("ours.");
        none.take(b"data: a\nid: ours.0.0\n\n: id: 4\n\n");
        assert_eq!(none.found(), None);
        let mut odd = LastIdSearch::new("ours.");
        odd.take(b"id: 1\n\nid: 2\0\n\n");
        assert_eq!(odd.found().as_deref(), Some(&b"1"[..]));
    }
}
