//! GET that waits, at an edge: long-poll and SSE (protocol, sections 5.7 and 5.8).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::answer::Answer;
use super::asked::Asked;
use super::cache::CACHE_STATUS;
use super::events::Events;
use super::reader::{Begun, RETRY_AFTER, Reader};
use super::route::Route;
use super::sharing::Sharing;
use super::subscription::{Closing, Data, Look};
use crate::observe::metrics::Live;
use crate::protocol::names;
use crate::protocol::reply::{self, Head};
use crate::protocol::sse::Encoding;
use crate::serve::{Body, Reply, ServeError, Sse};

/// What the edge knew without asking.
const HIT: HeaderValue = HeaderValue::from_static("headwater; hit; detail=live");

/// How long a long-poll first waits before it asks the origin again.
const PAUSE_MIN: Duration = Duration::from_millis(50);

impl Route {
    pub(super) async fn sse(self: &Arc<Self>, asked: Asked) -> Result<Reply, ServeError> {
        let reader_permit = self.edge.server.live_reader(Live::Sse)?;
        let (reader, begin) = match Box::pin(Reader::begin(self, &asked)).await? {
            Begun::Along(reader) => (reader, None),
            Begun::Behind(reader, answer) => (reader, Some(answer)),
            Begun::Refused(answer) => return Ok(answer.into_reply(self)),
        };
        let encoding = Encoding::of(reader.kind, asked.base64);
        let mut head = Head::lean(StatusCode::OK, self.settings.cors);
        reply::set_sse(&mut head, encoding);
        let known = || self.edge.identities.known(&asked.subject.key);
        if asked.base64
            && let Some(id) = reader.identity().or_else(known)
        {
            head.set_text(names::STREAM_ID, &id);
            reader.sharing().mark_events(&mut head);
        }
        self.mark_answer(&mut head, begin.as_ref());
        let events = Events::new(reader, encoding, asked.cursor, begin);
        let (server, source) = (&self.edge.server, Box::new(events));
        let sse = Sse::new(server, source, &self.settings, None, reader_permit);
        Ok(Reply {
            head,
            body: Body::Live(Box::new(sse)),
        })
    }

    pub(super) async fn long_poll(self: &Arc<Self>, asked: Asked) -> Result<Reply, ServeError> {
        let _reader = self.edge.server.live_reader(Live::LongPoll)?;
        let deadline = Instant::now() + self.settings.long_poll_timeout;
        let mut reader = match Box::pin(Reader::begin(self, &asked)).await? {
            Begun::Along(reader) => reader,
            Begun::Refused(answer) => return Ok(answer.into_reply(self)),
            Begun::Behind(mut reader, mut answer) => {
                if !answer
                    .is_empty(reader.kind)
                    .await
                    .map_err(|_| ServeError::OriginAway)?
                {
                    return Ok(self.with_data(answer, &asked));
                }
                reader.pass(&answer);
                reader
            }
        };
        let mut pause = PAUSE_MIN;
        loop {
            match reader.look()? {
                Look::Data(data) => return Ok(self.delivered(&reader, &data, &asked)),
                Look::Closed(closing) => {
                    return Ok(self.nothing_new(&reader, Some(&closing), &asked));
                }
                Look::Nothing { .. } => {
                    let moved = timeout_at(deadline, reader.moved());
                    let moved = self.edge.server.draining.run_until_cancelled(moved).await;
                    if !matches!(moved, Some(Ok(()))) {
                        return self.waited(reader, &asked).await;
                    }
                }
                look @ (Look::Behind | Look::Gone) => {
                    let is_gone = matches!(look, Look::Gone);
                    if let Some(reply) = self.look_again(&mut reader, is_gone, &asked).await? {
                        return Ok(reply);
                    }
                    // Nothing is there, though the subscription is elsewhere: one of the two will
                    // learn.
                    let until = (Instant::now() + pause).min(deadline);
                    let waited = self
                        .edge
                        .server
                        .draining
                        .run_until_cancelled(sleep_until(until));
                    if waited.await.is_none() || until == deadline {
                        return Ok(self.nothing_new(&reader, None, &asked));
                    }
                    pause = (2 * pause).min(RETRY_AFTER);
                }
            }
        }
    }

    /// The answer of a long-poll that waited in vain.
    async fn waited(
        self: &Arc<Self>,
        mut reader: Reader,
        asked: &Asked,
    ) -> Result<Reply, ServeError> {
        if reader.awaits_written() {
            // It would be told that there is nothing, and it was told otherwise.
            let reply = self.look_again(&mut reader, false, asked).await?;
            return Ok(reply.unwrap_or_else(|| self.nothing_new(&reader, None, asked)));
        }
        match reader.look()? {
            Look::Data(data) => Ok(self.delivered(&reader, &data, asked)),
            Look::Closed(closing) => Ok(self.nothing_new(&reader, Some(&closing), asked)),
            _ => Ok(self.nothing_new(&reader, None, asked)),
        }
    }

