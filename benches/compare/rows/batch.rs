//! Appends of JSON arrays.

use super::{CONNECTIONS, FILES_MAX, Sizes, WARM_UP, failed};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::load::{Load, Workload};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use serde::Deserialize;
use std::io::{self, Write};
use std::time::Instant;

const STREAM: &str = "batches";
const CONTENT_TYPE: &str = "application/json";
/// Messages of one append.
pub(super) const MESSAGES: usize = 100;

/// One message; the text makes it as long as many are.
#[derive(Deserialize)]
struct Message<'a> {
    connection: usize,
    batch: usize,
    index: usize,
    text: &'a str,
}

pub(super) const TEXT: &str = "what a model may have said";

struct Batches {
    acknowledged: Vec<usize>,
    body: Vec<u8>,
    payload: u64,
}

impl Batches {
    fn put_body(&mut self, connection: usize) -> io::Result<()> {
        let batch = self.acknowledged[connection];
        self.body.clear();
        for index in 0..MESSAGES {
            self.body.push(if index == 0 { b'[' } else { b',' });
            write!(
                self.body,
                r#"{{"connection":{connection},"batch":{batch},"index":{index},"text":"{TEXT}"}}"#
            )?;
        }
        self.body.push(b']');
        self.payload += self.body.len() as u64;
        Ok(())
    }
}

impl Workload for Batches {
    fn next(&mut self, connection: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        let written = self.put_body(connection);
        let length = self.body.len();
        let fields = format!("Content-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n");
        http::put_head(request, "POST", STREAM, &fields);
        request.extend_from_slice(&self.body);
        written.is_ok()
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        self.acknowledged[connection] += 1;
        super::fill::expect(head, 204, "an append")
    }
}

pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    Client::connect(server.address)?.create(STREAM, CONTENT_TYPE, b"")?;
    let mut batches = Batches {
        acknowledged: vec![0; CONNECTIONS],
        body: Vec::new(),
        payload: 0,
    };
    let load = |time| Load::closed(server.address, CONNECTIONS, time);
    load(WARM_UP).run(&mut batches)?.complete()?;
    batches.payload = 0;
    let meter = Meter::begin(&server)?;
    let outcome = load(sizes.time()).run(&mut batches)?.complete()?;
    let mut figures = vec![
        Figure::more("per second", outcome.rate()),
        Figure::more("messages per second", outcome.rate() * MESSAGES as f64),
    ];
    figures.extend(latency("", &outcome.latency));
    figures.extend(meter.figures(&server, outcome.operations)?);
    figures.push(meter.amplification(&server, batches.payload)?);
    verify(&server, &batches)?;
    Ok(figures)
}

/// Reads the stream and finds each message of each acknowledged batch once and in order.
fn verify(server: &Server, batches: &Batches) -> io::Result<()> {
    let data = Client::connect(server.address)?.read_all(STREAM)?;
    let mut next = vec![0; CONNECTIONS];
    // One array for each answer.
    for answer in serde_json::Deserializer::from_slice(&data).into_iter::<Vec<Message<'_>>>() {
        for message in answer? {
            let next = next
                .get_mut(message.connection)
                .ok_or_else(|| failed("a message was altered"))?;
            if message.batch * MESSAGES + message.index != *next || message.text != TEXT {
                return Err(failed("a message is twice, altered, or out of order"));
            }
            *next += 1;
        }
    }
    let acknowledged = batches.acknowledged.iter();
    if acknowledged.map(|count| count * MESSAGES).eq(next) {
        Ok(())
    } else {
        Err(failed("an acknowledged batch is missing"))
    }
}
