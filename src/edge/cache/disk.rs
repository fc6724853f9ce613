//! The answers on disk. Everything here blocks.
//!
//! Each stream has a folder, and each of its answers a file in it. A file is written under another
//! name and then moved to its place, so that whoever opens it sees all of it. What changes a stream's
//! folder does so under a lock, one after the other: so nothing of a stream that was purged can come
//! to its place afterwards.

use super::entry::{Entry, hold};
use super::file::{self, Damaged, HEAD_BYTES_MAX};
use super::flight::Flight;
use super::index::{Index, Names};
use super::key::{Digest, Place};
use crate::clock::Clock;
use crate::observe::metrics::{DiskTrouble, Metrics};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::sync::{Semaphore, watch};

/// The directory of the cache, and what is to be told of changes in it.
pub(super) struct Disk {
    pub(super) dir: PathBuf,
    pub(super) index: Arc<Index>,
    pub(super) metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// The memory for answers.
    room: Arc<Semaphore>,
    entry_bytes_max: u64,
    /// For the folders of streams, by the first byte of their digests.
    folders: [Mutex<()>; 16],
    /// What tells the temporary names of this process from those of earlier ones.
    run: u64,
    temporary: AtomicU64,
    /// After a failed write none is tried until then.
    paused_until_ms: AtomicU64,
    /// Whether all files are in the index.
    pub(super) recovered: watch::Sender<bool>,
    /// A permit for each thread that works on the disk.
    pub(super) jobs: Semaphore,
    /// Keeps other processes out.
    _lock: File,
}

/// A disk that hangs must not take all threads.
const JOBS_MAX: usize = 16;

/// How long a disk that took nothing is left alone.
const PAUSE_MS: u64 = 10_000;

/// What files take of a disk is a multiple of it.
const BLOCK_BYTES: u64 = 4096;

/// An answer that is to be written.
pub(super) struct Writing {
    pub(super) place: Place,
    pub(super) key: Vec<u8>,
    pub(super) entry: Arc<Entry>,
    pub(super) names: Names,
    /// What brought it: once it is forgotten, the answer is not kept.
    pub(super) flight: Arc<Flight>,
}

/// Why an answer was not read.
enum Unread {
    Missing,
    /// There is no memory for it.
    NoRoom,
    Damaged,
    Failed(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Failed(error),
        }
    }
}

impl From<Damaged> for Unread {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

impl Disk {
    /// Takes the directory, which is made if there is none. Fails if another process has it.
    pub(super) fn open(
        dir: &Path,
        index: Arc<Index>,
        room: Arc<Semaphore>,
        entry_bytes_max: u64,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        for part in [STREAMS, TEMPORARY, PURGED] {
            fs::create_dir_all(dir.join(part))?;
        }
        let lock = File::create(dir.join("lock"))?;
        lock.try_lock()?;
        Ok(Self {
            dir: dir.to_owned(),
            index,
            metrics,
            clock,
            room,
            entry_bytes_max,
            folders: Default::default(),
            run: rand::random(),
            temporary: AtomicU64::new(0),
            paused_until_ms: AtomicU64::new(0),
            recovered: watch::Sender::new(false),
            jobs: Semaphore::new(JOBS_MAX),
            _lock: lock,
        })
    }

    /// The answer at a place, if its file is whole and of this key.
    pub(super) fn load(&self, place: Place, key: &[u8]) -> Option<Entry> {
        let unread = match self.read(place, key) {
            Ok(entry) => {
                self.index.touch(place);
                return Some(entry);
            }
            Err(unread) => unread,
        };
        match unread {
            Unread::NoRoom => return None,
            Unread::Missing => {}
            Unread::Damaged => {
                self.metrics.cache.disk_trouble(DiskTrouble::Damaged).inc();
                tracing::warn!(path = %self.path(place).display(), "a damaged answer is removed from the cache");
            }
            Unread::Failed(error) => {
                self.metrics.cache.disk_trouble(DiskTrouble::Read).inc();
                tracing::warn!(path = %self.path(place).display(), %error, "an answer cannot be read from the cache");
            }
        }
        self.remove(place);
        None
    }

    fn read(&self, place: Place, key: &[u8]) -> Result<Entry, Unread> {
        let mut file = File::open(self.path(place))?;
        let bytes = file.metadata()?.len();
        if bytes > self.entry_bytes_max.saturating_add(HEAD_BYTES_MAX) {
            return Err(Unread::Damaged);
        }
        let room = self.room.clone().try_acquire_many_owned(bytes as u32);
        let room = room.map_err(|_| Unread::NoRoom)?;
        let mut content = vec![0; bytes as usize];
        file.read_exact(&mut content)?;
        let head = file::decode(&content, key)?;
        // The order of use survives a restart in the times of the files.
        let _ = file.set_modified(SystemTime::now());
        let body = hold(content, head.body_begin, room);
        Ok(Entry::new(Arc::new(head.headers), head.terms, body))
    }

