//! Sessions over TLS and HTTP/2: those of the row `sessions`, many on each connection.

use super::sessions::{CONTENT_TYPE, TOKENS, token};
use super::{Case, Sizes, TLS, failed};
use crate::h2::{self, Call, Clients};
use crate::load::histogram;
use crate::meter::Meter;
use crate::servers::{Kind, Server, Setup};
use crate::stats::{Figure, Target, latency};
use bytes::Bytes;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use http::Method;
use std::cell::RefCell;
use std::io;
use std::time::Instant;

const SESSIONS: usize = 64;
const CONNECTIONS: usize = 8;

pub(super) fn case() -> Case {
    let title = format!(
        "sessions of {TOKENS} appends, {SESSIONS} at once, TLS and HTTP/2, {CONNECTIONS} connections"
    );
    let targets = [Target::at_least("sessions per second", 1.5)];
    Case::new(title, TLS, &targets, measure)
}

/// Nanoseconds that things took.
struct Times {
    sessions: Histogram<u64>,
    requests: Histogram<u64>,
}

struct Sessions {
    clients: Clients,
    whole: String,
    times: RefCell<Times>,
}

fn measure(setup: &Setup, kind: Kind, sizes: &Sizes) -> io::Result<Vec<Figure>> {
    let server = Server::start_tls(setup, kind)?;
    let runtime = h2::runtime()?;
    let sessions = Sessions {
        clients: runtime.block_on(Clients::connect(&server, CONNECTIONS))?,
        whole: (0..TOKENS).map(token).collect(),
        times: RefCell::new(Times {
            sessions: histogram(),
            requests: histogram(),
        }),
    };
    let meter = Meter::begin(&server)?;
    let begun = Instant::now();
    let until = begun + sizes.time();
    let all = (0..SESSIONS).map(|index| sessions.repeat(index, until));
    runtime.block_on(try_join_all(all))?;
    let elapsed = begun.elapsed();
    let times = sessions.times.borrow();
    let rate = times.sessions.len() as f64 / elapsed.as_secs_f64();
    let mut figures = vec![Figure::more("sessions per second", rate)];
    figures.extend(latency("whole session ", &times.sessions));
    figures.extend(latency("request ", &times.requests));
    figures.extend(meter.figures(&server, times.requests.len())?);
    Ok(figures)
}

impl Sessions {
    /// One session after another; the last may end later.
    async fn repeat(&self, index: usize, until: Instant) -> io::Result<()> {
        let mut number = 0;
        while number == 0 || Instant::now() < until {
            let begun = Instant::now();
            let stream = format!("session/{index}/{number}");
            self.session(index, &stream).await?;
            let took = begun.elapsed().as_nanos() as u64;
            self.times.borrow_mut().sessions.saturating_record(took);
            number += 1;
        }
        Ok(())
    }

    async fn session(&self, index: usize, stream: &str) -> io::Result<()> {
        let typed = &[("content-type", CONTENT_TYPE)];
        let call = |method, fields, body| Call {
            method,
            target: stream,
            fields,
            body,
        };
        let create = call(Method::PUT, typed, Bytes::new());
        self.timed(index, create, 201, "a PUT").await?;
        for number in 0..TOKENS {
            let append = call(Method::POST, typed, token(number).into());
            self.timed(index, append, 204, "an append").await?;
        }
        let close = call(Method::POST, &[("stream-closed", "true")], Bytes::new());
        self.timed(index, close, 204, "closing").await?;
        let read = self.timed(index, Call::get(stream), 200, "a GET").await?;
        if read == self.whole.as_bytes() {
            Ok(())
        } else {
            Err(failed("a session was read with other content"))
        }
    }

    /// Sends a request, and takes its answer whole.
    async fn timed(
        &self,
        index: usize,
        call: Call<'_>,
        status: u16,
        what: &str,
    ) -> io::Result<Vec<u8>> {
        let begun = Instant::now();
        let answer = self.clients.send(index, call).await?;
        let body = answer.expect(status, what)?.rest().await?;
        let took = begun.elapsed().as_nanos() as u64;
        self.times.borrow_mut().requests.saturating_record(took);
        Ok(body)
    }
}
