//! Shared feeds: an upstream that says the same to everybody is called once, and all clients read
//! its stream. The connection is made again when it drops, as long as somebody reads.

use super::call::{Answer, Answered, Call};
use super::last_id::LastIdSearch;
use super::open::{LAST_EVENT_ID, LastEvent, Opened, Request, recorded};
use super::playback::Playback;
use super::pump::Pump;
use super::recording::{Asked, Recording, Started};
use super::route::Route;
use super::upstream::Response;
use super::{Reader, RecordError, Recorder};
use crate::log::{AppendError, ReadError, Stream};
use crate::observe::metrics::{Held, Way};
use crate::types::{Outcome, Position};
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;
use std::time::Duration;

/// Waits between two connections: doubled from the first to the last, each cut by chance, so that
/// servers that lost the same upstream do not come back together.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

impl Recorder {
    /// Answers a client of a feed: with what comes from now on, or with what came after the event
    /// that it saw last.
    pub(super) async fn join(
        self: &Arc<Self>,
        route: &Arc<Route>,
        mut request: Request,
    ) -> Result<Opened, RecordError> {
        let last_event = LastEvent::of(&request.head.headers);
        // Nobody's credentials: the answer is for everybody.
        for name in route.credentials.iter().chain([&route.idempotency]) {
            request.head.remove_header(name);
        }
        request.head.remove_header(&LAST_EVENT_ID);
        let target = request.head.uri.path_and_query();
        let target = target.map_or("", |target| target.as_str()).to_owned();
        let asked = Asked {
            route: route.name.clone(),
            scope: self.naming.scope(&[], &request.head.headers),
            fingerprint: String::new(),
        };
        let id = self
            .naming
            .keyed(&route.name, asked.scope, target.as_bytes());
        let path = route.stream(id);
        loop {
            if let Some(recording) = self.running(&path) {
                let reader = recording.enter();
                let is_early = recording.is_calling();
                if let Some(started) = recording.started().await {
                    self.metrics.recordings.attached(Way::Feed).inc();
                    let playback = self.playback(route, &started, &recording, reader);
                    // What comes because of this request, too.
                    let from = is_early.then_some(started.begin);
                    return self.follow(&started, playback, from, last_event).await;
                }
            }
            let Some(running) = self.claim(&path, id, &asked, true) else {
                continue;
            };
            let recording = running.recording.clone();
            let reader = recording.enter();
            return match self.start(route, running, request).await? {
                Answered::Passed(response) => Ok(Opened::Passed(response)),
                Answered::Recording { started, .. } => {
                    let playback = self.playback(route, &started, &recording, reader);
                    let from = Some(started.begin);
                    self.follow(&started, playback, from, last_event).await
                }
            };
        }
    }

    /// Records the feed at a path for as long as the server runs.
    pub async fn keep(self: Arc<Self>, route: Arc<Route>, path: String) {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.join(&route, Request::get(&path)).await {
                Ok(Opened::Recorded { path, playback, .. }) => {
                    drop(playback);
                    if let Some(recording) = self.running(&path) {
                        recording.ended().await;
                    }
                    backoff = BACKOFF_MIN;
                }
                Ok(_) => tracing::warn!(path, "the upstream of a feed does not answer with one"),
                Err(error) => tracing::warn!(path, %error, "a feed cannot be recorded"),
            }
            if self
                .interrupt_feeds
                .run_until_cancelled(pause(&mut backoff))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    fn playback(
        &self,
        route: &Route,
        started: &Started,
        recording: &Recording,
        reader: Reader,
    ) -> Playback {
        let playback = Playback::new(self, started, route.heartbeat, Some(reader));
        playback.until(&recording.over)
    }

    /// The answer for a client of a feed: what comes after the event that it saw last or, if it saw none
    /// that is there, from `from` on.
    async fn follow(
        &self,
        started: &Started,
        mut playback: Playback,
        from: Option<Position>,
        last_event: Option<LastEvent>,
    ) -> Result<Opened, RecordError> {
        let view = started.stream.view(self.clock.now_ms());
        let view = view.map_err(|_| RecordError::Aborted)?;
        playback.go_to(from.unwrap_or(view.tail).max(view.earliest));
        if let Some(last_event) = &last_event {
            playback.skip_behind(last_event, view.earliest).await?;
        }
        let path = started.stream.path().clone();
        Ok(recorded(started, path, playback))
    }
}

/// What a feed does next.
enum Next {
    Again,
    Over,
}

impl Call {
    /// Records a feed until nobody reads it any more.
    pub(super) async fn run_feed(self, mut request: Request, answer: Answer) {
        let (mut response, started) = match self.first(&mut request).await {
            Ok((response, Some(started))) => (response, started),
            Ok((response, None)) => return self.end_without(answer, Ok(response)),
            Err(error) => return self.end_without(answer, Err(error)),
        };
        self.tell_started(answer, &started, &response);
        let recording = &self.running.recording;
        let metrics = &self.recorder.metrics.recordings;
        let _running = Held::new(&metrics.running);
        if let Err(error) = self.follow_up(&mut response, &request, &started).await {
            tracing::warn!(stream = recording.path.path(), %error, "a feed cannot be written");
        }
    }

