//! The connections of the admin listener: few, and none for long, so that whoever reaches it takes
//! neither memory nor open files from the clients.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::apps::http_app::HttpServer;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Admin;

/// Connections at one time. Further ones are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// The longest wait for a request and its answer. A checkpoint that takes longer is still written.
const REQUEST_TIME_MAX: Duration = Duration::from_mins(10);

/// The admin application, with bounds.
pub struct Connections {
    app: Arc<HttpServer<Admin>>,
    open: Semaphore,
}

impl Connections {
    pub(super) fn new(app: HttpServer<Admin>) -> Self {
        Self {
            app: Arc::new(app),
            open: Semaphore::new(CONNECTIONS_MAX),
        }
    }
}

#[async_trait]
impl ServerApp for Connections {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let _permit = self.open.try_acquire().ok()?;
        let processed = self.app.process_new(stream, shutdown);
        timeout(REQUEST_TIME_MAX, processed).await.ok()?
    }
}
