//! An upstream for the tests of reverse proxying: it takes requests apart strictly, remembers them,
//! and answers each as a test says, byte by byte if need be.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::{PATIENCE, Server, Setup, free_port};

/// The head of a request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Which of the upstream's connections it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Call {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter();
        headers
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The one value of a header, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there twice: {self:?}");
        all.first().copied()
    }
}

/// One end of a connection.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// The connection of a request, to answer on.
pub(crate) struct Peer {
    stream: BufReader<Box<dyn Stream>>,
}

impl Peer {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Answers with 200 and this body.
    pub(crate) fn answer(&mut self, body: &[u8]) -> io::Result<()> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat())
    }

    /// Begins an answer that comes in chunks.
    pub(crate) fn begin_chunked(&mut self, content_type: &str) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        self.send(head.as_bytes())
    }

    /// A chunk; an empty one ends the answer.
    pub(crate) fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = format!("{:x}\r\n", bytes.len());
        self.send(&[size.as_bytes(), bytes, b"\r\n"].concat())
    }

    /// The next bytes that come, whatever they mean; none when the connection has ended.
    pub(crate) fn read_some(&mut self) -> io::Result<Vec<u8>> {
        let mut some = vec![0; 64 << 10];
        let read = self.stream.read(&mut some)?;
        some.truncate(read);
        Ok(some)
    }

    /// The body of a request, whole.
    pub(crate) fn body(&mut self, call: &Call) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.body_parts(call, &mut |part| body.extend_from_slice(part))?;
        Ok(body)
    }

    /// The body of a request, in parts.
    pub(crate) fn body_parts(
        &mut self,
        call: &Call,
        part: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        if call.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.next_chunk()? {
                part(&chunk);
            }
            return Ok(());
        }
        let mut left = call.header("content-length").map_or(0, number);
        while left > 0 {
            let mut bytes = vec![0; left.min(64 << 10)];
            self.stream.read_exact(&mut bytes)?;
            left -= bytes.len();
            part(&bytes);
        }
        Ok(())
    }

    /// The next chunk of a request's body; none at its end.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16).expect("the size of a chunk");
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk)?;
        assert_eq!(self.line()?, "", "after a chunk");
        Ok((size > 0).then_some(chunk))
    }

    /// The next request on this connection; none when it has ended in between two.
    fn call(&mut self, connection: usize) -> io::Result<Option<Call>> {
        if self.stream.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let line = self.line()?;
        let parts: Vec<_> = line.split(' ').collect();
        let [method, target, "HTTP/1.1"] = parts[..] else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, line));
        };
        let mut call = Call {
            connection,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Some(call));
            }
            let (name, value) = line.split_once(": ").expect("a header");
            call.headers.push((name.to_owned(), value.to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

type Handler = dyn Fn(&Call, &mut Peer) -> io::Result<()> + Send + Sync;

/// A running upstream. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct Upstream {
    url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    malformed: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// One that answers each request by `handler`, which reads the body; after an error of it, the
    /// connection is closed.
    pub(crate) fn start(
        handler: impl Fn(&Call, &mut Peer) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), handler)
    }

    pub(crate) fn start_at(
        address: SocketAddr,
        handler: impl Fn(&Call, &mut Peer) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let address = listener.local_addr().expect("the address");
        let accept = move || {
            let stream: TcpStream = listener.accept()?.0;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream) as _)
        };
        Self::run(format!("http://{address}"), accept, Arc::new(handler))
    }

    /// One at a Unix socket.
    pub(crate) fn start_unix(
        path: &Path,
        handler: impl Fn(&Call, &mut Peer) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).expect("bind");
        let accept = move || {
            let stream: UnixStream = listener.accept()?.0;
            Ok(Box::new(stream) as _)
        };
        let url = format!("unix:{}", path.display());
        Self::run(url, accept, Arc::new(handler))
    }

    /// One that answers each request with its body.
    pub(crate) fn echo() -> Self {
        Self::start(|call, peer| {
            let body = peer.body(call)?;
            peer.answer(&body)
        })
    }

    fn run(
        url: String,
        accept: impl Fn() -> io::Result<Box<dyn Stream>> + Send + 'static,
        handler: Arc<Handler>,
    ) -> Self {
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let remembered = calls.clone();
        let malformed = Arc::<Mutex<Vec<String>>>::default();
        let lines = malformed.clone();
        thread::spawn(move || {
            for connection in 0.. {
                let Ok(stream) = accept() else { return };
                let (handler, calls) = (handler.clone(), remembered.clone());
                let malformed = lines.clone();
                thread::spawn(move || {
                    let mut peer = Peer {
                        stream: BufReader::new(stream),
                    };
                    loop {
                        let call = match peer.call(connection) {
                            Ok(Some(call)) => call,
                            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                                malformed.lock().expect("lines").push(error.to_string());
                                return;
                            }
                            _ => return,
                        };
                        calls.lock().expect("calls").push(call.clone());
                        if handler(&call, &mut peer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            url,
            calls,
            malformed,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The requests that came so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("calls").clone()
    }

    /// What came in place of a request line, such as what is left of a body that ended twice.
    pub(crate) fn malformed(&self) -> Vec<String> {
        self.malformed.lock().expect("lines").clone()
    }

    pub(crate) fn last_call(&self) -> Call {
        self.calls().last().expect("a call").clone()
    }
}

/// A server whose every path but those of streams goes to upstreams, with these settings besides.
pub(crate) fn proxy(upstreams: &[&str], settings: &str) -> Server {
    proxy_with(upstreams, settings, Setup::quick())
}

pub(crate) fn proxy_with(upstreams: &[&str], settings: &str, setup: Setup) -> Server {
    let site = format!(
        "{}\n[[site.route]]\npath = \"/*\"\n[site.route.reverse_proxy]\nupstreams = {upstreams:?}\n{settings}\n",
        setup.site,
    );
    Setup { site, ..setup }.start()
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> String {
    format!("http://127.0.0.1:{}", free_port())
}
