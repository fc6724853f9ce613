//! Clients over TLS and HTTP/2, many of whom share a connection.
//!
//! They share the machine with the server, so they do little. A client that does more for its users
//! takes as much processor time for a request as the server that answers it.

use crate::http::PREFIX;
use crate::servers::Server;
use ::h2::RecvStream;
use ::h2::client::{Builder, SendRequest};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Nothing is answered for so long: the run has failed. Servers answer a long-poll sooner.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(40);
/// What the certificate names.
const HOST: &str = "localhost";
/// What a server may send ahead, on a connection and for each request.
const WINDOW_BYTES: u32 = 4 << 20;

/// One thread, as that of the other generators.
pub(crate) fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// The settings of a client that trusts this server alone.
pub(crate) fn trusting(server: &Server) -> io::Result<ClientConfig> {
    let certificate = CertificateDer::from_pem_file(server.dir().join("cert.pem"));
    let mut roots = RootCertStore::empty();
    roots
        .add(certificate.map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What is asked of a stream.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a str,
    pub(crate) fields: &'a [(&'static str, &'static str)],
    pub(crate) body: Bytes,
}

impl<'a> Call<'a> {
    pub(crate) fn get(target: &'a str) -> Self {
        Self {
            method: Method::GET,
            target,
            fields: &[],
            body: Bytes::new(),
        }
    }
}

/// An answer whose body may not have come yet.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HeaderMap,
    body: RecvStream,
}

impl Answer {
    /// Fails unless the answer has this status.
    pub(crate) fn expect(self, status: u16, what: &str) -> io::Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        let text = format!("{what} was answered with {}", self.status);
        Err(io::Error::other(text))
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next part of the body; `None`: there is none.
    pub(crate) async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let Some(piece) = self.body.data().await else {
            return Ok(None);
        };
        let piece = piece.map_err(io::Error::other)?;
        let window = self.body.flow_control();
        window
            .release_capacity(piece.len())
            .map_err(io::Error::other)?;
        Ok(Some(piece))
    }

    /// All that is left of the body.
    pub(crate) async fn rest(mut self) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        while let Some(piece) = self.piece().await? {
            data.extend_from_slice(&piece);
        }
        Ok(data)
    }
}

/// Connections to a server.
pub(crate) struct Clients {
    all: Vec<SendRequest<Bytes>>,
    base: String,
}

impl Clients {
    /// Connects, so that no handshake is part of what is measured.
    pub(crate) async fn connect(server: &Server, connections: usize) -> io::Result<Self> {
        let address = server.tls;
        let address = address.ok_or_else(|| io::Error::other("there is no TLS"))?;
        let mut config = trusting(server)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let mut clients = Self {
            all: Vec::with_capacity(connections),
            base: format!("https://{HOST}:{}{PREFIX}", address.port()),
        };
        for index in 0..connections {
            clients.all.push(connect(&connector, address).await?);
            let answer = clients.send(index, Call::get("none")).await?;
            answer.expect(404, "a GET of nothing")?;
        }
        Ok(clients)
    }

    /// Sends a request of one of those who share the connections, and waits for its answer to begin.
    pub(crate) async fn send(&self, who: usize, call: Call<'_>) -> io::Result<Answer> {
        let mut request = Request::new(());
        *request.method_mut() = call.method;
        let url = format!("{}{}", self.base, call.target);
        *request.uri_mut() = url.parse().map_err(io::Error::other)?;
        for (name, value) in call.fields {
            let value = http::HeaderValue::from_static(value);
            request.headers_mut().insert(*name, value);
        }
        let answer = async {
            let client = self.all[who % self.all.len()].clone();
            let mut client = client.ready().await?;
            let (answer, mut body) = client.send_request(request, call.body.is_empty())?;
            if !call.body.is_empty() {
                body.send_data(call.body, true)?;
            }
            answer.await
        };
        let answer = timeout(SILENCE_MAX, answer)
            .await
            .map_err(|_| io::Error::other("a request was not answered"))?;
        let (head, body) = answer.map_err(io::Error::other)?.into_parts();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

async fn connect(connector: &TlsConnector, address: SocketAddr) -> io::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
    let stream = connector.connect(name, stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("the server does not speak HTTP/2"));
    }
    let mut settings = Builder::new();
    settings
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let (client, connection) = settings.handshake(stream).await.map_err(io::Error::other)?;
    // What fails there fails the requests on it.
    tokio::spawn(connection);
    Ok(client)
}
