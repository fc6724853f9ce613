//! The Durable Streams protocol as pure rules: requests to commands, outcomes to replies, the
//! encodings of bodies. No IO, no async, and time is an argument.

pub mod browsers;
pub mod caching;
pub mod coding;
pub mod cursor;
pub mod event_stream;
pub mod json;
pub mod list;
pub mod names;
pub mod reply;
pub mod request;
pub mod sse;
