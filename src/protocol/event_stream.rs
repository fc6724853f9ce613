//! Server-sent events, as they arrive.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` if it names none.
    pub name: String,
    /// Its lines, joined by line feeds.
    pub data: Vec<u8>,
    /// Whether it was larger than the parser may hold, so that its data is not all there.
    pub is_cut: bool,
}

/// Parses an event stream piece by piece, as the HTML standard has it: lines end in LF, CR or both,
/// and an event ends with an empty line. One that does not end is never given.
#[derive(Debug)]
pub struct Parser {
    bytes_max: usize,
    is_cut: bool,
    line: Vec<u8>,
    name: String,
    data: Vec<u8>,
    has_data: bool,
    /// A line ended with CR: an LF right after it belongs to it.
    after_cr: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::bounded(usize::MAX)
    }
}

impl Parser {
    /// One that holds no more than `bytes_max` of an event.
    pub fn bounded(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            is_cut: false,
            line: Vec::new(),
            name: String::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
        }
    }

    /// Takes a piece, and gives the events that are whole.
    pub fn push(&mut self, mut piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        if self.after_cr && !piece.is_empty() {
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            self.after_cr = false;
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', piece) {
            self.extend_line(&piece[..end]);
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
        self.extend_line(piece);
        events
    }

    fn extend_line(&mut self, text: &[u8]) {
        let room = self.bytes_max - (self.line.len() + self.data.len()).min(self.bytes_max);
        self.is_cut |= text.len() > room;
        self.line.extend_from_slice(&text[..text.len().min(room)]);
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
        let is_cut = std::mem::take(&mut self.is_cut);
        std::mem::take(&mut self.has_data).then(|| Event {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
            is_cut,
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

    #[test]
    fn no_more_is_held_than_may_be() {
        let mut parser = Parser::bounded(20);
        let line = format!("data: {}\n", "x".repeat(100));
        let mut events = parser.push(b"event: data\n");
        events.extend(parser.push(line.repeat(2).as_bytes()));
        events.extend(parser.push(b"\nevent: data\ndata: short\n\n"));
        let cut: Vec<_> = events
            .iter()
            .map(|event| (&*event.name, event.is_cut))
            .collect();
        assert_eq!(cut, [("data", true), ("data", false)]);
        assert!(events[0].data.len() <= 20);
        assert_eq!(events[1].data, b"short");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "(event: ?[ab]|data: ?[ab]*|:x|\n|\r|\r\n){0,30}", size in 1_usize..9) {
            prop_assert_eq!(parse(&text, size), parse(&text, 1000));
        }
    }
}
