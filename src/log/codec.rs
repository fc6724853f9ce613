//! How values are written: LEB128 numbers, flags, texts with their length.

use super::keys::Corrupt;
use crate::types::StreamPath;
use bytes::{BufMut, Bytes, BytesMut};

/// Writes the fields of a value.
#[derive(Default)]
pub(super) struct Out(BytesMut);

impl Out {
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.put_u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.put_u8(number as u8);
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.put_u8(byte);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.put_slice(text.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Reads them back.
pub(super) struct In<'a> {
    rest: &'a [u8],
    what: &'static str,
    /// The version of the value, where its kind has versions.
    pub(super) version: u8,
}

impl<'a> In<'a> {
    pub(super) fn new(rest: &'a [u8], what: &'static str) -> Self {
        Self {
            rest,
            what,
            version: 0,
        }
    }

    pub(super) fn corrupt(&self) -> Corrupt {
        Corrupt(self.what)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Corrupt> {
        let (first, rest) = self.rest.split_first().ok_or(self.corrupt())?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Corrupt> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.corrupt())
    }

    pub(super) fn flag(&mut self) -> Result<bool, Corrupt> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt()),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Corrupt> {
        let bytes = self.number()? as usize;
        let (text, rest) = self.rest.split_at_checked(bytes).ok_or(self.corrupt())?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| self.corrupt())
    }

    pub(super) fn path(&mut self) -> Result<StreamPath, Corrupt> {
        StreamPath::from_key(self.text()?).ok_or(self.corrupt())
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Corrupt>,
    ) -> Result<Option<T>, Corrupt> {
        self.flag()?.then(|| read(self)).transpose()
    }

    /// Reads what values have since a version; the default in earlier ones.
    pub(super) fn since<T: Default>(
        &mut self,
        version: u8,
        read: impl FnOnce(&mut Self) -> Result<T, Corrupt>,
    ) -> Result<T, Corrupt> {
        if self.version < version {
            return Ok(T::default());
        }
        read(self)
    }
}
