//! An upstream that streams tokens as a model does, each with the time at which it was written.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval_at, sleep};

/// The clock that tokens carry: nanoseconds since this.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the clock says.
pub(crate) fn now_ns() -> u64 {
    BEGIN.elapsed().as_nanos() as u64
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// Starts the upstream.
pub(crate) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // One that leaves is counted by the client.
            tokio::spawn(async move { serve(connection).await });
        }
    });
    Ok(address)
}

async fn serve(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    while let Some((tokens, rate)) = read_request(&mut connection).await? {
        connection.write_all(HEAD).await?;
        let every = Duration::from_secs(1) / rate as u32;
        // Answers that begin together do not stream in step.
        sleep(every.mul_f64(rand::random())).await;
        let mut ticks = interval_at(tokio::time::Instant::now(), every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for token in 0..tokens {
            ticks.tick().await;
            let event = format!("data: {:016} {token:08} token\n\n", now_ns());
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            connection.write_all(chunk.as_bytes()).await?;
        }
        connection.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

/// The numbers of tokens, and of tokens a second, that a request asks for in its path; `None` at the
/// end of the connection.
async fn read_request(connection: &mut TcpStream) -> io::Result<Option<(u64, u64)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if connection.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let mut numbers = path.rsplit('/').map(|part| part.parse().unwrap_or(0));
    let (rate, tokens) = (numbers.next(), numbers.next());
    Ok(rate.zip(tokens).map(|(rate, tokens)| (tokens, rate.max(1))))
}
