//! The address of an upstream, as it is written in the configuration.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An upstream, and its share of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Where it is.
    pub url: UpstreamUrl,
    /// Its share, in proportion to those of the others.
    pub weight: usize,
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamUrl {
    /// A host and a port, with TLS or without.
    Tcp {
        /// Whether it is an `https://` one.
        tls: bool,
        /// A name or an IP address; one of version 6 without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket, without TLS.
    Unix(PathBuf),
}

/// Why a text is not an upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamUrlError {
    /// Nothing follows `unix:`.
    #[error("`unix:` has no path after it; write one such as unix:/run/app.sock")]
    NoSocketPath,
    /// It does not begin with `http://`, `https://` or `unix:`.
    #[error("`{0}` is no upstream; write one such as http://127.0.0.1:3000 or unix:/run/app.sock")]
    NotAnUpstream(String),
    /// There is a path or a query.
    #[error(
        "`{0}` has a path; write the scheme, host and port alone, and the path as `add_prefix`"
    )]
    Path(String),
    /// There is a user or a password. They are not shown.
    #[error("the upstream has a user in it; write it as `request_headers` with Authorization")]
    User,
}

impl FromStr for UpstreamUrl {
    type Err = UpstreamUrlError;

    fn from_str(text: &str) -> Result<Self, UpstreamUrlError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(UpstreamUrlError::NoSocketPath),
                _ => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        if text.contains('@') {
            return Err(UpstreamUrlError::User);
        }
        let other = || UpstreamUrlError::NotAnUpstream(text.to_owned());
        let url = url::Url::parse(text).map_err(|_| other())?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(other()),
        };
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(UpstreamUrlError::Path(text.to_owned()));
        }
        let host = url.host_str().ok_or_else(other)?;
        Ok(Self::Tcp {
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().ok_or_else(other)?,
        })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { tls, .. } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{}", self.authority())
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl UpstreamUrl {
    /// The host and the port, the latter where it is not the usual one, as `Host` has them.
    pub fn authority(&self) -> String {
        let Self::Tcp { tls, host, port } = self else {
            return "localhost".to_owned();
        };
        let usual = if *tls { 443 } else { 80 };
        match (host.contains(':'), *port == usual) {
            (false, true) => host.clone(),
            (false, false) => format!("{host}:{port}"),
            (true, true) => format!("[{host}]"),
            (true, false) => format!("[{host}]:{port}"),
        }
    }
}

impl<'de> Deserialize<'de> for UpstreamUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for UpstreamUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The form of an upstream as a table.
#[derive(Deserialize)]
#[serde(rename = "Upstream", deny_unknown_fields)]
struct Weighted {
    url: UpstreamUrl,
    #[serde(default = "one")]
    weight: usize,
}

fn one() -> usize {
    1
}

struct UpstreamVisitor;

impl<'de> Visitor<'de> for UpstreamVisitor {
    type Value = Upstream;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an upstream, such as \"http://127.0.0.1:3000\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Upstream, E> {
        let url = text.parse().map_err(E::custom)?;
        Ok(Upstream { url, weight: 1 })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Upstream, A::Error> {
        let Weighted { url, weight } = Weighted::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Upstream { url, weight })
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UpstreamVisitor)
    }
}

impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.weight == 1 {
            return self.url.serialize(serializer);
        }
        let mut table = serializer.serialize_struct("Upstream", 2)?;
        table.serialize_field("url", &self.url)?;
        table.serialize_field("weight", &self.weight)?;
        table.end()
    }
}

impl JsonSchema for Upstream {
    fn schema_name() -> Cow<'static, str> {
        "Upstream".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = "^(https?://|unix:).+$";
        json_schema!({
            "description": "An upstream: its URL, or a table with its URL and weight.",
            "anyOf": [
                { "type": "string", "pattern": pattern },
                {
                    "type": "object",
                    "properties": {
                        "url": {
                            "type": "string",
                            "pattern": pattern,
                            "description": "Where it is.",
                        },
                        "weight": {
                            "type": "integer",
                            "minimum": 1,
                            "default": 1,
                            "description": "Its share, in proportion to those of the others.",
                        },
                    },
                    "required": ["url"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, authority) in [
            ("http://127.0.0.1:3000", "127.0.0.1:3000"),
            ("http://example.com", "example.com"),
            ("https://example.com", "example.com"),
            ("https://example.com:8443", "example.com:8443"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("https://[::1]", "[::1]"),
            ("unix:/run/app.sock", "localhost"),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
            assert_eq!(url.authority(), authority);
        }
        let with_slash: UpstreamUrl = "http://example.com/".parse().unwrap();
        assert_eq!(with_slash.to_string(), "http://example.com");
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        use UpstreamUrlError as E;
        let error = |text: &str| text.parse::<UpstreamUrl>().unwrap_err();
        assert!(matches!(error("unix:"), E::NoSocketPath));
        assert!(matches!(error("127.0.0.1:80"), E::NotAnUpstream(_)));
        assert!(matches!(error("ftp://a"), E::NotAnUpstream(_)));
        assert!(matches!(error("http://"), E::NotAnUpstream(_)));
        assert!(matches!(error("http://a/b"), E::Path(_)));
        assert!(matches!(error("http://a?b"), E::Path(_)));
        assert!(!error("http://me:secret@a").to_string().contains("secret"));
    }
}
