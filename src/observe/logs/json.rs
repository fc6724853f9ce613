//! An event as one JSON object, all its fields at the top.
//!
//! The format that `tracing-subscriber` brings shows where in a library's source a line comes from,
//! as `log.file` and the like, when it came through the `log` crate. That is nobody's business, and
//! the target says enough.

use std::fmt::{self, Debug};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// The target of every event that came through the `log` crate; its own is in a field.
const BRIDGED_TARGET: &str = "log";
const BRIDGED_TARGET_FIELD: &str = "log.target";
const BRIDGED_FIELDS: &str = "log.";

/// Formats events as lines of JSON.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut object = Object::default();
        object.member("timestamp", &time);
        object.member("level", metadata.level().as_str());
        match metadata.target() {
            BRIDGED_TARGET => event.record(&mut Target(&mut object)),
            target => object.member("target", target),
        }
        event.record(&mut object);
        let line = object.end();
        writer.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)
    }
}

/// A JSON object that is being written.
#[derive(Default)]
struct Object {
    bytes: Vec<u8>,
}

impl Object {
    fn member<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.bytes
            .push(if self.bytes.is_empty() { b'{' } else { b',' });
        self.value(name);
        self.bytes.push(b':');
        self.value(value);
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        let begin = self.bytes.len();
        if serde_json::to_writer(&mut self.bytes, value).is_err() {
            self.bytes.truncate(begin);
            self.bytes.extend_from_slice(b"null");
        }
    }

    fn field<T: Serialize + ?Sized>(&mut self, field: &Field, value: &T) {
        if !field.name().starts_with(BRIDGED_FIELDS) {
            self.member(field.name(), value);
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(b"}\n");
        self.bytes
    }
}

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, &format!("{value:?}"));
    }
}

/// Finds the target of an event that came through the `log` crate.
struct Target<'a>(&'a mut Object);

impl Visit for Target<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == BRIDGED_TARGET_FIELD {
            self.0.member("target", value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}
