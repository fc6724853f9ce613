//! Patterns of URLs, as they are written in the configuration.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::{Host, Url};

/// Why a text is not a pattern.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlPatternError {
    #[error("`{0}` does not begin with http://, https:// or *://")]
    Scheme(String),
    #[error("`{0}` names a user, a query or a fragment, which patterns do not have")]
    Extra(String),
    #[error("`{0}` has no host that can be")]
    Host(String),
    #[error("the port of `{0}` is neither a number nor *")]
    Port(String),
}

/// A pattern of URLs: `scheme://host[:port][/path]`. What it says, a URL must have; a `*` leaves it
/// open:
///
/// | part | literal | with wildcards |
/// | --- | --- | --- |
/// | scheme | `http`, `https` | `*`: either |
/// | host | a name or an address | `*.example.com`: every name below it; `*`: any; `api-*.example.com`: within a label |
/// | port | none: the scheme's own | `*`: any |
/// | path | none: any path | `*`: within a segment; `**`: anything; `/v1/**` is `/v1` too |
///
/// The query of a URL does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct UrlPattern {
    text: String,
    /// `None`: either.
    scheme: Option<String>,
    host: HostPattern,
    port: PortPattern,
    /// `None`: any.
    path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Any,
    Named(Host),
    /// Every name below this one, which begins with a dot.
    Below(String),
    Glob(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PortPattern {
    Any,
    /// The one that the scheme of the URL has without saying so.
    Usual,
    Number(u16),
}

impl UrlPattern {
    /// Whether a URL fits, which is one of `http` or `https`.
    pub fn fits(&self, url: &Url) -> bool {
        self.scheme
            .as_ref()
            .is_none_or(|scheme| scheme == url.scheme())
            && url.host().is_some_and(|host| self.host.fits(&host))
            && self.port.fits(url)
            && self
                .path
                .as_ref()
                .is_none_or(|path| path_fits(path, url.path()))
    }

    /// Whether the host is given without a wildcard.
    pub fn names_host(&self) -> bool {
        matches!(self.host, HostPattern::Named(_))
    }
}

impl FromStr for UrlPattern {
    type Err = UrlPatternError;

    fn from_str(text: &str) -> Result<Self, UrlPatternError> {
        let is = |error: fn(String) -> UrlPatternError| error(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or(is(UrlPatternError::Scheme))?;
        let scheme = match scheme {
            "http" | "https" => Some(scheme.to_owned()),
            "*" => None,
            _ => return Err(is(UrlPatternError::Scheme)),
        };
        if rest.contains(['@', '?', '#', '\\']) {
            return Err(is(UrlPatternError::Extra));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], Some(rest[slash..].to_owned())),
            None => (rest, None),
        };
        let (host, port) = match authority.rsplit_once(':') {
            // A colon within brackets is part of an IPv6 address.
            Some((host, port)) if !port.ends_with(']') => {
                let port = PortPattern::parse(port).ok_or(is(UrlPatternError::Port))?;
                (host, port)
            }
            _ => (authority, PortPattern::Usual),
        };
        Ok(Self {
            text: text.to_owned(),
            scheme,
            host: HostPattern::parse(host).ok_or(is(UrlPatternError::Host))?,
            port,
            path,
        })
    }
}

impl TryFrom<String> for UrlPattern {
    type Error = UrlPatternError;

    fn try_from(text: String) -> Result<Self, UrlPatternError> {
        text.parse()
    }
}

impl From<UrlPattern> for String {
    fn from(pattern: UrlPattern) -> Self {
        pattern.text
    }
}

impl PortPattern {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Self::Any),
            _ => text.parse().ok().map(Self::Number),
        }
    }

    fn fits(&self, url: &Url) -> bool {
        match self {
            Self::Any => true,
            // A URL in its normal form leaves the usual port out.
            Self::Usual => url.port().is_none(),
            Self::Number(port) => url.port_or_known_default() == Some(*port),
        }
    }
}

impl HostPattern {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        Some(match Host::parse(text).ok()? {
            Host::Domain(name) if name.contains('*') => match name.strip_prefix('*') {
                Some(below) if below.starts_with('.') && !below.contains('*') => {
                    Self::Below(below.to_owned())
                }
                _ => Self::Glob(name),
            },
            host => Self::Named(host),
        })
    }

    fn fits(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Named(named), host) => named == host,
            (Self::Below(below), Host::Domain(name)) => {
                name.len() > below.len() && name.ends_with(below.as_str())
            }
            (Self::Glob(glob), Host::Domain(name)) => {
                glob_fits(glob.as_bytes(), name.as_bytes(), b'.')
            }
            (Self::Below(_) | Self::Glob(_), _) => false,
        }
    }
}

fn path_fits(pattern: &str, path: &str) -> bool {
    let is_prefix = pattern
        .strip_suffix("/**")
        .is_some_and(|above| glob_fits(above.as_bytes(), path.as_bytes(), b'/'));
    is_prefix || glob_fits(pattern.as_bytes(), path.as_bytes(), b'/')
}

/// Whether `text` fits `pattern`, in which `**` is anything, and `*` anything without `separator`.
fn glob_fits(pattern: &[u8], text: &[u8], separator: u8) -> bool {
    // `ends[n]`: whether what has been read of the pattern fits the first n bytes of the text. It takes
    // as many steps as the one is long times the other, whatever they hold.
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    let mut rest = pattern;
    while let [first, ..] = rest {
        let stars = rest.iter().take_while(|&&byte| byte == b'*').count();
        if stars > 0 {
            for n in 0..text.len() {
                ends[n + 1] |= ends[n] && (stars > 1 || text[n] != separator);
            }
        } else {
            for n in (0..text.len()).rev() {
                ends[n + 1] = ends[n] && text[n] == *first;
            }
            ends[0] = false;
        }
        rest = &rest[stars.max(1)..];
    }
    ends[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_patterns_are_refused() {
        let refused = |pattern: &str| pattern.parse::<UrlPattern>().unwrap_err();
        for pattern in ["", "api.example.com", "ftp://h", "HTTP://h", "http:/h"] {
            assert_eq!(
                refused(pattern),
                UrlPatternError::Scheme(pattern.to_owned())
            );
        }
        for pattern in ["http://a@h", "http://h/?a", "http://h#a"] {
            assert_eq!(refused(pattern), UrlPatternError::Extra(pattern.to_owned()));
        }
        for pattern in ["http://h:", "http://h:x", "http://h:70000", "http://h:+1x"] {
            assert_eq!(refused(pattern), UrlPatternError::Port(pattern.to_owned()));
        }
        for pattern in [
            "http://",
            "http:///a",
            "http://a b",
            "http://[::1",
            "http://1.2.3.256",
        ] {
            let error = refused(pattern);
            assert!(
                matches!(error, UrlPatternError::Host(_) | UrlPatternError::Port(_)),
                "{pattern}: {error:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_their_definition(pattern in "[ab/*]{0,8}", text in "[ab/]{0,8}") {
            fn fits(pattern: &[u8], text: &[u8]) -> bool {
                let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
                match (pattern.split_first(), stars) {
                    (None, _) => text.is_empty(),
                    (Some((first, rest)), 0) => {
                        text.split_first().is_some_and(|(byte, text)| byte == first && fits(rest, text))
                    }
                    (_, stars) => (0..=text.len()).any(|n| {
                        (stars > 1 || !text[..n].contains(&b'/')) && fits(&pattern[stars..], &text[n..])
                    }),
                }
            }
            prop_assert_eq!(
                glob_fits(pattern.as_bytes(), text.as_bytes(), b'/'),
                fits(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
