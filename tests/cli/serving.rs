//! The commands with the server that they belong to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{lines, numbers};

/// A server, as a process of its own.
struct Dev {
    child: Child,
    /// Where it serves streams.
    address: String,
}

impl Dev {
    /// Starts `headwater dev` at `address`, and waits until it is ready.
    fn start(data: &Path, address: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command
            .args(["dev", "--admin", "none", "--listen", address, "--data"])
            .arg(data);
        Self::spawn(&mut command)
    }

    /// Starts `headwater run` with TLS and this certificate.
    fn start_tls(data: &Path, certificate: &rcgen::Certificate, key: &rcgen::KeyPair) -> Self {
        let file = |name: &str, text: String| {
            let path = data.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let config = format!(
            "data_dir = '{}'\n[[site]]\nlisten = ['127.0.0.1:0']\n\
             tls = {{ certificates = [{{ cert = '{}', key = '{}' }}] }}\n\
             route = [{{ path = '/v1/stream/*', streams = {{}} }}]\n",
            data.join("data").display(),
            file("cert.pem", certificate.pem()),
            file("key.pem", key.serialize_pem()),
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command
            .args(["run", "--config"])
            .arg(file("headwater.toml", config));
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .env("HEADWATER__LOGGING__FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = None;
        for line in &mut log {
            let line = line.unwrap();
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            match entry["message"].as_str() {
                Some("listening") => address = entry["address"].as_str().map(str::to_owned),
                Some("headwater is ready") => break,
                _ => {}
            }
        }
        // Its log goes on, and must be read so that it does not stand still.
        std::thread::spawn(move || log.for_each(drop));
        let address = address.expect("the server says where it listens before it is ready");
        Self { child, address }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command
            .args(arguments)
            .env(
                "HEADWATER_URL",
                format!("http://{}/v1/stream", self.address),
            )
            // However slow the machine is.
            .env("HEADWATER_RETRY_FOR", "1h")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Runs a command that succeeds, and gives its output.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {:?}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Kills it as a crash would, and starts it again at the same address.
    fn crash(&mut self, data: &Path) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Self::start(data, &self.address.clone());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_command_works() {
    let data = tempfile::tempdir().unwrap();
    let server = Dev::start(data.path(), "127.0.0.1:0");
    server.done(&["create", "a/b", "-t", "application/json"]);
    let first = server.done(&["append", "a/b", "1", "{\"n\":2}"]);
    server.done(&["append", "a/b", "[3]"]);
    assert_eq!(server.done(&["read", "a/b"]), "1\n{\"n\":2}\n[3]\n");
    assert_eq!(
        server.done(&["read", "a/b", "--offset", first.trim()]),
        "[3]\n"
    );
    server.done(&["fork", "a/b", "c", "--offset", first.trim()]);
    server.done(&["append", "c", "4", "--close"]);
    assert_eq!(
        server.done(&["tail", "c", "--offset", "-1"]),
        "1\n{\"n\":2}\n4\n"
    );
    let head: serde_json::Value =
        serde_json::from_str(&server.done(&["head", "c", "--json"])).unwrap();
    assert_eq!(head["closed"], true);
    server.done(&["close", "a/b"]);
    server.done(&["delete", "c"]);
    assert_eq!(
        server.command(&["head", "c"]).status().unwrap().code(),
        Some(3)
    );
    assert_eq!(
        server
            .command(&["append", "a/b", "5"])
            .status()
            .unwrap()
            .code(),
        Some(4)
    );
}

#[test]
fn a_crash_of_the_server_loses_and_doubles_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Dev::start(data.path(), "127.0.0.1:0");
    for (content_type, how) in [("application/json", "--jsonl"), ("text/plain", "--lines")] {
        let name = content_type.replace('/', "-");
        server.done(&["create", &name, "-t", content_type]);
        let tail = server
            .command(&["tail", &name, "--offset", "-1"])
            .spawn()
            .unwrap();
        let arguments = ["append", &name, how, "--batch-bytes", "2KiB"];
        let mut append = server
            .command(&arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = append.stdin.take().unwrap();
        let all = numbers(60_000);
        for (n, part) in all.chunks(20_000).enumerate() {
            if n > 0 {
                server.crash(data.path());
            }
            // More than the pipe and the command hold: so some of it is on its way at the crash.
            input
                .write_all((part.join("\n") + "\n").as_bytes())
                .unwrap();
        }
        drop(input);
        assert!(append.wait().unwrap().success());
        server.done(&["close", &name]);
        let followed = tail.wait_with_output().unwrap();
        assert!(followed.status.success());
        assert_eq!(lines(&server.done(&["read", &name])), all, "{name}");
        assert_eq!(
            lines(&String::from_utf8(followed.stdout).unwrap()),
            all,
            "{name}"
        );
    }
}

/// A certificate for 127.0.0.1 that signs itself, and its key.
fn self_signed(is_ca: rcgen::IsCa) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = is_ca;
    (params.self_signed(&key).unwrap(), key)
}

#[test]
fn a_certificate_that_is_not_accepted_is_explained_at_once() {
    let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    for (is_ca, trusted, advice) in [
        (rcgen::IsCa::NoCa, false, Some("give --cacert")),
        (rcgen::IsCa::ExplicitNoCa, true, None),
        (authority, true, Some("(CA:TRUE)")),
    ] {
        let data = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(is_ca);
        let server = Dev::start_tls(data.path(), &certificate, &key);
        let url = format!("https://{}/v1/stream", server.address);
        let file = data.path().join("cert.pem");
        let cacert = ["--cacert", file.to_str().unwrap()];
        let output = server
            .command(&["create", "s", "--url", &url])
            .args(cacert.iter().filter(|_| trusted))
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        let Some(advice) = advice else {
            assert!(output.status.success(), "{complaint}");
            continue;
        };
        // Though it would go on trying for an hour.
        assert_eq!(output.status.code(), Some(6), "{complaint}");
        assert!(complaint.contains(advice), "{complaint}");
    }
}

#[test]
fn certificates_are_read_again_at_a_hangup() {
    let data = tempfile::tempdir().unwrap();
    let (certificate, key) = self_signed(rcgen::IsCa::ExplicitNoCa);
    let server = Dev::start_tls(data.path(), &certificate, &key);
    let url = format!("https://{}/v1/stream", server.address);
    let file = |name: &str| data.path().join(name);
    std::fs::copy(file("cert.pem"), file("old.pem")).unwrap();
    let connects = |trusted: &str| {
        let trusted = file(trusted);
        let arguments = ["create", "s", "--url", &url, "--cacert"];
        let mut command = server.command(&arguments);
        command.arg(trusted).stderr(Stdio::null());
        command.status().unwrap().success()
    };
    let hang_up = || {
        let mut kill = Command::new("kill");
        kill.args(["-HUP", &server.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    };
    assert!(connects("old.pem"));

    // Half of a pair is not used, and ends nothing.
    let (renewed, key) = self_signed(rcgen::IsCa::ExplicitNoCa);
    std::fs::write(file("cert.pem"), renewed.pem()).unwrap();
    hang_up();
    assert!(connects("old.pem"));

    std::fs::write(file("key.pem"), key.serialize_pem()).unwrap();
    hang_up();
    while !connects("cert.pem") {}
    assert!(!connects("old.pem"));
}
