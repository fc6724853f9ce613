//! TLS and HTTP/2, loaded by `h2load`: Headwater itself, the competitor behind nginx.

use super::{Sizes, failed, fill};
use crate::http::{Client, PREFIX};
use crate::load::histogram;
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

const CONNECTIONS: usize = 32;
/// Requests of one connection that are on their way at once.
const STREAMS: usize = 10;
const BODY_BYTES: usize = 256;
const GET_BYTES: usize = 1024;
const TARGET: &str = "small";
/// Requests of the run that tells how many are needed to fill the time.
const TRIAL: usize = 5000;

/// What `h2load` says.
struct Said {
    per_second: f64,
    /// Bytes of bodies.
    data: u64,
}

pub(super) fn measure_get(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    let body = fill::Pattern::new().bytes(0, GET_BYTES);
    Client::connect(server.address)?.create(TARGET, "application/octet-stream", &body)?;
    let (figures, said, requests) = run(&server, sizes, &[])?;
    if said.data != (requests * GET_BYTES) as u64 {
        return Err(failed(format!("{} bytes came", said.data)));
    }
    Ok(figures)
}

pub(super) fn measure_append(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    Client::connect(server.address)?.create(TARGET, "application/octet-stream", b"")?;
    let body = server.dir().join("body");
    fs::write(&body, fill::Pattern::new().bytes(0, BODY_BYTES))?;
    let data = format!("--data={}", body.display());
    let arguments = [
        data.as_str(),
        "--header=content-type: application/octet-stream",
    ];
    let (figures, _, requests) = run(&server, sizes, &arguments)?;
    // All appends are alike: the pattern of one, again and again.
    let stream = Client::connect(server.address)?.read_all(TARGET)?;
    let expected = fill::Pattern::of_piece(&fs::read(&body)?);
    if stream.len() != (TRIAL + requests) * BODY_BYTES || !expected.is_at(0, &stream) {
        return Err(failed("an acknowledged append is missing or altered"));
    }
    Ok(figures)
}

fn run(
    server: &Server,
    sizes: &Sizes,
    arguments: &[&str],
) -> io::Result<(Vec<Figure>, Said, usize)> {
    let log = server.dir().join("h2load.log");
    let trial = h2load(server, TRIAL, arguments, &log)?;
    let requests = (trial.per_second * sizes.time().as_secs_f64()) as usize;
    let requests = requests.max(CONNECTIONS);
    fs::remove_file(&log)?;
    let meter = Meter::begin(server)?;
    let said = h2load(server, requests, arguments, &log)?;
    let mut figures = vec![Figure::more("per second", said.per_second)];
    let mut times = histogram();
    // One line for each request: when it began, its status, and its microseconds.
    for line in fs::read_to_string(&log)?.lines() {
        let us = line.split_whitespace().nth(2);
        let us: u64 = us.and_then(|us| us.parse().ok()).unwrap_or(0);
        times.saturating_record(us * 1000);
    }
    figures.extend(latency("", &times));
    let costs = meter.figures(server, requests as u64)?;
    // The generator is a process of its own, which has ended.
    figures.extend(
        costs
            .into_iter()
            .filter(|figure| !figure.name.starts_with("generator")),
    );
    Ok((figures, said, requests))
}

fn h2load(server: &Server, requests: usize, arguments: &[&str], log: &Path) -> io::Result<Said> {
    let tls = server.tls.ok_or_else(|| failed("it has no TLS"))?;
    let output = Command::new("h2load")
        .arg(format!("--requests={requests}"))
        .arg(format!("--clients={CONNECTIONS}"))
        .arg(format!("--max-concurrent-streams={STREAMS}"))
        .arg(format!("--log-file={}", log.display()))
        .args(arguments)
        .arg(format!("https://{tls}{PREFIX}{TARGET}"))
        .output()
        .map_err(|error| failed(format!("h2load (Debian's nghttp2-client): {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let done = format!("{requests} succeeded, 0 failed");
    if !text.contains("Application protocol: h2") || !text.contains(&done) {
        return Err(failed(format!("h2load said: {text}")));
    }
    let before = |mark: &str| {
        let end = text.find(mark)?;
        text[..end]
            .rsplit([' ', '(', ')', '\n'])
            .find(|word| !word.is_empty())
    };
    let per_second = before(" req/s").and_then(|rate| rate.parse().ok());
    let data = before(") data").and_then(|data| data.parse().ok());
    Ok(Said {
        per_second: per_second.ok_or_else(|| failed("h2load told no rate"))?,
        data: data.ok_or_else(|| failed("h2load told no bytes"))?,
    })
}
