use super::*;
use crate::types::{ForkMeta, Kind, StreamId};
use proptest::prelude::*;

fn meta(id: StreamId, content_type: &str) -> StreamMeta {
    StreamMeta {
        id,
        content_type: content_type.into(),
        kind: Kind::of(content_type),
        lifetime: Lifetime::Unlimited,
        retention: Retention::default(),
        retention_by_route: false,
        created_ms: 0,
        fork: None,
        note: None,
    }
}

fn text_stream() -> StreamState {
    StreamState::new(Arc::new(meta(1, "text/plain")), 0)
}

fn stamp(epoch: u64, seq: u64) -> ProducerStamp {
    ProducerStamp {
        id: "p".into(),
        epoch,
        seq,
    }
}

fn append(frame_bytes: u64) -> AppendRequest<'static> {
    AppendRequest {
        id: None,
        content_type: Some("text/plain"),
        frame_bytes,
        stream_seq: None,
        close: false,
        end: None,
        producer: None,
        producers_max: 2,
    }
}

fn accept(state: &mut StreamState, request: &AppendRequest<'_>) -> Option<Seal> {
    assert_eq!(state.judge(request, None), Ok(Verdict::Accept));
    state.apply(request, None, 100, 0)
}

#[test]
fn closed_comes_before_content_type_before_seq() {
    let mut state = text_stream();
    let first: Arc<str> = "b".into();
    accept(
        &mut state,
        &AppendRequest {
            stream_seq: Some(&first),
            ..append(9)
        },
    );
    let low: Arc<str> = "a".into();
    let wrong = AppendRequest {
        content_type: Some("application/json"),
        stream_seq: Some(&low),
        ..append(9)
    };
    assert!(matches!(
        state.judge(&wrong, None),
        Err(AppendRefusal::ContentType { .. })
    ));
    let regress = AppendRequest {
        stream_seq: Some(&low),
        ..append(9)
    };
    assert!(matches!(
        state.judge(&regress, None),
        Err(AppendRefusal::StreamSeq { .. })
    ));
    accept(
        &mut state,
        &AppendRequest {
            close: true,
            ..append(0)
        },
    );
    assert!(matches!(
        state.judge(&wrong, None),
        Err(AppendRefusal::Closed { tail: 9, .. })
    ));
}

#[test]
fn producers_are_deduplicated_and_fenced() {
    let state = text_stream();
    let known = |epoch, last_seq| Some(ProducerState { epoch, last_seq });
    let judge = |epoch, seq, known| {
        let stamp = stamp(epoch, seq);
        state.judge(
            &AppendRequest {
                producer: Some(&stamp),
                ..append(9)
            },
            known,
        )
    };
    assert_eq!(judge(0, 0, None), Ok(Verdict::Accept));
    assert_eq!(judge(7, 0, None), Ok(Verdict::Accept));
    assert_eq!(
        judge(0, 1, None),
        Err(AppendRefusal::SeqGap {
            expected: 0,
            received: 1
        })
    );
    assert_eq!(judge(1, 5, known(1, 4)), Ok(Verdict::Accept));
    assert_eq!(
        judge(1, 2, known(1, 4)),
        Ok(Verdict::Duplicate {
            highest_seq: Some(4)
        })
    );
    assert_eq!(
        judge(1, 6, known(1, 4)),
        Err(AppendRefusal::SeqGap {
            expected: 5,
            received: 6
        })
    );
    assert_eq!(
        judge(0, 5, known(1, 4)),
        Err(AppendRefusal::StaleEpoch { current: 1 })
    );
    assert_eq!(judge(2, 1, known(1, 4)), Err(AppendRefusal::EpochStart));
    assert_eq!(judge(2, 0, known(1, 4)), Ok(Verdict::Accept));
}

