//! The configuration described for others: JSON Schema for editors, tables for people. Both are
//! made from the types, so neither can say what is not so.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::Config;

/// What a text with an environment variable in it looks like.
const VARIABLE: &str = r"\$\{.+\}";

/// The JSON Schema of the configuration, as `conf/headwater.schema.json` has it.
pub fn json_schema() -> String {
    let mut schema = plain_schema();
    allow_variables(&mut schema);
    format!("{schema:#}\n")
}

/// The schema as the types give it, with each description on one line.
fn plain_schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    each_object(&mut schema, &|object| {
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.replace('\n', " ");
        }
        // Rust's widths of integers are not formats of JSON Schema. A setting may have that name.
        if object.get("format").is_some_and(Value::is_string) {
            object.remove("format");
        }
    });
    schema
}

/// Lets every setting be a text that takes its value from the environment.
fn allow_variables(schema: &mut Value) {
    each_object(schema, &|object| {
        let kind = object.get("type").and_then(Value::as_str);
        if let Some(kind @ ("integer" | "boolean")) = kind {
            let kinds = json!([kind, "string"]);
            object.insert("pattern".to_owned(), VARIABLE.into());
            object.insert("type".to_owned(), kinds);
        } else if let Some(Value::String(pattern)) = object.get_mut("pattern") {
            *pattern = format!("{pattern}|{VARIABLE}");
        } else if let Some(Value::Array(choices)) = object.get_mut("oneOf")
            && choices.iter().any(|choice| choice["const"].is_string())
        {
            let description = "The value of an environment variable.";
            choices
                .push(json!({ "description": description, "type": "string", "pattern": VARIABLE }));
        }
    });
}

/// Applies `change` to every object in `value`, the inner ones first.
fn each_object(value: &mut Value, change: &impl Fn(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            object
                .values_mut()
                .for_each(|inner| each_object(inner, change));
            change(object);
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| each_object(inner, change)),
        _ => {}
    }
}

/// The tables that have a key of this name, in words.
pub(super) fn homes_of(key: &str) -> Vec<String> {
    let schema = plain_schema();
    let mut homes = Vec::new();
    find(&schema, &schema, "", key, &mut homes);
    homes
}

fn find(schema: &Value, part: &Value, path: &str, key: &str, homes: &mut Vec<String>) {
    for (name, value) in part["properties"].as_object().into_iter().flatten() {
        if name == key {
            homes.push(match path {
                "" => "the top level, before the first [table]".to_owned(),
                _ => format!("`{path}`"),
            });
        }
        if let Some(table) = table_name(schema, value) {
            let below = format!("{path}.{name}");
            let below = below.trim_start_matches('.');
            find(schema, &schema["$defs"][table], below, key, homes);
        }
    }
}

/// The reference of `docs/configuration.md`: a heading and a table for each part of the file.
pub fn markdown() -> String {
    let schema = plain_schema();
    let mut text = String::new();
    section(&schema, &schema, "", "Top level", &mut text);
    text
}

/// Writes the table of `part`, whose keys begin with `path`, and then those of the parts in it.
fn section(schema: &Value, part: &Value, path: &str, heading: &str, text: &mut String) {
    let _ = write!(text, "### {heading}\n\n{}\n\n", description(part));
    text.push_str("| Key | Type | Default | Meaning |\n| --- | --- | --- | --- |\n");
    let empty = Map::new();
    let keys = part["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> = part["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut below = Vec::new();
    for (key, value) in keys {
        if let Some(name) = table_name(schema, value) {
            below.push((key, value, name));
        }
        let default = match (&value["default"], required.contains(&key.as_str())) {
            (_, true) => "required".to_owned(),
            (Value::Null, _) => "none".to_owned(),
            (Value::Object(_), _) => "see below".to_owned(),
            (Value::Array(list), _) if list.is_empty() => "none".to_owned(),
            (default, _) => format!("`{default}`"),
        };
        let meaning = format!("{}{}", description(value), choices(schema, value));
        let _ = writeln!(
            text,
            "| `{key}` | {} | {default} | {meaning} |",
            type_name(schema, value)
        );
    }
    text.push('\n');
    for (key, value, name) in below {
        let path = format!("{path}{key}");
        let heading = match value["type"].as_str() {
            Some("array") => format!("`[[{path}]]`"),
            _ => format!("`[{path}]`"),
        };
        section(
            schema,
            &schema["$defs"][name],
            &format!("{path}."),
            &heading,
            text,
        );
    }
}

/// The description, as a cell of a table.
fn description(of: &Value) -> String {
    of["description"]
        .as_str()
        .unwrap_or_default()
        .replace('|', "\\|")
}

/// The name of the definition that `value` is, or is a list of.
fn definition(value: &Value) -> Option<&str> {
    let reference = match &value["items"] {
        Value::Null => &value["$ref"],
        items => &items["$ref"],
    };
    reference.as_str()?.strip_prefix("#/$defs/")
}

/// The name of the table that `value` is, or is a list of.
fn table_name<'a>(schema: &Value, value: &'a Value) -> Option<&'a str> {
    definition(value).filter(|name| schema["$defs"][name]["properties"].is_object())
}

fn type_name(schema: &Value, value: &Value) -> String {
    let one = match definition(value) {
        Some(name) if schema["$defs"][name]["properties"].is_object() => "table".to_owned(),
        Some(name) if schema["$defs"][name]["oneOf"].is_array() => "choice".to_owned(),
        Some(name) => name.to_lowercase(),
        None => {
            let plain = match &value["items"] {
                Value::Null => value,
                items => items,
            };
            plain["type"].as_str().unwrap_or_default().to_owned()
        }
    };
    match value["type"].as_str() {
        Some("array") if one.ends_with('s') => format!("list of {one}es"),
        Some("array") => format!("list of {one}s"),
        _ => one,
    }
}

/// What the values of a choice mean.
fn choices(schema: &Value, value: &Value) -> String {
    let Some(name) = definition(value) else {
        return String::new();
    };
    let mut text = String::new();
    for choice in schema["$defs"][name]["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|choice| choice["const"].is_string())
    {
        let _ = write!(text, " `{}`: {}", choice["const"], description(choice));
    }
    text
}
