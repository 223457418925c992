//! The command line: `chronosdb <command>`.
//!
//! A command is one variant here, one file of its arguments and its `run`. Errors are one sentence
//! on standard error and a non-zero exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod args;
pub mod legacy;
pub mod serve;
pub mod settings;
pub mod values;

/// The timestamp-triggered event database
#[derive(Debug, Parser)]
#[command(name = "chronosdb", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<args::ServeArgs>),
}

const EXAMPLES: &str = "\
Examples:
  chronosdb serve
      a node on ./data that only this machine can reach, on all cores
  chronosdb serve --help
      all options of the server";

/// Runs the command line `args` (program name first) to its end.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let legacy::Rewritten { args, warnings } = legacy::rewrite(args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures, and go to standard output.
            let _closed = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let done = match cli.command {
        Command::Serve(args) => serve::run(*args, warnings),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("chronosdb: {why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_shows_examples_and_the_loss_window() {
        let mut command = Cli::command();
        let serve = command.find_subcommand_mut("serve").expect("serve is a command");
        let help = serve.render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("--flush-interval of acknowledged"));
    }
}
