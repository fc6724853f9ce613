use super::*;
use crate::recorder::seek::Seek;
use proptest::prelude::*;

/// An event as a browser hands it to a page: id, name, data.
type Event = (String, String, String);

/// Reads events as a browser does.
fn parse(bytes: &[u8]) -> Vec<Event> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let (mut id, mut name, mut data) = (String::new(), String::new(), None::<String>);
    // What follows the last line end is no line yet.
    for line in text
        .split_inclusive('\n')
        .filter_map(|l| l.strip_suffix('\n'))
    {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            _ if line.is_empty() => {
                let name = std::mem::take(&mut name);
                if let Some(data) = data.take() {
                    events.push((id.clone(), name, data));
                }
            }
            "id" => value.clone_into(&mut id),
            "event" => value.clone_into(&mut name),
            "data" => {
                let data = data.get_or_insert_default();
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value);
            }
            _ => {}
        }
    }
    events
}

/// The batches of `chunks`, cut where a recorder would cut: at complete pieces, and after some chunks
/// for want of time. The id of an event is `batch.number`.
fn batches(chunks: &[&[u8]], flush_after: &[usize], add_ids: bool) -> Vec<Bytes> {
    let mut splitter = Splitter::new("text/event-stream", add_ids);
    let mut batches: Vec<Bytes> = Vec::new();
    for (n, chunk) in chunks.iter().enumerate() {
        let batch = batches.len();
        splitter.push(chunk, |number, out| {
            out.put_slice(format!("{batch}.{number}").as_bytes());
        });
        batches.extend(splitter.take_complete());
        if flush_after.contains(&n) {
            batches.extend(splitter.take_all());
        }
    }
    batches.extend(splitter.finish());
    batches
}

fn with_ids(text: &str) -> String {
    String::from_utf8(batches(&[text.as_bytes()], &[], true).concat()).unwrap()
}

#[test]
fn events_without_an_id_get_one() {
    assert_eq!(
        with_ids("data: 1\n\nevent: x\ndata: 2\n\n"),
        "data: 1\nid: 0.0\n\nevent: x\ndata: 2\nid: 0.1\n\n"
    );
    assert_eq!(with_ids("data: 1\r\n\r\n"), "data: 1\r\nid: 0.0\r\n\r\n");
    assert_eq!(with_ids("data: 1\r\r"), "data: 1\rid: 0.0\r\r");
    assert_eq!(
        with_ids("ident: 1\n\ni\n\n:id\nidx\n\n"),
        "ident: 1\nid: 0.0\n\ni\nid: 0.1\n\n:id\nidx\nid: 0.2\n\n"
    );
}

#[test]
fn what_has_an_id_or_is_no_event_stays_as_it_is() {
    for text in [
        "id: 7\ndata: 1\n\n",
        "data: 1\nid:7\n\n",
        "data: 1\nid\n\n",
        "\u{feff}id: 7\ndata: 1\n\n",
        ": a comment\n\n",
        ": a\r\n: b\r\n\r\n\r\n",
        "\n\n\r\r\r\n",
        "\u{feff}\n",
        "data: not ended\n",
    ] {
        assert_eq!(with_ids(text), text);
    }
}

#[test]
fn a_crlf_may_be_torn() {
    let chunks: [&[u8]; 4] = [b"data: 1\r", b"\n\r", b"\ndata: 2\r\n", b"\r\n"];
    let batches = batches(&chunks, &[], true);
    let expected: [&[u8]; 2] = [b"data: 1\r\nid: 0.0\r\n\r", b"\ndata: 2\r\nid: 1.0\r\n\r\n"];
    assert_eq!(batches, expected);
}

#[test]
fn an_id_belongs_to_the_batch_in_which_its_event_ends() {
    let chunks: [&[u8]; 3] = [b"data: 1\n\ndata: 2\n\nda", b"ta: 3", b"\n\ndata: 4\n\n"];
    let batches = batches(&chunks, &[1], true);
    let expected: [&[u8]; 3] = [
        b"data: 1\nid: 0.0\n\ndata: 2\nid: 0.1\n\n",
        b"data: 3",
        b"\nid: 2.0\n\ndata: 4\nid: 2.1\n\n",
    ];
    assert_eq!(batches, expected);
}

#[test]
fn a_flush_does_not_tear_characters() {
    let mut splitter = Splitter::new("text/event-stream", false);
    let text = "data: \u{1f30a}";
    splitter.push(&text.as_bytes()[..9], |_, _| ());
    assert_eq!(splitter.take_all().unwrap(), "data: ");
    assert_eq!(splitter.take_all(), None);
    splitter.push(&text.as_bytes()[9..], |_, _| ());
    assert_eq!(splitter.take_all().unwrap(), "\u{1f30a}");
    // What can never become a character waits for nothing.
    splitter.push(b"\x80\x80\x80\x80", |_, _| ());
    assert_eq!(
        splitter.take_all().unwrap(),
        "\u{80}\u{80}\u{80}\u{80}"
            .chars()
            .map(|c| c as u8)
            .collect::<Vec<_>>()
    );
    splitter.push(b"\xe2\x82", |_, _| ());
    assert_eq!(splitter.take_all(), None);
    assert_eq!(splitter.finish().unwrap(), &b"\xe2\x82"[..]);
}

