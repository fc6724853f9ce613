//! An upstream that streams tokens as a model does, each with the time at which it was written.

use crate::pacer::Pacer;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// The clock that tokens carry: nanoseconds since this.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the clock says.
pub(crate) fn now_ns() -> u64 {
    BEGIN.elapsed().as_nanos() as u64
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// All answers may be asked for at once.
const BACKLOG: u32 = 4096;

/// Starts the upstream, on the runtime of the caller.
pub(crate) fn start(pacer: &Pacer) -> io::Result<SocketAddr> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    let pacer = pacer.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let pacer = pacer.clone();
            // One that leaves is counted by the client.
            tokio::spawn(async move { serve(connection, &pacer).await });
        }
    });
    Ok(address)
}

async fn serve(mut connection: TcpStream, pacer: &Pacer) -> io::Result<()> {
    connection.set_nodelay(true)?;
    while let Some((tokens, rate)) = read_request(&mut connection).await? {
        connection.write_all(HEAD).await?;
        let answer = Answer {
            connection: connection.into_std()?,
            written: 0,
            tokens,
        };
        connection = TcpStream::from_std(answer.stream(rate, pacer).await?)?;
    }
    Ok(())
}

/// An answer whose head is written.
struct Answer {
    connection: std::net::TcpStream,
    written: u64,
    tokens: u64,
}

impl Answer {
    /// Writes all tokens and the end, and returns the connection.
    async fn stream(mut self, rate: u64, pacer: &Pacer) -> io::Result<std::net::TcpStream> {
        let (end, ended) = oneshot::channel();
        let mut end = Some((end, self.connection.try_clone()?));
        pacer.pace(Duration::from_secs(1) / rate as u32, move || {
            let written = self.write_next();
            let goes_on = matches!(written, Ok(true));
            if !goes_on && let Some((end, connection)) = end.take() {
                let _ = end.send(written.map(|_| connection));
            }
            goes_on
        });
        ended.await.map_err(io::Error::other)?
    }

    /// Writes the next token, or the end behind the last one. Whether there is more.
    fn write_next(&mut self) -> io::Result<bool> {
        if self.written == self.tokens {
            self.connection.write_all(b"0\r\n\r\n")?;
            return Ok(false);
        }
        let event = format!("data: {:016} {:08} token\n\n", now_ns(), self.written);
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        self.connection.write_all(chunk.as_bytes())?;
        self.written += 1;
        Ok(true)
    }
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
