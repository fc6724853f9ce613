//! TLS: handshakes, and several certificates for one listener, chosen by the name that the client
//! asks for.

use crate::config::{Certificate, Limits};
use crate::observe::metrics::Metrics;
use parking_lot::RwLock;
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
    pub(super) fn new(
        certificates: Arc<Certificates>,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let mut settings = TlsSettings::intermediate("", "")
            .map_err(|error| TlsError::Settings(error.to_string()))?;
        settings.set_cert_resolver(certificates);
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
pub struct Certificates(Vec<Loaded>);

/// A certificate, as its files were when they were last read.
#[derive(Debug)]
struct Loaded {
    files: Certificate,
    key: RwLock<Arc<CertifiedKey>>,
}

impl Certificates {
    pub(super) fn load(certificates: Vec<Certificate>) -> Result<Self, TlsError> {
        let load = |files: Certificate| {
            let key = RwLock::new(Arc::new(load(&files)?));
            Ok(Loaded { files, key })
        };
        certificates
            .into_iter()
            .map(load)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Reads all files again, for the handshakes from now on. A certificate that cannot be used
    /// stays as it was, and why is told.
    pub fn reload(&self) -> Vec<TlsError> {
        let reload = |loaded: &Loaded| {
            let key = load(&loaded.files).map(Arc::new);
            key.map(|key| *loaded.key.write() = key).err()
        };
        self.0.iter().filter_map(reload).collect()
    }

    fn for_name(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = ServerName::try_from(name).ok()?;
        self.keys().find(|certified| {
            certified.end_entity_cert().is_ok_and(|end_entity| {
                ParsedCertificate::try_from(end_entity)
                    .is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
            })
        })
    }

    fn keys(&self) -> impl Iterator<Item = Arc<CertifiedKey>> {
        self.0.iter().map(|loaded| loaded.key.read().clone())
    }
}

impl ResolvesServerCert for Certificates {
    /// The first certificate whose names fit; the first of all if none does, or none is asked for.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fitting = hello.server_name().and_then(|name| self.for_name(name));
        fitting.or_else(|| self.keys().next())
    }
}

fn load(certificate: &Certificate) -> Result<CertifiedKey, TlsError> {
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
    let provider = ring::default_provider();
    CertifiedKey::from_der(chain, private, &provider).map_err(|source| TlsError::Key {
        cert: cert.clone(),
        key: key.clone(),
        source,
    })
}
