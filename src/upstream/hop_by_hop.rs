//! Headers that are between two neighbours and not passed on: RFC 9110, section 7.6.1.

use crate::protocol::list::elements;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};

/// Those that are never passed on, besides `Transfer-Encoding`, `Upgrade` and `TE`.
const ALWAYS: [HeaderName; 4] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
];

/// What a client cannot have taken out by naming it in `Connection`: it says where a request goes,
/// how long it is, or where it is from.
const PROTECTED: [&str; 7] = [
    "host",
    "content-length",
    "content-type",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Takes out of a request the headers that are between neighbours. Its body is sent anew.
pub fn strip_request(head: &mut RequestHeader) {
    let trailers = accepts_trailers(&head.headers);
    for name in nominated(&head.headers) {
        head.remove_header(&name);
    }
    for name in ALWAYS {
        head.remove_header(&name);
    }
    for name in [header::TRANSFER_ENCODING, header::UPGRADE, header::TE] {
        head.remove_header(&name);
    }
    if trailers {
        let _ = head.insert_header(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes them out of an answer whose body is sent anew.
pub(super) fn strip_response(head: &mut ResponseHeader) {
    strip_passed_response(head);
    for name in [header::TRANSFER_ENCODING, header::UPGRADE, header::TRAILER] {
        head.remove_header(&name);
    }
}

/// Takes them out of an answer, except those that say how its body is passed on.
pub(super) fn strip_passed_response(head: &mut ResponseHeader) {
    for name in nominated(&head.headers) {
        if name != header::UPGRADE && name != header::TRANSFER_ENCODING {
            head.remove_header(&name);
        }
    }
    for name in ALWAYS {
        head.remove_header(&name);
    }
    if head.status != StatusCode::UPGRADE_REQUIRED {
        head.remove_header(&header::UPGRADE);
    }
    measure_once(head);
}

/// Has an answer say at most once how long its body is, and not at all where it has none (RFC 9110,
/// section 8.6). HTTP/2 takes anything else for a broken answer.
fn measure_once(head: &mut ResponseHeader) {
    let lengths = head.headers.get_all(header::CONTENT_LENGTH);
    let length = lengths.iter().next().cloned();
    let is_several = lengths.iter().count() > 1;
    if head.status == StatusCode::NO_CONTENT {
        head.remove_header(&header::CONTENT_LENGTH);
    } else if let Some(length) = length.filter(|_| is_several) {
        // They agree: an answer with other lengths is none.
        let _ = head.insert_header(header::CONTENT_LENGTH, length);
    }
}

/// The headers that `Connection` names.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    elements(headers, &header::CONNECTION)
        .filter_map(|name| name.parse::<HeaderName>().ok())
        .filter(|name| !PROTECTED.contains(&name.as_str()))
        .collect()
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    elements(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn what_is_between_neighbours_is_taken_out() {
        let mut head = request(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("proxy-authorization", "Basic eA=="),
            ("transfer-encoding", "chunked"),
            ("te", "trailers, deflate"),
            ("upgrade", "h2c"),
            ("x-public", "2"),
        ]);
        strip_request(&mut head);
        let left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-public", "te"]);
        assert_eq!(head.headers["te"], "trailers");
    }

    fn lengths(status: u16, lengths: &[&str]) -> Vec<HeaderValue> {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for length in lengths {
            head.append_header(header::CONTENT_LENGTH, *length).unwrap();
        }
        strip_passed_response(&mut head);
        let left = head.headers.get_all(header::CONTENT_LENGTH);
        left.iter().cloned().collect()
    }

    #[test]
    fn an_answer_says_at_most_once_how_long_it_is() {
        assert_eq!(lengths(200, &["5"]), ["5"]);
        assert_eq!(lengths(200, &["5", "5"]), ["5"]);
        assert_eq!(lengths(304, &["7", "7"]), ["7"]);
        assert!(lengths(204, &["0"]).is_empty());
        assert!(lengths(200, &[]).is_empty());
    }

    #[test]
    fn a_client_cannot_take_out_what_says_where_it_is_from() {
        let mut head = request(&[
            ("connection", "Host, X-Forwarded-For"),
            ("host", "a"),
            ("x-forwarded-for", "1.2.3.4"),
        ]);
        strip_request(&mut head);
        assert_eq!(head.headers.len(), 2);
    }
}
