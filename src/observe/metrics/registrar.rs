//! Makes families of metrics and registers each, so that none is counted but not shown.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// A family's type, as the text format names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Builds families and remembers what it registered: a family without a series yet is absent from
/// what the registry gathers, so only this knows them all.
///
/// # Panics
/// Every method panics when a name is invalid or taken. Both are errors in this program's source,
/// and the first test that makes a `Metrics` meets them.
#[derive(Default)]
pub(super) struct Registrar {
    pub(super) registry: Registry,
    pub(super) families: Vec<(String, Kind)>,
}

impl Registrar {
    pub(super) fn counter(&mut self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("the name is valid");
        self.register(Kind::Counter, &counter);
        counter
    }

    pub(super) fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters =
            IntCounterVec::new(Opts::new(name, help), labels).expect("the names are valid");
        self.register(Kind::Counter, &counters);
        counters
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("the name is valid");
        self.register(Kind::Gauge, &gauge);
        gauge
    }

    pub(super) fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("the names are valid");
        self.register(Kind::Gauge, &gauges);
        gauges
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options).expect("the name and buckets are valid");
        self.register(Kind::Histogram, &histogram);
        histogram
    }

    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms =
            HistogramVec::new(options, labels).expect("the names and buckets are valid");
        self.register(Kind::Histogram, &histograms);
        histograms
    }

    /// Registers the figures of this process: CPU time, memory, threads, open files.
    #[cfg(target_os = "linux")]
    pub(super) fn process(&mut self) {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        for family in collector.collect() {
            let kind = match family.get_field_type() {
                prometheus::proto::MetricType::COUNTER => Kind::Counter,
                _ => Kind::Gauge,
            };
            self.families.push((family.name().to_owned(), kind));
        }
        self.registry
            .register(Box::new(collector))
            .expect("the names are free");
    }

    /// Elsewhere than on Linux the figures of the process are not known.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn process(&mut self) {}

    fn register<C: Collector + Clone + 'static>(&mut self, kind: Kind, collector: &C) {
        for description in collector.desc() {
            self.families.push((description.fq_name.clone(), kind));
        }
        self.registry
            .register(Box::new(collector.clone()))
            .expect("the name is free");
    }
}