#[test]
fn duplicates_come_before_stream_seq() {
    let mut state = text_stream();
    let seq: Arc<str> = "5".into();
    let first = stamp(0, 0);
    let request = AppendRequest {
        stream_seq: Some(&seq),
        producer: Some(&first),
        ..append(9)
    };
    accept(&mut state, &request);
    let known = Some(ProducerState {
        epoch: 0,
        last_seq: 0,
    });
    assert_eq!(
        state.judge(&request, known),
        Ok(Verdict::Duplicate {
            highest_seq: Some(0)
        })
    );
}

#[test]
fn the_number_of_producers_is_bounded() {
    let mut state = text_stream();
    for id in ["a", "b"] {
        let stamp = ProducerStamp {
            id: id.into(),
            epoch: 0,
            seq: 0,
        };
        accept(
            &mut state,
            &AppendRequest {
                producer: Some(&stamp),
                ..append(9)
            },
        );
    }
    let third = stamp(0, 0);
    assert_eq!(
        state.judge(
            &AppendRequest {
                producer: Some(&third),
                ..append(9)
            },
            None
        ),
        Err(AppendRefusal::TooManyProducers(2))
    );
}

#[test]
fn a_close_repeats_only_by_its_author() {
    let mut state = text_stream();
    let author = stamp(0, 0);
    accept(
        &mut state,
        &AppendRequest {
            close: true,
            producer: Some(&author),
            ..append(9)
        },
    );
    let known = Some(ProducerState {
        epoch: 0,
        last_seq: 0,
    });
    let judge = |producer, frame_bytes| {
        state.judge(
            &AppendRequest {
                close: true,
                producer,
                ..append(frame_bytes)
            },
            known,
        )
    };
    assert_eq!(
        judge(Some(&author), 9),
        Ok(Verdict::Duplicate {
            highest_seq: Some(0)
        })
    );
    assert_eq!(
        judge(None, 0),
        Ok(Verdict::Duplicate {
            highest_seq: Some(0)
        })
    );
    let next = stamp(0, 1);
    let refusal = Err(AppendRefusal::Closed {
        tail: 9,
        end: None,
        received_seq: Some(1),
    });
    assert_eq!(judge(Some(&next), 9), refusal);
    assert_eq!(judge(Some(&next), 0), refusal);
    assert_eq!(
        judge(None, 9),
        Err(AppendRefusal::Closed {
            tail: 9,
            end: None,
            received_seq: None
        })
    );
}

#[test]
fn a_stream_expires_at_its_deadline_exactly() {
    let mut with_ttl = meta(1, "text/plain");
    with_ttl.lifetime = Lifetime::Ttl { seconds: 2 };
    let mut state = StreamState::new(Arc::new(with_ttl), 1_000);
    assert_eq!(state.check_alive(2_999), Ok(()));
    assert_eq!(state.check_alive(3_000), Err(Unavailable::NotFound));
    state.apply(&append(9), None, 100, 2_500);
    assert_eq!(state.check_alive(4_499), Ok(()));
    state.forks = 1;
    assert_eq!(state.check_alive(4_500), Err(Unavailable::Gone));
}

#[test]
fn segments_are_sealed_when_full_and_at_the_end() {
    let mut state = text_stream();
    assert_eq!(accept(&mut state, &append(60)), None);
    assert_eq!(
        accept(&mut state, &append(60)),
        Some(Seal {
            start: 0,
            end: 120,
            appends: 2,
            at_ms: 0,
        })
    );
    assert_eq!(accept(&mut state, &append(10)), None);
    assert_eq!(
        accept(
            &mut state,
            &AppendRequest {
                close: true,
                ..append(10)
            }
        ),
        Some(Seal {
            start: 120,
            end: 140,
            appends: 2,
            at_ms: 0,
        })
    );
    let mut single = text_stream();
    assert_eq!(
        accept(
            &mut single,
            &AppendRequest {
                close: true,
                ..append(10)
            }
        ),
        None
    );
}

