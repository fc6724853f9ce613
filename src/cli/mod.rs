//! The command line: the server, and a client for any server of the Durable Streams protocol.

mod append;
mod batch;
mod client;
mod close;
mod create;
mod delete;
mod failure;
mod fork;
mod head;
mod input;
mod output;
mod patience;
mod producer;
mod progress;
mod read;
mod server;
mod tail;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use failure::{Failure, Kind};

use crate::config::Config;
use crate::server::Hangup;

/// What starts the server; it returns when the server has stopped.
pub type Serve = fn(Config, Hangup) -> Result<(), Box<dyn std::error::Error>>;

/// HTTP streams that last: a server, and a client for any server of the Durable Streams protocol.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, after_help = failure::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// What each one is for is told by the comment of its arguments.
#[derive(Debug, Subcommand)]
enum Command {
    Dev(server::Dev),
    Run(server::Run),
    Validate(server::Validate),
    Schema(server::Schema),
    /// Print the version
    Version,
    Completions(server::Completions),
    Create(create::Create),
    Append(append::Append),
    Read(read::Read),
    Tail(tail::Tail),
    Head(head::Head),
    Close(close::Close),
    Fork(fork::Fork),
    Delete(delete::Delete),
}

/// Does what the command line says, and says with its exit code how that went. `serve` starts the
/// server.
pub fn main(serve: Serve) -> ExitCode {
    let cli = Cli::parse();
    match cli.command.run(serve) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough of it; that is no failure.
        Err(failure) if failure.kind == Kind::OutputClosed => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("headwater: {failure}");
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

impl Command {
    fn run(self, serve: Serve) -> Result<(), Failure> {
        match self {
            Self::Dev(dev) => dev.run(serve),
            Self::Run(run) => run.run(serve),
            Self::Validate(validate) => validate.run(),
            Self::Schema(schema) => schema.run(),
            Self::Version => output::line(&format!("headwater {}", env!("CARGO_PKG_VERSION"))),
            Self::Completions(completions) => completions.run(),
            Self::Create(create) => wait(create.run()),
            Self::Append(append) => wait(append.run()),
            Self::Read(read) => wait(read.run()),
            Self::Tail(tail) => wait(tail.run()),
            Self::Head(head) => wait(head.run()),
            Self::Close(close) => wait(close.run()),
            Self::Fork(fork) => wait(fork.run()),
            Self::Delete(delete) => wait(delete.run()),
        }
    }
}

/// Runs a command of the client; one thread is enough for one stream.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Other, format!("cannot start: {error}")))?;
    let done = runtime.block_on(command);
    // A read of standard input that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
