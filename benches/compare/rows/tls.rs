//! TLS and HTTP/2: Headwater itself, the competitor behind nginx.

use super::batch::{MESSAGES, TEXT};
use super::h2load::{CONNECTIONS, H2load, Loaded};
use super::{Case, Row, Sizes, TLS, failed, fill, tls_live, tls_sessions, tls_sse};
use crate::h2::{self, Call, Clients};
use crate::http::Client;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, Target, latency};
use serde::Deserialize;
use std::fmt::Write;
use std::fs;
use std::io;

/// Requests of one connection that are on their way at once, where they do not depend on each other.
const STREAMS: usize = 10;
const TRIAL: usize = 5000;
const BODY_BYTES: usize = 256;
const GET_BYTES: usize = 1024;
const TARGET: &str = "small";

const HISTORY: &str = "history";
const HISTORY_BYTES: u64 = 2 << 20;
/// What one append of the filling holds.
const PIECE_BYTES: usize = 256 * 1024;
/// How often each connection reads it whole in the trial.
const TRIAL_READS: usize = 8;

const BATCHES: &str = "batches";
const TRIAL_BATCHES: usize = 1000;

/// A message of a batch; the text makes it as long as many are.
#[derive(Deserialize)]
struct Message<'a> {
    index: usize,
    text: &'a str,
}

pub(super) fn cases(row: Row) -> Vec<Case> {
    let rate = |figure| [Target::at_least(figure, 1.5)];
    let of = |title: &str| format!("{title}, TLS and HTTP/2, {CONNECTIONS} connections");
    match row {
        Row::TlsGet => {
            let title = of("GET 1 KiB") + " of 10 streams";
            vec![Case::new(title, TLS, &rate("per second"), measure_get)]
        }
        Row::TlsAppend => {
            let title = of("append 256 B") + " of 10 streams";
            vec![Case::new(title, TLS, &rate("per second"), measure_append)]
        }
        Row::TlsCatchup => {
            let targets = rate("MiB per second");
            let title = of("catch-up of 2 MiB");
            vec![Case::new(title, TLS, &targets, measure_catchup)]
        }
        Row::TlsBatch => {
            let title = of("append JSON arrays of 100 messages") + " of 10 streams";
            vec![Case::new(title, TLS, &rate("per second"), measure_batch)]
        }
        Row::TlsSessions => vec![tls_sessions::case()],
        Row::TlsLongPoll => vec![tls_live::long_poll_case()],
        _ => vec![tls_sse::case(), tls_live::sse_case()],
    }
}

fn measure_get(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    let body = fill::Pattern::new().bytes(0, GET_BYTES);
    Client::connect(server.address)?.create(TARGET, "application/octet-stream", &body)?;
    let loaded = small(&server, Vec::new()).run(sizes)?;
    if loaded.data != (loaded.requests * GET_BYTES) as u64 {
        return Err(failed(format!("{} bytes came", loaded.data)));
    }
    figures(&server, &loaded)
}

fn measure_append(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    Client::connect(server.address)?.create(TARGET, "application/octet-stream", b"")?;
    let body = fill::Pattern::new().bytes(0, BODY_BYTES);
    let arguments = post(&server, "application/octet-stream", &body)?;
    let loaded = small(&server, arguments).run(sizes)?;
    let figures = figures(&server, &loaded)?;
    // All appends are alike: the pattern of one, again and again.
    let stream = Client::connect(server.address)?.read_all(TARGET)?;
    let expected = fill::Pattern::of_piece(&body);
    if stream.len() != (TRIAL + loaded.requests) * BODY_BYTES || !expected.is_at(0, &stream) {
        return Err(failed("an acknowledged append is missing or altered"));
    }
    Ok(figures)
}

/// A load of many requests at once.
fn small(server: &Server, arguments: Vec<String>) -> H2load<'_> {
    H2load {
        server,
        streams: STREAMS,
        targets: vec![TARGET.to_owned()],
        arguments,
        trial: TRIAL,
        multiple: 1,
    }
}

/// The arguments that make `h2load` append this.
fn post(server: &Server, content_type: &str, body: &[u8]) -> io::Result<Vec<String>> {
    let file = server.dir().join("body");
    fs::write(&file, body)?;
    Ok(vec![
        format!("--data={}", file.display()),
        format!("--header=content-type: {content_type}"),
    ])
}

