//! What a client asks of a stream at an edge, as far as an edge needs to know it.
//!
//! What is not understood here goes to the origin as it is, which says what is wrong with it.

use std::borrow::Cow;

use http::header;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use pingora::http::RequestHeader;
use std::sync::Arc;

use super::cache::Scope;
use crate::protocol::names;
use crate::protocol::request::{Mode, is_base64};
use crate::upstream::ClientFacts;

/// A read.
pub struct Asked {
    /// How it waits; `None`: it is not clear, and the origin's to say.
    pub(super) mode: Option<Mode>,
    /// Where it begins: an offset, `-1` or `now`.
    pub(super) offset: Arc<str>,
    /// The `cursor` parameter, if it is one of ours.
    pub(super) cursor: Option<u64>,
    pub(super) if_none_match: Option<String>,
    /// Whether events are to carry exact bytes.
    pub(super) base64: bool,
    pub(super) subject: Subject,
}

/// What is read, and by whom: readers for whom it is the same share one subscription.
#[derive(Clone)]
pub(super) struct Subject {
    /// The place of the stream's home among the origins of the route.
    pub(super) home: usize,
    /// The name under which what is known of the stream is kept.
    pub(super) key: Arc<str>,
    /// The path as it is decoded, by which the stream is known whoever writes it how.
    pub(super) stream: Arc<str>,
    /// What else decides about an answer beside the offset: what tells apart the route, the path as
    /// it was written, and the parameters that are not the protocol's, in order.
    pub(super) variant: Variant,
    pub(super) scope: Scope,
    /// The request, for asking the origin in the caller's name.
    pub(super) head: Arc<RequestHeader>,
    pub(super) client: ClientFacts,
}

/// What decides about an answer beside the stream, the offset and the caller.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    /// What tells the route's requests from those of others at the same origin.
    pub(super) route: Arc<str>,
    pub(super) path: Arc<str>,
    /// `name=value` each, sorted.
    pub(super) parameters: Arc<str>,
}

/// What tells those who ask for a stream in one way from those who do in another.
pub(super) type Who = (Variant, Scope);

/// Where a stream begins: what a read without an offset means.
pub(super) const START: &str = "-1";

/// What stays as it is in the value of a parameter.
const IN_VALUES: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The parameters of a read.
pub(super) struct Parameters {
    pub(super) mode: Mode,
    pub(super) offset: Arc<str>,
    pub(super) cursor: Option<u64>,
    /// The others, sorted.
    pub(super) others: Arc<str>,
}

impl Parameters {
    /// Reads a query; `None` if it is not clear what it asks for.
    pub(super) fn read(query: &str) -> Option<Self> {
        let (mut offset, mut live, mut cursor) = (None, None, None);
        let mut others = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Whoever reads the query at the origin decodes names as well.
            let name = percent_decode_str(name).decode_utf8().ok()?;
            let place = match &*name {
                names::OFFSET => &mut offset,
                names::LIVE => &mut live,
                names::CURSOR => &mut cursor,
                _ => {
                    others.push(pair);
                    continue;
                }
            };
            let value = percent_decode_str(value).decode_utf8().ok()?;
            if place.replace(value).is_some() {
                return None;
            }
        }
        let mode = match live.as_deref() {
            None => Mode::CatchUp,
            Some("long-poll") => Mode::LongPoll,
            Some("sse") => Mode::Sse,
            Some(_) => return None,
        };
        if offset.as_deref() == Some("") || (mode != Mode::CatchUp && offset.is_none()) {
            return None;
        }
        others.sort_unstable();
        Some(Self {
            mode,
            offset: offset.as_deref().unwrap_or(START).into(),
            cursor: cursor.and_then(|cursor: Cow<'_, str>| cursor.parse().ok()),
            others: others.join("&").into(),
        })
    }
}

/// The name under which what is known of a stream is kept: its origin, the host that the origin is
/// told, if that decides, and its path. Only the path can have more than one line.
pub(super) fn stream_key(origin: &str, host: &str, path: &str) -> Arc<str> {
    format!("{origin}\n{host}\n{path}").into()
}

