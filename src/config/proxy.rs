//! The Durable Streams proxy protocol.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record;
use super::{HttpVersion, Secret, UpstreamTls, UrlPattern};
use crate::units::{self, DurationText, SizeText};

/// Serves the Durable Streams proxy protocol: clients name the upstream, from a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The secret by which a service proves that it may create, look at and delete recordings, as
    /// `Authorization: Bearer` or `?secret=`. The URLs of recordings are signed with a key made from
    /// it. At least 16 bytes.
    pub secret: Secret,

    /// Secrets that were in use before, and are still accepted, as are URLs that were signed with
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_secrets: Vec<Secret>,

    /// The upstream URLs that may be asked for, as patterns: `https://api.example.com/v1/**`. Scheme,
    /// host and port are literal; `*` stands for any scheme, any port, any host or the beginning of
    /// one (`*.example.com`), and within the path for part of a segment; `**` for any part of the
    /// path. The query does not count. A host that is named without `*` may be at a private address;
    /// all others must be public.
    pub allow: Vec<UrlPattern>,

    /// The namespace of the recordings. A `streams` route with the same namespace serves them to
    /// whoever knows their names. `proxy` routes with different secrets need different ones.
    #[serde(default = "namespace")]
    pub namespace: String,

    /// How long a recording is kept after it was last read or written.
    #[serde(default = "record::ttl", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub ttl: Duration,

    /// How long the URL of a recording is valid.
    #[serde(default = "record::ttl", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub url_ttl: Duration,

    /// The scheme and host of a recording's URL, such as `https://proxy.example.com`, where another
    /// proxy stands before this one. Without it, they are taken from the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub base_url: Option<String>,

    /// Whether pages of any origin may use this route from a browser.
    #[serde(default = "cors")]
    pub cors: bool,

    /// The version of HTTP that upstreams are spoken to.
    #[serde(default = "http")]
    pub http: HttpVersion,

    /// How `https://` upstreams are verified.
    #[serde(default)]
    pub tls: UpstreamTls,

    /// The longest wait for a connection to an upstream: to find its address, to connect, and for the
    /// TLS handshake.
    #[serde(default = "connect_timeout", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,

    /// The longest wait for the head of an upstream's answer, after which the request is answered
    /// with 504. The body of an upstream's error, which is passed on, is waited for as long again.
    #[serde(default = "record::headers_timeout", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub headers_timeout: Duration,

    /// How long an upstream may be silent within its answer before the recording ends as failed.
    #[serde(default = "record::inactivity_timeout", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub inactivity_timeout: Duration,

    /// The longest time that a recording may take. `0`: any.
    #[serde(default = "record::total_timeout", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub total_timeout: Duration,

    /// The most bytes that a recording takes of its upstream.
    #[serde(default = "record::recording_bytes_max", with = "units::size")]
    #[schemars(with = "SizeText")]
    pub recording_bytes_max: u64,

    /// The most bytes that are passed on of the body of an upstream's error. The rest is left out; of a
    /// longer one that is compressed, all.
    #[serde(default = "error_bytes_max", with = "units::size")]
    #[schemars(with = "SizeText")]
    pub error_bytes_max: u64,
}

fn namespace() -> String {
    "proxied".to_owned()
}

fn cors() -> bool {
    true
}

fn http() -> HttpVersion {
    HttpVersion::Auto
}

fn connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn error_bytes_max() -> u64 {
    64 << 10
}
