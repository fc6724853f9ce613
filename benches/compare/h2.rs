//! Clients over TLS and HTTP/2, many of whom share a connection.

use crate::http::PREFIX;
use crate::servers::Server;
use reqwest::{Client, Method, RequestBuilder, Response, Version};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Nothing comes for so long: the run has failed. Servers answer a long-poll sooner.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(40);
/// What the certificate names.
const HOST: &str = "localhost";

/// One thread, as that of the other generators.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
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

/// Connections to a server.
pub(crate) struct Clients {
    /// A client each, since one client would send everything over one connection.
    all: Vec<Client>,
    base: String,
}

impl Clients {
    /// Connects, so that no handshake is part of what is measured.
    pub(crate) async fn connect(server: &Server, connections: usize) -> io::Result<Self> {
        let address = server
            .tls
            .ok_or_else(|| io::Error::other("there is no TLS"))?;
        let mut config = trusting(server)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let client = |_| {
            Client::builder()
                .tls_backend_preconfigured(config.clone())
                .http2_prior_knowledge()
                .no_proxy()
                .resolve(HOST, address)
                .read_timeout(SILENCE_MAX)
                .build()
        };
        let all = (0..connections).map(client).collect::<Result<_, _>>();
        let clients = Self {
            all: all.map_err(io::Error::other)?,
            base: format!("https://{HOST}:{}{PREFIX}", address.port()),
        };
        for index in 0..connections {
            let request = clients.request(index, Method::GET, "none");
            expect(request, 404, "a GET of nothing").await?;
        }
        Ok(clients)
    }

    /// A request of one of those who share the connections.
    pub(crate) fn request(&self, who: usize, method: Method, target: &str) -> RequestBuilder {
        let client = &self.all[who % self.all.len()];
        client.request(method, format!("{}{target}", self.base))
    }
}

/// Sends a request, and fails unless it is answered over HTTP/2 with this status.
pub(crate) async fn expect(
    request: RequestBuilder,
    status: u16,
    what: &str,
) -> io::Result<Response> {
    let answer = request.send().await.map_err(io::Error::other)?;
    if answer.version() != Version::HTTP_2 {
        return Err(io::Error::other("an answer came over another protocol"));
    }
    if answer.status() != status {
        let text = format!("{what} was answered with {}", answer.status());
        return Err(io::Error::other(text));
    }
    Ok(answer)
}
