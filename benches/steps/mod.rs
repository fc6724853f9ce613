//! What the benchmarks of single steps are done with: messages, frames, a stored state, and a server,
//! without a network and behind a socket.

// Each benchmark uses some of it.
#![allow(dead_code)]

pub(crate) mod cache;
pub(crate) mod connection;
pub(crate) mod http2;
mod listening;
mod unsynced;
mod world;

pub(crate) use world::World;

use bytes::Bytes;
use headwater::frame::{self, Frames};
use headwater::hub::View;
use headwater::log::keys;
use headwater::log::state::StreamState;
use headwater::protocol::json;
use headwater::protocol::sse::Control;
use headwater::types::Offset;

/// How many messages a step of many has.
pub(crate) const MESSAGES: usize = 100;
pub(crate) const TOKEN: &[u8] = b"twenty bytes of text";

pub(crate) const OFFSET: Offset = Offset(1_234_567);

/// What is said to a reader who has everything.
pub(crate) const CONTROL: Control = Control {
    cursor: Some(42_000),
    up_to_date: true,
    closed: false,
};

/// A JSON array of [`MESSAGES`] messages.
pub(crate) fn array() -> Vec<u8> {
    let message =
        |index| format!(r#"{{"index":{index},"role":"assistant","text":"and so it goes on"}}"#);
    let messages: Vec<String> = (0..MESSAGES).map(message).collect();
    format!("[{}]", messages.join(",")).into_bytes()
}

/// The same as frames.
pub(crate) fn array_run() -> Bytes {
    let (run, messages) = json::frame(&array()).expect("JSON").expect("messages");
    assert_eq!(messages, MESSAGES as u64);
    run
}

/// The messages of a run.
pub(crate) fn messages(run: &[u8]) -> Vec<&[u8]> {
    Frames::new(run, 0)
        .map(|frame| &run[frame.payload()])
        .collect()
}

/// [`MESSAGES`] appends of one message.
pub(crate) fn run() -> Vec<u8> {
    let one = frame::encode([TOKEN].into_iter());
    one.repeat(MESSAGES)
}

/// What readers see of a stream that holds nothing yet.
pub(crate) fn view() -> View {
    View {
        meta: state().meta,
        earliest: 0,
        tail: 0,
        sealed: 0,
        last_seal: 0,
        closed: false,
        end: None,
        deleted: false,
        forked: false,
    }
}

/// A state as it is stored in the first version of the layout, which is read for ever.
pub(crate) fn state() -> StreamState {
    let value = [
        &[1, 7, 10][..],
        b"text/plain",
        &[1, 60, 5, 0, 90, 80, 70, 2, 0, 0, 0, 3, 0, 4, 9],
    ];
    keys::read_state(&value.concat()).expect("a state")
}
