//! Routes whose upstreams are recorded.

use super::facts::{base_url, client_facts};
use super::session::{Answer, Asked, Gateway};
use super::upgrade::wants_upgrade;
use crate::protocol::names;
use crate::protocol::reply::Head;
use crate::recorder::{Opened, Request, Route};
use crate::serve::{Body, Reply, ServeError};
use crate::types::StreamPath;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;

impl Gateway {
    /// Answers a request at a route that records: with a recording or, if the upstream's answer is
    /// of another kind, with that.
    pub(super) async fn record(
        &self,
        session: &mut ServerSession,
        route: &Arc<Route>,
        asked: &mut Asked,
    ) -> Result<Answer, ServeError> {
        let body = self.bodies.read(session).await?;
        let request = Request {
            head: session.req_header().clone(),
            body: body.bytes,
            memory: Arc::new(body.permits),
            client: client_facts(session),
            allowed: None,
        };
        // Boxed: most of the waiting is for the upstream.
        let mut opened = Box::pin(self.recorder.open(route, request));
        let opened = tokio::select! {
            biased;
            opened = &mut opened => opened?,
            _ = session.read_body_or_idle(true) => return Ok(Answer::Nobody),
        };
        match opened {
            Opened::Passed(response) => Ok(Answer::Passed(response)),
            Opened::Complete {
                head: recorded,
                path,
                end,
            } => {
                let mut head = Head::new(StatusCode::NO_CONTENT, false);
                let_read(&mut head, &recorded.headers);
                head.set_no_store();
                head.set_closed(true, end.as_deref());
                head.set_string(names::STREAM_URL, self.stream_url(session, route, &path));
                asked.recording = Some(path);
                let body = Body::Empty;
                Ok(Answer::Reply(Reply { head, body }))
            }
            Opened::Recorded {
                mut head,
                path,
                playback,
            } => {
                let url = self.stream_url(session, route, &path);
                name_stream(&mut head, &url);
                asked.recording = Some(path);
                Ok(Answer::Recorded(head, playback))
            }
        }
    }

    /// The URL at which anybody who has it can read the stream of a recording.
    pub(super) fn stream_url(
        &self,
        session: &ServerSession,
        route: &Route,
        path: &StreamPath,
    ) -> String {
        let base = base_url(session, route.base_url.as_deref());
        let now_ms = self.server.clock.now_ms();
        format!("{base}{}", route.stream_url(path, now_ms))
    }
}

/// Whether an answer to this request can never be a recording, so that it need not wait for the
/// whole body.
pub(super) fn is_never_recorded(session: &ServerSession) -> bool {
    let recorded = matches!(
        session.req_header().method,
        Method::GET | Method::POST | Method::PUT | Method::PATCH
    );
    !recorded || wants_upgrade(session)
}

/// Tells a client where the stream of its answer is.
fn name_stream(head: &mut ResponseHeader, url: &str) {
    let link = format!("<{url}>; rel=\"alternate\"");
    // Whose the upstream's own is, if it has one, its reader could not tell.
    let _ = head.insert_header(names::STREAM_URL, url);
    let _ = head.append_header(header::LINK, link);
    expose(head, &[names::STREAM_URL, header::LINK]);
}

/// Lets the pages read an answer that may read the recorded one.
fn let_read(head: &mut Head, recorded: &HeaderMap) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::VARY,
    ] {
        if let Some(value) = recorded.get(&name) {
            head.set(name, value.clone());
        }
    }
    if recorded.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        let exposed = "stream-url, stream-closed, stream-end";
        head.set_text(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Lets pages read these headers, if the upstream lets them read the answer.
fn expose(head: &mut ResponseHeader, names: &[HeaderName]) {
    if head
        .headers
        .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
    {
        let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
        let _ = head.append_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, names.join(", "));
    }
}
