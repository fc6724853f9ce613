//! What the commands write on standard output.

use std::io::{self, Write};
use std::os::fd::AsFd as _;

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use super::failure::Failure;

/// Writes one line.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::output(&error))
}

/// Writes a text as it is.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::output(&error))
}

/// Returns when nobody reads standard output any more. Where that cannot be told, as of a file, never.
pub(super) async fn closed() {
    let out = io::stdout().as_fd().try_clone_to_owned();
    // Unchecked, because checked it would make the pipe one that does not block, for all who have it.
    if let Ok(out) = out.and_then(Sender::from_owned_fd_unchecked) {
        let _ = out.ready(Interest::ERROR).await;
    } else {
        std::future::pending::<()>().await;
    }
}

/// What of a stream is written, and how.
#[derive(Debug)]
pub(super) enum Form {
    /// The bytes as they come.
    Bytes,
    /// Each message of a JSON array on a line of its own.
    JsonLines(Splitter),
}

/// Writes the data of answers. After an answer that broke off, the same data may be given again: so
/// it counts what was written of it, and skips that much.
#[derive(Debug)]
pub(super) struct Writer<W> {
    out: W,
    form: Form,
    /// How much of the data since the last offset is written: bytes, or messages.
    written: u64,
    /// How much of it is still to be skipped.
    skip: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, json_lines: bool) -> Self {
        let form = if json_lines {
            Form::JsonLines(Splitter::default())
        } else {
            Form::Bytes
        };
        Self {
            out,
            form,
            written: 0,
            skip: 0,
        }
    }

    /// An answer begins, with the data from the offset that was last reached.
    pub(super) fn begin(&mut self) {
        self.skip = self.written;
        if let Form::JsonLines(splitter) = &mut self.form {
            *splitter = Splitter::default();
        }
    }

    /// A piece of the answer.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let Self {
            out,
            form,
            written,
            skip,
        } = self;
        match form {
            Form::Bytes => {
                let skipped = piece
                    .len()
                    .min(usize::try_from(*skip).unwrap_or(usize::MAX));
                *skip -= skipped as u64;
                *written += (piece.len() - skipped) as u64;
                out.write_all(&piece[skipped..])
                    .map_err(|error| Failure::output(&error))
            }
            Form::JsonLines(splitter) => splitter.push(piece, |message| {
                if *skip > 0 {
                    *skip -= 1;
                    return Ok(());
                }
                *written += 1;
                out.write_all(&on_one_line(message))
                    .and_then(|()| out.write_all(b"\n"))
                    .map_err(|error| Failure::output(&error))
            }),
        }
    }

    /// The answer was whole: what comes next begins at its end.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        if let Form::JsonLines(splitter) = &self.form
            && !splitter.is_complete()
        {
            return Err(Failure::protocol("the answer is not a whole JSON array"));
        }
        self.written = 0;
        self.skip = 0;
        self.flush()
    }

    /// Gives everything to whoever reads it.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::output(&error))
    }
}

/// A message without line breaks. In JSON, they are only ever blank space between tokens.
fn on_one_line(message: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', message).is_none() {
        return message.into();
    }
    let blank = |byte: &u8| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    };
    message.iter().map(blank).collect()
}

/// Splits a JSON array, as it arrives, into its elements, byte for byte as they were sent.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    state: Place,
    depth: u32,
    in_text: bool,
    escaped: bool,
    /// What has arrived of the element that is not whole yet.
    element: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    Inside,
    After,
}

impl Splitter {
    /// Whether the array has ended, or nothing has arrived at all.
    pub(super) fn is_complete(&self) -> bool {
        self.state != Place::Inside
    }

    /// Takes a piece and gives each element that is whole to `emit`.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for byte in piece {
            match self.state {
                Place::Before | Place::After if byte.is_ascii_whitespace() => {}
                Place::Before if *byte == b'[' => self.state = Place::Inside,
                Place::Inside => self.inside(*byte, &mut emit)?,
                _ => return Err(Failure::protocol("the answer is not a JSON array")),
            }
        }
        Ok(())
    }

    fn inside(
        &mut self,
        byte: u8,
        emit: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.in_text {
            self.element.push(byte);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return Ok(());
        }
        match byte {
            b',' | b']' if self.depth == 0 => {
                let element = self.element.trim_ascii();
                if !element.is_empty() {
                    emit(element)?;
                }
                self.element.clear();
                if byte == b']' {
                    self.state = Place::After;
                }
                return Ok(());
            }
            b'"' => self.in_text = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.element.push(byte);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Result<Vec<String>, Failure> {
        let mut splitter = Splitter::default();
        let mut elements = Vec::new();
        for piece in pieces {
            splitter.push(piece, |element| {
                elements.push(String::from_utf8_lossy(element).into_owned());
                Ok(())
            })?;
        }
        assert!(splitter.is_complete());
        Ok(elements)
    }

    #[test]
    fn arrays_are_split() {
        for (array, elements) in [
            ("[]", vec![]),
            (" [ ] \n", vec![]),
            ("[1]", vec!["1"]),
            ("[1, 2 ,\n3]", vec!["1", "2", "3"]),
            (
                r#"[{"a":[1,2]},[3,[4]],"x,]\"\\",null]"#,
                vec![r#"{"a":[1,2]}"#, "[3,[4]]", r#""x,]\"\\""#, "null"],
            ),
            ("[12345678901234567890.10]", vec!["12345678901234567890.10"]),
        ] {
            assert_eq!(split(&[array.as_bytes()]).unwrap(), elements, "{array}");
        }
        assert!(split(&[b"{}"]).is_err());
        assert!(split(&[b"[1] 2"]).is_err());
    }

    #[test]
    fn what_was_written_is_not_written_again() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, true);
        writer.begin();
        writer.write(b"[1,{\"a\":\n2},\"br").unwrap();
        writer.begin();
        writer.write(b"[1,{\"a\":\n2},\"broken\",4]").unwrap();
        writer.end().unwrap();
        writer.begin();
        writer.write(b"[5]").unwrap();
        writer.end().unwrap();
        assert_eq!(out, b"1\n{\"a\": 2}\n\"broken\"\n4\n5\n");

        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, false);
        for piece in ["abc", "abcdef", "ab"] {
            writer.begin();
            writer.write(piece.as_bytes()).unwrap();
        }
        writer.begin();
        writer.write(b"abcdefgh").unwrap();
        writer.end().unwrap();
        writer.begin();
        writer.write(b"xyz").unwrap();
        assert_eq!(out, b"abcdefghxyz");
    }

    #[test]
    fn an_array_without_its_end_is_told() {
        let mut writer = Writer::new(Vec::new(), true);
        writer.begin();
        writer.write(b"[1,").unwrap();
        assert!(writer.end().is_err());
        // An answer without a body is whole.
        let mut writer = Writer::new(Vec::new(), true);
        writer.begin();
        writer.end().unwrap();
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            "[\"\\\\,\\[\\]{}a-c\n]*".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-c\"]*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_array_cut_anywhere_is_split(
            values in prop::collection::vec(json(), 0..6),
            pretty in any::<bool>(),
            size in 1_usize..20,
        ) {
            let array = serde_json::Value::Array(values.clone());
            let text = if pretty { format!("{array:#}") } else { array.to_string() };
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let found: Vec<serde_json::Value> =
                split(&pieces).unwrap().iter().map(|element| serde_json::from_str(element).unwrap()).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = Splitter::default().push(&bytes, |_| Ok(()));
        }
    }
}
