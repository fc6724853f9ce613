//! What the repository says about settings is what the program knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use headwater::config::{Config, Environment, schema};

use super::parse;

/// The file of this repository.
fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// Compares a file of the repository with what it should be, or, where `UPDATE_REFERENCE` is set,
/// makes it so.
fn assert_file(file: &str, expected: &str) {
    let path = repository(file);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{file} is stale: run UPDATE_REFERENCE=1 cargo test --release --test config"
    );
}

#[test]
fn the_schema_in_the_repository_is_current() {
    assert_file("conf/headwater.schema.json", &schema::json_schema());
}

#[test]
fn the_reference_in_the_documentation_is_current() {
    let file = "docs/configuration.md";
    let text = fs::read_to_string(repository(file)).unwrap();
    let (begin, end) = ("<!-- reference: begin -->\n", "<!-- reference: end -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let reference = schema::markdown();
    assert_file(file, &format!("{before}{begin}\n{reference}{end}{after}"));
}

#[test]
fn every_setting_has_a_description() {
    let schema: serde_json::Value = serde_json::from_str(&schema::json_schema()).unwrap();
    let tables = schema["$defs"]
        .as_object()
        .unwrap()
        .values()
        .chain([&schema]);
    for table in tables {
        for (key, setting) in table["properties"].as_object().into_iter().flatten() {
            assert!(setting["description"].is_string(), "{key}");
        }
    }
}

#[test]
fn the_files_in_the_repository_are_valid() {
    let none = Environment::default();
    let of_own = ["conf/dev.toml", "conf/headwater.example.toml"].map(repository);
    let examples = fs::read_dir(repository("conf/examples")).unwrap();
    let examples = examples.map(|entry| entry.unwrap().path());
    let examples = examples.filter(|path| path.extension().is_some_and(|kind| kind == "toml"));
    for file in of_own.into_iter().chain(examples) {
        let text = fs::read_to_string(&file).unwrap();
        Config::parse(&text, &file, &none).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_example_has_every_setting_with_its_default() {
    let text = fs::read_to_string(repository("conf/headwater.example.toml")).unwrap();
    // A setting at its default follows its # at once.
    let is_setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let complete: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if is_setting(setting) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let with_all = parse(&complete).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(with_all, parse(&text).unwrap());
    let written: toml::Table = toml::from_str(&complete).unwrap();
    let names = names();
    each_key(&written, &mut |key| {
        assert!(names.contains(key), "the schema lacks {key}");
    });
    let schema: serde_json::Value = serde_json::from_str(&schema::json_schema()).unwrap();
    let tables = schema["$defs"]
        .as_object()
        .unwrap()
        .values()
        .chain([&schema]);
    for table in tables {
        for (key, _) in table["properties"].as_object().into_iter().flatten() {
            let named = |line: &str| {
                line.contains(&format!("{key} = "))
                    || line.ends_with(&format!("{key}]"))
                    || line.ends_with(&format!("{key}]]"))
            };
            assert!(text.lines().any(named), "the example lacks {key}");
        }
    }
}

/// The names of all settings in the schema.
fn names() -> BTreeSet<String> {
    let schema = serde_json::from_str(&schema::json_schema()).unwrap();
    let mut names = BTreeSet::new();
    collect_names(&schema, &mut names);
    names
}

fn collect_names(schema: &serde_json::Value, names: &mut BTreeSet<String>) {
    let settings = schema["properties"].as_object();
    names.extend(
        settings
            .into_iter()
            .flat_map(|settings| settings.keys().cloned()),
    );
    match schema {
        serde_json::Value::Object(parts) => {
            parts.values().for_each(|part| collect_names(part, names));
        }
        serde_json::Value::Array(parts) => parts.iter().for_each(|part| collect_names(part, names)),
        _ => {}
    }
}

/// Calls `each` with the keys of a table and of those below it, but for the names of headers.
fn each_key(table: &toml::Table, each: &mut dyn FnMut(&str)) {
    for (key, value) in table {
        each(key);
        match value {
            toml::Value::Table(_) if ["set", "add"].contains(&key.as_str()) => {}
            toml::Value::Table(table) => each_key(table, each),
            toml::Value::Array(items) => {
                let tables = items.iter().filter_map(toml::Value::as_table);
                tables.for_each(|table| each_key(table, each));
            }
            _ => {}
        }
    }
}

/// The value of a setting of the unit of systemd, which has it once.
fn of_the_unit(key: &str) -> String {
    let unit = fs::read_to_string(repository("deploy/headwater.service")).unwrap();
    let values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let [value] = values.collect::<Vec<_>>()[..] else {
        panic!("{key} is not there once");
    };
    value.to_owned()
}

#[test]
fn the_unit_of_systemd_suits_the_defaults() {
    let config = parse(super::SITE).unwrap();
    let open_files: usize = of_the_unit("LimitNOFILE").parse().unwrap();
    assert_eq!(open_files, 2 * config.limits.connections_max + 512);
    let stop_seconds: u64 = of_the_unit("TimeoutStopSec").parse().unwrap();
    assert!(stop_seconds > config.shutdown_timeout.as_secs());
    let data = of_the_unit("Environment");
    let data_dir = data.strip_prefix("HEADWATER_DATA=").unwrap();
    assert_eq!(data_dir, of_the_unit("WorkingDirectory"));
    assert_eq!(
        data_dir,
        format!("/var/lib/{}", of_the_unit("StateDirectory"))
    );
}
