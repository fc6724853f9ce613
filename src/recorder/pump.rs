//! From the body of an upstream's answer to the appends of a stream.
//!
//! One append is under way at a time, and what comes meanwhile becomes the next: a slow disk makes
//! batches larger, not readers later. The pump is not woken by an append that becomes durable while
//! nothing waits for it: its readers are.

use super::Recorder;
use super::framing::Splitter;
use super::names::EventId;
use super::recording::{Recording, Started};
use super::recovery::INTERRUPTED;
use super::route::Route;
use super::upstream::Response;
use crate::frame;
use crate::log::state::AppendRequest;
use crate::log::{AppendError, CommitError, Queued, Stream};
use crate::types::{Outcome, Position, StreamEnd, StreamMeta};
use crate::waits::{Alarm, Seldom};
use bytes::Bytes;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How long the beginning of an event waits for its end before readers get what is there.
const PART_DELAY: Duration = Duration::from_millis(50);
/// How much of an event waits for its end at the most.
const PART_BYTES_MAX: usize = 64 * 1024;
/// What may wait for the disk. Beyond it, no more is read from the upstream.
const PENDING_BYTES_MAX: usize = 1024 * 1024;
/// After which time an append is tried again that found no room in the log.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Appends an answer to its stream until one of them ends.
pub(super) struct Pump<'a> {
    recorder: &'a Recorder,
    route: &'a Route,
    recording: &'a Recording,
    started: &'a Started,
    splitter: Splitter,
    /// Whether readers get the beginning of an event whose end is late.
    parts: bool,
    /// Where the next append begins.
    tail: Position,
    recorded_bytes: u64,
    append: Option<Appending<'a>>,
    /// When the oldest came of what waits, and of what is being appended.
    arrived: Option<Instant>,
    appending: Option<Instant>,
    /// When a part of an event that waits for its end is appended as it is.
    part_due: Option<Instant>,
}

/// An append that is under way.
enum Appending<'a> {
    /// Waits until there is room for it.
    Begins(Beginning<'a>),
    /// Waits for the disk.
    Queued(Queued),
}

/// When an append became durable, if that was waited for.
type Durable = Result<Option<std::time::Instant>, AppendError>;

type Beginning<'a> = Pin<Box<dyn Future<Output = Result<Queued, AppendError>> + Send + 'a>>;

impl<'a> Pump<'a> {
    pub(super) fn new(
        recorder: &'a Recorder,
        route: &'a Route,
        recording: &'a Recording,
        started: &'a Started,
    ) -> Self {
        Self {
            recorder,
            route,
            recording,
            started,
            splitter: Splitter::new(started.content_type(), route.event_ids),
            parts: true,
            tail: 0,
            recorded_bytes: 0,
            append: None,
            arrived: None,
            appending: None,
            part_due: None,
        }
    }

    /// For a feed: its stream goes on where it is, and holds whole events.
    pub(super) fn of_feed(
        recorder: &'a Recorder,
        route: &'a Route,
        recording: &'a Recording,
        started: &'a Started,
        tail: Position,
    ) -> Self {
        Self {
            splitter: Splitter::of_feed(started.content_type(), route.event_ids),
            parts: false,
            tail,
            ..Self::new(recorder, route, recording, started)
        }
    }

    /// Records a body that may be followed by another. Returns why it ended.
    pub(super) async fn run_on(&mut self, body: &mut Response) -> Result<StreamEnd, AppendError> {
        let end = self.record(body).await?;
        self.splitter.drop_part();
        self.settle().await?;
        if let Some(rest) = self.splitter.take_complete() {
            let frames = self.frame(&rest);
            self.write(frames, None).await?.durable().await?;
        }
        Ok(end)
    }

    /// Where the next append begins.
    pub(super) fn tail(&self) -> Position {
        self.tail
    }

    /// The last id that the upstream gave to an event.
    pub(super) fn last_id(&self) -> Option<&[u8]> {
        self.splitter.last_id()
    }

    /// Records a body. Returns how it ended, once the closing of the stream is durable.
    pub(super) async fn run(mut self, body: &mut Response) -> StreamEnd {
        let end = match self.record(body).await {
            Ok(end) => end,
            Err(error) => return self.without_stream(&error),
        };
        match self.close(&end).await {
            Ok(()) => end,
            Err(error) => self.without_stream(&error),
        }
    }

