//! The form of a file with one answer.
//!
//! ```text
//! file = magic crc lengths key times headers body
//! ```
//!
//! The magic names the version of the form. The checksum is over all that follows it, so that
//! nothing needs to be synced: what a crash left half written is found damaged when it is read.

use super::entry::Entry;
use super::index::{Names, TAGS_MAX};
use super::key::{self, Digest, Place};
use super::terms::{Terms, to_system_time, to_unix_ms};
use crate::protocol::names;
use http::{HeaderMap, HeaderValue};
use pingora::cache::CacheMeta;
use pingora::http::ResponseHeader;
use thiserror::Error;

const MAGIC: [u8; 8] = *b"hwcache1";
const CRC_END: usize = MAGIC.len() + 4;
/// The magic, the checksum and the lengths.
pub(super) const FIXED_BYTES: usize = CRC_END + 3 * 4 + 8;

/// The most that is there besides a body: more than a key and headers can be.
pub(super) const HEAD_BYTES_MAX: u64 = 4 << 20;

/// What is read is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the file is damaged")]
pub(super) struct Damaged;

/// The lengths of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lengths {
    key: usize,
    times: usize,
    headers: usize,
    body: usize,
}

/// What a file says, besides the body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) headers: HeaderMap,
    pub(super) terms: Terms,
    /// Where the body begins.
    pub(super) body_begin: usize,
}

/// All that goes before the body.
pub(super) fn encode(key: &[u8], entry: &Entry) -> pingora::Result<Vec<u8>> {
    let (times, headers) = meta(entry)?.serialize()?;
    let parts = [key, &times, &headers];
    let mut head = Vec::with_capacity(FIXED_BYTES + parts.concat().len());
    head.extend(MAGIC);
    head.extend([0; 4]);
    for part in parts {
        head.extend((part.len() as u32).to_be_bytes());
    }
    head.extend((entry.body.len() as u64).to_be_bytes());
    for part in parts {
        head.extend(part);
    }
    let crc = checksum(&head, &entry.body);
    head[MAGIC.len()..CRC_END].copy_from_slice(&crc.to_be_bytes());
    Ok(head)
}

/// Reads a whole file back, which must be that of this key.
pub(super) fn decode(file: &[u8], key: &[u8]) -> Result<Head, Damaged> {
    let lengths = lengths(file, file.len() as u64)?;
    let body_begin = lengths.body_begin();
    let crc = checksum(&file[..body_begin], &file[body_begin..]);
    let is_whole = file[MAGIC.len()..CRC_END] == crc.to_be_bytes();
    if !is_whole || file[FIXED_BYTES..][..lengths.key] != *key {
        return Err(Damaged);
    }
    read_meta(file, lengths)
}

/// How many bytes at the beginning of a file with this length are needed for [`glance`].
pub(super) fn glance_bytes(begin: &[u8], file_bytes: u64) -> Result<usize, Damaged> {
    let lengths = lengths(begin, file_bytes)?;
    Ok(lengths.body_begin())
}

/// Whose answer a file has, judged by its beginning alone.
pub(super) fn glance(begin: &[u8], file_bytes: u64) -> Result<(Place, Names), Damaged> {
    let lengths = lengths(begin, file_bytes)?;
    let key = begin.get(FIXED_BYTES..FIXED_BYTES + lengths.key);
    let (place, path) = key.and_then(key::read).ok_or(Damaged)?;
    let head = read_meta(begin, lengths)?;
    Ok((place, names_of(path, &head.headers)))
}

/// By what an answer with these headers, of a stream with this path, is found.
pub(super) fn names_of(path: Digest, headers: &HeaderMap) -> Names {
    let tags = tags(headers.get_all(names::CACHE_TAG)).take(TAGS_MAX);
    Names {
        path,
        tags: tags.map(|tag| key::digest(&[tag.as_bytes()])).collect(),
    }
}

/// The tags in the fields of a `Cache-Tag`.
pub(in crate::edge) fn tags<'a>(
    fields: impl IntoIterator<Item = &'a HeaderValue>,
) -> impl Iterator<Item = &'a str> {
    let texts = fields.into_iter().filter_map(|field| field.to_str().ok());
    let tags = texts.flat_map(|text| text.split([',', ' ']));
    tags.filter(|tag| !tag.is_empty())
}

impl Lengths {
    fn body_begin(self) -> usize {
        FIXED_BYTES + self.key + self.times + self.headers
    }
}

