//! A route whose answers are recorded.

use super::names::Id;
use super::readers::Readers;
use crate::config::{self, OnDisconnect};
use crate::types::StreamPath;
use crate::upstream::Upstreams;
use http::{HeaderMap, HeaderName, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;
use std::time::Duration;

/// A route whose answers are recorded, with what its settings mean.
pub struct Route {
    pub config: config::Record,
    pub upstreams: Arc<Upstreams>,
    /// What tells the route from others: its path pattern and namespace.
    pub(super) name: Arc<str>,
    pub(super) idempotency: HeaderName,
    pub(super) credentials: Vec<HeaderName>,
}

/// What stays readable in the path of a URL.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

impl Route {
    /// `pattern` is the path of the route.
    pub fn new(pattern: &str, config: config::Record, upstreams: Arc<Upstreams>) -> Self {
        let header = |name: &String| HeaderName::try_from(name).ok();
        let idempotency = header(&config.idempotency_header);
        Self {
            name: format!("{} {pattern}", config.namespace).into(),
            idempotency: idempotency.unwrap_or(HeaderName::from_static("idempotency-key")),
            credentials: config.credentials.iter().filter_map(header).collect(),
            config,
            upstreams,
        }
    }

    /// The stream of the recording with this id.
    pub(super) fn stream(&self, id: Id) -> StreamPath {
        let name = self.config.name.replace("{id}", &id.to_string());
        StreamPath::new(&self.config.namespace, &name)
    }

    /// The path at which a recording's stream is read.
    pub(super) fn url_path(&self, path: &StreamPath) -> String {
        format!(
            "{}/{}/{}",
            self.config.url_path.trim_end_matches('/'),
            path.namespace(),
            utf8_percent_encode(path.path(), IN_PATHS),
        )
    }

    /// Whether an answer is one that is recorded.
    pub(super) fn records(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let whole = status.is_success()
            && ![
                StatusCode::NO_CONTENT,
                StatusCode::RESET_CONTENT,
                StatusCode::PARTIAL_CONTENT,
            ]
            .contains(&status);
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // Readers of the stream could not decode it: its content type is all they learn.
        let plain = text(header::CONTENT_ENCODING)
            .is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"));
        let essence = text(header::CONTENT_TYPE).and_then(|value| value.split(';').next());
        whole
            && plain
            && essence.is_some_and(|essence| {
                let mut types = self.config.content_types.iter();
                types.any(|recorded| recorded.eq_ignore_ascii_case(essence.trim()))
            })
    }

    /// Returns when the upstream call is to end because nobody reads.
    pub(super) async fn left(&self, readers: &Readers) {
        match self.config.on_disconnect {
            OnDisconnect::Continue => std::future::pending().await,
            OnDisconnect::Cancel => readers.gone_for(Duration::ZERO).await,
            OnDisconnect::Grace => readers.gone_for(self.config.grace).await,
        }
    }
}
