//! HTTP/2 and TLS on either side: an upstream in Node that speaks both, and curl as the client.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::common::{Server, Setup, assert_problem};
use crate::reverse_proxy_upstream::{Upstream, proxy, proxy_with};

/// How curl ends when a stream of HTTP/2 was reset.
const CURL_BROKEN_STREAM: i32 = 92;

/// An authority, and a certificate of it for `localhost`.
struct Certificates {
    dir: TempDir,
}

impl Certificates {
    fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let names = &mut params.distinguished_name;
        names.push(DnType::CommonName, "an authority of the tests");
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("parameters");
        let cert = params.signed_by(&key, &ca).expect("a certificate");
        let made = Self { dir };
        fs::write(made.file("ca.pem"), ca.pem()).expect("write");
        fs::write(made.file("cert.pem"), cert.pem()).expect("write");
        fs::write(made.file("key.pem"), key.serialize_pem()).expect("write");
        made
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The setting that trusts the authority.
    fn trusted(&self) -> String {
        format!("tls = {{ ca = \"{}\" }}", self.file("ca.pem"))
    }
}

/// The upstream of tests/upstream, killed when it is dropped.
struct Node {
    process: Child,
    port: u16,
}

impl Node {
    fn start(arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstream/server.mjs");
        let mut process = Command::new("node")
            .arg(script)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("node");
        let said = process.stdout.take().expect("its output");
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).expect("a line");
        let port = line.trim().parse().expect("a port");
        Self { process, port }
    }

    fn with_tls(certificates: &Certificates) -> Self {
        let (cert, key) = (certificates.file("cert.pem"), certificates.file("key.pem"));
        Self::start(&["--tls", &cert, &key])
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.port)
    }
}

