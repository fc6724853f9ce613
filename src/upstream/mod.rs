//! Upstreams: which one gets a request, what is changed on the way, and one exchange with one.

pub mod allow;
mod backends;
mod client;
mod direct;
mod error;
mod forwarded;
pub mod guard;
mod health;
mod hop_by_hop;
mod peer;
mod rewrite;
mod upstreams;

pub use client::{Client, Exchange};
pub use direct::Direct;
pub use error::{ExchangeError, UpstreamError, failure_of};
pub use forwarded::ClientFacts;
pub use hop_by_hop::strip_request;
pub use upstreams::{Picked, Upstreams};
