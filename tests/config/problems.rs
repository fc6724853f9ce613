//! What is wrong is found, at its place, and with what to do.

use std::fs;
use std::path::{Path, PathBuf};

use super::{SITE, parse, problem, problems, told};

/// The only problem of `text` is at this place, says this, and hints at that.
#[track_caller]
fn assert_problem(text: &str, place: &str, message: &str, hint: &str) {
    assert_eq!(problem(text).0, place, "{text}");
    super::assert_problem(text, message, hint);
}

#[test]
fn unknown_keys_are_found_with_what_was_meant() {
    let at = |text: &str| format!("{text}{SITE}");
    assert_problem(
        &at("data_dri = \"x\"\n"),
        "1:1",
        "unknown key `data_dri`",
        "did you mean `data_dir`?",
    );
    assert_problem(
        &at("[log]\n  durabilty = \"os\"\n"),
        "2:3",
        "unknown key `durabilty`",
        "`durability`",
    );
    assert_problem(
        &at("colour = 1\n"),
        "1:1",
        "unknown key `colour`",
        "the keys here are",
    );
    let text = "[[site]]\nlisten = [\"127.0.0.1:1\"]\nroute = [{ path = \"/\", streams = { cach = \"public\" } }]\n";
    assert_problem(text, "3:36", "unknown key `cach`", "`cache`");
}

#[test]
fn a_key_in_the_wrong_table_is_sent_to_its_own() {
    let at = |text: &str| format!("{text}{SITE}");
    assert_problem(
        &at("[log]\nadmin = \"127.0.0.1:1\"\n"),
        "2:1",
        "unknown key `admin`",
        "`admin` belongs to the top level, before the first [table]",
    );
    let durability = at("durability = \"os\"\n");
    assert_problem(&durability, "1:1", "unknown key", "belongs to `log`");
    let namespace = SITE.replace("streams = {}", "streams = {}\nnamespace = \"x\"");
    assert_problem(&namespace, "7:1", "unknown key", "`site.route.streams`");
}

#[test]
fn a_retention_keeps_something_and_says_how_much() {
    let with = |retention: &str| {
        SITE.replace(
            "streams = {}",
            &format!("streams = {{ retention = {retention} }}"),
        )
    };
    for (retention, message) in [
        ("{}", "says neither `bytes` nor `age`"),
        ("{ bytes = 0 }", "`bytes` is 0"),
        ("{ age = \"0\" }", "`age` is 0s"),
        ("{ age = \"1500ms\" }", "`age` is 1500ms"),
    ] {
        let (_, told, _) = problem(&with(retention));
        assert!(told.contains(message), "{told}");
    }
    for retention in [
        "{ bytes = \"1GiB\" }",
        "{ age = \"7d\" }",
        "{ bytes = 1, age = \"1s\" }",
    ] {
        parse(&with(retention)).unwrap();
    }
}

#[test]
fn wrong_types_are_found() {
    for (text, place, message, hint) in [
        (
            "threads = \"many\"\n",
            "1:11",
            "the text \"many\", expected a whole number",
            "",
        ),
        ("threads = -1\n", "1:11", "the number -1", ""),
        (
            "threads = 99999999999999999999\n",
            "1:11",
            "too large a number",
            "",
        ),
        ("data_dir = 5\n", "1:12", "expected text in quotes", ""),
        (
            "shutdown_timeout = 10\n",
            "1:20",
            "expected a duration in quotes",
            "",
        ),
        (
            "shutdown_timeout = \"10\"\n",
            "1:20",
            "the unit is missing",
            "500ms",
        ),
        (
            "shutdown_timeout = \"10 parsecs\"\n",
            "1:20",
            "is unknown",
            "30s",
        ),
        (
            "admin = \"localhost:80\"\n",
            "1:9",
            "not an IP address",
            "127.0.0.1:4437",
        ),
        ("admin = \":80\"\n", "1:9", "no IP address", "127.0.0.1:80"),
        ("admin = 1979-05-27\n", "1:9", "a date or time", ""),
        ("log = \"sync\"\n", "1:7", "expected a table", ""),
        ("log = [\"sync\"]\n", "1:7", "found a list", ""),
        (
            "[log]\nsegment_bytes = \"4MB\"\n",
            "2:17",
            "`MB` is unknown",
            "64MiB",
        ),
        ("[log]\nsegment_bytes = -4\n", "2:17", "the number -4", ""),
        (
            "[log]\ndurability = \"synk\"\n",
            "2:14",
            "`synk` is not a value",
            "did you mean `sync`?",
        ),
        (
            "[log]\ndurability = true\n",
            "2:14",
            "found `true`",
            "\"sync\", \"os\"",
        ),
        (
            "[logging]\naccess = \"yes\"\n",
            "2:10",
            "expected `true` or `false`",
            "",
        ),
    ] {
        assert_problem(&format!("{text}{SITE}"), place, message, hint);
    }
    let text = SITE.replace("[\"127.0.0.1:4437\"]", "\"127.0.0.1:4437\"");
    assert_problem(
        &text,
        "3:10",
        "expected a list",
        "write [\"127.0.0.1:4437\"]",
    );
    let text = SITE.replace("[[site]]", "[site]");
    assert_problem(&text, "2:1", "expected a list", "[[…]]");
}

