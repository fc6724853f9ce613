//! Settings that come from the environment.

use std::path::PathBuf;
use std::time::Duration;

use headwater::config::Durability;

use super::{SITE, parse, parse_with, problems, problems_with, streams, told};

#[test]
fn variables_are_put_in() {
    let text = format!(
        "data_dir = \"${{STATE}}/streams\"\nthreads = \"${{THREADS:2}}\"\n[logging]\naccess = \"${{ACCESS:false}}\"\n{SITE}"
    );
    let config = parse_with(&text, &[("STATE", "/srv")]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/srv/streams"));
    assert_eq!(config.threads, Some(2));
    assert!(!config.logging.access);
    assert_eq!(
        parse_with(&text, &[("STATE", "/"), ("THREADS", "7")])
            .unwrap()
            .threads,
        Some(7)
    );
    let (place, message, hint) = told(&problems(&text)[0]);
    assert_eq!(place, "1:12");
    assert!(
        message.contains("STATE is not set") && hint.contains("${STATE:default}"),
        "{hint}"
    );
    let config = parse(&format!("data_dir = \"$${{STATE}}\"\n{SITE}")).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("${STATE}"));
}

#[test]
fn variables_override_settings() {
    let config = parse_with(
        SITE,
        &[
            ("HEADWATER__DATA_DIR", "/srv"),
            ("HEADWATER__THREADS", "4"),
            ("HEADWATER__SHUTDOWN_TIMEOUT", "\"3s\""),
            ("HEADWATER__LOG__DURABILITY", "os"),
            ("HEADWATER__LOG__SEGMENT_BYTES", "1MiB"),
            ("HEADWATER__LOGGING__ACCESS", "false"),
            ("HEADWATER__LIMITS", "{ path_bytes_max = 99 }"),
            ("HEADWATER__LIMITS__BODY_TIMEOUT", "7s"),
            ("HEADWATER__SITE__0__LISTEN", "[\"127.0.0.1:1\"]"),
            ("HEADWATER__SITE__0__ROUTE__0__STREAMS__NAMESPACE", "123"),
            ("HEADWATER__SITE__0__ROUTE__1__PATH", "/two"),
            ("HEADWATER__SITE__0__ROUTE__1__STREAMS__CORS", "false"),
            ("HEADWATER_URL", "http://elsewhere"),
        ],
    )
    .unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/srv"));
    assert_eq!(config.threads, Some(4));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(3));
    assert_eq!(config.log.durability, Durability::Os);
    assert_eq!(config.log.segment_bytes, 1 << 20);
    assert!(!config.logging.access);
    assert_eq!(config.limits.path_bytes_max, 99);
    assert_eq!(config.limits.body_timeout, Duration::from_secs(7));
    assert_eq!(config.site[0].listen[0].to_string(), "127.0.0.1:1");
    let streams = streams(&config.site[0].route[0]);
    assert_eq!(streams.namespace, "123");
    assert_eq!(config.site[0].route[1].path, "/two");
}

#[test]
fn a_whole_site_can_come_from_variables() {
    let variables = [
        ("HEADWATER__SITE__0__LISTEN__0", "127.0.0.1:1"),
        ("HEADWATER__SITE__0__ROUTE__0__PATH", "/*"),
        ("HEADWATER__SITE__0__ROUTE__0__STREAMS", "{}"),
    ];
    let config = parse_with("", &variables).unwrap();
    assert_eq!(config.site[0].listen[0].to_string(), "127.0.0.1:1");
}

#[test]
fn variables_that_are_wrong_are_named() {
    for (name, value, message, hint) in [
        (
            "HEADWATER__LOG__DURABILTY",
            "os",
            "unknown key `durabilty`",
            "`durability`",
        ),
        (
            "HEADWATER__LOGG__DURABILITY",
            "os",
            "unknown key `logg`",
            "`log`",
        ),
        (
            "HEADWATER__LOG__DURABILITY",
            "always",
            "`always` is not a value",
            "`sync`",
        ),
        (
            "HEADWATER__LOG__DURABILITY__X",
            "1",
            "no setting `x` here",
            "",
        ),
        ("HEADWATER__THREADS", "many", "\"many\"", ""),
        (
            "HEADWATER__SITE__0__LISTEN",
            "127.0.0.1:1",
            "expected a list",
            "'[\"127.0.0.1:1\"]'",
        ),
        (
            "HEADWATER__SITE__FIRST__LISTEN",
            "[]",
            "`first` is not a number",
            "number 0",
        ),
        (
            "HEADWATER__SITE__4__LISTEN",
            "[]",
            "number 4 of the list",
            "there are 1",
        ),
        ("HEADWATER__", "x", "unknown key ``", "the keys here are"),
    ] {
        let text = format!("{SITE}\n[log]\ndurability = \"os\"\n");
        let problems = problems_with(&text, &[(name, value)]);
        let (place, found, told) = told(&problems[0]);
        assert_eq!(place, name);
        assert!(found.contains(message), "{found}");
        assert!(told.contains(hint) || found.contains(hint), "{told}");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