/// What the upstream knows of the calls with this key.
fn calls(server: &Server, key: &str) -> serde_json::Value {
    let all = server.call("GET", "/__calls", &[], b"").body;
    let all: serde_json::Value = serde_json::from_slice(&all).expect("JSON");
    all[key].clone()
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn upstreams_are_spoken_to_as_the_route_says() {
    let certificates = Certificates::make();
    let encrypted = Node::with_tls(&certificates);
    let plain = Node::start(&[]);
    let prior = Node::start(&["--h2c"]);
    let trusted = certificates.trusted();
    for (node, scheme, http, spoken) in [
        (&encrypted, "https", "1.1", "1.1"),
        (&encrypted, "https", "2", "2.0"),
        (&encrypted, "https", "auto", "2.0"),
        (&plain, "http", "auto", "1.1"),
        (&prior, "http", "2", "2.0"),
    ] {
        let tls = if scheme == "https" { &trusted } else { "" };
        let settings = format!("http = \"{http}\"\n{tls}");
        let server = proxy(&[&node.url(scheme)], &settings);
        let key = format!("/echo?key={scheme}-{http}");
        for body in ["one", "two"] {
            let answer = server.call("POST", &key, &[], body.as_bytes());
            assert_eq!(answer.status, 200, "{answer:?}");
            let echoed: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(echoed["body"], body);
        }
        let seen = calls(&server, &format!("{scheme}-{http}"));
        assert_eq!(seen["http"], spoken, "{scheme} {http}");
        assert_eq!(seen["calls"], 2);
    }
}

#[test]
fn certificates_of_upstreams_are_verified() {
    let certificates = Certificates::make();
    let node = Node::with_tls(&certificates);
    let other = Certificates::make();
    let unnamed = format!(
        "tls = {{ ca = {:?}, server_name = \"other.test\" }}",
        certificates.file("ca.pem")
    );
    // By the wrong authority, by none that is known, and for another name.
    for settings in [&other.trusted(), "", &unnamed] {
        let server = proxy(&[&node.url("https")], settings);
        let answer = server.call("GET", "/echo", &[], b"");
        assert_eq!(assert_problem(&answer, 502), "UPSTREAM_TLS_FAILED");
    }
    let by_address = format!("https://127.0.0.1:{}", node.port);
    let server = proxy(&[&by_address], &certificates.trusted());
    assert_eq!(server.call("GET", "/echo", &[], b"").status, 200);
    let server = proxy(&[&by_address], "");
    let answer = server.call("GET", "/echo", &[], b"");
    assert_eq!(assert_problem(&answer, 502), "UPSTREAM_TLS_FAILED");
    let server = proxy(&[&node.url("https")], "tls = { verify = false }");
    assert_eq!(server.call("GET", "/echo", &[], b"").status, 200);
}

/// A server that speaks TLS and HTTP/2, before an upstream.
fn encrypted(certificates: &Certificates, upstream: &str, settings: &str) -> Server {
    let setup = Setup {
        site: format!(
            "tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}",
            certificates.file("cert.pem"),
            certificates.file("key.pem"),
        ),
        ..Setup::quick()
    };
    proxy_with(&[upstream], settings, setup)
}

/// What curl gets by HTTP/2, with what it is given to send.
fn curl(certificates: &Certificates, server: &Server, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut curl = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--http2",
            "--max-time",
            "180",
            "--cacert",
        ])
        .arg(certificates.file("ca.pem"))
        .args(arguments)
        .arg(format!("https://localhost:{}/app", server.address().port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl");
    let mut stdin = curl.stdin.take().expect("its input");
    stdin.write_all(input).expect("write");
    drop(stdin);
    let output = curl.wait_with_output().expect("its output");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn a_client_of_http2_reaches_an_upstream_of_http1() {
    let certificates = Certificates::make();
    let upstream = Upstream::echo();
    let server = encrypted(&certificates, upstream.url(), "");
    for round in 0..5 {
        let sent = vec![b'x'; round * 50_000];
        // Without a length: the end comes as an empty frame, and the body goes on in chunks.
        let got = curl(&certificates, &server, &["--upload-file", "-"], &sent);
        assert!(got == sent, "round {round}: {} bytes", got.len());
        let got = curl(&certificates, &server, &["--data-binary", "@-"], &sent);
        assert!(got == sent, "round {round}: {} bytes", got.len());
        assert!(curl(&certificates, &server, &[], b"").is_empty());
    }
    assert_eq!(upstream.malformed(), [""; 0], "no body ends twice");
    let call = upstream.last_call();
    assert_eq!(call.header("x-forwarded-proto"), Some("https"));
    let host = format!("localhost:{}", server.address().port());
    assert_eq!(call.header("x-forwarded-host"), Some(host.as_str()));
}

#[test]
fn a_client_of_http2_is_told_of_an_answer_that_breaks_off() {
    let certificates = Certificates::make();
    let upstream = Upstream::start(|_, peer| {
        peer.begin_chunked("text/plain")?;
        peer.chunk(b"half")?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    });
    let server = encrypted(&certificates, upstream.url(), "");
    let output = Command::new("curl")
        .args(["--silent", "--http2", "--max-time", "180", "--cacert"])
        .arg(certificates.file("ca.pem"))
        .arg(format!("https://localhost:{}/", server.address().port()))
        .output()
        .expect("curl");
    // A reset overtakes what was not yet sent.
    assert!(b"half".starts_with(&output.stdout), "{output:?}");
    assert_eq!(output.status.code(), Some(CURL_BROKEN_STREAM));
}

#[test]
fn a_client_of_http2_reaches_an_upstream_of_http2() {
    let certificates = Certificates::make();
    let node = Node::with_tls(&certificates);
    let settings = format!(
        "http = \"2\"\n{}\nadd_prefix = \"/echo\"",
        certificates.trusted()
    );
    let server = encrypted(&certificates, &node.url("https"), &settings);
    let got = curl(&certificates, &server, &["--data-binary", "@-"], b"hello");
    let got: serde_json::Value = serde_json::from_slice(&got).unwrap();
    assert_eq!(got["url"], "/echo/app");
    assert_eq!(got["body"], "hello");
    let authority = format!("localhost:{}", node.port);
    assert_eq!(got["headers"][":authority"], authority);
    assert_eq!(got["headers"]["x-forwarded-for"], "127.0.0.1");
}