#[test]
fn what_is_missing_is_found() {
    assert_problem("", "1:1", "there is no site", "[[site]]");
    assert_problem(
        "[[site]]\nlisten = [\"127.0.0.1:1\"]\n",
        "1:1",
        "`route` is missing",
        "",
    );
    assert_problem(
        "\n[[site]]\nlisten = [\"127.0.0.1:1\"]\nroute = []\n",
        "4:9",
        "no route",
        "[[site.route]]",
    );
    assert_problem(
        "[[site]]\nroute = [{ path = \"/\", streams = {} }]\n",
        "1:1",
        "`listen` is missing",
        "",
    );
    let text = SITE.replace("[\"127.0.0.1:4437\"]", "[]");
    assert_problem(&text, "3:10", "`listen` is empty", "0.0.0.0:4437");
    let text = SITE.replace("streams = {}\n", "");
    assert_problem(
        &text,
        "4:1",
        "does not say what it serves",
        "add `streams = {}`",
    );
}

#[test]
fn values_out_of_range_are_found() {
    for (text, place, message) in [
        ("threads = 0\n", "1:11", "`threads` is 0"),
        ("data_dir = \"\"\n", "1:12", "`data_dir` is empty"),
        (
            "[logging]\nlevel = \"loud=very\"\n",
            "2:9",
            "`loud=very` is not a level",
        ),
        (
            "[logging]\nlevel = \"warning\"\n",
            "2:9",
            "`warning` is not a level",
        ),
        ("[log]\nsegment_bytes = 1\n", "2:17", "too small"),
        ("[log]\nqueue_ops_max = 0\n", "2:17", "`queue_ops_max` is 0"),
        ("[cache]\nentry_bytes_max = 1\n", "2:19", "too small"),
        ("[cache]\nfetches_max = 0\n", "2:15", "`fetches_max` is 0"),
        (
            "[cache]\nin_flight_bytes_max = \"1MiB\"\n",
            "2:23",
            "less than `entry_bytes_max`",
        ),
        (
            "[log]\nexpiry_interval = \"0s\"\n",
            "2:19",
            "no time at all",
        ),
        (
            "[log]\nqueue_bytes_max = \"1MiB\"\n",
            "2:19",
            "less than `limits.body_bytes_max`",
        ),
        (
            "[limits]\nbodies_in_flight_bytes_max = \"1MiB\"\n",
            "2:30",
            "less than `body_bytes_max`",
        ),
        ("[limits]\nh2_window_bytes = 1\n", "2:19", "too small"),
        ("[limits]\nunsent_bytes_max = 1\n", "2:20", "too small"),
        (
            "[limits]\nh2_window_bytes = \"4GiB\"\n",
            "2:19",
            "too large",
        ),
        (
            "[limits]\nwrite_timeout = \"0\"\n",
            "2:17",
            "no time at all",
        ),
    ] {
        assert_problem(&format!("{text}{SITE}"), place, message, "");
    }
    for (streams, message) in [
        ("sse_recycle = \"1999ms\"", "too short"),
        ("long_poll_timeout = \"0\"", "no time at all"),
        ("namespace = \"a b\"", "not a namespace"),
        (
            "base_url = \"streams.example.com\"",
            "not the base of a URL",
        ),
        (
            "base_url = \"https://streams.example.com/\"",
            "not the base of a URL",
        ),
    ] {
        let text = SITE.replace("{}", &format!("{{ {streams} }}"));
        let (place, found, _) = problem(&text);
        assert!(
            place.starts_with("6:") && found.contains(message),
            "{place} {found}"
        );
    }
}

