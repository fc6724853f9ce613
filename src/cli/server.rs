//! The commands about the server: `dev`, `run`, `validate`, `schema` and `completions`.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::failure::{Failure, Kind};
use super::{Cli, Serve, output};
use crate::config::{
    AdminFlag, Config, ConfigError, DevFlags, Durability, Environment, Listen, schema,
};
use crate::server::Hangup;
use crate::units::parse_duration;

/// Serve streams on this machine, without a configuration file
///
/// They are at /v1/stream/… and in ./data. Variables HEADWATER__… change any setting, as they do
/// with a file.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Where to serve streams [default: 127.0.0.1:4437]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Listen>,

    /// Where to answer health and metrics; `none` is nowhere [default: 127.0.0.1:4438]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_admin)]
    admin: Option<AdminFlag>,

    /// The directory of the database [default: ./data]
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<String>,

    /// How long a long-poll waits for data [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = check_duration)]
    long_poll_timeout: Option<String>,

    /// What an acknowledged append survives [default: sync]
    #[arg(long, value_enum)]
    durability: Option<Durability>,
}

fn parse_admin(text: &str) -> Result<AdminFlag, String> {
    match text {
        "none" => Ok(AdminFlag::None),
        _ => text
            .parse()
            .map(AdminFlag::At)
            .map_err(|error: crate::config::ListenError| error.to_string()),
    }
}

fn check_duration(text: &str) -> Result<String, String> {
    parse_duration(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

impl Dev {
    pub(super) fn run(self, serve: Serve) -> Result<(), Failure> {
        let flags = DevFlags {
            listen: self.listen,
            admin: self.admin,
            data: self.data,
            long_poll_timeout: self.long_poll_timeout,
            durability: self.durability,
        };
        let config =
            Config::dev(&flags, &Environment::of_process()).map_err(|error| invalid(&error))?;
        start(serve, config, Hangup::Stop)
    }
}

/// Serve what a configuration file says
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: File,
}

/// Which configuration.
#[derive(Debug, Args)]
struct File {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "HEADWATER_CONFIG")]
    config: PathBuf,
}

impl File {
    fn load(&self) -> Result<Config, Failure> {
        Config::load(&self.config).map_err(|error| invalid(&error))
    }
}

impl Run {
    pub(super) fn run(self, serve: Serve) -> Result<(), Failure> {
        start(serve, self.file.load()?, Hangup::Reload)
    }
}

/// Check a configuration file and say everything that is wrong with it
///
/// The variables of the environment are taken into account, and the files of certificates are
/// opened.
#[derive(Debug, Args)]
pub(super) struct Validate {
    #[command(flatten)]
    file: File,

    /// Print the configuration that results, with every setting
    #[arg(long)]
    print: bool,
}

impl Validate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?;
        if !self.print {
            return output::line(&format!("{} is valid", self.file.config.display()));
        }
        let text = toml::to_string(&config)
            .map_err(|error| Failure::new(Kind::Other, format!("it cannot be written: {error}")))?;
        output::text(&text)
    }
}

/// Print the JSON Schema of the configuration file
///
/// Editors complete and check the file by it.
#[derive(Debug, Args)]
pub(super) struct Schema {
    /// Print the reference of the settings as Markdown instead
    #[arg(long)]
    markdown: bool,
}

impl Schema {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.markdown {
            output::text(&schema::markdown())
        } else {
            output::text(&schema::json_schema())
        }
    }
}

/// Print the completions for a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "headwater", &mut script);
        output::text(&String::from_utf8_lossy(&script))
    }
}

fn invalid(error: &ConfigError) -> Failure {
    Failure::usage(match error {
        ConfigError::Unreadable { .. } => error.to_string(),
        ConfigError::Invalid(problems) => format!(
            "the configuration is wrong\n\n{}",
            problems.to_string().trim_end()
        ),
    })
}

fn start(serve: Serve, config: Config, hangup: Hangup) -> Result<(), Failure> {
    serve(config, hangup).map_err(|error| Failure::new(Kind::Other, error.to_string()))
}
