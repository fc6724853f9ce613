//! Purges of an edge's cache.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use serde_json::json;
use tracing::{error, info};

use super::answer::{Answer, Problem};
use super::{Admin, Request, parameter};

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeTarget {
    /// The answers of the streams with this path, at one origin or at all.
    Path {
        origin: Option<String>,
        path: String,
    },
    /// The answers of the streams with this cache tag.
    Tag(String),
}

/// Forgets what the cache keeps, and returns how many answers it was; an error says what may be
/// there again after a restart, and `None` that there is no cache. It may block; it is never called
/// twice at once.
pub type Purge = Arc<dyn Fn(PurgeTarget) -> Option<io::Result<u64>> + Send + Sync>;

impl Admin {
    pub(super) async fn purge(&self, request: &Request<'_>) -> Answer {
        let purge = Arc::clone(&self.parts.purge);
        let Some(target) = target(request.query) else {
            return no_target();
        };
        let begin = Instant::now();
        let wanted = target.clone();
        let error = match self.purge.run_to_end(move || purge(wanted)).await {
            Some(Ok(None)) => return no_cache(),
            Some(Ok(Some(Ok(answers)))) => {
                let duration_ms = begin.elapsed().as_millis() as u64;
                info!(?target, answers, duration_ms, "the cache was purged");
                let body = json!({ "answers": answers, "duration_ms": duration_ms });
                return Answer::new(StatusCode::OK, "application/json", format!("{body}\n"));
            }
            Some(Ok(Some(Err(error)))) => error.to_string(),
            Some(Err(_)) | None => "It ended unexpectedly.".to_owned(),
        };
        error!(?target, error, "a purge failed");
        Answer::problem(&Problem {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            title: "The purge failed",
            code: "PURGE_FAILED",
            detail: &error,
        })
    }
}

/// What a query names, if it is one thing.
fn target(query: &str) -> Option<PurgeTarget> {
    let named = |name: &str| {
        let mut names = query.split('&').map(|one| one.split('=').next());
        names.any(|found| found == Some(name))
    };
    match (named("path"), named("origin"), named("tag")) {
        (true, false, false) => Some(PurgeTarget::Path {
            origin: None,
            path: parameter(query, "path")?,
        }),
        (true, true, false) => Some(PurgeTarget::Path {
            origin: Some(parameter(query, "origin")?),
            path: parameter(query, "path")?,
        }),
        (false, false, true) => Some(PurgeTarget::Tag(parameter(query, "tag")?)),
        _ => None,
    }
}

fn no_cache() -> Answer {
    Answer::problem(&Problem {
        status: StatusCode::NOT_FOUND,
        title: "Nothing to purge",
        code: "NO_CACHE",
        detail: "No route of this server has an origin, so nothing is kept.",
    })
}

fn no_target() -> Answer {
    Answer::problem(&Problem {
        status: StatusCode::BAD_REQUEST,
        title: "What to purge is missing or not clear",
        code: "PURGE_TARGET",
        detail: "Give ?path= once, perhaps with &origin=, or ?tag= once.",
    })
}
