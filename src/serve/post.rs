//! POST: append, close, or both (protocol, sections 5.2 and 5.3).

use super::framing::{self, Framed};
use super::{Body, Reply, ServeError, Server, Target};
use crate::log::Appended;
use crate::log::state::AppendRequest;
use crate::protocol::json::JsonError;
use crate::protocol::reply::Head;
use crate::protocol::{names, request};
use crate::types::Kind;
use bytes::Bytes;
use http::StatusCode;

impl Server {
    pub(super) async fn post(
        &self,
        target: &Target<'_>,
        append: request::Append,
        body: Bytes,
    ) -> Result<Reply, ServeError> {
        if body.is_empty() && !append.close {
            return Err(ServeError::EmptyBody);
        }
        if !body.is_empty() && append.content_type.is_none() {
            return Err(ServeError::NoContentType);
        }
        // By what the request says of itself: the stream at the path may be replaced meanwhile, and
        // one of another content type refuses it.
        let kind = append
            .content_type
            .as_deref()
            .map_or(Kind::Binary, Kind::of);
        let framed = if framing::is_long(kind, &body) {
            Box::pin(self.frame_long(kind, body.clone())).await?
        } else {
            framing::frame(kind, &body)
        };
        let (Framed { frames, messages }, refusal) = match framed {
            Err(error) => (Framed::default(), Some(error)),
            Ok(framed) => {
                let nothing = framed.frames.is_none() && !body.is_empty();
                (framed, nothing.then_some(JsonError::EmptyArray))
            }
        };
        let stream = self.log.stream(&target.path).await?;
        let request = AppendRequest {
            id: None,
            content_type: append.content_type.as_deref(),
            frame_bytes: frames.as_ref().map_or(body.len(), Bytes::len) as u64,
            stream_seq: append.stream_seq.as_ref(),
            close: append.close,
            end: None,
            producer: append.producer.as_ref(),
            producers_max: self.producers_max,
        };
        if let Some(error) = refusal {
            // What the stream says of the request comes before what is wrong with its body.
            self.log.judge(&stream, &request).await?;
            return Err(error.into());
        }
        let appended = self.log.append(&stream, &request, frames).await?;
        if !appended.duplicate {
            self.metrics.appended.add(body.len() as u64, messages);
        }
        Ok(reply(target, &append, &appended, body.is_empty()))
    }
}

fn reply(
    target: &Target<'_>,
    append: &request::Append,
    appended: &Appended,
    close_only: bool,
) -> Reply {
    let new_data = append.producer.is_some() && !appended.duplicate && !close_only;
    let status = if new_data {
        StatusCode::OK
    } else {
        StatusCode::NO_CONTENT
    };
    let mut head = Head::lean(status, target.route.config.cors);
    head.set_next_offset(appended.tail);
    head.set_closed(appended.closed, appended.end.as_deref());
    if let Some(stamp) = &append.producer {
        head.set_number(names::PRODUCER_EPOCH, stamp.epoch);
        let highest = appended.producer_seq.unwrap_or(stamp.seq);
        head.set_number(names::PRODUCER_SEQ, highest);
    }
    Reply {
        head,
        body: Body::Empty,
    }
}