/// The lengths, if they fit the file's.
fn lengths(begin: &[u8], file_bytes: u64) -> Result<Lengths, Damaged> {
    if begin.len() < FIXED_BYTES || begin[..MAGIC.len()] != MAGIC {
        return Err(Damaged);
    }
    let number = |at: usize, bytes: usize| {
        let digits = begin[at..at + bytes].iter();
        digits.fold(0u64, |number, digit| number << 8 | u64::from(*digit))
    };
    let [key, times, headers] = [0, 4, 8].map(|at| number(CRC_END + at, 4));
    let body = number(CRC_END + 12, 8);
    let head = FIXED_BYTES as u64 + key + times + headers;
    if head > HEAD_BYTES_MAX || head.checked_add(body) != Some(file_bytes) {
        return Err(Damaged);
    }
    Ok(Lengths {
        key: key as usize,
        times: times as usize,
        headers: headers as usize,
        body: body as usize,
    })
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[CRC_END..]);
    crc.update(body);
    crc.finalize()
}

/// The times and headers as Pingora's cache keeps them.
fn meta(entry: &Entry) -> pingora::Result<CacheMeta> {
    let mut header = ResponseHeader::build(http::StatusCode::OK, Some(entry.headers.len()))?;
    for (name, value) in entry.headers.iter() {
        header.append_header(name.clone(), value.clone())?;
    }
    let terms = &entry.terms;
    let stale_seconds = if terms.stale_allowed { u32::MAX } else { 0 };
    let fresh_until = to_system_time(terms.fresh_until_ms);
    let born = to_system_time(terms.born_ms);
    Ok(CacheMeta::new(fresh_until, born, 0, stale_seconds, header))
}

fn read_meta(file: &[u8], lengths: Lengths) -> Result<Head, Damaged> {
    let times_begin = FIXED_BYTES + lengths.key;
    let headers_begin = times_begin + lengths.times;
    let body_begin = lengths.body_begin();
    let times = file.get(times_begin..headers_begin).ok_or(Damaged)?;
    let headers = file.get(headers_begin..body_begin).ok_or(Damaged)?;
    let meta = CacheMeta::deserialize(times, headers).map_err(|_| Damaged)?;
    Ok(Head {
        headers: meta.headers().clone(),
        terms: Terms {
            born_ms: to_unix_ms(meta.created()),
            fresh_until_ms: to_unix_ms(meta.fresh_until()),
            stale_allowed: meta.stale_if_error_sec() > 0,
        },
        body_begin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::cache::{RangeKey, Scope, StreamKey};
    use bytes::Bytes;
    use http::header;
    use proptest::prelude::*;
    use std::sync::Arc;

    const KEY: RangeKey<'static> = RangeKey {
        stream: StreamKey {
            origin: "one",
            path: "/v1/stream/a",
        },
        scope: &Scope::Caller([3; 32]),
        range: "offset=-1",
    };

    fn entry(body: &[u8]) -> Entry {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.append(names::CACHE_TAG, HeaderValue::from_static("a, b"));
        headers.append(names::CACHE_TAG, HeaderValue::from_static("c"));
        headers.insert("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        let terms = Terms {
            born_ms: 1_700_000_000_123,
            fresh_until_ms: 1_700_000_060_123,
            stale_allowed: true,
        };
        Entry::new(Arc::new(headers), terms, Bytes::copy_from_slice(body))
    }

    fn file(body: &[u8]) -> Vec<u8> {
        let mut file = encode(&KEY.to_bytes(), &entry(body)).unwrap();
        file.extend(body);
        file
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let file = file(&body);
            let head = decode(&file, &KEY.to_bytes()).unwrap();
            let entry = entry(&body);
            prop_assert_eq!(&head.headers, &*entry.headers);
            prop_assert_eq!(head.terms, entry.terms);
            prop_assert_eq!(&file[head.body_begin..], &body[..]);
        }

        #[test]
        fn one_wrong_bit_anywhere_is_found(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut file = file(&body);
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            prop_assert!(decode(&file, &KEY.to_bytes()).is_err());
        }

        #[test]
        fn a_part_is_not_taken_for_the_whole(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            let file = file(&body);
            let begin = &file[..at.index(file.len())];
            prop_assert!(decode(begin, &KEY.to_bytes()).is_err());
            prop_assert!(glance(begin, begin.len() as u64).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let file = [&MAGIC[..], &bytes].concat();
            prop_assert!(decode(&file, &[]).is_err());
            let _ = glance(&file, file.len() as u64);
        }
    }

    #[test]
    fn a_file_of_another_key_is_not_taken() {
        let other = RangeKey {
            range: "offset=0",
            ..KEY
        };
        assert!(decode(&file(b"body"), &other.to_bytes()).is_err());
    }

    #[test]
    fn the_beginning_tells_whose_it_is() {
        let file = file(b"a body that is not looked at");
        let bytes = glance_bytes(&file[..FIXED_BYTES], file.len() as u64).unwrap();
        let (place, names) = glance(&file[..bytes], file.len() as u64).unwrap();
        assert_eq!(place, KEY.place());
        assert_eq!(names.path, key::digest(&[b"/v1/stream/a"]));
        assert_eq!(
            names.tags,
            ["a", "b", "c"].map(|tag| key::digest(&[tag.as_bytes()]))
        );
    }
}
