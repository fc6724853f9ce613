//! Listeners: one Pingora service for each address, with what all its sites serve.

use super::admission::Admission;
use super::body::Bodies;
use super::routes::{self, Building, Routes};
use super::session::Gateway;
use super::tls::{Certificates, Tls, TlsError};
use crate::config::{Config, Listen};
use crate::edge::Edge;
use crate::recorder::Recorder;
use crate::serve::Server;
use crate::upstream::UpstreamError;
use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::ServerApp;
use pingora::listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions};
use pingora::protocols::{ALPN, Stream, TcpKeepalive};
use pingora::server::ShutdownWatch;
use pingora::services::listening::Service;
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Read buffer of a connection. What is read is read in larger pieces, past it.
const READ_BUFFER_BYTES: usize = 512;
/// Room for the head of an answer and a small body, which then go out together.
const WRITE_BUFFER_BYTES: usize = 2048;

/// Why a listener cannot be made.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// What listens, and what its connections are secured with.
pub struct Listeners {
    /// They begin to listen when they are started.
    pub services: Vec<Service<Connections>>,
    /// Those of each listener with TLS.
    pub certificates: Vec<Arc<Certificates>>,
}

/// The services of all listeners. What they do beside listening ends with `stop`.
pub fn listeners(
    config: &Config,
    server: &Arc<Server>,
    recorder: &Arc<Recorder>,
    edge: Option<&Arc<Edge>>,
    stop: &CancellationToken,
) -> Result<Listeners, ListenError> {
    let building = Building {
        limits: &config.limits,
        metrics: &server.metrics,
        recorder,
        edge,
        draining: &server.draining,
        stop,
    };
    let sites = routes::sites(config, &building)?;
    let addresses: BTreeSet<&Listen> = config.site.iter().flat_map(|site| &site.listen).collect();
    let admission = Arc::new(Admission::new(&config.limits, server.metrics.clone()));
    let bodies = Arc::new(Bodies::new(&config.limits));
    let mut listeners = Listeners {
        services: Vec::new(),
        certificates: Vec::new(),
    };
    for address in addresses {
        let certificates = certificates(config, address)?;
        let tls = certificates
            .clone()
            .map(|certificates| Tls::new(certificates, &config.limits, server.metrics.clone()))
            .transpose()?;
        listeners.certificates.extend(certificates);
        let routes = Routes::of_listener(&sites, address);
        let (server, recorder) = (server.clone(), recorder.clone());
        let gateway = Gateway::new(server, recorder, routes, bodies.clone(), &config.limits);
        let connections = Connections {
            gateway: Arc::new(gateway),
            admission: admission.clone(),
            tls,
        };
        let mut service = Service::new(format!("gateway {address}"), connections);
        service.add_listener(listener(address));
        listeners.services.push(service);
    }
    Ok(listeners)
}

fn listener(address: &Listen) -> ListenerConfig {
    let listener = match address {
        Listen::Tcp(address) => {
            ListenerConfig::tcp(address.to_string()).tcp_socket_options(socket_options())
        }
        Listen::Unix(path) => ListenerConfig::uds(path.display().to_string())
            .permissions(Permissions::from_mode(Listen::SOCKET_MODE)),
    };
    listener.l4_buffer(L4BufferSettings::new(READ_BUFFER_BYTES, WRITE_BUFFER_BYTES))
}

/// The certificates of all sites of a listener; `None` if it speaks in the clear.
fn certificates(config: &Config, address: &Listen) -> Result<Option<Arc<Certificates>>, TlsError> {
    let sites = config.site.iter();
    let certificates: Vec<_> = sites
        .filter(|site| site.listen.contains(address))
        .filter_map(|site| site.tls.as_ref())
        .flat_map(|tls| tls.certificates.iter().cloned())
        .collect();
    if certificates.is_empty() {
        return Ok(None);
    }
    Certificates::load(certificates).map(|loaded| Some(Arc::new(loaded)))
}

/// A client whose machine vanished is noticed by the probes; one that takes nothing is cut off by
/// the write timeout.
fn socket_options() -> TcpSocketOptions {
    let mut options = TcpSocketOptions::default();
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_mins(1),
        interval: Duration::from_secs(15),
        count: 4,
        user_timeout: Duration::from_mins(2),
    });
    options
}

/// The connections of a listener: counted and bounded.
pub struct Connections {
    gateway: Arc<Gateway>,
    admission: Arc<Admission>,
    tls: Option<Tls>,
}

impl Connections {
    /// The stream of requests on a connection; `None` if the client does not come so far.
    async fn secured(&self, stream: Stream) -> Option<Stream> {
        match &self.tls {
            None => Some(stream),
            Some(tls) => {
                let draining = &self.gateway.server.draining;
                draining.run_until_cancelled(tls.accept(stream)).await?
            }
        }
    }
}

fn peer(stream: &Stream) -> Option<IpAddr> {
    let socket = stream.get_socket_digest()?;
    Some(socket.peer_addr()?.as_inet()?.ip())
}

#[async_trait]
impl ServerApp for Connections {
    /// Serves a connection in a task of its own: the one that accepted it stays as large as a TLS
    /// handshake needs, and a waiting reader should cost little.
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        // Closed at once if it is refused: an answer would cost what there is too little of.
        let open = self.admission.admit(|| peer(&stream))?;
        let stream = self.secured(stream).await?;
        let (gateway, shutdown) = (self.gateway.clone(), shutdown.clone());
        tokio::spawn(async move {
            if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
                gateway.serve_http2(stream, &shutdown).await;
                drop(open);
            } else {
                gateway.serve_http1(stream, BytesMut::new(), open).await;
            }
        });
        None
    }
}
