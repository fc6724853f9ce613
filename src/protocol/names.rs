//! Names of header fields and query parameters.

use http::HeaderName;

macro_rules! headers {
    ($($name:ident = $text:literal;)*) => {
        $(pub const $name: HeaderName = HeaderName::from_static($text);)*
    };
}

headers! {
    STREAM_TTL = "stream-ttl";
    STREAM_EXPIRES_AT = "stream-expires-at";
    STREAM_SEQ = "stream-seq";
    STREAM_CURSOR = "stream-cursor";
    STREAM_URL = "stream-url";
    UPSTREAM_URL = "upstream-url";
    UPSTREAM_METHOD = "upstream-method";
    UPSTREAM_AUTHORIZATION = "upstream-authorization";
    UPSTREAM_CONTENT_TYPE = "upstream-content-type";
    UPSTREAM_STATUS = "upstream-status";
    STREAM_NEXT_OFFSET = "stream-next-offset";
    STREAM_UP_TO_DATE = "stream-up-to-date";
    STREAM_CLOSED = "stream-closed";
    STREAM_END = "stream-end";
    STREAM_END_REASON = "stream-end-reason";
    STREAM_RETENTION = "stream-retention";
    STREAM_EARLIEST_OFFSET = "stream-earliest-offset";
    STREAM_FORKED_FROM = "stream-forked-from";
    STREAM_FORK_OFFSET = "stream-fork-offset";
    STREAM_FORK_SUB_OFFSET = "stream-fork-sub-offset";
    STREAM_ID = "stream-id";
    STREAM_SSE_DATA_ENCODING = "stream-sse-data-encoding";
    PRODUCER_ID = "producer-id";
    PRODUCER_EPOCH = "producer-epoch";
    PRODUCER_SEQ = "producer-seq";
    PRODUCER_EXPECTED_SEQ = "producer-expected-seq";
    PRODUCER_RECEIVED_SEQ = "producer-received-seq";
    CACHE_TAG = "cache-tag";
}

pub const OFFSET: &str = "offset";
pub const LIVE: &str = "live";
pub const CURSOR: &str = "cursor";
