//! From a request at a record route to what answers it: a recording that is there, or a call.

use super::names::{EventId, Id, fingerprint};
use super::playback::Playback;
use super::recording::{Asked, Recording, Stage, Started};
use super::route::Route;
use super::upstream::Response;
use super::{RecordError, Recorder};
use crate::observe::metrics::Way;
use crate::types::{StreamEnd, StreamPath};
use crate::upstream::ClientFacts;
use crate::upstream::allow::Allowed;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use pingora::http::{RequestHeader, ResponseHeader};
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A request at a record route.
#[derive(Clone)]
pub struct Request {
    pub head: RequestHeader,
    pub body: Bytes,
    /// The share of the memory for bodies that this one has, as long as anybody needs it.
    pub memory: Arc<Vec<OwnedSemaphorePermit>>,
    pub client: ClientFacts,
    /// The upstream, where requests name it.
    pub allowed: Option<Allowed>,
}

impl Request {
    /// A request of nobody's, for a feed.
    pub(super) fn get(path: &str) -> Self {
        let mut head = RequestHeader::build_no_case(Method::GET, b"/", None).expect("a valid path");
        head.set_uri(path.parse().unwrap_or_default());
        Self {
            head,
            body: Bytes::new(),
            memory: Arc::default(),
            client: ClientFacts {
                address: None,
                encrypted: false,
            },
            allowed: None,
        }
    }
}

/// What answers a request.
pub enum Opened {
    /// A recording, from its beginning or from the event that the client saw last.
    Recorded {
        head: Box<ResponseHeader>,
        path: StreamPath,
        playback: Box<Playback>,
    },
    /// The recording has ended, and the client has all of it.
    Complete {
        /// That of the recorded answer.
        head: Box<ResponseHeader>,
        path: StreamPath,
        end: Option<Arc<StreamEnd>>,
    },
    /// An answer that is not recorded.
    Passed(Box<Response>),
}

/// The recording that a request means.
struct Wanted {
    path: StreamPath,
    id: Id,
    asked: Asked,
    /// Whether only the same request may attach.
    keyed: bool,
    last_event: Option<LastEvent>,
}

impl Wanted {
    /// Whether the client saw an event to which its id was given here.
    fn saw_ours(&self) -> bool {
        matches!(self.last_event, Some(LastEvent::Ours(_)))
    }
}

/// The event that a client saw last.
pub(super) enum LastEvent {
    Ours(EventId),
    /// By an id of the upstream's own. Browsers send it in UTF-8.
    Theirs(Vec<u8>),
}

impl LastEvent {
    /// As a request says it.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let id = headers.get(LAST_EVENT_ID)?;
        let ours = id.to_str().ok().and_then(EventId::parse);
        Some(ours.map_or_else(|| Self::Theirs(id.as_bytes().to_vec()), Self::Ours))
    }
}

impl Recorder {
    /// Answers a request: attaches it to the recording that it names, or calls the upstream.
    pub async fn open(
        self: &Arc<Self>,
        route: &Arc<Route>,
        mut request: Request,
    ) -> Result<Opened, RecordError> {
        if route.feed.is_some() && request.head.method == Method::GET {
            return self.join(route, request).await;
        }
        let mut wanted = self.wanted(route, &request);
        let mut was_stored = false;
        loop {
            let may_be_there = wanted.keyed || wanted.saw_ours();
            if may_be_there && let Some(opened) = self.attach(route, &wanted).await? {
                return Ok(opened);
            }
            if wanted.saw_ours() {
                // What the client saw is gone, so the upstream is asked anew, with no id of ours.
                request.head.remove_header(&LAST_EVENT_ID);
            }
            if wanted.saw_ours() && !wanted.keyed {
                (wanted.id, wanted.last_event) = (Id::random(), None);
                wanted.path = route.stream(wanted.id);
            }
            let Some(running) = self.claim(&wanted.path, wanted.id, &wanted.asked, false) else {
                // Somebody else was faster with the same key.
                tokio::task::yield_now().await;
                continue;
            };
            if wanted.keyed && self.is_stored(&wanted.path).await? {
                if was_stored {
                    return Err(RecordError::NameTaken);
                }
                // It may have become so since we looked.
                was_stored = true;
                continue;
            }
            return self.call(route, running, request).await;
        }
    }

    /// Calls the upstream of a request that is not to be found again but by its name.
    pub async fn create(
        self: &Arc<Self>,
        route: &Arc<Route>,
        request: Request,
    ) -> Result<Opened, RecordError> {
        let id = Id::random();
        let asked = Asked {
            route: route.name.clone(),
            scope: self.naming.scope(&[], &request.head.headers),
            fingerprint: String::new(),
        };
        let path = route.stream_named(&id.to_uuid());
        let running = self.claim(&path, id, &asked, false);
        // Of two ids that are the same by chance, one is enough.
        let running = running.ok_or(RecordError::TooManyRecordings)?;
        self.call(route, running, request).await
    }

