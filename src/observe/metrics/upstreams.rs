//! Upstreams by route: what they are asked, and how they fail.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Held;
use super::registrar::Registrar;

/// How an upstream failed, as the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// No connection came about.
    Connect,
    /// There was no TLS with it.
    Tls,
    /// It was silent for too long, or took nothing.
    Timeout,
    /// The connection ended before the answer did.
    Broken,
    /// What it sent is not HTTP.
    Protocol,
    /// None of a route's upstreams is healthy.
    NoUpstream,
}

impl UpstreamFailure {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Broken,
        Self::Protocol,
        Self::NoUpstream,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Protocol => "protocol",
            Self::NoUpstream => "no_upstream",
        }
    }
}

/// What all routes share.
struct Families {
    connections: IntCounterVec,
    failures: IntCounterVec,
    retries: IntCounterVec,
    in_flight: IntGaugeVec,
    unhealthy: IntGaugeVec,
}

/// All routes with upstreams, by pattern.
pub(super) struct Upstreams {
    families: Families,
    by_pattern: Mutex<BTreeMap<String, Arc<UpstreamMetrics>>>,
}

impl Upstreams {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let families = Families {
            connections: registrar.counters(
                "headwater_upstream_connections_total",
                "Connections to upstreams that requests were sent on, by route and whether reused.",
                &["route", "reused"],
            ),
            failures: registrar.counters(
                "headwater_upstream_failures_total",
                "Attempts at which an upstream failed, by route and reason.",
                &["route", "reason"],
            ),
            retries: registrar.counters(
                "headwater_upstream_retries_total",
                "Requests that were tried again after an upstream failed, by route.",
                &["route"],
            ),
            in_flight: registrar.gauges(
                "headwater_upstream_in_flight_requests",
                "Requests that upstreams are answering, by route.",
                &["route"],
            ),
            unhealthy: registrar.gauges(
                "headwater_upstream_unhealthy_addresses",
                "Addresses of upstreams that are left out since checks failed, by route.",
                &["route"],
            ),
        };
        Self {
            families,
            by_pattern: Mutex::default(),
        }
    }

    /// The figures of the route with this pattern; the same ones each time it is asked.
    pub(super) fn get(&self, pattern: &str) -> Arc<UpstreamMetrics> {
        let mut by_pattern = self.by_pattern.lock();
        let make = || Arc::new(UpstreamMetrics::new(pattern, &self.families));
        let route = by_pattern.entry(pattern.to_owned()).or_insert_with(make);
        Arc::clone(route)
    }
}

/// The figures of one route's upstreams.
pub struct UpstreamMetrics {
    /// Connections opened, and connections used again.
    connections: [IntCounter; 2],
    failures: [IntCounter; UpstreamFailure::ALL.len()],
    /// Requests that were tried again.
    pub retries: IntCounter,
    in_flight: IntGauge,
    /// Addresses that are left out.
    pub unhealthy: IntGauge,
}

impl UpstreamMetrics {
    fn new(pattern: &str, families: &Families) -> Self {
        let connections = &families.connections;
        let failures = &families.failures;
        Self {
            connections: ["false", "true"]
                .map(|reused| connections.with_label_values(&[pattern, reused])),
            failures: UpstreamFailure::ALL
                .map(|failure| failures.with_label_values(&[pattern, failure.as_str()])),
            retries: families.retries.with_label_values(&[pattern]),
            in_flight: families.in_flight.with_label_values(&[pattern]),
            unhealthy: families.unhealthy.with_label_values(&[pattern]),
        }
    }

    /// Counts a request as being answered until what is returned is dropped.
    pub fn enter(&self) -> Held {
        Held::new(&self.in_flight)
    }

    /// Counts a connection that a request is sent on.
    pub fn connected(&self, reused: bool) {
        self.connections[usize::from(reused)].inc();
    }

    /// Counts an attempt at which an upstream failed.
    pub fn failed(&self, failure: UpstreamFailure) {
        self.failures[failure as usize].inc();
    }
}

impl fmt::Debug for UpstreamMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamMetrics").finish_non_exhaustive()
    }
}
