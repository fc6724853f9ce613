use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::registrar::Kind;
use super::*;

const MANUAL: &str = include_str!("../../../docs/operations.md");

/// The value of the sample whose name and labels are exactly `series`.
fn sample(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map(|value| value.parse().unwrap())
}

#[track_caller]
fn assert_sample(metrics: &Metrics, series: &str, value: f64) {
    let text = metrics.render().unwrap();
    let found = sample(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}"));
    assert!((found - value).abs() < 1e-9, "{series} is {found}");
}

/// The rows of the manual's table of metrics: name to type.
fn manual_table() -> BTreeMap<String, String> {
    MANUAL
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let name = cells.next()?.split('`').next()?;
            let kind = cells.next()?.trim();
            ["counter", "gauge", "histogram"]
                .contains(&kind)
                .then(|| (name.to_owned(), kind.to_owned()))
        })
        .collect()
}

#[test]
fn the_manual_lists_every_metric_with_its_type() {
    let (_, registrar) = Metrics::build(Registrar::default());
    let registered: BTreeMap<String, String> = registrar
        .families
        .iter()
        .map(|(name, kind)| {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            (name.clone(), kind.to_owned())
        })
        .collect();
    assert!(registered.len() > 30, "{registered:?}");
    assert_eq!(registered, manual_table());
}

#[test]
fn names_tell_the_unit_and_counters_end_in_total() {
    const UNITS: [&str; 28] = [
        "answers",
        "seconds",
        "bytes",
        "requests",
        "messages",
        "operations",
        "readers",
        "streams",
        "segments",
        "connections",
        "lines",
        "keys",
        "compactions",
        "errors",
        "refusals",
        "addresses",
        "retries",
        "failures",
        "calls",
        "reconnects",
        "disconnects",
        "attachments",
        "recordings",
        "fills",
        "purges",
        "entries",
        "evictions",
        "state",
    ];
    let (_, registrar) = Metrics::build(Registrar::default());
    for (name, kind) in &registrar.families {
        let Some(what) = name.strip_prefix("headwater_") else {
            assert!(name.starts_with("process_"), "{name}");
            continue;
        };
        // The usual name of the usual metric.
        if what == "build_info" {
            continue;
        }
        let unit = what.strip_suffix("_total");
        assert_eq!(unit.is_some(), *kind == Kind::Counter, "{name}");
        let unit = unit.unwrap_or(what).rsplit('_').next().unwrap();
        assert!(UNITS.contains(&unit), "{name} has the unit {unit}");
    }
}

#[test]
fn requests_are_counted_by_route_method_mode_and_status() {
    let metrics = Metrics::new();
    let route = metrics.route("/v1/stream/*");
    assert_eq!(route.pattern(), "/v1/stream/*");
    for _ in 0..3 {
        route.observe(Method::Get, Mode::Sse, 200, Duration::from_millis(7));
    }
    route.observe(Method::Post, Mode::None, 409, Duration::from_micros(90));
    route.observe(Method::Post, Mode::None, 418, Duration::from_micros(90));
    metrics
        .unmatched()
        .observe(Method::Other, Mode::None, 404, Duration::ZERO);
    for (series, value) in [
        (
            r#"headwater_requests_total{method="GET",mode="sse",route="/v1/stream/*",status="200"}"#,
            3.0,
        ),
        (
            r#"headwater_requests_total{method="POST",mode="none",route="/v1/stream/*",status="409"}"#,
            1.0,
        ),
        (
            r#"headwater_requests_total{method="POST",mode="none",route="/v1/stream/*",status="4xx"}"#,
            1.0,
        ),
        (
            r#"headwater_requests_total{method="other",mode="none",route="unmatched",status="404"}"#,
            1.0,
        ),
        (
            r#"headwater_request_duration_seconds_count{method="GET",mode="sse"}"#,
            3.0,
        ),
        (
            r#"headwater_request_duration_seconds_sum{method="GET",mode="sse"}"#,
            0.021,
        ),
        (
            r#"headwater_request_duration_seconds_bucket{method="GET",mode="sse",le="0.005"}"#,
            0.0,
        ),
        (
            r#"headwater_request_duration_seconds_bucket{method="GET",mode="sse",le="0.01"}"#,
            3.0,
        ),
    ] {
        assert_sample(&metrics, series, value);
    }
}

