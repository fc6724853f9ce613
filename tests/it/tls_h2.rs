//! TLS and HTTP/2, with curl as the client: certificates by the name asked for,
//! the protocol by ALPN, versions of TLS, and the whole protocol over HTTP/2;
//! and Unix sockets.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

use crate::common::{Server, Setup, unique, wait_until};
use crate::edge::figure;

const HOSTS: [&str; 2] = ["one.test", "two.test"];

/// A server with a certificate for each of the hosts, and the files of these.
pub(crate) struct TlsServer {
    pub(crate) server: Server,
    certificates: TempDir,
}

impl TlsServer {
    pub(crate) fn start(mut setup: Setup) -> Self {
        let certificates = tempfile::tempdir().expect("a temporary directory");
        let mut list = Vec::new();
        for host in HOSTS {
            let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("certificate");
            let cert = certificates.path().join(format!("{host}.pem"));
            let key = certificates.path().join(format!("{host}.key"));
            fs::write(&cert, made.cert.pem()).expect("write");
            fs::write(&key, made.signing_key.serialize_pem()).expect("write");
            list.push(format!(
                r#"{{ cert = "{}", key = "{}" }}"#,
                cert.display(),
                key.display()
            ));
        }
        setup.site = format!("tls = {{ certificates = [{}] }}", list.join(", "));
        Self {
            server: setup.start(),
            certificates,
        }
    }

    fn certificate(&self, host: &str) -> PathBuf {
        self.certificates.path().join(format!("{host}.pem"))
    }

    fn url(host: &str, server: &Server, target: &str) -> String {
        format!("https://{host}:{}{target}", server.address().port())
    }

    /// A curl that trusts this host's certificate only.
    fn curl(&self, host: &str, target: &str) -> Command {
        let mut curl = curl();
        let port = self.server.address().port();
        curl.arg("--cacert")
            .arg(self.certificate(host))
            .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
            .arg(Self::url(host, &self.server, target));
        curl
    }

    /// As `curl`, by HTTP/2; fails when the server does not speak it.
    pub(crate) fn h2(&self, target: &str, arguments: &[&str]) -> Answer {
        let mut curl = self.curl(HOSTS[0], target);
        curl.arg("--http2").args(arguments);
        let answer = Answer::of(&mut curl);
        assert_eq!(answer.version, "2", "{answer:?}");
        answer
    }

    /// A curl that sends by HTTP/2 what it is given, as it comes, and reads the answer meanwhile.
    pub(crate) fn upload(&self, target: &str, arguments: &[&str]) -> Child {
        self.curl(HOSTS[0], target)
            .args(["--http2", "--upload-file", "."])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl")
    }
}

/// Who connects and does not shake hands counts as connected, and is cut off.
#[test]
fn handshakes_that_never_come() {
    let tls = TlsServer::start(Setup {
        limits: "connections_max = 4\nhandshake_timeout = \"1s\"".to_owned(),
        ..Setup::quick()
    });
    let address = tls.server.address();
    let target = unique("handshakes");
    let put = || {
        let mut curl = tls.curl(HOSTS[0], &target);
        curl.args(["-X", "PUT", "-H", "content-type: text/plain"]);
        run(&mut curl).status.success()
    };
    let silent: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let figure = |name| figure(&tls.server, name);
    wait_until("they are cut off", || {
        figure("headwater_tls_handshake_failures_total") == 4
    });
    for mut silent in silent {
        assert!(!silent.read(&mut [0]).is_ok_and(|bytes| bytes > 0));
    }
    wait_until("there is room again", put);
    let mut wrong = TcpStream::connect(address).unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    wait_until("it is refused", || {
        figure("headwater_tls_handshake_failures_total") == 5
    });
    assert!(
        !tls.server.said().contains("ERROR"),
        "{}",
        tls.server.said()
    );
    let refused = figure("headwater_refusals_total{reason=\"connections\"}");
    let all: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    wait_until("those that shake hands are counted", || {
        figure("headwater_refusals_total{reason=\"connections\"}") >= refused + 4
    });
    drop(all);
    wait_until("there is room again", put);
}

