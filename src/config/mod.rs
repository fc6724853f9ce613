//! The configuration: its types, what each setting means, and the defaults.
//!
//! The doc comments of the fields are also the descriptions in `conf/headwater.schema.json` and in
//! the reference of `docs/configuration.md`, so they speak to the person who writes the file.

mod cache;
mod check;
mod check_recordings;
mod check_sites;
mod check_upstreams;
mod compression;
mod de;
mod environment;
mod listen;
mod load;
mod logging;
mod origin;
mod problem;
mod proxy;
mod record;
mod retention;
mod route;
pub mod schema;
mod secret;
mod suggest;
mod tree;
mod upstream;
mod upstream_url;
mod url_pattern;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use crate::limits::Limits;
pub use cache::CacheConfig;
pub use compression::Compression;
pub use environment::{Environment, OVERRIDE_PREFIX};
pub use listen::{Listen, ListenError};
pub use load::{AdminFlag, DevFlags};
pub use logging::{Levels, LogFormat, Logging, WrongLevel};
pub use origin::Origin;
pub use problem::{ConfigError, Place, Problem, Problems};
pub use proxy::Proxy;
pub use record::{OnDisconnect, Record};
pub use retention::Retention;
pub use route::{Route, RouteKind};
pub use secret::{Secret, TooShort};
pub use upstream::{
    Balance, Forwarded, HashBy, HeaderRules, HealthCheck, HttpVersion, ReverseProxy, Rewrite,
    Timeouts, UpstreamTls,
};
pub use upstream_url::{Upstream, UpstreamUrl, UpstreamUrlError};
pub use url_pattern::{UrlPattern, UrlPatternError};

use crate::units::{self, DurationText, SizeText};

/// Everything that Headwater can be told. A relative path anywhere in it starts at the directory in
/// which the server is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Configuration of Headwater")]
pub struct Config {
    /// The directory of the database. It is created when it is missing; one server at a time can
    /// have it open.
    pub data_dir: PathBuf,

    /// Where health, readiness and metrics are answered. Without it they are not. Keep it away from
    /// the public: it asks for no authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Listen")]
    pub admin: Option<Listen>,

    /// The number of threads that serve requests. Without it, one for each core.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1))]
    pub threads: Option<usize>,

    /// How long a stop may take: appends in flight finish, live readers are ended, the database is
    /// closed. What remains after that is cut off.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub shutdown_timeout: Duration,

    /// How the log keeps streams on disk and in memory.
    pub log: LogConfig,

    /// What an edge keeps of the answers of origins.
    pub cache: CacheConfig,

    /// What clients may take.
    pub limits: Limits,

    /// What the server writes about itself, on standard error.
    pub logging: Logging,

    /// Where to listen, and what to serve there.
    pub site: Vec<Site>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            admin: None,
            threads: None,
            shutdown_timeout: Duration::from_secs(10),
            log: LogConfig::default(),
            cache: CacheConfig::default(),
            limits: Limits::default(),
            logging: Logging::default(),
            site: Vec::new(),
        }
    }
}

impl Config {
    /// Whether there is a route whose streams have their home elsewhere.
    pub fn has_origins(&self) -> bool {
        let mut routes = self.site.iter().flat_map(|site| &site.route);
        routes.any(
            |route| matches!(&route.kind, RouteKind::Streams(streams) if streams.origin.is_some()),
        )
    }

    /// Whether there is a route on which each request is one to an upstream as well.
    pub fn has_upstreams(&self) -> bool {
        let mut routes = self.site.iter().flat_map(|site| &site.route);
        routes.any(|route| !matches!(route.kind, RouteKind::Streams(_)))
    }
}

/// How the log keeps streams on disk and in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// What an acknowledged append survives.
    pub durability: Durability,

    /// How large a piece of a stream is when it is packed. A packed piece never changes, and one
    /// catch-up answer carries at most one.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub segment_bytes: u64,

    /// The most bytes that wait to be written to disk. Appends beyond it wait for room.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub queue_bytes_max: u64,

    /// The most operations that wait to be written to disk. Further ones wait for room.
    #[schemars(range(min = 1))]
    pub queue_ops_max: usize,

    /// The memory for answers to catch-up reads that were already made once.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub cache_bytes: u64,

    /// The memory for the latest messages of the streams in use, from which live readers are
    /// answered. As much again is for those of the streams that are followed at their origins.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub hot_bytes_max: u64,

    /// The most streams whose state is kept in memory. The others are loaded when they are used.
    #[schemars(range(min = 1))]
    pub streams_in_memory_max: usize,

    /// The memory for blocks that were read from the database.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub block_cache_bytes: u64,

    /// How much the database gathers in memory before it writes a sorted file. The same data is
    /// already safe in its write-ahead log.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub memtable_bytes: u64,

    /// How often streams whose time is over are removed from the disk. For clients they are gone on
    /// time, whatever this says.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub expiry_interval: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            segment_bytes: 4 << 20,
            queue_bytes_max: 64 << 20,
            queue_ops_max: 65_536,
            cache_bytes: 256 << 20,
            hot_bytes_max: 128 << 20,
            streams_in_memory_max: 100_000,
            block_cache_bytes: 32 << 20,
            memtable_bytes: 16 << 20,
            expiry_interval: Duration::from_secs(1),
        }
    }
}

