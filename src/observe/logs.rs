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
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use self::json::JsonLines;
use super::sink::{Sink, Weight};
use super::{access, redact};
use crate::config::{LogFormat, Logging};

/// The level when none is configured.
pub const DEFAULT_LEVEL: &str = "info";

/// The words that are a level by themselves.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Libraries whose lines below `warn` are about their own workings. A directive that names one of
/// them goes before this.
const NOISY: [&str; 6] = ["pingora", "h2", "hyper", "reqwest", "rustls", "tower"];

/// Why logging could not be started.
#[derive(Debug, Error)]
pub enum LogError {
    /// The level is not one, nor a list of directives.
    #[error(
        "\"{0}\" is not a log level: it is one of off, error, warn, info, debug, trace, or \
         directives like \"info,headwater::access=off\""
    )]
    Level(String),
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
/// is not set. The level is one, or a list of directives of `tracing`'s `EnvFilter`; empty, it is
/// [`DEFAULT_LEVEL`]. Lines that must be dropped are counted in `dropped`
/// (`Metrics::dropped_log_lines`).
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

/// Whether [`init`] would take the level, for a configuration that is only checked.
pub fn check(logging: &Logging) -> Result<(), LogError> {
    filter(logging).map(|_| ())
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

/// Parses the level, and quietens the [`NOISY`] libraries unless it names them.
fn filter(logging: &Logging) -> Result<EnvFilter, LogError> {
    let level = &logging.level;
    let wrong = || LogError::Level(level.clone());
    let mut base = DEFAULT_LEVEL.to_owned();
    let mut directives = Vec::new();
    for directive in level.split(',').map(str::trim) {
        if directive.is_empty() {
            continue;
        }
        if directive.contains(['=', '[']) {
            directives.push(directive.to_owned());
            continue;
        }
        // `EnvFilter` takes any other word for the name of a target, so that "inof" would silence
        // everything without a word.
        base = directive.to_ascii_lowercase();
        if !LEVELS.contains(&base.as_str()) {
            return Err(wrong());
        }
    }
    let quiet = match base.as_str() {
        "off" | "error" => base.as_str(),
        _ => "warn",
    };
    let mut all: Vec<String> = NOISY
        .iter()
        .map(|library| format!("{library}={quiet}"))
        .collect();
    all.extend(directives);
    if !logging.access {
        all.push(format!("{}=off", access::TARGET));
    }
    all.push(base);
    EnvFilter::builder()
        .parse(all.join(","))
        .map_err(|_| wrong())
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
