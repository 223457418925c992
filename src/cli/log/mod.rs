//! `chronosdb log`: looks at the logs of a stopped node, and repairs them.
//!
//! ```text
//!   files (the data directory, locked) -> engine's Scan and Salvage judge -> findings
//!   beside (hard state, checkpoints, runs) -> the engine's decoders judge -----^
//!       verify: says what was found     dump: shows the entries     repair: cuts rot on your word
//! ```
//! The bytes are judged by the very code that recovery runs, so that what is said here is what a
//! start will do. Nothing but `repair --yes` changes anything, and that destroys nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

pub mod beside;
pub mod beside_text;
pub mod dump;
pub mod files;
pub mod findings;
pub mod repair;
pub mod run_file;
pub mod salvage;
pub mod show;
pub mod verify;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
The node must be stopped. Exit codes: 0 sound (or torn, which the next start cuts), 2 damaged,
1 any other failure.

Examples:
  chronosdb log verify ./data
      reads everything and says what is damaged
  chronosdb log dump ./data --partition 3 --from 100 --to 120
      the entries of a log
  chronosdb log repair ./data
      shows what a repair would cut; --yes does it";

/// Exit code for damage.
const DAMAGED: u8 = 2;

/// Options of `chronosdb log`.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LogCommand,
}

/// The commands of `chronosdb log`.
#[derive(Clone, Debug, Subcommand)]
pub enum LogCommand {
    /// Read every byte of the logs and say what is damaged
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
    /// Print the entries of the logs
    #[command(after_help = dump::EXAMPLES)]
    Dump(dump::DumpArgs),
    /// Cut damaged logs, so that their partitions can be written again
    #[command(after_help = repair::EXAMPLES)]
    Repair(repair::RepairArgs),
}

/// Which logs.
#[derive(Args, Clone, Debug)]
pub struct Logs {
    /// Data directory of a stopped node
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Only this partition; may be repeated
    #[arg(long, value_name = "N")]
    pub partition: Vec<u16>,
}

/// Runs the command.
pub fn run(args: &LogArgs) -> Result<ExitCode, String> {
    let damaged = match &args.command {
        LogCommand::Verify(args) => verify::run(args)?,
        LogCommand::Dump(args) => dump::run(args)?,
        LogCommand::Repair(args) => repair::run(args)?,
    };
    Ok(if damaged { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS })
}
