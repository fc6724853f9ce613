//! Every cap on what clients can make the server hold or wait for, in one place.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText, SizeText};

/// What one client, or all of them together, may take. A request beyond a limit is refused with a
/// clear error; none of these grows with the number of streams that exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest request body. A larger one is drained and answered with 413.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub body_bytes_max: u64,

    /// The most memory that all request bodies being received may take together. Beyond it a new
    /// body waits for room, and is answered with 503 when none comes within `queue_wait`. When it has
    /// waited for half of that, bodies that come slowly for what they hold give way, the slowest
    /// first: they are answered with 503.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub bodies_in_flight_bytes_max: u64,

    /// The most memory that all answers being sent may take together, beside what is kept for many
    /// (`log.cache_bytes`): pieces of long answers, and appends of more than 64 KiB to live readers.
    /// Beyond it an answer waits for room, for `write_timeout` at the most and not at all if it is one
    /// append of more than 256 KiB; then it is answered with 503 or, if it has begun, broken off.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub answers_in_flight_bytes_max: u64,

    /// The longest path of a request. A longer one is answered with 414.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub path_bytes_max: usize,

    /// The most that the headers of one request may take. More is answered with 431, and so are more
    /// than 256 headers. A head that has not ended after that and `path_bytes_max` is read no farther;
    /// but behind a request that was passed on unrecorded, on the same connection, up to 1 MiB is.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub header_bytes_max: usize,

    /// The most idempotent producers that one stream remembers. A further one is refused, because
    /// forgetting an old one could let a retry in twice.
    #[schemars(range(min = 1))]
    pub producers_per_stream_max: usize,

    /// The most streams that a fork inherits data from: its source, the source of that, and so on. A
    /// fork of one that is already as deep is answered with 409. Each of them takes some ten bytes of
    /// the fork's row, which is written again and again.
    #[schemars(range(min = 1))]
    pub fork_depth_max: usize,

    /// The most client connections at one time. Further ones are closed at once. Where the limit of
    /// open files (`ulimit -n`) does not allow as many, there are fewer, and a warning at the start
    /// says how many.
    #[schemars(range(min = 1))]
    pub connections_max: usize,

    /// The most connections from one IP address, or from one network of IPv6 (64 bits), at one time.
    /// Further ones are closed at once. Not set, there is no such limit: behind a load balancer all
    /// connections come from its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1))]
    pub connections_per_address_max: Option<usize>,

    /// The most live readers (long-poll and SSE) at one time. Further ones are answered with 503
    /// and `Retry-After`.
    #[schemars(range(min = 1))]
    pub live_readers_max: usize,

    /// The most recordings of upstreams that run at one time. Further requests are answered with 503
    /// and `Retry-After`.
    #[schemars(range(min = 1))]
    pub recordings_max: usize,

    /// The most streams that are followed at their origins at one time, for live readers at edge
    /// routes. A live reader of a further one is answered with 503 and `Retry-After`.
    #[schemars(range(min = 1))]
    pub followed_streams_max: usize,

    /// The longest that a client may take for the handshake of TLS, after which it is cut off.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub handshake_timeout: Duration,

    /// The longest wait for the next piece of a request body, after which the request is ended.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub body_timeout: Duration,

    /// The longest wait for a client to take bytes of an answer, after which it is cut off.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub write_timeout: Duration,

    /// The most bytes of an answer that wait in the system to be sent on a TCP connection; what is on
    /// its way does not count. More would not make a client faster, and what many clients have
    /// waiting would no longer fit the processor's caches.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub unsent_bytes_max: u64,

    /// How long a connection may stay open without a request.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub idle_timeout: Duration,

    /// The longest wait for room in a full queue to the log, for a long body's turn to be split into
    /// messages, and for the turn to read an answer from the disk, after which a request is answered
    /// with 503 and `Retry-After`.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub queue_wait: Duration,

    /// The most requests at one time on one HTTP/2 connection.
    #[schemars(range(min = 1))]
    pub h2_streams_max: usize,

    /// How much a client may send ahead of what the server has taken, for each HTTP/2 connection and
    /// each request on it.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub h2_window_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 64 << 20,
            bodies_in_flight_bytes_max: 256 << 20,
            answers_in_flight_bytes_max: 512 << 20,
            path_bytes_max: 1 << 10,
            header_bytes_max: 32 << 10,
            producers_per_stream_max: 100_000,
            fork_depth_max: 1_000,
            connections_max: 65_536,
            connections_per_address_max: None,
            live_readers_max: 50_000,
            recordings_max: 10_000,
            followed_streams_max: 10_000,
            handshake_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            unsent_bytes_max: 128 << 10,
            idle_timeout: Duration::from_mins(1),
            queue_wait: Duration::from_secs(5),
            h2_streams_max: 128,
            h2_window_bytes: 1 << 20,
        }
    }
}
