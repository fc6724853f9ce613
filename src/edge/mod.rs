//! An edge: streams whose home is another server of the protocol.
//!
//! Answers that never change are kept ([`cache`]), each stream with live readers is followed once
//! whatever their number ([`subscription`]), and writes pass through. To an edge offsets are text:
//! all it knows of them is how they sort.

mod answer;
mod asked;
pub mod cache;
mod events;
mod fetch;
mod follow;
mod generations;
mod identities;
mod live;
mod lives;
mod origin_sse;
mod origins;
mod reader;
mod ring;
mod route;
mod sharing;
mod subscription;
mod subscriptions;
mod via;

pub use asked::Asked;
pub use cache::CACHE_STATUS;
pub use route::{Home, Route};

use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::hub::HotBytes;
use crate::observe::admin::PurgeTarget;
use crate::serve::Server;
use crate::upstream::Client;
use cache::Cache;
use generations::Generations;
use identities::Identities;
use lives::Lives;
use subscriptions::Subscriptions;

/// What all edge routes of a server share.
pub struct Edge {
    server: Arc<Server>,
    client: Client,
    cache: Arc<Cache>,
    generations: Generations,
    identities: Identities,
    lives: Lives,
    subscriptions: Subscriptions,
    /// The memory for what was last heard of the streams that are followed.
    hot: Arc<HotBytes>,
    /// Cancelled when streams need no longer be followed.
    stop: CancellationToken,
}

impl Edge {
    /// One that follows at most `subscriptions_max` streams, with at most `hot_bytes_max` of memory
    /// for what was last heard of them, until `stop`.
    pub fn new(
        server: Arc<Server>,
        cache: Arc<Cache>,
        subscriptions_max: usize,
        hot_bytes_max: u64,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            client: Client::new(),
            cache,
            generations: Generations::new(),
            identities: Identities::new(),
            lives: Lives::default(),
            subscriptions: Subscriptions::new(subscriptions_max),
            hot: HotBytes::new(hot_bytes_max),
            stop,
        })
    }

    /// Forgets what is kept of streams, and what was last heard of those that are followed, whose
    /// live readers stay where they are. Returns how many answers were kept; an error says that some
    /// are still on disk, and could be there again after a restart.
    pub async fn purge(&self, target: PurgeTarget) -> io::Result<u64> {
        let purged = self.cache.purge(target.clone().into()).await;
        self.subscriptions.forget(&target);
        purged
    }

    /// Lets a scrape of the metrics take the figures that are only worth asking for then.
    pub fn report_figures(self: &Arc<Self>) {
        let edge = Arc::downgrade(self);
        self.server.metrics.on_scrape(Box::new(move |metrics| {
            if let Some(edge) = edge.upgrade() {
                let figures = edge.subscriptions.figures();
                metrics.edge.set_readers(&figures.readers);
                metrics.edge.reconnecting.set(figures.reconnecting);
                metrics
                    .edge
                    .behind_seconds
                    .set(figures.behind.as_secs() as i64);
                metrics.edge.hot_bytes.set(edge.hot.used() as i64);
            }
        }));
    }
}
