//! GET without waiting (protocol, section 5.6).

use super::compress::Wanted;
use super::find::Found;
use super::{Body, Reply, ServeError, Server, Target};
use crate::hub::View;
use crate::log::{Answer, ReadError, Stream};
use crate::protocol::caching::Freshness;
use crate::protocol::coding;
use crate::protocol::reply::{self, EndState, Head};
use crate::protocol::request::{self, From, Mode};
use crate::types::{Kind, Position, UnixMs};
use bytes::Bytes;
use http::{StatusCode, header};
use std::sync::Arc;

/// How often a read from the start begins anew because the stream is trimmed under it: where much
/// is appended and little kept, that happens several times in a row.
const RESTARTS_MAX: u32 = 16;

impl Server {
    pub(super) async fn get(
        self: &Arc<Self>,
        target: &Target<'_>,
        mut read: request::Read,
    ) -> Result<Reply, ServeError> {
        let (stream, view) = self.begin_read(target).await?;
        let Some(at) = position(read.from, &view) else {
            return Ok(at_tail(target, &view));
        };
        read.from = meant(read.from, &view);
        self.read(target, &stream, &read, at).await
    }

    /// The reply to a read that begins at `at`, or, if it is one from the start, where the stream
    /// begins by then.
    pub(super) async fn read(
        self: &Arc<Self>,
        target: &Target<'_>,
        stream: &Arc<Stream>,
        read: &request::Read,
        mut at: Position,
    ) -> Result<Reply, ServeError> {
        let restarts = match read.from {
            From::Start => RESTARTS_MAX,
            From::Tail | From::At(_) => 0,
        };
        for _ in 0..restarts {
            match self.read_once(target, stream, read, at).await {
                Err(ServeError::Read(ReadError::Trimmed { earliest })) => at = earliest,
                reply => return reply,
            }
        }
        self.read_once(target, stream, read, at).await
    }

    async fn read_once(
        self: &Arc<Self>,
        target: &Target<'_>,
        stream: &Arc<Stream>,
        read: &request::Read,
        at: Position,
    ) -> Result<Reply, ServeError> {
        let wanted = Wanted::new(&target.route.config.compression, read.accepted);
        let found = self.find(stream, at, wanted).await?;
        match read.mode {
            Mode::LongPoll => self.polled(target, stream, read, found).await,
            Mode::CatchUp | Mode::Sse => self.answer(target, stream, read, found, None).await,
        }
    }

    /// The stream of a read, which counts as a use of it.
    pub(super) async fn begin_read(
        &self,
        target: &Target<'_>,
    ) -> Result<(Arc<Stream>, View), ServeError> {
        let stream = self.log.stream_to_read(&target.path).await?;
        let now_ms = self.clock.now_ms();
        let view = stream.view(now_ms)?;
        self.log.touch_seen(&stream, &view.meta, now_ms);
        Ok((stream, view))
    }

    /// The reply with the data of an answer; `cursor` makes it one of a live read.
    pub(super) async fn answer(
        self: &Arc<Self>,
        target: &Target<'_>,
        stream: &Stream,
        read: &request::Read,
        mut found: Found,
        cursor: Option<u64>,
    ) -> Result<Reply, ServeError> {
        let wanted = Wanted::new(&target.route.config.compression, read.accepted);
        let compressible = wanted.applies(&found.answer);
        let coding = wanted.coding.filter(|_| compressible);
        let etag = self.etag(&found.answer);
        let tag = read.if_none_match.as_deref();
        if let Some(tag) = tag.and_then(|given| coding::matched_etag(given, &etag, coding)) {
            let status = StatusCode::NOT_MODIFIED;
            let mut head = self.head_of(status, target, stream, read.from, &found.answer, cursor);
            head.set_string(header::ETAG, tag);
            head.set_vary(compressible);
            return Ok(Reply {
                head,
                body: Body::Empty,
            });
        }
        if let Some(coding) = coding
            && found.coding().is_none()
            && let Some(kept) = self.compressed(&found, coding).await
        {
            found.kept = Some(kept);
        }
        let mut head = self.head_of(
            StatusCode::OK,
            target,
            stream,
            read.from,
            &found.answer,
            cursor,
        );
        head.set_coding(found.coding(), etag);
        head.set_vary(compressible);
        let Found { answer, kept } = found;
        head.set_text(header::CONTENT_TYPE, &answer.view.meta.content_type);
        let (id, at) = (answer.view.meta.id, answer.from);
        match Body::of_answer(self, answer, kept).await {
            Err(ReadError::Gone) => Err(self.log.why_gone(stream, id, at).await.into()),
            body => Ok(Reply { head, body: body? }),
        }
    }

    /// What a reply says of an answer, with its body or without.
    fn head_of(
        &self,
        status: StatusCode,
        target: &Target<'_>,
        stream: &Stream,
        from: From,
        answer: &Answer,
        cursor: Option<u64>,
    ) -> Head {
        let mut head = Head::new(status, target.route.config.cors);
        head.set_next_offset(answer.to);
        head.set_up_to_date(answer.up_to_date());
        let closed = answer.up_to_date() && answer.view.closed;
        head.set_closed(closed, answer.view.end.as_deref());
        if let Some(cursor) = cursor {
            head.set_number(crate::protocol::names::STREAM_CURSOR, cursor);
        }
        let remaining = remaining_ms(stream, &answer.view, self.clock.now_ms());
        let fresh = freshness(from, answer);
        let control = target.route.caching.cache_control(fresh, remaining);
        head.set(header::CACHE_CONTROL, control);
        head.set_cache_tag(&target.path);
        head
    }

    /// The entity tag of an answer that is not compressed.
    fn etag(&self, answer: &Answer) -> String {
        let end = end_of(answer);
        let database = self.log.database_id();
        reply::etag(database, &answer.view.meta, answer.from, answer.to, end)
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

/// Where a read begins, as far as copies of its answer are concerned: an offset beyond the tail is,
/// like `now`, where the tail happens to be.
pub(super) fn meant(from: From, view: &View) -> From {
    match from {
        From::At(at) if at > view.tail => From::Tail,
        from => from,
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
