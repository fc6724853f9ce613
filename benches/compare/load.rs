//! The load generator: many connections on one thread.
//!
//! It shares the machine with the server, so it does little: one read and one write for each
//! operation, one look at the clock, no allocation.

use crate::decode::{Decoder, Head, Part};
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What is asked, and what must come back. An error ends the run.
pub(crate) trait Workload {
    /// Writes the next request of a connection, which is meant to be sent at `due`. `false`: it has
    /// none.
    fn next(&mut self, connection: usize, due: Instant, request: &mut Vec<u8>) -> bool;

    /// Looks at a part of the body of an answer.
    fn body(&mut self, _connection: usize, _piece: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// Looks at an answer that has come whole.
    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String>;
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Closed: each connection has so many requests on their way, always.
    InFlight(usize),
    /// Open: so many a second in all, by any connection that is free. The latency of one counts from
    /// when it was due, so that a server that stalls is not spared the requests it held up.
    PerSecond(f64),
}

/// A load to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// After this time nothing new is sent.
    pub(crate) time: Duration,
}

/// What a run did.
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    /// Nanoseconds from when a request was due to its answer.
    pub(crate) latency: Histogram<u64>,
    /// Why the run ended early.
    pub(crate) failure: Option<String>,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// The outcome, unless the run failed.
    pub(crate) fn complete(self) -> io::Result<Self> {
        match self.failure {
            Some(failure) => Err(io::Error::other(failure)),
            None => Ok(self),
        }
    }
}

/// A histogram of nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are in order")
}

impl Load {
    /// One request on its way on each connection.
    pub(crate) fn closed(address: SocketAddr, connections: usize, time: Duration) -> Self {
        Self {
            address,
            connections,
            pace: Pace::InFlight(1),
            time,
        }
    }

    /// So many requests a second.
    pub(crate) fn open(
        address: SocketAddr,
        connections: usize,
        per_second: f64,
        time: Duration,
    ) -> Self {
        Self {
            pace: Pace::PerSecond(per_second),
            ..Self::closed(address, connections, time)
        }
    }

    /// Connects, and runs a workload until it has no more requests, or the time is over and all are
    /// answered.
    pub(crate) fn run(self, workload: &mut impl Workload) -> io::Result<Outcome> {
        self.connect()?.run(workload)
    }

    /// Connects, so that what runs beside the load can begin when all connections are there.
    pub(crate) fn connect(self) -> io::Result<Run> {
        Run::connect(self)
    }
}

/// Nothing is answered for so long: the run has failed.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// A server that is behind an open load is waited for so many times its time.
const PATIENCE: u32 = 3;
/// The longest sleep when the next request is due sooner than a poll can wake: answers that come
/// meanwhile are seen that much later.
const NAP: Duration = Duration::from_micros(50);
/// Connections that are made at once, and the time to accept them: more would overflow the queues of
/// some servers, which shows as seconds of latency.
const WAVE: usize = 100;
const WAVE_PAUSE: Duration = Duration::from_millis(20);
/// How much too late a poll may wake.
const POLL_STEP: Duration = Duration::from_millis(1);
const BUFFER_BYTES: usize = 128 * 1024;

struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
    /// When each request on its way was due.
    due: VecDeque<Instant>,
    /// Its workload has no more requests.
    done: bool,
}

/// A load whose connections are there.
pub(crate) struct Run {
    load: Load,
    poll: Poll,
    connections: Vec<Connection>,
    /// Connections that may send, in an open load.
    free: VecDeque<usize>,
    latency: Histogram<u64>,
    begun: Instant,
    /// Requests sent in an open load.
    sent: u64,
    in_flight: usize,
    request: Vec<u8>,
    buffer: Vec<u8>,
    failure: Option<String>,
}

