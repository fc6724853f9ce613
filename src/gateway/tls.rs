//! Certificates: several for one listener, chosen by the name that the client asks for.

use crate::config::Certificate;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

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
}

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    pub(super) fn load<'a>(
        certificates: impl Iterator<Item = &'a Certificate>,
    ) -> Result<Self, TlsError> {
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
