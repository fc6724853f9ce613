//! The load generator: many connections on one thread, one request in flight on each.
//!
//! It shares the machine with the server, so it does little: one read and one write for each
//! operation, one look at the clock, no allocation.

use crate::http;
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What is asked, and what must come back.
pub(crate) trait Workload {
    /// Writes the next request of a connection. `false`: it has none.
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool;

    /// Looks at an answer. An error ends the run.
    fn answered(&mut self, connection: usize, status: u16, body: &[u8]) -> Result<(), String>;
}

/// What a run did.
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    /// Nanoseconds from a request to its answer, the next request following at once.
    pub(crate) latency: Histogram<u64>,
    /// Why the run ended early.
    pub(crate) failure: Option<String>,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in milliseconds.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    /// The outcome, unless the run failed.
    pub(crate) fn complete(self) -> io::Result<Self> {
        match self.failure {
            Some(failure) => Err(io::Error::other(failure)),
            None => Ok(self),
        }
    }
}

/// Nothing is answered for so long: the run has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 16 * 1024;

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    filled: usize,
    sent: Instant,
    busy: bool,
}

/// Runs a workload until it has no more requests, or no new ones after `time`.
pub(crate) fn run(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    workload: &mut impl Workload,
) -> io::Result<Outcome> {
    let mut run = Run::connect(address, connections)?;
    run.drive(time, workload)?;
    let elapsed = run.begun.elapsed();
    Ok(Outcome {
        operations: run.latency.len(),
        elapsed,
        latency: run.latency,
        failure: run.failure,
    })
}

struct Run {
    poll: Poll,
    connections: Vec<Connection>,
    latency: Histogram<u64>,
    begun: Instant,
    request: Vec<u8>,
    in_flight: usize,
    failure: Option<String>,
}

impl Run {
    fn connect(address: SocketAddr, count: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            // Connected before it is watched, so that all begin at once.
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry()
                .register(&mut stream, Token(index), Interest::READABLE)?;
            connections.push(Connection {
                stream,
                received: vec![0; BUFFER_BYTES],
                filled: 0,
                sent: Instant::now(),
                busy: false,
            });
        }
        Ok(Self {
            poll,
            connections,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?,
            begun: Instant::now(),
            request: Vec::with_capacity(4096),
            in_flight: 0,
            failure: None,
        })
    }

    fn drive(&mut self, time: Duration, workload: &mut impl Workload) -> io::Result<()> {
        let ends = self.begun + time;
        for index in 0..self.connections.len() {
            self.send(index, Instant::now(), workload)?;
        }
        let mut events = Events::with_capacity(1024);
        while self.in_flight > 0 && self.failure.is_none() {
            self.poll.poll(&mut events, Some(SILENCE_MAX))?;
            if events.is_empty() {
                self.failure = Some("nothing was answered any more".to_owned());
            }
            for event in &events {
                let index = event.token().0;
                if let Err(error) = self.receive(index, ends, workload) {
                    self.failure.get_or_insert(error.to_string());
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, index: usize, now: Instant, workload: &mut impl Workload) -> io::Result<()> {
        self.request.clear();
        if !workload.next(index, &mut self.request) {
            return Ok(());
        }
        let connection = &mut self.connections[index];
        connection.sent = now;
        connection.busy = true;
        self.in_flight += 1;
        // Small, and the only one on its way: the socket takes it whole.
        let written = connection.stream.write(&self.request)?;
        if written < self.request.len() {
            return Err(io::Error::other("a request was too large for the socket"));
        }
        Ok(())
    }

    fn receive(
        &mut self,
        index: usize,
        ends: Instant,
        workload: &mut impl Workload,
    ) -> io::Result<()> {
        loop {
            let connection = &mut self.connections[index];
            let room = &mut connection.received[connection.filled..];
            let read = match connection.stream.read(room) {
                Ok(0) => return Err(io::Error::other("the server closed a connection")),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            connection.filled += read;
            let Some(answer) = http::answer(&connection.received[..connection.filled])? else {
                if connection.filled == connection.received.len() {
                    connection.received.resize(2 * connection.filled, 0);
                }
                continue;
            };
            if !connection.busy || answer.bytes != connection.filled {
                return Err(io::Error::other("more was answered than asked"));
            }
            workload
                .answered(index, answer.status, answer.body)
                .map_err(io::Error::other)?;
            let now = Instant::now();
            self.latency
                .saturating_record((now - connection.sent).as_nanos() as u64);
            connection.filled = 0;
            connection.busy = false;
            self.in_flight -= 1;
            if now < ends {
                self.send(index, now, workload)?;
            }
            // Nothing further can have come: nothing was asked before this moment.
            return Ok(());
        }
    }
}
