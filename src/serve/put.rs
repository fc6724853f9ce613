//! PUT: create a stream or a fork, or find that it is there (protocol, sections 4.2 and 5.1).

use super::framing::{self, Framed};
use super::{Body, Reply, ServeError, Server, Target};
use crate::log::state::{CreateRequest, ForkRequest};
use crate::log::{Create, CreateError, Created};
use crate::protocol::reply::Head;
use crate::protocol::request;
use crate::types::{Kind, Retention, StreamPath};
use bytes::Bytes;
use http::{StatusCode, header};

impl Server {
    pub(super) async fn put(
        &self,
        target: &Target<'_>,
        create: request::Create,
        body: Bytes,
    ) -> Result<Reply, ServeError> {
        let source = match &create.fork {
            Some(fork) => Some((target.resolve)(&fork.source).ok_or(CreateError::SourceNotFound)?),
            None => None,
        };
        let kind = self.kind_of(&create, source.as_ref()).await?;
        let framed = if framing::is_long(kind, &body) {
            Box::pin(self.frame_long(kind, body.clone())).await?
        } else {
            framing::frame(kind, &body)
        };
        let Framed { frames, messages } = framed?;
        let fork = create.fork.as_ref().zip(source.as_ref());
        let request = CreateRequest {
            content_type: create.content_type.as_deref(),
            lifetime: create.lifetime,
            retention: create.retention,
            retention_default: target
                .route
                .config
                .retention
                .map_or_else(Retention::default, Retention::from),
            closed: create.closed,
            fork: fork.map(|(fork, source)| ForkRequest {
                source,
                offset: fork.offset,
                sub_offset: fork.sub_offset,
                body: frames.is_some().then_some(kind),
            }),
        };
        let stream = self.log.stream(&target.path).await?;
        let create = Create {
            request,
            frames,
            note: None,
            unfinished: false,
        };
        let created = self.log.create(&stream, create).await?;
        if created.new && messages > 0 {
            self.metrics.appended.add(body.len() as u64, messages);
        }
        Ok(reply(target, &created))
    }

    /// The kind of the first body: that of the named content type or of the fork's source.
    async fn kind_of(
        &self,
        create: &request::Create,
        source: Option<&StreamPath>,
    ) -> Result<Kind, ServeError> {
        match (&create.content_type, source) {
            (Some(content_type), _) => Ok(Kind::of(content_type)),
            (None, Some(source)) => {
                let source = self.log.stream(source).await?;
                let view = source.view(self.clock.now_ms());
                Ok(view.map_or(Kind::Binary, |view| view.meta.kind))
            }
            (None, None) => Ok(Kind::Binary),
        }
    }
}

fn reply(target: &Target<'_>, created: &Created) -> Reply {
    let status = if created.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut head = Head::new(status, target.route.config.cors);
    if created.new
        && let Some(location) = &target.location
    {
        head.set_text(header::LOCATION, location);
    }
    head.set_text(header::CONTENT_TYPE, &created.meta.content_type);
    head.set_next_offset(created.tail);
    head.set_closed(created.closed, created.end.as_deref());
    head.set_lifetime(created.meta.lifetime);
    head.set_retention(created.meta.retention);
    head.set_no_store();
    Reply {
        head,
        body: Body::Empty,
    }
}
