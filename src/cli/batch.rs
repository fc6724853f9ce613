//! Cuts what is to be appended into batches, each of which is one request.
//!
//! Where a batch ends depends on the input alone, not on how it arrives: so whoever sends the same
//! input again with the same producer sends the same batches, and the server knows them again.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::failure::Failure;

/// What of the input is a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The whole input, in one request.
    Whole,
    /// Pieces of so many bytes.
    Pieces(usize),
    /// Each line, with its line break.
    Lines,
    /// Each line, as a JSON string.
    LinesAsJson,
    /// Each line, which is a JSON value.
    JsonLines,
}

/// The body of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) body: Bytes,
    /// How many bytes of the input it took.
    pub(super) input_bytes: u64,
}

/// Takes the input as it arrives and gives batches.
#[derive(Debug)]
pub(super) struct Cutter {
    cut: Cut,
    /// A batch is not made larger than this, unless one message is.
    batch_bytes: usize,
    /// Input that is not a whole line or piece yet.
    rest: Vec<u8>,
    /// How much of `rest` was searched for a line break.
    searched: usize,
    /// The batch in the making.
    body: Vec<u8>,
    input_bytes: u64,
    /// The line with which it begins.
    first_line: u64,
    /// The line that is looked at.
    line: u64,
    /// What is wrong with that line: nothing behind it is taken.
    refused: Option<Failure>,
}

impl Cutter {
    pub(super) fn new(cut: Cut, batch_bytes: usize) -> Self {
        Self {
            cut,
            batch_bytes,
            rest: Vec::new(),
            searched: 0,
            body: Vec::new(),
            input_bytes: 0,
            first_line: 0,
            line: 0,
            refused: None,
        }
    }

    /// Whether a line cannot be appended, so that the input ends before it.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Takes more of the input, and gives the batches that are full.
    pub(super) fn push(&mut self, input: &[u8]) -> Vec<Batch> {
        let mut full = Vec::new();
        self.rest.extend_from_slice(input);
        match self.cut {
            Cut::Whole => {}
            Cut::Pieces(size) => {
                while self.rest.len() >= size {
                    let after = self.rest.split_off(size);
                    full.push(whole(std::mem::replace(&mut self.rest, after)));
                }
            }
            _ => self.lines(&mut full),
        }
        full
    }

    /// Gives what has gathered, without waiting for a full batch.
    pub(super) fn flush(&mut self) -> Option<Batch> {
        if self.body.is_empty() {
            return None;
        }
        if self.is_array() {
            self.body.push(b']');
        }
        Some(Batch {
            body: std::mem::take(&mut self.body).into(),
            input_bytes: std::mem::take(&mut self.input_bytes),
        })
    }

    /// The input has ended: gives the batches that remain, and what is wrong with a line before
    /// which it ended. Where batches are fixed, what has gathered before such a line is no batch:
    /// when the line is mended, it becomes a part of another.
    pub(super) fn finish(mut self, fixed: bool) -> (Vec<Batch>, Option<Failure>) {
        let rest = std::mem::take(&mut self.rest);
        let mut last = Vec::new();
        if !rest.is_empty() && !self.is_refused() {
            match self.cut {
                Cut::Whole | Cut::Pieces(_) => last.push(whole(rest)),
                _ => self.one_line(&rest, &mut last),
            }
        }
        let mut end = self.line;
        if self.is_refused() && fixed && !self.body.is_empty() {
            end = self.first_line;
        } else {
            last.extend(self.flush());
        }
        let refused = self.refused.map(|failure| match end {
            1 => Failure::usage(format!("{failure}; nothing is appended")),
            _ => Failure::usage(format!("{failure}; what is before line {end} is appended")),
        });
        (last, refused)
    }

    fn is_array(&self) -> bool {
        matches!(self.cut, Cut::LinesAsJson | Cut::JsonLines)
    }

    fn lines(&mut self, full: &mut Vec<Batch>) {
        let mut rest = std::mem::take(&mut self.rest);
        let mut start = 0;
        while !self.is_refused()
            && let Some(found) = memchr::memchr(b'\n', &rest[self.searched..])
        {
            let end = self.searched + found;
            self.one_line(&rest[start..=end], full);
            start = end + 1;
            self.searched = start;
        }
        // Where no line has ended, all of it stays where it is.
        rest.drain(..start);
        self.rest = rest;
        self.searched = self.rest.len();
    }