    /// Calls the upstream for the first time, going on where the stream of an earlier time ends. So
    /// does the request from then on: the first connection may end before it brings an event.
    async fn first(
        &self,
        request: &mut Request,
    ) -> Result<(Response, Option<Arc<Started>>), RecordError> {
        let recording = &self.running.recording;
        let stored = self.stored(recording).await?;
        let last_id = match &stored {
            Some(started) => self.recorder.last_id(recording, started).await?,
            None => None,
        };
        *request = after(request, last_id.as_deref());
        let response = self.called(request.clone()).await?;
        self.recorder.metrics.recordings.calls.inc();
        if !self
            .route
            .records(response.head.status, &response.head.headers)
        {
            return Ok((response, None));
        }
        let started = match stored {
            Some(started) => Arc::new(started),
            None => self.begin(&response.head).await?,
        };
        Ok((response, Some(started)))
    }

    /// The stream that the feed had when it was last read.
    async fn stored(&self, recording: &Recording) -> Result<Option<Started>, RecordError> {
        let stream = self.recorder.log.stream(&recording.path).await?;
        let Ok(view) = stream.view(self.recorder.clock.now_ms()) else {
            return Ok(None);
        };
        Ok(Started::stored(stream, &view).filter(|_| !view.closed))
    }

    /// Records what comes, over one connection after the other.
    async fn follow_up(
        &self,
        response: &mut Response,
        request: &Request,
        started: &Started,
    ) -> Result<(), AppendError> {
        let recorder = &*self.recorder;
        let view = started.stream.view(recorder.clock.now_ms())?;
        let recording = &self.running.recording;
        let mut pump = Pump::of_feed(recorder, &self.route, recording, started, view.tail);
        let mut backoff = BACKOFF_MIN;
        loop {
            let before = pump.tail();
            let end = pump.run_on(response).await?;
            if end.outcome == Outcome::Aborted || recorder.interrupt_feeds.is_cancelled() {
                return Ok(());
            }
            if pump.tail() > before {
                backoff = BACKOFF_MIN;
            }
            tracing::info!(
                stream = recording.path.path(),
                reason = end.reason.as_deref(),
                "the upstream of a feed is gone"
            );
            match self
                .again(
                    response,
                    request,
                    pump.last_id(),
                    &mut backoff,
                    &started.stream,
                )
                .await
            {
                Next::Again => {}
                Next::Over => return Ok(()),
            }
        }
    }

    /// Makes the connection again, as long as somebody reads.
    async fn again(
        &self,
        response: &mut Response,
        request: &Request,
        last_id: Option<&[u8]>,
        backoff: &mut Duration,
        stream: &Arc<Stream>,
    ) -> Next {
        let metrics = &self.recorder.metrics.recordings;
        loop {
            let readers = &self.running.recording.readers;
            tokio::select! {
                () = pause(backoff) => {}
                () = self.route.left(readers, true) => return Next::Over,
                () = self.recorder.interrupt_feeds.cancelled() => return Next::Over,
            }
            metrics.reconnects.inc();
            self.recorder.log.touch(stream);
            match self.called(after(request, last_id)).await {
                Ok(next) if self.route.records(next.head.status, &next.head.headers) => {
                    *response = next;
                    return Next::Again;
                }
                // What an upstream says to a client that shall not come again.
                Ok(next) if next.head.status == StatusCode::NO_CONTENT => return Next::Over,
                Ok(next) => tracing::info!(status = next.head.status.as_u16(), "a feed is refused"),
                Err(RecordError::Aborted | RecordError::Stopping) => return Next::Over,
                Err(_) => {}
            }
        }
    }
}

impl Recorder {
    /// The last id that the upstream gave to an event of a stored feed.
    async fn last_id(
        &self,
        recording: &Recording,
        started: &Started,
    ) -> Result<Option<Vec<u8>>, RecordError> {
        let Ok(view) = started.stream.view(self.clock.now_ms()) else {
            return Ok(None);
        };
        // Mostly it is near the end.
        let mut earliest = view.earliest;
        let mut from = view.last_seal.max(earliest);
        loop {
            let mut playback = Playback::new(self, started, Duration::ZERO, None);
            playback.go_to(from);
            let mut search = LastIdSearch::new(&format!("{}.", recording.id));
            let read = playback.read_durable(|bytes| search.take(bytes)).await;
            match (read, search.found()) {
                (Ok(()), None) if from > earliest => from = earliest,
                (Ok(()), found) => return Ok(found),
                // It ages: nothing is written meanwhile.
                (Err(ReadError::Trimmed { earliest: now }), _) if now > from => {
                    earliest = now;
                    from = now;
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
    }
}

/// Waits before the next connection.
async fn pause(backoff: &mut Duration) {
    let time = backoff.mul_f64(0.5 + 0.5 * rand::random::<f64>());
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
    tokio::time::sleep(time).await;
}

/// A request for what comes after an event.
fn after(request: &Request, last_id: Option<&[u8]>) -> Request {
    let mut request = request.clone();
    if let Some(value) = last_id.and_then(|id| HeaderValue::from_bytes(id).ok()) {
        let _ = request.head.insert_header(LAST_EVENT_ID, value);
    }
    request.head.remove_header(&header::RANGE);
    request
}
