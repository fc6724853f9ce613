//! Many SSE readers on one thread.

use crate::http;
use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Readers that connect before the answers of all are awaited: fewer than the server's backlog.
const WAVE: usize = 100;

/// The connections of readers who began at the tail of a stream.
pub(crate) struct Readers {
    poll: Poll,
    connections: Vec<TcpStream>,
    /// What each received since its last complete event.
    partial: Vec<Vec<u8>>,
}

impl Readers {
    /// Connects readers and waits until each was told where it is.
    pub(crate) fn connect(address: SocketAddr, stream: &str, count: usize) -> io::Result<Self> {
        let mut request = Vec::new();
        let target = format!("{stream}?offset=now&live=sse");
        http::put_head(
            &mut request,
            "GET",
            &target,
            "Accept: text/event-stream\r\n",
        );
        let mut readers = Self {
            poll: Poll::new()?,
            connections: Vec::with_capacity(count),
            partial: vec![Vec::new(); count],
        };
        while readers.connections.len() < count {
            let begin = readers.connections.len();
            for index in begin..count.min(begin + WAVE) {
                let mut connection = std::net::TcpStream::connect(address)?;
                connection.write_all(&request)?;
                connection.set_nonblocking(true)?;
                let mut connection = TcpStream::from_std(connection);
                let registry = readers.poll.registry();
                registry.register(&mut connection, Token(index), Interest::READABLE)?;
                readers.connections.push(connection);
            }
            readers.await_wave(begin)?;
        }
        Ok(readers)
    }

    /// Waits until all readers from `begin` on have an event.
    fn await_wave(&mut self, begin: usize) -> io::Result<()> {
        let mut open = self.connections.len() - begin;
        let mut told = vec![false; open];
        self.until(SILENCE_MAX, |index, text, _| {
            let new = memmem::find(text, b"event: control").is_some();
            if new && index >= begin && !std::mem::replace(&mut told[index - begin], true) {
                open -= 1;
            }
            Ok(open == 0)
        })?
        .then_some(())
        .ok_or_else(|| io::Error::other("a reader got no first event"))
    }

    /// Waits until each reader has received `data` and calls back for each; twice is a failure.
    pub(crate) fn expect(
        &mut self,
        data: &[u8],
        mut received: impl FnMut(Instant),
    ) -> io::Result<()> {
        let mut times = vec![0; self.connections.len()];
        let mut open = self.connections.len();
        let complete = self.until(SILENCE_MAX, |index, text, now| {
            for _ in memmem::find_iter(text, data) {
                times[index] += 1;
                if times[index] > 1 {
                    return Err(io::Error::other("a reader received an event twice"));
                }
                open -= 1;
                received(now);
            }
            Ok(open == 0)
        })?;
        if complete {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "{open} readers did not receive an event"
            )))
        }
    }

    /// Fails if any reader receives data within a time.
    pub(crate) fn expect_silence(&mut self, time: Duration) -> io::Result<()> {
        self.until(time, |_, text, _| {
            match memmem::find(text, b"event: data") {
                Some(_) => Err(io::Error::other("a reader received an event twice")),
                None => Ok(false),
            }
        })
        .map(|_| ())
    }

    /// Hands complete events to `visit` until it is content, or nothing came for a time: then
    /// `false`.
    fn until(
        &mut self,
        silence_max: Duration,
        mut visit: impl FnMut(usize, &[u8], Instant) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.poll.poll(&mut events, Some(silence_max))?;
            if events.is_empty() {
                return Ok(false);
            }
            let mut content = false;
            for event in &events {
                let index = event.token().0;
                let read = match self.connections[index].read(&mut buffer) {
                    Ok(0) => {
                        return Err(io::Error::other("the server closed a reader's connection"));
                    }
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                let now = Instant::now();
                let partial = &mut self.partial[index];
                partial.extend_from_slice(&buffer[..read]);
                if let Some(end) = memmem::rfind(partial, b"\n\n") {
                    content = visit(index, &partial[..end], now)?;
                    partial.drain(..end + 2);
                }
            }
            if content {
                return Ok(true);
            }
        }
    }
}
