//! Outcomes to replies: status and headers. Bodies are described elsewhere.

use super::browsers::Browsers;
use super::coding::coded_etag;
use super::names;
use super::sse::Encoding;
use crate::types::{
    Coding, Lifetime, Offset, Position, Retention, StreamEnd, StreamMeta, StreamPath, UnixMs,
};
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The first part of a reply.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// What it says besides.
    pub browsers: Browsers,
}

const TRUE: HeaderValue = HeaderValue::from_static("true");
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("accept-encoding");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

const METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";
const REQUEST_HEADERS: &str = "Content-Type, Authorization, If-None-Match, Stream-Seq, Stream-TTL, \
    Stream-Expires-At, Stream-Retention, Stream-Closed, Stream-Forked-From, Stream-Fork-Offset, \
    Stream-Fork-Sub-Offset, Stream-SSE-Data-Encoding, Producer-Id, Producer-Epoch, Producer-Seq";

/// Room for the headers of all replies, with those that the gateway adds.
const HEADERS_EXPECTED: usize = 24;
/// Room for a few.
const HEADERS_FEW: usize = 6;

impl Head {
    /// A reply; `cors` lets pages of any origin read it.
    pub fn new(status: StatusCode, cors: bool) -> Self {
        Self::with_room(status, cors, HEADERS_EXPECTED)
    }

    /// A reply of a few headers.
    pub fn lean(status: StatusCode, cors: bool) -> Self {
        Self::with_room(status, cors, HEADERS_FEW)
    }

    fn with_room(status: StatusCode, cors: bool, headers: usize) -> Self {
        Self {
            status,
            headers: HeaderMap::with_capacity(headers),
            browsers: Browsers::new(cors),
        }
    }

    /// The answer to OPTIONS: what a browser asks before it sends something unusual.
    pub fn preflight(cors: bool) -> Self {
        let mut head = Self::new(StatusCode::NO_CONTENT, cors);
        head.set(header::ALLOW, HeaderValue::from_static(METHODS));
        if cors {
            let methods = HeaderValue::from_static(METHODS);
            head.set(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let allowed = HeaderValue::from_static(REQUEST_HEADERS);
            head.set(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
            let seconds = HeaderValue::from_static("86400");
            head.set(header::ACCESS_CONTROL_MAX_AGE, seconds);
        }
        head
    }

    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Sets a header to text that was made for it.
    pub fn set_string(&mut self, name: HeaderName, text: String) {
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
            self.headers.insert(name, value);
        }
    }

    /// Sets a header whose text is made from numbers, or was a header before.
    pub fn set_text(&mut self, name: HeaderName, text: &str) {
        if let Ok(value) = HeaderValue::from_str(text) {
            self.headers.insert(name, value);
        }
    }

    pub fn set_number(&mut self, name: HeaderName, number: u64) {
        self.headers.insert(name, HeaderValue::from(number));
    }

    pub fn set_next_offset(&mut self, position: Position) {
        self.set_text(
            names::STREAM_NEXT_OFFSET,
            Offset(position).to_text().as_str(),
        );
    }

    /// Where the stream begins, if not at the beginning.
    pub fn set_earliest_offset(&mut self, earliest: Position) {
        if earliest > 0 {
            self.set_text(
                names::STREAM_EARLIEST_OFFSET,
                Offset(earliest).to_text().as_str(),
            );
        }
    }

    /// That nothing will follow, and why, if the stream says so.
    pub fn set_closed(&mut self, closed: bool, end: Option<&StreamEnd>) {
        if !closed {
            return;
        }
        self.set(names::STREAM_CLOSED, TRUE);
        if let Some(end) = end {
            let outcome = HeaderValue::from_static(end.outcome.as_str());
            self.set(names::STREAM_END, outcome);
            if let Some(reason) = &end.reason {
                self.set_text(names::STREAM_END_REASON, reason);
            }
        }
    }

    pub fn set_up_to_date(&mut self, up_to_date: bool) {
        if up_to_date {
            self.set(names::STREAM_UP_TO_DATE, TRUE);
        }
    }

    /// How the body is compressed, and the entity tag of the answer in that form; `etag` is that of
    /// the answer as it is.
    pub fn set_coding(&mut self, coding: Option<Coding>, etag: String) {
        match coding {
            None => self.set_string(header::ETAG, etag),
            Some(coding) => {
                self.set_string(header::ETAG, coded_etag(&etag, coding));
                let name = HeaderValue::from_static(coding.as_str());
                self.set(header::CONTENT_ENCODING, name);
            }
        }
    }

    /// Whether the answer depends on what codings the client accepts.
    pub fn set_vary(&mut self, compressible: bool) {
        if compressible {
            self.set(header::VARY, ACCEPT_ENCODING);
        }
    }

    pub fn set_no_store(&mut self) {
        self.set(header::CACHE_CONTROL, NO_STORE);
    }

    /// `Stream-TTL` or `Stream-Expires-At`, if the stream has one.
    pub fn set_lifetime(&mut self, lifetime: Lifetime) {
        match lifetime {
            Lifetime::Unlimited => {}
            Lifetime::Ttl { seconds } => self.set_number(names::STREAM_TTL, seconds),
            Lifetime::Until { at_ms } => {
                self.set_text(names::STREAM_EXPIRES_AT, &rfc3339(at_ms));
            }
        }
    }

    /// `Stream-Retention`, if not everything is kept.
    pub fn set_retention(&mut self, retention: Retention) {
        let bytes = retention.bytes.map(|bytes| format!("bytes={bytes}"));
        let age = retention.age_ms.map(|ms| format!("age={}", ms / 1000));
        if !retention.is_unlimited() {
            let parts: Vec<String> = bytes.into_iter().chain(age).collect();
            self.set_string(names::STREAM_RETENTION, parts.join(", "));
        }
    }

    /// The tag by which a cache finds all answers of a stream.
    pub fn set_cache_tag(&mut self, path: &StreamPath) {
        self.set_string(names::CACHE_TAG, cache_tag(path));
    }
}

/// Everything that cannot be part of a cache tag as it is.
const NOT_IN_TAGS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'/');