#[test]
fn only_what_has_happened_is_shown() {
    let metrics = Metrics::new();
    metrics
        .route("/a/*")
        .observe(Method::Get, Mode::CatchUp, 200, Duration::ZERO);
    let text = metrics.render().unwrap();
    let series = text
        .lines()
        .filter(|line| line.starts_with("headwater_requests_total{"))
        .count();
    assert_eq!(series, 1, "{text}");
}

#[test]
fn a_pattern_has_one_set_of_figures() {
    let metrics = Metrics::new();
    let (one, other) = (metrics.route("/a/*"), metrics.route("/a/*"));
    assert!(Arc::ptr_eq(&one, &other));
    assert!(!Arc::ptr_eq(&one, &metrics.route("/b/*")));
    assert!(Arc::ptr_eq(
        metrics.unmatched(),
        &metrics.route(UNMATCHED_ROUTE)
    ));
}

#[test]
fn what_is_held_is_counted_while_it_lives() {
    let metrics = Metrics::new();
    let route = metrics.route("/a/*");
    let in_flight = r#"headwater_in_flight_requests{route="/a/*"}"#;
    assert_sample(&metrics, in_flight, 0.0);
    let one = route.enter();
    let other = route.enter();
    let reader = Held::new(metrics.live_readers(Live::LongPoll));
    assert_sample(&metrics, in_flight, 2.0);
    drop(one);
    assert_sample(&metrics, in_flight, 1.0);
    assert_sample(&metrics, r#"headwater_live_readers{mode="long_poll"}"#, 1.0);
    assert_sample(&metrics, r#"headwater_live_readers{mode="sse"}"#, 0.0);
    drop((other, reader));
    assert_sample(&metrics, in_flight, 0.0);
    assert_sample(&metrics, r#"headwater_live_readers{mode="long_poll"}"#, 0.0);
}

#[test]
fn the_logs_figures_are_shown() {
    let metrics = Metrics::new();
    metrics.appended.add(300, 2);
    metrics.appended.add(5, 1);
    metrics.read.add(11, 7);
    metrics.commit.observe(3, 5_000);
    metrics.sync_seconds.observe(0.002);
    metrics.queue.enter(100);
    metrics.queue.enter(50);
    metrics.queue.enter(1);
    metrics.queue.leave(2, 150);
    metrics.refused(Refusal::Queue).inc();
    metrics.refused(Refusal::Readers).inc_by(2);
    for (series, value) in [
        ("headwater_appended_bytes_total", 305.0),
        ("headwater_appended_messages_total", 3.0),
        ("headwater_read_bytes_total", 11.0),
        ("headwater_read_messages_total", 7.0),
        (r#"headwater_commit_batch_operations_bucket{le="2"}"#, 0.0),
        (r#"headwater_commit_batch_operations_bucket{le="4"}"#, 1.0),
        ("headwater_commit_batch_bytes_sum", 5_000.0),
        (
            r#"headwater_sync_duration_seconds_bucket{le="0.0025"}"#,
            1.0,
        ),
        ("headwater_queue_operations", 1.0),
        ("headwater_queue_bytes", 1.0),
        (r#"headwater_refusals_total{reason="queue"}"#, 1.0),
        (r#"headwater_refusals_total{reason="readers"}"#, 2.0),
        (r#"headwater_refusals_total{reason="body"}"#, 0.0),
    ] {
        assert_sample(&metrics, series, value);
    }
}

#[test]
fn streams_that_are_followed_are_counted_by_their_readers() {
    let metrics = Metrics::new();
    for (readers, expected) in [
        (&[0, 1, 1, 7, 10, 11, 20_000][..], [1, 3, 5, 6, 6, 6, 7]),
        (&[100], [0, 0, 0, 1, 1, 1, 1]),
        (&[], [0; 7]),
    ] {
        metrics.edge.set_readers(readers);
        let bounds = ["0", "1", "10", "100", "1000", "10000", "+Inf"];
        for (bound, count) in bounds.iter().zip(expected) {
            let series = format!("headwater_followed_streams_by_readers{{le=\"{bound}\"}}");
            assert_sample(&metrics, &series, f64::from(count));
        }
        let all: u64 = readers.iter().sum();
        let most = readers.iter().max().copied().unwrap_or(0);
        for (series, value) in [
            ("headwater_followed_streams", readers.len() as u64),
            ("headwater_followed_stream_readers", all),
            ("headwater_most_followed_stream_readers", most),
        ] {
            assert_sample(&metrics, series, value as f64);
        }
    }
}

#[test]
fn a_hook_sets_the_databases_figures_at_each_scrape() {
    let metrics = Metrics::new();
    let scrapes = std::sync::atomic::AtomicU64::new(0);
    metrics.on_scrape(Box::new(move |metrics| {
        let scrape = 1 + scrapes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        metrics.database.set(&DatabaseFigures {
            memtable_bytes: 1,
            block_cache_bytes: 2,
            sst_bytes: 3,
            blob_bytes: 4,
            estimated_keys: 5,
            pending_compaction_bytes: u64::MAX,
            running_compactions: 7,
            background_errors: scrape,
            stall: Stall::Delayed,
        });
    }));
    metrics.render().unwrap();
    for (series, value) in [
        ("headwater_rocksdb_background_errors", 2.0),
        ("headwater_rocksdb_memtable_bytes", 1.0),
        ("headwater_rocksdb_block_cache_bytes", 2.0),
        ("headwater_rocksdb_sst_bytes", 3.0),
        ("headwater_rocksdb_blob_bytes", 4.0),
        ("headwater_rocksdb_estimated_keys", 5.0),
        (
            "headwater_rocksdb_pending_compaction_bytes",
            i64::MAX as f64,
        ),
        ("headwater_rocksdb_running_compactions", 7.0),
        ("headwater_rocksdb_stall_state", 1.0),
    ] {
        assert_sample(&metrics, series, value);
    }
}

#[test]
fn a_hook_may_add_another() {
    let metrics = Metrics::new();
    metrics.on_scrape(Box::new(|metrics| {
        metrics.on_scrape(Box::new(|metrics| metrics.open_streams.set(9)));
    }));
    metrics.render().unwrap();
    assert_sample(&metrics, "headwater_open_streams", 9.0);
}

#[test]
fn the_text_is_well_formed_and_tells_of_the_process() {
    let metrics = Metrics::new();
    metrics
        .route("/quoted\"\\/*")
        .observe(Method::Get, Mode::CatchUp, 200, Duration::ZERO);
    let text = metrics.render().unwrap();
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(names.insert(name.to_owned()), "{name} twice");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(
                names.contains(name)
                    || ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|end| name.strip_suffix(end).is_some_and(|n| names.contains(n))),
                "{line} has no type"
            );
        }
    }
    assert!(text.contains(r#"route="/quoted\"\\/*""#), "{text}");
    let version = format!(
        "headwater_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_sample(&metrics, &version, 1.0);
    let resident = sample(&text, "process_resident_memory_bytes").unwrap();
    assert!(resident > 1_000_000.0, "{resident}");
}

#[test]
fn requests_counted_at_once_are_all_counted() {
    let metrics = Metrics::new();
    let route = metrics.route("/a/*");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let _held = route.enter();
                    route.observe(Method::Get, Mode::CatchUp, 200, Duration::from_micros(10));
                }
            });
        }
    });
    assert_sample(
        &metrics,
        r#"headwater_requests_total{method="GET",mode="catch_up",route="/a/*",status="200"}"#,
        40_000.0,
    );
    assert_sample(
        &metrics,
        r#"headwater_request_duration_seconds_count{method="GET",mode="catch_up"}"#,
        40_000.0,
    );
    assert_sample(
        &metrics,
        r#"headwater_in_flight_requests{route="/a/*"}"#,
        0.0,
    );
}
