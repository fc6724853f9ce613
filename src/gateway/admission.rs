//! Who may connect: connections are counted and bounded before anything of them is read.

use crate::config::Limits;
use crate::observe::metrics::{Held, Metrics, Refusal};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The connections of all listeners.
pub(super) struct Admission {
    all: Arc<Semaphore>,
    /// `None`: one client may have all of them.
    each: Option<Arc<Addresses>>,
    metrics: Arc<Metrics>,
}

/// Counts a connection as open, as long as it lives.
pub(super) struct Open {
    _permit: OwnedSemaphorePermit,
    _place: Option<Place>,
    _gauge: Held,
}

impl Admission {
    pub(super) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let each = limits.connections_per_address_max.map(Addresses::new);
        Self {
            all: Arc::new(Semaphore::new(limits.connections_max)),
            each: each.map(Arc::new),
            metrics,
        }
    }

    /// Admits a connection from `peer`, which is only asked for where it matters; `None`: there are
    /// too many. A client without an address is one of a Unix socket.
    pub(super) fn admit(&self, peer: impl FnOnce() -> Option<IpAddr>) -> Option<Open> {
        let Ok(permit) = self.all.clone().try_acquire_owned() else {
            self.metrics.refused(Refusal::Connections).inc();
            return None;
        };
        let bounded = self.each.as_ref().and_then(|each| Some((each, peer()?)));
        let place = match bounded.map(|(each, peer)| each.enter(peer)) {
            None => None,
            Some(Some(place)) => Some(place),
            Some(None) => {
                let refused = self.metrics.refused(Refusal::ConnectionsPerAddress);
                refused.inc();
                return None;
            }
        };
        Some(Open {
            _permit: permit,
            _place: place,
            _gauge: Held::new(&self.metrics.open_connections),
        })
    }
}

/// How many connections there are from where.
struct Addresses {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address.
struct Place {
    addresses: Arc<Addresses>,
    network: IpAddr,
}

impl Addresses {
    fn new(max: usize) -> Self {
        Self {
            max,
            open: Mutex::default(),
        }
    }

    /// Counts one more from an address; `None` if it has as many as it may.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = network(address);
        let mut open = self.open.lock();
        let count = open.entry(network).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place {
            addresses: self.clone(),
            network,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

/// What one client has: an IPv4 address, or the 64 bits of an IPv6 address below which it chooses
/// the rest.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let chosen_bits = u128::from(u64::MAX);
            Ipv6Addr::from_bits(address.to_bits() & !chosen_bits).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(all: usize, each: Option<usize>) -> Admission {
        let limits = Limits {
            connections_max: all,
            connections_per_address_max: each,
            ..Limits::default()
        };
        Admission::new(&limits, Arc::new(Metrics::new()))
    }

    #[test]
    fn an_address_has_so_many_and_leaves_room_to_others() {
        let admission = admission(4, Some(2));
        let admit = |address: &str| admission.admit(|| address.parse().ok());
        let first = admit("192.0.2.1");
        let second = admit("::ffff:192.0.2.1");
        assert!(first.is_some() && second.is_some());
        assert!(admit("192.0.2.1").is_none());
        let other = admit("192.0.2.2");
        assert!(other.is_some());
        drop(first);
        let third = admit("192.0.2.1");
        assert!(third.is_some());
        let local = admission.admit(|| None);
        assert!(local.is_some(), "refused ones hold nothing");
        assert!(admit("192.0.2.3").is_none());
        let refused = |refusal| admission.metrics.refused(refusal).get();
        assert_eq!(refused(Refusal::ConnectionsPerAddress), 1);
        assert_eq!(refused(Refusal::Connections), 1);
        assert_eq!(admission.metrics.open_connections.get(), 4);
        drop((second, other, third, local));
        assert_eq!(admission.metrics.open_connections.get(), 0);
        assert!(admission.each.unwrap().open.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let admission = admission(10, Some(1));
        let admit = |address: &str| admission.admit(|| address.parse().ok());
        let one = admit("2001:db8::1");
        assert!(one.is_some());
        assert!(admit("2001:db8::ffff:1").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn without_a_limit_nobody_is_asked_for_an_address() {
        let admission = admission(1, None);
        let open = admission.admit(|| panic!("it is not needed"));
        assert!(open.is_some());
    }
}