    /// Takes one line, with its line break if it has one.
    fn one_line(&mut self, line: &[u8], full: &mut Vec<Batch>) {
        self.line += 1;
        match message(self.cut, line) {
            Ok(Some(message)) => self.add(&message, line.len(), full),
            Ok(None) => {}
            Err(why) => {
                self.refused = Some(Failure::usage(format!("line {} {why}", self.line)));
            }
        }
    }

    /// Puts a message into the batch; first gives the batch, if the message would make it too large.
    fn add(&mut self, message: &[u8], input_bytes: usize, full: &mut Vec<Batch>) {
        let separators = if self.is_array() { 2 } else { 0 };
        if self.body.len() + message.len() + separators > self.batch_bytes {
            full.extend(self.flush());
        }
        if self.body.is_empty() {
            self.first_line = self.line;
        }
        if self.is_array() {
            self.body
                .push(if self.body.is_empty() { b'[' } else { b',' });
        }
        self.body.extend_from_slice(message);
        self.input_bytes += input_bytes as u64;
    }
}

/// What a line, with its line break if it has one, is as a message: nothing, if it is blank where
/// lines are JSON. Or why it cannot be one.
fn message(cut: Cut, line: &[u8]) -> Result<Option<Cow<'_, [u8]>>, String> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    match cut {
        Cut::LinesAsJson => {
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let text = std::str::from_utf8(text)
                .map_err(|_| "is not UTF-8, so it cannot be a JSON string".to_owned())?;
            let string = serde_json::Value::from(text).to_string();
            Ok(Some(string.into_bytes().into()))
        }
        Cut::JsonLines => {
            let value = text.trim_ascii();
            if value.is_empty() {
                return Ok(None);
            }
            serde_json::from_slice::<&RawValue>(value)
                .map_err(|error| format!("is not JSON: {error}"))?;
            Ok(Some(value.into()))
        }
        // A line that lacks its break gets one, so that the next append begins a line.
        _ if text.len() == line.len() => Ok(Some([line, b"\n"].concat().into())),
        _ => Ok(Some(line.into())),
    }
}

fn whole(body: Vec<u8>) -> Batch {
    Batch {
        input_bytes: body.len() as u64,
        body: body.into(),
    }
}

