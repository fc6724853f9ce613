//! What an operator sees of a running server: figures, logs, and the admin listener.
//!
//! - [`metrics`]: counters, gauges and histograms with handles resolved in advance.
//! - [`logs`]: the log's format, level and destination; [`access`]: its line per request.
//! - [`redact`]: the one place that decides what must never reach a log.
//! - [`admin`]: health, readiness, metrics and checkpoints over HTTP.
//!
//! Nothing here reads the log of streams or knows the protocol: what depends on them is given as a
//! closure by the server. There are no process-wide statics apart from the logger that `tracing`
//! itself keeps, so tests can have as many of everything as they like.

pub mod access;
pub mod admin;
pub mod logs;
pub mod metrics;
pub mod redact;
mod sink;
