//! Streams that have their home elsewhere: the settings of an edge.

use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::upstream::{read_networks, write_networks};
use super::{
    Balance, Forwarded, HashBy, HeaderRules, HealthCheck, HttpVersion, ReverseProxy, Timeouts,
    Upstream, UpstreamTls,
};
use crate::units::{self, DurationText};

/// The origins whose streams a route serves as an edge. Any server of the Durable Streams protocol
/// can be one. They serve the streams under the same paths as this route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The origins: `http://` or `https://`, a host, and a port if it is not the usual one; or
    /// `unix:` and the path of a socket. With several, each stream has its home at one of them, by a
    /// hash of its path; `{ url = "…", weight = 2 }` gives one a larger share. A stream is never
    /// asked for at another: while its home is away, it is away.
    #[schemars(length(min = 1))]
    pub upstreams: Vec<Upstream>,

    /// How many segments of a stream's path, from the first on, say where its home is: streams that
    /// have them in common have the same home, as forks and their sources must. Without it, the
    /// whole path does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1))]
    pub shard_by: Option<usize>,

    /// How long the connection that follows a stream outlives the last of its live readers.
    #[serde(default = "linger", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub linger: Duration,

    /// Whether whoever may use this route may read all its streams, so that answers are shared by
    /// all, whatever their credentials. Without it, answers are shared by requests with the same
    /// credentials, or with none, and what the origin calls private by requests with the same
    /// credentials alone.
    #[serde(default)]
    pub shared: bool,

    /// The headers of a request that say who the caller is: all by which the origin decides what a
    /// caller may read.
    #[serde(default = "credentials")]
    pub credentials: Vec<String>,

    /// The name of this edge in `Via`, by which it notices requests that go in a circle. Each edge
    /// needs a name of its own. Without it, a random one is made at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    pub name: Option<String>,

    /// How origins are checked, so that requests for one that is down are answered at once. Without
    /// it, none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HealthCheck")]
    pub health_check: Option<HealthCheck>,

    /// How long an origin may take. `read` must be longer than it lets a long-poll wait.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// The version of HTTP that origins are spoken to.
    #[serde(default)]
    pub http: HttpVersion,

    /// How `https://` origins are verified.
    #[serde(default)]
    pub tls: UpstreamTls,

    /// Whether the origin sees the `Host` that the client sent, in place of its own name.
    #[serde(default)]
    pub preserve_host: bool,

    /// What is changed in the headers of a request before it is sent.
    #[serde(default)]
    pub request_headers: HeaderRules,

    /// What is changed in the headers of an origin's answer before it is used.
    #[serde(default)]
    pub response_headers: HeaderRules,

    /// By which headers an origin is told who the client is.
    #[serde(default)]
    pub forwarded: Forwarded,

    /// The proxies before this edge, as addresses or networks such as `10.0.0.0/8`. What they say of
    /// the client is believed and passed on; what anybody else says is replaced. A client at a Unix
    /// socket is one of them.
    #[serde(
        default,
        serialize_with = "write_networks",
        deserialize_with = "read_networks"
    )]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
}

/// How often a request is tried at the addresses of its one origin, besides the first time: a name
/// may have several of which one is listened at.
const RETRIES: usize = 3;

impl Origin {
    /// What passes requests on to one of the origins.
    pub fn reverse_proxy(&self, upstream: &Upstream) -> ReverseProxy {
        self.with(vec![upstream.clone()])
    }

    /// All of the origins with what they have in common, for checking it.
    pub(super) fn together(&self) -> ReverseProxy {
        self.with(self.upstreams.clone())
    }

    fn with(&self, upstreams: Vec<Upstream>) -> ReverseProxy {
        ReverseProxy {
            upstreams,
            balance: Balance::RoundRobin,
            hash_by: HashBy::Path,
            health_check: self.health_check.clone(),
            retries: RETRIES,
            timeouts: self.timeouts.clone(),
            http: self.http,
            tls: self.tls.clone(),
            strip_prefix: String::new(),
            rewrite: Vec::new(),
            add_prefix: String::new(),
            preserve_host: self.preserve_host,
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
            forwarded: self.forwarded,
            trusted_proxies: self.trusted_proxies.clone(),
            body_bytes_max: 0,
        }
    }
}

fn linger() -> Duration {
    Duration::from_secs(30)
}

/// The headers by which callers are told apart, unless others are named.
pub(super) fn credentials() -> Vec<String> {
    let names = ["Authorization", "Cookie", "X-Api-Key", "Api-Key"];
    names.map(str::to_owned).into()
}
