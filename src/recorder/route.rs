//! A route whose answers are recorded.

use super::names::Id;
use super::readers::Readers;
use super::sign::{SignatureError, Signer};
use super::upstream::{Balanced, Named, Upstream};
use crate::config::{self, OnDisconnect, Secret};
use crate::types::{Retention, StreamPath, UnixMs};
use crate::upstream::{Client, UpstreamError, Upstreams};
use http::{HeaderMap, HeaderName, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;
use std::time::Duration;

/// A route whose answers are recorded, with what its settings mean.
pub struct Route {
    /// Who answers its requests.
    pub(super) upstream: Arc<dyn Upstream>,
    /// What tells the route from others: its namespace and path pattern.
    pub(super) name: Arc<str>,
    pub(super) idempotency: HeaderName,
    pub(super) credentials: Vec<HeaderName>,
    pub(super) bounds: Bounds,
    pub(super) event_ids: bool,
    pub(super) heartbeat: Duration,
    patience: Option<Duration>,
    /// Whether its answers are feeds that all clients share.
    pub(super) feed: Option<Feed>,
    /// How much is kept of the stream of a feed.
    pub(super) retention: Option<Retention>,
    /// The content types that are recorded; `None`: all.
    content_types: Option<Vec<String>>,
    stream_name: String,
    namespace: String,
    pub(super) ttl: Duration,
    url_ttl: Duration,
    /// Where the streams of recordings are read.
    url_path: String,
    /// The scheme and host of their URLs, if a setting says them.
    pub base_url: Option<String>,
    signer: Signer,
}

/// How a feed is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feed {
    /// How long nobody may be reading before its upstream is left; `None`: for ever.
    pub(super) idle_stop: Option<Duration>,
}

/// What a recording may take.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) inactivity_timeout: Duration,
    /// Zero: any.
    pub(super) total_timeout: Duration,
    pub(super) bytes_max: u64,
    /// Recordings of one caller at one time.
    pub(super) per_caller_max: usize,
}

/// What stands for the unique part in the name of a stream.
const ID: &str = "{id}";

pub(super) const NO_KEYS: [&[u8]; 0] = [];

/// What stays readable in the path of a URL.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

impl Route {
    /// A route at the path pattern `pattern` whose upstreams are configured.
    pub fn recording(
        pattern: &str,
        config: &config::Record,
        upstreams: Arc<Upstreams>,
        client: Client,
        secret: &[u8],
    ) -> Self {
        let header = |name: &String| HeaderName::try_from(name).ok();
        let idempotency = header(&config.idempotency_header);
        let upstream = Balanced {
            upstreams,
            client,
            headers_timeout: config.headers_timeout,
        };
        Self {
            upstream: Arc::new(upstream),
            name: format!("{} {pattern}", config.namespace).into(),
            idempotency: idempotency.unwrap_or(HeaderName::from_static("idempotency-key")),
            credentials: config.credentials.iter().filter_map(header).collect(),
            bounds: Bounds {
                inactivity_timeout: config.inactivity_timeout,
                total_timeout: config.total_timeout,
                bytes_max: config.recording_bytes_max,
                per_caller_max: config.recordings_per_caller_max,
            },
            event_ids: config.event_ids,
            heartbeat: config.heartbeat,
            patience: match config.on_disconnect {
                OnDisconnect::Continue => None,
                OnDisconnect::Cancel => Some(Duration::ZERO),
                OnDisconnect::Grace => Some(config.grace),
            },
            feed: config.share.then_some(Feed {
                idle_stop: (!config.always).then_some(config.idle_stop),
            }),
            retention: config.share.then_some(config.retention.into()),
            content_types: Some(config.content_types.clone()),
            stream_name: config.name.clone(),
            namespace: config.namespace.clone(),
            ttl: config.ttl,
            url_ttl: config.url_ttl,
            url_path: format!(
                "{}/{}",
                config.url_path.trim_end_matches('/'),
                config.namespace
            ),
            base_url: config.base_url.clone(),
            signer: Signer::new(secret, NO_KEYS),
        }
    }

    /// A route at the path `path` whose clients name the upstream, by the proxy protocol.
    pub fn proxying(
        path: &str,
        config: &config::Proxy,
        client: Client,
    ) -> Result<Self, UpstreamError> {
        let previous = config.previous_secrets.iter();
        Ok(Self {
            upstream: Arc::new(Named::new(config, client)?),
            name: format!("{} {path}", config.namespace).into(),
            idempotency: HeaderName::from_static("idempotency-key"),
            credentials: Vec::new(),
            bounds: Bounds {
                inactivity_timeout: config.inactivity_timeout,
                total_timeout: config.total_timeout,
                bytes_max: config.recording_bytes_max,
                // All requests are of one service, which `limits.recordings_max` bounds.
                per_caller_max: usize::MAX,
            },
            event_ids: false,
            heartbeat: Duration::ZERO,
            patience: None,
            feed: None,
            retention: None,
            content_types: None,
            stream_name: ID.to_owned(),
            namespace: config.namespace.clone(),
            ttl: config.ttl,
            url_ttl: config.url_ttl,
            url_path: path.to_owned(),
            base_url: config.base_url.clone(),
            signer: Signer::new(config.secret.as_bytes(), previous.map(Secret::as_bytes)),
        })
    }

    /// The stream of the recording with this id.
    pub(super) fn stream(&self, id: Id) -> StreamPath {
        self.stream_named(&self.stream_name.replace(ID, &id.to_string()))
    }

    /// The stream of a recording with this name.
    pub fn stream_named(&self, name: &str) -> StreamPath {
        StreamPath::new(&self.namespace, name)
    }

    /// The path and query at which a recording's stream is read, signed for a time.
    pub fn stream_url(&self, path: &StreamPath, now_ms: UnixMs) -> String {
        let name = utf8_percent_encode(path.path(), IN_PATHS);
        let expires_s = now_ms / 1000 + self.url_ttl.as_secs();
        let query = self.signer.query(path.key(), expires_s);
        format!("{}/{name}?{query}", self.url_path)
    }

    /// Whether a query holds the right to a recording's stream now.
    pub fn verify(
        &self,
        path: &StreamPath,
        query: &str,
        now_ms: UnixMs,
    ) -> Result<(), SignatureError> {
        self.signer.verify(path.key(), query, now_ms / 1000)
    }

    /// Whether an answer is one that is recorded.
    pub(super) fn records(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // Readers of the stream could not decode it: its content type is all they learn.
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let plain = encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        let Some(types) = &self.content_types else {
            return status.is_success() && plain;
        };
        let essence = text(header::CONTENT_TYPE).and_then(|value| value.split(';').next());
        let essence = essence.unwrap_or_default().trim();
        let mut types = types.iter();
        status == StatusCode::OK
            && plain
            && types.any(|recorded| recorded.eq_ignore_ascii_case(essence))
    }

    /// Whether a recording goes on when its last client has left, for a time at least.
    pub(super) fn outlasts_clients(&self) -> bool {
        self.patience.is_none_or(|patience| !patience.is_zero())
    }

    /// Returns when the upstream call is to end because nobody reads.
    pub(super) async fn left(&self, readers: &Readers, shared: bool) {
        let feed = self.feed.as_ref().filter(|_| shared);
        match feed.map_or(self.patience, |feed| feed.idle_stop) {
            None => std::future::pending().await,
            Some(patience) => readers.gone_for(patience).await,
        }
    }
}
