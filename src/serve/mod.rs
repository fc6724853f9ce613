//! Serving streams: a file for each method, from a command to a reply.
//!
//! Nothing here knows the network: the gateway reads requests and writes replies.

mod bodies;
mod body;
mod compress;
mod delete;
mod encode;
pub mod error;
mod find;
mod framing;
mod get;
mod head;
mod live;
mod outgoing;
mod post;
mod put;
mod reads;
mod sse;
#[cfg(test)]
mod tests;
mod turns;

pub use bodies::Bodies;
pub use body::{Body, Broken, Passed, Pieces};
pub use compress::compress;
pub use error::ServeError;
pub use outgoing::{Outgoing, Room};
pub use reads::Reads;
pub use sse::{Hot, LiveReader, Source, Sse};
pub use turns::{Turn, Turns};

use crate::clock::Clock;
use crate::config::Streams;
use crate::hub::View;
use crate::log::Log;
use crate::observe::metrics::Metrics;
use crate::protocol::caching::CachePolicy;
use crate::protocol::reply::Head;
use crate::protocol::request::{Command, Mode};
use crate::types::StreamPath;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What is needed to serve streams.
pub struct Server {
    pub log: Arc<Log>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// Bodies of answers that were made before.
    pub bodies: Bodies,
    /// Room for what is sent and kept for nobody else.
    pub outgoing: Arc<Outgoing>,
    /// What live readers are reading from the store.
    pub reads: Reads,
    /// Turns at framing long request bodies.
    pub framing: Turns,
    /// Most producers of one stream.
    pub producers_max: u32,
    /// A permit for each long-poll and SSE reader.
    pub live_readers: Arc<Semaphore>,
    /// Cancelled when live readers must go.
    pub draining: CancellationToken,
}

/// A route by which streams are served.
#[derive(Debug)]
pub struct Route {
    pub config: Streams,
    caching: CachePolicy,
}

impl Route {
    pub fn new(config: Streams) -> Self {
        let caching = CachePolicy::new(&config);
        Self { config, caching }
    }
}

/// The stream that a request is about, and the route by which it came.
pub struct Target<'a> {
    pub route: &'a Route,
    pub path: StreamPath,
    /// The stream's URL as the client sees it; only a PUT needs it.
    pub location: Option<String>,
    /// The stream that the path of another URL names, if it is one of this route.
    pub resolve: &'a (dyn Fn(&str) -> Option<StreamPath> + Sync),
}

/// The answer to a request.
pub struct Reply {
    pub head: Head,
    pub body: Body,
}

impl Server {
    /// Carries a command out. `body` is the request's body, read whole.
    pub async fn serve(
        self: &Arc<Self>,
        target: &Target<'_>,
        command: Command,
        body: Bytes,
    ) -> Result<Reply, ServeError> {
        match command {
            Command::Create(create) => self.put(target, create, body).await,
            Command::Append(append) => self.post(target, append, body).await,
            Command::Read(read) => match read.mode {
                Mode::CatchUp => self.get(target, read).await,
                Mode::LongPoll => self.long_poll(target, read).await,
                Mode::Sse => self.sse(target, read).await,
            },
            Command::Head => self.head(target).await,
            Command::Delete => self.delete(target).await,
            Command::Options => Ok(Reply {
                head: Head::preflight(target.route.config.cors),
                body: Body::Empty,
            }),
        }
    }

    /// What readers see of a stream now.
    pub async fn view(&self, path: &StreamPath) -> Result<View, ServeError> {
        let stream = self.log.stream(path).await?;
        Ok(stream.view(self.clock.now_ms())?)
    }
}
