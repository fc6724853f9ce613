use std::net::SocketAddr;

use serde_json::{Value, json};

use super::*;
use crate::config::LogFormat;
use crate::observe::logs::capture::logged;

const ROUTE: &str = "/v1/stream/*";

/// The one line that `act` logs, without its time.
fn line(act: impl FnOnce(&Access<'_>)) -> Value {
    let client: SocketAddr = "192.0.2.7:1234".parse().unwrap();
    let text = logged(LogFormat::Json, "info", false, || {
        act(&Access {
            method: "GET",
            path: "/v1/stream/a%20b",
            query: Some("offset=-1&signature=f00ba4"),
            route: ROUTE,
            client: Some(&client),
            version: Version::HTTP_11,
        });
    });
    let mut line: Value = serde_json::from_str(&text).unwrap();
    assert!(line.as_object_mut().unwrap().remove("timestamp").is_some());
    line
}

#[test]
fn a_request_is_one_line_with_all_its_fields() {
    let line = line(|access| {
        access.finished(&Finished {
            status: 200,
            bytes: 512,
            elapsed: Duration::from_micros(1_234),
            offsets: Some((&"0_0", &"0_520")),
            live: None,
            stream: None,
        });
    });
    assert_eq!(
        line,
        json!({
            "level": "INFO",
            "target": TARGET,
            "message": "request",
            "method": "GET",
            "path": "/v1/stream/a%20b",
            "query": "offset=-1&signature=[redacted]",
            "status": 200,
            "bytes": 512,
            "duration_ms": 1.234,
            "offset": "0_0",
            "next_offset": "0_520",
            "client": "192.0.2.7:1234",
            "http": "1.1",
            "route": ROUTE,
        })
    );
}

#[test]
fn a_live_reader_is_a_line_at_each_end() {
    let opened = line(|access| access.live_opened(Live::Sse, &"0_520"));
    assert_eq!(opened["message"], "live opened");
    assert_eq!(opened["mode"], "sse");
    assert_eq!(opened["offset"], "0_520");
    assert_eq!(opened["route"], ROUTE);
    assert!(opened.get("status").is_none());

    let ended = line(|access| {
        access.finished(&Finished {
            status: 200,
            bytes: 70,
            elapsed: Duration::from_mins(1),
            offsets: Some((&"0_520", &"0_600")),
            live: Some((Live::Sse, LiveEnd::Recycled)),
            stream: None,
        });
    });
    assert_eq!(ended["message"], "live ended");
    assert_eq!(ended["mode"], "sse");
    assert_eq!(ended["reason"], "recycled");
    assert_eq!(ended["duration_ms"], 60000.0);
    assert_eq!(ended["bytes"], 70);
    assert!(ended.get("error").is_none());
}

#[test]
fn a_failure_is_told_without_secrets() {
    let ended = line(|access| {
        access.finished(&Finished {
            status: 200,
            bytes: 0,
            elapsed: Duration::ZERO,
            offsets: None,
            live: Some((
                Live::LongPoll,
                LiveEnd::Failed("refused: GET /a?token=f00ba4"),
            )),
            stream: None,
        });
    });
    assert_eq!(ended["reason"], "failed");
    assert_eq!(ended["error"], "refused: GET /a?token=[redacted]");
    assert!(ended.get("offset").is_none());
}

#[test]
fn a_request_cannot_forge_a_line() {
    let text = logged(LogFormat::Human, "info", false, || {
        Access {
            method: "GET\n",
            path: "/a\r\n2026-01-01 INFO headwater: forged\x1b[2J",
            query: None,
            route: ROUTE,
            client: None,
            version: Version::HTTP_2,
        }
        .live_opened(Live::LongPoll, &"-1");
    });
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(!text.contains(['\r', '\x1b']), "{text}");
    assert!(text.contains("http=\"2\""), "{text}");
}

#[test]
fn a_directive_silences_it() {
    let text = logged(
        LogFormat::Human,
        "info,headwater::access=off",
        false,
        || {
            assert!(!enabled());
            Access {
                method: "GET",
                path: "/",
                query: None,
                route: ROUTE,
                client: None,
                version: Version::HTTP_11,
            }
            .finished(&Finished {
                status: 200,
                bytes: 0,
                elapsed: Duration::ZERO,
                offsets: None,
                live: None,
                stream: None,
            });
        },
    );
    assert_eq!(text, "");
    logged(LogFormat::Human, "info", false, || assert!(enabled()));
}

#[test]
fn the_debug_form_shows_no_secret() {
    let access = Access {
        method: "GET",
        path: "/",
        query: Some("token=f00ba4"),
        route: ROUTE,
        client: None,
        version: Version::HTTP_11,
    };
    let shown = format!("{access:?}");
    assert!(shown.contains("token=[redacted]"), "{shown}");
    assert!(!shown.contains("f00ba4"), "{shown}");
}
