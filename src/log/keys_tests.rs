use super::*;
use proptest::option;
use proptest::prelude::*;

fn lifetimes() -> impl Strategy<Value = Lifetime> {
    prop_oneof![
        Just(Lifetime::Unlimited),
        any::<u64>().prop_map(|seconds| Lifetime::Ttl { seconds }),
        any::<u64>().prop_map(|at_ms| Lifetime::Until { at_ms }),
    ]
}

prop_compose! {
    fn forks()(
        path in "[a-z/é]{0,20}",
        source_id: u64,
        sub_offset: u64,
        lifetime_inherited: bool,
        offset: u64,
        spans in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
    ) -> ForkMeta {
        ForkMeta {
            source: StreamPath::new("default", &path),
            source_id,
            sub_offset,
            lifetime_inherited,
            offset,
            spans: spans.into_iter().map(|(id, end)| Span { id, end }).collect(),
        }
    }
}

prop_compose! {
    fn stamps()(id in "\\PC{1,20}", epoch: u64, seq: u64) -> ProducerStamp {
        ProducerStamp { id: id.into(), epoch, seq }
    }
}

prop_compose! {
    fn retentions()(bytes: Option<u64>, age_ms: Option<u64>) -> Retention {
        Retention { bytes, age_ms }
    }
}

prop_compose! {
    fn ends()(
        outcome in prop::sample::select(vec![Outcome::Completed, Outcome::Aborted, Outcome::Failed]),
        reason in option::of("[ -~]{1,20}"),
    ) -> StreamEnd {
        StreamEnd { outcome, reason: reason.map(Arc::from) }
    }
}

prop_compose! {
    fn metas()(
        id: u64,
        content_type in "[a-z]{1,9}/[a-z;= ]{1,20}",
        lifetime in lifetimes(),
        created_ms: u64,
        fork in option::of(forks()),
        (retention, retention_by_route) in (retentions(), any::<bool>()),
        noted: bool,
    ) -> StreamMeta {
        let content_type: Arc<str> = content_type.into();
        StreamMeta {
            id, kind: Kind::of(&content_type), content_type, lifetime, created_ms, fork,
            retention, retention_by_route,
            note: noted.then(Bytes::new),
        }
    }
}

prop_compose! {
    fn states()(
        meta in metas(),
        (earliest, tail, sealed, last_seal, last_used_ms) in any::<(u64, u64, u64, u64, u64)>(),
        (open_appends, forks, producers) in any::<(u32, u32, u32)>(),
        (closed, deleted, unfinished, retaining) in any::<(bool, bool, bool, bool)>(),
        end in option::of(ends()),
        closed_by in option::of(stamps()),
        stream_seq in option::of("\\PC{0,20}"),
    ) -> StreamState {
        let mut state = StreamState {
            meta: Arc::new(meta),
            earliest, tail, sealed, last_seal, open_appends, closed, closed_by, forks, deleted, producers, last_used_ms, unfinished, retaining,
            end: end.map(Arc::new),
            stream_seq: stream_seq.map(Arc::from),
            row: Row::default(),
        };
        state.row = Row::of(&state);
        state
    }
}

/// As the first version wrote them.
#[test]
fn states_of_the_first_version_are_read() {
    let value = [
        &[1, 7, 10][..],
        b"text/plain",
        // A lifetime of 60 s, created at 5, no fork.
        &[1, 60, 5, 0],
        // Tail, sealed, last seal, open records.
        &[90, 80, 70, 2],
        // Open, not closed by a producer; no Stream-Seq.
        &[0, 0, 0],
        // Forks, deleted, producers, last use.
        &[3, 0, 4, 9],
    ]
    .concat();
    let state = read_state(&value).unwrap();
    let lifetime = Lifetime::Ttl { seconds: 60 };
    assert_eq!((state.meta.id, state.meta.lifetime), (7, lifetime));
    assert_eq!(
        (state.earliest, state.tail, state.sealed, state.last_seal),
        (0, 90, 80, 70)
    );
    assert_eq!(
        (state.forks, state.producers, state.last_used_ms),
        (3, 4, 9)
    );
    assert_eq!(
        (&state.end, state.unfinished, &state.meta.note),
        (&None, false, &None)
    );
    assert!(state.meta.retention.is_unlimited());
    assert_eq!(read_state(&write_state(&state)), Ok(state));
}

proptest! {
    #[test]
    fn states_round_trip(state in states()) {
        prop_assert_eq!(read_state(&write_state(&state)), Ok(state));
    }

    #[test]
    fn a_note_is_no_part_of_its_state(state in states(), note in proptest::collection::vec(any::<u8>(), 0..20)) {
        let (mut noted, mut empty) = ((*state.meta).clone(), (*state.meta).clone());
        noted.note = Some(note.into());
        empty.note = Some(Bytes::new());
        let noted = StreamState { meta: Arc::new(noted), ..state.clone() };
        let empty = StreamState { meta: Arc::new(empty), ..state };
        prop_assert_eq!(read_state(&write_state(&noted)), Ok(empty));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = read_state(&bytes);
        let _ = read_producer(&bytes);
        let _ = SegmentHeader::read(&bytes);
        let _ = Pending::read(&bytes, &bytes);
    }

    #[test]
    fn a_cut_state_is_refused(state in states(), cut in 0usize..1000) {
        let whole = write_state(&state);
        let cut = cut % whole.len();
        prop_assert!(read_state(&whole[..cut]).is_err());
    }

    #[test]
    fn keys_sort_as_their_numbers(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
        prop_assert_eq!(a.cmp(&b), position_key(a.0, a.1).cmp(&position_key(b.0, b.1)));
        prop_assert_eq!(read_position_key(&position_key(a.0, a.1)), Ok(a));
    }

    #[test]
    fn pending_work_round_trips(id: u64, start: u64, end: u64, source in option::of((any::<u64>(), "[a-z]{0,9}"))) {
        let source = source.map(|(id, path)| (id, StreamPath::new("default", &path)));
        let path = StreamPath::new("default", "a/b");
        for work in [
            Pending::Pack { id, start, end },
            Pending::Purge { id, source },
            Pending::Trim { id, path: path.clone() },
            Pending::Finish { id, path },
        ] {
            prop_assert_eq!(Pending::read(&work.key(), &work.value()), Ok(work));
        }
    }

    #[test]
    fn small_values_round_trip(epoch: u64, last_seq: u64, end: u64, sealed_ms: u64, packed: bool) {
        let producer = ProducerState { epoch, last_seq };
        prop_assert_eq!(read_producer(&write_producer(producer)), Ok(producer));
        let header = SegmentHeader { end, sealed_ms, packed };
        let written = header.write();
        prop_assert_eq!(SegmentHeader::read(&written), Ok(header));
        // As the first version wrote it.
        let first = SegmentHeader { sealed_ms: 0, ..header };
        prop_assert_eq!(SegmentHeader::read(&written[..9]), Ok(first));
    }

    #[test]
    fn timers_sort_by_their_time(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
        for kind in [TimerKind::Expiry, TimerKind::Retention] {
            prop_assert_eq!(read_timer_key(&kind.key(a.0, a.1)), Ok((a.0, a.1, kind)));
            prop_assert_eq!(a.0 < b.0, kind.key(a.0, a.1)[..] < timers_until(b.0)[..]);
        }
    }
}
