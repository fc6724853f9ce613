use super::*;
use http::HeaderValue;
use proptest::prelude::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        })
        .collect()
}

fn get(query: &str) -> Result<Read, RequestError> {
    match parse(&Method::GET, Some(query), &HeaderMap::new())? {
        Command::Read(read) => Ok(read),
        other => panic!("{other:?}"),
    }
}

fn post(pairs: &[(&'static str, &str)]) -> Result<Append, RequestError> {
    match parse(&Method::POST, None, &headers(pairs))? {
        Command::Append(append) => Ok(append),
        other => panic!("{other:?}"),
    }
}

fn put(pairs: &[(&'static str, &str)]) -> Result<Create, RequestError> {
    match parse(&Method::PUT, None, &headers(pairs))? {
        Command::Create(create) => Ok(create),
        other => panic!("{other:?}"),
    }
}

#[test]
fn offsets_and_modes() {
    let at = "0000000000000000_0000000000000009";
    assert_eq!(get("").unwrap().from, From::Start);
    assert_eq!(get("offset=-1").unwrap().from, From::Start);
    assert_eq!(get("offset=now").unwrap().from, From::Tail);
    assert_eq!(get(&format!("offset={at}")).unwrap().from, From::At(9));
    assert_eq!(
        get(&format!("offset={at}&live=sse")).unwrap().mode,
        Mode::Sse
    );
    assert_eq!(
        get("live=long-poll&offset=-1&cursor=12").unwrap().cursor,
        Some(12)
    );
    assert_eq!(get("offset=-1&cursor=abc").unwrap().cursor, None);
}

#[test]
fn bad_offsets_are_refused() {
    for value in [
        "", "0", "0,1", "0%201", "0%2F1", "..", "a%00b", "%0d%0a", "-2", "NOW",
    ] {
        assert!(
            matches!(
                get(&format!("offset={value}")),
                Err(RequestError::Offset(_))
            ),
            "{value}"
        );
    }
    assert_eq!(get("offset=-1&offset=-1"), Err(RequestError::OffsetTwice));
    assert_eq!(get("offset=%ff"), Err(RequestError::QueryText));
    assert_eq!(get("live=sse"), Err(RequestError::LiveWithoutOffset));
    assert_eq!(
        get("offset=-1&live=yes"),
        Err(RequestError::Mode("yes".into()))
    );
}

#[test]
fn lifetimes() {
    let ttl = |value| put(&[("stream-ttl", value)]).map(|create| create.lifetime);
    assert_eq!(ttl("0"), Ok(Some(Lifetime::Ttl { seconds: 0 })));
    assert_eq!(ttl("3600"), Ok(Some(Lifetime::Ttl { seconds: 3600 })));
    for wrong in [
        "",
        "+1",
        "01",
        "1.0",
        "1e3",
        "-1",
        "x",
        "99999999999999999999",
    ] {
        assert_eq!(ttl(wrong), Err(RequestError::Ttl), "{wrong}");
    }
    let until = |value| put(&[("stream-expires-at", value)]).map(|create| create.lifetime);
    let expected = Ok(Some(Lifetime::Until { at_ms: 1_000 }));
    assert_eq!(until("1970-01-01T00:00:01Z"), expected);
    assert_eq!(until("1970-01-01T01:00:01+01:00"), expected);
    let last = Ok(Some(Lifetime::Until {
        at_ms: 253_402_300_799_999,
    }));
    assert_eq!(until("9999-12-31T23:59:59.999Z"), last);
    for wrong in ["tomorrow", "9999-12-31T23:59:59-23:59"] {
        assert_eq!(until(wrong), Err(RequestError::ExpiresAt), "{wrong}");
    }
    let both = [
        ("stream-ttl", "1"),
        ("stream-expires-at", "1970-01-01T00:00:01Z"),
    ];
    assert_eq!(put(&both), Err(RequestError::TwoLifetimes));
}

#[test]
fn retentions() {
    let parse_retention =
        |text: &str| put(&[("stream-retention", text)]).map(|create| create.retention.unwrap());
    for (text, bytes, age_ms) in [
        ("bytes=1048576, age=3600", Some(1_048_576), Some(3_600_000)),
        ("age=1,bytes=1", Some(1), Some(1000)),
        ("bytes = 9007199254740991", Some(SAFE_INTEGER_MAX), None),
        (" age=60 ", None, Some(60_000)),
    ] {
        assert_eq!(
            parse_retention(text),
            Ok(Retention { bytes, age_ms }),
            "{text}"
        );
    }
    for wrong in [
        "",
        "bytes",
        "bytes=",
        "bytes=0",
        "bytes=-1",
        "bytes=1MiB",
        "bytes=9007199254740992",
        "age=1.5",
        "age=1, age=2",
        "age=1,",
        "seconds=1",
        "BYTES=1",
    ] {
        assert_eq!(
            parse_retention(wrong),
            Err(RequestError::Retention),
            "{wrong}"
        );
    }
}

#[test]
fn forks() {
    let fork = put(&[
        ("stream-forked-from", "/v1/stream/a"),
        ("stream-fork-offset", "0000000000000000_0000000000000004"),
        ("stream-fork-sub-offset", "2"),
    ])
    .unwrap()
    .fork
    .unwrap();
    assert_eq!((fork.offset, fork.sub_offset), (Some(4), 2));
    assert_eq!(
        put(&[("stream-fork-sub-offset", "0")]),
        Err(RequestError::ForkWithoutSource)
    );
    let from = ("stream-forked-from", "/a");
    assert_eq!(
        put(&[from, ("stream-fork-offset", "x")]),
        Err(RequestError::ForkOffset)
    );
    for wrong in ["-1", "1.5", ""] {
        assert_eq!(
            put(&[from, ("stream-fork-sub-offset", wrong)]),
            Err(RequestError::ForkSubOffset)
        );
    }
}

#[test]
fn producers_come_whole() {
    let whole = [
        ("producer-id", "p"),
        ("producer-epoch", "1"),
        ("producer-seq", "2"),
    ];
    let stamp = post(&whole).unwrap().producer.unwrap();
    assert_eq!((&*stamp.id, stamp.epoch, stamp.seq), ("p", 1, 2));
    assert_eq!(post(&whole[..2]), Err(RequestError::ProducerIncomplete));
    assert_eq!(
        post(&[("producer-id", ""), whole[1], whole[2]]),
        Err(RequestError::ProducerId)
    );
    for wrong in ["", "-1", "1.0", "9007199254740992", "x"] {
        assert_eq!(
            post(&[whole[0], whole[1], ("producer-seq", wrong)]),
            Err(RequestError::ProducerNumber(names::PRODUCER_SEQ)),
            "{wrong}"
        );
    }
}

#[test]
fn only_true_closes() {
    for (value, closes) in [
        ("true", true),
        ("TRUE", true),
        ("false", false),
        ("1", false),
        ("", false),
    ] {
        assert_eq!(post(&[("stream-closed", value)]).unwrap().close, closes);
    }
}

#[test]
fn other_methods_are_refused() {
    assert_eq!(
        parse(&Method::PATCH, None, &HeaderMap::new()),
        Err(RequestError::Method(Method::PATCH))
    );
}

proptest! {
    #[test]
    fn no_query_panics(query in "\\PC*") {
        let _ = get(&query);
    }
}
