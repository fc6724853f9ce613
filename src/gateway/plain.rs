//! Plain requests: those that need no session.
//!
//! Most requests are appends to local streams and reads of them, and come whole with their first
//! bytes. They are read, answered and written here, for half of what a session costs: a session is
//! made to pass on whatever there is. A request that is not plain is left as it came, and a session
//! begins with the same bytes: it alone answers what is unusual, ambiguous or wrong. Readers of
//! events, who ask seldom, have one as well.

use super::facts::access_of;
use super::respond::Sent;
use super::routes::{Kind, Route};
use super::session::{Asked, Gateway, mode};
use super::wire::{READ_BYTES, Writing, left};
use crate::observe::access;
use crate::observe::metrics::{Live, Mode as ModeLabel};
use crate::protocol::request::{self, Command, Mode, RequestError};
use crate::serve::{self, Reply, ServeError, Target};
use crate::waits::{Alarm, Seldom};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use httparse::Status;
use pingora::protocols::Stream;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// Bytes of a plain request at the most, with what follows it. They do not count against what all
/// bodies may take.
const PLAIN_BYTES_MAX: usize = 16 * 1024;
/// Headers of a plain request at the most.
const HEADERS_MAX: usize = 32;

/// A request of HTTP/1.1 that came whole and asks nothing of its connection.
struct Plain {
    parts: Parts,
    body: Bytes,
    /// Bytes of the request.
    bytes: usize,
}

/// A plain request for a stream of a route.
struct Call<'a> {
    request: Plain,
    command: Result<Command, RequestError>,
    route: &'a Arc<Route>,
    streams: &'a serve::Route,
}

impl Gateway {
    /// Answers the plain requests with which a connection goes on; `ahead` is what was read of it
    /// before. Returns what was read of the first request that is not plain, its head at least; `None`
    /// when the connection has ended.
    pub(super) async fn serve_plain(
        &self,
        stream: &mut Stream,
        mut ahead: BytesMut,
    ) -> Option<BytesMut> {
        let mut draining = Seldom::new(self.server.draining.cancelled());
        let mut idle = Alarm::default();
        loop {
            if ahead.is_empty() {
                let until = Instant::now() + self.connections.idle_timeout;
                tokio::select! {
                    biased;
                    read = read_ahead(stream, &mut ahead) => read?,
                    () = idle.until(until) => return None,
                    () = draining.end() => return None,
                };
            }
            let read = ahead.split().freeze();
            let Some(call) = self.call(&read) else {
                drop(ahead);
                // Boxed: it seldom waits.
                return Box::pin(self.read_head(stream, read.into())).await;
            };
            ahead.extend_from_slice(&read[call.request.bytes..]);
            drop(read);
            // Boxed: what waits is mostly idle.
            if !Box::pin(self.answer_plain(stream, &mut ahead, call, &mut draining)).await {
                return None;
            }
        }
    }

