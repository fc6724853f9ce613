//! DELETE (protocol, section 5.4).

use super::{Body, Reply, ServeError, Server, Target};
use crate::protocol::reply::Head;
use http::StatusCode;

impl Server {
    pub(super) async fn delete(&self, target: &Target<'_>) -> Result<Reply, ServeError> {
        let stream = self.log.stream(&target.path).await?;
        self.log.delete(&stream).await?;
        let mut head = Head::new(StatusCode::NO_CONTENT, target.route.config.cors);
        head.set_no_store();
        head.set_cache_tag(&target.path);
        Ok(Reply {
            head,
            body: Body::Empty,
        })
    }
}
