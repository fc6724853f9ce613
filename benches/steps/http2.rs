//! The server behind TLS, and one client that speaks HTTP/2 with it on the same thread.

use super::World;
use super::listening::Listening;
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection to a server: it speaks HTTP/2 only where ALPN chose it.
pub(crate) struct Http2 {
    client: SendRequest<Bytes>,
    world: World,
    _listening: Listening,
}

impl Http2 {
    pub(crate) fn to(world: World) -> Self {
        let dir = TempDir::new().expect("a directory");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        fs::write(&cert, made.cert.pem()).expect("a file");
        fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let settings = format!(
            r#"tls = {{ certificates = [{{ cert = "{}", key = "{}" }}] }}"#,
            cert.display(),
            key.display()
        );
        let listening = Listening::start(&world, &settings);
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let client = connect(&listening.address, roots);
        Self {
            client: world.runtime.block_on(client),
            world,
            _listening: listening,
        }
    }

    /// Sends a request so many times, each when the one before is answered, and tells how many bytes
    /// the body of the last answer had.
    pub(crate) fn call(&mut self, request: &Request<()>, body: &Bytes, times: usize) -> usize {
        self.world.runtime.block_on(async {
            let mut bytes = 0;
            for _ in 0..times {
                bytes = exchange(&mut self.client, request.clone(), body.clone()).await;
            }
            bytes
        })
    }
}

async fn connect(address: &str, roots: RootCertStore) -> SendRequest<Bytes> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connection = TcpStream::connect(address).await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let secured = TlsConnector::from(Arc::new(config)).connect(name, connection);
    let secured = secured.await.expect("a handshake");
    let (client, connection) = h2::client::handshake(secured).await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

async fn exchange(client: &mut SendRequest<Bytes>, request: Request<()>, body: Bytes) -> usize {
    std::future::poll_fn(|context| client.poll_ready(context))
        .await
        .expect("a server");
    let (answer, mut sending) = client
        .send_request(request, body.is_empty())
        .expect("a stream");
    if !body.is_empty() {
        sending.send_data(body, true).expect("a server");
    }
    let answer = answer.await.expect("an answer");
    assert!(answer.status().is_success());
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(piece) = body.data().await {
        let piece = piece.expect("a body").len();
        body.flow_control().release_capacity(piece).expect("room");
        bytes += piece;
    }
    bytes
}
