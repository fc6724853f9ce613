//! Answers compressed: each once for a coding, and kept in memory with the answer that it is of.

use super::Cache;
use super::entry::{Entry, hold};
use super::key::Place;
use crate::protocol::coding::{coded_etag, is_text};
use crate::serve::{Turn, compress};
use crate::types::Coding;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

/// How a client would like the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The coding that it likes best of those that are offered.
    pub coding: Coding,
    /// The least bytes of a body for which that is worth while.
    pub bytes_min: u64,
}

/// The compressed forms of an answer.
#[derive(Default)]
pub(super) struct Codings([Form; Coding::ALL.len()]);

#[derive(Default)]
struct Form {
    /// Whether it was begun to make it.
    begun: AtomicBool,
    /// `None`: it would not be smaller, or there was no room for it.
    made: OnceLock<Option<Coded>>,
}

/// An answer in a compressed form.
#[derive(Clone)]
pub(super) struct Coded {
    pub(super) headers: Arc<HeaderMap>,
    pub(super) body: Bytes,
}

impl Codings {
    pub(super) fn of(&self, coding: Coding) -> Option<&Coded> {
        self.0[coding as usize].made.get()?.as_ref()
    }

    /// The same forms, of an answer with other headers.
    pub(super) fn with_headers(&self, headers: &HeaderMap) -> Self {
        let codings = Self::default();
        for coding in Coding::ALL {
            if let Some(made) = self.0[coding as usize].made.get() {
                let made = made.as_ref();
                codings.set(
                    coding,
                    made.map(|coded| Coded::new(headers, coding, coded.body.clone())),
                );
            }
        }
        codings
    }

    pub(super) fn bytes(&self) -> usize {
        let made = self.0.iter().filter_map(|form| form.made.get()?.as_ref());
        made.map(|coded| coded.body.len()).sum()
    }

    fn set(&self, coding: Coding, made: Option<Coded>) {
        let form = &self.0[coding as usize];
        form.begun.store(true, Ordering::Relaxed);
        let _ = form.made.set(made);
    }
}

impl Coded {
    fn new(headers: &HeaderMap, coding: Coding, body: Bytes) -> Self {
        let mut headers = headers.clone();
        let name = HeaderValue::from_static(coding.as_str());
        headers.insert(header::CONTENT_ENCODING, name);
        let etag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let etag = etag.map(|tag| coded_etag(tag, coding));
        if let Some(Ok(etag)) = etag.map(HeaderValue::try_from) {
            headers.insert(header::ETAG, etag);
        }
        Self {
            headers: Arc::new(headers),
            body,
        }
    }
}

/// Whether an answer with these headers becomes smaller by compressing, as far as can be told.
pub(super) fn may_be_coded(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(is_text) && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Who compresses an answer.
struct Job {
    entry: Arc<Entry>,
    coding: Coding,
    /// The memory for answers.
    room: Arc<Semaphore>,
    _turn: Turn,
}

impl Cache {
    /// Begins to make the form of an answer that a client wishes, unless that was done before, or as
    /// many are being made as may be at one time. Meanwhile the answer is given as it is.
    pub(super) fn begin_coding(&self, place: Place, entry: &Arc<Entry>, wish: Wish) {
        let begun = &entry.codings.0[wish.coding as usize].begun;
        let is_long = entry.body.len() as u64 >= wish.bytes_min;
        if begun.load(Ordering::Relaxed) || !is_long || !may_be_coded(&entry.headers) {
            return;
        }
        let Some(turn) = self.coding_turns.take() else {
            return;
        };
        if begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let job = Job {
            entry: entry.clone(),
            coding: wish.coding,
            room: self.room.clone(),
            _turn: turn,
        };
        let (index, metrics) = (self.index.clone(), self.metrics.clone());
        tokio::task::spawn_blocking(move || {
            let coded = job.make();
            metrics.cache.compressed.inc_by(u64::from(coded.is_some()));
            job.entry.codings.set(job.coding, coded);
            index.reweigh(place, &job.entry);
        });
    }
}

impl Job {
    fn make(&self) -> Option<Coded> {
        let body = match compress(self.coding, &[&self.entry.body]) {
            Ok(body) => body?,
            Err(error) => {
                let coding = self.coding.as_str();
                tracing::warn!(%error, coding, "an answer cannot be compressed");
                return None;
            }
        };
        let room = self.room.clone();
        let room = room.try_acquire_many_owned(body.len() as u32).ok()?;
        let body = hold(body.into(), 0, room);
        Some(Coded::new(&self.entry.headers, self.coding, body))
    }
}