/// `stream:namespace/path`, percent-encoded but for `/`.
pub fn cache_tag(path: &StreamPath) -> String {
    let mut tag = String::with_capacity("stream:/".len() + path.key().len());
    tag.push_str("stream:");
    tag.extend(utf8_percent_encode(path.namespace(), NOT_IN_TAGS));
    tag.push('/');
    tag.extend(utf8_percent_encode(path.path(), NOT_IN_TAGS));
    tag
}

fn rfc3339(at_ms: UnixMs) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        .unwrap_or_default()
}

/// The entity tag of an answer: the name of the database and the stream's own number in it, so that
/// a stream that was created again differs, also in a database that was begun anew; the range; and
/// what the answer says of the end.
pub fn etag(
    database: &str,
    meta: &StreamMeta,
    from: Position,
    to: Position,
    end: EndState,
) -> String {
    let mut tag = String::with_capacity(ETAG_BYTES_EXPECTED);
    tag.push('"');
    push_stream_id(&mut tag, database, meta);
    tag.push(':');
    for (number, separator) in [(from, ':'), (to, '"')] {
        push_number(&mut tag, number);
        tag.push(separator);
    }
    let letter = match end {
        EndState::More => return tag,
        EndState::UpToDate => ":t\"",
        EndState::Closed => ":c\"",
    };
    tag.pop();
    tag.push_str(letter);
    tag
}

/// What tells a stream from all others that are or were anywhere: the first two parts of its tags.
pub fn stream_id(database: &str, meta: &StreamMeta) -> String {
    let mut id = String::with_capacity(ETAG_BYTES_EXPECTED);
    push_stream_id(&mut id, database, meta);
    id
}

fn push_stream_id(text: &mut String, database: &str, meta: &StreamMeta) {
    text.push_str(database);
    text.push(':');
    push_number(text, meta.id);
}

