//! What can be wrong with upstreams is found, at its place, and with what to do.

use super::site;

/// The only problem of a reverse proxy with this upstream and these settings.
#[track_caller]
fn assert_problem(upstream: &str, settings: &str, message: &str, hint: &str) {
    for kind in ["reverse_proxy", "record"] {
        let settings = format!("upstreams = [{upstream}]\n{settings}");
        super::assert_problem(&site("/*", kind, &settings), message, hint);
    }
}

const GOOD: &str = "\"http://127.0.0.1:3000\"";

#[test]
fn upstreams_that_are_none_are_found() {
    for (upstream, message, hint) in [
        ("", "`upstreams` is empty", "http://127.0.0.1:3000"),
        ("\"127.0.0.1:3000\"", "is no upstream", "http://"),
        ("\"ftp://a\"", "is no upstream", "http://"),
        ("\"unix:\"", "no path after it", "unix:/run"),
        ("\"http://a/base\"", "has a path", "add_prefix"),
        ("\"http://me:secret@a\"", "a user in it", "Authorization"),
        ("\"http://a\", \"http://a:80/\"", "is there twice", "weight"),
        (
            "{ url = \"http://a\", weight = 0 }",
            "`weight` is 0",
            "1 to 100",
        ),
        (
            "{ url = \"http://a\", wait = 1 }",
            "unknown key `wait`",
            "weight",
        ),
        ("{ weight = 1 }", "`url` is missing", ""),
        ("3000", "expected an upstream", ""),
    ] {
        assert_problem(upstream, "", message, hint);
    }
}

#[test]
fn settings_that_cannot_be_are_found() {
    for (settings, message, hint) in [
        ("balance = \"random\"", "not a value", "round_robin"),
        ("hash_by = \"cookie\"", "cannot be hashed", "header:Name"),
        ("http = \"3\"", "not a value", "auto"),
        ("retries = 17", "`retries` is 17", "16"),
        ("strip_prefix = \"api\"", "beginning of a path", "/api"),
        ("add_prefix = \"/a?b\"", "beginning of a path", "/api"),
        (
            "rewrite = [{ match = \"(a\", to = \"/\" }]",
            "not a regular expression",
            "unclosed group",
        ),
        (
            "rewrite = [{ match = \"a\", to = \"/b?c\" }]",
            "not a part of a path",
            "/v2/$1",
        ),
        ("timeouts = { connect = \"0s\" }", "no time at all", "5s"),
        (
            "health_check = { interval = \"0s\" }",
            "no time at all",
            "5s",
        ),
        (
            "health_check = { path = \"healthz\" }",
            "not a path",
            "/healthz",
        ),
        (
            "health_check = { healthy_after = 0 }",
            "`healthy_after` is 0",
            "1",
        ),
        (
            "trusted_proxies = [\"10.0.0.0/40\"]",
            "no network",
            "10.0.0.0/8",
        ),
        ("forwarded = \"yes\"", "not a value", "standard"),
        ("tls = { verify = false }", "no effect", "https://"),
        (
            "request_headers = { set = { \"a b\" = \"1\" } }",
            "name of a header",
            "X-",
        ),
        (
            "request_headers = { add = { A = \"1\\n2\" } }",
            "the value of `A`",
            "line ends",
        ),
        (
            "response_headers = { remove = [\"Transfer-Encoding\"] }",
            "cannot be changed",
            "leave it out",
        ),
    ] {
        assert_problem(GOOD, settings, message, hint);
    }
}

#[test]
fn files_of_authorities_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (file, message) in [
        (&empty, "has no certificate"),
        (&dir.path().join("none.pem"), "cannot be read"),
    ] {
        let settings = format!("tls = {{ ca = \"{}\" }}", file.display());
        assert_problem("\"https://a\"", &settings, message, "");
    }
}

#[test]
fn origins_that_make_no_sense_are_found() {
    let good = format!("upstreams = [{GOOD}]");
    for (settings, message, hint) in [
        ("upstreams = []".to_owned(), "`upstreams` is empty", "http"),
        (
            format!("{good}\nshard_by = 0"),
            "`shard_by` is 0",
            "the least is 1",
        ),
        (
            format!("{good}\nname = \"a b\""),
            "is not the name of an edge",
            "1 to 64",
        ),
        (
            format!("{good}\ncredentials = [\"a b\"]"),
            "is not the name of a header",
            "X-Api",
        ),
        (
            format!("{good}\nstrip_prefix = \"/a\""),
            "unknown key `strip_prefix`",
            "belongs to",
        ),
    ] {
        super::assert_problem(&site("/*", "streams.origin", &settings), message, hint);
    }
}
