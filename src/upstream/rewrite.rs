//! What is changed in a request before it is sent to an upstream, and in its answer.

use http::{HeaderName, HeaderValue, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::error::UpstreamError;
use crate::config::{HeaderRules, ReverseProxy};

/// The path rules of a route.
pub(super) struct Paths {
    strip: String,
    add: String,
}

impl Paths {
    pub(super) fn new(settings: &ReverseProxy) -> Self {
        let without_slash = |text: &str| text.trim_end_matches('/').to_owned();
        Self {
            strip: without_slash(&settings.strip_prefix),
            add: without_slash(&settings.add_prefix),
        }
    }

    /// Writes the target as the upstream is to see it: the path and query alone, without the scheme
    /// and host that a client may send.
    pub(super) fn apply(&self, head: &mut RequestHeader) {
        let raw = head.raw_path();
        if raw == b"*" {
            return;
        }
        let origin_form = raw.starts_with(b"/");
        let target = match head.uri.path_and_query() {
            _ if origin_form => raw,
            Some(target) => target.as_str().as_bytes(),
            None => b"/",
        };
        let changed = self.changed(target);
        if !origin_form || changed != target {
            let _ = head.set_raw_path(&changed);
        }
    }

    fn changed(&self, target: &[u8]) -> Vec<u8> {
        let whole = |rest: &&[u8]| matches!(rest.first(), None | Some(b'/' | b'?'));
        let rest = target.strip_prefix(self.strip.as_bytes()).filter(whole);
        let rest = rest.unwrap_or(target);
        let slash: &[u8] = if rest.starts_with(b"/") { b"" } else { b"/" };
        [self.add.as_bytes(), slash, rest].concat()
    }
}

/// The header rules of a route, in the form in which they are applied.
pub(super) struct Headers {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Headers {
    pub(super) fn new(rules: &HeaderRules) -> Result<Self, UpstreamError> {
        let name = |text: &String| {
            text.parse()
                .map_err(|_| UpstreamError::Header(text.clone()))
        };
        let header = |(text, value): (&String, &String)| {
            let value = HeaderValue::from_str(value);
            let value = value.map_err(|_| UpstreamError::Header(text.clone()))?;
            Ok((name(text)?, value))
        };
        Ok(Self {
            remove: rules.remove.iter().map(name).collect::<Result<_, _>>()?,
            set: rules.set.iter().map(header).collect::<Result<_, _>>()?,
            add: rules.add.iter().map(header).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn apply_to_request(&self, head: &mut RequestHeader) {
        for name in &self.remove {
            head.remove_header(name);
        }
        for (name, value) in &self.set {
            let _ = head.insert_header(name, value);
        }
        for (name, value) in &self.add {
            let _ = head.append_header(name, value);
        }
    }

    pub(super) fn apply_to_response(&self, head: &mut ResponseHeader) {
        for name in &self.remove {
            head.remove_header(name);
        }
        for (name, value) in &self.set {
            let _ = head.insert_header(name, value);
        }
        for (name, value) in &self.add {
            let _ = head.append_header(name, value);
        }
    }
}

/// The host that a client asks for.
pub(super) fn host(head: &RequestHeader) -> Option<HeaderValue> {
    let host = head.headers.get(header::HOST).cloned();
    host.or_else(|| HeaderValue::from_str(head.uri.authority()?.as_str()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(strip: &str, add: &str, target: &str) -> String {
        let paths = Paths {
            strip: strip.to_owned(),
            add: add.to_owned(),
        };
        let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        paths.apply(&mut head);
        String::from_utf8(head.raw_path().to_vec()).unwrap()
    }

    #[test]
    fn paths_are_changed() {
        for (strip, add, from, to) in [
            ("", "", "/a?b", "/a?b"),
            ("/api", "", "/api/a?b", "/a?b"),
            ("/api", "", "/api", "/"),
            ("/api", "", "/api?b", "/?b"),
            ("/api", "", "/apis", "/apis"),
            ("/api", "/v2", "/api/a", "/v2/a"),
            ("", "/v2", "/a", "/v2/a"),
            ("/api", "/v2", "/api?b=/api", "/v2/?b=/api"),
            ("", "", "http://example.com/a?b", "/a?b"),
            ("", "", "http://example.com", "/"),
            ("", "/v2", "*", "*"),
        ] {
            assert_eq!(changed(strip, add, from), to, "{strip} {add} {from}");
        }
    }
}
