//! The cache against an origin that does what a test says, on a real directory.

mod coded;
mod disk;
mod flights;
mod freshness;
mod model;
mod world;
