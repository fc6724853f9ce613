//! Server-sent events (protocol, section 5.8).

use crate::types::{Kind, Offset, StreamEnd};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, BytesMut};

/// A comment: keeps the connection alive and is ignored by every client.
pub const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// What a control event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    pub next: Offset,
    /// Absent once the stream is closed.
    pub cursor: Option<u64>,
    pub up_to_date: bool,
    pub closed: bool,
}

/// Writes one data event that holds `messages`.
pub fn put_data<'a>(out: &mut BytesMut, kind: Kind, messages: impl Iterator<Item = &'a [u8]>) {
    out.put_slice(b"event: data\n");
    match kind {
        Kind::Json => {
            out.put_slice(b"data:[");
            for (index, message) in messages.enumerate() {
                if index > 0 {
                    out.put_u8(b',');
                }
                // Only white space between tokens can hold a line end.
                put_lines(out, message);
            }
            out.put_slice(b"]\n");
        }
        Kind::Text => {
            let mut text = LineWriter::begin(out);
            messages.for_each(|message| text.put(message));
            out.put_u8(b'\n');
        }
        Kind::Binary => {
            let bytes = messages.fold(Vec::new(), |mut all, message| {
                all.extend_from_slice(message);
                all
            });
            out.put_slice(b"data:");
            out.put_slice(BASE64.encode(bytes).as_bytes());
            out.put_u8(b'\n');
        }
    }
    out.put_u8(b'\n');
}

/// Writes one control event; `end` says how a closed stream ended, if it is known.
pub fn put_control(out: &mut BytesMut, control: &Control, end: Option<&StreamEnd>) {
    out.put_slice(b"event: control\ndata:{\"streamNextOffset\":\"");
    out.put_slice(control.next.to_text().as_str().as_bytes());
    out.put_u8(b'"');
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

fn put_lines(out: &mut BytesMut, text: &[u8]) {
    let mut writer = LineWriter {
        out,
        after_cr: false,
        at_line_start: false,
    };
    writer.put(text);
}

/// Turns text into `data:` lines. CRLF, CR and LF each end a line, also where a CRLF lies across two
/// messages, so that no payload can forge an event.
struct LineWriter<'a> {
    out: &'a mut BytesMut,
    after_cr: bool,
    at_line_start: bool,
}

impl<'a> LineWriter<'a> {
    fn begin(out: &'a mut BytesMut) -> Self {
        out.put_slice(b"data:");
        Self {
            out,
            after_cr: false,
            at_line_start: true,
        }
    }

    fn put(&mut self, mut text: &[u8]) {
        while let Some(end) = memchr::memchr2(b'\r', b'\n', text) {
            let byte = text[end];
            self.put_piece(&text[..end]);
            let joins_crlf = byte == b'\n' && end == 0 && self.after_cr;
            if !joins_crlf {
                self.out.put_slice(b"\ndata:");
                self.at_line_start = true;
            }
            self.after_cr = byte == b'\r';
            text = &text[end + 1..];
        }
        self.put_piece(text);
    }

    fn put_piece(&mut self, piece: &[u8]) {
        let Some(first) = piece.first() else { return };
        if self.at_line_start && *first == b' ' {
            // A parser takes one space away after the colon.
            self.out.put_u8(b' ');
        }
        self.at_line_start = false;
        self.after_cr = false;
        self.out.put_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Outcome;
    use proptest::prelude::*;

    fn data(kind: Kind, messages: &[&[u8]]) -> String {
        let mut out = BytesMut::new();
        put_data(&mut out, kind, messages.iter().copied());
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
            next: Offset(5),
            cursor: Some(7),
            up_to_date: true,
            closed: false,
        };
        put_control(&mut out, &control, None);
        assert_eq!(
            &out[..],
            b"event: control\ndata:{\"streamNextOffset\":\"0000000000000000_0000000000000005\",\"streamCursor\":\"7\",\"upToDate\":true}\n\n"
        );
    }

    #[test]
    fn the_last_control_event_says_how_the_stream_ended() {
        let control = Control {
            next: Offset(5),
            cursor: None,
            up_to_date: true,
            closed: true,
        };
        let fields = |end: Option<&StreamEnd>| {
            let mut out = BytesMut::new();
            put_control(&mut out, &control, end);
            let events = parse(std::str::from_utf8(&out).unwrap());
            serde_json::from_str::<serde_json::Value>(&events[0].1).unwrap()
        };
        let end = StreamEnd {
            outcome: Outcome::Failed,
            reason: Some("\"why\\\n".into()),
        };
        let told = fields(Some(&end));
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
    }
}
