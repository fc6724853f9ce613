//! What can be wrong with a configuration, and how it is told.

use std::fmt;
use std::path::{Path, PathBuf};

use super::secret::masked;
use super::tree::Origin;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file was read, and something in it, in the environment or in the flags is wrong.
    #[error("{0}")]
    Invalid(Problems),
}

/// Everything that is wrong with one configuration, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

/// One thing that is wrong: a sentence, where, and often what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// Where it is written.
    pub place: Place,
}

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    File {
        /// The file's name.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The character of the line, from 1.
        column: usize,
        /// How many characters of the line it takes.
        width: usize,
        /// The whole line, with secrets masked.
        text: String,
    },
    /// In the environment variable, or as the flag, of this name.
    Outside(String),
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        match &self.place {
            Place::File {
                file,
                line,
                column,
                width,
                text,
            } => {
                let margin = " ".repeat(line.to_string().len());
                // Tabs stay tabs under the line, so that the mark stands where it should.
                let indent: String = text
                    .chars()
                    .take(column - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                writeln!(f, "{margin}--> {}:{line}:{column}", file.display())?;
                writeln!(f, "{margin} |")?;
                writeln!(f, "{line} | {text}")?;
                writeln!(f, "{margin} | {indent}{}", "^".repeat((*width).max(1)))?;
            }
            Place::Outside(name) => writeln!(f, " --> {name}")?,
        }
        if let Some(hint) = &self.hint {
            writeln!(f, " hint: {hint}")?;
        }
        Ok(())
    }
}

/// Gathers the problems of one file.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    file: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            problems: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes a problem. One that was noted before, word for word and at the same place, is not
    /// noted again.
    pub(super) fn add(&mut self, origin: &Origin, message: String, hint: Option<String>) {
        let place = match origin {
            Origin::File(span) => self.place(span.start, span.end),
            Origin::Outside(name) => Place::Outside(name.clone()),
        };
        let problem = Problem {
            message,
            hint,
            place,
        };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The line of a byte of the file, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        let at = at.min(self.text.len());
        1 + memchr::memchr_iter(b'\n', &self.text.as_bytes()[..at]).count()
    }

    fn place(&self, start: usize, end: usize) -> Place {
        let start = self.text.floor_char_boundary(start.min(self.text.len()));
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let text = self.text[line_start..].lines().next().unwrap_or_default();
        let column = self.text[line_start..start].chars().count() + 1;
        let end = self
            .text
            .floor_char_boundary(end.clamp(start, line_start + text.len().max(start - line_start)));
        Place::File {
            file: self.file.to_owned(),
            line: self.line(start),
            column,
            width: self.text[start..end].chars().count(),
            text: masked(text),
        }
    }

    /// `value`, or every problem that was noted.
    pub(super) fn conclude<T>(mut self, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            return Ok(value);
        }
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        Err(ConfigError::Invalid(Problems(self.problems)))
    }
}
