//! Server-sent events (protocol, section 5.8).

use crate::types::{Kind, StreamEnd};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, BytesMut};

/// A comment: keeps the connection alive and is ignored by every client.
pub const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// How data events carry bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As text, in which a CR cannot be told from a LF.
    Text,
    /// Any bytes, exactly.
    Base64,
}

impl Encoding {
    /// That of a stream of this kind; `exact` if the reader asked for exact bytes.
    pub fn of(kind: Kind, exact: bool) -> Self {
        match kind {
            Kind::Json | Kind::Text if !exact => Self::Text,
            Kind::Json | Kind::Text | Kind::Binary => Self::Base64,
        }
    }
}

/// What a control event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Absent once the stream is closed.
    pub cursor: Option<u64>,
    pub up_to_date: bool,
    pub closed: bool,
}

/// Writes one data event that holds `messages`: what a catch-up answer with them would hold.
pub fn put_data<'a>(
    out: &mut BytesMut,
    kind: Kind,
    encoding: Encoding,
    messages: impl Iterator<Item = &'a [u8]>,
) {
    let mut event = DataEvent::begin(out, encoding);
    if kind == Kind::Json {
        event.put(out, b"[");
        for (index, message) in messages.enumerate() {
            if index > 0 {
                event.put(out, b",");
            }
            event.put(out, message);
        }
        event.put(out, b"]");
    } else {
        messages.for_each(|message| event.put(out, message));
    }
    event.end(out);
}

/// A data event that is written piece by piece.
#[derive(Debug)]
pub enum DataEvent {
    Text(Lines),
    Base64(Groups),
}

impl DataEvent {
    pub fn begin(out: &mut BytesMut, encoding: Encoding) -> Self {
        out.put_slice(b"event: data\ndata:");
        match encoding {
            Encoding::Text => Self::Text(Lines {
                after_cr: false,
                at_line_start: true,
            }),
            Encoding::Base64 => Self::Base64(Groups::default()),
        }
    }

    pub fn put(&mut self, out: &mut BytesMut, bytes: &[u8]) {
        match self {
            Self::Text(lines) => lines.put(out, bytes),
            Self::Base64(groups) => groups.put(out, bytes),
        }
    }

    /// Ends the event. Its control event follows in the same write.
    pub fn end(self, out: &mut BytesMut) {
        if let Self::Base64(groups) = self {
            put_base64(out, &groups.rest[..groups.rest_bytes]);
        }
        out.put_slice(b"\n\n");
    }
}

/// Bytes that were not encoded yet, because base64 takes three at a time.
#[derive(Debug, Default)]
pub struct Groups {
    rest: [u8; 3],
    rest_bytes: usize,
}

impl Groups {
    fn put(&mut self, out: &mut BytesMut, mut bytes: &[u8]) {
        while self.rest_bytes > 0 && self.rest_bytes < 3 {
            let Some((first, behind)) = bytes.split_first() else {
                return;
            };
            self.rest[self.rest_bytes] = *first;
            self.rest_bytes += 1;
            bytes = behind;
        }
        put_base64(out, &self.rest[..self.rest_bytes]);
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % 3);
        put_base64(out, whole);
        self.rest[..rest.len()].copy_from_slice(rest);
        self.rest_bytes = rest.len();
    }
}

fn put_base64(out: &mut BytesMut, bytes: &[u8]) {
    let begin = out.len();
    out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
    // There is exactly the room that it takes.
    let _ = BASE64.encode_slice(bytes, &mut out[begin..]);
}

/// Writes one control event: `next` is the offset to go on from, and `end` says how a closed stream
/// ended, if it is known.
pub fn put_control(out: &mut BytesMut, next: &str, control: &Control, end: Option<&StreamEnd>) {
    out.put_slice(b"event: control\ndata:{\"streamNextOffset\":");
    if next.contains(['"', '\\']) {
        out.put_slice(serde_json::json!(next).to_string().as_bytes());
    } else {
        out.put_u8(b'"');
        out.put_slice(next.as_bytes());
        out.put_u8(b'"');
    }
    if let Some(cursor) = control.cursor {
        out.put_slice(b",\"streamCursor\":\"");
        out.put_slice(cursor.to_string().as_bytes());
        out.put_u8(b'"');
    }
    if control.up_to_date {
        out.put_slice(b",\"upToDate\":true");
    }
    if control.closed {
        out.put_slice(b",\"streamClosed\":true");
        if let Some(end) = end {
            put_end(out, end);
        }
    }
    out.put_slice(b"}\n\n");
}

fn put_end(out: &mut BytesMut, end: &StreamEnd) {
    out.put_slice(b",\"streamEnd\":\"");
    out.put_slice(end.outcome.as_str().as_bytes());
    out.put_u8(b'"');
    if let Some(reason) = &end.reason {
        out.put_slice(b",\"streamEndReason\":");
        out.put_slice(serde_json::json!(**reason).to_string().as_bytes());
    }
}

/// Turns text into `data:` lines. CRLF, CR and LF each end a line, also where a CRLF lies across two
/// messages, so that no payload can forge an event.
#[derive(Debug)]
pub struct Lines {
    after_cr: bool,
    at_line_start: bool,
}

