//! Reads a file or standard input without holding up the requests.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::failure::Failure;

const PIECE_BYTES: usize = 64 << 10;
/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 4;

/// A file or standard input, being read by a thread of its own: reading can block.
#[derive(Debug)]
pub(super) struct Input {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    name: String,
    /// How long it is, if that is known.
    pub(super) bytes: Option<u64>,
}

impl Input {
    /// Opens the file, or standard input if there is none or it is called `-`.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let file = file.filter(|file| file.as_os_str() != "-");
        let Some(file) = file else {
            if io::stdin().is_terminal() {
                eprintln!("reading from the terminal; Ctrl-D ends it");
            }
            return Ok(Self::start(io::stdin(), "standard input".to_owned(), None));
        };
        let name = file.display().to_string();
        let opened = File::open(file).map_err(|error| Failure::file(&name, &error))?;
        let metadata = opened
            .metadata()
            .map_err(|error| Failure::file(&name, &error))?;
        let bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self::start(opened, name, bytes))
    }

    fn start(mut from: impl Read + Send + 'static, name: String, bytes: Option<u64>) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        std::thread::spawn(move || {
            let mut buffer = vec![0; PIECE_BYTES];
            loop {
                let piece = match from.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                // Nobody wants more of it: the command has failed.
                if sender.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        });
        Self {
            pieces,
            name,
            bytes,
        }
    }

    /// The next piece; `None` at the end. Giving up the wait loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = self.pieces.recv().await.transpose();
        piece.map_err(|error| Failure::file(&self.name, &error))
    }

    /// All that there is.
    pub(super) async fn whole(mut self) -> Result<Bytes, Failure> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }
}
