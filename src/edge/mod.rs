//! An edge: streams whose home is another server of the protocol.

pub mod cache;
