//! The edge's cache of an origin's answers that never change: a bounded part of them in memory,
//! in front of a bounded part on disk, which is there again after a restart.

mod fetch;
mod key;
mod status;

pub use fetch::{Fetch, Fetched, Pull};
pub use key::{RangeKey, Scope, StreamKey};
pub use status::{CACHE_STATUS, CacheStatus};

use crate::clock::Clock;
use crate::config::Config;
use crate::observe::metrics::{Metrics, UpstreamFailure};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use thiserror::Error;

/// The answers of all origins that are kept.
pub struct Cache {}

/// What is asked of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub key: RangeKey<'a>,
    /// How often something was written to the stream through this edge. A request never joins one
    /// to the origin of a lower generation, which may not have seen what was written.
    pub generation: u64,
    /// The client's own condition: an answer with such a tag is given as 304.
    pub if_none_match: Option<&'a str>,
}

/// An answer.
pub struct Cached {
    pub status: StatusCode,
    /// The origin's headers, without `Age`, `Cache-Status` and `Content-Length` if the answer is one
    /// that others get as well. A 304 has those that go with one.
    pub headers: Arc<HeaderMap>,
    pub body: CachedBody,
    pub cache_status: CacheStatus,
    /// The value of `Age`, where the answer did not come from the origin just now.
    pub age_seconds: Option<u64>,
}

/// The body of an answer.
pub enum CachedBody {
    Empty,
    Full(Bytes),
    Pieces(Reader),
}

/// A body that is read while it comes.
pub struct Reader {
    /// Bytes of the whole body, where they are known beforehand.
    pub length: Option<u64>,
}

impl Reader {
    /// The next piece; `None` at the end of a whole body. After an error nothing more comes, and
    /// the client must not take what it has for all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GetError> {
        todo!()
    }
}

/// Why there is no answer, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GetError {
    /// The origin gave none, or broke off; nothing that may be given instead is kept.
    #[error("the origin failed")]
    Origin(UpstreamFailure),
    /// As many requests to origins as may run at one time are running.
    #[error("too many answers are being fetched; try again later")]
    Busy,
}

/// Why the cache does not begin its work.
#[derive(Debug, Error)]
#[error("the cache's directory {dir} cannot be used: {source}")]
pub struct OpenError {
    pub dir: String,
    pub source: std::io::Error,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// All answers of a stream, for whomever they are kept.
    Stream { origin: String, path: String },
    /// All answers with this `Cache-Tag`, of any origin.
    Tag(String),
}

impl Cache {
    /// Makes the directory, which is in `data_dir` unless set, and begins to look for what an earlier
    /// process has left there. Must be called on a Tokio runtime.
    pub fn open(
        _config: &Config,
        _clock: Arc<dyn Clock>,
        _metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, OpenError> {
        todo!()
    }

    /// The answer, if it is in memory and fresh. Costs no more than looking it up: ask here first.
    pub fn hit(&self, _ask: &Ask<'_>) -> Option<Cached> {
        todo!()
    }

    /// The answer, wherever it has to come from.
    ///
    /// Requests for the same that come meanwhile get the same answer, if the origin lets a shared
    /// cache give it to them. It is kept if it also never changes: a 200 without
    /// `Stream-Up-To-Date`, or with `Stream-Closed`. Whatever else the origin says goes as it is to
    /// the one who asked.
    pub async fn get<F: Fetch>(
        self: &Arc<Self>,
        _ask: &Ask<'_>,
        _fetch: F,
    ) -> Result<Cached, GetError> {
        todo!()
    }

    /// Forgets answers, in memory and on disk, and what is being fetched: none of it is given to
    /// a request that comes after this was called. Returns how many answers were kept.
    ///
    /// An error says that some are still on disk, and could be there again after a restart.
    pub async fn purge(&self, _purge: Purge) -> Result<u64, std::io::Error> {
        todo!()
    }
}
