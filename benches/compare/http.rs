//! Just enough HTTP/1.1 to make requests and to read answers.

use memchr::memmem;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Every stream of a measurement lies below this path, which both servers serve.
pub(crate) const PREFIX: &str = "/v1/stream/";

const TIMEOUT: Duration = Duration::from_mins(1);

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

/// An answer whose length is known.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// Bytes of head and body.
    pub(crate) bytes: usize,
}

/// The answer at the beginning of `received`; `None` if more must be read.
pub(crate) fn answer(received: &[u8]) -> io::Result<Option<Answer<'_>>> {
    let Some(end) = memmem::find(received, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &received[..end + 2];
    let status = status(head)?;
    let length = match field(head, "content-length") {
        Some(text) => text
            .parse()
            .map_err(|_| bad("its length is not a number"))?,
        None if status == 204 || status == 304 => 0,
        None => return Err(bad("it has no length")),
    };
    let begin = end + 4;
    let body = received.get(begin..begin + length);
    Ok(body.map(|body| Answer {
        status,
        body,
        bytes: begin + length,
    }))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("an answer is unusable: {what}"),
    )
}

fn status(head: &[u8]) -> io::Result<u16> {
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
    stream: BufReader<TcpStream>,
}

/// An answer, read whole.
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
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
        self.stream.get_mut().write_all(&request)
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
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = status(&head)?;
        let mut body = Vec::new();
        if let Some(length) = field(&head, "content-length") {
            let length = length
                .parse()
                .map_err(|_| bad("its length is not a number"))?;
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        } else if field(&head, "transfer-encoding").is_some() {
            while self.chunk(&mut body)? {}
        }
        Ok(Whole { status, head, body })
    }

    fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let length =
            usize::from_str_radix(line.trim(), 16).map_err(|_| bad("a chunk is broken"))?;
        let begin = body.len();
        body.resize(begin + length + 2, 0);
        self.stream.read_exact(&mut body[begin..])?;
        body.truncate(begin + length);
        Ok(length > 0)
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
        let mut data = Vec::new();
        let mut offset = "-1".to_owned();
        loop {
            let answer = self.request("GET", &format!("{stream}?offset={offset}"), "", b"")?;
            if answer.status != 200 {
                let status = answer.status;
                return Err(io::Error::other(format!(
                    "GET {stream} was answered with {status}"
                )));
            }
            data.extend_from_slice(&answer.body);
            if field(&answer.head, "stream-up-to-date").is_some() {
                return Ok(data);
            }
            let next = field(&answer.head, "stream-next-offset");
            let next = next.ok_or_else(|| bad("it names no next offset"))?;
            next.clone_into(&mut offset);
        }
    }
}
