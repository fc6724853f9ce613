//! TLS: handshakes, and several certificates for one listener, chosen by the name that the client
//! asks for.

use crate::config::{Certificate, Limits};
use crate::observe::metrics::Metrics;
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as Socket;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{path}: {source}")]
    Pem {
        path: PathBuf,
        source: rustls_pki_types::pem::Error,
    },
    #[error("{path}: there is no certificate in it")]
    Empty { path: PathBuf },
    #[error("{cert} with {key}: {source}")]
    Key {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("TLS cannot be set up: {0}")]
    Settings(String),
}

/// The TLS of a listener.
pub(super) struct Tls {
    acceptor: Acceptor,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Tls {
    pub(super) fn new<'a>(
        certificates: impl Iterator<Item = &'a Certificate>,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let resolver = Certificates::load(certificates)?;
        let mut settings = TlsSettings::intermediate("", "")
            .map_err(|error| TlsError::Settings(error.to_string()))?;
        settings.set_cert_resolver(Arc::new(resolver));
        settings.enable_h2();
        Ok(Self {
            acceptor: settings.build(),
            timeout: limits.handshake_timeout,
            metrics,
        })
    }

    /// Shakes hands with a client that has just connected; `None` if that fails. Anybody can make
    /// it fail, so it is counted and not worth a line of the log.
    pub(super) async fn accept(&self, stream: Stream) -> Option<Stream> {
        let socket = stream.into_any().downcast::<Socket>().ok()?;
        let handshake = self.acceptor.tls_handshake(*socket);
        let error = match timeout(self.timeout, handshake).await {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        self.metrics.handshake_failures.inc();
        tracing::debug!(error, "a TLS handshake failed");
        None
    }
}

/// The certificates of a listener.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    fn load<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> Result<Self, TlsError> {
        let provider = ring::default_provider();
        let load = |certificate| load(certificate, &provider).map(Arc::new);
        certificates.map(load).collect::<Result<_, _>>().map(Self)
    }

    fn for_name(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = ServerName::try_from(name).ok()?;
        self.0.iter().find(|certified| {
            certified.end_entity_cert().is_ok_and(|end_entity| {
                ParsedCertificate::try_from(end_entity)
                    .is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
            })
        })
    }
}

impl ResolvesServerCert for Certificates {
    /// The first certificate whose names fit; the first of all if none does, or none is asked for.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fitting = hello.server_name().and_then(|name| self.for_name(name));
        fitting.or(self.0.first()).cloned()
    }
}

fn load(
    certificate: &Certificate,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let Certificate { cert, key } = certificate;
    let pem = |path: &PathBuf| {
        let path = path.clone();
        |source| TlsError::Pem { path, source }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(pem(cert))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: cert.clone() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Key {
        cert: cert.clone(),
        key: key.clone(),
        source,
    })
}