    /// Appends what comes, until nothing more is to come.
    async fn record(&mut self, body: &mut Response) -> Result<StreamEnd, AppendError> {
        let inactivity = self.route.bounds.inactivity_timeout;
        let mut ended = Seldom::new(ended(self.recorder, self.route, self.recording));
        let mut silent = Alarm::default();
        let mut heard = Instant::now();
        // What is recorded is in use, also while nobody reads it and nothing comes.
        let use_every = self.route.ttl / 2;
        let mut used = heard;
        loop {
            let room = self.splitter.pending_bytes() < PENDING_BYTES_MAX;
            let awaited = self.splitter.pending_bytes() > 0;
            // It is large, and would be copied into the other futures.
            let mut next = pin!(body.next());
            tokio::select! {
                biased;
                durable = append(&mut self.append, awaited) => {
                    self.appended(durable)?;
                }
                end = ended.end() => return Ok(end),
                chunk = &mut next, if room => {
                    heard = Instant::now();
                    match chunk {
                        Ok(Some(chunk)) if self.exceeds(&chunk) => return Ok(failed("too_large")),
                        Ok(Some(chunk)) => self.take(&chunk),
                        Ok(None) => return Ok(StreamEnd::new(Outcome::Completed, None)),
                        Err(error) => {
                            tracing::info!(stream = self.recording.path.path(), cause = %error.cause(), "an upstream broke off");
                            return Ok(failed("upstream_broke"));
                        }
                    }
                }
                () = std::future::ready(()), if !room && self.is_stuck() => return Ok(failed("event_too_large")),
                () = silent.until((heard + inactivity).min(used + use_every)) => {
                    used = Instant::now();
                    if used >= heard + inactivity {
                        return Ok(failed("inactivity"));
                    }
                    self.recorder.log.touch(&self.started.stream);
                }
                () = due(self.part_due), if self.append.is_none() => {}
            }
            self.append_more();
        }
    }

    /// Whether what waits is part of an event that has become too large to wait for.
    fn is_stuck(&self) -> bool {
        !self.parts && self.append.is_none()
    }

    fn exceeds(&mut self, chunk: &Bytes) -> bool {
        // A feed has no end, and retention bounds what is kept of it.
        self.recorded_bytes += chunk.len() as u64;
        !self.recording.shared && self.recorded_bytes > self.route.bounds.bytes_max
    }

    fn take(&mut self, chunk: &[u8]) {
        // The batch that waits is appended behind the one that is under way.
        let (id, position) = (self.recording.id, self.tail);
        self.splitter.push(chunk, |index, out| {
            let id = EventId {
                recording: id,
                position,
                index,
            };
            out.extend_from_slice(id.to_string().as_bytes());
        });
        self.arrived.get_or_insert_with(Instant::now);
    }

    /// Begins the next append, if there is something to append and no other under way.
    fn append_more(&mut self) {
        if self.append.is_some() {
            return;
        }
        let now = Instant::now();
        let part = self.parts
            && (self.part_due.is_some_and(|due| due <= now)
                || self.splitter.pending_bytes() > PART_BYTES_MAX);
        let batch = if part {
            self.splitter.take_all()
        } else {
            self.splitter.take_complete()
        };
        let waits = self.splitter.pending_bytes() > 0;
        // Also where nothing came of a part: the beginning of a character is waited for again.
        if part || batch.is_some() {
            self.part_due = None;
        }
        if let Some(batch) = batch {
            let frames = self.frame(&batch);
            self.append = Some(Appending::Begins(Box::pin(self.write(frames, None))));
            self.appending = self.arrived.take();
        }
        if waits && self.parts && self.part_due.is_none() {
            self.part_due = Some(now + PART_DELAY);
        }
    }

    /// A batch as one append, which begins where the last one ends.
    fn frame(&mut self, batch: &[u8]) -> Bytes {
        let frames = frame::encode([batch].into_iter());
        self.tail += frames.len() as u64;
        self.recorder
            .metrics
            .recordings
            .bytes
            .inc_by(batch.len() as u64);
        frames
    }

