//! The admin listener: health, readiness, metrics, checkpoints of the database, and purges of the
//! cache.
//!
//! It asks for no authentication, so it belongs on an address that only operators reach. What it
//! needs of the rest of the server is given in [`Parts`] as closures, which may block: they run off
//! the async workers, and a closure that hangs costs one thread and no more, because the next
//! request waits for it rather than calling it again.

mod answer;
mod connections;
mod gate;
mod purge;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::header::{ALLOW, ORIGIN};
use http::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::protocols::http::ServerSession;
use pingora::services::listening::Service;
use serde_json::json;
use thiserror::Error;
use tracing::{error, info};

use self::answer::{Answer, Problem};
pub use self::connections::Connections;
use self::gate::{Gate, Unanswered};
pub use self::purge::{Purge, PurgeTarget};
use super::metrics::{CONTENT_TYPE, Metrics};
use crate::config::Listen;

/// How long the readiness closure may take before the server counts as not ready.
const READINESS_LIMIT: Duration = Duration::from_secs(2);
/// How long gathering the metrics may take. Scrapers commonly wait 10 s.
const METRICS_LIMIT: Duration = Duration::from_secs(8);
/// How long a request body, which none of the endpoints wants, is read before the answer.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// The longest name of a checkpoint, in bytes.
const CHECKPOINT_NAME_BYTES_MAX: usize = 64;
/// The buffer for each direction of a connection. Requests are small and rare.
const BUFFER_BYTES: usize = 4096;

/// Whether the server should be sent requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It should.
    Ready,
    /// Not yet: it opens the database and its listeners.
    Starting,
    /// No more: a stop has begun.
    Stopping,
    /// The database failed, and this is how. What is stored may still be read.
    StorageFailed(String),
}

/// Why there is no checkpoint.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CheckpointError {
    /// There is one of this name, or something else is in its place.
    #[error("a checkpoint of this name exists already")]
    Exists,
    /// It could not be written, and this is why.
    #[error("{0}")]
    Failed(String),
}

/// Tells whether the server is ready. It is called for each `GET /readyz`, may block, and should
/// include a small read from the database.
pub type ReadinessCheck = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// Writes a checkpoint of the database under this name, which [`is_checkpoint_name`], and returns
/// its directory. It may block; it is never called twice at once.
pub type Checkpoint = Arc<dyn Fn(&str) -> Result<PathBuf, CheckpointError> + Send + Sync>;

/// What the admin listener needs of the server.
#[derive(Clone)]
pub struct Parts {
    /// What `GET /metrics` renders.
    pub metrics: Arc<Metrics>,
    /// What `GET /readyz` asks.
    pub readiness: ReadinessCheck,
    /// What `POST /checkpoint` calls.
    pub checkpoint: Checkpoint,
    /// What `POST /purge` calls.
    pub purge: Purge,
}

/// Whether `name` may name a checkpoint: letters, digits, `.`, `_` and `-` of ASCII, at most 64,
/// and a letter or a digit first. So it is one visible directory below the checkpoints' own.
pub fn is_checkpoint_name(name: &str) -> bool {
    name.len() <= CHECKPOINT_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The admin listener's application.
pub struct Admin {
    parts: Parts,
    readiness: Gate,
    metrics: Gate,
    checkpoint: Gate,
    purge: Gate,
}

/// Why a listener cannot be made.
#[derive(Debug, Error)]
pub enum AddressError {
    /// Pingora takes paths as text.
    #[error("the path of the socket {0:?} is not UTF-8")]
    NotUtf8(PathBuf),
    /// Pingora would remove whatever is there.
    #[error("{0:?} exists and is not a socket")]
    NotASocket(PathBuf),
}

/// The service that answers at `address`. Start it with
/// [`start_service`](pingora::services::Service::start_service) on a Tokio runtime; it ends when its
/// watch turns true, which should be after all else has stopped, so that `/readyz` says so.
///
/// A Unix socket is for its owner and group only (mode 0660): whoever reaches it can fill the disk
/// with checkpoints.
pub fn service(parts: Parts, address: &Listen) -> Result<Service<Connections>, AddressError> {
    let listener = match address {
        Listen::Tcp(address) => ListenerConfig::tcp(address.to_string()),
        Listen::Unix(path) => unix_listener(path)?,
    };
    let app = Connections::new(HttpServer::new_app(Admin::new(parts)));
    let mut service = Service::new("admin".to_owned(), app);
    service.add_listener(listener.l4_buffer(L4BufferSettings::new(BUFFER_BYTES, BUFFER_BYTES)));
    Ok(service)
}

fn unix_listener(path: &Path) -> Result<ListenerConfig, AddressError> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    let text = path
        .to_str()
        .ok_or_else(|| AddressError::NotUtf8(path.to_owned()))?;
    // A socket that a dead process left is replaced; anything else was not meant.
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(AddressError::NotASocket(path.to_owned()));
    }
    Ok(ListenerConfig::uds(text).permissions(std::fs::Permissions::from_mode(Listen::SOCKET_MODE)))
}