/// The batches of messages that are given one by one: each its own, or, where they are JSON, as
/// many together as fit.
pub(super) fn of_messages(
    messages: &[String],
    json: bool,
    batch_bytes: usize,
) -> Result<Vec<Batch>, Failure> {
    if !json {
        return Ok(messages
            .iter()
            .map(|message| whole(message.clone().into_bytes()))
            .collect());
    }
    let mut cutter = Cutter::new(Cut::JsonLines, batch_bytes);
    let mut batches = Vec::new();
    for message in messages {
        serde_json::from_str::<&RawValue>(message).map_err(|error| {
            Failure::usage(format!(
                "`{message}` is not JSON, as this stream wants it: {error}"
            ))
        })?;
        cutter.add(message.trim().as_bytes(), message.len(), &mut batches);
    }
    batches.extend(cutter.flush());
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bodies that the input makes when it arrives in pieces of `size`, and what is wrong with
    /// it.
    fn cut_until(
        cut: Cut,
        batch_bytes: usize,
        input: &[u8],
        (size, fixed): (usize, bool),
    ) -> (Vec<String>, Option<String>) {
        let mut cutter = Cutter::new(cut, batch_bytes);
        let mut batches = Vec::new();
        for piece in input.chunks(size) {
            batches.extend(cutter.push(piece));
        }
        let (last, refused) = cutter.finish(fixed);
        batches.extend(last);
        let taken: u64 = batches.iter().map(|batch| batch.input_bytes).sum();
        assert!(taken <= input.len() as u64);
        let bodies = batches
            .iter()
            .map(|batch| String::from_utf8_lossy(&batch.body).into_owned())
            .collect();
        (bodies, refused.map(|failure| failure.message))
    }

    /// The same of an input with which nothing is wrong.
    fn cut(cut: Cut, batch_bytes: usize, input: &[u8], size: usize) -> Vec<String> {
        let (bodies, refused) = cut_until(cut, batch_bytes, input, (size, true));
        assert_eq!(refused, None);
        bodies
    }

    #[test]
    fn each_cut_makes_its_batches() {
        for (how, limit, input, bodies) in [
            (Cut::Whole, 1, "a\nb", vec!["a\nb"]),
            (Cut::Whole, 1, "", vec![]),
            (Cut::Pieces(2), 9, "abcde", vec!["ab", "cd", "e"]),
            (Cut::Lines, 100, "a\nb\n\nc", vec!["a\nb\n\nc\n"]),
            (Cut::Lines, 4, "a\nb\nc\r\n", vec!["a\nb\n", "c\r\n"]),
            (Cut::Lines, 1, "abc\nd\n", vec!["abc\n", "d\n"]),
            (
                Cut::LinesAsJson,
                100,
                "a \"q\"\r\n\nb",
                vec![r#"["a \"q\"","","b"]"#],
            ),
            (
                Cut::JsonLines,
                100,
                "{\"a\": 1}\n\n  [2] \r\n3",
                vec![r#"[{"a": 1},[2],3]"#],
            ),
            (Cut::JsonLines, 5, "1\n2\n3\n", vec!["[1,2]", "[3]"]),
            (Cut::JsonLines, 5, "\n \n", vec![]),
        ] {
            for size in [1, 3, 100] {
                assert_eq!(
                    cut(how, limit, input.as_bytes(), size),
                    bodies,
                    "{how:?} {input:?}"
                );
            }
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for (how, input, message) in [
            (Cut::JsonLines, &b"1\n{\"a\"\n3\n"[..], "line 2 is not JSON"),
            (Cut::JsonLines, b"1 2\n", "line 1 is not JSON"),
            (Cut::JsonLines, b"1\n\n2\n{", "line 4 is not JSON"),
            (Cut::LinesAsJson, b"\n\n\xff\n", "line 3 is not UTF-8"),
        ] {
            for size in [1, 100] {
                let (_, refused) = cut_until(how, 100, input, (size, false));
                let refused = refused.unwrap();
                assert!(refused.starts_with(message), "{refused}");
            }
        }
    }

    #[test]
    fn what_is_before_a_bad_line_is_appended_or_told_from_it() {
        let input = b"1\n2\n3\n\nx\n4\n";
        for size in [1, 3, 100] {
            let (bodies, refused) = cut_until(Cut::JsonLines, 5, input, (size, false));
            assert_eq!(bodies, ["[1,2]", "[3]"]);
            let refused = refused.unwrap();
            assert!(refused.ends_with("before line 5 is appended"), "{refused}");

            // The third line belongs to a batch that the fifth might have been in.
            let (bodies, refused) = cut_until(Cut::JsonLines, 5, input, (size, true));
            assert_eq!(bodies, ["[1,2]"]);
            let refused = refused.unwrap();
            assert!(refused.ends_with("before line 3 is appended"), "{refused}");
        }
        let (bodies, refused) = cut_until(Cut::JsonLines, 100, b"1\nx\n", (100, true));
        assert!(bodies.is_empty());
        assert!(refused.unwrap().ends_with("nothing is appended"));
    }

    #[test]
    fn messages_are_batched_where_they_stay_apart() {
        let messages = ["1".to_owned(), " [2]".to_owned()];
        let bodies = |json| {
            let batches = of_messages(&messages, json, 100).unwrap();
            batches
                .into_iter()
                .map(|batch| batch.body)
                .collect::<Vec<_>>()
        };
        assert_eq!(bodies(true), ["[1,[2]]"]);
        assert_eq!(bodies(false), ["1", " [2]"]);
        assert!(of_messages(&["hello".to_owned()], true, 100).is_err());
    }

    #[test]
    fn what_has_gathered_can_be_had() {
        let mut cutter = Cutter::new(Cut::Lines, 100);
        assert!(cutter.push(b"a\nb").is_empty());
        assert_eq!(cutter.flush().unwrap().body, "a\n");
        assert_eq!(cutter.flush(), None);
        assert_eq!(cutter.finish(false).0[0].body, "b\n");
    }

    proptest! {
        #[test]
        fn batches_do_not_depend_on_how_the_input_arrives(
            input in "[a-c\n]{0,60}",
            limit in 1_usize..20,
            size in 1_usize..20,
            how in prop_oneof![Just(Cut::Lines), Just(Cut::LinesAsJson), Just(Cut::Pieces(7))],
        ) {
            let at_once = cut(how, limit, input.as_bytes(), 1000);
            prop_assert_eq!(cut(how, limit, input.as_bytes(), size), at_once);
        }

        #[test]
        fn lines_keep_every_byte(input in "([a-c]{0,9}\n){0,9}", limit in 1_usize..20) {
            prop_assert_eq!(cut(Cut::Lines, limit, input.as_bytes(), 7).concat(), input);
        }
    }
}
