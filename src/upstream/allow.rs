//! Which upstream URLs may be asked for: those that fit a list of patterns.
//!
//! URLs are read as browsers read them, so that one host or path has one form:
//! `HTTP://2130706433/a/../b` is `http://127.0.0.1/b`.

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use crate::config::UrlPattern;

/// Why a URL may not be asked for.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAllowed {
    #[error("it is not a URL: {0}")]
    Malformed(#[from] url::ParseError),
    #[error("its scheme is neither http nor https")]
    Scheme,
    #[error("it holds a user name or a password")]
    UserInfo,
    #[error("its host ends in a dot")]
    TrailingDot,
    #[error("its path climbs up by encoded dots or slashes")]
    Climbs,
    #[error("it fits no pattern")]
    NoPattern,
}

/// A URL that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// In its normal form, without the fragment.
    pub url: Url,
    /// Whether a pattern that it fits names its host without a wildcard: such a host may be a private
    /// one.
    pub is_host_named: bool,
}

/// The URLs that may be asked for. An empty list allows none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowlist(Vec<UrlPattern>);

impl Allowlist {
    pub fn new(patterns: Vec<UrlPattern>) -> Self {
        Self(patterns)
    }

    /// Whether a URL may be asked for. What is then asked for must be the URL that this returns, not
    /// the text: others might read that differently.
    pub fn check(&self, text: &str) -> Result<Allowed, NotAllowed> {
        let mut url = Url::parse(text)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(NotAllowed::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(NotAllowed::UserInfo);
        }
        if url.host_str().is_none_or(|host| host.ends_with('.')) {
            return Err(NotAllowed::TrailingDot);
        }
        if climbs(url.path()) {
            return Err(NotAllowed::Climbs);
        }
        url.set_fragment(None);
        let mut fitting = self.0.iter().filter(|p| p.fits(&url)).peekable();
        if fitting.peek().is_none() {
            return Err(NotAllowed::NoPattern);
        }
        let is_host_named = fitting.any(UrlPattern::names_host);
        Ok(Allowed { url, is_host_named })
    }
}

