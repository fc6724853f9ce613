//! Compressing the bodies of answers that never change: once for each coding, for all who accept it.

use super::Server;
use super::bodies::{Kept, Key, Plain};
use super::find::Found;
use crate::config::Compression;
use crate::log::{Answer, AnswerBody};
use crate::protocol::coding::{self, Accepted};
use crate::types::{Coding, Kind, StreamMeta};
use bytes::Bytes;
use flate2::write::GzEncoder;
use std::io::{self, Write};
use std::sync::Arc;

/// Levels that compress about as well as each coding does before it becomes slow.
const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW_BITS: u32 = 22;
const BROTLI_BUFFER_BYTES: usize = 64 * 1024;
const GZIP_LEVEL: flate2::Compression = flate2::Compression::new(6);

/// What a client and a route make of compression.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    compression: &'a Compression,
    /// The coding that the client likes best of those that the route has.
    pub(super) coding: Option<Coding>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(compression: &'a Compression, accepted: Accepted) -> Self {
        Self {
            compression,
            coding: accepted.choose(&compression.codings),
        }
    }

    /// Whether an answer is compressed for those who accept it.
    pub(super) fn applies(&self, answer: &Answer) -> bool {
        !self.compression.codings.is_empty()
            && answer.fixed()
            && answer.to - answer.from >= self.compression.bytes_min.max(1)
            && is_compressible(&answer.view.meta)
    }
}

fn is_compressible(meta: &StreamMeta) -> bool {
    meta.kind != Kind::Binary || coding::is_text(&meta.content_type)
}

impl Server {
    /// The compressed body of an answer; `None`, if compressing does not make it smaller, or there
    /// is no memory for it, or if as many are being compressed as may be at one time.
    pub(super) async fn compressed(
        self: &Arc<Self>,
        found: &Found,
        coding: Coding,
    ) -> Option<Arc<Kept>> {
        if !self.bodies.has_room() {
            return None;
        }
        let answer = &found.answer;
        let key = Key {
            id: answer.view.meta.id,
            at: answer.from,
            coding: Some(coding),
        };
        let making = match self.bodies.get_or_make(key).await {
            Ok(kept) => return kept.is_smaller().then_some(kept),
            Err(making) => making,
        };
        let turn = self.bodies.compressing.take()?;
        let pieces = match (&found.kept, &answer.body) {
            (Some(kept), _) => kept.pieces.clone(),
            (None, AnswerBody::Hot(runs)) => self.bodies.make(answer, runs).pieces.clone(),
            // Too large to be kept.
            (None, AnswerBody::Cold(_)) => return None,
        };
        let plain = Plain::of(&pieces);
        let compressed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            compress(coding, &pieces)
        })
        .await;
        match compressed {
            Ok(Ok(bytes)) => {
                let kept = self.bodies.make_coded(answer, coding, bytes, &plain);
                let kept = Arc::new(kept);
                let _ = making.insert(kept.clone());
                self.metrics.kept_answers.compressed.inc();
                kept.is_smaller().then_some(kept)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, coding = coding.as_str(), "an answer cannot be compressed");
                None
            }
            Err(_) => None,
        }
    }
}

/// The pieces of a body, compressed; `None`, if they do not become smaller. It takes a while.
pub fn compress<P: AsRef<[u8]>>(coding: Coding, pieces: &[P]) -> io::Result<Option<Bytes>> {
    let bytes: usize = pieces.iter().map(|piece| piece.as_ref().len()).sum();
    let compressed = match coding {
        Coding::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
            encoder.set_pledged_src_size(Some(bytes as u64))?;
            write_all(&mut encoder, pieces)?;
            encoder.finish()?
        }
        Coding::Brotli => {
            let mut encoder = brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER_BYTES,
                BROTLI_QUALITY,
                BROTLI_WINDOW_BITS,
            );
            write_all(&mut encoder, pieces)?;
            encoder.into_inner()
        }
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), GZIP_LEVEL);
            write_all(&mut encoder, pieces)?;
            encoder.finish()?
        }
    };
    Ok((compressed.len() < bytes).then(|| compressed.into_boxed_slice().into()))
}

fn write_all<P: AsRef<[u8]>>(encoder: &mut impl Write, pieces: &[P]) -> io::Result<()> {
    pieces
        .iter()
        .try_for_each(|piece| encoder.write_all(piece.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::super::encode::Piece;
    use super::*;
    use std::io::Read;

    fn pieces(body: &[u8]) -> Vec<Piece> {
        let piece = |bytes: &[u8]| Piece {
            bytes: Bytes::copy_from_slice(bytes),
            messages: 1,
            plain_bytes: bytes.len() as u64,
            to: 1,
        };
        body.chunks(100_000).map(piece).collect()
    }

    fn decompressed(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        match coding {
            Coding::Zstd => body = zstd::decode_all(bytes).unwrap(),
            Coding::Brotli => {
                let mut decoder = brotli::Decompressor::new(bytes, 4096);
                decoder.read_to_end(&mut body).unwrap();
            }
            Coding::Gzip => {
                let mut decoder = flate2::read::GzDecoder::new(bytes);
                decoder.read_to_end(&mut body).unwrap();
            }
        }
        body
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let body: Vec<u8> = (0..60_000)
            .flat_map(|n: u32| format!("{n},").into_bytes())
            .collect();
        for coding in Coding::ALL {
            let bytes = compress(coding, &pieces(&body)).unwrap().unwrap();
            assert!(bytes.len() < body.len() / 2, "{coding:?}");
            assert!(decompressed(coding, &bytes) == body, "{coding:?}");
        }
    }

    #[test]
    fn what_does_not_become_smaller_stays_as_it_is() {
        let noise: Vec<u8> = (0..2000).map(|_| rand::random()).collect();
        for coding in Coding::ALL {
            assert_eq!(compress(coding, &pieces(&noise)).unwrap(), None);
        }
    }
}