    /// The answer of a long-poll by what the origin says now; `None` if there is nothing yet.
    /// `is_gone`: the stream that it has waited for is.
    async fn look_again(
        self: &Arc<Self>,
        reader: &mut Reader,
        is_gone: bool,
        asked: &Asked,
    ) -> Result<Option<Reply>, ServeError> {
        let mut answer = if is_gone {
            // Whoever asks now is answered by the stream that there is now.
            reader.begin_anew(&asked.offset).await?
        } else {
            reader.catch_up().await?
        };
        if reader.is_over() {
            answer = reader.begin_anew(&asked.offset).await?;
        }
        if answer.status != StatusCode::OK {
            return Ok(Some(answer.into_reply(self)));
        }
        if !answer
            .is_empty(reader.kind)
            .await
            .map_err(|_| ServeError::OriginAway)?
        {
            let mut reply = self.with_data(answer, asked);
            if reader.at != asked.offset {
                // It says what came after a `now`, and another one is not this one.
                reply.head.set_no_store();
            }
            return Ok(Some(reply));
        }
        reader.pass(&answer);
        let closed = reader.closed.as_ref();
        Ok(closed.map(|closed| self.nothing_new(reader, Some(closed), asked)))
    }

    /// A catch-up answer as one to a long-poll.
    fn with_data(&self, answer: Answer, asked: &Asked) -> Reply {
        let closed = answer.is_closed();
        let known = answer.is_known(asked.if_none_match.as_deref());
        let mut reply = answer.into_reply(self);
        if known {
            reply.head.status = StatusCode::NOT_MODIFIED;
            reply.body = Body::Empty;
        }
        if !closed {
            let cursor = self.edge.server.cursor(asked.cursor);
            reply.head.set_number(names::STREAM_CURSOR, cursor);
        }
        reply
    }

    /// What the subscription has, as an answer to a long-poll.
    fn delivered(&self, reader: &Reader, data: &Data, asked: &Asked) -> Reply {
        let closed = data.closed.as_ref();
        let mut head = self.live_head(StatusCode::OK, &data.next, closed, asked);
        sharing(reader, asked).mark(&mut head);
        head.set_text(header::CONTENT_TYPE, &reader.content_type);
        head.set_up_to_date(data.up_to_date);
        let tag = reader.etag(data);
        let known = asked.if_none_match.as_deref().zip(tag.as_deref());
        let known = known.is_some_and(|(known, tag)| reply::matches_etag(known, tag));
        if let Some(tag) = tag {
            head.set_string(header::ETAG, tag);
        }
        let body = if known {
            head.status = StatusCode::NOT_MODIFIED;
            Body::Empty
        } else {
            Body::Full(data.body(reader.kind))
        };
        Reply { head, body }
    }

    fn nothing_new(&self, reader: &Reader, closed: Option<&Closing>, asked: &Asked) -> Reply {
        let mut head = self.live_head(StatusCode::NO_CONTENT, &reader.at, closed, asked);
        sharing(reader, asked).mark(&mut head);
        head.set_up_to_date(true);
        Reply {
            head,
            body: Body::Empty,
        }
    }

    /// The head of an answer to a long-poll.
    fn live_head(
        &self,
        status: StatusCode,
        next: &str,
        closed: Option<&Closing>,
        asked: &Asked,
    ) -> Head {
        let mut head = Head::new(status, self.settings.cors);
        head.set_text(names::STREAM_NEXT_OFFSET, next);
        head.set_closed(closed.is_some(), closed.and_then(Closing::end));
        if closed.is_none() {
            let cursor = self.edge.server.cursor(asked.cursor);
            head.set_number(names::STREAM_CURSOR, cursor);
        }
        self.mark_answer(&mut head, None);
        head
    }

    /// Says on an answer of this edge where it came from.
    fn mark_answer(&self, head: &mut Head, begin: Option<&Answer>) {
        let status = begin.map_or(HIT, Answer::cache_status);
        head.set(CACHE_STATUS, status);
        let (name, value) = self.via.entry();
        head.set(name, value);
    }
}

/// Who may be given an answer of this reader to a long-poll.
fn sharing(reader: &Reader, asked: &Asked) -> Sharing {
    if reader.at == asked.offset {
        reader.sharing()
    } else {
        // It waited where the tail happened to be, which is elsewhere for others.
        Sharing::default()
    }
}
