//! The head of a request that needs a session, while it is read.
//!
//! A session would take a MiB of one that never ends. It is given a head that is whole, or so wrong
//! that it refuses it.

use super::session::Gateway;
use super::wire::{READ_BYTES, Writing};
use crate::config::Limits;
use crate::observe::metrics::{Method, Mode};
use crate::serve::ServeError;
use bytes::BytesMut;
use httparse::{Error, Request, Status};
use memchr::memmem;
use pingora::protocols::Stream;
use std::mem::MaybeUninit;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

/// Headers of a session's request at the most.
const HEADERS_MAX: usize = 256;
/// What goes around the parts of a head that have limits: between a name and its value and behind
/// it, and around the target.
const AROUND_HEADER_BYTES: usize = 4;
const AROUND_TARGET_BYTES: usize = 64;
/// The longest that a refused head is read for the sake of its sender.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a head may become.
#[derive(Clone, Copy)]
pub(super) struct HeadLimits {
    target_bytes_max: usize,
    header_bytes_max: usize,
}

/// What is known of the head with which these bytes begin.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It is there, or can only be refused.
    There,
    Unfinished,
    TargetTooLong,
    HeadersTooLarge,
}

impl HeadLimits {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            target_bytes_max: limits.path_bytes_max,
            header_bytes_max: limits.header_bytes_max,
        }
    }

    fn bytes_max(self) -> usize {
        let around = HEADERS_MAX * AROUND_HEADER_BYTES + AROUND_TARGET_BYTES;
        self.target_bytes_max + self.header_bytes_max + around
    }

    fn look(self, read: &[u8]) -> Look {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = Request::new(&mut []);
        match request.parse_with_uninit_headers(read, &mut headers) {
            Err(Error::TooManyHeaders) => return Look::HeadersTooLarge,
            Ok(Status::Partial) => {}
            // A session writes such a target another way, and reads on.
            Err(Error::Token | Error::Version) if has_method(read) && !has_end(read) => {}
            Ok(Status::Complete(_)) | Err(_) => return Look::There,
        }
        if read.len() <= self.bytes_max() {
            Look::Unfinished
        } else if memchr::memchr(b'\n', read.trim_ascii_start()).is_some() {
            Look::HeadersTooLarge
        } else {
            Look::TargetTooLong
        }
    }

    fn error(self, look: &Look) -> ServeError {
        match look {
            Look::TargetTooLong => ServeError::PathTooLong {
                bytes_max: self.target_bytes_max,
            },
            _ => ServeError::HeadersTooLarge {
                bytes_max: self.header_bytes_max,
            },
        }
    }
}

/// Whether these bytes begin like a request line.
fn has_method(read: &[u8]) -> bool {
    let line = read.trim_ascii_start();
    let method = line.iter().take_while(|byte| byte.is_ascii_alphabetic());
    let method_bytes = method.count();
    method_bytes > 0 && line.get(method_bytes) == Some(&b' ')
}

fn has_end(read: &[u8]) -> bool {
    let ends: [&[u8]; 2] = [b"\r\n\r\n", b"\n\n"];
    ends.iter().any(|end| memmem::find(read, end).is_some())
}

impl Gateway {
    /// Reads on until the head of a request is there, of which this was read. `None` when the
    /// connection has ended: it broke off, took too long, or the head was too long and is refused.
    pub(super) async fn read_head(
        &self,
        stream: &mut Stream,
        mut read: BytesMut,
    ) -> Option<BytesMut> {
        let began = Instant::now();
        let until = began + self.connections.head_timeout;
        loop {
            match self.heads.look(&read) {
                Look::There => return Some(read),
                Look::Unfinished => {}
                refused => {
                    drop(read);
                    let error = self.heads.error(&refused);
                    self.refuse_head(stream, error, began).await;
                    return None;
                }
            }
            read.reserve(READ_BYTES);
            tokio::select! {
                biased;
                more = stream.read_buf(&mut read) => more.ok().filter(|bytes| *bytes > 0)?,
                () = tokio::time::sleep_until(until) => return None,
                () = self.server.draining.cancelled() => return None,
            };
        }
    }

    async fn refuse_head(&self, stream: &mut Stream, error: ServeError, began: Instant) {
        let reply = self.refuse(error, None);
        let writing = Writing {
            head_only: false,
            goes_on: false,
            write_timeout: self.keeping.write_timeout,
        };
        let sent = writing.write(stream, reply).await;
        let metrics = self.server.metrics.unmatched();
        let status = sent.status.as_u16();
        metrics.observe(Method::Other, Mode::None, status, began.elapsed());
        if sent.broken.is_none() {
            let _ = timeout(DRAIN_TIME_MAX, drain(stream)).await;
        }
    }
}

/// Reads on and forgets: a connection that is closed before all of it is read may lose the answer.
async fn drain(stream: &mut Stream) {
    let mut forgotten = BytesMut::with_capacity(READ_BYTES);
    let _ = AsyncWriteExt::shutdown(stream).await;
    while stream
        .read_buf(&mut forgotten)
        .await
        .is_ok_and(|read| read > 0)
    {
        forgotten.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        target_bytes_max: 100,
        header_bytes_max: 1000,
    };

    fn look(text: &str) -> Look {
        LIMITS.look(text.as_bytes())
    }

    #[test]
    fn a_head_is_there_with_its_last_line() {
        let head = "\r\n\r\nPOST /a%20b HTTP/1.1\r\nhost: x\r\na:\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(look(&head[..end]), Look::Unfinished, "{:?}", &head[..end]);
        }
        assert_eq!(look(head), Look::There);
        assert_eq!(look(&format!("{head}body\n")), Look::There);
        assert_eq!(look("GET / HTTP/1.1\na: b\n\n"), Look::There);
    }

    #[test]
    fn what_a_session_refuses_is_not_read_on() {
        for wrong in [
            "\u{16}\u{3}\u{1}",
            "GET / HTTP/1.1\r\na b: c\r\n",
            "GET / HTTP/1.1\r\na\0: c\r\n",
            "G\u{e4}T / HTTP/1.1\r\n",
        ] {
            assert_eq!(look(wrong), Look::There, "{wrong:?}");
        }
    }

    #[test]
    fn a_target_that_a_session_mends_is_read_to_the_end_of_its_head() {
        let head = "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n";
        for end in 3..head.len() {
            assert_eq!(look(&head[..end]), Look::Unfinished, "{:?}", &head[..end]);
        }
        assert_eq!(look(head), Look::There);
        assert_eq!(look("GET /a b HTTP/1.1\nhost: x\n\n"), Look::There);
        let endless = format!("GET /a b HTTP/1.1\r\na: {}", "x".repeat(LIMITS.bytes_max()));
        assert_eq!(look(&endless), Look::HeadersTooLarge);
    }

    #[test]
    fn an_endless_head_is_too_long() {
        let most = LIMITS.bytes_max();
        let begun = "GET / HTTP/1.1\r\na: ";
        let fits = format!("{begun}{}", "x".repeat(most - begun.len()));
        assert_eq!(look(&fits), Look::Unfinished);
        assert_eq!(look(&format!("{fits}x")), Look::HeadersTooLarge);
        assert_eq!(look(&format!("{fits}\r\n\r\n")), Look::There);
        let target = format!("\r\nGET /{}", "x".repeat(most));
        assert_eq!(look(&target), Look::TargetTooLong);
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(
            look(&format!("GET / HTTP/1.1\r\n{many}")),
            Look::HeadersTooLarge
        );
        assert_eq!(look(&"\n".repeat(most + 1)), Look::TargetTooLong);
    }
}
