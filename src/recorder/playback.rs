//! A recorded answer as its client gets it: the upstream's bytes, as far as they are durable.

use super::Recorder;
use super::framing::{BYTE_ORDER_MARK, Boundary, Framing};
use super::open::LastEvent;
use super::readers::Reader;
use super::recording::Started;
use super::route::Route;
use super::seek::Seek;
use crate::frame::Frames;
use crate::hub::{Follower, Run};
use crate::log::{AnswerBody, Log, Look, ReadError, Stream};
use crate::serve::Outgoing;
use crate::types::{Outcome, Position, StreamEnd, StreamId};
use crate::waits::{Alarm, Seldom};
use bytes::{Buf as _, Bytes, BytesMut};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A comment, which every client ignores.
const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// So many bytes at once take of the memory for all that is sent.
const LARGE_BYTES_MIN: usize = 64 * 1024;

/// How often an event is looked for anew because the stream is trimmed meanwhile: where much comes
/// and little is kept, that happens several times in a row.
const SEARCHES_MAX: u32 = 16;

/// A reader of a recording from some event on.
pub struct Playback {
    log: Arc<Log>,
    outgoing: Arc<Outgoing>,
    stream: Arc<Stream>,
    id: StreamId,
    at: Position,
    /// Leaves out what the client has seen.
    seek: Option<Seek>,
    /// What was read while the event was looked for.
    held: Bytes,
    /// Whether what was sent ends where a comment may be put in.
    boundary: Boundary,
    /// Whether a comment came before all else.
    spoke_first: bool,
    silence: Silence,
    /// Whether what is played is complete in the end, also if its client leaves.
    goes_on: bool,
    _reader: Option<Reader>,
}

/// What ends a wait in which nothing is appended.
struct Silence {
    /// How often a silent answer gets a comment; zero: never.
    heartbeat: Duration,
    /// For the next comment.
    alarm: Alarm,
    /// Over when readers must go, of a stream that does not end by itself.
    leave: Option<Seldom<WaitForCancellationFutureOwned>>,
}

/// A follower's place at its stream, until this is dropped.
pub struct Following {
    stream: Arc<Stream>,
    follower: Follower,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stream.tail().leave_to_itself(&self.follower);
    }
}

/// What comes next of an answer.
#[derive(Debug)]
pub enum Next {
    Bytes(Bytes),
    /// It is complete.
    End,
    /// It is not complete, and nothing more will come.
    Broken(Arc<StreamEnd>),
}

impl Playback {
    /// From the beginning.
    pub(super) fn new(
        recorder: &Recorder,
        started: &Started,
        heartbeat: Duration,
        reader: Option<Reader>,
    ) -> Self {
        let framing = Framing::of(started.content_type());
        Self {
            log: recorder.log.clone(),
            outgoing: recorder.outgoing.clone(),
            stream: started.stream.clone(),
            id: started.meta.id,
            at: 0,
            seek: None,
            held: Bytes::new(),
            boundary: Boundary::new(framing),
            spoke_first: false,
            silence: Silence {
                heartbeat: match framing {
                    Framing::Events => heartbeat,
                    // Only events know comments.
                    Framing::Lines | Framing::Chunks => Duration::ZERO,
                },
                alarm: Alarm::default(),
                leave: None,
            },
            goes_on: reader.is_none(),
            _reader: reader,
        }
    }

    /// Of a recording that runs, and that its clients may leave.
    pub(super) fn of_lasting(mut self, route: &Route) -> Self {
        self.goes_on |= route.outlasts_clients();
        self
    }

    /// Whether a client that leaves finds all of it later.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Ends the answer when a token is cancelled.
    pub(super) fn until(mut self, leave: &CancellationToken) -> Self {
        self.silence.leave = Some(Seldom::new(leave.clone().cancelled_owned()));
        self
    }

    /// Goes to a place where an event begins.
    pub(super) fn go_to(&mut self, position: Position) {
        self.at = position;
    }

    /// Goes behind an event, which is looked for in what is durable and was not trimmed. If that
    /// event is not there, stays where it is, or goes to the earliest event if it was trimmed.
    pub(super) async fn skip_behind(
        &mut self,
        event: &LastEvent,
        mut earliest: Position,
    ) -> Result<(), ReadError> {
        let begin = self.at;
        for _ in 0..SEARCHES_MAX {
            match self.search(event, earliest).await {
                Ok(true) => return Ok(()),
                Ok(false) => break,
                Err(ReadError::Trimmed { earliest: now }) => earliest = now,
                Err(error) => return Err(error),
            }
        }
        self.at = begin.max(earliest);
        Ok(())
    }

