//! Which origin a stream has its home at.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::Extensions;
use pingora::lb::Backend;
use pingora::lb::selection::{BackendIter, BackendSelection, Consistent};
use pingora::protocols::l4::socket::SocketAddr;
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::observe::metrics::UpstreamMetrics;
use crate::upstream::{UpstreamError, Upstreams};

/// Connections to one origin that are being made at one time to follow streams: what an origin
/// meets when it comes back.
const CONNECTING_MAX: usize = 16;

/// The origins of a route, on a ring.
///
/// The places on the ring are made of the origins' URLs and not of their addresses: a stream stays
/// where it is when a name gets another address.
pub(super) struct Origins {
    ring: Arc<Consistent>,
    homes: Vec<Arc<Origin>>,
    shard_by: Option<usize>,
}

/// One origin.
pub(super) struct Origin {
    /// Its URL, as it is configured.
    pub(super) name: String,
    pub(super) upstreams: Arc<Upstreams>,
    /// Permits to connect to it in order to follow a stream.
    pub(super) connecting: Semaphore,
    place: SocketAddr,
}

impl Origins {
    /// Checks of their health run until `stop`. Must be called on a Tokio runtime.
    pub(super) fn new(
        settings: &config::Origin,
        metrics: &Arc<UpstreamMetrics>,
        stop: &CancellationToken,
    ) -> Result<Self, UpstreamError> {
        let origin = |upstream: &config::Upstream| {
            let upstreams = Upstreams::new(&settings.reverse_proxy(upstream), metrics.clone())?;
            upstreams.start(stop);
            let name = upstream.url.to_string();
            Ok(Arc::new(Origin {
                place: place(&name),
                name,
                upstreams,
                connecting: Semaphore::new(CONNECTING_MAX),
            }))
        };
        let homes: Vec<_> = settings
            .upstreams
            .iter()
            .map(origin)
            .collect::<Result<_, _>>()?;
        let backends: BTreeSet<Backend> = homes
            .iter()
            .zip(&settings.upstreams)
            .map(|(home, upstream)| Backend {
                addr: home.place.clone(),
                weight: upstream.weight,
                ext: Extensions::new(),
            })
            .collect();
        Ok(Self {
            ring: Arc::new(Consistent::build(&backends)),
            homes,
            shard_by: settings.shard_by,
        })
    }

    pub(super) fn all(&self) -> &[Arc<Origin>] {
        &self.homes
    }

    /// The place, among all, of the home of the stream with this path below the route.
    pub(super) fn home(&self, path: &str) -> usize {
        if self.homes.len() == 1 {
            return 0;
        }
        let mut ring = self.ring.iter(shard(path, self.shard_by).as_bytes());
        let place = ring.next().map(|backend| &backend.addr);
        let home = place.and_then(|place| self.homes.iter().position(|one| one.place == *place));
        home.unwrap_or_default()
    }
}

/// The part of a path that says where its home is.
fn shard(path: &str, segments: Option<usize>) -> &str {
    let Some(segments) = segments else {
        return path;
    };
    let end = path.match_indices('/').nth(segments - 1);
    end.map_or(path, |(end, _)| &path[..end])
}

/// An address that stands for an origin on the ring.
fn place(name: &str) -> SocketAddr {
    let digest = digest(&SHA256, name.as_bytes());
    let mut ip = [0; 16];
    ip.copy_from_slice(&digest.as_ref()[..16]);
    let ip = IpAddr::V6(Ipv6Addr::from(ip));
    SocketAddr::Inet(std::net::SocketAddr::from((ip, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    fn origins(upstreams: &[&str], shard_by: Option<usize>) -> Origins {
        let list = upstreams.join(", ");
        let settings: config::Origin = toml::from_str(&format!("upstreams = [{list}]")).unwrap();
        let settings = config::Origin {
            shard_by,
            ..settings
        };
        let metrics = Metrics::new().upstreams("/*");
        Origins::new(&settings, &metrics, &CancellationToken::new()).unwrap()
    }

    fn share(origins: &Origins, home: &str) -> f64 {
        let paths = (0..10_000).map(|n| format!("stream-{n}"));
        let there = paths.filter(|path| origins.all()[origins.home(path)].name == home);
        there.count() as f64 / 10_000.0
    }

    #[tokio::test]
    async fn streams_spread_by_weight() {
        let of_two = origins(
            &[r#""http://a:1""#, r#"{ url = "http://b:1", weight = 3 }"#],
            None,
        );
        let share = share(&of_two, "http://b:1");
        assert!((0.65..0.85).contains(&share), "{share}");
    }

    #[tokio::test]
    async fn few_streams_move_when_an_origin_is_added() {
        let before = origins(&[r#""http://a:1""#, r#""http://b:1""#], None);
        let after = origins(
            &[r#""http://c:1""#, r#""http://a:1""#, r#""http://b:1""#],
            None,
        );
        for n in 0..1000 {
            let path = format!("stream-{n}");
            let (old, new) = (
                &before.all()[before.home(&path)],
                &after.all()[after.home(&path)],
            );
            assert!(old.name == new.name || new.name == "http://c:1", "{path}");
        }
        let moved = share(&after, "http://c:1");
        assert!((0.2..0.47).contains(&moved), "{moved}");
    }

    #[tokio::test]
    async fn the_first_segments_keep_streams_together() {
        let upstreams = ["\"http://a:1\"", "\"http://b:1\"", "\"http://c:1\""];
        let origins = origins(&upstreams, Some(2));
        for n in 0..100 {
            let home = origins.home(&format!("team/{n}"));
            assert_eq!(origins.home(&format!("team/{n}/a")), home);
            assert_eq!(origins.home(&format!("team/{n}/a/b")), home);
        }
        assert_eq!(shard("a/b/c", Some(1)), "a");
        assert_eq!(shard("a/b/c", Some(5)), "a/b/c");
        assert_eq!(shard("a/b/c", None), "a/b/c");
    }
}
