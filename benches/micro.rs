//! What the smallest steps of an append and of a read cost: offsets, JSON, frames, SSE, keys, stored
//! states, and answers from an edge's memory.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use headwater::clock::SystemClock;
use headwater::config::Config;
use headwater::edge::cache::{
    Ask, Cache, Cached, CachedBody, Fetch, Fetched, Pull, RangeKey, Scope, StreamKey,
};
use headwater::frame::{self, Frames};
use headwater::log::keys;
use headwater::log::state::{ProducerState, StreamState};
use headwater::observe::metrics::{Metrics, UpstreamFailure};
use headwater::protocol::json;
use headwater::protocol::sse::{self, Control};
use headwater::types::{Kind, Offset};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::hint::black_box;
use std::sync::Arc;

const MESSAGES: usize = 100;
const TOKEN: &[u8] = b"twenty bytes of text";

/// A JSON array of 100 messages.
fn array() -> Vec<u8> {
    let message =
        |index| format!(r#"{{"index":{index},"role":"assistant","text":"and so it goes on"}}"#);
    let messages: Vec<String> = (0..MESSAGES).map(message).collect();
    format!("[{}]", messages.join(",")).into_bytes()
}

/// 100 appends of one message.
fn run() -> Vec<u8> {
    let one = frame::encode([TOKEN].into_iter());
    one.repeat(MESSAGES)
}

/// A state as it is stored in the first version of the layout, which is read for ever.
fn state() -> StreamState {
    let value = [
        &[1, 7, 10][..],
        b"text/plain",
        &[1, 60, 5, 0, 90, 80, 70, 2, 0, 0, 0, 3, 0, 4, 9],
    ];
    keys::read_state(&value.concat()).expect("a state")
}

fn offsets(c: &mut Criterion) {
    let mut group = c.benchmark_group("offset");
    let offset = Offset(1_234_567_890_123);
    let text = offset.to_string();
    group.bench_function("to text", |b| b.iter(|| black_box(offset).to_text()));
    group.bench_function("parse", |b| b.iter(|| Offset::parse(black_box(&text))));
    group.finish();
}

fn json_splitting(c: &mut Criterion) {
    let mut group = c.benchmark_group("json");
    let array = array();
    group.throughput(Throughput::Bytes(array.len() as u64));
    group.bench_function("split 100 messages", |b| {
        b.iter(|| json::split(black_box(&array)).map(|messages| messages.len()));
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    let array = array();
    let messages = json::split(&array).expect("messages");
    group.bench_function("encode one", |b| {
        b.iter(|| frame::encode([black_box(TOKEN)].into_iter()));
    });
    group.bench_function("encode 100 messages", |b| {
        b.iter(|| frame::encode(black_box(&messages).iter().copied()));
    });
    let run = run();
    group.bench_function("walk 100 appends", |b| {
        b.iter(|| {
            Frames::new(black_box(&run), 0)
                .map(|frame| frame.end)
                .sum::<usize>()
        });
    });
    group.finish();
}

fn sse_framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("sse");
    let control = Control {
        next: Offset(1_234_567),
        cursor: Some(42_000),
        up_to_date: true,
        closed: false,
    };
    for (name, kind) in [("text", Kind::Text), ("binary", Kind::Binary)] {
        group.bench_function(format!("one event of {name}"), |b| {
            let buffer = || BytesMut::with_capacity(256);
            let put = |mut out: BytesMut| {
                sse::put_data(&mut out, kind, [black_box(TOKEN)].into_iter());
                sse::put_control(&mut out, &control, None);
                out
            };
            b.iter_batched(buffer, put, BatchSize::SmallInput);
        });
    }
    let array = array();
    let messages = json::split(&array).expect("messages");
    group.bench_function("one event of 100 JSON messages", |b| {
        let buffer = || BytesMut::with_capacity(2 * array.len());
        let put = |mut out: BytesMut| {
            sse::put_data(&mut out, Kind::Json, messages.iter().copied());
            sse::put_control(&mut out, &control, None);
            out
        };
        b.iter_batched(buffer, put, BatchSize::SmallInput);
    });
    group.finish();
}

fn stored(c: &mut Criterion) {
    let mut group = c.benchmark_group("stored");
    let key = keys::position_key(7, 4096);
    group.bench_function("write the key of a record", |b| {
        b.iter(|| keys::position_key(black_box(7), black_box(4096)));
    });
    group.bench_function("read the key of a record", |b| {
        b.iter(|| keys::read_position_key(black_box(&key)));
    });
    let producer = ProducerState {
        epoch: 3,
        last_seq: 123_456,
    };
    group.bench_function("write a producer", |b| {
        b.iter(|| keys::write_producer(black_box(producer)));
    });
    let state = state();
    let value = keys::write_state(&state);
    group.bench_function("write a state", |b| {
        b.iter(|| keys::write_state(black_box(&state)));
    });
    group.bench_function("read a state", |b| {
        b.iter(|| keys::read_state(black_box(&value)));
    });
    group.finish();
}

/// An origin with one answer.
struct Origin;

struct Once(Option<Bytes>);

#[async_trait]
impl Fetch for Origin {
    async fn fetch(&self, _: Option<&HeaderValue>) -> Result<Fetched, UpstreamFailure> {
        let headers = [
            ("content-type", "application/json"),
            ("cache-control", "public, max-age=31536000, immutable"),
            ("cache-tag", "stream:default/example"),
            ("etag", "\"0123456789abcdef0123456789abcdef:7:0:65536\""),
            ("stream-next-offset", "0000000000000000_0000000000065536"),
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "*"),
        ];
        let header = |(name, value): (&'static str, _)| {
            (
                name.parse().expect("a name"),
                HeaderValue::from_static(value),
            )
        };
        Ok(Fetched {
            status: StatusCode::OK,
            headers: headers.map(header).into_iter().collect::<HeaderMap>(),
            body: Box::new(Once(Some(Bytes::from(vec![b'x'; 64 << 10])))),
        })
    }
}

#[async_trait]
impl Pull for Once {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamFailure> {
        Ok(self.0.take())
    }
}

fn cached(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _on = runtime.enter();
    let mut config = Config::default();
    config.cache.disk_bytes = 0;
    let cache = Cache::open(&config, Arc::new(SystemClock), Arc::new(Metrics::new()));
    let cache = cache.expect("a cache");
    let ask = Ask {
        key: RangeKey {
            stream: StreamKey {
                origin: "https://origin.example.com",
                path: "/v1/stream/example",
            },
            scope: &Scope::Anonymous,
            range: "offset=0000000000000000_0000000000000000",
        },
        generation: 0,
        if_none_match: None,
    };
    let read = async {
        let answer = cache.get(&ask, Origin).await;
        if let Ok(Cached {
            body: CachedBody::Pieces(mut reader),
            ..
        }) = answer
        {
            while let Ok(Some(_)) = reader.next().await {}
        }
    };
    runtime.block_on(read);
    while cache.hit(&ask).is_none() {
        std::thread::yield_now();
    }
    group.bench_function("hit in memory", |b| b.iter(|| cache.hit(black_box(&ask))));
    let unchanged = Ask {
        if_none_match: Some("\"0123456789abcdef0123456789abcdef:7:0:65536\""),
        ..ask
    };
    group.bench_function("hit that the client has", |b| {
        b.iter(|| cache.hit(black_box(&unchanged)));
    });
    group.finish();
}

criterion_group!(
    benches,
    offsets,
    json_splitting,
    frames,
    sse_framing,
    stored,
    cached
);
criterion_main!(benches);
