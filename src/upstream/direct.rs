//! Upstreams that a request names, and not the configuration.

use super::error::UpstreamError;
use super::guard::{self, GuardError};
use super::hop_by_hop;
use super::peer::Template;
use crate::config::{Proxy, UpstreamUrl};
use http::{HeaderName, header};
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;
use std::time::Duration;
use tokio::time::timeout;
use url::Url;

/// What else is for the next neighbour alone by section 5.2, beside what never is passed on.
const HOP_BY_HOP: [HeaderName; 4] = [
    header::TE,
    header::TRAILER,
    HeaderName::from_static("trailers"),
    header::PROXY_AUTHENTICATE,
];

/// Connects to upstreams that were found to be allowed.
pub struct Direct {
    template: Template,
    connect_timeout: Duration,
}

impl Direct {
    pub fn new(settings: &Proxy) -> Result<Self, UpstreamError> {
        Ok(Self {
            template: Template::for_proxy(settings)?,
            connect_timeout: settings.connect_timeout,
        })
    }

    /// The peers at the addresses of a URL that may be connected to. The name is looked up once, so
    /// that it cannot mean another address when the connection is made.
    pub async fn peers(&self, url: &Url, is_host_named: bool) -> Result<Vec<HttpPeer>, GuardError> {
        let host = url.host().ok_or(GuardError::NoAddress)?;
        let port = url.port_or_known_default().ok_or(GuardError::NoAddress)?;
        let upstream = UpstreamUrl::Tcp {
            tls: url.scheme() == "https",
            host: url
                .host_str()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned(),
            port,
        };
        let resolved = guard::resolve(host, port, is_host_named);
        let addresses = timeout(self.connect_timeout, resolved).await;
        let addresses = addresses.unwrap_or(Err(GuardError::NoAddress))?;
        let peer = |address: std::net::SocketAddr| self.template.peer(&upstream, address.into());
        Ok(addresses.into_iter().map(peer).collect())
    }

    /// Makes of a client's request the one for this URL.
    pub fn prepare(&self, head: &mut RequestHeader, url: &Url) {
        hop_by_hop::strip_request(head);
        head.remove_header(&header::EXPECT);
        for name in HOP_BY_HOP {
            head.remove_header(&name);
        }
        let host = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let _ = head.insert_header(header::HOST, authority);
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        if let Ok(target) = target.parse() {
            head.set_uri(target);
        }
    }
}
