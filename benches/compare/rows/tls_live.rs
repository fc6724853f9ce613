//! Live readers over TLS and HTTP/2, many on each connection: long-polling ones and those of SSE.

use super::{Case, EVENTS_PER_SECOND, Sizes, TLS, failed, fill};
use crate::h2::{self, Answer, Call, Clients, SILENCE_MAX};
use crate::http::Client;
use crate::live::{Deliveries, Publisher, Seen, TEXT};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::sse::REPEAT;
use crate::stats::{Figure, Target, latency};
use futures_util::future::try_join_all;
use memchr::memmem;
use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// What is open on one connection stays far below what servers allow, which is 128.
const CONNECTIONS: usize = 16;
const POLLS: usize = 256;
const POLLED_STREAMS: usize = 10;
const SSE_READERS: usize = 100;
/// How long readers wait before the first event.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) fn long_poll_case() -> Case {
    let title = format!(
        "long-poll, {POLLED_STREAMS} streams, {POLLS} readers, TLS and HTTP/2, {CONNECTIONS} connections"
    );
    Case::new(title, TLS, &targets(), measure_long_poll)
}

pub(super) fn sse_case() -> Case {
    let title = format!(
        "{SSE_READERS} SSE readers over TLS and HTTP/2, {EVENTS_PER_SECOND} events a second"
    );
    Case::new(title, TLS, &targets(), measure_sse)
}

fn targets() -> [Target; 1] {
    [Target::at_most("delivery p99 ms", 1.0)]
}

/// Where events are published and read.
struct Live {
    streams: Vec<String>,
    /// Events of each stream.
    events: u64,
    deliveries: RefCell<Deliveries>,
    clients: Clients,
    runtime: Runtime,
}

impl Live {
    fn new(server: &Server, sizes: &Sizes, streams: usize) -> io::Result<Self> {
        let names: Vec<String> = (0..streams)
            .map(|number| format!("live-{number}"))
            .collect();
        fill::create(server, streams, TEXT, |number| names[number].clone())?;
        let events = EVENTS_PER_SECOND * sizes.live_time().as_secs_f64();
        let runtime = h2::runtime()?;
        Ok(Self {
            streams: names,
            events: events as u64 / streams as u64,
            deliveries: RefCell::new(Deliveries::new(Instant::now())),
            clients: runtime.block_on(Clients::connect(server, CONNECTIONS))?,
            runtime,
        })
    }

    /// Publishes all events while readers read them, and tells what that took.
    fn publish<T>(
        &self,
        server: &Server,
        sizes: &Sizes,
        read: impl Future<Output = io::Result<T>>,
    ) -> io::Result<(T, Vec<Figure>)> {
        let meter = Meter::begin(server)?;
        let publisher = Publisher {
            streams: &self.streams,
            content_type: TEXT,
            base: self.deliveries.borrow().base,
            next: 0,
        };
        let time = sizes.live_time();
        let (read, appends) = std::thread::scope(|scope| {
            let appends = scope.spawn(|| {
                std::thread::sleep(SETTLE);
                publisher.run(server.address, EVENTS_PER_SECOND, time)
            });
            // An event that was lost would be waited for in vain.
            let read = async { timeout(SETTLE + time + SILENCE_MAX, read).await };
            let read = self.runtime.block_on(read);
            let read = read.map_err(|_| failed("a reader did not receive everything"));
            let appends = appends.join();
            let appends = appends.map_err(|_| failed("the publisher failed"))?;
            io::Result::Ok((read.flatten()?, appends?))
        })?;
        let deliveries = &self.deliveries.borrow().latency;
        let mut figures = latency("delivery ", deliveries);
        figures.extend(latency("append ", &appends));
        let delivered = deliveries.len() as f64;
        figures.extend(meter.figures_of(server, delivered, "per delivery")?);
        Ok((read, figures))
    }

    /// Takes the next part of an answer; `false`: there is none.
    async fn receive(&self, answer: &mut Answer, seen: &mut Seen) -> io::Result<bool> {
        let piece = answer.piece().await?;
        if let Some(piece) = &piece {
            let mut deliveries = self.deliveries.borrow_mut();
            deliveries.receive(seen, piece).map_err(failed)?;
        }
        Ok(piece.is_some())
    }

