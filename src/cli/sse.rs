//! Server-sent events, as they arrive.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its type; `message` if it names none.
    pub(super) name: String,
    /// Its lines, joined by line feeds.
    pub(super) data: Vec<u8>,
}

/// Parses an event stream piece by piece, as the HTML standard has it: lines end in LF, CR or both,
/// and an event ends with an empty line. One that does not end is never given.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    name: String,
    data: Vec<u8>,
    has_data: bool,
    /// A line ended with CR: an LF right after it belongs to it.
    after_cr: bool,
}

impl Parser {
    /// Takes a piece, and gives the events that are whole.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        if self.after_cr && !piece.is_empty() {
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            self.after_cr = false;
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', piece) {
            self.line.extend_from_slice(&piece[..end]);
            let is_cr = piece[end] == b'\r';
            piece = &piece[end + 1..];
            if is_cr {
                match piece.first() {
                    Some(b'\n') => piece = &piece[1..],
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            events.extend(self.end_of_line());
        }
        self.line.extend_from_slice(piece);
        events
    }

    fn end_of_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.end_of_event();
        }
        let colon = memchr::memchr(b':', &line);
        let (field, value) = match colon {
            // A comment.
            Some(0) => return None,
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (&line[..], &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            _ => {}
        }
        None
    }

    fn end_of_event(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| Event {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str, size: usize) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let pieces = text.as_bytes().chunks(size);
        pieces
            .flat_map(|piece| parser.push(piece))
            .map(|event| (event.name, String::from_utf8(event.data).unwrap()))
            .collect()
    }

    #[test]
    fn events_are_parsed() {
        for (text, events) in [
            (
                "event: data\ndata: [\ndata: 1\ndata: ]\n\n",
                vec![("data", "[\n1\n]")],
            ),
            (
                "event:control\ndata:{\"a\":1}\n\n",
                vec![("control", "{\"a\":1}")],
            ),
            (
                "event: data\r\ndata:  a\r\ndata:\r\n\r\n",
                vec![("data", " a\n")],
            ),
            ("data: a\rdata: b\r\r", vec![("message", "a\nb")]),
            (
                ": heartbeat\n\n: another\n\nid: 1\ndata\n\n",
                vec![("message", "")],
            ),
            ("event: data\n\ndata: a\n\n", vec![("message", "a")]),
            ("event: data\ndata: unfinished\n", vec![]),
        ] {
            for size in 1..10 {
                let found = parse(text, size);
                let found: Vec<(&str, &str)> = found
                    .iter()
                    .map(|(name, data)| (name.as_str(), data.as_str()))
                    .collect();
                assert_eq!(found, events, "{text:?} by {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "(event: ?[ab]|data: ?[ab]*|:x|\n|\r|\r\n){0,30}", size in 1_usize..9) {
            prop_assert_eq!(parse(&text, size), parse(&text, 1000));
        }
    }
}
