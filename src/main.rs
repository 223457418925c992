//! The `chronosdb` binary.

use std::process::ExitCode;

mod allocator;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    chronosdb::cli::main(std::env::args_os(), allocator::reserve)
}
