//! Requests by route: how many, how many now, how long.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Held;
use super::labels::{METHODS, MODES, Method, Mode, STATUS_SLOTS, status_label, status_slot};
use super::registrar::Registrar;

/// Each method in each mode.
const KINDS: usize = METHODS * MODES;

/// From a read out of memory to a live reader that is recycled: seconds.
const DURATION_BUCKETS_SECONDS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// The place of a method in a mode among [`KINDS`].
fn kind_of(method: Method, mode: Mode) -> usize {
    method as usize * MODES + mode as usize
}

/// What all routes share.
struct Families {
    requests: IntCounterVec,
    in_flight: IntGaugeVec,
    durations: HistogramVec,
    /// The series of `durations`, resolved when first needed.
    resolved: [OnceLock<Histogram>; KINDS],
}

/// All routes, by pattern.
pub(super) struct Routes {
    families: Arc<Families>,
    by_pattern: Mutex<BTreeMap<String, Arc<RouteMetrics>>>,
}

impl Routes {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let families = Families {
            requests: registrar.counters(
                "headwater_requests_total",
                "Requests answered, by route, method, mode of reading, and status.",
                &["route", "method", "mode", "status"],
            ),
            in_flight: registrar.gauges(
                "headwater_in_flight_requests",
                "Requests that were read and are not yet answered to their end, by route.",
                &["route"],
            ),
            durations: registrar.histograms(
                "headwater_request_duration_seconds",
                "Seconds from a request's header to its answer's end, by method and mode.",
                &["method", "mode"],
                &DURATION_BUCKETS_SECONDS,
            ),
            resolved: [const { OnceLock::new() }; KINDS],
        };
        Self {
            families: Arc::new(families),
            by_pattern: Mutex::default(),
        }
    }

    /// The figures of the route with this pattern; the same ones each time it is asked.
    pub(super) fn get(&self, pattern: &str) -> Arc<RouteMetrics> {
        let mut by_pattern = self.by_pattern.lock();
        if let Some(route) = by_pattern.get(pattern) {
            return Arc::clone(route);
        }
        let route = Arc::new(RouteMetrics::new(pattern, Arc::clone(&self.families)));
        by_pattern.insert(pattern.to_owned(), Arc::clone(&route));
        route
    }
}

/// The figures of one route. Ask [`Metrics::route`](super::Metrics::route) for it at start-up and
/// keep it beside the route: after the first request of a kind, counting one looks nothing up.
pub struct RouteMetrics {
    pattern: String,
    families: Arc<Families>,
    in_flight: IntGauge,
    /// By kind, then by status; filled when first needed, so that only series that have happened
    /// are shown.
    counters: Box<[OnceLock<IntCounter>]>,
}

impl RouteMetrics {
    fn new(pattern: &str, families: Arc<Families>) -> Self {
        Self {
            pattern: pattern.to_owned(),
            in_flight: families.in_flight.with_label_values(&[pattern]),
            counters: (0..KINDS * STATUS_SLOTS).map(|_| OnceLock::new()).collect(),
            families,
        }
    }

    /// The route's path pattern, as its label and the access log show it.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Counts a request as in flight until what is returned is dropped.
    pub fn enter(&self) -> Held {
        Held::new(&self.in_flight)
    }

    /// Counts a request that has ended. `elapsed` is the time since its header was read; a status
    /// without a series of its own is counted as its class (`4xx`).
    pub fn observe(&self, method: Method, mode: Mode, status: u16, elapsed: Duration) {
        let kind = kind_of(method, mode);
        let slot = status_slot(status);
        self.counters[kind * STATUS_SLOTS + slot]
            .get_or_init(|| self.counter(method, mode, slot))
            .inc();
        self.families.resolved[kind]
            .get_or_init(|| self.families.duration(method, mode))
            .observe(elapsed.as_secs_f64());
    }

    #[cold]
    fn counter(&self, method: Method, mode: Mode, slot: usize) -> IntCounter {
        self.families.requests.with_label_values(&[
            self.pattern.as_str(),
            method.as_str(),
            mode.as_str(),
            status_label(slot),
        ])
    }
}

impl Families {
    #[cold]
    fn duration(&self, method: Method, mode: Mode) -> Histogram {
        self.durations
            .with_label_values(&[method.as_str(), mode.as_str()])
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteMetrics").field(&self.pattern).finish()
    }
}
