//! The access log: a line for each request at its end, and for each live reader at its beginning.
//!
//! Lines have the target [`TARGET`] and the level info, so a directive can silence them
//! (`info,headwater::access=off`). What a field may hold is decided in [`redact`].

use std::fmt::{self, Display};
use std::time::Duration;

use http::Version;
use tracing::{Level, info};

use super::metrics::Live;
use super::redact;

/// The target of the access log's lines.
pub const TARGET: &str = "headwater::access";

/// Whether the access log is wanted at all. Ask before a line's parts are gathered: when it is not,
/// a request need not pay for it.
pub fn enabled() -> bool {
    tracing::enabled!(target: TARGET, Level::INFO)
}

/// What is known of a request when its header was read.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// The method as it was sent.
    pub method: &'a str,
    /// The path without the query, still percent-encoded.
    pub path: &'a str,
    /// The query without its `?`. It is logged as [`redact::query`] allows.
    pub query: Option<&'a str>,
    /// The matched route's pattern, or
    /// [`UNMATCHED_ROUTE`](super::metrics::UNMATCHED_ROUTE).
    pub route: &'a str,
    /// The client's address, if the connection has one.
    pub client: Option<&'a dyn Display>,
    /// The protocol that it speaks.
    pub version: Version,
}

/// How a request ended.
#[derive(Clone, Copy)]
pub struct Finished<'a> {
    /// The status that was answered; 499 when the client left before.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub bytes: u64,
    /// Since the request's header was read.
    pub elapsed: Duration,
    /// The offsets of what was read or appended: where it begins, and where the next would.
    pub offsets: Option<(&'a dyn Display, &'a dyn Display)>,
    /// For a live reader that was opened, how it read and why it ended.
    pub live: Option<(Live, LiveEnd<'a>)>,
    /// The stream of the recording that the request is about: it joins the requests of a recording.
    pub stream: Option<&'a str>,
}

/// Why a live reader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveEnd<'a> {
    /// A long-poll got what it waited for.
    Delivered,
    /// A long-poll waited its time for nothing.
    TimedOut,
    /// An SSE connection had its time and is to be opened again.
    Recycled,
    /// The stream is closed and the reader has all of it.
    StreamClosed,
    /// The stream was deleted or has expired.
    StreamGone,
    /// The client closed the connection.
    ClientLeft,
    /// The client took nothing for the write timeout.
    TooSlow,
    /// The server stops.
    Stopping,
    /// Something failed, and this is what.
    Failed(&'a str),
}

impl LiveEnd<'_> {
    /// Whether the answer must not look complete to its reader: the last event may not be whole.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// The field `reason`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::TimedOut => "timed_out",
            Self::Recycled => "recycled",
            Self::StreamClosed => "stream_closed",
            Self::StreamGone => "stream_gone",
            Self::ClientLeft => "client_left",
            Self::TooSlow => "too_slow",
            Self::Stopping => "stopping",
            Self::Failed(_) => "failed",
        }
    }
}

impl Access<'_> {
    /// Logs that a reader begins to wait at the tail, which is at `offset`.
    pub fn live_opened(&self, live: Live, offset: &dyn Display) {
        if !enabled() {
            return;
        }
        info!(
            target: TARGET,
            method = self.method,
            path = self.path,
            query = self.shown_query(),
            mode = live.as_str(),
            offset = display(offset),
            client = self.client.map(display),
            http = http_version(self.version),
            route = self.route,
            "live opened"
        );
    }

    /// Logs that the request has ended, a live one as `live ended`.
    pub fn finished(&self, finished: &Finished<'_>) {
        if !enabled() {
            return;
        }
        let (mode, end) = finished.live.unzip();
        let error = match end {
            Some(LiveEnd::Failed(error)) => Some(redact::line(error)),
            _ => None,
        };
        let message = if end.is_some() {
            "live ended"
        } else {
            "request"
        };
        info!(
            target: TARGET,
            method = self.method,
            path = self.path,
            query = self.shown_query(),
            mode = mode.map(Live::as_str),
            reason = end.map(|end| end.as_str()),
            error = error.as_deref(),
            status = finished.status,
            bytes = finished.bytes,
            duration_ms = milliseconds(finished.elapsed),
            offset = finished.offsets.map(|(from, _)| display(from)),
            next_offset = finished.offsets.map(|(_, next)| display(next)),
            stream = finished.stream,
            client = self.client.map(display),
            http = http_version(self.version),
            route = self.route,
            "{message}"
        );
    }

    fn shown_query(&self) -> Option<String> {
        self.query
            .filter(|query| !query.is_empty())
            .map(redact::query)
    }
}

impl fmt::Debug for Access<'_> {
    /// As the log shows it: without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("query", &self.shown_query())
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

/// In milliseconds to three places, so that a line does not show the noise of a binary fraction.
fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_micros() as f64 / 1000.0
}

fn http_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