impl Run {
    fn connect(load: Load) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(load.connections);
        for index in 0..load.connections {
            if index % WAVE == WAVE - 1 {
                std::thread::sleep(WAVE_PAUSE);
            }
            // Connected before it is watched, so that all begin at once.
            let stream = std::net::TcpStream::connect(load.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut stream, Token(index), interest)?;
            connections.push(Connection {
                stream,
                decoder: Decoder::new(),
                unsent: Vec::new(),
                due: VecDeque::new(),
                done: false,
            });
        }
        Ok(Self {
            load,
            poll,
            free: (0..connections.len()).collect(),
            connections,
            latency: histogram(),
            begun: Instant::now(),
            sent: 0,
            in_flight: 0,
            request: Vec::with_capacity(4096),
            buffer: vec![0; BUFFER_BYTES],
            failure: None,
        })
    }

    /// Runs the workload to its end.
    pub(crate) fn run(mut self, workload: &mut impl Workload) -> io::Result<Outcome> {
        self.begun = Instant::now();
        self.drive(workload)?;
        Ok(Outcome {
            operations: self.latency.len(),
            elapsed: self.begun.elapsed(),
            latency: self.latency,
            failure: self.failure,
        })
    }

    fn drive(&mut self, workload: &mut impl Workload) -> io::Result<()> {
        if let Pace::InFlight(requests) = self.load.pace {
            for index in 0..self.connections.len() {
                for _ in 0..requests {
                    self.send(index, Instant::now(), workload)?;
                }
            }
        }
        let mut events = Events::with_capacity(1024);
        let mut heard = Instant::now();
        while self.failure.is_none() {
            let due = self.send_due(workload)?;
            if self.in_flight == 0 && due.is_none() {
                break;
            }
            self.wait(due, &mut events)?;
            if !events.is_empty() {
                heard = Instant::now();
            } else if self.in_flight > 0 && heard.elapsed() > SILENCE_MAX {
                self.failure = Some("nothing was answered any more".to_owned());
            }
            for event in &events {
                if let Err(error) = self.handle(event, workload) {
                    self.failure.get_or_insert(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Sends what is due in an open load, and tells when the next request is.
    fn send_due(&mut self, workload: &mut impl Workload) -> io::Result<Option<Instant>> {
        let Pace::PerSecond(rate) = self.load.pace else {
            return Ok(None);
        };
        if self.begun.elapsed() > PATIENCE * self.load.time + SILENCE_MAX {
            self.failure = Some(format!("it did not keep up with {rate:.0} a second"));
        }
        loop {
            let after = Duration::from_secs_f64(self.sent as f64 / rate);
            let due = self.begun + after;
            if after >= self.load.time {
                return Ok(None);
            }
            if self.free.is_empty() || due > Instant::now() {
                return Ok(Some(due));
            }
            let Some(index) = self.free.pop_front() else {
                return Ok(Some(due));
            };
            self.send(index, due, workload)?;
            if self.connections[index].done {
                return Ok(None);
            }
            self.sent += 1;
        }
    }

    /// Waits for events, or until a request is due.
    fn wait(&mut self, due: Option<Instant>, events: &mut Events) -> io::Result<()> {
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = match left {
            // What is late waits for a connection.
            _ if self.free.is_empty() => SILENCE_MAX,
            None => SILENCE_MAX,
            Some(left) if left > 2 * POLL_STEP => left.saturating_sub(POLL_STEP),
            Some(left) => {
                std::thread::sleep(left.min(NAP));
                Duration::ZERO
            }
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn send(&mut self, index: usize, due: Instant, workload: &mut impl Workload) -> io::Result<()> {
        self.request.clear();
        let connection = &mut self.connections[index];
        if connection.done || !workload.next(index, due, &mut self.request) {
            connection.done = true;
            return Ok(());
        }
        connection.due.push_back(due);
        self.in_flight += 1;
        if connection.unsent.is_empty() {
            let taken = write(&mut connection.stream, &self.request)?;
            connection.unsent.extend_from_slice(&self.request[taken..]);
        } else {
            connection.unsent.extend_from_slice(&self.request);
        }
        Ok(())
    }

    fn handle(&mut self, event: &Event, workload: &mut impl Workload) -> io::Result<()> {
        let index = event.token().0;
        let connection = &mut self.connections[index];
        if event.is_writable() && !connection.unsent.is_empty() {
            let taken = write(&mut connection.stream, &connection.unsent)?;
            connection.unsent.drain(..taken);
        }
        if !event.is_readable() {
            return Ok(());
        }
        loop {
            let bytes = match self.connections[index].stream.read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::other("the server closed a connection")),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.receive(index, bytes, workload)?;
            // A read that does not fill the buffer has emptied the socket.
            if bytes < self.buffer.len() {
                return Ok(());
            }
        }
    }

    fn receive(
        &mut self,
        index: usize,
        bytes: usize,
        workload: &mut impl Workload,
    ) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let (latency, due) = (&mut self.latency, &mut connection.due);
        let mut answers = 0;
        let received = &self.buffer[..bytes];
        connection.decoder.decode(received, &mut |part| {
            let seen = match part {
                Part::Body(piece) => workload.body(index, piece),
                Part::End(head) => {
                    let due = due.pop_front();
                    let due =
                        due.ok_or_else(|| io::Error::other("more was answered than asked"))?;
                    latency.saturating_record(due.elapsed().as_nanos() as u64);
                    answers += 1;
                    workload.answered(index, head)
                }
            };
            seen.map_err(io::Error::other)
        })?;
        self.in_flight -= answers;
        for _ in 0..answers {
            let now = Instant::now();
            match self.load.pace {
                Pace::PerSecond(_) => self.free.push_back(index),
                Pace::InFlight(_) if now < self.begun + self.load.time => {
                    self.send(index, now, workload)?;
                }
                Pace::InFlight(_) => {}
            }
        }
        Ok(())
    }
}

/// Writes as much as the socket takes.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.write(&bytes[taken..]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}
