//! The figures of edge routes.

use prometheus::{IntCounter, IntGauge};

use super::registrar::Registrar;

/// What an origin is asked for by an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginRequest {
    /// What a stream holds.
    CatchUp,
    /// What comes next: one for each connection that follows a stream.
    Live,
    /// What is passed on as it is: writes, and what only asks.
    Pass,
}

impl OriginRequest {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 3] = [Self::CatchUp, Self::Live, Self::Pass];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CatchUp => "catch_up",
            Self::Live => "live",
            Self::Pass => "pass",
        }
    }
}

/// The bounds by which streams that are followed are counted.
const READERS_MAX: [u64; 6] = [0, 1, 10, 100, 1_000, 10_000];

/// The figures of edge routes. What is kept of answers has figures of its own.
#[derive(Debug)]
pub struct EdgeMetrics {
    requests: [IntCounter; OriginRequest::ALL.len()],
    /// Bytes of the bodies that origins answered reads with.
    pub origin_bytes: IntCounter,
    /// Streams that are followed.
    subscriptions: IntGauge,
    /// Live readers of the streams that are followed.
    subscribed_readers: IntGauge,
    /// Those of the stream that has the most.
    most_readers: IntGauge,
    /// Streams by how many they have at most.
    by_readers: [IntGauge; READERS_MAX.len() + 1],
    /// Connections that follow streams and were made again because the origin failed.
    pub reconnects: IntCounter,
    /// Streams that are followed whose origin has not answered yet.
    pub reconnecting: IntGauge,
    /// For how long the longest of them has been waiting.
    pub behind_seconds: IntGauge,
    /// Memory for what was last heard of the streams that are followed.
    pub hot_bytes: IntGauge,
}

impl EdgeMetrics {
    /// How often origins were asked so.
    pub fn requests(&self, request: OriginRequest) -> &IntCounter {
        &self.requests[request as usize]
    }

    /// Shows from now on that the streams that are followed have so many live readers each.
    pub fn set_readers(&self, readers: &[u64]) {
        self.subscriptions.set(readers.len() as i64);
        self.subscribed_readers
            .set(readers.iter().sum::<u64>() as i64);
        let most = readers.iter().max().copied().unwrap_or_default();
        self.most_readers.set(most as i64);
        for (gauge, max) in self.by_readers.iter().zip(bounds()) {
            let within = readers.iter().filter(|count| **count <= max);
            gauge.set(within.count() as i64);
        }
    }

    pub(super) fn new(r: &mut Registrar) -> Self {
        let requests = r.counters(
            "headwater_origin_requests_total",
            "Requests of edge routes to origins, by what for.",
            &["purpose"],
        );
        Self {
            requests: OriginRequest::ALL
                .map(|request| requests.with_label_values(&[request.as_str()])),
            origin_bytes: r.counter(
                "headwater_origin_read_bytes_total",
                "Bytes of bodies that origins answered reads of edge routes with.",
            ),
            subscriptions: r.gauge(
                "headwater_followed_streams",
                "Streams that are followed at their origins for live readers.",
            ),
            subscribed_readers: r.gauge(
                "headwater_followed_stream_readers",
                "Live readers of the streams that are followed.",
            ),
            most_readers: r.gauge(
                "headwater_most_followed_stream_readers",
                "Live readers of the followed stream that has the most of them.",
            ),
            by_readers: by_readers(r),
            reconnects: r.counter(
                "headwater_follow_reconnects_total",
                "Connections that follow streams and were made again because the origin failed.",
            ),
            reconnecting: r.gauge(
                "headwater_unfollowed_streams",
                "Streams with live readers whose origin is away, or has not answered yet.",
            ),
            behind_seconds: r.gauge(
                "headwater_follow_behind_seconds",
                "How long the longest of them has been waiting for its origin.",
            ),
            hot_bytes: r.gauge(
                "headwater_followed_hot_bytes",
                "Memory for what was last heard of the streams that are followed.",
            ),
        }
    }
}

/// All bounds, and at last one for whatever is above them.
fn bounds() -> impl Iterator<Item = u64> {
    READERS_MAX.into_iter().chain([u64::MAX])
}

/// One gauge for each bound, labelled as the buckets of a histogram are, so that quantiles can be
/// asked for.
fn by_readers(r: &mut Registrar) -> [IntGauge; READERS_MAX.len() + 1] {
    let gauges = r.gauges(
        "headwater_followed_streams_by_readers",
        "Streams that are followed with at most so many live readers.",
        &["le"],
    );
    let mut labels = READERS_MAX.iter().map(ToString::to_string);
    std::array::from_fn(|_| {
        let label = labels.next();
        gauges.with_label_values(&[label.as_deref().unwrap_or("+Inf")])
    })
}
