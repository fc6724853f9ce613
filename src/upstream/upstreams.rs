//! The upstreams of a route.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::ALPN;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::upstreams::peer::HttpPeer;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::backends::{Balancer, Resolver, Target};
use super::error::UpstreamError;
use super::forwarded::{ClientFacts, Forwarding};
use super::health::Check;
use super::hop_by_hop;
use super::peer::Template;
use super::rewrite::{Headers, Paths, host};
use crate::config::{HashBy, ReverseProxy};
use crate::observe::metrics::{Held, UpstreamFailure, UpstreamMetrics};

/// How often the names of upstreams are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(10);

/// The upstreams of a route: which one gets a request, and how it is passed on.
pub struct Upstreams {
    balancer: Balancer,
    resolver: Arc<Resolver>,
    /// Set once the addresses are known for the first time.
    resolved: OnceCell<()>,
    hash_by: HashBy,
    check_interval: Option<Duration>,
    paths: Paths,
    request_headers: Headers,
    response_headers: Headers,
    forwarding: Forwarding,
    preserve_host: bool,
    /// How often a request is tried again.
    pub retries: usize,
    /// The largest request body; `None`: any.
    pub body_bytes_max: Option<u64>,
    /// The longest silence of an upstream.
    pub read_timeout: Option<Duration>,
    /// The longest silence of both ends of an upgraded connection.
    pub upgraded_timeout: Duration,
    /// The route's figures.
    pub metrics: Arc<UpstreamMetrics>,
}

/// The upstream that a request got. As long as it lives, it counts as under way.
pub struct Picked {
    /// How to connect to it, with all timeouts and TLS set.
    pub peer: HttpPeer,
    target: Arc<Target>,
    _in_flight: Held,
}

impl Picked {
    /// Its name as `Host` has it.
    pub fn authority(&self) -> &str {
        &self.target.authority
    }

    /// Where it is.
    pub fn address(&self) -> &SocketAddr {
        &self.peer._address
    }

    /// Lets others be preferred for a while, because no connection to this one came about.
    pub fn avoid(&self) {
        self.target.avoid();
    }

