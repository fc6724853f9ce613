//! A client for HTTP/1.1 that is small enough to be seen through: it sends the
//! bytes it is given, and takes an answer only when it is framed correctly.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::PATIENCE;

/// The status line and headers of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let (_, value) = found.next()?;
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        Some(value)
    }

    /// A header that has to be there.
    pub(crate) fn expect(&self, name: &str) -> &str {
        self.header(name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

/// A whole answer.
#[derive(Clone)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl std::ops::Deref for Response {
    type Target = Head;
    fn deref(&self) -> &Head {
        &self.head
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        write!(f, "{:?} {body:?}", self.head)
    }
}

/// One connection. Nothing is sent but what a test asks for.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(64 << 10, stream),
        })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub(crate) fn send_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        self.send(&request(method, target, headers, body))
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    pub(crate) fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        self.send_request(method, target, headers, body)?;
        self.response_to(method)
    }

    /// The next answer, passing over interim ones.
    pub(crate) fn response(&mut self) -> io::Result<Response> {
        self.response_to("GET")
    }

    /// As `response`, for a request by this method: an answer to HEAD has no body.
    pub(crate) fn response_to(&mut self, method: &str) -> io::Result<Response> {
        let head = loop {
            let head = self.read_head()?;
            if head.status >= 200 {
                break head;
            }
        };
        let mut body = Vec::new();
        self.read_body(method, &head, &mut |part| body.extend_from_slice(part))?;
        Ok(Response { head, body })
    }

    pub(crate) fn read_head(&mut self) -> io::Result<Head> {
        let status_line = self.line()?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| malformed(&format!("status line {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Head { status, headers });
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| malformed(&format!("header {line:?}")))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// The body that follows a head, in parts, up to its end.
    pub(crate) fn read_body(
        &mut self,
        method: &str,
        head: &Head,
        part: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok(());
        }
        if let Some(encoding) = head.header("transfer-encoding") {
            if encoding != "chunked" {
                return Err(malformed(&format!("transfer-encoding {encoding:?}")));
            }
            while let Some(chunk) = self.read_chunk()? {
                part(&chunk);
            }
            return Ok(());
        }
        if let Some(length) = head.header("content-length") {
            let length: u64 = length
                .parse()
                .map_err(|_| malformed(&format!("content-length {length:?}")))?;
            return self.read_parts(length, part);
        }
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        part(&rest);
        Ok(())
    }

    /// The next chunk of a chunked body; none at its end.
    pub(crate) fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size = u64::from_str_radix(&line, 16)
            .map_err(|_| malformed(&format!("chunk size {line:?}")))?;
        let mut chunk = Vec::new();
        self.read_parts(size, &mut |part| chunk.extend_from_slice(part))?;
        let end = self.line()?;
        if !end.is_empty() {
            return Err(malformed(&format!("{end:?} after a chunk")));
        }
        Ok((size > 0).then_some(chunk))
    }

    /// Whether the server has closed the connection, after at most what it
    /// had still sent.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    fn read_parts(&mut self, length: u64, part: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let available = self.stream.fill_buf()?;
            if available.is_empty() {
                return Err(ended());
            }
            let take = available
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            part(&available[..take]);
            self.stream.consume(take);
            left -= take as u64;
        }
        Ok(())
    }

    /// A line without its CR LF.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ended());
        }
        if !line.ends_with(b"\r\n") {
            return Err(malformed(&format!(
                "line {:?}",
                String::from_utf8_lossy(&line)
            )));
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|_| malformed("a header that is not UTF-8"))
    }
}

/// The bytes of an ordinary request.
pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + body.len());
    let _ = write!(bytes, "{method} {target} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        let _ = write!(bytes, "{name}: {value}\r\n");
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST") {
        let _ = write!(bytes, "content-length: {}\r\n", body.len());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed answer: {what}"),
    )
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended")
}

/// An event of a server-sent event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) data: String,
}

/// A live reader by server-sent events.
pub(crate) struct EventStream {
    connection: Connection,
    text: Vec<u8>,
}

impl EventStream {
    pub(crate) fn open(address: SocketAddr, target: &str) -> io::Result<Self> {
        let mut connection = Connection::open(address)?;
        connection.send_request("GET", target, &[], b"")?;
        let head = connection.read_head()?;
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.expect("content-type"), "text/event-stream");
        assert_eq!(head.expect("transfer-encoding"), "chunked");
        Ok(Self {
            connection,
            text: Vec::new(),
        })
    }

    /// The next event, passing over comments; none when the server has ended
    /// the answer properly, an error when it broke off.
    pub(crate) fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            while let Some(at) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..at + 2).collect();
                let block = String::from_utf8(block).expect("UTF-8");
                if let Some(event) = parse_event(&block) {
                    return Ok(Some(event));
                }
            }
            match self.connection.read_chunk()? {
                Some(chunk) => self.text.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    /// The fields of the next control event, and the data before it.
    pub(crate) fn next_batch(&mut self) -> io::Result<Option<(String, serde_json::Value)>> {
        let mut data = String::new();
        while let Some(event) = self.next()? {
            match event.kind.as_str() {
                "data" => data.push_str(&event.data),
                "control" => {
                    let control = serde_json::from_str(&event.data).expect("control is JSON");
                    return Ok(Some((data, control)));
                }
                other => panic!("an event {other:?}"),
            }
        }
        Ok(None)
    }
}

fn parse_event(block: &str) -> Option<Event> {
    let mut kind = None;
    let mut data = Vec::new();
    for line in block.lines() {
        if let Some(value) = line.strip_prefix("event:") {
            kind = Some(value.strip_prefix(' ').unwrap_or(value).to_owned());
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push(value.strip_prefix(' ').unwrap_or(value));
        } else {
            assert!(line.is_empty() || line.starts_with(':'), "a line {line:?}");
        }
    }
    Some(Event {
        kind: kind?,
        data: data.join("\n"),
    })
}
