//! What an origin's events say of a stream.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use thiserror::Error;

use super::ring::RING_BYTES_MAX;
use super::subscription::{Closing, News};
use crate::protocol::event_stream::{Event, Parser};
use crate::types::{Kind, Outcome, StreamEnd};

/// Reads an origin's events.
pub(super) struct OriginEvents {
    parser: Parser,
    kind: Kind,
    base64: bool,
    /// Data whose control event has not come yet.
    data: Option<BytesMut>,
    /// Some of it was too much to be held.
    is_cut: bool,
}

/// Why events make no sense.
#[derive(Debug, Error)]
pub(super) enum EventError {
    #[error("a control event is not as the protocol has it: {0}")]
    Control(#[from] serde_json::Error),
    #[error("a data event is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("a data event of JSON is no array")]
    NoArray,
}

/// A control event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Control {
    stream_next_offset: String,
    #[serde(default)]
    up_to_date: bool,
    #[serde(default)]
    stream_closed: bool,
    stream_end: Option<String>,
    stream_end_reason: Option<String>,
}

/// The most bytes of an event whose data is kept, base64 included.
const EVENT_BYTES_MAX: usize = RING_BYTES_MAX.div_ceil(3) * 4 + 1024;

impl OriginEvents {
    /// Those of a stream of this kind; `base64`: whatever its kind, data is in base64.
    pub(super) fn new(kind: Kind, base64: bool) -> Self {
        Self {
            parser: Parser::bounded(EVENT_BYTES_MAX),
            kind,
            base64: base64 || kind == Kind::Binary,
            data: None,
            is_cut: false,
        }
    }

    /// Takes a piece of the answer, and gives what its whole events say.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<News>, EventError> {
        let mut news = Vec::new();
        for event in self.parser.push(piece) {
            match event.name.as_str() {
                "data" => self.data(event)?,
                "control" => news.push(self.control(&event)?),
                _ => {}
            }
        }
        Ok(news)
    }

    fn data(&mut self, event: Event) -> Result<(), EventError> {
        let before = self.data.as_ref().map_or(0, BytesMut::len);
        self.is_cut |= event.is_cut || before + event.data.len() > EVENT_BYTES_MAX;
        if self.is_cut {
            self.data = None;
            return Ok(());
        }
        let mut bytes = event.data;
        if self.base64 {
            bytes.retain(|byte| !matches!(byte, b'\r' | b'\n'));
            bytes = BASE64.decode(bytes)?;
        }
        let bytes = match self.kind {
            Kind::Json => elements(&bytes).ok_or(EventError::NoArray)?,
            Kind::Text | Kind::Binary => &bytes,
        };
        let data = self.data.get_or_insert_default();
        if self.kind == Kind::Json && !data.is_empty() && !bytes.is_empty() {
            data.extend_from_slice(b",");
        }
        data.extend_from_slice(bytes);
        Ok(())
    }

    fn control(&mut self, event: &Event) -> Result<News, EventError> {
        let control: Control = serde_json::from_slice(&event.data)?;
        self.is_cut = false;
        let data = self.data.take().filter(|data| !data.is_empty());
        let outcome = control.stream_end.as_deref().and_then(Outcome::named);
        let end = outcome.map(|outcome| {
            let reason = control.stream_end_reason.as_deref();
            Arc::new(StreamEnd::new(outcome, reason))
        });
        Ok(News {
            body: data.map(BytesMut::freeze),
            next: control.stream_next_offset.into(),
            up_to_date: control.up_to_date || control.stream_closed,
            closed: control.stream_closed.then_some(Closing { end }),
        })
    }
}

/// What is between the brackets of an array.
pub(super) fn elements(array: &[u8]) -> Option<&[u8]> {
    let inner = array.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    Some(inner.trim_ascii())
}

/// The data of a catch-up answer as a piece has it; `None` if there is none.
pub(super) fn data_of(kind: Kind, body: Bytes) -> Option<Bytes> {
    let data = match kind {
        Kind::Json => body.slice_ref(elements(&body)?),
        Kind::Text | Kind::Binary => body,
    };
    (!data.is_empty()).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sse::{self, Encoding};
    use proptest::prelude::*;

    fn events(kind: Kind, exact: bool, batches: &[Vec<Vec<u8>>]) -> BytesMut {
        let mut out = BytesMut::new();
        for (n, messages) in batches.iter().enumerate() {
            let messages = messages.iter().map(Vec::as_slice);
            sse::put_data(&mut out, kind, Encoding::of(kind, exact), messages);
            let control = sse::Control {
                cursor: Some(1),
                up_to_date: true,
                closed: n + 1 == batches.len(),
            };
            let end = StreamEnd::new(Outcome::Failed, Some("why"));
            sse::put_control(&mut out, &format!("{n:04}"), &control, Some(&end));
            out.extend_from_slice(sse::HEARTBEAT);
        }
        out
    }

    #[test]
    fn the_last_event_tells_how_the_stream_ended() {
        let bytes = events(
            Kind::Text,
            true,
            &[vec![b"a".to_vec()], vec![b"b".to_vec()]],
        );
        let news = OriginEvents::new(Kind::Text, true).push(&bytes).unwrap();
        assert!(news[0].closed.is_none());
        let end = news[1].closed.clone().unwrap().end.unwrap();
        assert_eq!(
            (end.outcome, end.reason.as_deref()),
            (Outcome::Failed, Some("why"))
        );
        assert_eq!(&*news[1].next, "0001");
    }

    #[test]
    fn too_much_data_is_left_out_and_its_place_is_known() {
        let large = vec![vec![b'x'; 2 * RING_BYTES_MAX]];
        let bytes = events(Kind::Binary, true, &[large, vec![b"small".to_vec()]]);
        let mut origin = OriginEvents::new(Kind::Binary, true);
        let news: Vec<News> = bytes
            .chunks(10_000)
            .flat_map(|piece| origin.push(piece).unwrap())
            .collect();
        assert_eq!((news[0].body.clone(), &*news[0].next), (None, "0000"));
        assert_eq!(news[1].body.as_deref(), Some(&b"small"[..]));
    }

    #[test]
    fn nonsense_is_an_error() {
        let says = |text: &str| {
            OriginEvents::new(Kind::Json, false)
                .push(text.as_bytes())
                .is_err()
        };
        assert!(says("event: control\ndata:{}\n\n"));
        assert!(says("event: data\ndata:{\"a\":1}\n\n"));
        assert!(!says("event: data\ndata:[\ndata:1\ndata:]\n\n"));
    }

    proptest! {
        #[test]
        fn data_comes_back_exactly(
            batches in proptest::collection::vec(
                proptest::collection::vec("[a\r\n :]{1,5}", 1..4), 1..4),
            size in 1_usize..50,
        ) {
            let batches: Vec<Vec<Vec<u8>>> = batches
                .into_iter()
                .map(|batch| batch.into_iter().map(String::into_bytes).collect())
                .collect();
            for kind in [Kind::Text, Kind::Binary] {
                let mut origin = OriginEvents::new(kind, true);
                let mut heard = Vec::new();
                for piece in events(kind, true, &batches).chunks(size) {
                    heard.extend(origin.push(piece).unwrap());
                }
                let heard: Vec<_> = heard.iter().map(|news| news.body.clone().unwrap()).collect();
                let sent: Vec<_> = batches.iter().map(|batch| Bytes::from(batch.concat())).collect();
                prop_assert_eq!(heard, sent);
            }
        }
    }
}