/// Waits for what it is told to, and reports how it went in its last line.
fn curl() -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "180"])
        .args(["--write-out", "\n%{http_code} %{http_version}"]);
    curl
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn of(curl: &mut Command) -> Self {
        let output = run(curl);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{curl:?}: {error}");
        Self::parse(&output.stdout)
    }

    pub(crate) fn parse(stdout: &[u8]) -> Self {
        let at = stdout
            .iter()
            .rposition(|byte| *byte == b'\n')
            .expect("a last line");
        let last = String::from_utf8_lossy(&stdout[at + 1..]).into_owned();
        let (status, version) = last.split_once(' ').expect("status and version");
        Self {
            status: status.parse().expect("a status"),
            version: version.to_owned(),
            body: stdout[..at].to_vec(),
        }
    }
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("curl")
}

#[test]
fn http_2_carries_the_protocol() {
    let tls = TlsServer::start(Setup::quick());
    let target = unique("h2");
    let text = ["--header", "content-type: text/plain"];
    let put = [&["--request", "PUT"], &text[..]].concat();
    assert_eq!(tls.h2(&target, &put).status, 201);
    assert_eq!(tls.h2(&target, &put).status, 200);

    // An upload of ten windows and more, in both framings that curl knows.
    let upload = tls.server.dir().join("upload");
    let content: Vec<u8> = (0..10 << 20).map(|n: u32| (n / 7) as u8).collect();
    fs::write(&upload, &content).unwrap();
    let data = format!("@{}", upload.display());
    let post = [&["--data-binary", &data], &text[..]].concat();
    assert_eq!(tls.h2(&target, &post).status, 204);
    let read = tls.h2(&target, &[]);
    assert_eq!(read.status, 200);
    assert!(read.body == content, "{} bytes came back", read.body.len());

    let missing = tls.h2(&unique("nothing"), &[]);
    assert_eq!(missing.status, 404);
    let problem: serde_json::Value = serde_json::from_slice(&missing.body).expect("JSON");
    assert!(problem["code"].is_string());

    let close = ["--request", "POST", "--header", "stream-closed: true"];
    assert_eq!(tls.h2(&target, &close).status, 204);
    assert_eq!(tls.h2(&target, &post).status, 409);
    assert_eq!(tls.h2(&target, &["--request", "DELETE"]).status, 204);
    assert_eq!(tls.h2(&target, &["--head"]).status, 404);
}

/// An upload whose length curl does not know, so that it is sent as it comes.
#[test]
fn http_2_takes_a_body_of_unknown_length() {
    let tls = TlsServer::start(Setup::quick());
    let target = unique("h2-streamed");
    let text = ["--header", "content-type: text/plain"];
    tls.h2(&target, &[&["--request", "PUT"], &text[..]].concat());
    let content = "x".repeat(1 << 20);
    let file = tls.server.dir().join("piped");
    fs::write(&file, &content).unwrap();
    let mut curl = tls.curl(HOSTS[0], &target);
    curl.args(["--http2", "--request", "POST", "--upload-file", "-"])
        .args(text)
        .stdin(fs::File::open(&file).unwrap());
    let output = curl.output().expect("curl");
    assert_eq!(Answer::parse(&output.stdout).status, 204, "{output:?}");
    assert!(tls.h2(&target, &[]).body == content.as_bytes());
}

#[test]
fn many_requests_share_one_http_2_connection() {
    let tls = TlsServer::start(Setup::quick());
    let target = unique("h2-shared");
    let put = [
        "--request",
        "PUT",
        "--header",
        "content-type: text/plain",
        "--data",
        "abc",
    ];
    assert_eq!(tls.h2(&target, &put).status, 201);
    let mut curl = tls.curl(HOSTS[0], &target);
    curl.args(["--http2", "--parallel", "--parallel-max", "50"]);
    for _ in 1..200 {
        curl.arg(TlsServer::url(HOSTS[0], &tls.server, &target));
    }
    let output = run(&mut curl);
    assert!(output.status.success(), "{output:?}");
    // Bodies and the lines about them are mixed as they come.
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("200 2").count(), 200);
    assert_eq!(text.matches("abc").count(), 200);
}

