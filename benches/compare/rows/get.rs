//! Reading one small stream, again and again.

use super::{FILES_MAX, Sizes, WARM_UP};
use crate::decode::Head;
use crate::http::{self, Client};
use crate::load::{Load, Workload};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use std::io;
use std::time::Instant;

const STREAM: &str = "small";
const BODY: [u8; 1024] = [b'x'; 1024];

struct Get {
    request: Vec<u8>,
    /// How much of the present answer each connection has.
    read: Vec<usize>,
}

impl Workload for Get {
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        request.extend_from_slice(&self.request);
        true
    }

    fn body(&mut self, connection: usize, piece: &[u8]) -> Result<(), String> {
        let read = &mut self.read[connection];
        let expected = BODY.get(*read..*read + piece.len());
        *read += piece.len();
        match expected {
            Some(expected) if expected == piece => Ok(()),
            _ => Err("a GET was answered with other content".to_owned()),
        }
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        let read = std::mem::take(&mut self.read[connection]);
        match (head.status, read) {
            (200, 1024) => Ok(()),
            (status, read) => Err(format!("a GET was answered with {status}, {read} bytes")),
        }
    }
}

pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    connections: usize,
) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    Client::connect(server.address)?.create(STREAM, "application/octet-stream", &BODY)?;
    let mut get = Get {
        request: Vec::new(),
        read: vec![0; connections],
    };
    http::put_head(&mut get.request, "GET", STREAM, "");
    let load = |time| Load::closed(server.address, connections, time);
    load(WARM_UP).run(&mut get)?.complete()?;
    let meter = Meter::begin(&server)?;
    let outcome = load(sizes.time()).run(&mut get)?.complete()?;
    let mut figures = vec![Figure::more("per second", outcome.rate())];
    figures.extend(latency("", &outcome.latency));
    figures.extend(meter.figures(&server, outcome.operations)?);
    Ok(figures)
}
