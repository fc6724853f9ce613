//! How a connection to an upstream is made: addresses, timeouts, TLS, versions of HTTP.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::{ALPN, TcpKeepalive};
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, PeerOptions};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::UpstreamError;
use crate::config::{
    Certificate, HttpVersion, Proxy, ReverseProxy, Timeouts, UpstreamTls, UpstreamUrl,
};

/// Requests at one time on one HTTP/2 connection; more open another.
const H2_STREAMS_MAX: usize = 100;
/// How often a silent HTTP/2 connection is asked whether it is alive.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// What the peers of a route have in common.
pub(super) struct Template {
    options: PeerOptions,
    server_name: Option<String>,
    client: Option<Arc<CertKey>>,
    group: u64,
}

impl Template {
    pub(super) fn new(settings: &ReverseProxy) -> Result<Self, UpstreamError> {
        Self::of(&settings.timeouts, &settings.tls, settings.http)
    }

    fn of(
        timeouts: &Timeouts,
        tls: &UpstreamTls,
        http: HttpVersion,
    ) -> Result<Self, UpstreamError> {
        let mut options = options(timeouts);
        options.verify_cert = tls.verify;
        options.verify_hostname = tls.verify;
        options.ca = tls.ca.as_deref().map(authorities).transpose()?;
        options.alpn = match http {
            HttpVersion::Http1 => ALPN::H1,
            HttpVersion::Http2 => ALPN::H2,
            HttpVersion::Auto => ALPN::H2H1,
        };
        Ok(Self {
            options,
            server_name: tls.server_name.clone(),
            client: tls.client.as_ref().map(client_certificate).transpose()?,
            group: group(tls),
        })
    }

    /// What the peers have in common that the requests of a `proxy` route name.
    pub(super) fn for_proxy(settings: &Proxy) -> Result<Self, UpstreamError> {
        let timeouts = Timeouts {
            connect: settings.connect_timeout,
            // How long an answer may be silent is for its recording to say.
            read: Duration::ZERO,
            ..Timeouts::default()
        };
        Self::of(&timeouts, &settings.tls, settings.http)
    }

    /// The peer of an upstream at one of its addresses.
    pub(super) fn peer(&self, url: &UpstreamUrl, address: SocketAddr) -> HttpPeer {
        let (tls, host) = match url {
            UpstreamUrl::Tcp { tls, host, .. } => (*tls, host.as_str()),
            UpstreamUrl::Unix(_) => (false, ""),
        };
        // Without a name, Pingora would not verify the certificate at all.
        let name = self.server_name.as_deref().unwrap_or(host);
        let unset = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let mut peer = HttpPeer::new(unset, tls, name.to_owned());
        peer._address = address;
        peer.client_cert_key.clone_from(&self.client);
        peer.group_key = self.group;
        peer.options = self.options.clone();
        peer
    }
}

/// Connections are shared by peers that are alike; the authorities they trust are not compared.
fn group(tls: &UpstreamTls) -> u64 {
    let mut hasher = DefaultHasher::new();
    tls.hash(&mut hasher);
    hasher.finish()
}

fn options(timeouts: &Timeouts) -> PeerOptions {
    let limited = |time: Duration| (!time.is_zero()).then_some(time);
    let mut options = PeerOptions::new();
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = limited(timeouts.read);
    options.write_timeout = limited(timeouts.write);
    options.idle_timeout = Some(timeouts.idle);
    options.max_h2_streams = H2_STREAMS_MAX;
    // Upgrades go their own way.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    options.h2_ping_interval = Some(H2_PING_INTERVAL);
    // An upstream whose machine vanished is noticed even where reads have no timeout.
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_mins(1),
        interval: Duration::from_secs(15),
        count: 4,
        user_timeout: Duration::from_mins(2),
    });
    options
}

/// The certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| UpstreamError::Pem {
            path: path.to_owned(),
            source,
        })?;
    if chain.is_empty() {
        return Err(UpstreamError::NoCertificate {
            path: path.to_owned(),
        });
    }
    // Pingora panics at what rustls refuses.
    let readable = |der: &CertificateDer| rustls::server::ParsedCertificate::try_from(der).is_ok();
    if chain.iter().all(readable) {
        Ok(chain)
    } else {
        Err(UpstreamError::Certificate {
            path: path.to_owned(),
        })
    }
}

fn authorities(path: &Path) -> Result<Arc<[WrappedX509]>, UpstreamError> {
    let chain = certificates(path)?;
    let wrap = |der: CertificateDer| WrappedX509::new(der.to_vec(), parse_x509);
    Ok(chain.into_iter().map(wrap).collect())
}

fn client_certificate(certificate: &Certificate) -> Result<Arc<CertKey>, UpstreamError> {
    let chain = certificates(&certificate.cert)?;
    let key =
        PrivateKeyDer::from_pem_file(&certificate.key).map_err(|source| UpstreamError::Pem {
            path: certificate.key.clone(),
            source,
        })?;
    let chain = chain.iter().map(|der| der.to_vec()).collect();
    Ok(Arc::new(CertKey::new(chain, key.secret_der().to_vec())))
}
