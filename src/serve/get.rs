//! GET without waiting (protocol, section 5.6).

use super::{Body, Reply, ServeError, Server, Target};
use crate::hub::View;
use crate::log::{Answer, ReadError, Stream};
use crate::protocol::reply::{self, EndState, Freshness, Head};
use crate::protocol::request::{self, From};
use crate::types::{Kind, Position, UnixMs};
use bytes::Bytes;
use http::{StatusCode, header};
use std::sync::Arc;

impl Server {
    pub(super) async fn get(
        self: &Arc<Self>,
        target: &Target<'_>,
        read: request::Read,
    ) -> Result<Reply, ServeError> {
        let (stream, view) = self.begin_read(target).await?;
        let Some(at) = position(read.from, &view) else {
            return Ok(at_tail(target, &view));
        };
        let answer = self.answer_from(&stream, read.from, at).await?;
        let tag = read.if_none_match.as_deref();
        self.answer(target, &stream, read.from, answer, tag, None)
            .await
    }

    /// What is answered to a read: one from the start begins where the stream does by then.
    pub(super) async fn answer_from(
        &self,
        stream: &Arc<Stream>,
        from: From,
        at: Position,
    ) -> Result<Answer, ReadError> {
        match self.log.answer(stream, at).await {
            Err(ReadError::Trimmed { earliest }) if from == From::Start => {
                self.log.answer(stream, earliest).await
            }
            answer => answer,
        }
    }

    /// The stream of a read, which counts as a use of it.
    pub(super) async fn begin_read(
        &self,
        target: &Target<'_>,
    ) -> Result<(Arc<Stream>, View), ServeError> {
        let stream = self.log.stream(&target.path).await?;
        let view = stream.view(self.clock.now_ms())?;
        self.log.touch(&stream);
        Ok((stream, view))
    }

    /// The reply with the data of an answer; `cursor` makes it one of a live read.
    pub(super) async fn answer(
        self: &Arc<Self>,
        target: &Target<'_>,
        stream: &Stream,
        from: From,
        answer: Answer,
        if_none_match: Option<&str>,
        cursor: Option<u64>,
    ) -> Result<Reply, ServeError> {
        let etag = reply::etag(
            self.log.database_id(),
            &answer.view.meta,
            answer.from,
            answer.to,
            end_of(&answer),
        );
        let unchanged = if_none_match.is_some_and(|given| reply::matches_etag(given, &etag));
        let status = if unchanged {
            StatusCode::NOT_MODIFIED
        } else {
            StatusCode::OK
        };
        let mut head = Head::new(status, target.route.config.cors);
        head.set_string(header::ETAG, etag);
        head.set_next_offset(answer.to);
        head.set_up_to_date(answer.up_to_date());
        let closed = answer.up_to_date() && answer.view.closed;
        head.set_closed(closed, answer.view.end.as_deref());
        if let Some(cursor) = cursor {
            head.set_number(crate::protocol::names::STREAM_CURSOR, cursor);
        }
        let remaining = remaining_ms(stream, &answer.view, self.clock.now_ms());
        let fresh = freshness(from, &answer);
        let control = target.route.caching.cache_control(fresh, remaining);
        head.set(header::CACHE_CONTROL, control);
        head.set_cache_tag(&target.path);
        if unchanged {
            return Ok(Reply {
                head,
                body: Body::Empty,
            });
        }
        head.set_text(header::CONTENT_TYPE, &answer.view.meta.content_type);
        let (id, at) = (answer.view.meta.id, answer.from);
        match Body::of_answer(self, answer).await {
            Err(ReadError::Gone) => Err(self.log.why_gone(stream, id, at).await.into()),
            body => Ok(Reply { head, body: body? }),
        }
    }
}

/// Where a read begins; `None`: at the tail, whatever is there.
pub(super) fn position(from: From, view: &View) -> Option<Position> {
    match from {
        From::Start => Some(view.earliest),
        From::Tail => None,
        // What was never minted lies at the tail.
        From::At(at) => Some(at.min(view.tail)),
    }
}

/// The answer to `offset=now`: where the tail is, and nothing else.
fn at_tail(target: &Target<'_>, view: &View) -> Reply {
    let mut head = Head::new(StatusCode::OK, target.route.config.cors);
    head.set_text(header::CONTENT_TYPE, &view.meta.content_type);
    head.set_next_offset(view.tail);
    head.set_up_to_date(true);
    head.set_closed(view.closed, view.end.as_deref());
    head.set_no_store();
    let body = match view.meta.kind {
        Kind::Json => Body::Full(Bytes::from_static(b"[]")),
        Kind::Text | Kind::Binary => Body::Empty,
    };
    Reply { head, body }
}

fn end_of(answer: &Answer) -> EndState {
    match (answer.up_to_date(), answer.view.closed) {
        (false, _) => EndState::More,
        (true, false) => EndState::UpToDate,
        (true, true) => EndState::Closed,
    }
}

pub(super) fn freshness(from: From, answer: &Answer) -> Freshness {
    let moves = match from {
        // A copy would lead its readers, again and again, to what was trimmed.
        From::Start => !answer.view.meta.retention.is_unlimited(),
        // A copy would give them what came before they asked.
        From::Tail => true,
        From::At(_) => false,
    };
    if moves {
        Freshness::Nothing
    } else if answer.fixed() {
        Freshness::Fixed
    } else if answer.from < answer.to {
        Freshness::Tail
    } else {
        Freshness::Nothing
    }
}

/// How long a copy of an answer may be kept, if the stream's life or the age of its data is limited.
pub(super) fn remaining_ms(stream: &Stream, view: &View, now_ms: UnixMs) -> Option<u64> {
    let deadline = stream.deadline_ms(view);
    let remaining = deadline.map(|deadline| deadline.saturating_sub(now_ms));
    remaining
        .into_iter()
        .chain(view.meta.retention.age_ms)
        .min()
}
