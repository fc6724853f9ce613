//! What is changed in a request before it is sent to an upstream, and in its answer.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, header};
use memchr::memchr;
use pingora::http::{RequestHeader, ResponseHeader};
use regex::bytes::Regex;

use super::error::UpstreamError;
use crate::config::{HeaderRules, ReverseProxy, Rewrite};

/// The path rules of a route.
pub(super) struct Paths {
    strip: String,
    rewrite: Vec<(Regex, Vec<u8>)>,
    add: String,
}

impl Paths {
    pub(super) fn new(settings: &ReverseProxy) -> Result<Self, UpstreamError> {
        let without_slash = |text: &str| text.trim_end_matches('/').to_owned();
        let rule = |rule: &Rewrite| {
            let pattern = Regex::new(&rule.pattern);
            let pattern = pattern.map_err(|_| UpstreamError::Rewrite(rule.pattern.clone()))?;
            Ok((pattern, rule.to.clone().into_bytes()))
        };
        Ok(Self {
            strip: without_slash(&settings.strip_prefix),
            rewrite: settings
                .rewrite
                .iter()
                .map(rule)
                .collect::<Result<_, _>>()?,
            add: without_slash(&settings.add_prefix),
        })
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
        let (path, query) = rest.split_at(memchr(b'?', rest).unwrap_or(rest.len()));
        let path = self.rewritten(if path.is_empty() { b"/" } else { path });
        let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
        [self.add.as_bytes(), slash, &path, query].concat()
    }

    fn rewritten<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        let mut rules = self.rewrite.iter();
        let rule = rules.find(|(pattern, _)| pattern.is_match(path));
        rule.map_or(Cow::Borrowed(path), |(pattern, to)| {
            pattern.replace(path, to.as_slice())
        })
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

    fn changed(strip: &str, rules: &[(&str, &str)], add: &str, target: &str) -> String {
        let rule = |(pattern, to): &(&str, &str)| (Regex::new(pattern).unwrap(), (*to).into());
        let paths = Paths {
            strip: strip.to_owned(),
            rewrite: rules.iter().map(rule).collect(),
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
            assert_eq!(changed(strip, &[], add, from), to, "{strip} {add} {from}");
        }
    }

    #[test]
    fn paths_are_rewritten_by_the_first_rule_that_matches() {
        let rules = [
            ("^/users/([0-9]+)/posts$", "/posts/of/$1"),
            ("^/users/", "/people/"),
            ("/+", "/"),
            ("^/$", "home"),
        ];
        for (from, to) in [
            ("/api/users/7/posts?x=/users/1", "/v2/posts/of/7?x=/users/1"),
            ("/api/users/a/users/", "/v2/people/a/users/"),
            ("/api//a//b", "/v2/a//b"),
            ("/api/a%2Fb", "/v2/a%2Fb"),
            ("/api?q", "/v2/?q"),
        ] {
            assert_eq!(changed("/api", &rules, "/v2", from), to, "{from}");
        }
        assert_eq!(changed("/api", &rules[3..], "/v2", "/api?q"), "/v2/home?q");
    }
}
