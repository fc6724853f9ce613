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

/// The figures of edge routes. What is kept of answers has figures of its own.
#[derive(Debug)]
pub struct EdgeMetrics {
    requests: [IntCounter; OriginRequest::ALL.len()],
    /// Bytes of the bodies that origins answered reads with.
    pub origin_bytes: IntCounter,
    /// Streams that are followed.
    pub subscriptions: IntGauge,
    /// Live readers of the streams that are followed.
    pub subscribed_readers: IntGauge,
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