    /// Goes behind an event, or to the earliest one in place of one of ours that was trimmed, and
    /// says whether it has.
    async fn search(&mut self, event: &LastEvent, earliest: Position) -> Result<bool, ReadError> {
        let (id, from) = match event {
            LastEvent::Ours(id) if id.position < earliest => {
                self.at = earliest;
                return Ok(true);
            }
            LastEvent::Ours(id) => (id.to_string().into_bytes(), id.position),
            LastEvent::Theirs(id) => (id.clone(), earliest),
        };
        let mut seek = Seek::behind(&id);
        self.at = from;
        while let Found::Bytes(mut bytes) = self.read().await? {
            let seen = seek.skip(&bytes);
            if seek.is_found() {
                self.held = bytes.split_off(seen);
                self.seek = Some(seek);
                return Ok(true);
            }
            // An id of ours names the append that it is in.
            if matches!(event, LastEvent::Ours(_)) {
                break;
            }
        }
        Ok(false)
    }

    /// Reads all that is durable from where it is.
    pub(super) async fn read_durable(
        &mut self,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), ReadError> {
        while let Found::Bytes(bytes) = self.read().await? {
            take(&bytes);
        }
        Ok(())
    }

    /// Whether nothing is left for this client, and how the recording ended then.
    pub(super) async fn is_over(&mut self) -> Result<Option<Option<Arc<StreamEnd>>>, ReadError> {
        if self.held.is_empty() && self.at > 0 {
            match self.unseen().await? {
                Found::Bytes(bytes) => self.held = bytes,
                Found::End(end) => return Ok(Some(end)),
                Found::Tail => {}
            }
        }
        Ok(None)
    }

    /// What comes next, once it is there.
    pub async fn next(&mut self) -> Next {
        loop {
            if self.held.is_empty() {
                match self.wait().await {
                    Waited::Moved => {}
                    Waited::Silent => match self.comment() {
                        Some(comment) => return comment,
                        None => continue,
                    },
                    Waited::Leave => return Next::End,
                }
            }
            let found = match std::mem::take(&mut self.held) {
                held if held.is_empty() => self.unseen().await,
                held => Ok(Found::Bytes(held)),
            };
            match found {
                Ok(Found::Bytes(bytes)) => {
                    let bytes = self.handed_out(bytes);
                    if !bytes.is_empty() {
                        return Next::Bytes(bytes);
                    }
                }
                Ok(Found::End(end)) => return ending(end),
                Ok(Found::Tail) => {}
                Err(error) => return Next::Broken(Arc::new(unreadable(&error))),
            }
        }
    }

    /// Waits for more, unless it is there, or until a comment is due.
    async fn wait(&mut self) -> Waited {
        let heard = Instant::now();
        tokio::select! {
            biased;
            _ = self.stream.tail().wait(self.id, self.at) => Waited::Moved,
            ended = self.silence.end(heard) => ended,
        }
    }

    /// What comes next although nothing is appended, after what came at `heard`: a comment, or the end.
    /// For one that is handed what is appended. Nothing is lost when the future is dropped.
    pub async fn next_unasked(&mut self, mut heard: Instant) -> Next {
        while let Waited::Silent = self.silence.end(heard).await {
            if let Some(comment) = self.comment() {
                return comment;
            }
            heard = Instant::now();
        }
        Next::End
    }

    /// A comment, where one may be put in. Who waits uses the stream.
    fn comment(&mut self) -> Option<Next> {
        self.log.touch(&self.stream);
        let may_be_put_in = self.boundary.is_here();
        self.spoke_first |= may_be_put_in && self.boundary.is_at_start();
        may_be_put_in.then(|| Next::Bytes(Bytes::from_static(HEARTBEAT)))
    }

    /// Whether there is nothing to do but to wait for what is appended, and nobody follows yet.
    pub fn may_follow(&self) -> bool {
        self.held.is_empty() && self.stream.tail().may_follow(self.id, self.at)
    }

    /// Lets a follower be handed what is appended from here on, unless there is something already, or
    /// somebody else follows.
    pub fn follow(&self, follower: &Follower) -> Option<Following> {
        let stream = &self.stream;
        let follows = self.held.is_empty() && stream.tail().follow(self.id, self.at, follower);
        follows.then(|| Following {
            stream: stream.clone(),
            follower: follower.clone(),
        })
    }

    /// What an append is for the client; `None` if it is not what comes next.
    pub fn pass(&mut self, run: &Run) -> Option<Bytes> {
        if run.start != self.at || !self.held.is_empty() {
            return None;
        }
        self.at = run.end();
        let bytes = payload(std::slice::from_ref(run));
        let seen = self.seek.as_mut().map_or(0, |seek| seek.skip(&bytes));
        Some(self.handed_out(bytes.slice(seen..)))
    }

