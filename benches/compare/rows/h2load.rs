//! Loads by `h2load`, over TLS and HTTP/2.

use super::{Sizes, failed};
use crate::http::PREFIX;
use crate::load::histogram;
use crate::meter::Meter;
use crate::servers::Server;
use crate::stats::Figure;
use hdrhistogram::Histogram;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

pub(super) const CONNECTIONS: usize = 32;

/// What `h2load` is to do.
pub(super) struct H2load<'a> {
    pub(super) server: &'a Server,
    /// Requests of one connection that are on their way at once.
    pub(super) streams: usize,
    /// Streams and offsets, which each connection asks for in turn.
    pub(super) targets: Vec<String>,
    pub(super) arguments: Vec<String>,
    /// Requests of the run that tells how many are needed to fill the time.
    pub(super) trial: usize,
    /// The number of requests is a multiple of this.
    pub(super) multiple: usize,
}

/// What a load did.
pub(super) struct Loaded {
    meter: Meter,
    pub(super) requests: usize,
    pub(super) per_second: f64,
    /// Bytes of bodies that came.
    pub(super) data: u64,
    /// Nanoseconds that requests took.
    pub(super) latency: Histogram<u64>,
}

impl Loaded {
    /// What so many units cost the server. The generator is a process of its own, which has ended.
    pub(super) fn costs(&self, server: &Server, units: f64, per: &str) -> io::Result<Vec<Figure>> {
        let mut costs = self.meter.figures_of(server, units, per)?;
        costs.retain(|figure| !figure.name.starts_with("generator"));
        Ok(costs)
    }
}

/// What `h2load` says.
struct Said {
    per_second: f64,
    data: u64,
}

impl H2load<'_> {
    /// Runs for about the time that is to be measured, after a trial.
    pub(super) fn run(&self, sizes: &Sizes) -> io::Result<Loaded> {
        let trial = self.once(self.trial)?;
        let requests = (trial.per_second * sizes.time().as_secs_f64()) as usize;
        let requests = requests.max(CONNECTIONS).next_multiple_of(self.multiple);
        fs::remove_file(self.log())?;
        let meter = Meter::begin(self.server)?;
        let said = self.once(requests)?;
        Ok(Loaded {
            meter,
            requests,
            per_second: said.per_second,
            data: said.data,
            latency: self.latency()?,
        })
    }

    fn log(&self) -> PathBuf {
        self.server.dir().join("h2load.log")
    }

    /// The log has one line for each request: when it began, its status, and its microseconds.
    fn latency(&self) -> io::Result<Histogram<u64>> {
        let mut times = histogram();
        for line in fs::read_to_string(self.log())?.lines() {
            let us = line.split_whitespace().nth(2);
            let us: u64 = us.and_then(|us| us.parse().ok()).unwrap_or(0);
            times.saturating_record(us * 1000);
        }
        Ok(times)
    }

    fn once(&self, requests: usize) -> io::Result<Said> {
        let tls = self.server.tls.ok_or_else(|| failed("it has no TLS"))?;
        let list = self.server.dir().join("targets");
        let urls = self.targets.iter();
        let urls = urls.map(|target| format!("https://{tls}{PREFIX}{target}\n"));
        fs::write(&list, urls.collect::<String>())?;
        let output = Command::new("h2load")
            .arg(format!("--requests={requests}"))
            .arg(format!("--clients={CONNECTIONS}"))
            .arg(format!("--max-concurrent-streams={}", self.streams))
            .arg(format!("--log-file={}", self.log().display()))
            .arg(format!("--input-file={}", list.display()))
            .args(&self.arguments)
            .output()
            .map_err(|error| failed(format!("h2load (Debian's nghttp2-client): {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let done = format!("{requests} succeeded, 0 failed");
        if !text.contains("Application protocol: h2") || !text.contains(&done) {
            return Err(failed(format!("h2load said: {text}")));
        }
        Said::of(&text)
    }
}

impl Said {
    fn of(text: &str) -> io::Result<Self> {
        let before = |mark: &str| {
            let end = text.find(mark)?;
            text[..end]
                .rsplit([' ', '(', ')', '\n'])
                .find(|word| !word.is_empty())
        };
        let per_second = before(" req/s").and_then(|rate| rate.parse().ok());
        let data = before(") data").and_then(|data| data.parse().ok());
        Ok(Self {
            per_second: per_second.ok_or_else(|| failed("h2load told no rate"))?,
            data: data.ok_or_else(|| failed("h2load told no bytes"))?,
        })
    }
}
