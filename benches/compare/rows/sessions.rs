//! The life of an answer of a language model: created, appended to token by token, closed, and read
//! whole.

use super::{FILES_MAX, Sizes, TIME_MAX, fill::expect};
use crate::decode::Head;
use crate::http;
use crate::load::{Load, Workload, histogram};
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, latency};
use hdrhistogram::Histogram;
use std::io;
use std::time::Instant;

pub(super) const TOKENS: usize = 200;
const TOKEN_BYTES: usize = 20;
pub(super) const CONTENT_TYPE: &str = "text/plain";
/// A session is so many requests.
const STEPS: usize = 1 + TOKENS + 1 + 1;

/// Where a connection is in its session.
struct Session {
    number: usize,
    step: usize,
    begun: Instant,
    read: usize,
}

struct Sessions {
    all: Vec<Session>,
    /// When no more sessions begin.
    until: Instant,
    whole: Vec<u8>,
    complete: u64,
    /// Nanoseconds that sessions took.
    lives: Histogram<u64>,
}

pub(super) fn token(index: usize) -> String {
    format!("token {index:013} ")
}

impl Sessions {
    fn new(count: usize, until: Instant) -> Self {
        let session = |_| Session {
            number: 0,
            step: 0,
            begun: Instant::now(),
            read: 0,
        };
        Self {
            all: (0..count).map(session).collect(),
            until,
            whole: (0..TOKENS).map(token).collect::<String>().into_bytes(),
            complete: 0,
            lives: histogram(),
        }
    }
}

impl Workload for Sessions {
    fn next(&mut self, connection: usize, due: Instant, request: &mut Vec<u8>) -> bool {
        let session = &mut self.all[connection];
        if session.step == 0 && session.number > 0 && due >= self.until {
            return false;
        }
        let stream = format!("session/{connection}/{}", session.number);
        let typed = format!("Content-Type: {CONTENT_TYPE}\r\n");
        match session.step {
            0 => {
                session.begun = due;
                let fields = format!("{typed}Content-Length: 0\r\n");
                http::put_head(request, "PUT", &stream, &fields);
            }
            step if step <= TOKENS => {
                let fields = format!("{typed}Content-Length: {TOKEN_BYTES}\r\n");
                http::put_head(request, "POST", &stream, &fields);
                request.extend_from_slice(token(step - 1).as_bytes());
            }
            step if step == TOKENS + 1 => {
                let fields = "Stream-Closed: true\r\nContent-Length: 0\r\n";
                http::put_head(request, "POST", &stream, fields);
            }
            _ => http::put_head(request, "GET", &stream, ""),
        }
        true
    }

    fn body(&mut self, connection: usize, piece: &[u8]) -> Result<(), String> {
        let session = &mut self.all[connection];
        if session.step + 1 == STEPS {
            let end = session.read + piece.len();
            if self.whole.get(session.read..end) != Some(piece) {
                return Err("a session was read with other content".to_owned());
            }
            session.read = end;
        }
        Ok(())
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        let session = &mut self.all[connection];
        match session.step {
            0 => expect(head, 201, "a PUT")?,
            step if step + 1 < STEPS => expect(head, 204, "an append")?,
            _ => expect(head, 200, "a GET")?,
        }
        session.step += 1;
        if session.step == STEPS {
            if session.read != self.whole.len() {
                return Err("a session was not read whole".to_owned());
            }
            self.complete += 1;
            let life = session.begun.elapsed();
            self.lives.saturating_record(life.as_nanos() as u64);
            *session = Session {
                number: session.number + 1,
                step: 0,
                begun: Instant::now(),
                read: 0,
            };
        }
        Ok(())
    }
}

/// So many sessions at once.
pub(super) fn measure(
    setup: &Setup,
    kind: Kind,
    sizes: &Sizes,
    count: usize,
) -> io::Result<Vec<Figure>> {
    let files = crate::open_files_max()?.max(FILES_MAX);
    let server = Server::start(setup, kind, files)?;
    let run = Load::closed(server.address, count, TIME_MAX).connect()?;
    // Each connection ends the session that it is in, and has at least one.
    let mut sessions = Sessions::new(count, Instant::now() + sizes.time());
    let meter = Meter::begin(&server)?;
    let outcome = run.run(&mut sessions)?.complete()?;
    let rate = sessions.complete as f64 / outcome.elapsed.as_secs_f64();
    let mut figures = vec![Figure::more("sessions per second", rate)];
    figures.extend(latency("whole session ", &sessions.lives));
    figures.extend(latency("request ", &outcome.latency));
    figures.extend(meter.figures(&server, outcome.operations)?);
    let payload = sessions.complete * (TOKENS * TOKEN_BYTES) as u64;
    figures.push(meter.amplification(&server, payload)?);
    Ok(figures)
}
