//! One upstream call in a task of its own, from the request to the closing of the stream.

use super::names::Scope;
use super::note::{Note, stream_type};
use super::open::{Opened, Request, Running};
use super::playback::Playback;
use super::pump::Pump;
use super::recording::{Stage, Started};
use super::route::Route;
use super::upstream::Response;
use super::{RecordError, Recorder};
use crate::log::Create;
use crate::log::state::CreateRequest;
use crate::observe::metrics::Held;
use crate::types::{Lifetime, Retention};
use http::header;
use pingora::http::ResponseHeader;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// How a call was answered.
pub(super) enum Answered {
    Recording {
        started: Arc<Started>,
        head: Box<ResponseHeader>,
    },
    Passed(Box<Response>),
}

/// What a call holds while it runs.
pub(super) struct Call {
    pub(super) recorder: Arc<Recorder>,
    pub(super) route: Arc<Route>,
    pub(super) running: Running,
    _permit: OwnedSemaphorePermit,
    _caller: Caller,
}

/// Where the one waits who asked first.
pub(super) type Answer = oneshot::Sender<Result<Answered, RecordError>>;

impl Recorder {
    /// Calls the upstream, and answers with the recording from its beginning.
    pub(super) async fn call(
        self: &Arc<Self>,
        route: &Arc<Route>,
        running: Running,
        request: Request,
    ) -> Result<Opened, RecordError> {
        let path = running.recording.path.clone();
        let reader = running.recording.enter();
        Ok(match self.start(route, running, request).await? {
            Answered::Passed(response) => Opened::Passed(response),
            Answered::Recording { started, head } => {
                let playback = Playback::new(self, &started, route.heartbeat, Some(reader));
                let playback = Box::new(playback.of_lasting(route));
                Opened::Recorded {
                    head,
                    path,
                    playback,
                }
            }
        })
    }

    /// Calls the upstream in a task that does not end with its client, and waits for the answer.
    pub(super) async fn start(
        self: &Arc<Self>,
        route: &Arc<Route>,
        running: Running,
        request: Request,
    ) -> Result<Answered, RecordError> {
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| RecordError::TooManyRecordings)?;
        let caller = self.caller(route, &running, &request)?;
        let shared = running.recording.shared;
        let (answer, answered) = oneshot::channel();
        let call = Call {
            recorder: self.clone(),
            route: route.clone(),
            running,
            _permit: permit,
            _caller: caller,
        };
        if shared {
            tokio::spawn(call.run_feed(request, answer));
        } else {
            tokio::spawn(call.run(request, answer));
        }
        answered.await.unwrap_or(Err(RecordError::Aborted))
    }

    /// Counts a recording of its caller: by credentials or, without any, by address.
    fn caller(
        self: &Arc<Self>,
        route: &Route,
        running: &Running,
        request: &Request,
    ) -> Result<Caller, RecordError> {
        let headers = &request.head.headers;
        let named = route
            .credentials
            .iter()
            .any(|name| headers.contains_key(name));
        let who = if named {
            running.recording.asked.scope
        } else {
            self.naming.address(request.client.address)
        };
        let mut callers = self.callers.lock();
        let count = callers.entry(who).or_default();
        if *count >= route.bounds.per_caller_max {
            return Err(RecordError::CallerBusy);
        }
        *count += 1;
        Ok(Caller(self.clone(), who))
    }
}

/// One of the recordings that a caller has running.
struct Caller(Arc<Recorder>, Scope);

impl Drop for Caller {
    fn drop(&mut self) {
        let mut callers = self.0.callers.lock();
        if let Some(count) = callers.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                callers.remove(&self.1);
            }
        }
    }
}

impl Call {
    async fn run(self, request: Request, answer: Answer) {
        let asked = Instant::now();
        let metrics = &self.recorder.metrics.recordings;
        let answered = async {
            let response = self.called(request).await?;
            metrics.calls.inc();
            metrics
                .first_byte_seconds
                .observe(asked.elapsed().as_secs_f64());
            let head = &response.head;
            if !self.route.records(head.status, &head.headers) {
                return Ok((None, response));
            }
            let started = self.begin(head).await?;
            Ok((Some(started), response))
        };
        let (started, mut response) = match answered.await {
            Ok((Some(started), response)) => (started, response),
            Ok((None, response)) => return self.end_without(answer, Ok(response)),
            Err(error) => return self.end_without(answer, Err(error)),
        };
        self.tell_started(answer, &started, &response);
        let recording = &self.running.recording;
        let _running = Held::new(&metrics.running);
        let pump = Pump::new(&self.recorder, &self.route, recording, &started);
        let end = pump.run(&mut response).await;
        metrics.ended(end.outcome).inc();
        tracing::info!(
            stream = recording.path.path(),
            outcome = end.outcome.as_str(),
            reason = end.reason.as_deref(),
            seconds = asked.elapsed().as_secs_f64(),
            "a recording ended"
        );
    }

    /// Ends a call of which nothing is recorded. Another request with the same key now calls for
    /// itself.
    pub(super) fn end_without(self, answer: Answer, response: Result<Response, RecordError>) {
        drop(self);
        let passed = response.map(|response| Answered::Passed(Box::new(response)));
        let _ = answer.send(passed);
    }

    /// Lets all who wait for a recording read it. Who asked first may have left already.
    pub(super) fn tell_started(&self, answer: Answer, started: &Arc<Started>, response: &Response) {
        let recording = &self.running.recording;
        recording.come_to(Stage::Started(started.clone()));
        let told = answer.send(Ok(Answered::Recording {
            started: started.clone(),
            head: Box::new(response.head.clone()),
        }));
        if told.is_err() && !recording.shared && self.route.outlasts_clients() {
            self.recorder.metrics.recordings.disconnects.inc();
        }
    }

    /// Calls the upstream, as long as that is wanted.
    pub(super) async fn called(&self, request: Request) -> Result<Response, RecordError> {
        let recording = &self.running.recording;
        tokio::select! {
            biased;
            called = self.route.upstream.send(request) => called,
            () = recording.aborted() => Err(RecordError::Aborted),
            () = self.route.left(&recording.readers, recording.shared) => Err(RecordError::Aborted),
            () = self.recorder.interrupted(recording) => Err(RecordError::Stopping),
        }
    }

    /// Makes the stream of an answer.
    pub(super) async fn begin(&self, head: &ResponseHeader) -> Result<Arc<Started>, RecordError> {
        let recording = &self.running.recording;
        let asked = &recording.asked;
        let (status, headers) = (head.status, &head.headers);
        let fingerprint = asked.fingerprint.clone();
        let note = Note::new(status, headers, asked.scope, &asked.route, fingerprint);
        let content_type = headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let stream = self.recorder.log.stream(&recording.path).await?;
        let request = CreateRequest {
            content_type: Some(stream_type(content_type)),
            lifetime: Some(Lifetime::Ttl {
                seconds: self.route.ttl.as_secs(),
            }),
            retention: self.route.retention,
            retention_default: Retention::default(),
            closed: false,
            fork: None,
        };
        let create = Create {
            request,
            frames: None,
            note: Some(note.write()),
            // A feed has no end.
            unfinished: !recording.shared,
        };
        let created = self.recorder.log.create(&stream, create).await?;
        Ok(Arc::new(Started {
            stream,
            meta: created.meta,
            note,
            begin: 0,
        }))
    }
}
