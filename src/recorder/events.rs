//! Where the lines and events of server-sent events lie, in bytes that come in any pieces.

use memchr::memchr2;

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    Lf,
    Cr,
    CrLf,
}

impl LineEnd {
    pub(super) fn bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::Cr => b"\r",
            Self::CrLf => b"\r\n",
        }
    }
}

/// The end of an event, or of lines that are none: comments, or nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockEnd {
    /// How the lines before the blank one end.
    pub(super) line_end: LineEnd,
    pub(super) has_field: bool,
    pub(super) has_id: bool,
}

/// The next line, or as much of it as is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// With the line's end.
    pub(super) len: usize,
    /// What belongs to the value of an `id` field, if the line is one.
    pub(super) id: Option<&'a [u8]>,
    /// Whether this is the end of its line.
    pub(super) is_end: bool,
    /// Set at a blank line.
    pub(super) block_end: Option<BlockEnd>,
}

/// What is known of the field that the current line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// Nothing of the whole answer is there: a byte order mark may come.
    Start,
    /// So many bytes of a byte order mark.
    Mark(u8),
    /// Nothing of the line is there.
    Blank,
    Comment,
    /// So many bytes of `id`.
    MaybeId(u8),
    /// The value of an `id` may begin, after one space that is no part of it.
    IdColon,
    IdValue,
    Other,
}

/// Reads lines and events. A CR ends a line at once; a LF that follows it, however late, belongs to
/// the same line end.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    field: Field,
    after_cr: bool,
    line_end: LineEnd,
    has_field: bool,
    has_id: bool,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            field: Field::Start,
            after_cr: false,
            line_end: LineEnd::Lf,
            has_field: false,
            has_id: false,
        }
    }

    /// Takes the LF of a line end whose CR came before, if `bytes` begin with it; returns its length.
    pub(super) fn late_lf(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        usize::from(std::mem::take(&mut self.after_cr) && bytes[0] == b'\n')
    }

    /// Takes the rest of the current line, as far as `bytes` have it.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> Piece<'a> {
        let late = self.late_lf(bytes);
        if late > 0 {
            self.line_end = LineEnd::CrLf;
            return Piece {
                len: late,
                ..Piece::default()
            };
        }
        let Some(end) = memchr2(b'\r', b'\n', bytes) else {
            return Piece {
                len: bytes.len(),
                id: self.read(bytes),
                ..Piece::default()
            };
        };
        let id = self.read(&bytes[..end]);
        let bare_id = self.field == Field::MaybeId(2);
        let line_end = match (bytes[end], bytes.get(end + 1)) {
            (b'\n', _) => LineEnd::Lf,
            (_, Some(b'\n')) => LineEnd::CrLf,
            (_, after) => {
                self.after_cr = after.is_none();
                LineEnd::Cr
            }
        };
        Piece {
            len: end + line_end.bytes().len(),
            id: id.or(bare_id.then_some(&[])),
            is_end: true,
            block_end: self.end_line(line_end),
        }
    }

    /// Reads on in a line; returns what belongs to the value of an id.
    fn read<'a>(&mut self, text: &'a [u8]) -> Option<&'a [u8]> {
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            if let Field::IdValue | Field::Comment | Field::Other = self.field {
                break;
            }
            let (field, taken) = match (self.field, byte) {
                (Field::Start, 0xef) => (Field::Mark(1), 1),
                (Field::Mark(1), 0xbb) => (Field::Mark(2), 1),
                (Field::Mark(2), 0xbf) => (Field::Blank, 1),
                (Field::Start | Field::Blank, b':') => (Field::Comment, 1),
                (Field::Start | Field::Blank, b'i') => (Field::MaybeId(1), 1),
                (Field::MaybeId(1), b'd') => (Field::MaybeId(2), 1),
                (Field::MaybeId(2), b':') => (Field::IdColon, 1),
                (Field::IdColon, _) => (Field::IdValue, usize::from(byte == b' ')),
                _ => (Field::Other, 1),
            };
            self.field = field;
            at += taken;
        }
        matches!(self.field, Field::IdColon | Field::IdValue).then(|| &text[at..])
    }

    fn end_line(&mut self, line_end: LineEnd) -> Option<BlockEnd> {
        let field = std::mem::replace(&mut self.field, Field::Blank);
        match field {
            Field::Start | Field::Blank => {
                let end = BlockEnd {
                    line_end: self.line_end,
                    has_field: self.has_field,
                    has_id: self.has_id,
                };
                (self.has_field, self.has_id) = (false, false);
                return Some(end);
            }
            Field::Comment => {}
            Field::Mark(_) | Field::MaybeId(1) | Field::Other => self.has_field = true,
            Field::MaybeId(_) | Field::IdColon | Field::IdValue => {
                (self.has_field, self.has_id) = (true, true);
            }
        }
        self.line_end = line_end;
        None
    }
}
