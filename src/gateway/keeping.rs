//! How sessions are kept, whoever answers them.

use crate::config::Limits;
use pingora::protocols::http::ServerSession;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The longest that what a client still sends is read for its sake once nobody wants it.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// The times of sessions.
#[derive(Clone)]
pub(super) struct Keeping {
    /// For which a connection without a request is kept.
    pub(super) idle_seconds: u64,
    /// The longest wait for the next piece of a body.
    pub(super) body_timeout: Duration,
    /// The longest wait for a client to take something.
    pub(super) write_timeout: Duration,
    pub(super) draining: CancellationToken,
}

impl Keeping {
    pub(super) fn new(limits: &Limits, draining: CancellationToken) -> Self {
        Self {
            idle_seconds: limits.idle_timeout.as_secs().max(1),
            body_timeout: limits.body_timeout,
            write_timeout: limits.write_timeout,
            draining,
        }
    }

    /// Prepares a session whose head was read.
    pub(super) fn prepare(&self, session: &mut ServerSession) {
        if session.get_keepalive().is_some() {
            let draining = self.draining.is_cancelled();
            session.set_keepalive((!draining).then_some(self.idle_seconds));
        }
        session.set_write_timeout(Some(self.write_timeout));
        session.set_total_drain_timeout(Some(if session.is_http2() {
            self.body_timeout.min(DRAIN_TIME_MAX)
        } else {
            DRAIN_TIME_MAX
        }));
        // What a client sends ahead belongs to its next request.
        session.set_pipelining_enabled(true);
    }
}
