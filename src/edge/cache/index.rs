//! What is known of each answer: whether it is in memory, on disk, or being fetched.

use super::entry::Entry;
use super::flight::{Flight, Seat};
use super::key::{Digest, Place};
use super::lru::Lru;
use crate::types::UnixMs;
use http::HeaderMap;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

/// All answers, by stream and range.
///
/// The orders of use change only together with the map, under the lock of a stream's shard. Those
/// who have to leave are out of the order first; when they are taken out of the map, another may
/// have come to the same place, which stays.
pub(super) struct Index {
    shards: [RwLock<HashMap<Digest, Stream>>; SHARDS],
    pub(super) memory: Lru,
    pub(super) disk: Lru,
}

const SHARDS: usize = 64;

/// The answers of a stream.
struct Stream {
    /// By what it can be found without its origin.
    names: Names,
    slots: HashMap<Digest, Slot>,
}

/// By what a stream is found, besides its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Of its path.
    pub(super) path: Digest,
    /// Of the tags of its answers.
    pub(super) tags: Vec<Digest>,
}

/// One answer.
#[derive(Default)]
struct Slot {
    entry: Option<Arc<Entry>>,
    /// Whether a file has it.
    on_disk: bool,
    flight: Option<Arc<Flight>>,
}

/// How a request comes to its answer.
pub(super) enum Boarding {
    /// It is there by now.
    Ready(Arc<Entry>),
    /// Others have asked for it.
    Joined(Seat),
    /// It is the first.
    First(First),
}

/// What the first of those who ask begins with.
pub(super) struct First {
    pub(super) flight: Arc<Flight>,
    pub(super) seat: Seat,
    /// What there is, and is not fresh.
    pub(super) stale: Option<Arc<Entry>>,
    pub(super) on_disk: bool,
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.entry.is_none() && !self.on_disk && self.flight.is_none()
    }

    fn has(&self, flight: &Arc<Flight>) -> bool {
        let found = self.flight.as_ref();
        found.is_some_and(|found| Arc::ptr_eq(found, flight))
    }

    /// Whether this is what is in memory.
    fn holds(&self, entry: &Arc<Entry>) -> bool {
        let found = self.entry.as_ref();
        found.is_some_and(|found| Arc::ptr_eq(found, entry))
    }
}

impl Names {
    fn add(&mut self, names: Names) {
        self.path = names.path;
        for tag in names.tags {
            if !self.tags.contains(&tag) && self.tags.len() < TAGS_MAX {
                self.tags.push(tag);
            }
        }
    }
}

/// The most tags of a stream by which it is found.
pub(super) const TAGS_MAX: usize = 8;

