//! Durable appends of 256 bytes.

use super::{FILES_MAX, Meter, Sizes, WARM_UP, failed};
use crate::http::{self, Client};
use crate::load::{self, Workload};
use crate::servers::{Kind, Server, Setup};
use crate::stats::Figure;
use std::io::{self, Write};

const CONNECTIONS: usize = 64;
const BODY_BYTES: usize = 256;
const CONTENT_TYPE: &str = "application/octet-stream";

/// Each connection numbers its appends, so that all of them can be told apart when they are read
/// back.
struct Appends {
    heads: Vec<Vec<u8>>,
    acknowledged: Vec<usize>,
}

impl Appends {
    fn new(streams: usize) -> Self {
        let head = |stream| {
            let fields =
                format!("Content-Type: {CONTENT_TYPE}\r\nContent-Length: {BODY_BYTES}\r\n");
            let mut head = Vec::new();
            http::put_head(&mut head, "POST", &name(stream), &fields);
            head
        };
        Self {
            heads: (0..streams).map(head).collect(),
            acknowledged: vec![0; CONNECTIONS],
        }
    }
}

fn name(stream: usize) -> String {
    format!("append-{stream}")
}

impl Workload for Appends {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> bool {
        let number = self.acknowledged[connection];
        let stream = (connection + number * CONNECTIONS) % self.heads.len();
        request.extend_from_slice(&self.heads[stream]);
        let end = request.len() + BODY_BYTES;
        let written = write!(request, "{connection} {number} ");
        request.resize(end, b'.');
        written.is_ok()
    }

    fn answered(&mut self, connection: usize, status: u16, _: &[u8]) -> Result<(), String> {
        self.acknowledged[connection] += 1;
        match status {
            204 => Ok(()),
            other => Err(format!("an append was answered with {other}")),
        }
    }
}

pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    streams: usize,
) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    let mut client = Client::connect(server.address)?;
    for stream in 0..streams {
        client.create(&name(stream), CONTENT_TYPE, b"")?;
    }
    let mut appends = Appends::new(streams);
    load::run(server.address, CONNECTIONS, WARM_UP, &mut appends)?.complete()?;
    let meter = Meter::begin(&server)?;
    let outcome = load::run(server.address, CONNECTIONS, sizes.time(), &mut appends)?.complete()?;
    let mut figures = meter.figures(&server, &outcome)?;
    let payload = outcome.operations as f64 * BODY_BYTES as f64;
    let written = server.usage()?.written.saturating_sub(meter.server.written) as f64;
    verify(&mut client, &appends)?;
    figures.push(Figure::less("bytes to disk per byte", written / payload));
    Ok(figures)
}

/// Reads all streams and finds each acknowledged append once, those of a connection in order.
fn verify(client: &mut Client, appends: &Appends) -> io::Result<()> {
    let mut found: Vec<Vec<bool>> = appends
        .acknowledged
        .iter()
        .map(|count| vec![false; *count])
        .collect();
    for stream in 0..appends.heads.len() {
        let data = client.read_all(&name(stream))?;
        let mut last = [None; CONNECTIONS];
        if data.len() % BODY_BYTES != 0 {
            return Err(failed("a stream ends within an append"));
        }
        for body in data.chunks(BODY_BYTES) {
            let (connection, number) =
                parse(body).ok_or_else(|| failed("an append was altered"))?;
            let slot = found
                .get_mut(connection)
                .and_then(|numbers| numbers.get_mut(number));
            let slot = slot.ok_or_else(|| failed("an append is there that was never sent"))?;
            if std::mem::replace(slot, true) || last[connection] >= Some(number) {
                return Err(failed("an append is there twice, or out of order"));
            }
            last[connection] = Some(number);
        }
    }
    if found.iter().flatten().all(|found| *found) {
        Ok(())
    } else {
        Err(failed("an acknowledged append is missing"))
    }
}

fn parse(body: &[u8]) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(body).ok()?;
    let mut words = text.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