/// Whether a path leads elsewhere for those who decode it before they look at its segments. The plain
/// forms are already resolved when a URL is read.
fn climbs(path: &str) -> bool {
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| matches!(segment, b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(patterns: &[&str]) -> Allowlist {
        Allowlist::new(
            patterns
                .iter()
                .map(|pattern| pattern.parse().unwrap())
                .collect(),
        )
    }

    #[track_caller]
    fn fits(pattern: &str, urls: &[&str]) {
        for url in urls {
            let result = list(&[pattern]).check(url);
            assert!(result.is_ok(), "{url} should fit {pattern}: {result:?}");
        }
    }

    #[track_caller]
    fn fits_not(pattern: &str, urls: &[&str]) {
        for url in urls {
            let result = list(&[pattern]).check(url);
            assert_eq!(result, Err(NotAllowed::NoPattern), "{url} and {pattern}");
        }
    }

    #[test]
    fn nothing_is_allowed_without_a_pattern() {
        let result = list(&[]).check("https://api.example.com/");
        assert_eq!(result, Err(NotAllowed::NoPattern));
    }

    #[test]
    fn scheme_host_and_port_are_literal() {
        let pattern = "https://api.example.com/**";
        fits(
            pattern,
            &[
                "https://api.example.com",
                "https://api.example.com/v1/a?b=c#d",
                "https://api.example.com:443/v1",
                "HTTPS://API.EXAMPLE.COM/v1",
                "https://api%2Eexample.com/",
                "https:\\\\api.example.com\\v1",
            ],
        );
        fits_not(
            pattern,
            &[
                "http://api.example.com/",
                "http://api.example.com:443/",
                "https://api.example.com:8443/",
                "https://example.com/",
                "https://x.api.example.com/",
                "https://api.example.com.evil.com/",
                "https://evil.com/api.example.com/",
                "https://evil.com/?https://api.example.com/",
                "https://evil.com#@api.example.com/",
                "https://api-example.com/",
            ],
        );
    }

    #[test]
    fn ports_may_be_given_or_open() {
        fits(
            "http://localhost:*/**",
            &["http://localhost/", "http://localhost:9999/a"],
        );
        fits("http://h:8080", &["http://h:8080/a"]);
        fits_not(
            "http://h:8080",
            &["http://h/", "http://h:80/", "http://h:8081/"],
        );
        fits("https://h:443", &["https://h/", "https://h:443/"]);
        fits("https://h", &["https://h:443/"]);
        fits("*://h", &["https://h/", "http://h/", "http://h:80/"]);
        fits_not("*://h", &["http://h:443/", "https://h:80/"]);
    }

    #[test]
    fn hosts_may_have_wildcards() {
        let below = "https://*.example.com/**";
        fits(
            below,
            &["https://a.example.com/", "https://a.b.example.com/"],
        );
        fits_not(
            below,
            &[
                "https://example.com/",
                "https://evilexample.com/",
                "https://a.example.com.evil.com/",
            ],
        );
        fits(
            "https://api-*.example.com",
            &["https://api-eu.example.com/"],
        );
        fits_not(
            "https://api-*.example.com",
            &["https://api-eu.evil.example.com/"],
        );
        fits(
            "http://*",
            &["http://a.b/", "http://127.0.0.1/", "http://[::1]/"],
        );
        fits_not("http://*.com", &["http://127.0.0.1/"]);
    }

    #[test]
    fn addresses_have_one_form() {
        fits(
            "http://127.0.0.1/**",
            &[
                "http://127.0.0.1/",
                "http://2130706433/",
                "http://0x7f.1/",
                "http://0177.0.0.1/",
                "http://\u{ff11}27.0.0.1/",
            ],
        );
        fits("http://[::1]:3000/**", &["http://[0:0::0:1]:3000/"]);
        fits("http://[::ffff:7f00:1]", &["http://[::ffff:127.0.0.1]/"]);
        fits_not("http://127.0.0.1", &["http://[::ffff:127.0.0.1]/"]);
    }

    #[test]
    fn paths_are_globs() {
        fits(
            "https://h/v1/chat",
            &["https://h/v1/chat", "https://h/v1/x/../chat?a"],
        );
        fits_not(
            "https://h/v1/chat",
            &[
                "https://h/v1/chat/",
                "https://h/v1/Chat",
                "https://h/v1/chats",
            ],
        );
        fits(
            "https://h/v1/*",
            &["https://h/v1/messages", "https://h/v1/"],
        );
        fits_not(
            "https://h/v1/*",
            &["https://h/v1", "https://h/v1/a/b", "https://h/v2/a"],
        );
        fits(
            "https://h/v1/**",
            &["https://h/v1", "https://h/v1/", "https://h/v1/a/b"],
        );
        fits_not(
            "https://h/v1/**",
            &[
                "https://h/v10",
                "https://h/v1/../v2",
                "https://h/v1/%2e%2e/v2",
            ],
        );
        fits("https://h/*/runs/**/end", &["https://h/a/runs/b/c/end"]);
        fits_not("https://h/*/runs/**/end", &["https://h/a/b/runs/c/end"]);
        fits_not("https://h/", &["https://h/a"]);
    }

    #[test]
    fn tricks_are_refused_by_name() {
        let anything = list(&["*://*:*/**"]);
        let refused = |url: &str| anything.check(url).unwrap_err();
        for url in [
            "https://a@h/",
            "https://a:b@h/",
            "https://:b@h/",
            "https://h@evil.com/",
        ] {
            assert_eq!(refused(url), NotAllowed::UserInfo, "{url}");
        }
        for url in ["https://localhost./", "https://h../"] {
            assert_eq!(refused(url), NotAllowed::TrailingDot, "{url}");
        }
        for url in [
            "https://h/a/..%2fb",
            "https://h/a/%2e.%5cb",
            "https://h/a%2f..%2fb",
        ] {
            assert_eq!(refused(url), NotAllowed::Climbs, "{url}");
        }
        for url in ["ftp://h/", "file:///etc/passwd", "javascript:x", "ws://h/"] {
            assert_eq!(refused(url), NotAllowed::Scheme, "{url}");
        }
        for url in [
            "",
            "h",
            "/v1",
            "//h/",
            "https://",
            "http://h:99999/",
            "http://a b/",
            "http://256.1.1.1/",
        ] {
            let error = refused(url);
            assert!(
                matches!(error, NotAllowed::Malformed(_)),
                "{url}: {error:?}"
            );
        }
    }

    #[test]
    fn a_host_is_named_where_a_pattern_has_no_wildcard_there() {
        let list = list(&["http://*.example.com", "http://a.example.com/only"]);
        let is_named = |url: &str| list.check(url).unwrap().is_host_named;
        assert!(!is_named("http://a.example.com/"));
        assert!(!is_named("http://b.example.com/only"));
        assert!(is_named("http://a.example.com/only"));
    }

    #[test]
    fn the_url_to_ask_for_has_its_query_but_no_fragment() {
        let allowed = list(&["http://h"])
            .check("http://H:80/a/./b?c=%20d#e")
            .unwrap();
        assert_eq!(allowed.url.as_str(), "http://h/a/b?c=%20d");
    }

    proptest! {
        #[test]
        fn no_url_is_too_strange(url: String) {
            let _ = list(&["*://*:*/**"]).check(&url);
        }
    }
}