    /// Connects by HTTP/1.1, for what HTTP/2 cannot do.
    pub fn use_http1(&mut self) {
        self.peer.options.alpn = ALPN::H1;
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.target.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstreams {
    /// Those of a route with these settings. Nothing runs before [`Self::start`].
    pub fn new(
        settings: &ReverseProxy,
        metrics: Arc<UpstreamMetrics>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let template = Template::new(settings)?;
        let resolver = Arc::new(Resolver::new(settings.upstreams.clone(), template)?);
        let check = settings.health_check.clone();
        let check_interval = check.as_ref().map(|check| check.interval);
        let check = check.map(|check| Box::new(Check::new(check)) as _);
        Ok(Arc::new(Self {
            balancer: Balancer::new(settings.balance, &resolver, check),
            resolver,
            resolved: OnceCell::new(),
            hash_by: settings.hash_by.clone(),
            check_interval,
            paths: Paths::new(settings)?,
            request_headers: Headers::new(&settings.request_headers)?,
            response_headers: Headers::new(&settings.response_headers)?,
            forwarding: Forwarding::new(settings),
            preserve_host: settings.preserve_host,
            retries: settings.retries,
            body_bytes_max: (settings.body_bytes_max > 0).then_some(settings.body_bytes_max),
            read_timeout: (!settings.timeouts.read.is_zero()).then_some(settings.timeouts.read),
            upgraded_timeout: settings.timeouts.upgraded,
            metrics,
        }))
    }

    /// Checks health and looks names up from now on, until `stop` or until nobody has these any
    /// more. It must run inside a Tokio runtime.
    pub fn start(self: &Arc<Self>, stop: &CancellationToken) {
        if self.resolver.has_names() {
            repeat(self, LOOKUP_INTERVAL, stop, |upstreams| async move {
                if upstreams.resolved.initialized() {
                    upstreams.balancer.update().await;
                } else {
                    upstreams.resolved().await;
                }
            });
        }
        if let Some(interval) = self.check_interval {
            repeat(self, interval, stop, |upstreams| async move {
                upstreams.resolved().await;
                upstreams.balancer.check().await;
                let unhealthy = upstreams.balancer.unhealthy();
                upstreams.metrics.unhealthy.set(unhealthy as i64);
            });
        }
    }

    /// The upstream for a request, unless none is healthy. One that is avoided, and even more one at
    /// an address in `tried`, is taken only if there is no other.
    pub async fn pick(
        &self,
        head: &RequestHeader,
        client: &ClientFacts,
        tried: &[SocketAddr],
    ) -> Option<Picked> {
        self.resolved().await;
        let key = self.key(head, client);
        let untried = |target: &Target| !tried.contains(&target.peer._address);
        let select = |accept: &dyn Fn(&Target) -> bool| self.balancer.select(&key, accept);
        let target = select(&|target| untried(target) && !target.is_avoided())
            .or_else(|| select(&untried))
            .or_else(|| select(&|_| true));
        let Some(target) = target else {
            self.metrics.failed(UpstreamFailure::NoUpstream);
            return None;
        };
        target.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Picked {
            peer: target.peer.clone(),
            target,
            _in_flight: self.metrics.enter(),
        })
    }

    async fn resolved(&self) {
        self.resolved.get_or_init(|| self.balancer.update()).await;
    }

    /// What is hashed to find the upstream of a request.
    fn key(&self, head: &RequestHeader, client: &ClientFacts) -> Vec<u8> {
        match &self.hash_by {
            HashBy::Path => head.uri.path().as_bytes().to_vec(),
            HashBy::Client => {
                let address = self.forwarding.client_address(&head.headers, client);
                address.map_or_else(Vec::new, |address| address.to_string().into_bytes())
            }
            HashBy::Header(name) => {
                let value = head.headers.get(name);
                value.map_or_else(Vec::new, |value| value.as_bytes().to_vec())
            }
        }
    }

    /// Makes of a client's request the one that its upstream gets.
    pub fn prepare(&self, head: &mut RequestHeader, client: &ClientFacts, to: &Picked) {
        hop_by_hop::strip_request(head);
        // The body that follows is complete: there is nothing to wait for.
        head.remove_header(&header::EXPECT);
        self.rewrite(head, client, to);
    }

    /// As [`Self::prepare`], but leaves alone what is between neighbours, for somebody else to do.
    pub fn rewrite(&self, head: &mut RequestHeader, client: &ClientFacts, to: &Picked) {
        let asked = host(head);
        self.paths.apply(head);
        self.forwarding.apply(head, client, asked.as_ref());
        match asked {
            Some(asked) if self.preserve_host => {
                let _ = head.insert_header(header::HOST, asked);
            }
            _ => {
                let _ = head.insert_header(header::HOST, to.authority());
            }
        }
        self.request_headers.apply_to_request(head);
    }

    /// As [`Self::prepare`], but passes the wish for an upgrade on.
    pub fn prepare_upgrade(&self, head: &mut RequestHeader, client: &ClientFacts, to: &Picked) {
        let wish = head.headers.get(header::UPGRADE).cloned();
        self.prepare(head, client, to);
        if let Some(wish) = wish {
            let _ = head.insert_header(header::UPGRADE, wish);
            let _ = head.insert_header(header::CONNECTION, "Upgrade");
        }
    }

    /// Makes of an upstream's answer the one that the client gets, if its body is sent anew.
    pub fn prepare_response(&self, head: &mut ResponseHeader) {
        hop_by_hop::strip_response(head);
        self.response_headers.apply_to_response(head);
    }

    /// As [`Self::prepare_response`], for the answer that agrees to an upgrade: the protocols that it
    /// names are for both.
    pub fn prepare_upgraded(&self, head: &mut ResponseHeader) {
        let protocols = head.headers.get(header::UPGRADE).cloned();
        self.prepare_response(head);
        if let Some(protocols) = protocols {
            let _ = head.insert_header(header::UPGRADE, protocols);
        }
        let _ = head.insert_header(header::CONNECTION, "Upgrade");
    }

    /// As [`Self::prepare_response`], but leaves what says how the body is passed on.
    pub fn rewrite_response(&self, head: &mut ResponseHeader) {
        hop_by_hop::strip_passed_response(head);
        self.response_headers.apply_to_response(head);
    }
}

/// Does something again and again, at once for the first time.
fn repeat<F: Future<Output = ()> + Send + 'static>(
    upstreams: &Arc<Upstreams>,
    interval: Duration,
    stop: &CancellationToken,
    work: impl Fn(Arc<Upstreams>) -> F + Send + Sync + 'static,
) {
    let upstreams: Weak<Upstreams> = Arc::downgrade(upstreams);
    let stop = stop.clone();
    tokio::spawn(async move {
        while let Some(upstreams) = upstreams.upgrade() {
            let round = async {
                work(upstreams).await;
                tokio::time::sleep(interval).await;
            };
            if stop.run_until_cancelled(round).await.is_none() {
                return;
            }
        }
    });
}
