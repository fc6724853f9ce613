//! The figures of recordings.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::registrar::Registrar;
use crate::types::Outcome;

/// From an upstream on the same machine to a model that thinks: seconds.
const FIRST_BYTE_BUCKETS_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// From one synced write to a disk in trouble: seconds.
const ADDED_BUCKETS_SECONDS: [f64; 13] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
];

/// How a request came to a recording that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the key of its request.
    Key,
    /// By the event that its client saw last.
    LastEvent,
    /// By the URL of its stream.
    StreamUrl,
    /// As one more client of a feed.
    Feed,
}

impl Way {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 4] = [Self::Key, Self::LastEvent, Self::StreamUrl, Self::Feed];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::LastEvent => "last_event",
            Self::StreamUrl => "stream_url",
            Self::Feed => "feed",
        }
    }
}

/// The figures of recordings.
#[derive(Debug)]
pub struct Recordings {
    /// Recordings that run now.
    pub running: IntGauge,
    /// Bytes that upstreams sent and that were recorded.
    pub bytes: IntCounter,
    /// Upstream calls that were made for recordings.
    pub calls: IntCounter,
    /// Seconds from a request to the head of its upstream's answer.
    pub first_byte_seconds: Histogram,
    /// Seconds from when a piece came until it was durable, and with its readers.
    pub added_seconds: Histogram,
    /// Clients that left before the end of an answer whose recording went on; of a feed, which has no
    /// end, none.
    pub disconnects: IntCounter,
    /// Connections to upstreams of feeds that were made again.
    pub reconnects: IntCounter,
    ended: [IntCounter; Outcome::ALL.len()],
    attached: [IntCounter; Way::ALL.len()],
}

impl Recordings {
    /// How many recordings ended so.
    pub fn ended(&self, outcome: Outcome) -> &IntCounter {
        &self.ended[outcome as usize]
    }

    /// How many requests came to a recording that was there, instead of an upstream call.
    pub fn attached(&self, way: Way) -> &IntCounter {
        &self.attached[way as usize]
    }

    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let ended = registrar.counters(
            "headwater_ended_recordings_total",
            "Recordings that ended, by outcome.",
            &["outcome"],
        );
        let attached = registrar.counters(
            "headwater_recording_attachments_total",
            "Requests that came to a recording that was there, without an upstream call, by way.",
            &["way"],
        );
        Self {
            running: registrar.gauge("headwater_running_recordings", "Recordings that run now."),
            bytes: registrar.counter(
                "headwater_recorded_bytes_total",
                "Bytes of upstreams' answers that were recorded.",
            ),
            calls: registrar.counter(
                "headwater_recording_calls_total",
                "Upstream calls that were made at routes that record.",
            ),
            first_byte_seconds: registrar.histogram(
                "headwater_recording_first_byte_seconds",
                "Seconds from a request to the head of its upstream's answer.",
                &FIRST_BYTE_BUCKETS_SECONDS,
            ),
            added_seconds: registrar.histogram(
                "headwater_recording_added_seconds",
                "Seconds from when a piece of an answer came until it was durable and with its readers.",
                &ADDED_BUCKETS_SECONDS,
            ),
            disconnects: registrar.counter(
                "headwater_recording_disconnects_total",
                "Clients that left before the end of a recorded answer.",
            ),
            reconnects: registrar.counter(
                "headwater_feed_reconnects_total",
                "Connections to upstreams of feeds that were made again.",
            ),
            ended: Outcome::ALL.map(|outcome| ended.with_label_values(&[outcome.as_str()])),
            attached: Way::ALL.map(|way| attached.with_label_values(&[way.as_str()])),
        }
    }
}
