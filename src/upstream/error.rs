//! What goes wrong with upstreams.

use std::path::PathBuf;

use http::Method;
use pingora::{Error, ErrorType, RetryType};
use thiserror::Error;

use crate::observe::metrics::UpstreamFailure;

/// Why the upstreams of a route cannot be used as they are configured.
#[derive(Debug, Error)]
pub enum UpstreamError {
    #[error("{path}: {source}")]
    Pem {
        path: PathBuf,
        source: rustls_pki_types::pem::Error,
    },
    #[error("{path}: there is no certificate in it")]
    NoCertificate { path: PathBuf },
    #[error("{path}: it holds something that is not a certificate")]
    Certificate { path: PathBuf },
    #[error("`{0}` is not the name of a header with a value")]
    Header(String),
    #[error("`{0}` is not a regular expression")]
    Rewrite(String),
    #[error("the socket {0} cannot be an upstream: {1}")]
    Socket(PathBuf, std::io::Error),
}

/// Why an exchange with an upstream came to nothing, or did not come to its end. The words are for
/// clients; the cause, which names addresses, is for the log.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// No connection came about, and nothing was sent.
    #[error("the upstream cannot be reached")]
    Connect(#[source] Box<Error>),
    /// There was no TLS with it, for example because its certificate is not trusted.
    #[error("no secure connection to the upstream came about")]
    Tls(#[source] Box<Error>),
    /// It was silent for too long, or took nothing.
    #[error("the upstream did not answer in time")]
    Timeout(#[source] Box<Error>),
    /// The connection ended before the answer did.
    #[error("the upstream broke off")]
    Broken(#[source] Box<Error>),
    /// What it sent is not HTTP.
    #[error("the upstream did not answer in HTTP")]
    Protocol(#[source] Box<Error>),
}

impl ExchangeError {
    /// Whether the upstream got nothing of the request.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Tls(_))
    }

    /// Whether a request of this method may be sent again, by an exchange that came to nothing: the
    /// upstream cannot have had it, or having it twice changes nothing. After a timeout it may not, as
    /// that would take as long again.
    pub fn may_repeat(&self, method: &Method) -> bool {
        match self {
            Self::Broken(error) => {
                // Refused by the upstream before it looked at it.
                let refused = matches!(error.retry, RetryType::Decided(true));
                refused || method.is_idempotent()
            }
            _ => self.is_unsent(),
        }
    }

    /// How it is counted.
    pub fn failure(&self) -> UpstreamFailure {
        match self {
            Self::Connect(_) => UpstreamFailure::Connect,
            Self::Tls(_) => UpstreamFailure::Tls,
            Self::Timeout(_) => UpstreamFailure::Timeout,
            Self::Broken(_) => UpstreamFailure::Broken,
            Self::Protocol(_) => UpstreamFailure::Protocol,
        }
    }

    /// What happened, in words for the log.
    pub fn cause(&self) -> &Error {
        match self {
            Self::Connect(error)
            | Self::Tls(error)
            | Self::Timeout(error)
            | Self::Broken(error)
            | Self::Protocol(error) => error,
        }
    }
}

impl From<Box<Error>> for ExchangeError {
    fn from(error: Box<Error>) -> Self {
        match failure_of(&error) {
            UpstreamFailure::Connect => Self::Connect(error),
            UpstreamFailure::Tls => Self::Tls(error),
            UpstreamFailure::Timeout => Self::Timeout(error),
            UpstreamFailure::Protocol => Self::Protocol(error),
            UpstreamFailure::Broken | UpstreamFailure::NoUpstream => Self::Broken(error),
        }
    }
}

/// How an error of an exchange is counted.
pub fn failure_of(error: &Error) -> UpstreamFailure {
    use ErrorType as T;
    match error.etype() {
        T::ReadTimedout | T::WriteTimedout => UpstreamFailure::Timeout,
        T::ConnectTimedout
        | T::ConnectRefused
        | T::ConnectNoRoute
        | T::ConnectError
        | T::ConnectProxyFailure
        | T::BindError
        | T::SocketError => UpstreamFailure::Connect,
        T::TLSHandshakeTimedout
        | T::TLSHandshakeFailure
        | T::TLSWantX509Lookup
        | T::InvalidCert
        | T::HandshakeError => UpstreamFailure::Tls,
        T::InvalidHTTPHeader | T::H1Error | T::InvalidH2 | T::H2Downgrade => {
            UpstreamFailure::Protocol
        }
        _ => UpstreamFailure::Broken,
    }
}
