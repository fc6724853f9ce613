//! Answers that are compressed, as clients get them.

use std::io::Read;

use crate::common::{Setup, unique};

fn decoded(coding: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let read = match coding {
        None => return body.to_vec(),
        Some("zstd") => zstd::Decoder::new(body).unwrap().read_to_end(&mut decoded),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_end(&mut decoded),
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_end(&mut decoded),
        Some(other) => panic!("{other}"),
    };
    read.expect("what is said to be compressed is");
    decoded
}

/// The first segment of an open stream, and a closed one whole: from memory, and from the store.
#[test]
fn a_client_gets_the_coding_that_it_likes_best() {
    let mut server = Setup {
        log: "segment_bytes = \"600KiB\"".to_owned(),
        ..Setup::quick()
    }
    .start();
    let (open, closed) = (unique("open"), unique("closed"));
    let text: String = (0..100_000)
        .map(|number| format!("{number:07}\n"))
        .collect();
    for stream in [&open, &closed] {
        server.create(stream, "text/plain", text.as_bytes());
        let more = server.call("POST", stream, &[("content-type", "text/plain")], b"more");
        assert_eq!(more.status, 204);
    }
    server.close(&closed);
    for _ in 0..2 {
        for stream in [&open, &closed] {
            for (accept, expected) in [
                ("", None),
                ("identity", None),
                ("gzip, deflate", Some("gzip")),
                ("gzip, deflate, br, zstd", Some("zstd")),
                ("zstd;q=0.1, br", Some("br")),
            ] {
                let headers = [("accept-encoding", accept)];
                let first = server.call("GET", stream, &headers, b"");
                assert_eq!(first.header("content-encoding"), expected, "{accept}");
                assert_eq!(first.header("vary"), Some("accept-encoding"));
                let length: usize = first.expect("content-length").parse().unwrap();
                assert_eq!(length, first.body.len());
                assert!(expected.is_none() || length < text.len() / 2);
                assert!(decoded(expected, &first.body) == text.as_bytes());
                let rest = first.expect("stream-next-offset");
                let url = format!("{stream}?offset={rest}");
                let rest = server.call("GET", &url, &headers, b"");
                assert_eq!(
                    (rest.header("content-encoding"), &rest.body[..]),
                    (None, &b"more"[..])
                );
            }
        }
        server.kill9();
        server.restart();
    }
}

#[test]
fn a_route_may_compress_nothing() {
    let server = Setup {
        streams: vec!["compression = { codings = [] }".to_owned()],
        ..Setup::quick()
    }
    .start();
    let stream = unique("plain");
    server.create(&stream, "text/plain", &[b'x'; 5000]);
    server.close(&stream);
    let answer = server.call("GET", &stream, &[("accept-encoding", "gzip")], b"");
    assert_eq!(
        (answer.header("content-encoding"), answer.header("vary")),
        (None, None)
    );
    assert_eq!(answer.body, [b'x'; 5000]);
}