#[test]
fn paths_and_hosts_are_checked() {
    for (path, message) in [
        ("v1/stream/*", "does not start with a slash"),
        ("/v1/*/stream", "elsewhere than at its end"),
        ("/v1/stream*", "elsewhere than at its end"),
        ("/v1/**", "elsewhere than at its end"),
        ("/v1?a=1", "no path of a request has"),
        ("/v1/../x", "a part `.` or `..`"),
    ] {
        assert_problem(&SITE.replace("/v1/stream/*", path), "5:8", message, "");
    }
    for path in ["/", "/*", "/v1/stream", "/v1/stream/*"] {
        parse(&SITE.replace("/v1/stream/*", path)).unwrap();
    }
    for (host, hint) in [
        ("*", "leave `hosts` out"),
        ("https://example.com", "without a scheme"),
        ("example.com:443", "without a port"),
        ("a..b", "such as streams.example.com"),
        ("a.*.b", "*.example.com"),
    ] {
        let text = SITE.replace(
            "[[site.route]]",
            &format!("hosts = [\"{host}\"]\n[[site.route]]"),
        );
        assert_problem(&text, "4:10", "is not a host name", hint);
    }
    let twice = format!("{SITE}[[site.route]]\npath = \"/v1/stream/*\"\nstreams = {{}}\n");
    assert_problem(&twice, "8:8", "is there twice", "");
}

#[test]
fn addresses_that_conflict_are_found() {
    let sites = |first: &str, second: &str| {
        let route = "route = [{ path = \"/\", streams = {} }]\n";
        format!("[[site]]\n{first}\n{route}[[site]]\n{second}\n{route}")
    };
    let text = sites(
        "listen = [\"127.0.0.1:1\"]",
        "listen = [\"127.0.0.1:2\", \"127.0.0.1:1\"]",
    );
    assert_problem(
        &text,
        "5:26",
        "already serves any host (line 2)",
        "different `hosts`",
    );
    let text = sites(
        "listen = [\"0.0.0.0:1\"]",
        "listen = [\"127.0.0.1:1\"]\nhosts = [\"a\"]",
    );
    assert_problem(&text, "5:11", "cannot both be listened at", "");
    let text = sites(
        "listen = [\"127.0.0.1:1\"]\nhosts = [\"a\", \"b\"]",
        "listen = [\"127.0.0.1:1\"]\nhosts = [\"c\", \"B\"]",
    );
    assert_problem(&text, "6:11", "already serves the host b (line 2)", "");
    let text = format!("admin = \"127.0.0.1:4437\"\n{SITE}");
    assert_problem(&text, "1:9", "the address of a site too", "4438");
    let text = SITE.replace(
        "[\"127.0.0.1:4437\"]",
        "[\"127.0.0.1:4437\", \"127.0.0.1:4437\"]",
    );
    assert_problem(&text, "3:29", "is there twice", "");
    let text = SITE.replace(
        "[\"127.0.0.1:4437\"]",
        "[\"127.0.0.1:4437\", \"0.0.0.0:4437\"]",
    );
    assert_problem(&text, "3:29", "cannot both be listened at", "leave one");
    parse(&SITE.replace("[\"127.0.0.1:4437\"]", "[\"0.0.0.0:4437\", \"[::]:4437\"]")).unwrap();
    // The system chooses a port for each of these.
    parse(&sites(
        "listen = [\"127.0.0.1:0\"]",
        "listen = [\"127.0.0.1:0\"]",
    ))
    .unwrap();
    parse(&sites(
        "listen = [\"127.0.0.1:1\"]",
        "listen = [\"127.0.0.1:1\"]\nhosts = [\"a\"]",
    ))
    .unwrap();
}

