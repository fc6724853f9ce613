//! How many instructions the hot paths take, counted by callgrind: the same on every run, whatever
//! else a machine does. Each has a bound, well above what it takes, so that a change that makes one
//! much more expensive is noticed.
//!
//! Only the thread that runs a step is counted. Appends are made in turn: that thread then does what
//! the log does for them. Where the log's thread does it, how the two meet differs between runs.

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
use http::{Method, Request};
use std::hint::black_box;
use steps::connection::Connection;
use steps::http2::Http2;
use steps::{CONTROL, MESSAGES, OFFSET, TOKEN, World};

/// That of the program. What another takes depends more on what was done before.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
fn frame_json(array: Vec<u8>) -> (Option<Bytes>, Vec<u8>) {
    let framed = json::frame(black_box(&array)).ok().flatten();
    (framed.map(|(run, _)| run), array)
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
fn warm(world: World) -> (World, Bytes) {
    world.create("s", 1024);
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

#[library_benchmark]
#[bench::in_turn(args = (warm(World::open_in_turn())), config = at_most(2_700_000))]
#[bench::by_the_log(args = (warm(World::open())), config = at_most(1_800_000))]
fn append_to_a_stream((world, message): (World, Bytes)) -> World {
    world.append("s", &message, REQUESTS);
    world
}

#[library_benchmark(config = at_most(2_500_000))]
#[bench::hundred(warm(World::open()))]
fn read_a_small_stream((world, _): (World, Bytes)) -> (World, usize) {
    let bytes = (0..REQUESTS).map(|_| world.read("s")).sum();
    (world, bytes)
}

/// A client of that server, to which something was answered before.
fn connected(request: &str) -> (Connection, String) {
    let (world, _) = warm(World::open_in_turn());
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
#[bench::append(args = (connected(&post())), config = at_most(4_400_000))]
#[bench::get(args = (connected(&get())), config = at_most(2_800_000))]
fn answer_a_connection((mut connection, request): (Connection, String)) -> (Connection, usize) {
    let bytes = connection.call(request.as_bytes(), REQUESTS);
    (connection, bytes)
}

/// A reader of the events of that stream, to whom some were delivered before.
fn reading_along() -> (Connection, Bytes) {
    let (world, message) = warm(World::open_in_turn());
    let mut connection = Connection::to(world);
    connection.read_along("s");
    connection.receive("s", &message, 10);
    (connection, message)
}

// What the append and the client take is counted as well.
#[library_benchmark(config = at_most(4_100_000))]
#[bench::hundred(reading_along())]
fn deliver_events((mut connection, message): (Connection, Bytes)) -> (Connection, usize) {
    let bytes = connection.receive("s", &message, REQUESTS);
    (connection, bytes)
}

/// A client of that server by HTTP/2, to which something was answered before.
fn connected_by_http2(
    method: Method,
    target: &str,
    body: &'static [u8],
) -> (Http2, Request<()>, Bytes) {
    let (world, _) = warm(World::open_in_turn());
    let mut connection = Http2::to(world);
    let request = Request::builder()
        .method(method)
        .uri(format!("https://localhost{target}"))
        .header("content-type", "text/plain")
        .body(())
        .expect("a request");
    let body = Bytes::from_static(body);
    connection.call(&request, &body, 10);
    (connection, request, body)
}

fn post_by_http2() -> (Http2, Request<()>, Bytes) {
    connected_by_http2(Method::POST, "/s", &[b'x'; 256])
}

fn get_by_http2() -> (Http2, Request<()>, Bytes) {
    connected_by_http2(Method::GET, "/s?offset=now", b"")
}

// What the client takes is counted as well, and so is TLS at both ends.
#[library_benchmark]
#[bench::append(args = (post_by_http2()), config = at_most(14_500_000))]
#[bench::get(args = (get_by_http2()), config = at_most(12_000_000))]
fn answer_by_http2((mut connection, request, body): (Http2, Request<()>, Bytes)) -> (Http2, usize) {
    let bytes = connection.call(&request, &body, REQUESTS);
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
        frame_json,
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
        answer_a_connection,
        answer_by_http2,
        deliver_events
);

main!(library_benchmark_groups = codecs, requests);
