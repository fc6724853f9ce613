//! Many SSE readers on one thread.

use crate::decode::{Decoder, Part};
use crate::http;
use crate::live::{Deliveries, Publisher, Seen};
use hdrhistogram::Histogram;
use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Readers that connect before the answers of all are awaited: fewer than the server's backlog.
const WAVE: usize = 100;
/// How long after the last delivery a second one of the same event would be noticed.
pub(crate) const REPEAT: Duration = Duration::from_millis(300);
const BUFFER_BYTES: usize = 64 * 1024;

struct Reader {
    connection: TcpStream,
    decoder: Decoder,
    /// It was told where it is.
    placed: bool,
    seen: Seen,
}

/// The connections of readers who began at the tail of a stream.
pub(crate) struct Readers {
    poll: Poll,
    all: Vec<Reader>,
    buffer: Vec<u8>,
}

impl Readers {
    /// Connects readers and waits until each was told where it is.
    pub(crate) fn connect(address: SocketAddr, stream: &str, count: usize) -> io::Result<Self> {
        let mut request = Vec::new();
        let target = format!("{stream}?offset=now&live=sse");
        let fields = "Accept: text/event-stream\r\n";
        http::put_head(&mut request, "GET", &target, fields);
        let mut readers = Self {
            poll: Poll::new()?,
            all: Vec::with_capacity(count),
            buffer: vec![0; BUFFER_BYTES],
        };
        while readers.all.len() < count {
            let begin = readers.all.len();
            for index in begin..count.min(begin + WAVE) {
                let mut connection = std::net::TcpStream::connect(address)?;
                connection.write_all(&request)?;
                connection.set_nonblocking(true)?;
                let mut connection = TcpStream::from_std(connection);
                let registry = readers.poll.registry();
                registry.register(&mut connection, Token(index), Interest::READABLE)?;
                readers.all.push(Reader {
                    connection,
                    decoder: Decoder::new(),
                    placed: false,
                    seen: Seen::default(),
                });
            }
            let mut deliveries = Deliveries::new(Instant::now());
            readers.until(&mut deliveries, SILENCE_MAX, |readers| {
                readers[begin..].iter().all(|reader| reader.placed)
            })?;
        }
        Ok(readers)
    }

    /// Publishes so many events a second at the home of the readers' stream, until each of them has
    /// all, and none of them twice. Tells how long deliveries took, and appends.
    pub(crate) fn publish(
        &mut self,
        home: SocketAddr,
        (stream, content_type): (&str, &'static str),
        per_second: f64,
        time: Duration,
    ) -> io::Result<(Histogram<u64>, Histogram<u64>)> {
        let base = Instant::now();
        let mut deliveries = Deliveries::new(base);
        let streams = [stream.to_owned()];
        let publisher = Publisher {
            streams: &streams,
            content_type,
            base,
            next: 0,
        };
        let events = (per_second * time.as_secs_f64()) as u64;
        let appends = std::thread::scope(|scope| {
            let appends = scope.spawn(|| publisher.run(home, per_second, time));
            let received = self.receive(&mut deliveries, events);
            let appends = appends.join();
            let appends = appends.map_err(|_| io::Error::other("the publisher failed"))?;
            received.and(appends)
        })?;
        Ok((deliveries.latency, appends))
    }

    /// Waits until each reader has received so many events.
    fn receive(&mut self, deliveries: &mut Deliveries, events: u64) -> io::Result<()> {
        let mut behind = 0;
        self.until(deliveries, SILENCE_MAX, |readers| {
            // All that is before this one has everything already.
            behind += readers[behind..]
                .iter()
                .take_while(|reader| reader.seen.next == events)
                .count();
            behind == readers.len()
        })
    }

    /// Fails if any reader receives one more event.
    pub(crate) fn expect_silence(&mut self) -> io::Result<()> {
        let mut deliveries = Deliveries::new(Instant::now());
        match self.until(&mut deliveries, REPEAT, |_| false) {
            Err(error) if error.kind() != ErrorKind::TimedOut => Err(error),
            _ if deliveries.latency.is_empty() => Ok(()),
            _ => Err(io::Error::other("a reader received an event too many")),
        }
    }

    /// Receives until `complete`; that nothing comes for a time is a failure.
    fn until(
        &mut self,
        deliveries: &mut Deliveries,
        silence_max: Duration,
        mut complete: impl FnMut(&[Reader]) -> bool,
    ) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !complete(&self.all) {
            self.poll.poll(&mut events, Some(silence_max))?;
            if events.is_empty() {
                let what = "a reader did not receive everything";
                return Err(io::Error::new(ErrorKind::TimedOut, what));
            }
            for event in &events {
                let reader = &mut self.all[event.token().0];
                reader.receive(&mut self.buffer, deliveries)?;
            }
        }
        Ok(())
    }
}

impl Reader {
    fn receive(&mut self, buffer: &mut [u8], deliveries: &mut Deliveries) -> io::Result<()> {
        loop {
            let bytes = match self.connection.read(buffer) {
                Ok(0) => return Err(io::Error::other("the server closed a reader's connection")),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let (placed, seen) = (&mut self.placed, &mut self.seen);
            self.decoder
                .decode(&buffer[..bytes], &mut |part| match part {
                    Part::Body(piece) => {
                        *placed = *placed || memmem::find(piece, b"event: control").is_some();
                        deliveries.receive(seen, piece).map_err(io::Error::other)
                    }
                    Part::End(_) => Err(io::Error::other("the server ended a reader's answer")),
                })?;
            if bytes < buffer.len() {
                return Ok(());
            }
        }
    }
}