/// What an endpoint needs of a request.
struct Request<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a str,
    /// Whether a browser sent it from some page: they say so with each POST.
    from_a_page: bool,
}

impl Admin {
    /// An application that asks `parts`.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            readiness: Gate::default(),
            metrics: Gate::default(),
            checkpoint: Gate::default(),
            purge: Gate::default(),
        }
    }

    async fn answer(&self, request: &Request<'_>) -> Answer {
        let allowed = match request.path {
            "/healthz" | "/readyz" | "/metrics" => "GET, HEAD",
            "/checkpoint" | "/purge" => "POST",
            _ => return not_found(),
        };
        let method = request.method.as_str();
        if !allowed.split(", ").any(|allowed| allowed == method) {
            return not_allowed(allowed);
        }
        match request.path {
            "/readyz" => self.ready().await,
            "/metrics" => self.metrics().await,
            // Any page that an operator visits could post here, as there is no authentication.
            "/checkpoint" | "/purge" if request.from_a_page => forbidden(),
            "/checkpoint" => self.checkpoint(request).await,
            "/purge" => self.purge(request).await,
            _ => Answer::text("alive\n"),
        }
    }

    async fn ready(&self) -> Answer {
        let check = Arc::clone(&self.parts.readiness);
        let (code, detail) = match self.readiness.run(READINESS_LIMIT, move || check()).await {
            Ok(Readiness::Ready) => return Answer::text("ready\n"),
            Ok(Readiness::Starting) => ("STARTING", "The server is starting.".to_owned()),
            Ok(Readiness::Stopping) => ("STOPPING", "The server is stopping.".to_owned()),
            Ok(Readiness::StorageFailed(why)) => ("STORAGE_FAILED", why),
            Err(Unanswered::Late) => (
                "STORAGE_SILENT",
                format!("The database did not answer within {READINESS_LIMIT:?}."),
            ),
            Err(Unanswered::Panicked) => (
                "STORAGE_FAILED",
                "The check of the database ended unexpectedly.".to_owned(),
            ),
        };
        Answer::problem(&Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "Not ready",
            code,
            detail: &detail,
        })
    }

    async fn metrics(&self) -> Answer {
        let metrics = Arc::clone(&self.parts.metrics);
        let rendered = self
            .metrics
            .run(METRICS_LIMIT, move || metrics.render())
            .await;
        let detail = match rendered {
            Ok(Ok(text)) => return Answer::new(StatusCode::OK, CONTENT_TYPE, text),
            Ok(Err(error)) => error.to_string(),
            Err(Unanswered::Late) => format!("They were not there within {METRICS_LIMIT:?}."),
            Err(Unanswered::Panicked) => "Gathering them ended unexpectedly.".to_owned(),
        };
        error!(detail, "the metrics cannot be gathered");
        Answer::problem(&Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "The metrics cannot be gathered",
            code: "METRICS_FAILED",
            detail: &detail,
        })
    }

    async fn checkpoint(&self, request: &Request<'_>) -> Answer {
        let Some(name) = checkpoint_name(request.query) else {
            return bad_name();
        };
        let begin = Instant::now();
        let checkpoint = Arc::clone(&self.parts.checkpoint);
        let wanted = name.clone();
        let Some(done) = self.checkpoint.try_run(move || checkpoint(&wanted)).await else {
            return checkpoint_conflict("CHECKPOINT_RUNNING", "A checkpoint is being written.");
        };
        let error = match done {
            Ok(Ok(path)) => return checkpoint_written(&name, &path, begin.elapsed()),
            Ok(Err(CheckpointError::Exists)) => {
                return checkpoint_conflict(
                    "CHECKPOINT_EXISTS",
                    &CheckpointError::Exists.to_string(),
                );
            }
            Ok(Err(CheckpointError::Failed(why))) => why,
            Err(_) => "Writing it ended unexpectedly.".to_owned(),
        };
        error!(name, error, "a checkpoint failed");
        Answer::problem(&Problem {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            title: "The checkpoint failed",
            code: "CHECKPOINT_FAILED",
            detail: &error,
        })
    }
}