#[test]
fn a_fork_of_a_fork_reads_from_every_ancestor() {
    let root = meta(1, "text/plain");
    let fork = |id, source: &StreamMeta, offset| {
        let mut fork = meta(id, "text/plain");
        fork.fork = Some(ForkMeta {
            source: StreamPath::new("default", "s"),
            source_id: source.id,
            sub_offset: 0,
            lifetime_inherited: false,
            offset,
            spans: fork_spans(source, offset, 2).unwrap(),
        });
        fork
    };
    let spans = |meta: &StreamMeta| {
        let fork = meta.fork.as_ref().unwrap();
        fork.spans
            .iter()
            .map(|span| (span.id, span.end))
            .collect::<Vec<_>>()
    };
    let child = fork(2, &root, 50);
    assert_eq!(spans(&child), [(1, 50)]);
    assert_eq!(spans(&fork(3, &child, 80)), [(1, 50), (2, 80)]);
    assert_eq!(spans(&fork(3, &child, 50)), [(1, 50)]);
    assert_eq!(spans(&fork(3, &child, 30)), [(1, 30)]);
    assert_eq!(spans(&fork(3, &root, 0)), []);

    // No more ancestors than allowed; those that nothing is read from do not count.
    let deep = fork(3, &child, 80);
    assert_eq!(fork_spans(&deep, 90, 2), None);
    assert_eq!(fork_spans(&deep, 90, 3).unwrap().len(), 3);
    for offset in [80, 50, 30, 0] {
        assert!(fork_spans(&deep, offset, 2).is_some());
    }
}

#[test]
fn a_repeated_put_is_compared() {
    let state = text_stream();
    let same = CreateRequest {
        content_type: Some("TEXT/plain; charset=utf-8"),
        lifetime: None,
        retention: None,
        retention_default: Retention::default(),
        closed: false,
        fork: None,
    };
    assert!(state.matches(&same));
    assert!(!state.matches(&CreateRequest {
        closed: true,
        ..same.clone()
    }));
    assert!(!state.matches(&CreateRequest {
        content_type: None,
        ..same.clone()
    }));
    let lifetime = Some(Lifetime::Ttl { seconds: 1 });
    assert!(!state.matches(&CreateRequest {
        lifetime,
        ..same.clone()
    }));
    let retention = Some(Retention {
        bytes: Some(1),
        age_ms: None,
    });
    assert!(!state.matches(&CreateRequest {
        retention,
        ..same.clone()
    }));
    let source = StreamPath::new("default", "s");
    let fork = Some(ForkRequest {
        source: &source,
        offset: None,
        sub_offset: 0,
        body: None,
    });
    assert!(!state.matches(&CreateRequest { fork, ..same }));
}

#[test]
fn a_repeated_put_may_leave_the_retention_to_its_route_again() {
    let kept = |bytes| Retention {
        bytes: Some(bytes),
        age_ms: None,
    };
    for (by_route, asked, same) in [
        (true, None, true),
        (true, Some(kept(1)), true),
        (true, Some(kept(2)), false),
        (false, None, false),
        (false, Some(kept(1)), true),
    ] {
        let state = StreamState::new(
            Arc::new(StreamMeta {
                retention: kept(1),
                retention_by_route: by_route,
                ..meta(1, "text/plain")
            }),
            0,
        );
        let request = CreateRequest {
            content_type: Some("text/plain"),
            lifetime: None,
            retention: asked,
            // The setting of the route may have changed since.
            retention_default: kept(3),
            closed: false,
            fork: None,
        };
        assert_eq!(state.matches(&request), same, "{by_route} {asked:?}");
    }
}

proptest! {
    #[test]
    fn sealed_segments_join_and_cover_the_stream(sizes in proptest::collection::vec(5u64..80, 1..40)) {
        let mut state = text_stream();
        let mut covered = 0;
        for size in sizes {
            if let Some(seal) = accept(&mut state, &append(size)) {
                prop_assert_eq!(seal.start, covered);
                prop_assert!(seal.end - seal.start >= 100);
                covered = seal.end;
            }
            prop_assert_eq!(state.sealed, covered);
            prop_assert!(state.tail - state.sealed < 100);
        }
    }
}
