//! What must be there before something is measured.

use super::{CONNECTIONS, TIME_MAX};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::load::{Load, Outcome, Workload};
use crate::servers::Server;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Creates streams, numbered from `next` on.
pub(super) struct Creates<N, B> {
    pub(super) next: usize,
    pub(super) end: usize,
    pub(super) content_type: &'static str,
    /// Each is closed by the request that creates it.
    pub(super) closed: bool,
    pub(super) name: N,
    /// What a stream begins with.
    pub(super) body: B,
}

impl<N: Fn(usize) -> String, B: Fn(usize) -> Vec<u8>> Workload for Creates<N, B> {
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        if self.next == self.end {
            return false;
        }
        let (stream, body) = ((self.name)(self.next), (self.body)(self.next));
        self.next += 1;
        let closed = if self.closed {
            "Stream-Closed: true\r\n"
        } else {
            ""
        };
        let (content_type, length) = (self.content_type, body.len());
        let fields =
            format!("Content-Type: {content_type}\r\n{closed}Content-Length: {length}\r\n");
        http::put_head(request, "PUT", &stream, &fields);
        request.extend_from_slice(&body);
        true
    }

    fn answered(&mut self, _: usize, head: Head<'_>) -> Result<(), String> {
        expect(head, 201, "a PUT")
    }
}

/// Fails unless an answer has this status.
pub(super) fn expect(head: Head<'_>, status: u16, what: &str) -> Result<(), String> {
    if head.status == status {
        Ok(())
    } else {
        Err(format!("{what} was answered with {}", head.status))
    }
}

impl<N: Fn(usize) -> String, B: Fn(usize) -> Vec<u8>> Creates<N, B> {
    pub(super) fn run(mut self, server: &Server) -> io::Result<Outcome> {
        Load::closed(server.address, CONNECTIONS, TIME_MAX).run(&mut self)
    }
}

/// Creates so many empty streams.
pub(super) fn create(
    server: &Server,
    streams: usize,
    content_type: &'static str,
    name: impl Fn(usize) -> String,
) -> io::Result<()> {
    let creates = Creates {
        next: 0,
        end: streams,
        content_type,
        closed: false,
        name,
        body: |_| Vec::new(),
    };
    creates.run(server)?.complete().map(|_| ())
}

const PATTERN_BYTES: usize = 4096;

/// Bytes that repeat, so that any part of a stream can be checked by its position.
#[derive(Clone)]
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(PATTERN_BYTES);
        let mut number = 0_u32;
        while bytes.len() < PATTERN_BYTES {
            let _ = write!(bytes, "{number:07} ");
            number += 1;
        }
        Self(bytes)
    }

    /// One that repeats a piece, whose length is a power of two.
    pub(super) fn of_piece(piece: &[u8]) -> Self {
        Self(piece.iter().cycle().take(PATTERN_BYTES).copied().collect())
    }

    /// So many bytes from a position on.
    pub(super) fn bytes(&self, position: u64, count: usize) -> Vec<u8> {
        let begin = position as usize % PATTERN_BYTES;
        self.0
            .iter()
            .cycle()
            .skip(begin)
            .take(count)
            .copied()
            .collect()
    }

    /// Whether these bytes are what a stream has at a position.
    pub(super) fn is_at(&self, position: u64, mut bytes: &[u8]) -> bool {
        let mut begin = position as usize % PATTERN_BYTES;
        while !bytes.is_empty() {
            let count = bytes.len().min(PATTERN_BYTES - begin);
            if bytes[..count] != self.0[begin..begin + count] {
                return false;
            }
            bytes = &bytes[count..];
            begin = 0;
        }
        true
    }
}

/// Creates a stream with so many bytes of the pattern, by appends of `piece` bytes.
pub(super) fn create_filled(
    server: &Server,
    stream: &str,
    bytes: u64,
    piece: usize,
) -> io::Result<()> {
    Client::connect(server.address)?.create(stream, "text/plain", b"")?;
    extend_filled(server, stream, 0, bytes, piece)
}

/// Appends the pattern from one position to another.
pub(super) fn extend_filled(
    server: &Server,
    stream: &str,
    from: u64,
    to: u64,
    piece: usize,
) -> io::Result<()> {
    let mut client = Client::connect(server.address)?;
    let pattern = Pattern::new();
    let mut position = from;
    while position < to {
        let count = piece.min((to - position) as usize);
        let body = pattern.bytes(position, count);
        let status = client
            .request("POST", stream, "Content-Type: text/plain\r\n", &body)?
            .status;
        if status != 204 {
            return Err(super::failed(format!(
                "an append was answered with {status}"
            )));
        }
        position += count as u64;
    }
    Ok(())
}

/// Appends equal pieces: in any order they make the pattern that they repeat.
pub(super) struct Equal {
    left: usize,
    request: Vec<u8>,
}

impl Equal {
    pub(super) fn new(stream: &str, content_type: &str, count: usize, piece: &[u8]) -> Self {
        let length = piece.len();
        let fields = format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n");
        let mut request = Vec::new();
        http::put_head(&mut request, "POST", stream, &fields);
        request.extend_from_slice(piece);
        Self {
            left: count,
            request,
        }
    }

    pub(super) fn run(mut self, server: &Server) -> io::Result<Outcome> {
        let load = Load::closed(server.address, CONNECTIONS, Duration::from_mins(5));
        load.run(&mut self)?.complete()
    }
}

impl Workload for Equal {
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        request.extend_from_slice(&self.request);
        true
    }

    fn answered(&mut self, _: usize, head: Head<'_>) -> Result<(), String> {
        expect(head, 204, "an append")
    }
}