/// What a curl that goes on running has printed so far.
struct Running {
    curl: Child,
    lines: BufReader<ChildStdout>,
    seen: String,
}

impl Running {
    fn start(mut curl: Command) -> Self {
        let mut curl = curl
            .arg("--no-buffer")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl");
        let lines = BufReader::new(curl.stdout.take().expect("piped"));
        Self {
            curl,
            lines,
            seen: String::new(),
        }
    }

    /// Reads on until this has been printed; curl's own limit of time ends a hang.
    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let read = self.lines.read_line(&mut self.seen).expect("UTF-8");
            assert!(read > 0, "curl ended without {text:?}:\n{}", self.seen);
        }
    }

    fn finish(mut self) -> Answer {
        std::io::Read::read_to_string(&mut self.lines, &mut self.seen).expect("UTF-8");
        let status = self.curl.wait().expect("curl");
        assert!(status.success(), "{status}\n{}", self.seen);
        Answer::parse(self.seen.as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

#[test]
fn live_reading_over_http_2() {
    let tls = TlsServer::start(Setup {
        streams: vec![r#"sse_recycle = "1h""#.to_owned()],
        ..Setup::quick()
    });
    let target = unique("h2-live");
    let text = ["--header", "content-type: text/plain"];
    let append = |message: &str| {
        let post = [&["--data", message], &text[..]].concat();
        assert_eq!(tls.h2(&target, &post).status, 204);
    };
    tls.h2(&target, &[&["--request", "PUT"], &text[..]].concat());
    append("first");

    let mut curl = tls.curl(HOSTS[0], &format!("{target}?offset=-1&live=sse"));
    curl.arg("--http2");
    let mut events = Running::start(curl);
    events.wait_for("data:first\n");
    for n in 0..10 {
        let message = format!("message {n}");
        append(&message);
        events.wait_for(&format!("data:{message}\n"));
    }
    let mut curl = tls.curl(HOSTS[0], &format!("{target}?offset=now&live=sse"));
    curl.arg("--http2");
    let mut late = Running::start(curl);
    late.wait_for("upToDate");
    let close = [
        &["--header", "stream-closed: true", "--data", "last"],
        &text[..],
    ]
    .concat();
    assert_eq!(tls.h2(&target, &close).status, 204);
    for mut reader in [events, late] {
        reader.wait_for("data:last\n");
        reader.wait_for("\"streamClosed\":true");
        let answer = reader.finish();
        assert_eq!((answer.status, answer.version.as_str()), (200, "2"));
    }
}

/// Here it is HTTP/2's own window that fills, not the socket.
#[test]
fn a_reader_over_http_2_that_takes_nothing_is_cut_off() {
    let mut tls = TlsServer::start(Setup {
        limits: "write_timeout = \"1s\"".to_owned(),
        streams: vec![r#"sse_recycle = "1h""#.to_owned()],
        ..Setup::quick()
    });
    let target = unique("h2-slow");
    let put = ["--request", "PUT", "--header", "content-type: text/plain"];
    assert_eq!(tls.h2(&target, &put).status, 201);
    // Nobody reads what curl prints, so it stops reading itself.
    let mut readers = Vec::new();
    for query in ["offset=-1&live=sse", "offset=now&live=sse"] {
        let mut curl = tls.curl(HOSTS[0], &format!("{target}?{query}"));
        curl.arg("--http2");
        readers.push(Running::start(curl));
    }
    let live = |server: &Server, count: u32| {
        let metrics = String::from_utf8(server.admin("/metrics").body).unwrap();
        metrics.contains(&format!("headwater_live_readers{{mode=\"sse\"}} {count}\n"))
    };
    wait_until("they are connected", || live(&tls.server, 2));
    let upload = tls.server.dir().join("upload");
    fs::write(&upload, "x".repeat(4 << 20)).unwrap();
    let data = format!("@{}", upload.display());
    let post = [
        "--data-binary",
        &data,
        "--header",
        "content-type: text/plain",
    ];
    for _ in 0..8 {
        assert_eq!(tls.h2(&target, &post).status, 204);
    }
    wait_until("they are cut off", || live(&tls.server, 0));
    drop(readers);
    assert!(tls.server.is_alive());
    assert_eq!(tls.h2(&target, &["--head"]).status, 200);
}

#[test]
fn long_polling_over_http_2() {
    let tls = TlsServer::start(Setup::quick());
    let target = unique("h2-poll");
    let text = ["--header", "content-type: text/plain"];
    tls.h2(&target, &[&["--request", "PUT"], &text[..]].concat());
    let poll = format!("{target}?offset=-1&live=long-poll");
    assert_eq!(tls.h2(&poll, &[]).status, 204);
    std::thread::scope(|scope| {
        // Polls come and go until one of them meets the message.
        let polling = scope.spawn(|| {
            let mut answer = tls.h2(&poll, &[]);
            while answer.status == 204 {
                answer = tls.h2(&poll, &[]);
            }
            answer
        });
        let post = [&["--data", "arrived"], &text[..]].concat();
        assert_eq!(tls.h2(&target, &post).status, 204);
        let answer = polling.join().unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, b"arrived");
    });
}

#[test]
fn alpn_chooses_the_protocol() {
    let tls = TlsServer::start(Setup::quick());
    let target = unique("alpn");
    let put = [
        "--request",
        "PUT",
        "--header",
        "content-type: text/plain",
        "--data",
        "abc",
    ];
    assert_eq!(tls.h2(&target, &put).status, 201);
    for (argument, version) in [("--http1.1", "1.1"), ("--http2", "2"), ("--no-alpn", "1.1")] {
        let answer = Answer::of(tls.curl(HOSTS[0], &target).arg(argument));
        assert_eq!((answer.status, answer.version.as_str()), (200, version));
        assert_eq!(answer.body, b"abc");
    }
}

#[test]
fn the_certificate_is_that_of_the_host() {
    let tls = TlsServer::start(Setup::quick());
    for host in HOSTS {
        let answer = Answer::of(&mut tls.curl(host, &unique("nothing")));
        assert_eq!(answer.status, 404);
        // The other host's certificate is not accepted for it.
        for other in HOSTS.iter().filter(|other| **other != host) {
            let mut curl = tls.curl(host, &unique("nothing"));
            let output = run(curl.arg("--cacert").arg(tls.certificate(other)));
            assert_eq!(output.status.code(), Some(60), "{output:?}");
        }
    }
    // Without a name, or with an unknown one, it is the first.
    assert!(subject(&tls, &["-noservername"]).contains(HOSTS[0]));
    assert!(subject(&tls, &["-servername", "three.test"]).contains(HOSTS[0]));
    assert!(subject(&tls, &["-servername", HOSTS[1]]).contains(HOSTS[1]));
}

/// The names in the certificate that the server shows to such a client.
fn subject(tls: &TlsServer, arguments: &[&str]) -> String {
    let connect = format!("127.0.0.1:{}", tls.server.address().port());
    let mut client = Command::new("openssl");
    client
        .args(["s_client", "-connect", &connect])
        .args(arguments);
    let output = run(&mut client);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = shown.find("-----BEGIN CERTIFICATE-----").expect(&shown);
    let end = shown.find("-----END CERTIFICATE-----").expect(&shown);
    let file = tls.server.dir().join(unique("shown").replace('/', "-"));
    fs::write(
        &file,
        format!("{}-----END CERTIFICATE-----\n", &shown[begin..end]),
    )
    .unwrap();
    let output = run(Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(&file));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn tls_before_1_2_is_refused() {
    let tls = TlsServer::start(Setup::quick());
    let target = unique("nothing");
    for version in ["1.2", "1.3"] {
        let mut curl = tls.curl(HOSTS[0], &target);
        curl.args([&format!("--tlsv{version}"), "--tls-max", version]);
        assert_eq!(Answer::of(&mut curl).status, 404, "TLS {version}");
    }
    for version in ["1.0", "1.1"] {
        let mut curl = tls.curl(HOSTS[0], &target);
        // The client itself refuses these at its usual level of security.
        curl.args([
            &format!("--tlsv{version}"),
            "--tls-max",
            version,
            "--verbose",
        ])
        .args(["--ciphers", "DEFAULT@SECLEVEL=0"]);
        let output = run(&mut curl);
        assert_eq!(output.status.code(), Some(35), "TLS {version}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("alert"), "the server was not asked: {said}");
    }
}

#[test]
fn plain_http_on_the_tls_port_does_no_harm() {
    let tls = TlsServer::start(Setup::quick());
    for _ in 0..20 {
        let mut connection = tls.server.connect();
        let _ = connection.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert!(connection.is_closed());
    }
    let answer = Answer::of(&mut tls.curl(HOSTS[0], &unique("nothing")));
    assert_eq!(answer.status, 404);
}

#[test]
fn a_body_that_stalls_is_given_up() {
    let tls = TlsServer::start(Setup {
        limits: "body_timeout = \"1s\"".to_owned(),
        ..Setup::quick()
    });
    let target = unique("h2-stalled");
    let text = ["--header", "content-type: text/plain"];
    tls.h2(&target, &[&["--request", "PUT"], &text[..]].concat());
    let mut curl = tls.upload(&target, &[&["--request", "POST"], &text[..]].concat());
    let mut body = curl.stdin.take().expect("a pipe");
    body.write_all(b"abc").unwrap();
    // Some versions of curl look at the answer only when they have something to send.
    wait_until("it is answered", || {
        let metrics = String::from_utf8(tls.server.admin("/metrics").body).unwrap();
        metrics
            .lines()
            .any(|line| line.contains("status=\"408\"") && line.ends_with(" 1"))
    });
    drop(body);
    let output = curl.wait_with_output().expect("curl");
    let answer = Answer::parse(&output.stdout);
    assert_eq!((answer.status, &*answer.version), (408, "2"));
    assert!(tls.h2(&target, &[]).body.is_empty());
}

#[test]
fn a_client_that_never_begins_is_let_go() {
    let tls = TlsServer::start(Setup {
        limits: "idle_timeout = \"1s\"\nbody_timeout = \"1s\"".to_owned(),
        ..Setup::quick()
    });
    let address = tls.server.address().to_string();
    let mut silent = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", "h2", "-connect", &address])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let open = || figure(&tls.server, "headwater_open_connections");
    wait_until("it is there", || open() == 1);
    wait_until("it is let go", || {
        silent.try_wait().expect("openssl").is_some()
    });
    assert_eq!(open(), 0);
    // Others are served as long as they like.
    assert_eq!(tls.h2(&unique("none"), &[]).status, 404);
}

#[test]
fn a_unix_socket_serves_like_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("headwater.sock");
    let mut server = Setup {
        listen: vec![format!("unix:{}", socket.display())],
        ..Setup::quick()
    }
    .start();
    let target = unique("unix");
    let through = |target: &str, arguments: &[&str]| through_socket(&socket, target, arguments);
    let put = [
        "--request",
        "PUT",
        "--header",
        "content-type: text/plain",
        "--data",
        "abc",
    ];
    assert_eq!(through(&target, &put).status, 201);
    assert_eq!(through(&target, &[]).body, b"abc");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "whoever connects is trusted");
    // It is the same server as at the port.
    assert_eq!(server.read_all(&target), b"abc");

    // A socket that a crash left behind does not keep it from starting.
    server.kill9();
    server.restart();
    wait_until("the socket answers", || socket.exists());
    assert_eq!(through(&target, &[]).body, b"abc");
    server.terminate();
    server.restart();
    assert_eq!(through(&target, &[]).body, b"abc");
}

fn through_socket(socket: &Path, target: &str, arguments: &[&str]) -> Answer {
    let mut curl = curl();
    curl.arg("--unix-socket")
        .arg(socket)
        .args(arguments)
        .arg(format!("http://localhost{target}"));
    Answer::of(&mut curl)
}
