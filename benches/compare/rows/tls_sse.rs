//! SSE readers over TLS: what each of them takes of memory, and what a delivery costs.

use super::sse::SETTLE_START;
use super::{Case, TLS, failed};
use crate::decode::{Decoder, Part};
use crate::h2;
use crate::http::{self, Client};
use crate::live::{Deliveries, Seen};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::Figure;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const STREAM: &str = "events";
const EVENTS: u64 = 20;
/// Readers that are there before memory is looked at: what the first of them bring into it is not the
/// cost of a reader.
const FIRST: usize = 10;
/// After which memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);
const BUFFER_BYTES: usize = 16 * 1024;

pub(super) fn case() -> Case {
    let count = 1000;
    let title = format!("{count} SSE readers over TLS and HTTP/1.1");
    Case::new(title, TLS, &[], move |setup, kind, _| {
        measure(setup, kind, count)
    })
}

/// Connects so many readers, and sends each some events, which must come once and in order.
fn measure(setup: &Setup, kind: Kind, count: usize) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    let mut client = Client::connect(server.address)?;
    client.create(STREAM, "text/plain", b"")?;
    let tls = Arc::new(h2::trusting(&server)?);
    let connect = |count| {
        let readers = (0..count).map(|_| Reader::connect(&server, tls.clone()));
        readers.collect::<io::Result<Vec<_>>>()
    };
    drop(connect(FIRST)?);
    std::thread::sleep(SETTLE_START);
    let before = server.cost()?;
    let mut readers = connect(count)?;
    std::thread::sleep(SETTLE);
    let idle = server.cost()?;
    let meter = Meter::begin(&server)?;
    let mut deliveries = Deliveries::new(Instant::now());
    for number in 0..EVENTS {
        let due_ns = deliveries.base.elapsed().as_nanos();
        let event = format!("<{number} {due_ns}>");
        let fields = "Content-Type: text/plain\r\n";
        let answer = client.request("POST", STREAM, fields, event.as_bytes())?;
        if answer.status != 204 {
            return Err(failed("an event was refused"));
        }
        for reader in &mut readers {
            reader.receive(&mut deliveries, number + 1)?;
        }
    }
    let delivered = deliveries.latency.len() as f64;
    let costs = meter.figures_of(&server, delivered, "per delivery")?;
    let live = server.cost()?;
    let each = |mib: f64| (mib - before.resident_mib) * 1024.0 / count as f64;
    let mut figures = vec![
        Figure::less("KiB per reader, idle", each(idle.resident_mib)),
        Figure::less("KiB per reader, live", each(live.resident_mib)),
    ];
    figures.extend(costs);
    Ok(figures)
}

/// A reader that began at the tail.
struct Reader {
    connection: StreamOwned<ClientConnection, TcpStream>,
    decoder: Decoder,
    seen: Seen,
}

impl Reader {
    /// Connects, and waits until it was told where it is.
    fn connect(server: &Server, tls: Arc<ClientConfig>) -> io::Result<Self> {
        let address = server.tls.ok_or_else(|| failed("there is no TLS"))?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let session = ClientConnection::new(tls, name).map_err(io::Error::other)?;
        let mut reader = Self {
            connection: StreamOwned::new(session, TcpStream::connect(address)?),
            decoder: Decoder::new(),
            seen: Seen::default(),
        };
        let mut request = Vec::new();
        let target = format!("{STREAM}?offset=now&live=sse");
        let fields = "Accept: text/event-stream\r\n";
        http::put_head(&mut request, "GET", &target, fields);
        reader.connection.write_all(&request)?;
        let mut told = false;
        while !told {
            reader.read(&mut |_, piece| {
                told |= !piece.is_empty();
                Ok(())
            })?;
        }
        Ok(reader)
    }

    /// Reads until it has so many events.
    fn receive(&mut self, deliveries: &mut Deliveries, events: u64) -> io::Result<()> {
        while self.seen.next < events {
            self.read(&mut |seen, piece| deliveries.receive(seen, piece))?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        take: &mut impl FnMut(&mut Seen, &[u8]) -> Result<(), String>,
    ) -> io::Result<()> {
        let mut buffer = [0; BUFFER_BYTES];
        let bytes = self.connection.read(&mut buffer)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seen = &mut self.seen;
        self.decoder
            .decode(&buffer[..bytes], &mut |part| match part {
                Part::Body(piece) => take(seen, piece).map_err(failed),
                Part::End(_) => Err(failed("an endless answer has ended")),
            })
    }
}