    /// Takes note of what the client gets next. A byte order mark means nothing but at the beginning,
    /// where there is a comment now.
    fn handed_out(&mut self, mut bytes: Bytes) -> Bytes {
        if std::mem::take(&mut self.spoke_first) && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.advance(BYTE_ORDER_MARK.len());
        }
        self.boundary.push(&bytes);
        bytes
    }

    /// Where in the stream the reader is.
    pub fn position(&self) -> Position {
        self.at
    }

    /// What there is now that the client has not seen.
    async fn unseen(&mut self) -> Result<Found, ReadError> {
        loop {
            let found = self.read().await?;
            let (Found::Bytes(bytes), Some(seek)) = (&found, &mut self.seek) else {
                return Ok(found);
            };
            // At most the end of a line end.
            let seen = seek.skip(bytes);
            if seen < bytes.len() {
                return Ok(Found::Bytes(bytes.slice(seen..)));
            }
        }
    }

    /// What there is now: if that is large, once there is room for it.
    async fn read(&mut self) -> Result<Found, ReadError> {
        let read = || async {
            let (found, to) = self.read_once().await?;
            let bytes = match &found {
                Found::Bytes(bytes) if bytes.len() >= LARGE_BYTES_MIN => bytes.len(),
                _ => 0,
            };
            Ok(((found, to), bytes))
        };
        let ((found, to), room) = self.outgoing.with_room(read).await?;
        self.at = to;
        Ok(match (found, room) {
            (Found::Bytes(bytes), Some(room)) => Found::Bytes(room.hold(bytes)),
            (found, _) => found,
        })
    }

    /// What there is now, and where it ends.
    async fn read_once(&self) -> Result<(Found, Position), ReadError> {
        let answer = match self.log.look(&self.stream, self.at)? {
            Look::Known(answer) => answer,
            Look::Stored(_) => Box::pin(self.log.answer(&self.stream, self.at)).await?,
        };
        if answer.view.meta.id != self.id {
            return Err(ReadError::Gone);
        }
        if answer.from == answer.to {
            let found = if answer.view.closed {
                Found::End(answer.view.end.clone())
            } else {
                Found::Tail
            };
            return Ok((found, self.at));
        }
        let cold;
        let runs = match &answer.body {
            AnswerBody::Hot(runs) => runs,
            AnswerBody::Cold(parts) => {
                cold = vec![Box::pin(self.log.piece(parts, answer.from)).await?];
                &cold
            }
        };
        let to = runs.last().map_or(answer.to, Run::end);
        Ok((Found::Bytes(payload(runs)), to))
    }
}

impl Silence {
    /// Waits until a comment is due after what came at `heard`, or readers must go.
    async fn end(&mut self, heard: Instant) -> Waited {
        let leave = async {
            match &mut self.leave {
                Some(leave) => leave.end().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.alarm.until(heard + self.heartbeat), if !self.heartbeat.is_zero() => {
                Waited::Silent
            }
            () = leave => Waited::Leave,
        }
    }
}

/// How a wait ended.
enum Waited {
    Moved,
    /// Nothing came for the time of a heartbeat.
    Silent,
    Leave,
}

/// What lies at a place of a stream.
enum Found {
    Bytes(Bytes),
    /// Nothing yet.
    Tail,
    /// Nothing ever.
    End(Option<Arc<StreamEnd>>),
}

/// How an answer ends whose recording ended so.
fn ending(end: Option<Arc<StreamEnd>>) -> Next {
    match end {
        Some(end) if end.outcome != Outcome::Completed => Next::Broken(end),
        _ => Next::End,
    }
}

fn unreadable(error: &ReadError) -> StreamEnd {
    if !matches!(error, ReadError::Gone) {
        tracing::warn!(%error, "a recording cannot be read");
    }
    StreamEnd {
        outcome: Outcome::Failed,
        reason: Some("unreadable".into()),
    }
}

/// The payloads of whole appends, joined. A single one is not copied.
fn payload(runs: &[Run]) -> Bytes {
    if let [run] = runs
        && let mut payloads = Frames::new(&run.frames, 0)
        && let (Some(only), None) = (payloads.next(), payloads.next())
    {
        return run.frames.slice(only.payload());
    }
    let mut joined = BytesMut::with_capacity(Run::bytes(runs));
    for run in runs {
        for frame in Frames::new(&run.frames, 0) {
            joined.extend_from_slice(&run.frames[frame.payload()]);
        }
    }
    joined.freeze()
}
