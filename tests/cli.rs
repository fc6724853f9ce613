//! Behaviour of the command line, through the binary: against a server that fails on demand.

#[path = "cli/appending.rs"]
mod appending;
#[path = "cli/faulty.rs"]
mod faulty;
#[path = "cli/reading.rs"]
mod reading;
#[path = "cli/serving.rs"]
mod serving;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use faulty::{Fault, Server};

fn headwater(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command
        .args(arguments)
        .env("HEADWATER_URL", server.url())
        // However slow the machine is.
        .env("HEADWATER_RETRY_FOR", "1h")
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .env_remove("ALL_PROXY")
        .env_remove("all_proxy")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(server: &Server, arguments: &[&str]) -> Output {
    headwater(server, arguments).output().unwrap()
}

/// Runs a command that succeeds, and gives its output.
#[track_caller]
fn done(server: &Server, arguments: &[&str]) -> String {
    succeeded(run(server, arguments))
}

#[track_caller]
fn succeeded(output: Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}: {complaint}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that fails, and gives its exit code and complaint.
fn failed(server: &Server, arguments: &[&str]) -> (i32, String) {
    let output = run(server, arguments);
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn with_input(server: &Server, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = headwater(server, arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // The command may end before it has read everything: that is for its exit code to tell.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_stream_lives_through_all_commands() {
    let server = Server::start();
    let url = format!("{}/a/b%20c", server.url());
    assert_eq!(
        done(&server, &["create", "a/b c", "-t", "application/json"]),
        format!("{url}\n")
    );
    done(&server, &["append", "a/b c", "{\"n\": 1}", "-2", "[3]"]);
    assert_eq!(done(&server, &["read", "a/b c"]), "{\"n\":1}\n-2\n[3]\n");
    assert_eq!(
        done(&server, &["read", "--raw", &url]),
        "[{\"n\":1},-2,[3]]"
    );
    let head: serde_json::Value =
        serde_json::from_str(&done(&server, &["head", "--json", &url])).unwrap();
    assert_eq!(head["closed"], false);
    assert_eq!(head["content_type"], "application/json");
    let end = head["next_offset"].as_str().unwrap();
    assert_eq!(
        done(&server, &["fork", "a/b c", "copy"]),
        format!("{}/copy\n", server.url())
    );
    let fork = server.requests().pop().unwrap();
    assert_eq!(
        fork.header("stream-forked-from"),
        Some("/v1/stream/a/b%20c")
    );
    assert_eq!(done(&server, &["close", "a/b c"]), format!("{end}\n"));
    assert!(done(&server, &["head", "a/b c"]).contains("closed        yes"));
    assert_eq!(
        done(&server, &["tail", "a/b c", "--offset", "-1"])
            .lines()
            .count(),
        3
    );
    assert_eq!(done(&server, &["delete", "a/b c"]), "");
    assert_eq!(failed(&server, &["head", "a/b c"]).0, 3);
    assert_eq!(done(&server, &["read", "copy", "--offset", end]), "");
}

#[test]
fn create_sends_what_it_is_told() {
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from a file").unwrap();
    let file = file.path().to_str().unwrap();
    done(
        &server,
        &[
            "create",
            "s",
            "--ttl",
            "1h",
            "-t",
            "text/plain",
            "--closed",
            "-f",
            file,
            "-H",
            "X-Key: a: b",
        ],
    );
    let request = server.requests().pop().unwrap();
    assert_eq!(request.header("stream-ttl"), Some("3600"));
    assert_eq!(request.header("content-type"), Some("text/plain"));
    assert_eq!(request.header("x-key"), Some("a: b"));
    assert_eq!(server.content("s"), (vec!["from a file".to_owned()], true));
    let outcome = done(
        &server,
        &[
            "create",
            "u",
            "hello",
            "--expires-at",
            "2030-01-01T00:00:00Z",
            "--json",
        ],
    );
    let outcome: serde_json::Value = serde_json::from_str(&outcome).unwrap();
    assert_eq!(outcome["created"], true);
    let request = server.requests().pop().unwrap();
    assert_eq!(
        request.header("stream-expires-at"),
        Some("2030-01-01T00:00:00Z")
    );
    assert_eq!(request.header("content-type"), None);
}

#[test]
fn exit_codes_tell_failures_apart() {
    let answer = |status: u16| {
        let server = Server::with_plan(move |_| Fault::Refuse(status, vec![]));
        failed(&server, &["head", "s", "--retry-for", "0s"]).0
    };
    for (status, code) in [
        (400, 5),
        (401, 7),
        (403, 7),
        (404, 3),
        (409, 4),
        (410, 3),
        (413, 5),
        (429, 6),
        (500, 6),
        (503, 6),
    ] {
        assert_eq!(answer(status), code, "{status}");
    }
    let server = Server::start();
    server.create("s", "text/plain");
    server.close("s");
    let (code, complaint) = failed(&server, &["append", "s", "x"]);
    assert_eq!(code, 4);
    assert!(complaint.contains("the stream is closed"), "{complaint}");
    assert_eq!(failed(&server, &["append", "missing", "x"]).0, 3);
    assert_eq!(
        failed(&server, &["append", "s", "--file", "/does/not/exist"]).0,
        1
    );
    assert_eq!(
        failed(&server, &["create", "s", "-t", "application/json"]).0,
        4
    );
    let output = run(
        &server,
        &["create", "s", "text", "-t", "text/plain", "--closed"],
    );
    assert!(output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("is not appended"), "{told}");
    for usage in [
        &["append"][..],
        &["append", "s", "-H", "nonsense"],
        &["append", "s", "--jsonl", "--lines"],
        &["append", "s", "--jsonl"],
        &["append", "s", "--epoch", "1"],
        &["head", ".."],
        &["head", "ftp://127.0.0.1/s"],
        &["create", "s", "--ttl", "soon"],
    ] {
        assert_eq!(failed(&server, usage).0, 2, "{usage:?}");
    }
    let nobody = [
        "head",
        "s",
        "--url",
        "http://127.0.0.1:1",
        "--retry-for",
        "0s",
    ];
    let (code, complaint) = failed(&server, &nobody);
    assert_eq!(code, 6);
    assert!(
        complaint.contains("cannot connect to http://127.0.0.1:1"),
        "{complaint}"
    );
}

#[test]
fn an_overloaded_server_is_asked_again() {
    let mut refused = 0;
    let server = Server::with_plan(move |_| {
        refused += 1;
        match refused {
            1 => Fault::Refuse(503, vec![("retry-after", "0")]),
            2 => Fault::Refuse(429, vec![("retry-after", "1")]),
            3 => Fault::LoseRequest,
            _ => Fault::None,
        }
    });
    server.create("s", "text/plain");
    let since = std::time::Instant::now();
    done(&server, &["head", "s"]);
    assert!(
        since.elapsed() >= std::time::Duration::from_secs(1),
        "Retry-After is the least to wait"
    );
    assert_eq!(server.requests().len(), 4);
    let impatient = Server::with_plan(|_| Fault::Refuse(503, vec![("retry-after", "3600")]));
    assert_eq!(
        failed(&impatient, &["head", "s", "--retry-for", "30m"]).0,
        6
    );
}

#[test]
fn an_outage_is_told() {
    let server = Server::with_plan(|request| match request.number {
        0 => Fault::Refuse(503, vec![("retry-after", "2")]),
        _ => Fault::None,
    });
    server.create("s", "text/plain");
    let output = run(&server, &["head", "s"]);
    assert!(output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.ends_with("trying again for 1h\n"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_redirection_is_not_followed_and_is_no_success() {
    let server = Server::with_plan(|_| {
        Fault::Refuse(302, vec![("location", "http://127.0.0.1:1/elsewhere")])
    });
    server.create("s", "text/plain");
    for command in [
        &["append", "s", "x", "-t", "text/plain"][..],
        &["create", "t"],
        &["close", "s"],
        &["delete", "s"],
        &["read", "s"],
    ] {
        let (code, complaint) = failed(&server, command);
        assert_eq!(code, 1, "{command:?}: {complaint}");
        assert!(
            complaint.contains("http://127.0.0.1:1/elsewhere"),
            "{complaint}"
        );
    }
}

#[test]
fn a_lost_answer_to_delete_is_no_failure() {
    let server = Server::with_plan(|request| match request.number {
        0 => Fault::LoseAnswer,
        _ => Fault::None,
    });
    server.create("s", "text/plain");
    done(&server, &["delete", "s"]);
    assert_eq!(failed(&server, &["delete", "s"]).0, 3);
}

#[test]
fn the_commands_about_the_server_need_none() {
    let server = Server::start();
    assert_eq!(
        done(&server, &["version"]),
        concat!("headwater ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(done(&server, &["completions", shell]).contains("headwater"));
    }
    assert!(done(&server, &["schema"]).contains("json-schema.org"));
    assert!(done(&server, &["schema", "--markdown"]).contains("| `data_dir` |"));
    assert!(server.requests().is_empty());
}

#[test]
fn a_configuration_is_checked_before_anything_starts() {
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(file.path(), "data_dir = \"/tmp\"\nthread = 1\n[[site]]\n").unwrap();
    for command in ["validate", "run"] {
        let (code, complaint) = failed(&server, &[command, "--config", path]);
        assert_eq!(code, 2);
        assert!(complaint.contains(&format!("{path}:2:1")), "{complaint}");
        assert!(complaint.contains("did you mean `threads`?"), "{complaint}");
        assert!(
            complaint.contains("the key `listen` is missing"),
            "{complaint}"
        );
    }
    let site = "[[site]]\nlisten = [\"127.0.0.1:0\"]\nroute = [{ path = \"/*\", streams = {} }]\n";
    std::fs::write(file.path(), site).unwrap();
    assert_eq!(
        done(&server, &["validate", "--config", path]),
        format!("{path} is valid\n")
    );
    let printed = done(&server, &["validate", "--config", path, "--print"]);
    assert!(printed.contains("body_bytes_max = \"64MiB\""), "{printed}");
    assert_eq!(
        failed(&server, &["run", "--config", "/does/not/exist"]).0,
        2
    );
    assert_eq!(failed(&server, &["dev", "--listen", "nowhere"]).0, 2);
    assert_eq!(failed(&server, &["dev", "--listen", "127.0.0.1:4438"]).0, 2);
    let mut overridden = headwater(&server, &["validate", "--config", path]);
    let output = overridden
        .env("HEADWATER__LOG__DURABILITY", "never")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--> HEADWATER__LOG__DURABILITY"));
}
