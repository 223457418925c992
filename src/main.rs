//! The `chronosdb` binary.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept before it is given back to the system, ms. A batch's memory is
/// wanted again by one of the next: giving it back in between has the kernel clear the same pages
/// for ever.
const KEEP_FREED_MS: c_long = 10_000;

/// `mi_option_purge_delay` of the allocator, and what it is before anyone has set it, ms.
const PURGE_DELAY: (c_int, c_long) = (15, 1_000);

#[expect(unsafe_code, reason = "declares what `keep_freed_memory` calls")]
unsafe extern "C" {
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set(option: c_int, value: c_long);
}

fn main() -> ExitCode {
    keep_freed_memory();
    chronosdb::cli::main(std::env::args_os())
}

/// Has the allocator keep what is freed for a while, unless `MIMALLOC_PURGE_DELAY` says otherwise.
#[expect(unsafe_code, reason = "the allocator's options are set by a C call")]
fn keep_freed_memory() {
    let (option, untouched) = PURGE_DELAY;
    // SAFETY: both read or write one integer of the allocator's table and check its index; no other
    // thread runs yet. Another version's table would show another value there and is left alone.
    unsafe {
        if mi_option_get(option) == untouched {
            mi_option_set(option, KEEP_FREED_MS);
        }
    }
}