impl Asked {
    pub(super) fn new(parameters: Option<Parameters>, subject: Subject) -> Self {
        let headers = &subject.head.headers;
        let if_none_match = headers.get(header::IF_NONE_MATCH);
        let if_none_match = if_none_match.and_then(|value| value.to_str().ok());
        Self {
            mode: parameters.as_ref().map(|read| read.mode),
            cursor: parameters.as_ref().and_then(|read| read.cursor),
            offset: parameters.map_or_else(|| START.into(), |read| read.offset),
            if_none_match: if_none_match.map(str::to_owned),
            base64: is_base64(headers),
            subject,
        }
    }

    /// How it waits.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(Mode::CatchUp)
    }

    /// Where it begins.
    pub fn offset(&self) -> &str {
        &self.offset
    }
}

impl Subject {
    /// Who asks: for whom answers, and what is heard of the stream, are the same.
    pub(super) fn who(&self) -> Who {
        (self.variant.clone(), self.scope)
    }

    /// The name of its home.
    pub(super) fn origin(&self) -> &str {
        self.key.lines().next().unwrap_or_default()
    }

    /// Says it in the words of another reader for whom it is the same, so that one head of a request
    /// does for all of them.
    pub(super) fn adopt(&mut self, other: &Self) {
        // Another route may have the origins in another order.
        let home = self.home;
        *self = Self {
            home,
            ..other.clone()
        };
    }

    /// The path and query of a read from an offset, in one spelling. `live` are further parameters
    /// of the protocol, which come before `offset` in order.
    pub(super) fn target(&self, offset: &str, live: &[(&str, &str)]) -> String {
        let own = live.iter().copied().chain([(names::OFFSET, offset)]);
        let own: Vec<String> = own
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, IN_VALUES)))
            .collect();
        let others = self.variant.parameters.split('&');
        let mut all: Vec<&str> = others.filter(|pair| !pair.is_empty()).collect();
        all.extend(own.iter().map(String::as_str));
        all.sort_unstable();
        format!("{}?{}", self.variant.path, all.join("&"))
    }

    /// What the answer to a catch-up read is kept under, beside the stream and the caller.
    pub(super) fn range(&self, offset: &str) -> String {
        format!("{} {}", self.variant.route, self.target(offset, &[]))
    }
}

#[cfg(test)]
impl Subject {
    /// What tests ask for, with these parameters besides.
    pub(super) fn of_test(path: &str, parameters: &str) -> Self {
        Self {
            home: 0,
            key: stream_key("http://a", "", path),
            stream: path.into(),
            variant: Variant {
                route: "".into(),
                path: path.into(),
                parameters: parameters.into(),
            },
            scope: Scope::Anonymous,
            head: Arc::new(RequestHeader::build("GET", path.as_bytes(), None).unwrap()),
            client: ClientFacts {
                address: None,
                encrypted: false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Option<(Mode, String, Option<u64>, String)> {
        let read = Parameters::read(query)?;
        let offset = read.offset.to_string();
        Some((read.mode, offset, read.cursor, read.others.to_string()))
    }

    #[test]
    fn parameters_are_read() {
        for (query, expected) in [
            ("", (Mode::CatchUp, "-1", None, "")),
            ("offset=a%2Db", (Mode::CatchUp, "a-b", None, "")),
            (
                "z=1&live=sse&cursor=7&offset=now&a=2&&b",
                (Mode::Sse, "now", Some(7), "a=2&b&z=1"),
            ),
            (
                "live=long-poll&offset=-1&cursor=x",
                (Mode::LongPoll, "-1", None, ""),
            ),
            (
                "%6Cive=sse&o%66fset=5&%61=1",
                (Mode::Sse, "5", None, "%61=1"),
            ),
        ] {
            let (mode, offset, cursor, others) = expected;
            let expected = (mode, offset.to_owned(), cursor, others.to_owned());
            assert_eq!(read(query), Some(expected), "{query}");
        }
    }

    #[test]
    fn what_is_not_clear_is_for_the_origin() {
        for query in [
            "offset=1&offset=2",
            "offset=",
            "live=sse",
            "live=long-poll&offset=",
            "offset=1&live=other",
            "offset=1&live=sse&live=sse",
            "offset=%ff",
        ] {
            assert_eq!(read(query), None, "{query}");
        }
    }

    #[test]
    fn targets_have_one_spelling() {
        let subject = |others: &str| Subject::of_test("/s", others);
        assert_eq!(subject("").target("a/b", &[]), "/s?offset=a%2Fb");
        assert_eq!(
            subject("b=1&z=2").target("-1", &[("live", "sse")]),
            "/s?b=1&live=sse&offset=-1&z=2"
        );
    }
}
