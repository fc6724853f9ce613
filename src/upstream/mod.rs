//! Upstreams: which there are, and which may be called.

pub mod allow;
pub mod guard;
