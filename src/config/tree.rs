//! A configuration between its text and its types: a tree in which every value still knows where
//! it was written, so that every complaint can say so.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the file, at these bytes.
    File(Range<usize>),
    /// In the environment variable, or as the flag, of this name.
    Outside(String),
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// Text that came from outside the file, where quotes are not usual: it is read as whatever is
    /// wanted, be it a text, a number or a boolean.
    Loose(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Datetime,
    List(Vec<Node>),
    Table(Table),
}

/// The keys of a table, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
    /// Keys that were there and were taken out because their value was wrong.
    pub(super) removed: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

/// One step down the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Index(index) => index.fmt(f),
        }
    }
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The place of `key` among the entries; it is put at the end, as `make` says, if it is
    /// missing.
    pub(super) fn place_of(&mut self, key: &str, make: impl FnOnce() -> Entry) -> usize {
        let place = self.entries.iter().position(|entry| entry.key == key);
        place.unwrap_or_else(|| {
            self.entries.push(make());
            self.entries.len() - 1
        })
    }
}

impl Node {
    /// The tree of a TOML document.
    pub(super) fn from_document(document: &Spanned<DeTable<'_>>) -> Self {
        Self {
            value: Value::Table(table(document.get_ref(), &Origin::File)),
            origin: Origin::File(0..0),
        }
    }

    /// The tree of a value that was written outside the file. What is neither a list nor a table in
    /// TOML is loose text.
    pub(super) fn from_outside(text: &str, name: &str) -> Self {
        let at = |_: Range<usize>| Origin::Outside(name.to_owned());
        let value = match DeValue::parse(text) {
            Ok(parsed) => match parsed.get_ref() {
                DeValue::Array(_) | DeValue::Table(_) => value(parsed.get_ref(), &at),
                DeValue::String(string) => Value::Loose(string.to_string()),
                _ => Value::Loose(text.to_owned()),
            },
            Err(_) => Value::Loose(text.to_owned()),
        };
        Self {
            value,
            origin: at(0..0),
        }
    }

    /// The node `steps` down, if there is one.
    pub(super) fn get(&self, steps: &[Step]) -> Option<&Self> {
        steps.iter().try_fold(self, |node, step| node.child(step))
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Table(table), Step::Key(key)) => Some(&table.get(key)?.node),
            (Value::List(list), Step::Index(index)) => list.get(*index),
            _ => None,
        }
    }

    fn child_mut(&mut self, step: &Step) -> Option<&mut Self> {
        match (&mut self.value, step) {
            (Value::Table(table), Step::Key(key)) => table
                .entries
                .iter_mut()
                .find(|entry| entry.key == *key)
                .map(|entry| &mut entry.node),
            (Value::List(list), Step::Index(index)) => list.get_mut(*index),
            _ => None,
        }
    }

    /// Where the value `steps` down was written: its own place, or that of the nearest value around
    /// it that was written at all. The origin of a table's key tells more than that of its braces,
    /// so `of_key` asks for it.
    pub(super) fn origin(&self, steps: &[Step], of_key: bool) -> &Origin {
        let mut node = self;
        let mut origin = &self.origin;
        for step in steps {
            let Some(child) = node.child(step) else { break };
            origin = match (&node.value, step) {
                (Value::Table(table), Step::Key(key)) if of_key => table
                    .get(key)
                    .map_or(&child.origin, |entry| &entry.key_origin),
                _ => &child.origin,
            };
            node = child;
        }
        origin
    }

    /// Takes the value `steps` down out of the tree; its table remembers that it was there. Gives
    /// whether there was one.
    pub(super) fn remove(&mut self, steps: &[Step]) -> bool {
        let Some((leaf, above)) = steps.split_last() else {
            return false;
        };
        let parent = above
            .iter()
            .try_fold(self, |node, step| node.child_mut(step));
        match (parent.map(|node| &mut node.value), leaf) {
            (Some(Value::Table(table)), Step::Key(key)) => {
                let before = table.entries.len();
                table.entries.retain(|entry| entry.key != *key);
                table.removed.push(key.clone());
                table.entries.len() < before
            }
            (Some(Value::List(items)), Step::Index(index)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }
}

fn table(from: &DeTable<'_>, at: &dyn Fn(Range<usize>) -> Origin) -> Table {
    let mut entries: Vec<(usize, Entry)> = from
        .iter()
        .map(|(key, node)| {
            let entry = Entry {
                key: key.get_ref().to_string(),
                key_origin: at(key.span()),
                node: Node {
                    value: value(node.get_ref(), at),
                    origin: at(node.span()),
                },
            };
            (key.span().start, entry)
        })
        .collect();
    entries.sort_by_key(|(start, _)| *start);
    Table {
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        removed: Vec::new(),
    }
}

fn value(from: &DeValue<'_>, at: &dyn Fn(Range<usize>) -> Origin) -> Value {
    match from {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Float(f64::INFINITY), Value::Integer),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(list) => Value::List(
            list.iter()
                .map(|node| Node {
                    value: value(node.get_ref(), at),
                    origin: at(node.span()),
                })
                .collect(),
        ),
        DeValue::Table(keys) => Value::Table(table(keys, at)),
    }
}
