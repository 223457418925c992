//! Power failures and disk errors below a real node, by `scripts/crash-images.sh` and
//! `scripts/disk-errors.sh`.
//!
//! Not part of a plain `cargo test`: it mounts file systems, for which one has to be root. The node
//! is the program that cargo built, or the one that `CHRONOSDB_PROGRAM` names.

#[allow(dead_code)] // Shared with tests/it, which uses more of it.
#[path = "../it/chance.rs"]
mod chance;
mod errors;
mod faults;
mod image;
mod images;
mod ledger;
mod load;
mod oracle;
mod recording;
#[allow(dead_code)] // Shared with tests/it, which uses more of it.
#[path = "../it/server.rs"]
mod server;
mod stack;
mod tools;
#[allow(dead_code)] // Shared with tests/it, which uses more of it.
#[path = "../it/wait.rs"]
mod wait;
mod write_log;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "crash", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Power failures at any point of a recorded load
    Images(images::Options),
    /// Errors of the disk while the node serves
    Errors(errors::Options),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    // `cargo test` runs this with the arguments of test binaries.
    let asked = std::env::args().nth(1).is_some_and(|word| word == "images" || word == "errors");
    if !asked {
        println!("not asked for: scripts/crash-images.sh and scripts/disk-errors.sh run it");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    if let Some(missing) = tools::missing() {
        println!("skipped: {missing}");
        return ExitCode::SUCCESS;
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash");
    let well = match arguments.what {
        What::Images(options) => images::run(&options, &place).await,
        What::Errors(options) => errors::run(&options, &place).await,
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
