//! Recording: an upstream's streaming answer becomes a stream of the log, whatever its client does.
//!
//! A request goes from [`Recorder::open`] to a task of its own, which calls the upstream and appends
//! what comes ([`pump`]). Its client, like everybody who attaches, reads the stream
//! ([`Playback`]).

mod call;
mod events;
mod feed;
mod framing;
mod last_id;
mod names;
mod note;
mod open;
mod playback;
mod pump;
mod readers;
mod recording;
mod recovery;
mod route;
mod seek;
pub mod sign;
mod upstream;

pub use note::{UNTYPED, content_type};
pub use open::{Opened, Request};
pub use playback::{Next, Playback};
pub use readers::Reader;
pub use recording::Recording;
pub use route::Route;
pub use upstream::Response;

use crate::clock::Clock;
use crate::config;
use crate::log::{CommitError, CreateError, Log, ReadError};
use crate::observe::metrics::{Metrics, UpstreamFailure};
use crate::serve::{Outgoing, ServeError, Server};
use crate::types::StreamPath;
use crate::upstream::guard::GuardError;
use crate::upstream::{Client, ExchangeError, UpstreamError, Upstreams};

use names::{Naming, Scope};
use parking_lot::Mutex;
use sign::{SignatureError, Signer};
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Records the answers of upstreams.
pub struct Recorder {
    log: Arc<Log>,
    outgoing: Arc<Outgoing>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    client: Client,
    naming: Naming,
    running: Mutex<HashMap<StreamPath, Arc<Recording>>>,
    /// How many recordings each caller has running.
    callers: Mutex<HashMap<Scope, usize>>,
    permits: Arc<Semaphore>,
    recordings_max: usize,
    /// Cancelled when recordings must end because the server does.
    interrupt: CancellationToken,
    /// Those that have no end are not waited for.
    interrupt_feeds: CancellationToken,
}

/// Why a request was neither recorded nor passed on.
#[derive(Debug, Error)]
pub enum RecordError {
    #[error("no upstream is there to take the request; try again later")]
    NoUpstream,
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("too many recordings are running; try again later")]
    TooManyRecordings,
    #[error("this caller has too many recordings running; try again later")]
    CallerBusy,
    #[error("the key was used for another request")]
    KeyReused,
    #[error("something that is no recording of this caller has the recording's name")]
    NameTaken,
    #[error("the recording was ended before the upstream answered")]
    Aborted,
    #[error("the server is stopping")]
    Stopping,
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Recorder {
    /// Records into the log of a server.
    pub fn new(server: &Server, recordings_max: usize) -> Self {
        Self {
            naming: Naming::new(&server.log.secret()),
            log: server.log.clone(),
            outgoing: server.outgoing.clone(),
            client: Client::new(),
            clock: server.clock.clone(),
            metrics: server.metrics.clone(),
            running: Mutex::default(),
            callers: Mutex::default(),
            permits: Arc::new(Semaphore::new(recordings_max)),
            recordings_max,
            interrupt: CancellationToken::new(),
            interrupt_feeds: CancellationToken::new(),
        }
    }

    /// A route whose answers are recorded, at the path pattern `pattern`.
    pub fn route(
        &self,
        pattern: &str,
        config: &config::Record,
        upstreams: Arc<Upstreams>,
    ) -> Route {
        let secret = self.log.secret();
        Route::recording(pattern, config, upstreams, self.client.clone(), &secret)
    }

    /// A route whose requests name the upstream, at a path.
    pub fn proxy_route(&self, path: &str, config: &config::Proxy) -> Result<Route, UpstreamError> {
        Route::proxying(path, config, self.client.clone())
    }

    /// What verifies the URLs of recordings, but for those of `proxy` routes.
    pub fn signer(&self) -> Signer {
        Signer::new(&self.log.secret(), route::NO_KEYS)
    }

    /// The recording that runs into a stream, if one does.
    pub fn running(&self, path: &StreamPath) -> Option<Arc<Recording>> {
        self.running.lock().get(path).cloned()
    }

    /// Returns when a recording must end because the server does.
    async fn interrupted(&self, recording: &Recording) {
        if recording.shared {
            self.interrupt_feeds.cancelled().await;
        } else {
            self.interrupt.cancelled().await;
        }
    }

    /// Lets recordings finish until `patience` is over, then ends what still runs as interrupted.
    pub async fn stop(&self, patience: std::time::Duration) {
        self.interrupt_feeds.cancel();
        let all = self.recordings_max as u32;
        let finished = self.permits.acquire_many(all);
        if tokio::time::timeout(patience, finished).await.is_err() {
            self.interrupt.cancel();
            let _ = self.permits.acquire_many(all).await;
        }
    }
}

impl From<RecordError> for ServeError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::NoUpstream => Self::Upstream(UpstreamFailure::NoUpstream),
            RecordError::Guard(GuardError::Refused) => Self::UpstreamNotAllowed,
            RecordError::Guard(GuardError::Lookup(_) | GuardError::NoAddress) => {
                Self::Upstream(UpstreamFailure::Connect)
            }
            RecordError::Exchange(error) => Self::Upstream(error.failure()),
            RecordError::TooManyRecordings => Self::TooManyRecordings,
            RecordError::CallerBusy => Self::CallerBusy,
            RecordError::KeyReused => Self::KeyReused,
            RecordError::NameTaken => Self::NameTaken,
            RecordError::Aborted => Self::Aborted,
            RecordError::Stopping => CommitError::Stopped.into(),
            RecordError::Create(error) => error.into(),
            RecordError::Commit(error) => error.into(),
            RecordError::Read(error) => error.into(),
        }
    }
}

impl From<SignatureError> for ServeError {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Missing => Self::NotSigned,
            SignatureError::Invalid => Self::SignatureInvalid,
            SignatureError::Expired => Self::SignatureExpired,
        }
    }
}
