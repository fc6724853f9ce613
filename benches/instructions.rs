//! How many instructions the hot paths take, counted by callgrind: the same on every run, whatever
//! else a machine does. Each has a bound, well above what it takes, so that a change that makes one
//! much more expensive is noticed.
//!
//! Only the thread that runs a step is counted, not the log's own threads.

mod steps;

use bytes::{Bytes, BytesMut};
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use headwater::frame;
use headwater::log::keys;
use headwater::log::state::StreamState;
use headwater::protocol::json;
use headwater::protocol::sse::{self, Encoding};
use headwater::types::{Kind, Offset};
use std::hint::black_box;
use steps::connection::Connection;
use steps::{CONTROL, MESSAGES, OFFSET, TOKEN, World};

/// A step fails when it takes more instructions than this.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn offset_text() -> String {
    OFFSET.to_string()
}

#[library_benchmark(config = at_most(600))]
#[bench::one(offset_text())]
fn parse_an_offset(text: String) -> (String, Option<Offset>) {
    let offset = Offset::parse(black_box(&text));
    (text, offset)
}

#[library_benchmark(config = at_most(200_000))]
#[bench::hundred(steps::array())]
fn split_json(array: Vec<u8>) -> (usize, Vec<u8>) {
    let messages = json::split(black_box(&array)).map(|messages| messages.len());
    (messages.unwrap_or_default(), array)
}

#[library_benchmark(config = at_most(600))]
#[bench::one(())]
fn frame_a_message((): ()) -> Bytes {
    frame::encode([black_box(TOKEN)].into_iter())
}

#[library_benchmark(config = at_most(3_500))]
#[bench::text(Kind::Text, BytesMut::with_capacity(512))]
#[bench::binary(Kind::Binary, BytesMut::with_capacity(512))]
fn encode_an_event(kind: Kind, mut out: BytesMut) -> BytesMut {
    let encoding = Encoding::of(kind, false);
    sse::put_data(&mut out, kind, encoding, [black_box(TOKEN)].into_iter());
    sse::put_control(&mut out, OFFSET.to_text().as_str(), &CONTROL, None);
    out
}

#[library_benchmark(config = at_most(7_500))]
#[bench::one(steps::state())]
fn write_and_read_a_state(state: StreamState) -> (StreamState, bool) {
    let value = keys::write_state(black_box(&state));
    let same = keys::read_state(&value).is_ok();
    (state, same)
}

/// A server whose stream was read and written before.
fn warm() -> (World, Bytes) {
    let world = World::with_stream("s", 1024);
    let message = Bytes::from(vec![b'x'; 256]);
    world.append("s", &message, 10);
    world.read("s");
    (world, message)
}

fn stream_of_many() -> World {
    let world = World::with_stream("s", 20);
    world.append_together("s", &Bytes::from_static(TOKEN), 2_000);
    world
}

/// Requests, so that what the first one costs by itself does not count.
const REQUESTS: usize = 100;

#[library_benchmark(config = at_most(1_800_000))]
#[bench::hundred(warm())]
fn append_to_a_stream((world, message): (World, Bytes)) -> World {
    world.append("s", &message, REQUESTS);
    world
}

#[library_benchmark(config = at_most(2_500_000))]
#[bench::hundred(warm())]
fn read_a_small_stream((world, _): (World, Bytes)) -> (World, usize) {
    let bytes = (0..REQUESTS).map(|_| world.read("s")).sum();
    (world, bytes)
}

/// A client of that server, to which something was answered before.
fn connected(request: &str) -> (Connection, String) {
    let (world, _) = warm();
    let mut connection = Connection::to(world);
    connection.call(request.as_bytes(), 10);
    (connection, request.to_owned())
}

fn post() -> String {
    let body = "x".repeat(256);
    format!(
        "POST /s HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
         content-length: 256\r\n\r\n{body}"
    )
}

fn get() -> String {
    "GET /s?offset=now HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned()
}

// What the client takes is counted as well.
#[library_benchmark]
#[bench::append(args = (connected(&post())), config = at_most(3_300_000))]
#[bench::get(args = (connected(&get())), config = at_most(2_800_000))]
fn answer_a_connection((mut connection, request): (Connection, String)) -> (Connection, usize) {
    let bytes = connection.call(request.as_bytes(), REQUESTS);
    (connection, bytes)
}

// Several reads: after so many appends the allocator may tidy up once, which is as much as some.
#[library_benchmark(config = at_most(9_000_000))]
#[bench::ten_times(stream_of_many())]
fn read_two_thousand_messages(world: World) -> (World, usize) {
    let bytes = (0..10).map(|_| world.read("s")).sum();
    (world, bytes)
}

#[library_benchmark(config = at_most(2_500))]
#[bench::walk(steps::run())]
fn walk_a_run(run: Vec<u8>) -> (usize, Vec<u8>) {
    let frames = frame::Frames::new(black_box(&run), 0).count();
    assert_eq!(frames, MESSAGES);
    (frames, run)
}

library_benchmark_group!(
    name = codecs;
    benchmarks =
        parse_an_offset,
        split_json,
        frame_a_message,
        walk_a_run,
        encode_an_event,
        write_and_read_a_state
);

library_benchmark_group!(
    name = requests;
    benchmarks =
        append_to_a_stream,
        read_a_small_stream,
        read_two_thousand_messages,
        answer_a_connection
);

main!(library_benchmark_groups = codecs, requests);
