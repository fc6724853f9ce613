//! The integration tests: the real binary, started anew for each test, over
//! real sockets. They are one program because linking `RocksDB` takes long.

#[path = "../common/mod.rs"]
mod common;

mod caching;
mod compression;
mod crash;
mod crowd;
mod disconnects;
mod edge;
mod edge_incarnations;
mod edge_live;
mod edge_origins;
mod edge_origins_odd;
mod edge_purge;
mod edge_sharing;
mod edge_subscription;
mod large;
mod limits;
mod operations;
mod plain;
mod raw_http;
mod recordings;
mod refusals;
mod retention;
mod reverse_proxy;
mod reverse_proxy_failures;
mod reverse_proxy_h2;
mod reverse_proxy_rules;
mod reverse_proxy_upstream;
mod slow_bodies;
mod tls_h2;