#[test]
fn lines_and_chunks_are_batches_too() {
    let take = |content_type: &str, chunk: &[u8]| {
        let mut splitter = Splitter::new(content_type, true);
        splitter.push(chunk, |_, _| panic!("only events get ids"));
        splitter.take_complete()
    };
    let lines = "Application/X-NDJSON; charset=utf-8";
    assert_eq!(take(lines, b"{}\n{}\n{").unwrap(), "{}\n{}\n");
    assert_eq!(take(lines, b"{"), None);
    assert_eq!(take("text/plain", b"ab\xe2").unwrap(), "ab");
    assert_eq!(
        take("application/octet-stream", b"ab\xe2").unwrap(),
        &b"ab\xe2"[..]
    );
}

#[test]
fn a_boundary_lies_behind_a_blank_line() {
    let is_boundary = |framing, text: &[u8]| {
        let mut at_once = Boundary::new(framing);
        at_once.push(text);
        let mut bytewise = Boundary::new(framing);
        text.chunks(1).for_each(|byte| bytewise.push(byte));
        assert_eq!(at_once.is_here(), bytewise.is_here());
        at_once.is_here()
    };
    for text in [
        "",
        "\n",
        "a\n\n",
        "a\r\r",
        "a\r\n\r\n",
        "a\n\r\n",
        "a\r\n\n",
        "\r\n",
    ] {
        assert!(is_boundary(Framing::Events, text.as_bytes()), "{text:?}");
    }
    for text in ["a", "a\n", "a\r", "a\r\n", "a\n\nb", "a\n\nb\r\n"] {
        assert!(!is_boundary(Framing::Events, text.as_bytes()), "{text:?}");
    }
    assert!(is_boundary(Framing::Lines, b"{}\n"));
    assert!(!is_boundary(Framing::Lines, b"{}"));
    assert!(is_boundary(Framing::Chunks, b"a"));
}

/// Fields, comments and line ends, close enough together to meet in every way.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::sample::select(vec![
        "data: 1",
        "data",
        "data:\u{20ac}",
        "event: x",
        "id: 5",
        "id",
        "i",
        ":",
        ": c",
    ]);
    let mark = proptest::sample::select(vec!["", "\u{feff}"]);
    let ends = proptest::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", ""]);
    let lines = proptest::collection::vec((words, ends), 0..12);
    (mark, lines).prop_map(|(mark, lines)| {
        let lines = lines.into_iter().map(|(word, end)| format!("{word}{end}"));
        format!("{mark}{}", lines.collect::<String>()).into_bytes()
    })
}

fn cut<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &text[pair[0]..pair[1]])
        .collect()
}

proptest! {
    #[test]
    fn bytes_pass_unchanged(text in text(), cuts: Vec<usize>, flush_after: Vec<u8>) {
        let flush_after: Vec<usize> = flush_after.into_iter().map(usize::from).collect();
        let batches = batches(&cut(&text, &cuts), &flush_after, false);
        prop_assert_eq!(batches.concat(), text);
    }

    #[test]
    fn ids_change_nothing_else(text in text(), cuts: Vec<usize>, flush_after in proptest::collection::vec(0usize..8, 0..4)) {
        let batches = batches(&cut(&text, &cuts), &flush_after, true);
        let with_ids = batches.concat();
        let bare = |events: Vec<Event>| events.into_iter().map(|(_, name, data)| (name, data)).collect::<Vec<_>>();
        prop_assert_eq!(bare(parse(&with_ids)), bare(parse(&text)));

        let seen: Vec<Event> = parse(&with_ids);
        for (n, (id, ..)) in seen.iter().enumerate().filter(|(_, (id, ..))| id.contains('.')) {
            let same = seen.iter().filter(|(other, ..)| other == id).count();
            prop_assert_eq!(same, 1, "the id {} names one event", id);
            let batch: usize = id.split('.').next().unwrap().parse().unwrap();
            let mut seek = Seek::behind(id.as_bytes());
            let mut rest = Vec::new();
            for (at, bytes) in batches.iter().enumerate().skip(batch) {
                let skipped = seek.skip(bytes);
                prop_assert!(seek.is_found(), "the id {} is found in batch {}, not {}", id, batch, at);
                rest.extend_from_slice(&bytes[skipped..]);
            }
            prop_assert_eq!(bare(parse(&rest)), bare(seen[n + 1..].to_vec()));
            prop_assert!(with_ids.ends_with(&rest));
        }
    }

    #[test]
    fn complete_batches_end_at_boundaries(text in text(), cuts: Vec<usize>) {
        // A blank line that only a byte order mark precedes is not worth telling from others.
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text);
        let mut splitter = Splitter::new("text/event-stream", false);
        for chunk in cut(text, &cuts) {
            splitter.push(chunk, |_, _| ());
            if let Some(batch) = splitter.take_complete() {
                let mut boundary = Boundary::new(Framing::Events);
                boundary.push(b"a\n");
                boundary.push(&batch);
                prop_assert!(boundary.is_here());
            }
        }
    }
}