    /// Writes an answer, if it is not forgotten meanwhile. A disk that does not take it is left
    /// alone for a while.
    pub(super) fn store(&self, writing: Writing) {
        let now_ms = self.clock.now_ms();
        if now_ms < self.paused_until_ms.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.write(writing) {
            self.metrics.cache.disk_trouble(DiskTrouble::Write).inc();
            tracing::warn!(dir = %self.dir.display(), %error, "an answer cannot be written to the cache");
            let until_ms = now_ms.saturating_add(PAUSE_MS);
            self.paused_until_ms.store(until_ms, Ordering::Relaxed);
        }
    }

    fn write(&self, writing: Writing) -> io::Result<()> {
        let Writing {
            place,
            key,
            entry,
            names,
            flight,
        } = writing;
        let head = file::encode(&key, &entry).map_err(io::Error::other)?;
        let bytes = on_disk(head.len() as u64 + entry.body.len() as u64);
        if !self.index.disk.fits(bytes) {
            return Ok(());
        }
        let temporary = self.temporary_path(TEMPORARY);
        let written = write_file(&temporary, &[&head, &entry.body]);
        let published = written.and_then(|()| {
            let _folder = self.folder(place.stream).lock();
            if !self.index.has_flight(place, &flight) {
                return fs::remove_file(&temporary).map(|()| Vec::new());
            }
            self.publish(&temporary, place)?;
            Ok(self.index.add_file(place, bytes, names))
        });
        if published.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        self.evict(published?);
        Ok(())
    }

    fn publish(&self, temporary: &Path, place: Place) -> io::Result<()> {
        let path = self.path(place);
        match fs::rename(temporary, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(self.folder_path(place.stream))?;
                fs::rename(temporary, &path)
            }
            renamed => renamed,
        }
    }

    /// Removes the files of answers that had to leave.
    pub(super) fn evict(&self, places: Vec<Place>) {
        for place in places {
            let _folder = self.folder(place.stream).lock();
            if self.index.evict_file(place) {
                self.remove_file(place);
            }
        }
    }

    /// Removes a file that is of no use.
    pub(super) fn remove(&self, place: Place) {
        let _folder = self.folder(place.stream).lock();
        self.index.drop_file(place);
        self.remove_file(place);
    }

    fn remove_file(&self, place: Place) {
        match fs::remove_file(self.path(place)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.metrics.cache.disk_trouble(DiskTrouble::Write).inc();
            }
            // Only an empty folder goes.
            _ => drop(fs::remove_dir(self.folder_path(place.stream))),
        }
    }

    /// Removes all files of a stream, so that they do not come back with a restart.
    pub(super) fn purge(&self, stream: Digest) -> io::Result<()> {
        let purged = self.temporary_path(PURGED);
        {
            let _folder = self.folder(stream).lock();
            self.index.forget_files(stream);
            let folder = self.folder_path(stream);
            match fs::rename(&folder, &purged) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                renamed => renamed?,
            }
            // Also after a loss of power the folder must not be there again.
            if let Some(parent) = folder.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        // What is left is removed at the next start.
        let _ = fs::remove_dir_all(purged);
        Ok(())
    }

    pub(super) fn folder(&self, stream: Digest) -> &Mutex<()> {
        &self.folders[usize::from(stream[0]) % self.folders.len()]
    }

    fn folder_path(&self, stream: Digest) -> PathBuf {
        // So many streams in one directory would be too many for some file systems.
        let group = hex(&stream[..1]);
        self.dir.join(STREAMS).join(group).join(hex(&stream))
    }

    pub(super) fn path(&self, place: Place) -> PathBuf {
        self.folder_path(place.stream).join(hex(&place.range))
    }

    fn temporary_path(&self, part: &str) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.dir
            .join(part)
            .join(format!("{:016x}-{number}", self.run))
    }

    /// Whether a temporary name is one of an earlier process.
    pub(super) fn is_leftover(&self, name: &OsStr) -> bool {
        let own = format!("{:016x}-", self.run);
        !name.as_encoded_bytes().starts_with(own.as_bytes())
    }
}

pub(super) const STREAMS: &str = "streams";
/// Files that are being written.
pub(super) const TEMPORARY: &str = "temporary";
/// Folders that are being removed.
pub(super) const PURGED: &str = "purged";

/// What a file of this length takes of the disk.
pub(super) fn on_disk(bytes: u64) -> usize {
    usize::try_from(bytes.next_multiple_of(BLOCK_BYTES)).unwrap_or(usize::MAX)
}

fn write_file(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}
