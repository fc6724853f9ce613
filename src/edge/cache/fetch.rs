//! What the cache asks of whoever talks to the origin.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::observe::metrics::UpstreamFailure;

/// Asks the origin for the answer to one request.
///
/// It is asked at most once for each call of [`Cache::get`](super::Cache::get), or a second time
/// when what was kept turned out to be damaged after the origin had said that it is unchanged.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// Sends the request, without a `Range` and without conditions but this one, and waits for the
    /// head of the answer. The wait must be bounded.
    async fn fetch(&self, if_none_match: Option<&HeaderValue>) -> Result<Fetched, UpstreamFailure>;
}

/// An origin's answer while it comes.
pub struct Fetched {
    pub status: StatusCode,
    /// What is meant for clients: without headers of the connection, with `Content-Length` where
    /// the origin gave one.
    pub headers: HeaderMap,
    pub body: Box<dyn Pull>,
}

/// A body that is pulled from where it comes. Dropping it before its end cancels the request.
#[async_trait]
pub trait Pull: Send + 'static {
    /// The next piece, which is not empty; `None` at the end of a whole body, and an error where it
    /// broke off or was silent for too long.
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamFailure>;
}
