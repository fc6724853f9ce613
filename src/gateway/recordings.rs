//! The URLs of recordings: whoever has one reads the stream, or ends the upstream call.

use super::routes::{Recordings, Route};
use super::session::{Answer, Asked, Gateway, mode};
use crate::observe::metrics::Way;
use crate::protocol::names;
use crate::protocol::reply::Head;
use crate::protocol::request::{self, Command, RequestError};
use crate::recorder;
use crate::serve::{Body, Reply, ServeError, Target};
use crate::types::StreamPath;
use http::{Method, StatusCode, header};
use pingora::protocols::http::ServerSession;

const METHODS: &str = "GET, HEAD, PATCH, OPTIONS";

impl Gateway {
    /// Answers a request at the URL of a recording.
    pub(super) async fn recordings(
        &self,
        session: &mut ServerSession,
        route: &Route,
        recordings: &Recordings,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        let request = session.req_header();
        let path = recorded_path(route, request.uri.path())?;
        let query = request.uri.query().unwrap_or_default();
        if request.method != Method::OPTIONS {
            let now_s = self.server.clock.now_ms() / 1000;
            recordings.signer.verify(path.key(), query, now_s)?;
        }
        let streams = &recordings.streams;
        if request.method == Method::PATCH {
            asked.recording = Some(path.clone());
            self.bodies.drain(session).await;
            self.abort(session, &path).await?;
            let mut head = Head::new(StatusCode::NO_CONTENT, streams.config.cors);
            head.set_no_store();
            let body = Body::Empty;
            return Ok(Answer::Reply(Reply { head, body }));
        }
        let command = request::parse(&request.method, Some(query), &request.headers);
        let command = command.map_err(|error| match error {
            RequestError::Method(_) => ServeError::ReadOnly,
            error => error.into(),
        })?;
        asked.mode = mode(&command);
        match &command {
            Command::Read(_) => {
                let running = self.recorder.running(&path);
                asked.reader = running.map(|recording| recording.enter());
                self.server
                    .metrics
                    .recordings
                    .attached(Way::StreamUrl)
                    .inc();
            }
            Command::Head | Command::Options => {}
            // The upstream alone writes, and its time or a `streams` route deletes.
            Command::Create(_) | Command::Append(_) | Command::Delete => {
                return Err(ServeError::ReadOnly);
            }
        }
        asked.recording = Some(path.clone());
        let upstream_type = match &command {
            Command::Options => None,
            _ => Some(recorder::content_type(&self.server.view(&path).await?.meta)),
        };
        let target = Target {
            route: streams,
            path,
            location: None,
            resolve: &|_| None,
        };
        let mut answer = self.carry_out(session, &target, command, asked).await?;
        if let (Answer::Reply(reply), Some(upstream_type)) = (&mut answer, upstream_type) {
            let name = names::UPSTREAM_CONTENT_TYPE;
            reply.head.set_text(name, &upstream_type);
        } else if let Answer::Reply(preflight) = &mut answer {
            preflight.head.set_text(header::ALLOW, METHODS);
            if streams.config.cors {
                let name = header::ACCESS_CONTROL_ALLOW_METHODS;
                preflight.head.set_text(name, METHODS);
            }
        }
        Ok(answer)
    }

    /// PATCH with `action=abort`: what came so far stays.
    pub(super) async fn abort(
        &self,
        session: &ServerSession,
        path: &StreamPath,
    ) -> Result<(), ServeError> {
        let query = session.req_header().uri.query().unwrap_or_default();
        if !query
            .split('&')
            .any(|parameter| parameter == "action=abort")
        {
            return Err(ServeError::InvalidAction);
        }
        match self.recorder.running(path) {
            // It is not one reader's to end.
            Some(recording) if recording.shared => return Err(ServeError::SharedFeed),
            Some(recording) => recording.abort().await,
            None => drop(self.server.view(path).await?),
        }
        Ok(())
    }
}

/// The stream that a URL names: below the route's path, a namespace and a name.
fn recorded_path(route: &Route, path: &str) -> Result<StreamPath, ServeError> {
    let below = route.below(path)?;
    let (namespace, name) = below.split_once('/').ok_or(ServeError::NoRoute)?;
    if namespace.is_empty() || name.is_empty() {
        return Err(ServeError::NoRoute);
    }
    Ok(StreamPath::new(namespace, name))
}
