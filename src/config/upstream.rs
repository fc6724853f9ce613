//! Upstreams: where requests are passed on to, and how.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secrets::{REDACTED, announced};
use crate::units::{self, DurationText, SizeText};

/// Makes the settings of a route that passes requests on to upstreams, with further settings of its
/// own. Serde could flatten the common ones into it, but then no longer refuse unknown keys.
macro_rules! upstream_settings {
    ($(#[$about:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The upstreams: `http://` or `https://`, a host, and a port if it is not the usual
            /// one; or `unix:` and the path of a socket. `{ url = "…", weight = 2 }` gives one a
            /// larger share.
            #[schemars(length(min = 1))]
            pub upstreams: Vec<$crate::config::Upstream>,

            /// Which upstream gets a request.
            #[serde(default)]
            pub balance: $crate::config::Balance,

            /// What is hashed, with `balance = "hash"`: `path`, `client` (its address), or
            /// `header:` and the name of a request header.
            #[serde(default)]
            #[schemars(with = "String")]
            pub hash_by: $crate::config::HashBy,

            /// How upstreams are checked, so that one that is down is left out. Without it, none is.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(with = "crate::config::HealthCheck")]
            pub health_check: Option<$crate::config::HealthCheck>,

            /// How often a request is tried again after an upstream failed: any request when no
            /// connection came about; later only one of a method that may be repeated, as long as
            /// nothing of the answer came.
            #[serde(default = "crate::config::upstream::retries")]
            #[schemars(range(max = 16))]
            pub retries: usize,

            /// How long an upstream may take.
            #[serde(default)]
            pub timeouts: $crate::config::Timeouts,

            /// The version of HTTP that upstreams are spoken to.
            #[serde(default)]
            pub http: $crate::config::HttpVersion,

            /// How `https://` upstreams are verified.
            #[serde(default)]
            pub tls: $crate::config::UpstreamTls,

            /// What is taken from the beginning of the path before it is sent, such as `/api`.
            #[serde(default, skip_serializing_if = "String::is_empty")]
            pub strip_prefix: String,

            /// How the path is rewritten, after `strip_prefix`: by the first of these that matches.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub rewrite: Vec<$crate::config::Rewrite>,

            /// What is put before the path, after `strip_prefix` and `rewrite`.
            #[serde(default, skip_serializing_if = "String::is_empty")]
            pub add_prefix: String,

            /// Whether the upstream sees the `Host` that the client sent, in place of its own name.
            #[serde(default)]
            pub preserve_host: bool,

            /// What is changed in the headers of a request before it is sent.
            #[serde(default)]
            pub request_headers: $crate::config::HeaderRules,

            /// What is changed in the headers of an answer before it is passed on.
            #[serde(default)]
            pub response_headers: $crate::config::HeaderRules,

            /// By which headers an upstream is told who the client is.
            #[serde(default)]
            pub forwarded: $crate::config::Forwarded,

            /// The proxies before this one, as addresses or networks such as `10.0.0.0/8`. What
            /// they say of the client is believed and passed on; what anybody else says is
            /// replaced. A client at a Unix socket is one of them.
            #[serde(
                default,
                serialize_with = "crate::config::upstream::write_networks",
                deserialize_with = "crate::config::upstream::read_networks"
            )]
            #[schemars(with = "Vec<String>")]
            pub trusted_proxies: Vec<ipnet::IpNet>,

            $($own)*
        }
    };
}

pub(super) use upstream_settings;

upstream_settings! {
    /// Passes requests on to upstreams.
    pub struct ReverseProxy {
        /// The largest request body. A larger one is answered with 413. `0`: any; bodies are passed
        /// on as they come and take no memory here.
        #[serde(default, with = "units::size")]
        #[schemars(with = "SizeText")]
        pub body_bytes_max: u64,
    }
}

/// Which upstream gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastConnections,
    /// The same one for the same `hash_by`; few move when an upstream is added or is down.
    Hash,
}

/// What is hashed to find the upstream of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum HashBy {
    /// The path of the request.
    #[default]
    Path,
    /// The address of the client.
    Client,
    /// A header of the request.
    Header(http::HeaderName),
}

