//! From the tree to the types: a serde deserializer whose errors say where in the tree they are,
//! and in words that fit a configuration file.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::suggest::closest;
use super::tree::{Entry, Node, Origin, Step, Value};

/// What is wrong with one value of the tree.
#[derive(Debug)]
pub(super) struct TreeError {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// The way from the root to the value.
    pub(super) steps: Vec<Step>,
    /// Whether the key is wrong, and not its value.
    pub(super) at_key: bool,
    /// The key that is missing in the table, if that is what is wrong.
    pub(super) missing: Option<&'static str>,
}

impl TreeError {
    fn new(message: String, hint: Option<String>) -> Self {
        Self {
            message,
            hint,
            steps: Vec::new(),
            at_key: false,
            missing: None,
        }
    }

    fn below(mut self, step: Step) -> Self {
        self.steps.insert(0, step);
        self
    }
}

impl Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TreeError {}

impl serde::de::Error for TreeError {
    fn custom<T: Display>(message: T) -> Self {
        // A message of our own types says what to write after a semicolon.
        let message = message.to_string();
        match message.split_once("; ") {
            Some((what, hint)) => Self::new(what.to_owned(), Some(hint.to_owned())),
            None => Self::new(message, None),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let message = format!("found {}, expected {}", plain(&found), wanted(expected));
        Self::new(message, None)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("unknown key `{field}`");
        Self::new(message, Some(one_of(field, expected, "the keys here are")))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("`{variant}` is not a value of this setting");
        Self::new(message, Some(one_of(variant, expected, "its values are")))
    }

    fn missing_field(field: &'static str) -> Self {
        let mut error = Self::new(format!("the key `{field}` is missing"), None);
        error.missing = Some(field);
        error
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("the key `{field}` is there twice"), None)
    }
}

fn one_of(written: &str, known: &[&str], are: &str) -> String {
    match closest(written, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{are} `{}`", known.join("`, `")),
    }
}

fn plain(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(flag) => format!("`{flag}`"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Str(text) => format!("the text \"{text}\""),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        Unexpected::Other(text) => (*text).to_owned(),
        other => other.to_string(),
    }
}

/// Rust's names of types, in words of the file.
fn wanted(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    let words = match expected.as_str() {
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "text in quotes",
        "u64" | "usize" | "u32" => "a whole number, not negative",
        "a sequence" => "a list, such as [\"…\"]",
        other if other.starts_with("struct ") => "a table, such as { key = \"…\" }",
        other => other,
    };
    words.to_owned()
}

impl Node {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Text(text) | Value::Loose(text) => Unexpected::Str(text),
            Value::Integer(number) => Unexpected::Signed(*number),
            Value::Float(number) if number.is_infinite() => Unexpected::Other("too large a number"),
            Value::Float(number) => Unexpected::Float(*number),
            Value::Bool(flag) => Unexpected::Bool(*flag),
            Value::Datetime => Unexpected::Other("a date or time"),
            Value::List(_) => Unexpected::Seq,
            Value::Table(_) => Unexpected::Map,
        }
    }

    fn refuse(&self, expected: &dyn Expected, hint: Option<String>) -> TreeError {
        let mut error = TreeError::invalid_type(self.unexpected(), expected);
        error.hint = hint;
        error
    }

    /// How a list would have been written instead of this value.
    fn list_hint(&self) -> Option<String> {
        match (&self.value, &self.origin) {
            (Value::Text(text), _) => Some(format!("write [\"{text}\"]")),
            (Value::Loose(text), Origin::Outside(name)) => {
                Some(format!("write it as in TOML: {name}='[\"{text}\"]'"))
            }
            (Value::Table(_), _) => Some("each of a list of tables begins with [[…]]".to_owned()),
            _ => None,
        }
    }
}

/// Reads loose text as the number that is wanted.
macro_rules! deserialize_number {
    ($($method:ident => $visit:ident: $type:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
            match &self.value {
                Value::Loose(text) => match text.replace('_', "").parse::<$type>() {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => Err(self.refuse(&visitor, None)),
                },
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::Text(text) | Value::Loose(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) if number.is_finite() => visitor.visit_f64(*number),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Float(_) | Value::Datetime => Err(self.refuse(&visitor, None)),
            Value::List(list) => visitor.visit_seq(Items { list, next: 0 }),
            Value::Table(table) => visitor.visit_map(Keys {
                entries: &table.entries,
                next: 0,
            }),
        }
    }

    deserialize_number! {
        deserialize_u8 => visit_u8: u8,
        deserialize_u16 => visit_u16: u16,
        deserialize_u32 => visit_u32: u32,
        deserialize_u64 => visit_u64: u64,
        deserialize_i8 => visit_i8: i8,
        deserialize_i16 => visit_i16: i16,
        deserialize_i32 => visit_i32: i32,
        deserialize_i64 => visit_i64: i64,
        deserialize_f32 => visit_f32: f32,
        deserialize_f64 => visit_f64: f64,
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::Loose(text) => match text.parse() {
                Ok(flag) => visitor.visit_bool(flag),
                Err(_) => Err(self.refuse(&visitor, None)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    // TOML has no null: what is written is there.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::List(_) => self.deserialize_any(visitor),
            _ => Err(self.refuse(&visitor, self.list_hint())),
        }
    }

    // Derived visitors would also take a list, field by field in the order of the source.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::Table(_) => self.deserialize_any(visitor),
            _ => Err(self.refuse(&visitor, None)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::Text(text) | Value::Loose(text) => visitor.visit_enum(Choice(text)),
            _ => Err(TreeError::new(
                format!("found {}", plain(&self.unexpected())),
                Some(format!("the values are \"{}\"", variants.join("\", \""))),
            )),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map
        identifier ignored_any
    }
}

/// The items of a list, one after the other.
struct Items<'de> {
    list: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = TreeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TreeError> {
        let Some(node) = self.list.get(self.next) else {
            return Ok(None);
        };
        let index = self.next;
        self.next += 1;
        seed.deserialize(node)
            .map(Some)
            .map_err(|error| error.below(index.into()))
    }
}

/// The keys of a table, one after the other; `next` is past the key whose value is due.
struct Keys<'de> {
    entries: &'de [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for Keys<'de> {
    type Error = TreeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TreeError> {
        let Some(entry) = self.entries.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        let key: StrDeserializer<'de, TreeError> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mut error| {
            error.at_key = true;
            error.below(entry.key.as_str().into())
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TreeError> {
        let entry = &self.entries[self.next - 1];
        seed.deserialize(&entry.node)
            .map_err(|error| error.below(entry.key.as_str().into()))
    }
}

/// A value out of a few: its name alone.
struct Choice<'de>(&'de str);

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = TreeError;
    type Variant = NoContent;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, NoContent), TreeError> {
        let name: StrDeserializer<'de, TreeError> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, NoContent))
    }
}

struct NoContent;

impl NoContent {
    fn refuse(expected: &dyn Expected) -> TreeError {
        TreeError::invalid_type(Unexpected::UnitVariant, expected)
    }
}

impl<'de> VariantAccess<'de> for NoContent {
    type Error = TreeError;

    fn unit_variant(self) -> Result<(), TreeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, TreeError> {
        Err(Self::refuse(&"a name alone"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, TreeError> {
        Err(Self::refuse(&visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        Err(Self::refuse(&visitor))
    }
}
