//! HEAD: what a stream is and where it ends (protocol, section 5.5). It is no use of the stream.

use super::{Body, Reply, ServeError, Server, Target};
use crate::protocol::reply::Head;
use http::{StatusCode, header};

impl Server {
    pub(super) async fn head(&self, target: &Target<'_>) -> Result<Reply, ServeError> {
        let stream = self.log.stream(&target.path).await?;
        let view = stream.view(self.clock.now_ms())?;
        let mut head = Head::new(StatusCode::OK, target.route.config.cors);
        head.set_text(header::CONTENT_TYPE, &view.meta.content_type);
        head.set_next_offset(view.tail);
        head.set_closed(view.closed, view.end.as_deref());
        head.set_lifetime(view.meta.lifetime);
        head.set_retention(view.meta.retention);
        head.set_earliest_offset(view.earliest);
        head.set_no_store();
        Ok(Reply {
            head,
            body: Body::Empty,
        })
    }
}