    /// Asks again and again until all events are there, and tells the offset that is reached.
    async fn poll(&self, index: usize, stream: &str) -> io::Result<String> {
        let (mut offset, mut cursor) = ("-1".to_owned(), String::new());
        let mut seen = Seen::default();
        while seen.next < self.events {
            let target = format!("{stream}?offset={offset}&live=long-poll{cursor}");
            let mut answer = self.clients.send(index, Call::get(&target)).await?;
            if answer.status != 200 && answer.status != 204 {
                let status = answer.status;
                return Err(failed(format!("a long-poll was answered with {status}")));
            }
            if let Some(next) = answer.field("stream-next-offset") {
                next.clone_into(&mut offset);
            }
            if let Some(next) = answer.field("stream-cursor") {
                cursor = format!("&cursor={next}");
            }
            while self.receive(&mut answer, &mut seen).await? {}
        }
        Ok(offset)
    }
}

fn measure_long_poll(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    let live = Live::new(&server, sizes, POLLED_STREAMS)?;
    let stream = |reader: usize| live.streams[reader % POLLED_STREAMS].as_str();
    let readers = (0..POLLS).map(|reader| live.poll(reader, stream(reader)));
    let (offsets, figures) = live.publish(&server, sizes, try_join_all(readers))?;
    let mut client = Client::connect(server.address)?;
    for (reader, offset) in offsets.iter().enumerate() {
        let target = format!("{}?offset={offset}", stream(reader));
        let answer = client.request("GET", &target, "", b"")?;
        if answer.status != 200 || !answer.up_to_date || !answer.body.is_empty() {
            return Err(failed(
                "a reader's last offset is not the end of its stream",
            ));
        }
    }
    Ok(figures)
}

/// A reader that began at the tail.
struct Reader<'a> {
    live: &'a Live,
    answer: Answer,
    seen: Seen,
}

impl<'a> Reader<'a> {
    /// Connects, and waits until it was told where it is.
    async fn connect(live: &'a Live, index: usize) -> io::Result<Self> {
        let target = format!("{}?offset=now&live=sse", live.streams[0]);
        let call = Call {
            fields: &[("accept", "text/event-stream")],
            ..Call::get(&target)
        };
        let answer = live.clients.send(index, call).await?;
        let mut answer = answer.expect(200, "an SSE reader")?;
        let mut told = Vec::new();
        while memmem::find(&told, b"event: control").is_none() {
            let piece = answer.piece().await?;
            told.extend_from_slice(&piece.ok_or_else(ended)?);
        }
        let seen = Seen::default();
        Ok(Self { live, answer, seen })
    }

    /// Reads until all events are there.
    async fn read(mut self) -> io::Result<Self> {
        while self.seen.next < self.live.events {
            self.receive().await?;
        }
        Ok(self)
    }

    /// Fails if anything comes once more.
    async fn expect_silence(mut self) -> io::Result<()> {
        let receive = async {
            while self.seen.next == self.live.events {
                self.receive().await?;
            }
            Err(failed("a reader received an event too many"))
        };
        timeout(REPEAT, receive).await.unwrap_or(Ok(()))
    }

    async fn receive(&mut self) -> io::Result<()> {
        let come = self.live.receive(&mut self.answer, &mut self.seen).await?;
        if come { Ok(()) } else { Err(ended()) }
    }
}

fn ended() -> io::Error {
    failed("the server ended a reader's answer")
}

fn measure_sse(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    let live = Live::new(&server, sizes, 1)?;
    let connects = (0..SSE_READERS).map(|index| Reader::connect(&live, index));
    let readers = live.runtime.block_on(try_join_all(connects))?;
    let reads = readers.into_iter().map(Reader::read);
    let (readers, figures) = live.publish(&server, sizes, try_join_all(reads))?;
    let silent = readers.into_iter().map(Reader::expect_silence);
    live.runtime
        .block_on(async { try_join_all(silent).await })?;
    Ok(figures)
}
