//! Headwater: a reverse proxy on Pingora that makes HTTP streams durable.

pub mod cli;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod edge;
pub mod frame;
pub mod gateway;
pub mod held;
pub mod hub;
pub mod limits;
pub mod log;
pub mod observe;
pub mod protocol;
pub mod recorder;
pub mod secrets;
pub mod serve;
pub mod server;
pub mod types;
pub mod units;
pub mod upstream;
pub mod waits;
