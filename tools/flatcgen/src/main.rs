//! Runs the vendored flatc: `flatcgen <flatc arguments>`.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let status = Command::new(flatc_fork::flatc())
        .args(std::env::args_os().skip(1))
        .status()
        .expect("flatc runs: it was built with this tool");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
