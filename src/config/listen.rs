//! The address of a listener, as it is written in the configuration.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where to listen: `127.0.0.1:4437`, `[::]:443`, or `unix:/run/headwater.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    /// An IP address and a port; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Why a text is not an address to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Nothing follows `unix:`.
    #[error("`unix:` has no path after it; write one such as unix:/run/headwater.sock")]
    NoSocketPath,
    /// The text has a port but no IP address before it.
    #[error(
        "`{0}` has no IP address; write 0.0.0.0:{1} for every interface, or 127.0.0.1:{1} for this machine only"
    )]
    NoHost(String, u16),
    /// The text has an IP address but no port.
    #[error("`{0}` has no port; write an address such as {1}")]
    NoPort(String, SocketAddr),
    /// The text names a host; which of its addresses is meant is not known.
    #[error(
        "`{0}` is not an IP address with a port; write one such as 127.0.0.1:4437, or unix:/run/headwater.sock"
    )]
    NotAnAddress(String),
}

impl Listen {
    /// The permissions of a Unix socket: whoever may connect is believed what it says of clients.
    pub const SOCKET_MODE: u32 = 0o660;
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(ListenError::NoSocketPath),
                _ => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let port = text.strip_prefix('*').unwrap_or(text);
        if let Ok(port) = port.strip_prefix(':').unwrap_or(port).parse() {
            return Err(ListenError::NoHost(text.to_owned(), port));
        }
        let host = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse() {
            return Err(ListenError::NoPort(
                text.to_owned(),
                SocketAddr::new(ip, 4437),
            ));
        }
        Err(ListenError::NotAnAddress(text.to_owned()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where to listen: an IP address with a port, such as \"127.0.0.1:4437\" or \"[::]:443\", or a Unix socket, such as \"unix:/run/headwater.sock\".",
            "type": "string",
            "pattern": "^(.+:[0-9]{1,5}|unix:.+)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "127.0.0.1:4437",
            "[::]:443",
            "0.0.0.0:0",
            "unix:/run/headwater.sock",
            "unix:relative.sock",
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.to_string(), text);
        }
    }

    #[test]
    fn a_refusal_says_what_to_write() {
        for (text, hint) in [
            ("4437", "0.0.0.0:4437"),
            (":4437", "127.0.0.1:4437"),
            ("127.0.0.1", "127.0.0.1:4437"),
            ("::1", "[::1]:4437"),
            ("localhost:4437", "127.0.0.1:4437"),
            ("unix:", "unix:/run/headwater.sock"),
            ("127.0.0.1:99999", "127.0.0.1:4437"),
        ] {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