const ETAG_BYTES_EXPECTED: usize = 56;

/// Decimal digits, without the machinery of formatting: this is done for every read.
fn push_number(text: &mut String, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.push_str(std::str::from_utf8(&digits[begin..]).unwrap_or_default());
}

/// What follows an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    More,
    /// Nothing yet: the stream is open.
    UpToDate,
    /// Nothing ever.
    Closed,
}

/// Whether an `If-None-Match` names this tag (RFC 9110, section 13.1.2).
pub fn matches_etag(if_none_match: &str, etag: &str) -> bool {
    if_none_match.split(',').any(|candidate| {
        let candidate = candidate.trim();
        candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == etag
    })
}

/// The headers of an answer that is an event stream.
pub fn set_sse(head: &mut Head, encoding: Encoding) {
    head.set(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    head.set(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx collect an answer before they pass it on, unless told so.
    head.set(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    if encoding == Encoding::Base64 {
        head.set(
            names::STREAM_SSE_DATA_ENCODING,
            HeaderValue::from_static("base64"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Kind, Outcome};

    #[test]
    fn etags_tell_what_follows() {
        let meta = StreamMeta {
            id: 10_007,
            content_type: "text/plain".into(),
            kind: Kind::Text,
            lifetime: Lifetime::Unlimited,
            retention: Retention::default(),
            retention_by_route: false,
            created_ms: 0,
            fork: None,
            note: None,
        };
        let tag = |from, to, end| etag("0a1b2c3d", &meta, from, to, end);
        assert_eq!(tag(0, 120, EndState::More), "\"0a1b2c3d:10007:0:120\"");
        let up_to_date = tag(0, 120, EndState::UpToDate);
        assert_eq!(up_to_date, "\"0a1b2c3d:10007:0:120:t\"");
        assert_eq!(
            tag(5, u64::MAX, EndState::Closed),
            format!("\"0a1b2c3d:10007:5:{}:c\"", u64::MAX)
        );
    }

    #[test]
    fn a_retention_is_told_as_it_was_asked() {
        let told = |bytes, age_ms| {
            let mut head = Head::lean(StatusCode::OK, false);
            head.set_retention(Retention { bytes, age_ms });
            let value = head.headers.get(names::STREAM_RETENTION);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told(None, None), None);
        assert_eq!(told(Some(5), None).unwrap(), "bytes=5");
        assert_eq!(told(None, Some(7000)).unwrap(), "age=7");
        assert_eq!(told(Some(5), Some(7000)).unwrap(), "bytes=5, age=7");
    }

    #[test]
    fn an_end_is_told_with_the_closing_alone() {
        let told = |closed, end: Option<&StreamEnd>| {
            let mut head = Head::lean(StatusCode::OK, false);
            head.set_closed(closed, end);
            [
                names::STREAM_CLOSED,
                names::STREAM_END,
                names::STREAM_END_REASON,
            ]
            .map(|name| {
                let value = head.headers.get(name);
                value.map_or("", |value| value.to_str().unwrap()).to_owned()
            })
        };
        let end = StreamEnd::new(Outcome::Failed, Some("upstream timeout"));
        assert_eq!(told(false, Some(&end)), ["", "", ""]);
        assert_eq!(told(true, None), ["true", "", ""]);
        assert_eq!(
            told(true, Some(&end)),
            ["true", "failed", "upstream timeout"]
        );
        let end = StreamEnd::new(Outcome::Completed, None);
        assert_eq!(told(true, Some(&end)), ["true", "completed", ""]);
    }

    #[test]
    fn tags_are_one_token() {
        let tag = cache_tag(&StreamPath::new("default", "a b/c,é"));
        assert_eq!(tag, "stream:default/a%20b/c%2C%C3%A9");
    }

    #[test]
    fn times_are_written_as_browsers_do() {
        assert_eq!(rfc3339(1_000), "1970-01-01T00:00:01.000Z");
    }
}