    /// The plain request that these bytes begin with, if they do.
    fn call(&self, read: &Bytes) -> Option<Call<'_>> {
        let request = Plain::parse(read)?;
        let parts = &request.parts;
        let target_bytes = parts.uri.path_and_query()?.as_str().len();
        let route = self.find_route(parts, target_bytes).ok()?;
        let Kind::Streams(streams) = &route.kind else {
            return None;
        };
        let command = request::parse(&parts.method, parts.uri.query(), &parts.headers);
        let events = matches!(&command, Ok(Command::Read(read)) if read.mode == Mode::Sse);
        let too_large = request.body.len() as u64 > self.bodies.bytes_max();
        (!events && !too_large).then_some(Call {
            request,
            command,
            route,
            streams,
        })
    }

    /// Answers a request. False if the connection ends with it.
    async fn answer_plain(
        &self,
        stream: &mut Stream,
        ahead: &mut BytesMut,
        call: Call<'_>,
        draining: &mut Seldom<impl Future<Output = ()>>,
    ) -> bool {
        let Plain { parts, body, .. } = call.request;
        let (route, streams, command) = (call.route, call.streams, call.command);
        let mut asked = Asked::new(parts.method.clone());
        asked.route = Some(route.clone());
        asked.mode = command.as_ref().map_or(ModeLabel::None, mode);
        let _in_flight = route.metrics.enter();
        let socket = access::enabled().then(|| stream.get_socket_digest());
        let client = socket
            .iter()
            .flatten()
            .find_map(|socket| socket.peer_addr());
        let access = || access_of(&parts, client, &parts.method, route.metrics.pattern());
        let waits_at = match &command {
            Ok(Command::Read(read)) if read.mode == Mode::LongPoll => Some(read.from),
            _ => None,
        };
        let served = async {
            let target = Target {
                route: streams,
                path: route.stream_path(&streams.config.namespace, parts.uri.path())?,
                location: None,
                resolve: &|_| None,
            };
            self.server.serve(&target, command?, body).await
        };
        let served: Option<Result<Reply, ServeError>> = match waits_at {
            None => Some(served.await),
            Some(from) => {
                access().live_opened(Live::LongPoll, &from);
                unless_left(served, stream, ahead).await
            }
        };
        let writing = Writing {
            head_only: parts.method == Method::HEAD,
            goes_on: !draining.has_ended(),
            write_timeout: self.keeping.write_timeout,
        };
        let sent = match served {
            Some(Ok(reply)) => writing.write(stream, reply).await,
            Some(Err(error)) => {
                let reply = self.refuse(error, Some(route));
                writing.write(stream, reply).await
            }
            None => Sent::client_left(),
        };
        self.finished(&access(), &asked, &sent);
        writing.goes_on && sent.broken.is_none()
    }
}

/// What is waited for, unless the client leaves before. What he sends ahead meanwhile belongs to his
/// next request.
async fn unless_left<T>(
    awaited: impl Future<Output = T>,
    stream: &mut Stream,
    ahead: &mut BytesMut,
) -> Option<T> {
    tokio::select! {
        biased;
        there = awaited => Some(there),
        () = left(stream, ahead) => None,
    }
}

/// Waits for a request, and takes what of it is there. `None` when none will come.
async fn read_ahead(stream: &mut Stream, ahead: &mut BytesMut) -> Option<()> {
    ahead.reserve(READ_BYTES);
    let read = stream.read_buf(ahead).await;
    read.ok().filter(|bytes| *bytes > 0)?;
    if ahead.len() >= READ_BYTES {
        // A longer one has room only from here on: those who wait hold little.
        ahead.reserve(PLAIN_BYTES_MAX - READ_BYTES);
        let mut rest = pin!(stream.read_buf(ahead));
        // What has not come, or has failed, is for a session to wait for, or to meet again.
        poll_fn(|context| Poll::Ready(rest.as_mut().poll(context).is_ready())).await;
    }
    Some(())
}

impl Plain {
    /// Reads the request that these bytes begin with; `None` if it is not plain.
    fn parse(read: &Bytes) -> Option<Self> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(read, &mut headers);
        let (Ok(Status::Complete(head_bytes)), Some(1)) = (parsed, request.version) else {
            return None;
        };
        let method = match request.method? {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "HEAD" => Method::HEAD,
            _ => return None,
        };
        // Readers of events are not plain, and not worth more.
        let target = request
            .path
            .filter(|target| target.starts_with('/') && !target.contains("live=sse"))?;
        let target = PathAndQuery::from_maybe_shared(read.slice_ref(target.as_bytes())).ok()?;
        let (headers, body_bytes) = fields(read, request.headers)?;
        let bytes = head_bytes.checked_add(body_bytes)?;
        if bytes > read.len() {
            return None;
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        parts.uri = Uri::from(target);
        parts.headers = headers;
        let body = read.slice(head_bytes..bytes);
        Some(Self { parts, body, bytes })
    }
}

