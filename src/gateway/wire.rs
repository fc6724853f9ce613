//! Requests and answers as they go over a connection of HTTP/1.1 that has no session.

use super::respond::{self, Sent};
use crate::protocol::reply::Head;
use crate::serve::{Body, Reply};
use crate::waits::in_time;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header;
use pingora::protocols::Stream;
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType};
use std::future::pending;
use std::io::{self, Write};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of requests that are read at once: a head, and a small body with it.
pub(super) const READ_BYTES: usize = 4096;
/// What is at most this long is copied next to what goes before it, so that both are one write, over
/// TLS too.
pub(super) const COPIED_BYTES_MAX: usize = 4096;
/// Room for a head, so that it need not grow.
const HEAD_BYTES: usize = 512;
/// The most that is read of what a client sends ahead while it waits for an answer.
pub(super) const AHEAD_BYTES_MAX: usize = 1024;
const LINE_END: &[u8] = b"\r\n";
/// Room for the line that goes before a chunk.
const SIZE_LINE_BYTES: usize = usize::BITS as usize / 4 + LINE_END.len();
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
/// The last chunk of a body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How an answer is written.
pub(super) struct Writing {
    /// Whether its head is all that is asked for.
    pub(super) head_only: bool,
    /// Whether another request may follow.
    pub(super) goes_on: bool,
    /// The longest wait for the client to take something.
    pub(super) write_timeout: Duration,
}

impl Writing {
    /// Writes an answer whose body does not wait for anything.
    pub(super) async fn write(&self, stream: &mut Stream, reply: Reply) -> Sent {
        let mut sent = Sent::of(&reply.head);
        if let Err(error) = self.write_reply(stream, reply, &mut sent).await {
            let error = Error::because(ErrorType::WriteError, "answering", error);
            sent.broken = Some(error.into_down());
        }
        sent
    }

    async fn write_reply(
        &self,
        stream: &mut Stream,
        reply: Reply,
        sent: &mut Sent,
    ) -> io::Result<()> {
        let Reply { head, body } = reply;
        let length = respond::length(&body);
        let mut text = Vec::with_capacity(match &body {
            Body::Full(bytes) if bytes.len() <= COPIED_BYTES_MAX => HEAD_BYTES + bytes.len(),
            _ => HEAD_BYTES,
        });
        self.put_head(&mut text, &head, length);
        match body {
            _ if self.head_only => self.send(stream, &text[..]).await,
            Body::Empty => self.send(stream, &text[..]).await,
            Body::Full(bytes) => {
                sent.bytes = bytes.len() as u64;
                if bytes.len() <= COPIED_BYTES_MAX {
                    text.extend_from_slice(&bytes);
                    self.send(stream, &text[..]).await
                } else {
                    self.send(stream, Buf::chain(&text[..], bytes)).await
                }
            }
            Body::Pieces(mut pieces) => {
                self.in_time(stream.write_all(&text)).await?;
                while let Some(piece) = pieces.next().await.map_err(|error| {
                    tracing::warn!(%error, "an answer broke off");
                    io::Error::other(error)
                })? {
                    sent.bytes += piece.len() as u64;
                    match length {
                        Some(_) => self.send(stream, piece).await?,
                        None => self.in_time(write_chunk(stream, &piece)).await?,
                    }
                }
                match length {
                    Some(_) => Ok(()),
                    None => self.in_time(write_last_chunk(stream)).await,
                }
            }
            Body::Passed(_) | Body::Live(_) => Err(io::Error::other("the body waits")),
        }
    }

    async fn send(&self, stream: &mut Stream, mut bytes: impl Buf) -> io::Result<()> {
        let send = async {
            stream.write_all_buf(&mut bytes).await?;
            stream.flush().await
        };
        self.in_time(send).await
    }

    async fn in_time(&self, write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        in_time(self.write_timeout, write).await?
    }

    fn put_head(&self, text: &mut Vec<u8>, head: &Head, length: Option<u64>) {
        text.extend_from_slice(b"HTTP/1.1 ");
        text.extend_from_slice(head.status.as_str().as_bytes());
        text.push(b' ');
        let reason = head.status.canonical_reason().unwrap_or_default();
        text.extend_from_slice(reason.as_bytes());
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(head.browsers.lines().as_bytes());
        for (name, value) in &head.headers {
            put_field(text, name.as_str(), value.as_bytes());
        }
        match length {
            _ if respond::is_bodiless(head.status) => {}
            Some(length) => {
                let _ = write!(text, "{}: {length}\r\n", header::CONTENT_LENGTH);
            }
            None => put_field(text, header::TRANSFER_ENCODING.as_str(), b"chunked"),
        }
        put_field(text, header::DATE.as_str(), get_cached_date().as_bytes());
        let connection: &[u8] = if self.goes_on {
            b"keep-alive"
        } else {
            b"close"
        };
        put_field(text, header::CONNECTION.as_str(), connection);
        text.extend_from_slice(b"\r\n");
    }
}

fn put_field(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

/// Writes one chunk of a body.
pub(super) async fn write_chunk(stream: &mut Stream, bytes: &Bytes) -> io::Result<()> {
    if bytes.len() <= COPIED_BYTES_MAX {
        stream.write_all(&chunk(bytes)).await?;
    } else {
        let mut size = BytesMut::with_capacity(SIZE_LINE_BYTES);
        put_size_line(&mut size, bytes.len());
        let framed = Buf::chain(size, &bytes[..]);
        let mut chunk = Buf::chain(framed, LINE_END);
        stream.write_all_buf(&mut chunk).await?;
    }
    stream.flush().await
}

/// One chunk of a body, as it goes over a connection.
pub(super) fn chunk(bytes: &Bytes) -> Bytes {
    let mut chunk = BytesMut::with_capacity(SIZE_LINE_BYTES + bytes.len() + LINE_END.len());
    put_size_line(&mut chunk, bytes.len());
    chunk.put_slice(bytes);
    chunk.put_slice(LINE_END);
    chunk.freeze()
}

/// Puts the line that goes before a chunk. `write!` would cost as much as all else of a small one.
fn put_size_line(text: &mut BytesMut, chunk_bytes: usize) {
    let digits = (usize::BITS - chunk_bytes.leading_zeros()).div_ceil(4);
    for digit in (0..digits.max(1)).rev() {
        text.put_u8(HEX_DIGITS[(chunk_bytes >> (4 * digit)) & 0xf]);
    }
    text.put_slice(LINE_END);
}

/// Writes the end of a body that was written in chunks.
pub(super) async fn write_last_chunk(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(LAST_CHUNK).await?;
    stream.flush().await
}

/// Returns when the client has left. What he sends ahead meanwhile belongs to his next request.
pub(super) async fn left(stream: &mut Stream, ahead: &mut BytesMut) {
    while ahead.len() < AHEAD_BYTES_MAX {
        match stream.read_buf(ahead).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_says_how_long_it_is() {
        for length in [
            0, 1, 9, 10, 15, 16, 255, 256, 4095, 4096, 0x1_0000, 0xabc_def0,
        ] {
            let mut text = BytesMut::new();
            put_size_line(&mut text, length);
            assert_eq!(text, format!("{length:x}\r\n"));
        }
        assert_eq!(
            chunk(&Bytes::from_static(b"sixteen letters!")),
            "10\r\nsixteen letters!\r\n"
        );
    }
}
