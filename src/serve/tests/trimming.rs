//! Reads from the start of a stream that is trimmed under them.

use super::catch_up::bytes_of;
use super::{TEXT, World, path, serve};
use crate::config::{Durability, LogConfig};
use crate::serve::Server;
use crate::types::Position;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Eight segments, each too long to be sent in one piece.
const KEPT: (&str, &str) = ("stream-retention", "bytes=3200000");
const SEGMENTS_KEPT: usize = 8;
const APPENDS: usize = 10;
const APPEND_BYTES: usize = 40_000;
const SEGMENT_BYTES: u64 = (APPENDS * (APPEND_BYTES + 4)) as u64;

async fn append_segment(server: &Arc<Server>) {
    let body = Bytes::from(vec![b'x'; APPEND_BYTES]);
    for _ in 0..APPENDS {
        serve(server, Method::POST, "", &[TEXT], body.clone())
            .await
            .unwrap();
    }
}

async fn earliest(server: &Server) -> Position {
    let stream = server.log.stream(&path()).await.unwrap();
    stream.tail().view().unwrap().earliest
}

/// Appends a segment, for which the first one goes.
async fn trim(server: &Arc<Server>) {
    let before = earliest(server).await;
    append_segment(server).await;
    while earliest(server).await == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Twice nothing has been read when the stream is trimmed, and twice the first piece has.
#[tokio::test]
async fn a_read_from_the_start_begins_anew_as_often_as_it_is_overtaken() {
    const OVERTAKEN: [u32; 4] = [1, 2, 4, 6];
    let world = World::with(&LogConfig {
        durability: Durability::Os,
        hot_bytes_max: 0,
        cache_bytes: 0,
        ..LogConfig::default()
    });
    let server = &world.server;
    world
        .call(Method::PUT, "", &[TEXT, KEPT], b"")
        .await
        .unwrap();
    for _ in 0..SEGMENTS_KEPT {
        append_segment(server).await;
    }
    trim(server).await;
    for query in ["offset=-1", "offset=-1&live=long-poll"] {
        let before = earliest(server).await;
        let (trimmed, runtime) = (server.clone(), Handle::current());
        let mut reads = 0;
        *world.gate.before_segment.lock() = Some(Box::new(move || {
            reads += 1;
            if OVERTAKEN.contains(&reads) {
                runtime.block_on(trim(&trimmed));
            }
        }));
        let reply = world.call(Method::GET, query, &[], b"").await;
        *world.gate.before_segment.lock() = None;
        let reply = reply.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(reply.head.status, StatusCode::OK, "{query}");
        let gone = earliest(server).await - before;
        assert_eq!(gone, OVERTAKEN.len() as u64 * SEGMENT_BYTES, "{query}");
        assert_eq!(bytes_of(reply).await.len(), APPENDS * APPEND_BYTES);
    }
}
