//! Finding the place behind an event that a client saw last.

use super::events::Scanner;

/// Looks for the event with a given id in what was recorded, and says what lies before its end.
///
/// The search may begin in the middle of an event. Since an id line is written just before the end of
/// its event, an id that names an append is found in that append, or nowhere.
#[derive(Debug)]
pub(super) struct Seek {
    id: Box<[u8]>,
    scanner: Scanner,
    /// How much of `id` the value in the current line repeats so far, if it does.
    repeated: Option<usize>,
    /// Whether the current event has the id.
    is_match: bool,
    found: bool,
}

impl Seek {
    /// For the id that a client sent as its `Last-Event-ID`.
    pub(super) fn behind(id: &[u8]) -> Self {
        Self {
            id: id.into(),
            scanner: Scanner::new(),
            repeated: Some(0),
            is_match: false,
            found: false,
        }
    }

    /// Takes the next bytes, and returns how many of them the client has seen: all, until the event's
    /// end is found. After that only the LF of a line end whose CR it saw, if that comes apart.
    pub(super) fn skip(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.found {
                return at + self.scanner.late_lf(&bytes[at..]);
            }
            at += self.take(&bytes[at..]);
        }
        at
    }

    /// Whether the event has been found.
    pub(super) fn is_found(&self) -> bool {
        self.found
    }

    fn take(&mut self, bytes: &[u8]) -> usize {
        let piece = self.scanner.next(bytes);
        if let Some(part) = piece.id {
            self.repeated = self.repeated.filter(|&n| self.id[n..].starts_with(part));
            self.repeated = self.repeated.map(|n| n + part.len());
            if piece.is_end {
                self.is_match = self.repeated == Some(self.id.len());
            }
        }
        if piece.is_end {
            self.repeated = Some(0);
        }
        if piece.block_end.is_some() {
            self.found = std::mem::take(&mut self.is_match);
        }
        piece.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is left of `pieces` behind the event with `id`; `None` if it is not there.
    fn behind(id: &str, pieces: &[&[u8]]) -> Option<Vec<u8>> {
        let mut seek = Seek::behind(id.as_bytes());
        let mut rest = Vec::new();
        for piece in pieces {
            let seen = seek.skip(piece);
            rest.extend_from_slice(&piece[seen..]);
        }
        seek.is_found().then_some(rest)
    }

    #[test]
    fn the_event_with_the_id_is_found() {
        let text = b"\xef\xbb\xbfid: a\ndata: id: b\n\nid:b\ndata: 2\n\nid: bc\n\ndata: 4\n\n";
        assert_eq!(
            behind("a", &[text]).unwrap(),
            b"id:b\ndata: 2\n\nid: bc\n\ndata: 4\n\n"
        );
        assert_eq!(behind("b", &[text]).unwrap(), b"id: bc\n\ndata: 4\n\n");
        assert_eq!(behind("bc", &[text]).unwrap(), b"data: 4\n\n");
        assert_eq!(behind("bcd", &[text]), None);
        assert_eq!(behind("c", &[text]), None);
    }

    #[test]
    fn the_last_id_of_an_event_counts() {
        let text = b"id: a\nid: b\n\nid: c\nid\n\nx\n\n";
        assert_eq!(behind("a", &[text]), None);
        assert_eq!(behind("b", &[text]).unwrap(), b"id: c\nid\n\nx\n\n");
        assert_eq!(behind("c", &[text]), None);
        assert_eq!(behind("", &[text]).unwrap(), b"x\n\n");
    }

    #[test]
    fn an_event_that_has_not_ended_is_not_found() {
        assert_eq!(behind("a", &[b"id: a\ndata: 1\n"]), None);
        assert_eq!(behind("a", &[b"id: a\ndata: 1\n", b"\n"]).unwrap(), b"");
    }

    #[test]
    fn a_line_end_is_not_torn() {
        let pieces: [&[u8]; 3] = [b"id: a\r\n\r", b"\nid: b\r", b"\n\r\n"];
        assert_eq!(behind("a", &pieces).unwrap(), b"id: b\r\n\r\n");
        assert_eq!(behind("b", &pieces).unwrap(), b"");
        assert_eq!(behind("a", &[b"id: a\r\r", b"", b"\n\n"]).unwrap(), b"\n");
        assert_eq!(behind("a", &[b"id: a\r\r", b"x", b"\n"]).unwrap(), b"x\n");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in proptest::collection::vec(proptest::sample::select(b"id: \r\n1x".to_vec()), 0..40),
            cuts in proptest::collection::vec(0usize..40, 0..5),
        ) {
            let whole = behind("1", &[&text]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(behind("1", &pieces), whole);
        }
    }
}
