//! What the server writes about itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

const DEFAULT_LEVEL: &str = "info";

/// The words that are a level by themselves.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The level of the log is not one, nor a list of directives.
#[derive(Debug, Error)]
#[error("`{0}` is not a level of the log")]
pub struct WrongLevel(String);

/// What [`Logging::level`] says.
pub struct Levels<'a> {
    /// The level of what no directive names, in lower case.
    pub base: String,
    /// Directives of `tracing`'s `EnvFilter`, each with a target.
    pub directives: Vec<&'a str>,
}

/// What the server writes about itself, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// How a line is written.
    pub format: LogFormat,

    /// The least level that is written (`error`, `warn`, `info`, `debug` or `trace`), or several
    /// directives by module, such as `info,headwater::log=debug`.
    pub level: String,

    /// Whether each request is written down when it ends.
    pub access: bool,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            level: DEFAULT_LEVEL.to_owned(),
            access: true,
        }
    }
}

impl Logging {
    /// Takes the level apart; an empty one is the default.
    pub fn levels(&self) -> Result<Levels<'_>, WrongLevel> {
        let wrong = || WrongLevel(self.level.clone());
        let parts = self.level.split(',').map(str::trim);
        let parts = parts.filter(|part| !part.is_empty());
        let (directives, words): (Vec<_>, Vec<_>) =
            parts.partition(|part| part.contains(['=', '[']));
        // `EnvFilter` takes any other word for the name of a target, so that "inof" would silence
        // everything without a word.
        let words: Vec<_> = words.into_iter().map(str::to_ascii_lowercase).collect();
        if words.iter().any(|word| !LEVELS.contains(&word.as_str())) {
            return Err(wrong());
        }
        EnvFilter::try_new(directives.join(",")).map_err(|_| wrong())?;
        let base = words.into_iter().last();
        Ok(Levels {
            base: base.unwrap_or_else(|| DEFAULT_LEVEL.to_owned()),
            directives,
        })
    }
}

/// How a line of the server's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Human,
    /// One JSON object on each line, for machines.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(level: &str) -> Option<(String, Vec<String>)> {
        let logging = Logging {
            level: level.to_owned(),
            ..Logging::default()
        };
        let Levels { base, directives } = logging.levels().ok()?;
        let directives = directives.into_iter().map(str::to_owned).collect();
        Some((base, directives))
    }

    #[test]
    fn a_level_is_a_word_or_a_list_of_directives() {
        for (text, base, directives) in [
            ("", "info", vec![]),
            (" WARN , ", "warn", vec![]),
            ("headwater::log=debug", "info", vec!["headwater::log=debug"]),
            ("error, h2=info,a[b]", "error", vec!["h2=info", "a[b]"]),
        ] {
            let directives = directives.into_iter().map(str::to_owned).collect();
            assert_eq!(levels(text), Some((base.to_owned(), directives)), "{text}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for wrong in [
            "inof",
            "warning",
            "headwater",
            "info,nonsense",
            "headwater=loud",
            "=info",
        ] {
            assert_eq!(levels(wrong), None, "{wrong}");
        }
    }
}
