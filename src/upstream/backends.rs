//! The addresses of a route's upstreams, and which of them is next.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::Extensions;
use parking_lot::Mutex;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::HealthCheck;
use pingora::lb::selection::{Consistent, RoundRobin};
use pingora::lb::{Backend, Backends, LoadBalancer};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::upstreams::peer::HttpPeer;

use super::error::UpstreamError;
use super::peer::Template;
use crate::config::{Balance, Upstream, UpstreamUrl};

/// How long an address is avoided to which no connection came about. Of `localhost`, often only one
/// address is listened at.
const AVOIDED_TIME: Duration = Duration::from_secs(10);
/// Steps on a hash ring after which the search for a healthy upstream is given up.
const STEPS_MAX: usize = 1024;

/// An upstream at one of its addresses.
pub(super) struct Target {
    pub(super) url: UpstreamUrl,
    pub(super) authority: String,
    pub(super) peer: HttpPeer,
    pub(super) weight: usize,
    /// Requests under way.
    pub(super) in_flight: AtomicUsize,
    /// Until when it is avoided, because no connection to it came about.
    avoided_until: Mutex<Option<Instant>>,
}

impl Target {
    /// Lets others be preferred for a while.
    pub(super) fn avoid(&self) {
        *self.avoided_until.lock() = Some(Instant::now() + AVOIDED_TIME);
    }

    pub(super) fn is_avoided(&self) -> bool {
        let until = *self.avoided_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// The target that a backend stands for.
pub(super) fn target(backend: &Backend) -> Option<&Arc<Target>> {
    backend.ext.get()
}

/// Looks up the addresses of upstreams, again and again, because names move.
pub(super) struct Resolver {
    upstreams: Vec<Upstream>,
    template: Template,
    /// What was found last, so that counts go on, and a name server that is silent does no harm.
    known: Mutex<HashMap<(usize, SocketAddr), Arc<Target>>>,
}

impl Resolver {
    pub(super) fn new(upstreams: Vec<Upstream>, template: Template) -> Result<Self, UpstreamError> {
        for upstream in &upstreams {
            if let UpstreamUrl::Unix(path) = &upstream.url {
                unix(path)?;
            }
        }
        Ok(Self {
            upstreams,
            template,
            known: Mutex::default(),
        })
    }

    /// Whether there are names to look up.
    pub(super) fn has_names(&self) -> bool {
        let is_name = |upstream: &Upstream| match &upstream.url {
            UpstreamUrl::Tcp { host, .. } => host.parse::<std::net::IpAddr>().is_err(),
            UpstreamUrl::Unix(_) => false,
        };
        self.upstreams.iter().any(is_name)
    }

    async fn addresses(&self, place: usize) -> Vec<SocketAddr> {
        let (host, port) = match &self.upstreams[place].url {
            UpstreamUrl::Unix(path) => return unix(path).into_iter().collect(),
            UpstreamUrl::Tcp { host, port, .. } => (host.as_str(), *port),
        };
        match tokio::net::lookup_host((host, port)).await {
            Ok(found) => found.map(SocketAddr::Inet).collect(),
            Err(error) => {
                tracing::warn!(upstream = host, %error, "the name of an upstream is not found");
                let known = self.known.lock();
                let known = known.keys().filter(|(of, _)| *of == place);
                known.map(|(_, address)| address.clone()).collect()
            }
        }
    }

    fn target(&self, place: usize, address: &SocketAddr) -> Arc<Target> {
        let known = self.known.lock().get(&(place, address.clone())).cloned();
        known.unwrap_or_else(|| {
            let Upstream { url, weight } = &self.upstreams[place];
            Arc::new(Target {
                url: url.clone(),
                authority: url.authority(),
                peer: self.template.peer(url, address.clone()),
                weight: *weight,
                in_flight: AtomicUsize::new(0),
                avoided_until: Mutex::default(),
            })
        })
    }
}

fn unix(path: &Path) -> Result<SocketAddr, UpstreamError> {
    let address = std::os::unix::net::SocketAddr::from_pathname(path);
    address
        .map(SocketAddr::Unix)
        .map_err(|error| UpstreamError::Socket(path.to_owned(), error))
}

/// What the balancer asks; the resolver itself is shared with its owner.
struct Discovery(Arc<Resolver>);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let resolver = &self.0;
        let mut found = HashMap::new();
        let mut backends = BTreeSet::new();
        for place in 0..resolver.upstreams.len() {
            for address in resolver.addresses(place).await {
                let target = resolver.target(place, &address);
                let mut ext = Extensions::new();
                ext.insert(target.clone());
                backends.insert(Backend {
                    addr: address.clone(),
                    weight: target.weight,
                    ext,
                });
                found.insert((place, address), target);
            }
        }
        *resolver.known.lock() = found;
        Ok((backends, HashMap::new()))
    }
}

