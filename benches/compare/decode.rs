//! Answers of HTTP/1.1, decoded as they come, however they are cut.

use crate::http::{bad, field, status};
use memchr::memchr;
use std::io;

/// What is found in the bytes of a connection.
pub(crate) enum Part<'a> {
    /// Bytes of the body; of a long one, there are many such parts.
    Body(&'a [u8]),
    /// The answer is complete.
    End(Head<'a>),
}

/// The head of an answer.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) status: u16,
    lines: &'a [u8],
}

impl<'a> Head<'a> {
    /// The value of a header field; `name` is in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        field(self.lines, name)
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Head,
    /// So many bytes of a body of known length.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk, its CRLF included.
    Chunk(u64),
    Trailers,
    /// A body that ends with the connection.
    Rest,
}

/// The decoder of one connection.
pub(crate) struct Decoder {
    next: Next,
    head: Vec<u8>,
    /// The beginning of a line of the chunked coding.
    line: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            next: Next::Head,
            head: Vec::with_capacity(512),
            line: Vec::new(),
        }
    }

    /// Decodes what was received, all of it.
    pub(crate) fn decode(
        &mut self,
        mut bytes: &[u8],
        visit: &mut impl FnMut(Part<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = match self.next {
                Next::Head => self.read_head(bytes)?,
                Next::Body(left) => {
                    let (body, rest) = split(bytes, left);
                    visit(Part::Body(body))?;
                    self.next = Next::Body(left - body.len() as u64);
                    rest
                }
                Next::ChunkSize | Next::Trailers => self.read_line(bytes)?,
                Next::Chunk(left) => {
                    let (chunk, rest) = split(bytes, left);
                    // The last two bytes are its CRLF.
                    let data = chunk.len().min(left.saturating_sub(2) as usize);
                    if data > 0 {
                        visit(Part::Body(&chunk[..data]))?;
                    }
                    self.next = match left - chunk.len() as u64 {
                        0 => Next::ChunkSize,
                        left => Next::Chunk(left),
                    };
                    rest
                }
                Next::Rest => {
                    visit(Part::Body(bytes))?;
                    &[]
                }
            };
            if self.next == Next::Body(0) {
                let status = status(&self.head)?;
                let lines = &self.head;
                visit(Part::End(Head { status, lines }))?;
                self.head.clear();
                self.next = Next::Head;
            }
        }
        Ok(())
    }

    /// Takes lines of the head, and what follows it.
    fn read_head<'a>(&mut self, mut bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        while let Some(end) = memchr(b'\n', bytes) {
            self.head.extend_from_slice(&bytes[..=end]);
            bytes = &bytes[end + 1..];
            if self.head.ends_with(b"\r\n\r\n") {
                self.next = self.after_head()?;
                return Ok(bytes);
            }
        }
        self.head.extend_from_slice(bytes);
        Ok(&[])
    }

    fn after_head(&self) -> io::Result<Next> {
        if let Some(length) = field(&self.head, "content-length") {
            let length = length.parse();
            return length
                .map(Next::Body)
                .map_err(|_| bad("its length is not a number"));
        }
        let chunked = field(&self.head, "transfer-encoding").is_some();
        Ok(match status(&self.head)? {
            204 | 304 => Next::Body(0),
            _ if chunked => Next::ChunkSize,
            _ => Next::Rest,
        })
    }

    /// Takes a line of the chunked coding.
    fn read_line<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        let Some(end) = memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            return Ok(&[]);
        };
        self.line.extend_from_slice(&bytes[..end]);
        let line = std::str::from_utf8(&self.line).map(str::trim);
        let line = line.map_err(|_| bad("a chunk is broken"))?;
        self.next = match self.next {
            Next::Trailers if line.is_empty() => Next::Body(0),
            Next::Trailers => Next::Trailers,
            _ => match u64::from_str_radix(line, 16) {
                Ok(0) => Next::Trailers,
                Ok(size) => Next::Chunk(size + 2),
                Err(_) => return Err(bad("a chunk is broken")),
            },
        };
        self.line.clear();
        Ok(&bytes[end + 1..])
    }
}

fn split(bytes: &[u8], left: u64) -> (&[u8], &[u8]) {
    bytes.split_at(left.min(bytes.len() as u64) as usize)
}
