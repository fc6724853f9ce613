//! Lets a test read the log.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::IntCounter;

use super::{LogFormat, Logging, Output, Sink, filter, subscriber};

/// What `act` logs on this thread, by the same way that leads to stderr.
pub(in crate::observe) fn logged(
    format: LogFormat,
    level: &str,
    colours: bool,
    act: impl FnOnce(),
) -> String {
    logged_by(&logging(format, level), colours, act)
}

/// The same with all settings.
pub(super) fn logged_by(settings: &Logging, colours: bool, act: impl FnOnce()) -> String {
    let written = Shared::default();
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let sink = Sink::start(written.clone(), dropped.clone()).unwrap();
    let output = Output {
        sink: Arc::clone(&sink),
    };
    let filter = filter(settings).unwrap();
    let subscriber = subscriber(settings.format, filter, colours, output);
    tracing::subscriber::with_default(subscriber, act);
    sink.close();
    assert_eq!(dropped.get(), 0);
    let bytes = written.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

pub(super) fn logging(format: LogFormat, level: &str) -> Logging {
    Logging {
        format,
        level: level.to_owned(),
        access: true,
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