/// The headers of a plain request, and how long its body is; `None` if they ask anything of the
/// connection, or leave in doubt who is asked or where the request ends.
fn fields(read: &Bytes, fields: &[httparse::Header<'_>]) -> Option<(HeaderMap, usize)> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    let mut body_bytes = None;
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(read.slice_ref(field.value)).ok()?;
        match name {
            header::HOST if headers.contains_key(header::HOST) => return None,
            header::HOST if field.value.contains(&b'@') => return None,
            header::CONTENT_LENGTH if body_bytes.is_some() => return None,
            header::CONTENT_LENGTH => body_bytes = Some(length(field.value)?),
            header::CONNECTION if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
            header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE | header::EXPECT => {
                return None;
            }
            _ => {}
        }
        headers.append(name, value);
    }
    headers
        .contains_key(header::HOST)
        .then_some((headers, body_bytes.unwrap_or(0)))
}

/// Digits alone, and not many: a plain request is small.
fn length(digits: &[u8]) -> Option<usize> {
    let plain = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| {
        let push = |length, digit: &u8| length * 10 + usize::from(digit - b'0');
        digits.iter().fold(0, push)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Plain> {
        Plain::parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_plain_request_is_read_and_what_follows_is_left() {
        let post =
            "POST /a%20b?c=d HTTP/1.1\r\nHost: x:1\r\nA: 1\r\na: 2\r\ncontent-length: 3\r\n\r\nabc";
        let plain = parse(&format!("{post}GET / HTTP/1.1\r\n")).unwrap();
        assert_eq!(plain.bytes, post.len());
        assert_eq!(plain.body, "abc");
        assert_eq!(plain.parts.method, Method::POST);
        assert_eq!(plain.parts.uri, "/a%20b?c=d");
        assert_eq!(plain.parts.headers["host"], "x:1");
        assert!(plain.parts.headers.get_all("a").iter().eq(["1", "2"]));
        let get = "GET / HTTP/1.1\r\nconnection: Keep-Alive\r\nhost:\r\n\r\n";
        let plain = parse(get).unwrap();
        assert_eq!((plain.bytes, plain.body.len()), (get.len(), 0));
    }

    #[test]
    fn what_is_unusual_is_not_plain() {
        let usual = "host: x\r\n";
        for (line, fields) in [
            ("GET / HTTP/1.0", usual),
            ("PUT / HTTP/1.1", usual),
            ("get / HTTP/1.1", usual),
            ("GET http://x/ HTTP/1.1", usual),
            ("GET * HTTP/1.1", usual),
            ("GET /?offset=-1&live=sse HTTP/1.1", usual),
            ("GET /\\ HTTP/1.1 ", usual),
            ("GET / HTTP/1.1", ""),
            ("GET / HTTP/1.1", "host: x\r\nhost: x\r\n"),
            ("GET / HTTP/1.1", "host: u@x\r\n"),
            ("GET / HTTP/1.1", "host: x\r\nconnection: close\r\n"),
            ("GET / HTTP/1.1", "host: x\r\nconnection: keep-alive, a\r\n"),
            ("GET / HTTP/1.1", "host: x\r\nupgrade: websocket\r\n"),
            ("GET / HTTP/1.1", "host: x\r\na : b\r\n"),
            ("GET / HTTP/1.1", "host: x\r\na: b\r\n c\r\n"),
            ("POST / HTTP/1.1", "host: x\r\nexpect: 100-continue\r\n"),
            (
                "POST / HTTP/1.1",
                "host: x\r\ntransfer-encoding: chunked\r\n",
            ),
            ("POST / HTTP/1.1", "host: x\r\ncontent-length: 1\r\n"),
            ("POST / HTTP/1.1", "host: x\r\ncontent-length: +0\r\n"),
            ("POST / HTTP/1.1", "host: x\r\ncontent-length:\r\n"),
            ("POST / HTTP/1.1", "host: x\r\ncontent-length: 0, 0\r\n"),
            (
                "POST / HTTP/1.1",
                "host: x\r\ncontent-length: 18446744073709551616\r\n",
            ),
            (
                "POST / HTTP/1.1",
                "host: x\r\ncontent-length: 0\r\ncontent-length: 0\r\n",
            ),
        ] {
            let text = format!("{line}\r\n{fields}\r\n");
            assert!(parse(&text).is_none(), "{text:?}");
        }
        let many = "a: b\r\n".repeat(HEADERS_MAX);
        assert!(parse(&format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n")).is_none());
        assert!(parse("GET / HTTP/1.1\r\nhost: x\r\n").is_none());
    }
}
