use std::process::Command;

use pingora::services::Service as _;
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};

use super::capture::{logged, logged_by, logging};
use super::*;
use crate::config::Listen;
use crate::observe::admin;

/// Set in the process that [`a_process_logs_what_libraries_say`] starts.
const CHILD: &str = "HEADWATER_TEST_LOGS_CHILD";

#[test]
fn json_lines_have_their_fields_at_the_top() {
    let text = logged(LogFormat::Json, "", true, || {
        info!(streams = 3, "opened");
        error!(error = "disk \"full\"", "failed");
        info!(
            ratio = 0.5,
            nothing = f64::NAN,
            below = -1,
            text = %"a\nb",
            list = ?["x"],
            wide = u128::MAX,
            yes = true
        );
    });
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["message"], "opened");
    assert_eq!(lines[0]["streams"], 3);
    assert_eq!(lines[0]["target"], module_path!());
    assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[1]["error"], "disk \"full\"");
    let mut fields = lines[2].clone();
    for always in ["timestamp", "level", "target"] {
        assert!(fields.as_object_mut().unwrap().remove(always).is_some());
    }
    assert_eq!(
        fields,
        json!({
            "ratio": 0.5,
            "nothing": null,
            "below": -1,
            "text": "a\nb",
            "list": "[\"x\"]",
            "wide": u128::MAX.to_string(),
            "yes": true,
        })
    );
}

#[test]
fn human_lines_are_coloured_only_if_asked() {
    let act = || info!(streams = 3, "opened");
    let plain = logged(LogFormat::Human, "info", false, act);
    assert!(
        plain.ends_with(&format!("INFO {}: opened streams=3\n", module_path!())),
        "{plain}"
    );
    let coloured = logged(LogFormat::Human, "info", true, act);
    assert!(coloured.contains("\x1b["), "{coloured}");
}

#[test]
fn secrets_are_taken_out_of_every_format() {
    let act = || {
        warn!(
            "cannot write: GET /v1/stream/a?offset=-1&signature=f00ba4f00ba4, Host: a, headers: {:?}",
            [("authorization", "Bearer f00ba4f00ba4")]
        );
        info!(
            token = "f00ba4f00ba4",
            key = "f00ba4f00ba4",
            seen = true,
            "x"
        );
        info!(token = %"f00ba4f00ba4", "y");
    };
    for (format, colours) in [
        (LogFormat::Json, false),
        (LogFormat::Human, false),
        (LogFormat::Human, true),
    ] {
        let text = logged(format, "trace", colours, act);
        assert!(!text.contains("f00ba4f00ba4"), "{text}");
        assert!(text.contains("offset=-1&signature=[redacted]"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
    for line in logged(LogFormat::Json, "trace", false, act).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["message"] == "x" {
            assert_eq!(line["token"], crate::secrets::REDACTED);
            assert_eq!(line["seen"], true);
        }
    }
}

/// What reaches the log of one line per level and target.
fn reached(level: &str) -> Vec<String> {
    let text = logged(LogFormat::Json, level, false, || {
        debug!(target: "headwater::log", "own debug");
        info!(target: "headwater::access", "own access");
        error!(target: "headwater::log", "own error");
        debug!(target: "pingora_proxy", "pingora debug");
        info!(target: "pingora_core::server", "pingora info");
        warn!(target: "pingora_core::server", "pingora warn");
        error!(target: "pingora_core::server", "pingora error");
        error!(target: "pingora_core::connectors", "pingora reuse");
        debug!(target: "h2::codec", "h2 debug");
    });
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["message"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn libraries_are_quiet_unless_named() {
    let usual = ["own access", "own error", "pingora warn", "pingora error"];
    assert_eq!(reached(""), usual);
    assert_eq!(reached("info"), usual);
    assert_eq!(reached(" INFO , "), usual);
    assert_eq!(
        reached("debug"),
        [
            "own debug",
            "own access",
            "own error",
            "pingora warn",
            "pingora error"
        ]
    );
    assert_eq!(reached("error"), ["own error", "pingora error"]);
    assert!(reached("off").is_empty());
    assert_eq!(
        reached("info,headwater::access=off,pingora_core=info"),
        [
            "own error",
            "pingora info",
            "pingora warn",
            "pingora error",
            "pingora reuse"
        ]
    );
    assert_eq!(
        reached("off,pingora=error"),
        ["pingora error", "pingora reuse"]
    );
}

#[test]
fn the_access_log_can_be_switched_off() {
    let silent = Logging {
        access: false,
        ..logging(LogFormat::Json, "debug,headwater=debug")
    };
    let text = logged_by(&silent, false, || {
        info!(target: "headwater::access", "own access");
        info!(target: "headwater::log", "own line");
    });
    assert!(text.contains("own line"), "{text}");
    assert!(!text.contains("own access"), "{text}");
}

/// The logger is the process's, so it is tried in a process of its own, with a real line of
/// Pingora's that comes through the `log` crate.
#[test]
fn a_process_logs_what_libraries_say() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "observe::logs::tests::child", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let find = |message: &str| {
        lines
            .iter()
            .find(|line| {
                line["message"]
                    .as_str()
                    .is_some_and(|m| m.contains(message))
            })
            .unwrap_or_else(|| panic!("no \"{message}\" in {text}"))
    };
    let bridged = find("is in use, will try again");
    assert_eq!(bridged["level"], "WARN");
    assert_eq!(bridged["target"], "pingora_core::listeners::l4");
    let mut members: Vec<&String> = bridged.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["level", "message", "target", "timestamp"]);
    assert_eq!(find("own line")["level"], "INFO");
    assert_eq!(find("after the end")["level"], "INFO");
}

#[test]
#[ignore = "started by another test, in a process of its own"]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let settings = logging(LogFormat::Json, "info");
    let logs = init(&settings, dropped.clone()).unwrap();
    assert!(matches!(
        init(&settings, dropped.clone()),
        Err(LogError::Started)
    ));
    info!("own line");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let parts = admin::Parts {
            metrics: Arc::default(),
            readiness: Arc::new(|| admin::Readiness::Ready),
            checkpoint: Arc::new(|name| Ok(name.into())),
            purge: Arc::new(|_| None),
        };
        let mut service = admin::service(parts, &Listen::Tcp(address)).unwrap();
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let binding = service.start_service(None, stopped, 1);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), binding).await;
    });
    drop(logs);
    info!("after the end");
    assert_eq!(dropped.get(), 0);
}
