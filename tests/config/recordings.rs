//! The settings of recordings: what is wrong with them, and what is never shown.

use super::{parse, problem, problems, site, told};

fn record(settings: &str) -> String {
    let upstreams = "upstreams = [\"http://127.0.0.1:1\"]";
    site("/v1/*", "record", &format!("{upstreams}\n{settings}"))
}

fn proxy(settings: &str) -> String {
    site("/v1/proxy", "proxy", settings)
}

const SECRET: &str = "secret = \"0123456789abcdef\"";

/// The only problem of `text` says this, and hints at something.
#[track_caller]
fn assert_problem(text: &str, message: &str) {
    super::assert_problem(text, message, "");
    assert!(!problem(text).2.is_empty(), "{text}");
}

#[test]
fn settings_of_recordings_are_checked() {
    for (setting, message) in [
        ("name = \"chat\"", "does not have {id}"),
        ("name = \"{id}/{id}\"", "does not have {id}"),
        ("name = \"/{id}\"", "is not the name of a stream"),
        ("name = \"../{id}\"", "is not the name of a stream"),
        ("namespace = \"a b\"", "is not a namespace"),
        ("url_path = \"/\"", "is not a path for recordings"),
        ("url_path = \"a\"", "is not a path for recordings"),
        ("base_url = \"example.com\"", "is not the base of a URL"),
        (
            "idempotency_header = \"a b\"",
            "is not the name of a header",
        ),
        ("credentials = [\"\"]", "is not the name of a header"),
        ("content_types = [\"sse\"]", "is not a content type"),
        ("ttl = \"500ms\"", "too short"),
        ("url_ttl = \"0\"", "too short"),
        ("headers_timeout = \"0\"", "too short"),
        ("inactivity_timeout = \"0\"", "too short"),
        ("recording_bytes_max = \"0\"", "`recording_bytes_max` is 0"),
        ("recordings_per_caller_max = 0", "is 0"),
        ("always = true", "`always` is for a shared feed"),
        (
            "share = true\nalways = true",
            "`always` is for a shared feed",
        ),
        ("share = true\nretention = {}", "neither `bytes` nor `age`"),
    ] {
        assert_problem(&record(setting), message);
    }
    let all = "name = \"chat/{id}\"\ncredentials = []\ngrace = \"0\"\ntotal_timeout = \"0\"\nurl_path = \"/r\"";
    parse(&record(all)).unwrap();
}

#[test]
fn routes_of_different_sites_share_no_recordings() {
    let site = |listen: &str, settings: &str| {
        format!(
            "[[site]]\nlisten = [\"127.0.0.1:{listen}\"]\n[[site.route]]\npath = \"/v1/*\"\n[site.route.record]\n{settings}\n"
        )
    };
    let one = "upstreams = [\"http://127.0.0.1:1\"]";
    let other = "upstreams = [\"http://127.0.0.1:2\"]";
    let first = site("1", one);
    parse(&format!("{first}{}", site("2", one))).unwrap();
    let own = format!("{other}\nnamespace = \"other\"");
    parse(&format!("{first}{}", site("2", &own))).unwrap();
    assert_problem(
        &format!("{first}{}", site("2", other)),
        "has the path `/v1/*` and the namespace `recordings` too",
    );
}

#[test]
fn services_with_different_secrets_share_no_recordings() {
    let route = |path: &str, secret: &str, namespace: &str| {
        format!(
            "[[site.route]]\npath = \"{path}\"\n[site.route.proxy]\nsecret = \"{secret}\"\nallow = [\"https://a.example/**\"]\n{namespace}\n"
        )
    };
    let first =
        "[[site]]\nlisten = [\"127.0.0.1:1\"]\n".to_owned() + &route("/a", "0123456789abcdef", "");
    parse(&format!("{first}{}", route("/b", "0123456789abcdef", ""))).unwrap();
    let own = route("/b", "fedcba9876543210", "namespace = \"b\"");
    parse(&format!("{first}{own}")).unwrap();
    let shared = format!("{first}{}", route("/b", "fedcba9876543210", ""));
    assert_problem(&shared, "has the namespace `proxied` too");
}

#[test]
fn settings_of_the_proxy_protocol_are_checked() {
    let with = |settings: &str| proxy(&format!("{SECRET}\nallow = [\"http://h\"]\n{settings}"));
    parse(&with("")).unwrap();
    for (setting, message) in [
        ("namespace = \"\"", "is not a namespace"),
        ("base_url = \"http://h/\"", "is not the base of a URL"),
        ("connect_timeout = \"0\"", "too short"),
        ("recording_bytes_max = \"0\"", "is 0"),
    ] {
        assert_problem(&with(setting), message);
    }
    let allow = |patterns: &str| proxy(&format!("{SECRET}\nallow = {patterns}"));
    assert_problem(&allow("[]"), "`allow` is empty");
    let wrong = &problems(&allow("[\"https://a\", \"example.com\"]"))[0];
    assert_eq!(told(wrong).0, "7:23");
    assert!(wrong.message.contains("`example.com` does not begin with"));
}

#[test]
fn a_secret_is_never_shown() {
    let short = &problems(&proxy("secret = \"too-short\"\nallow = [\"http://h\"]"))[0];
    assert!(!short.message.contains("too-short"), "{}", short.message);
    let text = proxy(&format!(
        "{SECRET}\nprevious_secrets = [\"fedcba9876543210\"]\nallow = [\"http://h\"]"
    ));
    let config = parse(&text).unwrap();
    for shown in [toml::to_string(&config).unwrap(), format!("{config:?}")] {
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
        assert!(!shown.contains("fedcba9876543210"), "{shown}");
        assert!(shown.contains("[redacted]"), "{shown}");
    }
    let text = record(
        "request_headers = { set = { Authorization = \"Bearer abc\", X-Version = \"2\" }, add = { X-Api-Key = \"def\" } }",
    );
    let shown = toml::to_string(&parse(&text).unwrap()).unwrap();
    assert!(shown.contains("X-Version = \"2\""), "{shown}");
    for secret in ["abc", "def"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_secret_that_is_none_is_the_only_thing_that_is_wrong() {
    for (secret, message) in [
        ("short", "shorter than 16 bytes"),
        ("${UNSET}", "UNSET is not set"),
    ] {
        let text = format!(
            "[[site]]\nlisten = [\"127.0.0.1:1\"]\n[[site.route]]\npath = \"/p\"\n\
             proxy = {{ secret = \"{secret}\", allow = [\"https://a.example/**\"] }}\n"
        );
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains(message), "{found:?}");
    }
}
