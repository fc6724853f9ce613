//! The log: its format, its level, and the way of a line to stderr.
//!
//! All lines come through `tracing`, also those of libraries that use the `log` crate, Pingora's
//! among them. A line is formatted where it is said and handed to a thread that writes it, so a
//! slow reader of the log never holds up a request; see [`Logs`].

mod json;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use prometheus::IntCounter;
use thiserror::Error;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use self::json::JsonLines;
use super::sink::{Sink, Weight};
use super::{access, redact};
use crate::config::{LogFormat, Logging, WrongLevel};

/// Libraries whose lines below `warn` are about their own workings. A directive that names one of
/// them goes before this.
const NOISY: [&str; 6] = ["pingora", "h2", "hyper", "reqwest", "rustls", "tower"];

/// It says at the level error that a connection which was kept has ended meanwhile; another is made
/// then. A directive that names Pingora lets it speak.
const CRIES_WOLF: &str = "pingora_core::connectors";

/// Why logging could not be started.
#[derive(Debug, Error)]
pub enum LogError {
    /// The level is none.
    #[error(transparent)]
    Level(#[from] WrongLevel),
    /// The directives cannot be used together.
    #[error("the levels of the log cannot be used: {0}")]
    Directives(#[from] ParseError),
    /// Something in this process logs already.
    #[error("logging was already started in this process")]
    Started,
    /// The thread that writes could not be started.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
}

/// The running log. Keep it until the end of `main`: dropping it writes out what is left.
///
/// Up to 1 MiB of lines wait for whoever reads stderr; beyond that they are dropped and counted,
/// those of the access log first. A line of the level error is waited for, up to 200 ms, so that it
/// is not lost when the process aborts after it.
#[must_use = "dropping it ends the log"]
pub struct Logs {
    sink: Arc<Sink>,
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.sink.close();
    }
}

/// Starts logging to stderr, once for the process: in colours when it is a terminal and `NO_COLOR`
/// is not set. Lines that must be dropped are counted in `dropped` (`Metrics::dropped_log_lines`).
pub fn init(logging: &Logging, dropped: IntCounter) -> Result<Logs, LogError> {
    let filter = filter(logging)?;
    let sink = Sink::start(io::stderr(), dropped).map_err(LogError::Thread)?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let output = Output {
        sink: Arc::clone(&sink),
    };
    let logs = Logs { sink };
    subscriber(logging.format, filter, colours, output)
        .try_init()
        .map_err(|_| LogError::Started)?;
    Ok(logs)
}

/// What formats lines and hands them to `output`.
fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    colours: bool,
    output: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(output);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.with_ansi(false).event_format(JsonLines).boxed(),
    };
    registry().with(filter).with(lines)
}

/// What reaches the log: by the configured level, with the [`NOISY`] libraries quiet unless it names
/// them.
fn filter(logging: &Logging) -> Result<EnvFilter, LogError> {
    let levels = logging.levels()?;
    let quiet = match levels.base.as_str() {
        base @ ("off" | "error") => base,
        _ => "warn",
    };
    let mut all: Vec<String> = NOISY
        .iter()
        .map(|library| format!("{library}={quiet}"))
        .collect();
    let named = |directive: &&str| directive.starts_with("pingora");
    if !levels.directives.iter().any(named) {
        all.push(format!("{CRIES_WOLF}=off"));
    }
    all.extend(levels.directives.into_iter().map(str::to_owned));
    if !logging.access {
        all.push(format!("{}=off", access::TARGET));
    }
    all.push(levels.base);
    Ok(EnvFilter::builder().parse(all.join(","))?)
}

/// Hands formatted lines to the sink.
struct Output {
    sink: Arc<Sink>,
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter {
            sink: &self.sink,
            weight: Weight::Normal,
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        let weight = if metadata.target() == access::TARGET {
            Weight::Access
        } else if *metadata.level() == Level::ERROR {
            Weight::Error
        } else {
            Weight::Normal
        };
        LineWriter {
            sink: &self.sink,
            weight,
        }
    }
}

/// Takes one line, which the formatter writes in one call.
struct LineWriter<'a> {
    sink: &'a Sink,
    weight: Weight,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (self.weight, str::from_utf8(line)) {
            // It holds only what `access` put there, which is clean.
            (Weight::Access, _) | (_, Err(_)) => self.sink.push(line, self.weight),
            (_, Ok(text)) => self.sink.push(redact::line(text).as_bytes(), self.weight),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod capture;
#[cfg(test)]
mod tests;
