//! Recording upstreams.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::origin::credentials;
use super::upstream::upstream_settings;
use super::{Retention, ReverseProxy};
use crate::units::{self, DurationText, SizeText};

upstream_settings! {
    /// Passes requests on to upstreams, and records answers that stream.
    pub struct Record {
        /// The content types of answers that are recorded. Any other answer passes through.
        #[serde(default = "content_types")]
        pub content_types: Vec<String>,

        /// What becomes of a recording that nobody reads.
        #[serde(default)]
        pub on_disconnect: OnDisconnect,

        /// How long nobody may be reading before a recording is cancelled, with `on_disconnect =
        /// "grace"`.
        #[serde(default = "grace", with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub grace: Duration,

        /// Whether events without an `id` get one, by which a browser's `EventSource` goes on after the
        /// last event it saw.
        #[serde(default)]
        pub event_ids: bool,

        /// The name of a recording's stream; `{id}` is what makes it unique and unguessable.
        #[serde(default = "name")]
        pub name: String,

        /// The namespace of the recordings. A `streams` route with the same namespace serves them to
        /// whoever knows their names. Routes of several sites that have the same path need different
        /// ones, unless all their settings are the same.
        #[serde(default = "namespace")]
        pub namespace: String,

        /// How long a recording is kept after it was last read or written.
        #[serde(default = "ttl", with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub ttl: Duration,

        /// How long a `Stream-Url` is valid.
        #[serde(default = "ttl", with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub url_ttl: Duration,

        /// The path below which the streams of recordings are read.
        #[serde(default = "url_path")]
        pub url_path: String,

        /// The scheme and host of a `Stream-Url`, such as `https://api.example.com`, where another proxy
        /// stands before this one. Without it, they are taken from the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "String")]
        pub base_url: Option<String>,

        /// The request header that names a request, so that the same one again attaches to its
        /// recording.
        #[serde(default = "idempotency_header")]
        pub idempotency_header: String,

        /// The request headers that tell callers apart: nobody attaches to a recording of somebody else.
        #[serde(default = "credentials")]
        pub credentials: Vec<String>,

        /// How often a client gets a comment while the upstream is silent, so that nothing between takes
        /// the connection for dead. `0`: never.
        #[serde(default, with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub heartbeat: Duration,

        /// The longest wait for the head of an upstream's answer, after which the request is answered
        /// with 504.
        #[serde(default = "headers_timeout", with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub headers_timeout: Duration,

        /// How long an upstream may be silent within its answer before the recording ends as failed.
        #[serde(default = "inactivity_timeout", with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub inactivity_timeout: Duration,

        /// The longest time that a recording may take. `0`: any.
        #[serde(default = "total_timeout", with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub total_timeout: Duration,

        /// Whether GET requests are for a feed that says the same to everybody: its upstream is
        /// called once, without the credentials of any client, however many clients there are, and
        /// called again when it drops.
        #[serde(default)]
        pub share: bool,

        /// How long nobody may be reading before the upstream of a shared feed is left.
        #[serde(default = "idle_stop", with = "units::duration")]
        #[schemars(with = "DurationText")]
        pub idle_stop: Duration,

        /// Whether the feed at this path, which must be exact, is recorded from the start of the
        /// server on, whether somebody reads it or not.
        #[serde(default)]
        pub always: bool,

        /// How much is kept of the stream of a shared feed: 64 MiB and 24 h, unless this says
        /// something; then it is all that bounds it.
        #[serde(default = "retention")]
        pub retention: Retention,

        /// The most bytes that a recording takes of its upstream. The ids that `event_ids` adds do
        /// not count.
        #[serde(default = "recording_bytes_max", with = "units::size")]
        #[schemars(with = "SizeText")]
        pub recording_bytes_max: u64,

        /// The most recordings that one caller may have running at one time. Further requests are
        /// answered with 429.
        #[serde(default = "recordings_per_caller_max")]
        #[schemars(range(min = 1))]
        pub recordings_per_caller_max: usize,
    }
}

impl Record {
    /// How its requests are passed on, as a route that records nothing would do it.
    pub fn reverse_proxy(&self) -> ReverseProxy {
        let all = self.clone();
        ReverseProxy {
            upstreams: all.upstreams,
            balance: all.balance,
            hash_by: all.hash_by,
            health_check: all.health_check,
            retries: all.retries,
            timeouts: all.timeouts,
            http: all.http,
            tls: all.tls,
            strip_prefix: all.strip_prefix,
            rewrite: all.rewrite,
            add_prefix: all.add_prefix,
            preserve_host: all.preserve_host,
            request_headers: all.request_headers,
            response_headers: all.response_headers,
            forwarded: all.forwarded,
            trusted_proxies: all.trusted_proxies,
            body_bytes_max: 0,
        }
    }
}

/// What becomes of a recording that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// It goes on to its end.
    #[default]
    Continue,
    /// The upstream call is ended at once.
    Cancel,
    /// The upstream call is ended when nobody has been reading for the time `grace`.
    Grace,
}

fn content_types() -> Vec<String> {
    vec!["text/event-stream".to_owned()]
}

fn grace() -> Duration {
    Duration::from_secs(30)
}

fn name() -> String {
    "{id}".to_owned()
}

fn namespace() -> String {
    "recordings".to_owned()
}

pub(super) fn ttl() -> Duration {
    Duration::from_hours(24)
}

fn url_path() -> String {
    "/_recordings".to_owned()
}

fn idempotency_header() -> String {
    "Idempotency-Key".to_owned()
}

fn idle_stop() -> Duration {
    Duration::from_mins(1)
}

fn retention() -> Retention {
    Retention {
        bytes: Some(64 << 20),
        age: Some(Duration::from_hours(24)),
    }
}

pub(super) fn headers_timeout() -> Duration {
    Duration::from_mins(1)
}

pub(super) fn inactivity_timeout() -> Duration {
    Duration::from_mins(10)
}

pub(super) fn total_timeout() -> Duration {
    Duration::from_hours(1)
}

pub(super) fn recording_bytes_max() -> u64 {
    256 << 20
}

fn recordings_per_caller_max() -> usize {
    100
}