    /// Appends what is left, and closes the stream with how the recording ended.
    async fn close(&mut self, end: &StreamEnd) -> Result<(), AppendError> {
        self.settle().await?;
        let rest = self.splitter.finish();
        let frames = rest.map(|rest| self.frame(&rest)).unwrap_or_default();
        self.write(frames, Some(end)).await?.durable().await?;
        Ok(())
    }

    /// Waits for the append that is under way, if there is one.
    async fn settle(&mut self) -> Result<(), AppendError> {
        if self.append.is_none() {
            return Ok(());
        }
        let durable = append(&mut self.append, true).await;
        self.appended(durable)
    }

    /// Takes note of what became of the append that was under way, and of the time that was added to
    /// what came: until it was durable, and with its readers.
    fn appended(&mut self, durable: Durable) -> Result<(), AppendError> {
        self.append = None;
        let arrived = self.appending.take();
        if let (Some(at), Some(arrived)) = (durable?, arrived) {
            let added = &self.recorder.metrics.recordings.added_seconds;
            added.observe(at.duration_since(arrived.into_std()).as_secs_f64());
        }
        Ok(())
    }

    fn write<'e>(
        &self,
        frames: Bytes,
        end: Option<&'e StreamEnd>,
    ) -> impl Future<Output = Result<Queued, AppendError>> + Send + use<'a, 'e>
    where
        'a: 'e,
    {
        let Started { stream, meta, .. } = self.started;
        self.recorder.append(stream, meta, frames, end)
    }

    /// The end of a recording whose stream takes nothing more.
    fn without_stream(&self, error: &AppendError) -> StreamEnd {
        let stream = self.recording.path.path();
        match error {
            AppendError::Unavailable(_) => aborted("deleted"),
            AppendError::Refused(_) => aborted("closed"),
            AppendError::Commit(_) | AppendError::Read(_) => {
                tracing::error!(stream, %error, "a recording cannot be written");
                failed("storage")
            }
        }
    }
}

impl Recorder {
    /// Queues an append to the stream of a recording, or its closing if that is its end. A log
    /// without room is waited for.
    pub(super) async fn append(
        &self,
        stream: &Arc<Stream>,
        meta: &StreamMeta,
        frames: Bytes,
        end: Option<&StreamEnd>,
    ) -> Result<Queued, AppendError> {
        let request = AppendRequest {
            id: Some(meta.id),
            content_type: Some(&meta.content_type),
            frame_bytes: frames.len() as u64,
            stream_seq: None,
            close: end.is_some(),
            end,
            producer: None,
            producers_max: 0,
        };
        loop {
            let frames = Some(frames.clone()).filter(|frames| !frames.is_empty());
            match self.log.queue(stream, &request, frames).await {
                Err(AppendError::Commit(CommitError::Overloaded)) => sleep(RETRY_DELAY).await,
                queued => return queued,
            }
        }
    }
}

/// Brings the append that is under way on and, if it is `awaited`, waits until it is durable; for
/// ever, if there is none. Returns when it became durable.
async fn append(under_way: &mut Option<Appending<'_>>, awaited: bool) -> Durable {
    if let Some(Appending::Begins(begins)) = under_way {
        *under_way = Some(Appending::Queued(begins.await?));
    }
    match under_way {
        Some(Appending::Queued(queued)) if awaited => queued.durable().await,
        _ => pending().await,
    }
}

/// Waits until a recording is to end although its upstream goes on.
async fn ended(recorder: &Recorder, route: &Route, recording: &Recording) -> StreamEnd {
    let total = if recording.shared {
        Duration::ZERO
    } else {
        route.bounds.total_timeout
    };
    tokio::select! {
        biased;
        () = recording.aborted() => aborted("requested"),
        () = recorder.interrupted(recording) => failed(INTERRUPTED),
        () = route.left(&recording.readers, recording.shared) => aborted("no_readers"),
        () = after(total) => failed("total_timeout"),
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn after(time: Duration) {
    if time.is_zero() {
        pending::<()>().await;
    } else {
        sleep(time).await;
    }
}

fn failed(reason: &str) -> StreamEnd {
    StreamEnd::new(Outcome::Failed, Some(reason))
}

fn aborted(reason: &str) -> StreamEnd {
    StreamEnd::new(Outcome::Aborted, Some(reason))
}
