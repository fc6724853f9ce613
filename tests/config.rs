//! Behaviour of the configuration, through its public interface.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater::config::{
    AdminFlag, CacheScope, Config, ConfigError, DevFlags, Durability, Environment, Listen, Place,
    Problem, Route, RouteKind, Streams,
};

#[path = "config/environment.rs"]
mod environment;
#[path = "config/problems.rs"]
mod problems;
#[path = "config/recordings.rs"]
mod recordings;
#[path = "config/reference.rs"]
mod reference;
#[path = "config/upstreams.rs"]
mod upstreams;

/// A configuration that is right, for what is put before it.
const SITE: &str = r#"
[[site]]
listen = ["127.0.0.1:4437"]
[[site.route]]
path = "/v1/stream/*"
streams = {}
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    parse_with(text, &[])
}

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = variables.iter().copied().collect::<Environment>();
    Config::parse(text, Path::new("headwater.toml"), &environment)
}

fn problems(text: &str) -> Vec<Problem> {
    problems_with(text, &[])
}

fn problems_with(text: &str, variables: &[(&str, &str)]) -> Vec<Problem> {
    match parse_with(text, variables) {
        Err(ConfigError::Invalid(problems)) => problems.iter().cloned().collect(),
        other => panic!("no problem was found: {other:?}"),
    }
}

/// The only problem of `text`.
#[track_caller]
fn problem(text: &str) -> (String, String, String) {
    let problems = problems(text);
    assert_eq!(problems.len(), 1, "{text}{problems:?}");
    told(&problems[0])
}

/// The only problem of `text` says this, and hints at that.
#[track_caller]
fn assert_problem(text: &str, message: &str, hint: &str) {
    let told = problem(text);
    assert!(told.1.contains(message), "{told:?}");
    assert!(told.2.contains(hint), "{told:?}");
}

/// A site with one route of this kind and path.
fn site(path: &str, kind: &str, settings: &str) -> String {
    format!(
        "[[site]]\nlisten = [\"127.0.0.1:1\"]\n[[site.route]]\npath = \"{path}\"\n[site.route.{kind}]\n{settings}\n"
    )
}

/// A problem as `line:column` or the variable, the sentence and the hint.
fn told(problem: &Problem) -> (String, String, String) {
    let place = match &problem.place {
        Place::File { line, column, .. } => format!("{line}:{column}"),
        Place::Outside(name) => name.clone(),
    };
    let hint = problem.hint.clone().unwrap_or_default();
    (place, problem.message.clone(), hint)
}

#[test]
fn a_small_file_has_defaults() {
    let config = parse(SITE).unwrap();
    let expected = Config {
        site: config.site.clone(),
        ..Config::default()
    };
    assert_eq!(config, expected);
    assert_eq!(config.log.durability, Durability::Sync);
    assert_eq!(config.limits.body_bytes_max, 64 << 20);
    let streams = streams(&config.site[0].route[0]);
    assert_eq!(streams.namespace, "default");
    assert_eq!(streams.cache, CacheScope::Public);
    assert_eq!(streams.cache_max_age, Duration::from_hours(365 * 24));
}

#[test]
fn every_kind_of_value_is_read() {
    let text = r#"
        data_dir = "/var/lib/headwater"
        admin = "unix:/run/admin.sock"
        threads = 3
        shutdown_timeout = "1m30s"
        [log]
        durability = "os"
        segment_bytes = "1MiB"
        queue_bytes_max = 134217728
        [limits]
        path_bytes_max = 2048
        [logging]
        format = "json"
        level = "warn,headwater::log=debug"
        access = false
        [[site]]
        listen = ["[::1]:1", "unix:/run/headwater.sock"]
        hosts = ["Streams.Example.com", "*.example.org"]
        [[site.route]]
        path = "/a"
        streams = { namespace = "n-1", sse_heartbeat = "0", cache = "private", cors = false, base_url = "https://x.example" }
    "#;
    let config = parse(text).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/headwater"));
    assert_eq!(config.admin, Some(Listen::Unix("/run/admin.sock".into())));
    assert_eq!(config.threads, Some(3));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(90));
    assert_eq!(config.log.durability, Durability::Os);
    assert_eq!(config.log.segment_bytes, 1 << 20);
    assert_eq!(config.log.queue_bytes_max, 128 << 20);
    assert_eq!(config.limits.path_bytes_max, 2048);
    assert!(!config.logging.access);
    let site = &config.site[0];
    let address: SocketAddr = "[::1]:1".parse().unwrap();
    assert_eq!(site.listen[0], Listen::Tcp(address));
    assert_eq!(site.hosts, ["streams.example.com", "*.example.org"]);
    let streams = streams(&site.route[0]);
    assert_eq!(streams.sse_heartbeat, Duration::ZERO);
    assert_eq!(streams.cache, CacheScope::Private);
    assert_eq!(streams.base_url.as_deref(), Some("https://x.example"));
}

#[test]
fn a_configuration_written_out_reads_back() {
    let config = parse(SITE).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text).unwrap(), config, "{text}");
}

#[test]
fn development_needs_no_file() {
    let none = Environment::default();
    let config = Config::dev(&DevFlags::default(), &none).unwrap();
    assert_eq!(config.site[0].listen[0].to_string(), "127.0.0.1:4437");
    assert_eq!(config.site[0].route[0].path, "/v1/stream/*");
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:4438");
    assert_eq!(config.data_dir, PathBuf::from("./data"));

    let flags = DevFlags {
        listen: Some("0.0.0.0:0".parse().unwrap()),
        admin: Some(AdminFlag::None),
        data: Some("/tmp/x".to_owned()),
        long_poll_timeout: Some("500ms".to_owned()),
        durability: Some(Durability::Os),
    };
    let environment = [("HEADWATER__DATA_DIR", "/srv"), ("HEADWATER__THREADS", "1")];
    let config = Config::dev(&flags, &environment.into_iter().collect()).unwrap();
    assert_eq!(config.site[0].listen[0].to_string(), "0.0.0.0:0");
    assert_eq!(config.admin, None);
    assert_eq!(config.data_dir, PathBuf::from("/tmp/x"));
    assert_eq!(config.threads, Some(1));
    assert_eq!(config.log.durability, Durability::Os);
    let streams = streams(&config.site[0].route[0]);
    assert_eq!(streams.long_poll_timeout, Duration::from_millis(500));

    let flags = DevFlags {
        listen: Some("127.0.0.1:4438".parse().unwrap()),
        ..DevFlags::default()
    };
    let Err(ConfigError::Invalid(problems)) = Config::dev(&flags, &none) else {
        panic!("one address was given twice");
    };
    assert!(problems.to_string().contains("the address of a site too"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    let error = Config::load(&missing).unwrap_err().to_string();
    assert!(
        error.contains("missing.toml") && error.contains("cannot be read"),
        "{error}"
    );
}

/// The settings of a route that serves streams.
fn streams(route: &Route) -> &Streams {
    match &route.kind {
        RouteKind::Streams(streams) => streams,
        other => panic!("{other:?}"),
    }
}
