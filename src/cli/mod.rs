//! The command line: `chronosdb <command>`.
//!
//! A command is one variant here, one file of its arguments and its `run`. Errors are one sentence
//! on standard error and a non-zero exit code: 2 for a command line that makes no sense, else 1.
//! Only `chronosdb log` has codes of its own.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod args;
pub mod backup;
pub mod http;
pub mod legacy;
pub mod log;
pub mod output;
pub mod partitions;
pub mod publish;
pub mod remote;
pub mod replay;
pub mod restore;
pub mod serve;
pub mod settings;
pub mod subscribe;
pub mod topic;
pub mod values;
pub mod when;

/// Takes so many bytes of memory from the system and keeps them for the allocator, or says why it
/// can't.
pub type Reserve = fn(bytes: u64) -> Result<(), String>;

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
    /// Publish an event, due now or at any time to come
    #[command(after_help = publish::EXAMPLES)]
    Publish(Box<publish::PublishArgs>),
    /// Print events as they become due, and acknowledge them
    #[command(after_help = subscribe::EXAMPLES)]
    Subscribe(Box<subscribe::SubscribeArgs>),
    /// Print events of the past; moves no group
    #[command(after_help = replay::EXAMPLES)]
    Replay(Box<replay::ReplayArgs>),
    /// Show the state of the partitions
    #[command(after_help = partitions::EXAMPLES)]
    Partitions(partitions::PartitionsArgs),
    /// Show how long a topic's events are kept, or change it
    #[command(after_help = topic::EXAMPLES)]
    Topic(topic::TopicArgs),
    /// Copy a data directory, also while its server runs
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::RestoreArgs),
    /// Look at the logs of a stopped node, and repair them
    #[command(after_help = log::EXAMPLES)]
    Log(log::LogArgs),
}

const EXAMPLES: &str = "\
Examples:
  chronosdb serve
      a node on ./data that only this machine can reach, on all cores
  chronosdb publish --topic orders --at +5s 'hello'
      an event that is due in five seconds
  chronosdb subscribe --topic orders --group g
      prints what becomes due, and acknowledges it";

/// Runs the command line `args` (program name first) to its end.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>, reserve: Reserve) -> ExitCode {
    let legacy::Rewritten { args, warnings } = legacy::rewrite(args);
    // Where 2 means damage, no slip of the fingers may look like it.
    let says_damage = args.get(1).is_some_and(|word| word == "log");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures, and go to standard output.
            let _closed = error.print();
            let code = error.exit_code() as u8;
            return ExitCode::from(if says_damage { code.min(1) } else { code });
        }
    };
    let done = match cli.command {
        Command::Serve(args) => serve::run(*args, warnings, reserve),
        Command::Publish(args) => publish::run(&args),
        Command::Subscribe(args) => subscribe::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Partitions(args) => partitions::run(&args),
        Command::Topic(args) => topic::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Log(args) => return ended(log::run(&args)),
    };
    ended(done.map(|()| ExitCode::SUCCESS))
}

fn ended(done: Result<ExitCode, String>) -> ExitCode {
    match done {
        Ok(code) => code,
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