/// Chooses among the backends.
pub(super) enum Balancer {
    RoundRobin(LoadBalancer<RoundRobin>),
    LeastConnections(LoadBalancer<RoundRobin>),
    Hash(LoadBalancer<Consistent>),
}

/// Calls the same method of whichever load balancer it is.
macro_rules! each {
    ($balancer:expr, $lb:ident => $call:expr) => {
        match $balancer {
            Balancer::RoundRobin($lb) | Balancer::LeastConnections($lb) => $call,
            Balancer::Hash($lb) => $call,
        }
    };
}

impl Balancer {
    pub(super) fn new(
        balance: Balance,
        resolver: &Arc<Resolver>,
        check: Option<Box<dyn HealthCheck + Send + Sync>>,
    ) -> Self {
        let mut backends = Backends::new(Box::new(Discovery(resolver.clone())));
        if let Some(check) = check {
            backends.set_health_check(check);
        }
        match balance {
            Balance::RoundRobin => Self::RoundRobin(LoadBalancer::from_backends(backends)),
            Balance::LeastConnections => {
                Self::LeastConnections(LoadBalancer::from_backends(backends))
            }
            Balance::Hash => Self::Hash(LoadBalancer::from_backends(backends)),
        }
    }

    /// Looks the addresses up again.
    pub(super) async fn update(&self) {
        // Discovery itself does not fail.
        let _ = each!(self, lb => lb.update().await);
    }

    /// Checks the health of all backends.
    pub(super) async fn check(&self) {
        each!(self, lb => lb.backends().run_health_check(true).await);
    }

    /// How many backends are left out.
    pub(super) fn unhealthy(&self) -> usize {
        let backends = each!(self, lb => lb.backends());
        let all = backends.get_backend();
        all.iter()
            .filter(|backend| !backends.ready(backend))
            .count()
    }

    /// A healthy target for which `accept` holds.
    pub(super) fn select(
        &self,
        key: &[u8],
        accept: impl Fn(&Target) -> bool,
    ) -> Option<Arc<Target>> {
        let fits = |backend: &Backend, healthy: bool| {
            healthy && target(backend).is_some_and(|target| accept(target))
        };
        let backend = match self {
            Self::RoundRobin(lb) => lb.select_with(key, STEPS_MAX, fits),
            Self::Hash(lb) => lb.select_with(key, STEPS_MAX, fits),
            Self::LeastConnections(lb) => return least_busy(lb, fits),
        };
        target(&backend?).cloned()
    }
}

/// The target with the fewest requests under way for its weight; among equals, each in its turn.
fn least_busy(
    lb: &LoadBalancer<RoundRobin>,
    fits: impl Fn(&Backend, bool) -> bool,
) -> Option<Arc<Target>> {
    let load = |target: &Target| {
        let in_flight = target.in_flight.load(Ordering::Relaxed);
        (in_flight << 16) / target.weight.max(1)
    };
    let backends = lb.backends().get_backend();
    let fitting = backends
        .iter()
        .filter(|backend| fits(backend, lb.backends().ready(backend)))
        .filter_map(target);
    let least = fitting.map(|target| load(target)).min()?;
    let backend = lb.select_with(b"", STEPS_MAX, |backend, healthy| {
        fits(backend, healthy) && target(backend).is_some_and(|target| load(target) <= least)
    });
    // The load may have grown in between.
    let backend = backend.or_else(|| lb.select_with(b"", STEPS_MAX, &fits));
    target(&backend?).cloned()
}