/// The part of the memory for answers that segments have from which bodies are not made whole: live
/// readers and those that begin inside them read these.
const SEGMENTS_PART: u64 = 4;

impl LogConfig {
    /// The memory for segments that were read.
    pub fn segments_bytes(&self) -> u64 {
        self.cache_bytes / SEGMENTS_PART
    }

    /// The memory for bodies that were made.
    pub fn bodies_bytes(&self) -> u64 {
        self.cache_bytes - self.segments_bytes()
    }
}

/// What an acknowledged append survives.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// A loss of power: it is synced to disk before it is acknowledged.
    #[default]
    Sync,
    /// A crash of the server, but not of the machine: it is with the operating system.
    Os,
}

/// Some addresses and host names, and what is served there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The addresses to listen at. Two sites may share one when their hosts differ and both, or
    /// neither, use TLS.
    #[schemars(length(min = 1))]
    pub listen: Vec<Listen>,

    /// The host names that this site answers to, without a port; `*.example.com` is every name
    /// below `example.com`. None: any host. The more exact name wins where several sites share an
    /// address.
    #[serde(default, deserialize_with = "lower_case")]
    pub hosts: Vec<String>,

    /// How connections are encrypted. Without it they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tls")]
    pub tls: Option<Tls>,

    /// What is served under which path.
    #[schemars(length(min = 1))]
    pub route: Vec<Route>,
}

// Host names are compared without regard to case, so one spelling is kept.
fn lower_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let hosts = Vec::<String>::deserialize(deserializer)?;
    Ok(hosts.iter().map(|host| host.to_ascii_lowercase()).collect())
}

/// How connections are encrypted: TLS 1.2 and 1.3, with HTTP/2 and HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificates. The one whose names fit the host that the client asks for is used; the
    /// first, when none does.
    #[schemars(length(min = 1))]
    pub certificates: Vec<Certificate>,
}

/// One certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The PEM file of the certificate, followed by its intermediate certificates.
    pub cert: PathBuf,

    /// The PEM file of the private key.
    pub key: PathBuf,
}

/// Streams by the Durable Streams protocol: from this server's own log or, at an edge, from an origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// The origins whose streams these are. Without it, they are in this server's own log. With it,
    /// of the settings below only `long_poll_timeout`, `sse_recycle`, `sse_heartbeat`, `cors` and
    /// `base_url` mean something.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Origin")]
    pub origin: Option<Box<Origin>>,

    /// Which streams these are. Routes with the same namespace serve the same streams; in another
    /// namespace, the same path is another stream.
    #[schemars(regex(pattern = r"^([A-Za-z0-9_-]{1,64})$"))]
    pub namespace: String,

    /// How much of a stream is kept while it lives, unless its creator says otherwise by
    /// `Stream-Retention`. Without it, all of it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Retention")]
    pub retention: Option<Retention>,

    /// How long a long-poll waits for data before it is answered with 204.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub long_poll_timeout: Duration,

    /// After how long an SSE connection is ended, so that its reader comes back and caches between
    /// can join readers. At least 2s: clients take shorter connections for a failure.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub sse_recycle: Duration,

    /// How often an SSE connection without data gets a comment, so that nothing between takes it
    /// for dead. `0`: never.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub sse_heartbeat: Duration,

    /// Who may keep copies of answers.
    pub cache: CacheScope,

    /// How long a copy of an answer that can never change may be kept.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub cache_max_age: Duration,

    /// How long a copy of an answer that ends at the end of an open stream may be kept.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub tail_max_age: Duration,

    /// For how much longer a cache may answer with such a copy while it asks again.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub stale_while_revalidate: Duration,

    /// How answers that never change are compressed.
    pub compression: Box<Compression>,

    /// Whether pages of any origin may use these streams from a browser.
    pub cors: bool,

    /// The scheme and host as clients see them, such as `https://streams.example.com`, where
    /// another proxy stands before this one. Without it, they are taken from the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub base_url: Option<String>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            origin: None,
            namespace: "default".to_owned(),
            retention: None,
            long_poll_timeout: Duration::from_secs(30),
            sse_recycle: Duration::from_mins(1),
            sse_heartbeat: Duration::from_secs(15),
            cache: CacheScope::Public,
            cache_max_age: Duration::from_hours(365 * 24),
            tail_max_age: Duration::from_mins(1),
            stale_while_revalidate: Duration::from_mins(5),
            compression: Box::default(),
            cors: true,
            base_url: None,
        }
    }
}

/// Who may keep copies of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheScope {
    /// Any cache, such as a CDN, for all its users.
    #[default]
    Public,
    /// Only the client's own cache.
    Private,
}