fn figures(server: &Server, loaded: &Loaded) -> io::Result<Vec<Figure>> {
    let mut figures = vec![Figure::more("per second", loaded.per_second)];
    figures.extend(latency("", &loaded.latency));
    figures.extend(loaded.costs(server, loaded.requests as f64, "each")?);
    Ok(figures)
}

/// Each connection reads the stream whole, again and again.
fn measure_catchup(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    fill::create_filled(&server, HISTORY, HISTORY_BYTES, PIECE_BYTES)?;
    let targets = walk(&server)?;
    let pieces = targets.len();
    verify_history(&server, &targets)?;
    let load = H2load {
        server: &server,
        // As a reader does, who is told where to go on by the answer before.
        streams: 1,
        targets,
        arguments: Vec::new(),
        trial: CONNECTIONS * pieces * TRIAL_READS,
        multiple: CONNECTIONS * pieces,
    };
    let loaded = load.run(sizes)?;
    let reads = (loaded.requests / pieces) as u64;
    if loaded.data != reads * HISTORY_BYTES {
        return Err(failed(format!("{} bytes came", loaded.data)));
    }
    let mib = loaded.data as f64 / f64::from(1 << 20);
    let seconds = loaded.requests as f64 / loaded.per_second;
    let mut figures = vec![
        Figure::more("MiB per second", mib / seconds),
        // The latency is that of a request, and some servers give more with each.
        Figure::less("requests per whole read", pieces as f64),
    ];
    figures.extend(latency("request ", &loaded.latency));
    figures.extend(loaded.costs(&server, mib, "per MiB")?);
    Ok(figures)
}

/// The requests that read the stream whole.
fn walk(server: &Server) -> io::Result<Vec<String>> {
    let mut client = Client::connect(server.address)?;
    let mut targets = Vec::new();
    let mut offset = "-1".to_owned();
    loop {
        let target = format!("{HISTORY}?offset={offset}");
        let answer = client.request("GET", &target, "", b"")?;
        targets.push(target);
        if answer.up_to_date {
            return Ok(targets);
        }
        offset = answer
            .next
            .ok_or_else(|| failed("an answer names no next offset"))?;
    }
}

/// `h2load` counts bytes; that they are the right ones is seen here, over TLS and HTTP/2 too.
fn verify_history(server: &Server, targets: &[String]) -> io::Result<()> {
    let read = async {
        let clients = Clients::connect(server, 1).await?;
        let mut data = Vec::new();
        for target in targets {
            let answer = clients.send(0, Call::get(target)).await?;
            data.extend(answer.expect(200, "a GET")?.rest().await?);
        }
        io::Result::Ok(data)
    };
    let data = h2::runtime()?.block_on(read)?;
    if data.len() as u64 == HISTORY_BYTES && fill::Pattern::new().is_at(0, &data) {
        Ok(())
    } else {
        Err(failed("the stream has other content"))
    }
}

fn measure_batch(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    Client::connect(server.address)?.create(BATCHES, "application/json", b"")?;
    let body = batch();
    let load = H2load {
        targets: vec![BATCHES.to_owned()],
        trial: TRIAL_BATCHES,
        ..small(&server, post(&server, "application/json", body.as_bytes())?)
    };
    let loaded = load.run(sizes)?;
    let mut figures = figures(&server, &loaded)?;
    let messages = loaded.per_second * MESSAGES as f64;
    figures.insert(1, Figure::more("messages per second", messages));
    verify_batches(&server, TRIAL_BATCHES + loaded.requests)?;
    Ok(figures)
}

fn batch() -> String {
    let mut body = String::new();
    for index in 0..MESSAGES {
        let separator = if index == 0 { '[' } else { ',' };
        let _ = write!(body, r#"{separator}{{"index":{index},"text":"{TEXT}"}}"#);
    }
    body + "]"
}

/// Reads the stream and finds so many batches, each whole and by itself: all of them are alike.
fn verify_batches(server: &Server, batches: usize) -> io::Result<()> {
    let data = Client::connect(server.address)?.read_all(BATCHES)?;
    let mut messages = 0;
    // One array for each answer.
    for answer in serde_json::Deserializer::from_slice(&data).into_iter::<Vec<Message<'_>>>() {
        for message in answer? {
            if message.index != messages % MESSAGES || message.text != TEXT {
                return Err(failed("a message is altered or out of order"));
            }
            messages += 1;
        }
    }
    if messages == batches * MESSAGES {
        Ok(())
    } else {
        Err(failed(format!(
            "{messages} messages came of {batches} batches"
        )))
    }
}
