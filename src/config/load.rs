//! From a file, the environment and flags to one whole configuration, or to everything that is
//! wrong with them.

use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use toml::de::DeTable;

use super::de::TreeError;
use super::environment::{self, Environment};
use super::problem::{ConfigError, Findings};
use super::tree::{Node, Origin, Step, Value};
use super::{Config, Durability, Listen, check, schema};

/// What `headwater dev` runs, when no flag and no variable says otherwise.
const DEV: &str = include_str!("../../conf/dev.toml");

/// The flags of `headwater dev`. What is `None` stays as `conf/dev.toml` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevFlags {
    /// Where to serve streams.
    pub listen: Option<Listen>,
    /// Where to answer health and metrics.
    pub admin: Option<AdminFlag>,
    /// The directory of the database.
    pub data: Option<String>,
    /// How long a long-poll waits, as it is written.
    pub long_poll_timeout: Option<String>,
    /// What an acknowledged append survives.
    pub durability: Option<Durability>,
}

/// Where `headwater dev` answers health and metrics, if anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminFlag {
    /// Nowhere.
    None,
    /// There.
    At(Listen),
}

impl Config {
    /// Reads and checks the file at `path`, with the environment variables of this process.
    ///
    /// # Errors
    /// When the file cannot be read, and otherwise with everything that is wrong at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path, &Environment::of_process())
    }

    /// Reads and checks `text`; `file` is what it is called in complaints.
    ///
    /// # Errors
    /// With everything that is wrong at once.
    pub fn parse(text: &str, file: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        read(text, file, environment, |_| {})
    }

    /// The configuration of `headwater dev`: one site for development, changed by the environment,
    /// and that by `flags`.
    ///
    /// # Errors
    /// With everything that is wrong at once.
    pub fn dev(flags: &DevFlags, environment: &Environment) -> Result<Self, ConfigError> {
        read(DEV, Path::new("conf/dev.toml"), environment, |tree| {
            flags.apply(tree);
        })
    }
}

impl DevFlags {
    fn apply(&self, tree: &mut Node) {
        let mut set = |flag: &str, steps: &[&str], text: String| {
            let node = Node {
                value: Value::Loose(text),
                origin: Origin::Outside(flag.to_owned()),
            };
            // The way exists in conf/dev.toml; where a variable has put something else there, that
            // is what gets reported.
            let _ = environment::set(tree, steps, node);
        };
        if let Some(listen) = &self.listen {
            set(
                "--listen",
                &["site", "0", "listen", "0"],
                listen.to_string(),
            );
        }
        if let Some(data) = &self.data {
            set("--data", &["data_dir"], data.clone());
        }
        if let Some(timeout) = &self.long_poll_timeout {
            let way = ["site", "0", "route", "0", "streams", "long_poll_timeout"];
            set("--long-poll-timeout", &way, timeout.clone());
        }
        if let Some(durability) = self.durability {
            let name = match durability {
                Durability::Sync => "sync",
                Durability::Os => "os",
            };
            set("--durability", &["log", "durability"], name.to_owned());
        }
        match &self.admin {
            Some(AdminFlag::At(admin)) => set("--admin", &["admin"], admin.to_string()),
            Some(AdminFlag::None) => drop(tree.remove(&[Step::from("admin")])),
            None => {}
        }
    }
}

fn read(
    text: &str,
    file: &Path,
    environment: &Environment,
    change: impl FnOnce(&mut Node),
) -> Result<Config, ConfigError> {
    let mut found = Findings::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        found.add(&Origin::File(span), syntax(error.message()), None);
    }
    if !found.is_empty() {
        // What was recovered after a syntax error is a guess, and complaints about it would be too.
        return found.conclude(Config::default());
    }
    let mut tree = Node::from_document(&document);
    environment::substitute(&mut tree, environment, &mut found);
    environment::override_all(&mut tree, environment, &mut found);
    change(&mut tree);
    let config = convert(&mut tree, &mut found);
    check::check(&config, &tree, &mut found);
    found.conclude(config)
}

fn syntax(message: &str) -> String {
    format!("this is not TOML: {message}")
}

/// Turns the tree into the configuration. What cannot be turned is reported and taken out of the
/// tree, until the rest can; so one run finds everything.
fn convert(tree: &mut Node, found: &mut Findings<'_>) -> Config {
    loop {
        let error = match Config::deserialize(&*tree) {
            Ok(config) => return config,
            Err(error) => error,
        };
        if !follows(&error, tree) {
            let origin = tree.origin(&error.steps, error.at_key).clone();
            let hint = elsewhere(&error).or(error.hint);
            found.add(&origin, error.message, hint);
        }
        if !tree.remove(&error.steps) {
            // Only what is in the tree can be wrong with it, and the root needs nothing: so this is
            // not reached. If it were, going on would not end.
            return Config::default();
        }
    }
}

/// Whether an error only follows from another, which has been reported already.
fn follows(error: &TreeError, tree: &Node) -> bool {
    match tree.get(&error.steps).map(|node| &node.value) {
        // A key was taken out because its value was wrong.
        Some(Value::Table(table)) => match error.missing {
            Some(key) => table.removed.iter().any(|removed| removed == key),
            None => !error.at_key && !table.removed.is_empty(),
        },
        // What a variable would have been put into is not what is meant.
        Some(Value::Text(text)) => text.contains("${"),
        _ => false,
    }
}

/// Where a key belongs that is unknown where it stands. The usual mistake is to write a setting of
/// the top level below a table.
fn elsewhere(error: &TreeError) -> Option<String> {
    let (true, Some(Step::Key(key))) = (error.at_key, error.steps.last()) else {
        return None;
    };
    let homes = schema::homes_of(key);
    (!homes.is_empty()).then(|| format!("`{key}` belongs to {}", homes.join(" or ")))
}
