//! Reading one small stream, again and again.

use super::{FILES_MAX, Meter, Sizes, WARM_UP};
use crate::http::{self, Client};
use crate::load::{self, Workload};
use crate::servers::{Kind, Server, Setup};
use crate::stats::Figure;
use std::io;

const CONNECTIONS: usize = 32;
const STREAM: &str = "small";
const BODY: [u8; 1024] = [b'x'; 1024];

struct Get {
    request: Vec<u8>,
}

impl Workload for Get {
    fn next(&mut self, _: usize, request: &mut Vec<u8>) -> bool {
        request.extend_from_slice(&self.request);
        true
    }

    fn answered(&mut self, _: usize, status: u16, body: &[u8]) -> Result<(), String> {
        if status == 200 && body == BODY {
            Ok(())
        } else {
            Err(format!(
                "a GET was answered with {status} and {} bytes",
                body.len()
            ))
        }
    }
}

pub(super) fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start(setup, kind, FILES_MAX)?;
    Client::connect(server.address)?.create(STREAM, "application/octet-stream", &BODY)?;
    let mut request = Vec::new();
    http::put_head(&mut request, "GET", STREAM, "");
    let mut get = Get { request };
    load::run(server.address, CONNECTIONS, WARM_UP, &mut get)?.complete()?;
    let meter = Meter::begin(&server)?;
    let outcome = load::run(server.address, CONNECTIONS, sizes.time(), &mut get)?.complete()?;
    meter.figures(&server, &outcome)
}
