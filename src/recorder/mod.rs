//! Recording upstreams: what they answer becomes a stream, whoever is there to read it.

pub mod events;
pub mod framing;
pub mod seek;
pub mod sign;