/// The name in a query, if there is exactly one and it is valid.
fn checkpoint_name(query: &str) -> Option<String> {
    parameter(query, "name").filter(|name| is_checkpoint_name(name))
}

/// The value of a parameter, if it is given exactly once.
fn parameter(query: &str, name: &str) -> Option<String> {
    let parameters = query.split('&').filter_map(|one| one.split_once('='));
    let mut values = parameters.filter_map(|(found, value)| (found == name).then_some(value));
    let value = percent_decode_str(values.next()?).decode_utf8().ok()?;
    values.next().is_none().then(|| value.into_owned())
}

fn checkpoint_written(name: &str, path: &Path, elapsed: Duration) -> Answer {
    let path = path.display().to_string();
    let duration_ms = elapsed.as_millis() as u64;
    info!(name, path, duration_ms, "a checkpoint was written");
    let body = json!({ "name": name, "path": path, "duration_ms": duration_ms });
    Answer::new(StatusCode::CREATED, "application/json", format!("{body}\n"))
}

fn not_found() -> Answer {
    Answer::problem(&Problem {
        status: StatusCode::NOT_FOUND,
        title: "Not found",
        code: "NOT_FOUND",
        detail: "There are /healthz, /readyz, /metrics, /checkpoint, and /purge.",
    })
}

fn not_allowed(allowed: &'static str) -> Answer {
    Answer::problem(&Problem {
        status: StatusCode::METHOD_NOT_ALLOWED,
        title: "Method not allowed",
        code: "METHOD_NOT_ALLOWED",
        detail: &format!("Allowed here: {allowed}."),
    })
    .with_header(ALLOW, allowed)
}

fn forbidden() -> Answer {
    Answer::problem(&Problem {
        status: StatusCode::FORBIDDEN,
        title: "Forbidden",
        code: "CROSS_ORIGIN",
        detail: "A page in a browser may not do this.",
    })
}

fn bad_name() -> Answer {
    Answer::problem(&Problem {
        status: StatusCode::BAD_REQUEST,
        title: "The checkpoint's name is missing or invalid",
        code: "CHECKPOINT_NAME",
        detail: "Give ?name= once: up to 64 letters, digits, '.', '_' or '-', the first a letter or \
                 a digit.",
    })
}

fn checkpoint_conflict(code: &'static str, detail: &str) -> Answer {
    Answer::problem(&Problem {
        status: StatusCode::CONFLICT,
        title: "No checkpoint was written",
        code,
        detail,
    })
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        // An answer that leaves a body unread costs the connection, and may be lost with it.
        session.set_total_drain_timeout(Some(DRAIN_LIMIT));
        if session.drain_request_body().await.is_err() {
            session.set_keepalive(None);
        }
        let header = session.req_header();
        let method = header.method.clone();
        let request = Request {
            method: &method,
            path: header.uri.path(),
            query: header.uri.query().unwrap_or_default(),
            from_a_page: header.headers.contains_key(ORIGIN),
        };
        self.answer(&request).await.into_response(&method)
    }
}

#[cfg(test)]
mod tests;