impl Lines {
    fn put(&mut self, out: &mut BytesMut, mut text: &[u8]) {
        while let Some(end) = memchr::memchr2(b'\r', b'\n', text) {
            let byte = text[end];
            self.put_piece(out, &text[..end]);
            let joins_crlf = byte == b'\n' && end == 0 && self.after_cr;
            if !joins_crlf {
                out.put_slice(b"\ndata:");
                self.at_line_start = true;
            }
            self.after_cr = byte == b'\r';
            text = &text[end + 1..];
        }
        self.put_piece(out, text);
    }

    fn put_piece(&mut self, out: &mut BytesMut, piece: &[u8]) {
        let Some(first) = piece.first() else { return };
        if self.at_line_start && *first == b' ' {
            // A parser takes one space away after the colon.
            out.put_u8(b' ');
        }
        self.at_line_start = false;
        self.after_cr = false;
        out.put_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Outcome;
    use proptest::prelude::*;

    fn data(kind: Kind, messages: &[&[u8]]) -> String {
        encoded(kind, Encoding::of(kind, false), messages)
    }

    fn encoded(kind: Kind, encoding: Encoding, messages: &[&[u8]]) -> String {
        let mut out = BytesMut::new();
        put_data(&mut out, kind, encoding, messages.iter().copied());
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// Reads events as a browser does: the lines of each event's data, joined by LF.
    fn parse(text: &str) -> Vec<(String, String)> {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut events = Vec::new();
        let (mut name, mut lines) = (String::new(), Vec::new());
        for line in text.split('\n') {
            if line.is_empty() {
                if !lines.is_empty() {
                    events.push((std::mem::take(&mut name), lines.join("\n")));
                    lines.clear();
                }
            } else if let Some(value) = line.strip_prefix("event:") {
                value
                    .strip_prefix(' ')
                    .unwrap_or(value)
                    .clone_into(&mut name);
            } else if let Some(value) = line.strip_prefix("data:") {
                lines.push(value.strip_prefix(' ').unwrap_or(value).to_owned());
            }
        }
        events
    }

    #[test]
    fn events_look_as_clients_expect() {
        assert_eq!(data(Kind::Text, &[b"hi"]), "event: data\ndata:hi\n\n");
        assert_eq!(
            data(Kind::Text, &[b" hi", b" you"]),
            "event: data\ndata:  hi you\n\n"
        );
        assert_eq!(
            data(Kind::Json, &[b"1", b"{\"a\":\n2}"]),
            "event: data\ndata:[1,{\"a\":\ndata:2}]\n\n"
        );
        assert_eq!(
            data(Kind::Binary, &[b"\x01\x02", b"\x03"]),
            "event: data\ndata:AQID\n\n"
        );
        let mut out = BytesMut::new();
        let control = Control {
            cursor: Some(7),
            up_to_date: true,
            closed: false,
        };
        put_control(&mut out, "5", &control, None);
        assert_eq!(
            &out[..],
            b"event: control\ndata:{\"streamNextOffset\":\"5\",\"streamCursor\":\"7\",\"upToDate\":true}\n\n"
        );
    }

    #[test]
    fn the_last_control_event_says_how_the_stream_ended() {
        let control = Control {
            cursor: None,
            up_to_date: true,
            closed: true,
        };
        let fields = |end: Option<&StreamEnd>| {
            let mut out = BytesMut::new();
            put_control(&mut out, "a\"b", &control, end);
            let events = parse(std::str::from_utf8(&out).unwrap());
            serde_json::from_str::<serde_json::Value>(&events[0].1).unwrap()
        };
        let end = StreamEnd {
            outcome: Outcome::Failed,
            reason: Some("\"why\\\n".into()),
        };
        let told = fields(Some(&end));
        assert_eq!(told["streamNextOffset"], "a\"b");
        assert_eq!(
            (&told["streamEnd"], &told["streamClosed"]),
            (&"failed".into(), &true.into())
        );
        assert_eq!(told["streamEndReason"], "\"why\\\n");
        assert!(fields(None).get("streamEnd").is_none());
        let end = StreamEnd::new(Outcome::Aborted, None);
        let told = fields(Some(&end));
        assert_eq!(told["streamEnd"], "aborted");
        assert!(told.get("streamEndReason").is_none());
    }

    proptest! {
        #[test]
        fn no_text_can_forge_an_event(messages in proptest::collection::vec("[ a\r\n:devntr]{0,12}", 1..5)) {
            let bytes: Vec<&[u8]> = messages.iter().map(String::as_bytes).collect();
            let events = parse(&data(Kind::Text, &bytes));
            let whole = messages.concat().replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(events, vec![("data".to_owned(), whole)]);
        }

        #[test]
        fn binary_comes_back(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 1..5)) {
            let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let events = parse(&data(Kind::Binary, &slices));
            prop_assert_eq!(BASE64.decode(&events[0].1).unwrap(), messages.concat());
        }

        #[test]
        fn any_kind_comes_back_exactly_where_that_is_asked(text in "[a\r\n]{0,9}") {
            for (kind, whole) in [(Kind::Text, text.clone()), (Kind::Json, format!("[{text}]"))] {
                let events = parse(&encoded(kind, Encoding::of(kind, true), &[text.as_bytes()]));
                prop_assert_eq!(BASE64.decode(&events[0].1).unwrap(), whole.into_bytes());
            }
        }
    }
}
