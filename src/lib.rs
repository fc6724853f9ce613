//! Headwater: a reverse proxy on Pingora that makes HTTP streams durable.

pub mod clock;
pub mod frame;
pub mod types;
pub mod units;