    fn wanted(&self, route: &Route, request: &Request) -> Wanted {
        let headers = &request.head.headers;
        let scope = self.naming.scope(&route.credentials, headers);
        let key = headers.get(&route.idempotency);
        let key = key.filter(|key| !key.is_empty());
        let last_event = LastEvent::of(headers);
        let id = match (key, &last_event) {
            (Some(key), _) => self.naming.keyed(&route.name, scope, key.as_bytes()),
            (None, Some(LastEvent::Ours(event))) => event.recording,
            (None, _) => Id::random(),
        };
        let head = &request.head;
        let target = head
            .uri
            .path_and_query()
            .map_or("", |target| target.as_str());
        Wanted {
            path: route.stream(id),
            id,
            asked: Asked {
                route: route.name.clone(),
                scope,
                fingerprint: fingerprint(head.method.as_str(), target, &request.body),
            },
            keyed: key.is_some(),
            last_event,
        }
    }

    /// Takes a name for a new recording; `None` if one with this name is running.
    pub(super) fn claim(
        self: &Arc<Self>,
        path: &StreamPath,
        id: Id,
        asked: &Asked,
        shared: bool,
    ) -> Option<Running> {
        match self.running.lock().entry(path.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                let recording = Recording::new(path.clone(), id, asked.clone(), shared);
                let recording = entry.insert(Arc::new(recording)).clone();
                Some(Running {
                    recorder: self.clone(),
                    recording,
                })
            }
        }
    }

    async fn is_stored(&self, path: &StreamPath) -> Result<bool, RecordError> {
        let stream = self.log.stream(path).await?;
        Ok(stream.view(self.clock.now_ms()).is_ok())
    }

    /// Attaches to a recording that runs or is stored; `None` if there is none for this caller.
    async fn attach(&self, route: &Route, wanted: &Wanted) -> Result<Option<Opened>, RecordError> {
        if let Some(recording) = self.running(&wanted.path) {
            let asked = &recording.asked;
            if asked.scope != wanted.asked.scope || asked.route != wanted.asked.route {
                return Ok(None);
            }
            check_same(wanted, &asked.fingerprint)?;
            let reader = recording.enter();
            if let Some(started) = recording.started().await {
                let opened = self.play(route, wanted, &started, Some(reader)).await?;
                return Ok(Some(opened));
            }
        }
        let stream = self.log.stream_to_read(&wanted.path).await?;
        let Ok(view) = stream.view(self.clock.now_ms()) else {
            return Ok(None);
        };
        let Asked {
            scope, route: at, ..
        } = &wanted.asked;
        let stored = Started::stored(stream, &view);
        let Some(started) = stored.filter(|stored| stored.note.is_of(*scope, at)) else {
            return Ok(None);
        };
        check_same(wanted, started.note.fingerprint())?;
        let opened = self.play(route, wanted, &started, None).await?;
        Ok(Some(opened))
    }

    /// The answer of a recording for a client that may have seen a part of it.
    async fn play(
        &self,
        route: &Route,
        wanted: &Wanted,
        started: &Started,
        reader: Option<super::Reader>,
    ) -> Result<Opened, RecordError> {
        self.log.touch(&started.stream);
        let path = started.stream.path().clone();
        let playback = Playback::new(self, started, route.heartbeat, reader);
        let mut playback = playback.of_lasting(route);
        let Some(last_event) = &wanted.last_event else {
            self.metrics.recordings.attached(Way::Key).inc();
            return Ok(recorded(started, path, playback));
        };
        self.metrics.recordings.attached(Way::LastEvent).inc();
        playback.skip_behind(last_event, 0).await?;
        Ok(match playback.is_over().await? {
            Some(end) => {
                let head = Box::new(started.note.head());
                Opened::Complete { head, path, end }
            }
            None => recorded(started, path, playback),
        })
    }
}

pub(super) fn recorded(started: &Started, path: StreamPath, playback: Playback) -> Opened {
    Opened::Recorded {
        head: Box::new(started.note.head()),
        path,
        playback: Box::new(playback),
    }
}

/// A running recording: it is in the list of those, until this is dropped.
pub(super) struct Running {
    recorder: Arc<Recorder>,
    pub(super) recording: Arc<Recording>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.recorder.running.lock().remove(&self.recording.path);
        // After that: who waited looks for the stream.
        self.recording.come_to(Stage::Over);
    }
}

/// The same key must not stand for two requests.
fn check_same(wanted: &Wanted, fingerprint: &str) -> Result<(), RecordError> {
    if wanted.keyed && wanted.asked.fingerprint != fingerprint {
        return Err(RecordError::KeyReused);
    }
    Ok(())
}
