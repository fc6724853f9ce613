//! What is kept of a recorded answer beside its bytes.

use super::framing::Framing;
use super::names::Scope;
use crate::types::{Kind, StreamMeta};
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora::http::ResponseHeader;
use serde::{Deserialize, Serialize};

/// Most bytes of headers that are kept beside the content type; what is beyond is not repeated to
/// later readers.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The head of a recorded answer, and whose it is. It is kept with the stream, so that the answer
/// can be given again after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    status: u16,
    headers: Vec<(String, String)>,
    /// The scope of the caller; no other may attach.
    scope: String,
    /// The route that recorded it.
    route: String,
    /// What tells the request from another with the same key.
    fingerprint: String,
}

impl Note {
    pub(super) fn new(
        status: StatusCode,
        headers: &HeaderMap,
        scope: Scope,
        route: &str,
        fingerprint: String,
    ) -> Self {
        let mut bytes = 0;
        let kept = headers.iter().filter_map(|(name, value)| {
            bytes += name.as_str().len() + value.len();
            let fits = name == header::CONTENT_TYPE || bytes <= HEADER_BYTES_MAX;
            (is_repeatable(name) && fits).then(|| (name.as_str().to_owned(), text(value)))
        });
        Self {
            status: status.as_u16(),
            headers: kept.collect(),
            scope: scope.to_text(),
            route: route.to_owned(),
            fingerprint,
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn write(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The head of the answer, for a client that comes later.
    pub(super) fn head(&self) -> ResponseHeader {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        for (name, value) in &self.headers {
            if let (Ok(name), Some(value)) = (HeaderName::try_from(name), value_of(value)) {
                parts.headers.append(name, value);
            }
        }
        ResponseHeader::from(parts)
    }

    /// Whether a caller may attach who asks at this route.
    pub(super) fn is_of(&self, scope: Scope, route: &str) -> bool {
        self.scope == scope.to_text() && self.route == route
    }

    /// What the upstream said its answer is.
    pub(super) fn content_type(&self) -> Option<&str> {
        let mut headers = self.headers.iter();
        let header = headers.find(|(name, _)| name == header::CONTENT_TYPE.as_str())?;
        Some(&header.1)
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// A value as text: a character for each byte, as not all of them are UTF-8.
fn text(value: &HeaderValue) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

/// The value of such a text.
fn value_of(text: &str) -> Option<HeaderValue> {
    let bytes = text
        .chars()
        .map(u8::try_from)
        .collect::<Result<Vec<_>, _>>();
    HeaderValue::try_from(bytes.ok()?).ok()
}

/// The content type of what has none.
pub const UNTYPED: &str = "application/octet-stream";

/// The content type of what a stream records, as its upstream said it.
pub fn content_type(meta: &StreamMeta) -> String {
    let note = meta.note.as_deref().and_then(Note::read);
    let content_type = note.as_ref().and_then(Note::content_type);
    content_type.unwrap_or(&meta.content_type).to_owned()
}

/// The content type of the stream of an answer. Clients of streams take what is said to be
/// `text/event-stream` for the protocol's own, and pieces of a JSON text are no messages of a JSON
/// stream.
pub(super) fn stream_type(content_type: Option<&str>) -> &str {
    let Some(content_type) = content_type else {
        return UNTYPED;
    };
    match (Framing::of(content_type), Kind::of(content_type)) {
        (Framing::Events | Framing::Lines, _) | (_, Kind::Json) => "text/plain; charset=utf-8",
        (Framing::Chunks, _) => content_type,
    }
}

/// A cookie is for the one who asked first, and a date for when that was.
fn is_repeatable(name: &HeaderName) -> bool {
    ![header::SET_COOKIE, header::DATE].contains(name)
}

#[cfg(test)]
mod tests {
    use super::super::names::Naming;
    use super::*;

    #[test]
    fn an_answer_comes_back_without_its_cookies() {
        let naming = Naming::new(b"secret");
        let scope = naming.scope(&[], &HeaderMap::new());
        let mut headers = HeaderMap::new();
        headers.append("x-model", "one".parse().unwrap());
        headers.append("x-model", "two".parse().unwrap());
        for bytes in [&b"caf\xe9"[..], "café".as_bytes()] {
            headers.append("x-name", HeaderValue::from_bytes(bytes).unwrap());
        }
        headers.append(header::SET_COOKIE, "a=b".parse().unwrap());
        let note = Note::new(StatusCode::CREATED, &headers, scope, "/v1/*", "f".into());
        let back = Note::read(&note.write()).unwrap();
        assert_eq!(back, note);
        assert_eq!(back.head().status, StatusCode::CREATED);
        headers.remove(header::SET_COOKIE);
        assert_eq!(back.head().headers, headers);
        assert!(back.is_of(scope, "/v1/*"));
        assert!(!back.is_of(scope, "/v2/*"));
        assert_eq!(Note::read(b"x"), None);
    }

    #[test]
    fn what_is_not_kept_of_many_headers_is_not_the_content_type() {
        let naming = Naming::new(b"secret");
        let scope = naming.scope(&[], &HeaderMap::new());
        let mut headers = HeaderMap::new();
        headers.append("x-long", "x".repeat(HEADER_BYTES_MAX).parse().unwrap());
        headers.append(header::CONTENT_TYPE, "text/event-stream".parse().unwrap());
        let note = Note::new(StatusCode::OK, &headers, scope, "/v1/*", "f".into());
        assert_eq!(note.content_type(), Some("text/event-stream"));
        assert_eq!(note.head().headers.len(), 1);
    }
}
