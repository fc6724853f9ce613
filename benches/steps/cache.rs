//! An edge's cache with one answer in memory.

use async_trait::async_trait;
use bytes::Bytes;
use headwater::clock::SystemClock;
use headwater::config::Config;
use headwater::edge::cache::{
    Ask, Cache, Cached, CachedBody, Fetch, Fetched, Pull, RangeKey, Scope, StreamKey,
};
use headwater::observe::metrics::{Metrics, UpstreamFailure};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// The tag of the answer.
pub(crate) const ETAG: &str = "\"0123456789abcdef0123456789abcdef:7:0:65536\"";

/// The request that is answered from memory.
pub(crate) const ASK: Ask<'static> = Ask {
    key: RangeKey {
        stream: StreamKey {
            origin: "https://origin.example.com",
            path: "/v1/stream/example",
        },
        scope: &Scope::Anonymous,
        range: "offset=0000000000000000_0000000000000000",
    },
    generation: 0,
    if_none_match: None,
    wish: None,
};

/// An origin with one answer.
struct Origin;

struct Once(Option<Bytes>);

#[async_trait]
impl Fetch for Origin {
    async fn fetch(&self, _: Option<&HeaderValue>) -> Result<Fetched, UpstreamFailure> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("cache-control", "public, max-age=31536000, immutable"),
            ("cache-tag", "stream:default/example"),
            ("etag", ETAG),
            ("stream-next-offset", "0000000000000000_0000000000065536"),
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Ok(Fetched {
            status: StatusCode::OK,
            headers,
            body: Box::new(Once(Some(Bytes::from(vec![b'x'; 64 << 10])))),
        })
    }
}

#[async_trait]
impl Pull for Once {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamFailure> {
        Ok(self.0.take())
    }
}

/// A cache that has the answer to [`ASK`] in memory.
pub(crate) fn warm(runtime: &Runtime) -> Arc<Cache> {
    let mut config = Config::default();
    config.cache.disk_bytes = 0;
    let _on = runtime.enter();
    let cache = Cache::open(&config, Arc::new(SystemClock), Arc::new(Metrics::new()));
    let cache = cache.expect("a cache");
    runtime.block_on(read(&cache));
    // It is kept a moment after it was read.
    while cache.hit(&ASK).is_none() {
        std::thread::yield_now();
    }
    cache
}

async fn read(cache: &Arc<Cache>) {
    let Ok(Cached {
        body: CachedBody::Pieces(mut reader),
        ..
    }) = cache.get(&ASK, Origin).await
    else {
        panic!("the origin's answer did not come");
    };
    while let Ok(Some(_)) = reader.next().await {}
}
