//! What the steps of an append and of a read cost: offsets, JSON, frames, SSE, keys, stored states,
//! the ring, answers from an edge's memory, and whole requests without HTTP.

mod steps;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use headwater::edge::cache::Ask;
use headwater::frame::{self, Frames};
use headwater::hub::{CROWD, HotBytes, Run, Tail, View};
use headwater::log::keys;
use headwater::log::state::ProducerState;
use headwater::protocol::json;
use headwater::protocol::sse::{self, Encoding};
use headwater::types::{Kind, Offset, Position};
use std::hint::black_box;
use std::task::{Context, Waker};
use steps::cache::{ASK, ETAG};
use steps::{CONTROL, OFFSET, TOKEN, World};

fn offsets(c: &mut Criterion) {
    let mut group = c.benchmark_group("offset");
    let offset = Offset(1_234_567_890_123);
    let text = offset.to_string();
    group.bench_function("to text", |b| b.iter(|| black_box(offset).to_text()));
    group.bench_function("parse", |b| b.iter(|| Offset::parse(black_box(&text))));
    group.finish();
}

fn json_framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("json");
    let array = steps::array();
    group.throughput(Throughput::Bytes(array.len() as u64));
    group.bench_function("frame 100 messages", |b| {
        b.iter(|| json::frame(black_box(&array)));
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    let array = steps::array_run();
    let messages = steps::messages(&array);
    group.bench_function("encode one", |b| {
        b.iter(|| frame::encode([black_box(TOKEN)].into_iter()));
    });
    group.bench_function("encode 100 messages", |b| {
        b.iter(|| frame::encode(black_box(&messages).iter().copied()));
    });
    let run = steps::run();
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
    let next = OFFSET.to_string();
    for (name, kind) in [("text", Kind::Text), ("binary", Kind::Binary)] {
        group.bench_function(format!("one event of {name}"), |b| {
            let buffer = || BytesMut::with_capacity(256);
            let put = |mut out: BytesMut| {
                sse::put_data(
                    &mut out,
                    kind,
                    Encoding::of(kind, false),
                    [black_box(TOKEN)].into_iter(),
                );
                sse::put_control(&mut out, &next, &CONTROL, None);
                out
            };
            b.iter_batched(buffer, put, BatchSize::SmallInput);
        });
    }
    let array = steps::array_run();
    let messages = steps::messages(&array);
    group.bench_function("one event of 100 JSON messages", |b| {
        let buffer = || BytesMut::with_capacity(2 * array.len());
        let put = |mut out: BytesMut| {
            sse::put_data(
                &mut out,
                Kind::Json,
                Encoding::Text,
                messages.iter().copied(),
            );
            sse::put_control(&mut out, &next, &CONTROL, None);
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
    let state = steps::state();
    let value = keys::write_state(&state);
    group.bench_function("write a state", |b| {
        b.iter(|| keys::write_state(black_box(&state)));
    });
    group.bench_function("read a state", |b| {
        b.iter(|| keys::read_state(black_box(&value)));
    });
    group.finish();
}

/// The ring and its readers: what is shown once, and read by many.
fn tail(c: &mut Criterion) {
    let mut group = c.benchmark_group("tail");
    let hot = HotBytes::new(1 << 20);
    let tail = Tail::new(None, hot.clone());
    let frames = frame::encode([TOKEN].into_iter());
    let mut start = 0;
    group.bench_function("show an append", |b| {
        b.iter(|| {
            let run = Run {
                start,
                frames: frames.clone(),
            };
            start = run.end();
            tail.show(None, Some(black_box(run)));
        });
    });
    for behind in [1, 1000] {
        let (tail, at) = shown(1000, behind);
        group.throughput(Throughput::Elements(behind));
        group.bench_function(format!("read when {behind} behind"), |b| {
            b.iter(|| tail.read(black_box(at), |view| Some(view.tail)));
        });
    }
    for readers in [1, CROWD] {
        let mut view = steps::view();
        let tail = Tail::new(Some(view.clone()), hot.clone());
        group.throughput(Throughput::Elements(readers.into()));
        group.bench_function(format!("wait and be woken, {readers} together"), |b| {
            b.iter(|| wait_for_next(&tail, &mut view, readers));
        });
    }
    group.finish();
}

/// A tail with so many appends, and where a reader is who lacks the last of them.
fn shown(appends: u64, behind: u64) -> (Tail, Position) {
    let tail = Tail::new(None, HotBytes::new(1 << 20));
    let mut view = steps::view();
    let frames = frame::encode([TOKEN].into_iter());
    let bytes = frames.len() as u64;
    for _ in 0..appends {
        let run = Run {
            start: view.tail,
            frames: frames.clone(),
        };
        view.tail = run.end();
        tail.show(Some(view.clone()), Some(run));
    }
    let at = (appends - behind) * bytes;
    let (_, runs) = tail.read(at, |view| Some(view.tail)).expect("a stream");
    assert_eq!(runs.expect("a ring").len() as u64, behind);
    (tail, at)
}

/// Lets readers wait at the tail, and moves it.
fn wait_for_next(tail: &Tail, view: &mut View, readers: u32) {
    let (id, at) = (view.meta.id, view.tail);
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = (0..readers).map(|_| Box::pin(tail.wait(id, at))).collect();
    for reader in &mut waiting {
        assert!(reader.as_mut().poll(&mut context).is_pending());
    }
    view.tail += 1;
    tail.show(Some(view.clone()), None);
    tail.wake();
    for reader in &mut waiting {
        assert!(reader.as_mut().poll(&mut context).is_ready());
    }
}

/// Appends and reads without HTTP. What is written is not synced: a sync would hide all else.
fn requests(c: &mut Criterion) {
    let world = World::with_stream("small", 1024);
    let message = Bytes::from(vec![b'x'; 256]);
    let mut group = c.benchmark_group("request");
    group.bench_function("append, one by one", |b| {
        b.iter(|| world.append("small", &message, 1));
    });
    group.throughput(Throughput::Elements(64));
    group.bench_function("append, 64 together", |b| {
        b.iter(|| world.append_together("small", &message, 64));
    });
    let world = World::with_stream("small", 1024);
    group.throughput(Throughput::Elements(1));
    group.bench_function("read 1 KiB", |b| b.iter(|| world.read("small")));
    let world = World::with_stream("large", 20);
    world.append_together("large", &Bytes::from(vec![b'x'; 64 * 1024]), 60);
    let bytes = world.read("large") as u64;
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("read 4 MB", |b| b.iter(|| world.read("large")));
    let world = World::with_stream("tiny", 20);
    world.append_together("tiny", &Bytes::from_static(TOKEN), 20_000);
    group.throughput(Throughput::Elements(20_000));
    group.bench_function("read 20,000 messages", |b| b.iter(|| world.read("tiny")));
    group.finish();
}

fn cached(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cache = steps::cache::warm(&runtime);
    group.bench_function("hit in memory", |b| b.iter(|| cache.hit(black_box(&ASK))));
    let unchanged = Ask {
        if_none_match: Some(ETAG),
        ..ASK
    };
    group.bench_function("hit that the client has", |b| {
        b.iter(|| cache.hit(black_box(&unchanged)));
    });
    group.finish();
}

criterion_group!(
    benches,
    offsets,
    json_framing,
    frames,
    sse_framing,
    stored,
    tail,
    requests,
    cached
);
criterion_main!(benches);
