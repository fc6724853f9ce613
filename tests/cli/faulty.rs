//! A small server of the protocol that fails on demand: it holds answers back, cuts them off, or
//! loses them after the work is done. The client has to get through all of that.

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

#[path = "store.rs"]
mod store;
#[path = "wire.rs"]
mod wire;

use store::{Store, Stream};
pub(crate) use wire::Request;
use wire::{Answer, offset, read_request, refuse, write_answer};

/// One event connection carries at most so many messages; then it is ended.
const EVENTS_MAX: usize = 5;
const LONG_POLL: Duration = Duration::from_millis(50);

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It is refused with this status and these headers, and nothing is done.
    Refuse(u16, Vec<(&'static str, &'static str)>),
    /// The connection is lost before anything is done.
    LoseRequest,
    /// What it asks for is done, and then the connection is lost.
    LoseAnswer,
    /// So many bytes of the answer's body arrive, and then the connection is lost.
    CutAnswer(usize),
    /// It is not looked at until another one was refused because this one is missing.
    UntilOvertaken,
}

/// Says what goes wrong with each request.
type Plan = Box<dyn FnMut(&Request) -> Fault + Send>;

#[derive(Default)]
struct State {
    store: Store,
    requests: Vec<Request>,
    plan: Option<Plan>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The server; it runs until the test process ends.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Starts a server on which all goes well.
    pub(crate) fn start() -> Self {
        Self::with_plan(|_| Fault::None)
    }

    /// Starts a server on which what `plan` says goes wrong.
    pub(crate) fn with_plan(plan: impl FnMut(&Request) -> Fault + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            plan: Some(Box::new(plan)),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let for_connections = shared.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let shared = for_connections.clone();
                // A connection that ends in an error has ended; that is all there is to it.
                std::thread::spawn(move || connection.map(|connection| shared.serve(&connection)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/stream", self.address)
    }

    /// Makes a stream.
    pub(crate) fn create(&self, name: &str, content_type: &str) {
        let stream = Stream {
            content_type: content_type.to_owned(),
            ..Stream::default()
        };
        let mut state = self.shared.state.lock().unwrap();
        state
            .store
            .streams
            .insert(format!("/v1/stream/{name}"), stream);
    }

    /// Appends a message behind the client's back.
    pub(crate) fn push(&self, name: &str, message: &[u8]) {
        self.change(name, |stream| stream.messages.push(message.to_vec()));
    }

    pub(crate) fn close(&self, name: &str) {
        self.change(name, |stream| stream.closed = true);
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Stream)) {
        let mut state = self.shared.state.lock().unwrap();
        let path = format!("/v1/stream/{name}");
        change(state.store.streams.get_mut(&path).unwrap());
        self.shared.changed.notify_all();
    }

    /// The messages of a stream, and whether it is closed.
    pub(crate) fn content(&self, name: &str) -> (Vec<String>, bool) {
        let state = self.shared.state.lock().unwrap();
        let stream = &state.store.streams[&format!("/v1/stream/{name}")];
        let text = |message: &Vec<u8>| String::from_utf8_lossy(message).into_owned();
        (stream.messages.iter().map(text).collect(), stream.closed)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// Waits until so many requests were read.
    pub(crate) fn wait_for_requests(&self, count: usize) {
        drop(self.shared.wait(|state| state.requests.len() < count));
    }
}

impl Shared {
    fn serve(&self, connection: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        while let Some(mut request) = read_request(&mut reader)? {
            let fault = self.note(&mut request);
            let answer = match &fault {
                Fault::Refuse(status, headers) => refuse(*status, headers),
                Fault::LoseRequest => return Ok(()),
                Fault::UntilOvertaken => {
                    drop(self.wait(|state| state.store.gaps == 0));
                    self.answer(&request)
                }
                _ => self.answer(&request),
            };
            let limit = match fault {
                Fault::LoseAnswer => return Ok(()),
                Fault::CutAnswer(bytes) => bytes,
                _ => usize::MAX,
            };
            if answer.status == 200 && request.asks_live("sse") {
                return self.events(connection, &request, limit);
            }
            if !write_answer(connection, &request, &answer, limit)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes down that the request has come, and says what goes wrong with it.
    fn note(&self, request: &mut Request) -> Fault {
        let mut state = self.state.lock().unwrap();
        request.number = state.requests.len();
        state.requests.push(request.clone());
        self.changed.notify_all();
        let plan = state.plan.as_mut();
        plan.map_or(Fault::None, |plan| plan(request))
    }

    /// Waits while it is so.
    fn wait(&self, mut so: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.state.lock().unwrap();
        self.changed.wait_while(state, |state| so(state)).unwrap()
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.state.lock().unwrap();
        if request.asks_live("long-poll") {
            let waits = |state: &mut State| {
                let stream = state.store.streams.get(&request.path);
                stream.is_some_and(|stream| stream.waits_at(stream.position(request)))
            };
            let waited = self.changed.wait_timeout_while(state, LONG_POLL, waits);
            state = waited.unwrap().0;
        }
        let answer = state.store.answer(request);
        self.changed.notify_all();
        answer
    }

    /// Sends messages as events, until the stream is closed or the connection has lived long enough.
    fn events(&self, mut out: &TcpStream, request: &Request, limit: usize) -> std::io::Result<()> {
        let (mut position, encoding) = {
            let state = self.state.lock().unwrap();
            let stream = &state.store.streams[&request.path];
            (stream.position(request), stream.encoding_header())
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";
        write!(out, "{head}{encoding}\r\n")?;
        let mut left = limit;
        for _ in 0..EVENTS_MAX {
            let mut text = String::from(": a comment\n\n");
            let state = self.wait(|state| state.store.streams[&request.path].waits_at(position));
            let stream = &state.store.streams[&request.path];
            if let Some(message) = stream.messages.get(position) {
                position += 1;
                text.push_str(&stream.data_event(message));
            }
            let ended = stream.closed && position >= stream.messages.len();
            drop(state);
            text.push_str(&control_event(position, ended));
            let part = &text.as_bytes()[..text.len().min(left)];
            left -= part.len();
            out.write_all(part)?;
            if ended || left == 0 {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn control_event(position: usize, ended: bool) -> String {
    let next = offset(position);
    let more = if ended {
        "\"streamClosed\":true"
    } else {
        "\"streamCursor\":\"7\""
    };
    format!("event: control\ndata:{{\"streamNextOffset\":\"{next}\",{more}}}\n\n")
}
