//! Clients that read answers and note when each token came.

use crate::upstream::now_ns;
use hdrhistogram::Histogram;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Answers to read at one time.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) streams: usize,
    /// Of each answer.
    pub(crate) tokens: u64,
    /// Tokens a second of each answer.
    pub(crate) rate: u64,
}

/// What clients saw.
pub(crate) struct Outcome {
    /// Nanoseconds from when a token was written until it was read.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) elapsed: Duration,
}

/// Reads all answers to their ends, and fails if a token is missing or out of its turn.
pub(crate) async fn run(load: &Load) -> io::Result<Outcome> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..load.streams {
        let (address, tokens, rate) = (load.address, load.tokens, load.rate);
        clients.spawn(async move { read(address, tokens, rate).await });
    }
    let mut latencies = histogram();
    while let Some(client) = clients.join_next().await {
        let read = client.map_err(io::Error::other)??;
        for latency in read {
            latencies.saturating_record(latency);
        }
    }
    Ok(Outcome {
        latencies,
        elapsed: begun.elapsed(),
    })
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

async fn read(address: SocketAddr, tokens: u64, rate: u64) -> io::Result<Vec<u64>> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    let request = format!("GET /tokens/{tokens}/{rate} HTTP/1.1\r\nhost: bench\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut latencies = Vec::with_capacity(tokens as usize);
    let mut piece = vec![0; 4 * 1024];
    let mut unread = Vec::new();
    let mut next = 0;
    loop {
        let bytes = connection.read(&mut piece).await?;
        let now = now_ns();
        if bytes == 0 {
            return Err(io::Error::other(format!("an answer ended at token {next}")));
        }
        unread.extend_from_slice(&piece[..bytes]);
        let mut at = 0;
        while let Some((behind, written, token)) = token(&unread[at..]) {
            if token != next {
                return Err(io::Error::other(format!(
                    "token {token} in place of {next}"
                )));
            }
            next += 1;
            at += behind;
            latencies.push(now.saturating_sub(written).max(1));
        }
        unread.drain(..at);
        if unread.ends_with(b"0\r\n\r\n") && next == tokens {
            return Ok(latencies);
        }
    }
}

/// The next whole token: where it ends, when it was written, and its number.
fn token(bytes: &[u8]) -> Option<(usize, u64, u64)> {
    let begin = memchr::memmem::find(bytes, b"data: ")? + b"data: ".len();
    let rest = &bytes[begin..];
    let end = memchr::memchr(b'\n', rest)?;
    let text = std::str::from_utf8(&rest[..end]).ok()?;
    let mut words = text.split(' ');
    let written = words.next()?.parse().ok()?;
    Some((begin + end, written, words.next()?.parse().ok()?))
}