/// Writes a certificate and its key into `directory`.
fn certificate(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (
        directory.join(format!("{name}.pem")),
        directory.join(format!("{name}.key")),
    );
    fs::write(&cert, certified.cert.pem()).unwrap();
    fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

#[test]
fn certificates_are_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(directory.path(), "a");
    let (_, other_key) = certificate(directory.path(), "b");
    let with = |cert: &Path, key: &Path| {
        let pair = format!(
            "{{ cert = '{}', key = '{}' }}",
            cert.display(),
            key.display()
        );
        SITE.replace(
            "[[site.route]]",
            &format!("tls = {{ certificates = [\n{pair}\n] }}\n[[site.route]]"),
        )
    };
    parse(&with(&cert, &key)).unwrap();
    let missing = directory.path().join("missing.pem");
    assert_problem(
        &with(&missing, &key),
        "5:10",
        "cannot be read",
        "starts at the directory",
    );
    assert_problem(&with(&key, &key), "5:10", "has no certificate in it", "PEM");
    assert_problem(
        &with(&cert, &other_key),
        "5:1",
        "cannot be used together",
        "the key with which",
    );
    let (place, message, _) = problem(&with(&cert, &cert));
    assert!(
        place.starts_with("5:") && message.contains("no private key in it"),
        "{place} {message}"
    );
    let empty = SITE.replace(
        "[[site.route]]",
        "tls = { certificates = [] }\n[[site.route]]",
    );
    assert_problem(&empty, "4:7", "`certificates` is empty", "cert =");
    let both = format!(
        "{SITE}\n[[site]]\nlisten = [\"127.0.0.1:4437\"]\nhosts = [\"a\"]\nroute = [{{ path = \"/\", streams = {{}} }}]\ntls = {{ certificates = [{{ cert = '{}', key = '{}' }}] }}\n",
        cert.display(),
        key.display(),
    );
    assert_problem(
        &both,
        "9:11",
        "is used with TLS and without it (line 3)",
        "different ports",
    );
}

#[test]
fn everything_wrong_is_found_at_once() {
    let text = r#"
threads = "x"
shutdown_timeout = "1"
[log]
durabilty = "os"
segment_bytes = 1
[limits]
body_timeout = "0"
[[site]]
listen = ["nowhere", "127.0.0.1:1"]
[[site.route]]
path = 5
streams = {}
[[site.route]]
path = "v1"
streams = { cache = "both", sse_recycle = "1s" }
"#;
    let found: Vec<String> = problems(text)
        .iter()
        .map(|problem| told(problem).0)
        .collect();
    let lines: Vec<&str> = found
        .iter()
        .map(|place| place.split(':').next().unwrap())
        .collect();
    assert_eq!(
        lines,
        ["2", "3", "5", "6", "8", "10", "12", "15", "16", "16"]
    );
}

#[test]
fn what_is_not_toml_is_found() {
    assert_problem("data_dir = \n", "1:12", "not TOML", "");
    let (place, message, _) = told(&problems("a = 1\na = 2\n")[0]);
    assert_eq!(
        (place.as_str(), message.contains("duplicate")),
        ("2:1", true),
        "{message}"
    );
    assert!(
        problems("[[site]\n")
            .iter()
            .all(|problem| told(problem).1.contains("not TOML"))
    );
}

#[test]
fn a_problem_is_shown_with_its_line() {
    let text = format!("[log]\n\tdurability = \"synk\"\n{SITE}");
    let shown = parse(&text).unwrap_err().to_string();
    let expected = "\
error: `synk` is not a value of this setting
 --> headwater.toml:2:15
  |
2 | \tdurability = \"synk\"
  | \t             ^^^^^^
 hint: did you mean `sync`?
";
    assert_eq!(shown, expected);
}