impl TryFrom<String> for HashBy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "path" => Ok(Self::Path),
            "client" => Ok(Self::Client),
            _ => text
                .strip_prefix("header:")
                .and_then(|name| name.parse().ok())
                .map(Self::Header)
                .ok_or_else(|| {
                    format!("`{text}` cannot be hashed; write path, client, or header:Name")
                }),
        }
    }
}

impl From<HashBy> for String {
    fn from(by: HashBy) -> Self {
        match by {
            HashBy::Path => "path".to_owned(),
            HashBy::Client => "client".to_owned(),
            HashBy::Header(name) => format!("header:{name}"),
        }
    }
}

/// How upstreams are checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// The path of a GET that a healthy upstream answers with a status of 200 to 399. Without it,
    /// a connection is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub path: Option<String>,

    /// How often each upstream is checked.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,

    /// The longest wait for the answer to a check.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,

    /// How many checks in a row must succeed before an upstream that was down is used again.
    #[schemars(range(min = 1))]
    pub healthy_after: usize,

    /// How many checks in a row must fail before an upstream is left out.
    #[schemars(range(min = 1))]
    pub unhealthy_after: usize,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_after: 2,
            unhealthy_after: 2,
        }
    }
}

/// How long an upstream may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// The longest wait for a connection, the TLS handshake included.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub connect: Duration,

    /// The longest silence before an answer and within it. `0`: any. What a `record` or `proxy`
    /// route records has `headers_timeout` and `inactivity_timeout` in its place.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub read: Duration,

    /// The longest wait for an upstream to take more of a request. `0`: any.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub write: Duration,

    /// The longest silence of both ends once a connection was upgraded, such as to WebSocket.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub upgraded: Duration,

    /// How long a connection without a request is kept for the next one. It should be shorter than
    /// the upstream keeps it.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_mins(1),
            write: Duration::from_mins(1),
            upgraded: Duration::from_hours(1),
            idle: Duration::from_mins(1),
        }
    }
}

/// The version of HTTP that upstreams are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "1.1")]
    Http1,
    /// HTTP/2, without TLS too. Upgrades such as WebSocket go by HTTP/1.1 all the same.
    #[serde(rename = "2")]
    Http2,
    /// With TLS, HTTP/2 where the upstream speaks it; else HTTP/1.1.
    #[serde(rename = "auto")]
    Auto,
}

/// How `https://` upstreams are verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// Whether certificates are verified. Without it anybody on the way can read and change what is
    /// sent.
    pub verify: bool,

    /// The PEM file of the authorities that are trusted, in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub ca: Option<PathBuf>,

    /// The name that the certificate must have, in place of the host of the upstream's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub server_name: Option<String>,

    /// The certificate by which this server shows upstreams who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "super::Certificate")]
    pub client: Option<super::Certificate>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self {
            verify: true,
            ca: None,
            server_name: None,
            client: None,
        }
    }
}

/// How a path is rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// A regular expression that is looked for in the path, without the query. `^` and `$` are its
    /// beginning and end.
    #[serde(rename = "match")]
    pub pattern: String,

    /// What comes in place of the part that it matches. `$1` is what its first group matches.
    pub to: String,
}

/// What is changed in headers: first `remove`, then `set`, then `add`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderRules {
    /// Headers with the one value that they shall have.
    #[serde(serialize_with = "without_secrets")]
    pub set: BTreeMap<String, String>,

    /// Headers with a value that they shall have besides others.
    #[serde(serialize_with = "without_secrets")]
    pub add: BTreeMap<String, String>,

    /// The names of headers that are taken out.
    pub remove: Vec<String>,
}

/// What the configuration shows of headers: not the values of those that are named as secrets are.
fn without_secrets<S: Serializer>(
    headers: &BTreeMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| {
        let shown = announced(name).map_or(value.as_str(), |_| REDACTED);
        (name, shown)
    }))
}

/// By which headers an upstream is told who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded`, of RFC 7239.
    Standard,
    /// All of them.
    Both,
    /// None: what a client says of itself is taken out too.
    Off,
}

pub(super) fn retries() -> usize {
    1
}

pub(super) fn read_networks<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: &String| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| address()).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is no address and no network; write one such as 10.0.0.0/8 or ::1"
            ))
        })
    };
    texts.iter().map(network).collect()
}

pub(super) fn write_networks<S: Serializer>(
    networks: &[IpNet],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(networks.iter().map(ToString::to_string))
}
