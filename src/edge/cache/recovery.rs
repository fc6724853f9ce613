//! Finding again what an earlier process has left on disk.

use super::disk::{Disk, PURGED, STREAMS, TEMPORARY, on_disk};
use super::file::{self, FIXED_BYTES};
use super::index::Names;
use super::key::Place;
use crate::observe::metrics::DiskTrouble;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Instant, SystemTime};

/// A file with an answer.
struct Found {
    place: Place,
    names: Names,
    bytes: u64,
    /// When it was used last.
    used: SystemTime,
}

impl Disk {
    /// Puts all files into the index, and removes what is none of them. What is asked for meanwhile
    /// is looked for on the disk itself.
    pub(super) fn recover(&self) {
        let begin = Instant::now();
        for part in [TEMPORARY, PURGED] {
            self.remove_leftovers(part);
        }
        let mut found = Vec::new();
        for group in entries(&self.dir.join(STREAMS)) {
            for folder in entries(&group.path()) {
                found.extend(entries(&folder.path()).filter_map(|file| self.look(&file.path())));
            }
        }
        found.sort_unstable_by_key(|file| file.used);
        let files = found.len();
        for file in found {
            self.add(file);
        }
        self.recovered.send_replace(true);
        let duration_ms = begin.elapsed().as_millis() as u64;
        tracing::info!(files, duration_ms, "the cache's files are found again");
    }

    /// Removes what an earlier process had not finished.
    fn remove_leftovers(&self, part: &str) {
        let all = entries(&self.dir.join(part));
        for leftover in all.filter(|entry| self.is_leftover(&entry.file_name())) {
            let path = leftover.path();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }

    /// What a file has; one that cannot be what was written is removed.
    fn look(&self, path: &Path) -> Option<Found> {
        match self.glance(path) {
            Ok(found) => Some(found),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    self.metrics.cache.disk_trouble(DiskTrouble::Damaged).inc();
                    let _ = fs::remove_file(path);
                }
                None
            }
        }
    }

    fn glance(&self, path: &Path) -> io::Result<Found> {
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let bytes = metadata.len();
        let mut begin = vec![0; FIXED_BYTES.min(bytes as usize)];
        file.read_exact(&mut begin)?;
        let needed = file::glance_bytes(&begin, bytes).map_err(damaged)?;
        begin.resize(needed, 0);
        file.read_exact(&mut begin[FIXED_BYTES..])?;
        let (place, names) = file::glance(&begin, bytes).map_err(damaged)?;
        if self.path(place) != path {
            return Err(damaged(file::Damaged));
        }
        Ok(Found {
            place,
            names,
            bytes,
            used: metadata.modified()?,
        })
    }

    /// Puts a file into the index, if it is still there and not known since.
    fn add(&self, file: Found) {
        let left = {
            let _folder = self.folder(file.place.stream).lock();
            if self.index.has_file(file.place) || !self.path(file.place).exists() {
                return;
            }
            let bytes = on_disk(file.bytes);
            self.index.add_file(file.place, bytes, file.names)
        };
        self.evict(left);
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten()
}
