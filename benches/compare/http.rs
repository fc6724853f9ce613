//! Just enough HTTP/1.1 to make requests and to read answers.

use crate::decode::{Decoder, Part};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Every stream of a measurement lies below this path, which both servers serve.
pub(crate) const PREFIX: &str = "/v1/stream/";

const TIMEOUT: Duration = Duration::from_mins(1);
const BUFFER_BYTES: usize = 64 * 1024;

/// Writes the head of a request. `fields` are header lines, each ended by CRLF.
pub(crate) fn put_head(out: &mut Vec<u8>, method: &str, stream: &str, fields: &str) {
    for part in [
        method,
        " ",
        PREFIX,
        stream,
        " HTTP/1.1\r\nHost: localhost\r\n",
        fields,
        "\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

pub(crate) fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("an answer is unusable: {what}"),
    )
}

/// The status of an answer.
pub(crate) fn status(head: &[u8]) -> io::Result<u16> {
    let digits = head
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| bad("it has no status"))
}

/// The value of a header field; `name` is in lower case.
pub(crate) fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let name = name.as_bytes();
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let value = line.get(name.len()..)?.strip_prefix(b":")?;
        let named = line[..name.len()].eq_ignore_ascii_case(name);
        named.then(|| std::str::from_utf8(value).map(str::trim).ok())?
    })
}

/// A connection for what is not measured: set-up and verification.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, read whole.
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) closed: bool,
    pub(crate) up_to_date: bool,
    /// The offset to read on from.
    pub(crate) next: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        stream: &str,
        fields: &str,
        body: &[u8],
    ) -> io::Result<()> {
        let mut request = Vec::with_capacity(256 + body.len());
        let fields = format!("{fields}Content-Length: {}\r\n", body.len());
        put_head(&mut request, method, stream, &fields);
        request.extend_from_slice(body);
        self.stream.write_all(&request)
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        stream: &str,
        fields: &str,
        body: &[u8],
    ) -> io::Result<Whole> {
        self.send(method, stream, fields, body)?;
        self.receive()
    }

    pub(crate) fn receive(&mut self) -> io::Result<Whole> {
        let mut decoder = Decoder::new();
        let mut body = Vec::new();
        let mut whole = None;
        while whole.is_none() {
            let bytes = self.stream.read(&mut self.buffer)?;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            decoder.decode(&self.buffer[..bytes], &mut |part| {
                match part {
                    Part::Body(piece) => body.extend_from_slice(piece),
                    Part::End(head) => {
                        whole = Some(Whole {
                            status: head.status,
                            closed: head.field("stream-closed").is_some(),
                            up_to_date: head.field("stream-up-to-date").is_some(),
                            next: head.field("stream-next-offset").map(str::to_owned),
                            body: std::mem::take(&mut body),
                        });
                    }
                }
                Ok(())
            })?;
        }
        whole.ok_or_else(|| bad("it is not complete"))
    }

    /// Creates a stream; that it is there already is a failure.
    pub(crate) fn create(
        &mut self,
        stream: &str,
        content_type: &str,
        body: &[u8],
    ) -> io::Result<()> {
        let fields = format!("Content-Type: {content_type}\r\n");
        match self.request("PUT", stream, &fields, body)?.status {
            201 => Ok(()),
            status => Err(io::Error::other(format!(
                "PUT {stream} was answered with {status}"
            ))),
        }
    }

    /// Reads a stream from its beginning to its end.
    pub(crate) fn read_all(&mut self, stream: &str) -> io::Result<Vec<u8>> {
        self.read_from(stream, "-1")
    }

    /// Reads a stream from an offset to its end.
    pub(crate) fn read_from(&mut self, stream: &str, offset: &str) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        let mut offset = offset.to_owned();
        loop {
            let answer = self.request("GET", &format!("{stream}?offset={offset}"), "", b"")?;
            if answer.status != 200 {
                let status = answer.status;
                return Err(io::Error::other(format!(
                    "GET {stream} was answered with {status}"
                )));
            }
            data.extend_from_slice(&answer.body);
            if answer.up_to_date {
                return Ok(data);
            }
            offset = answer.next.ok_or_else(|| bad("it names no next offset"))?;
        }
    }
}
