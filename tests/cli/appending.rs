//! Appending: each message once and in order, whatever goes wrong.

use std::io::Write as _;
use std::process::Stdio;

use super::faulty::{Fault, Server};
use super::{done, failed, headwater, lines, numbers, succeeded, with_input};

#[test]
fn every_way_of_appending_keeps_its_messages() {
    let server = Server::start();
    for (n, content_type, arguments, input, messages) in [
        ("1", "text/plain", &[][..], "a\nb", vec!["a\nb"]),
        ("2", "text/plain", &["--lines"], "a\nb", vec!["a\nb\n"]),
        (
            "3",
            "text/plain",
            &["--lines", "--batch-bytes", "2"],
            "a\nb\r\n",
            vec!["a\n", "b\r\n"],
        ),
        (
            "4",
            "text/plain",
            &["--pieces", "2", "-f", "-"],
            "abcde",
            vec!["ab", "cd", "e"],
        ),
        ("5", "application/json", &[], "[1, [2]]", vec!["1", "[2]"]),
        (
            "6",
            "application/json",
            &["--jsonl"],
            "{\"a\":1}\n\n[2]\n",
            vec!["{\"a\":1}", "[2]"],
        ),
        (
            "7",
            "application/json",
            &["--lines"],
            "a \"b\"\nc",
            vec!["\"a \\\"b\\\"\"", "\"c\""],
        ),
    ] {
        server.create(n, content_type);
        let arguments = [&["append", n][..], arguments].concat();
        let output = with_input(&server, &arguments, input.as_bytes());
        let count = messages.len();
        let next_offset = succeeded(output);
        assert_eq!(
            server.content(n),
            (messages.iter().map(|m| (*m).to_owned()).collect(), false),
            "{n}"
        );
        assert!(
            next_offset.trim_end().ends_with(&format!("_{count:016}")),
            "{next_offset}"
        );
    }
    server.create("8", "text/plain");
    done(&server, &["append", "8", "one", "two ", "--close"]);
    assert_eq!(
        server.content("8"),
        (vec!["one".to_owned(), "two ".to_owned()], true)
    );
    server.create("9", "application/json");
    let output = with_input(&server, &["append", "9", "--jsonl"], b"1\n2\nthree\n");
    assert_eq!(output.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("line 3 is not JSON"), "{complaint}");
    assert!(
        complaint.contains("what is before line 3 is appended"),
        "{complaint}"
    );
    assert_eq!(server.content("9").0, ["1", "2"]);
    server.create("10", "text/plain");
    assert_eq!(
        with_input(&server, &["append", "10"], b"").status.code(),
        Some(2)
    );
    succeeded(with_input(&server, &["append", "10", "--close"], b""));
    assert_eq!(server.content("10"), (vec![], true));
}

#[test]
fn messages_are_appended_once_whatever_gets_lost() {
    // Each batch meets each mishap in turn, at its first attempts.
    let server = Server::with_plan(|request| match request.number % 7 {
        _ if request.method != "POST" => Fault::None,
        1 => Fault::LoseAnswer,
        3 => Fault::LoseRequest,
        5 => Fault::Refuse(503, vec![("retry-after", "0")]),
        _ => Fault::None,
    });
    for content_type in ["application/json", "text/plain"] {
        let name = content_type.split('/').next_back().unwrap();
        server.create(name, content_type);
        let how = if name == "json" { "--jsonl" } else { "--lines" };
        let input = numbers(300).join("\n") + "\n";
        let arguments = [
            "append",
            name,
            how,
            "--batch-bytes",
            "100",
            "--in-flight",
            "8",
            "--close",
        ];
        succeeded(with_input(&server, &arguments, input.as_bytes()));
        let (messages, closed) = server.content(name);
        assert!(closed);
        let separator = if name == "json" { "\n" } else { "" };
        assert_eq!(lines(&messages.join(separator)), numbers(300), "{name}");
    }
}

#[test]
fn a_batch_that_is_overtaken_still_comes_before() {
    let server = Server::with_plan(|request| match request.header("producer-seq") {
        Some("1") => Fault::UntilOvertaken,
        _ => Fault::None,
    });
    server.create("s", "text/plain");
    let input = numbers(20).join("\n");
    let arguments = ["append", "s", "--lines", "--batch-bytes", "6"];
    succeeded(with_input(&server, &arguments, input.as_bytes()));
    assert_eq!(lines(&server.content("s").0.concat()), numbers(20));
}

#[test]
fn the_same_input_sent_again_is_not_appended_again() {
    let server = Server::start();
    server.create("s", "text/plain");
    let input = numbers(50).join("\n") + "\n";
    let arguments = [
        "append",
        "s",
        "--lines",
        "--batch-bytes",
        "20",
        "--producer-id",
        "import",
        "--json",
    ];
    let first = succeeded(with_input(&server, &arguments, input.as_bytes()));
    let longer = input.clone() + "50\n";
    let output = with_input(&server, &arguments, longer.as_bytes());
    assert!(String::from_utf8_lossy(&output.stderr).contains("had been appended before"));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["duplicate_batches"], 0);
    assert_eq!(outcome["duplicate_batches"], first["batches"]);
    // A higher epoch begins anew, and shuts out the lower one.
    done(
        &server,
        &[
            "append",
            "s",
            "new\n",
            "--producer-id",
            "import",
            "--epoch",
            "1",
        ],
    );
    let (code, complaint) = failed(
        &server,
        &["append", "s", "old\n", "--producer-id", "import"],
    );
    assert_eq!(code, 4);
    assert!(complaint.contains("is at epoch 1 already"), "{complaint}");
}

#[test]
fn lines_are_appended_as_they_come() {
    let server = Server::start();
    server.create("s", "text/plain");
    let mut child = headwater(&server, &["append", "s", "--lines"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for count in 1..4 {
        input.write_all(b"line\n").unwrap();
        // The question for the content type, and one append for each line, before the next is there.
        server.wait_for_requests(count + 1);
    }
    drop(input);
    succeeded(child.wait_with_output().unwrap());
    assert_eq!(server.content("s").0.len(), 3);
}
