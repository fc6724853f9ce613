//! Long-polling readers: each asks again at once when it was answered.

use super::{Sizes, failed, fill};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::live::{Deliveries, Publisher, Seen, TEXT};
use crate::load::{Load, Workload};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use std::io;
use std::time::{Duration, Instant};

/// How long readers wait before the first event.
const SETTLE: Duration = Duration::from_secs(2);

/// Where a reader is.
struct Reader {
    offset: String,
    cursor: String,
    seen: Seen,
}

struct Polls<'a> {
    streams: &'a [String],
    readers: Vec<Reader>,
    deliveries: Deliveries,
    /// Events of each stream.
    events: u64,
}

impl Workload for Polls<'_> {
    fn next(&mut self, connection: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        let reader = &self.readers[connection];
        if reader.seen.next == self.events {
            return false;
        }
        let stream = &self.streams[connection % self.streams.len()];
        let (offset, cursor) = (&reader.offset, &reader.cursor);
        let target = format!("{stream}?offset={offset}&live=long-poll{cursor}");
        http::put_head(request, "GET", &target, "");
        true
    }

    fn body(&mut self, connection: usize, piece: &[u8]) -> Result<(), String> {
        let seen = &mut self.readers[connection].seen;
        self.deliveries.receive(seen, piece)
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        if head.status != 200 && head.status != 204 {
            return Err(format!("a long-poll was answered with {}", head.status));
        }
        let reader = &mut self.readers[connection];
        if let Some(next) = head.field("stream-next-offset") {
            next.clone_into(&mut reader.offset);
        }
        if let Some(cursor) = head.field("stream-cursor") {
            reader.cursor = format!("&cursor={cursor}");
        }
        Ok(())
    }
}

/// So many connections, spread over so many streams.
pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    streams: usize,
    connections: usize,
) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, crate::open_files_max()?)?;
    let names: Vec<String> = (0..streams)
        .map(|stream| format!("poll-{stream}"))
        .collect();
    fill::create(&server, streams, TEXT, |stream| names[stream].clone())?;
    // Of few streams each has several events a second, of many each has one.
    let per_second = (streams.max(50)) as f64;
    let events = (sizes.live_time().as_secs_f64() * per_second) as u64 / streams as u64;
    let load = Load::closed(
        server.address,
        connections,
        sizes.live_time() + super::TIME_MAX,
    );
    let run = load.connect()?;
    let meter = Meter::begin(&server)?;
    let base = Instant::now();
    let publisher = Publisher {
        streams: &names,
        content_type: TEXT,
        base,
        next: 0,
    };
    let reader = |_| Reader {
        offset: "-1".to_owned(),
        cursor: String::new(),
        seen: Seen::default(),
    };
    let mut polls = Polls {
        streams: &names,
        readers: (0..connections).map(reader).collect(),
        deliveries: Deliveries::new(base),
        events,
    };
    let appends = std::thread::scope(|scope| {
        let appends = scope.spawn(|| {
            std::thread::sleep(SETTLE);
            publisher.run(server.address, per_second, sizes.live_time())
        });
        let polled = run.run(&mut polls)?.complete();
        let appends = appends
            .join()
            .map_err(|_| failed("the publisher failed"))??;
        polled.map(|_| appends)
    })?;
    let delivered = polls.deliveries.latency.len() as f64;
    let mut figures = latency("delivery ", &polls.deliveries.latency);
    figures.extend(latency("append ", &appends));
    figures.extend(meter.figures_of(&server, delivered, "per delivery")?);
    expect_end(&server, &polls)?;
    Ok(figures)
}

/// Fails if a reader who has every event would get one more where it is.
fn expect_end(server: &Server, polls: &Polls<'_>) -> io::Result<()> {
    let mut client = Client::connect(server.address)?;
    for (reader, stream) in polls.readers.iter().zip(polls.streams.iter().cycle()) {
        if !client.read_from(stream, &reader.offset)?.is_empty() {
            return Err(failed("a reader would receive an event twice"));
        }
    }
    Ok(())
}