impl Index {
    pub(super) fn new(memory: Lru, disk: Lru) -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            memory,
            disk,
        }
    }

    fn shard(&self, stream: Digest) -> &RwLock<HashMap<Digest, Stream>> {
        &self.shards[usize::from(stream[0]) % SHARDS]
    }

    /// What is in memory.
    pub(super) fn entry(&self, place: Place) -> Option<Arc<Entry>> {
        let shard = self.shard(place.stream).read();
        shard
            .get(&place.stream)?
            .slots
            .get(&place.range)?
            .entry
            .clone()
    }

    /// Notes that an answer was used.
    pub(super) fn touch(&self, place: Place) {
        let _unchanged = self.shard(place.stream).read();
        self.memory.touch(place);
        self.disk.touch(place);
    }

    /// Finds the answer, or who fetches it, or lets the caller be the one.
    pub(super) fn board(
        &self,
        place: Place,
        path: Digest,
        generation: u64,
        now_ms: UnixMs,
    ) -> Boarding {
        let mut shard = self.shard(place.stream).write();
        let stream = shard.entry(place.stream).or_insert_with(|| Stream {
            names: Names {
                path,
                tags: Vec::new(),
            },
            slots: HashMap::new(),
        });
        let slot = stream.slots.entry(place.range).or_default();
        if let Some(entry) = slot.entry.as_ref().filter(|it| it.ready(now_ms).is_some()) {
            return Boarding::Ready(entry.clone());
        }
        if let Some(flight) = slot
            .flight
            .as_ref()
            .filter(|it| it.generation >= generation)
        {
            return Boarding::Joined(flight.seat());
        }
        let flight = Arc::new(Flight::new(generation));
        slot.flight = Some(flight.clone());
        Boarding::First(First {
            seat: flight.seat(),
            flight,
            stale: slot.entry.clone(),
            on_disk: slot.on_disk,
        })
    }

    /// Puts an answer into memory, if it fits there. Returns `false`, and keeps nothing, if it is
    /// forgotten since its flight began.
    pub(super) fn keep(
        &self,
        place: Place,
        flight: &Arc<Flight>,
        entry: &Arc<Entry>,
        names: Names,
    ) -> bool {
        let left = {
            let mut shard = self.shard(place.stream).write();
            let Some(stream) = shard.get_mut(&place.stream) else {
                return false;
            };
            let Some(slot) = stream.slots.get_mut(&place.range) else {
                return false;
            };
            if !slot.has(flight) {
                return false;
            }
            stream.names.add(names);
            if !self.memory.fits(entry.weight()) {
                return true;
            }
            slot.entry = Some(entry.clone());
            self.memory.admit(place, entry.weight())
        };
        self.evict_entries(left);
        true
    }

    /// Notes that what is in memory takes more than before.
    pub(super) fn reweigh(&self, place: Place, entry: &Arc<Entry>) {
        let mut left = Vec::new();
        self.change(place, |slot| {
            if slot.holds(entry) {
                left = self.memory.admit(place, entry.weight());
            }
        });
        self.evict_entries(left);
    }

    fn evict_entries(&self, places: Vec<Place>) {
        for place in places {
            let gone = |slot: &mut Slot| slot.entry = None;
            self.change_unless(&self.memory, place, gone);
        }
    }

    /// Takes what is in memory out, if it is what the caller has seen.
    pub(super) fn drop_entry(&self, place: Place, entry: &Arc<Entry>) {
        self.change(place, |slot| {
            if slot.holds(entry) {
                slot.entry = None;
                self.memory.remove(place);
            }
        });
    }

    /// Whether nobody has made the answer be forgotten since the flight began.
    pub(super) fn has_flight(&self, place: Place, flight: &Arc<Flight>) -> bool {
        let shard = self.shard(place.stream).read();
        let slot = shard
            .get(&place.stream)
            .and_then(|stream| stream.slots.get(&place.range));
        slot.is_some_and(|slot| slot.has(flight))
    }

    /// Lets nobody join a flight any longer, and nothing of it be kept.
    pub(super) fn end_flight(&self, place: Place, flight: &Arc<Flight>) {
        self.change(place, |slot| {
            if slot.has(flight) {
                slot.flight = None;
            }
        });
    }

    /// Notes that a file has the answer; returns whose files have to leave for it.
    #[must_use]
    pub(super) fn add_file(&self, place: Place, bytes: usize, names: Names) -> Vec<Place> {
        let mut shard = self.shard(place.stream).write();
        let stream = shard.entry(place.stream).or_insert_with(|| Stream {
            names: Names::default(),
            slots: HashMap::new(),
        });
        stream.names.add(names);
        stream.slots.entry(place.range).or_default().on_disk = true;
        self.disk.admit(place, bytes)
    }

    /// Notes that no file has the answer, for one that had to leave; `false` if another has come.
    pub(super) fn evict_file(&self, place: Place) -> bool {
        self.change_unless(&self.disk, place, |slot| slot.on_disk = false)
    }

    /// Notes that the file of an answer is gone or damaged.
    pub(super) fn drop_file(&self, place: Place) {
        self.change(place, |slot| {
            slot.on_disk = false;
            self.disk.remove(place);
        });
    }

    /// Whether a file is known.
    pub(super) fn has_file(&self, place: Place) -> bool {
        let shard = self.shard(place.stream).read();
        let slot = shard
            .get(&place.stream)
            .and_then(|stream| stream.slots.get(&place.range));
        slot.is_some_and(|slot| slot.on_disk)
    }

    /// Forgets all of a stream, what is being fetched as well; returns how many answers there were.
    pub(super) fn forget(&self, stream: Digest) -> u64 {
        let mut shard = self.shard(stream).write();
        let Some(forgotten) = shard.remove(&stream) else {
            return 0;
        };
        let mut answers = 0;
        for (range, slot) in forgotten.slots {
            let place = Place { stream, range };
            self.memory.remove(place);
            self.disk.remove(place);
            answers += u64::from(slot.entry.is_some() || slot.on_disk);
        }
        answers
    }

    /// Lets nothing in memory of a stream be given before the origin was asked about it, and forgets
    /// what it could take for something else, and what is being fetched. Returns how many answers
    /// were forgotten.
    pub(super) fn doubt(&self, stream: Digest, is_certain: fn(&HeaderMap) -> bool) -> u64 {
        let mut shard = self.shard(stream).write();
        let hash_map::Entry::Occupied(mut found) = shard.entry(stream) else {
            return 0;
        };
        let mut answers = 0;
        found.get_mut().slots.retain(|range, slot| {
            slot.flight = None;
            if let Some(entry) = slot.entry.take() {
                if is_certain(&entry.headers) {
                    slot.entry = Some(Arc::new(entry.doubted()));
                } else {
                    let range = *range;
                    self.memory.remove(Place { stream, range });
                    answers += 1;
                }
            }
            !slot.is_empty()
        });
        if found.get().slots.is_empty() {
            found.remove();
        }
        answers
    }

    /// Forgets which files a stream has.
    pub(super) fn forget_files(&self, stream: Digest) {
        let mut shard = self.shard(stream).write();
        let hash_map::Entry::Occupied(mut found) = shard.entry(stream) else {
            return;
        };
        found.get_mut().slots.retain(|range, slot| {
            slot.on_disk = false;
            let range = *range;
            self.disk.remove(Place { stream, range });
            !slot.is_empty()
        });
        if found.get().slots.is_empty() {
            found.remove();
        }
    }

    /// Lets nothing be kept of what is on its way, whatever stream it is of.
    pub(super) fn end_flights(&self) {
        for shard in &self.shards {
            shard.write().retain(|_, stream| {
                stream.slots.retain(|_, slot| {
                    slot.flight = None;
                    !slot.is_empty()
                });
                !stream.slots.is_empty()
            });
        }
    }

    /// The streams with such a name.
    pub(super) fn find(&self, wanted: impl Fn(&Names) -> bool) -> Vec<Digest> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let streams = shard.iter().filter(|(_, stream)| wanted(&stream.names));
            found.extend(streams.map(|(digest, _)| *digest));
        }
        found
    }

    /// Changes a slot, if there is one, and takes it out when nothing is left in it.
    fn change(&self, place: Place, change: impl FnOnce(&mut Slot)) {
        let mut shard = self.shard(place.stream).write();
        change_slot(&mut shard, place, change);
    }

    /// The same, unless the place is in an order again.
    fn change_unless(&self, lru: &Lru, place: Place, change: impl FnOnce(&mut Slot)) -> bool {
        let mut shard = self.shard(place.stream).write();
        if lru.contains(place) {
            return false;
        }
        change_slot(&mut shard, place, change);
        true
    }
}

fn change_slot(shard: &mut HashMap<Digest, Stream>, place: Place, change: impl FnOnce(&mut Slot)) {
    let hash_map::Entry::Occupied(mut stream) = shard.entry(place.stream) else {
        return;
    };
    let slots = &mut stream.get_mut().slots;
    if let hash_map::Entry::Occupied(mut slot) = slots.entry(place.range) {
        change(slot.get_mut());
        if slot.get().is_empty() {
            slot.remove();
        }
    }
    if stream.get().slots.is_empty() {
        stream.remove();
    }
}
