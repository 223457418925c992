//! The allocator of the server: what it keeps of freed memory, and what it takes before serving.
//!
//! Memory that a process touches for the first time is cleared by the system, two MiB at a time
//! where huge pages are on, and on a virtual machine it may have to come from the host first. That
//! is a pause of up to some ms in the middle of a delivery, for as long as the server still grows.
//! [`reserve`] has it happen at the start instead, as Seastar and others do.
//!
//! Must hold: what is reserved is never given back, and is used before anything else is asked for.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_int, c_long};
use std::ptr::NonNull;

use rustix::mm::{Advice, madvise};

/// How long freed memory is kept before it is given back to the system, ms. A batch's memory is
/// wanted again by one of the next: giving it back in between has the kernel clear the same pages
/// for ever.
const KEEP_FREED_MS: c_long = 10_000;
/// Never give freed memory back.
const KEEP_FREED: c_long = -1;

/// `mi_option_purge_delay` of the allocator, and what it is before anyone has set it, ms.
const PURGE_DELAY: (c_int, c_long) = (15, 1_000);

/// What is taken in one piece: with an alignment beyond 64 KiB the allocator would take it from the
/// system apart, and give it back when it is freed.
const PIECE: Layout = match Layout::from_size_align(4 << 20, 4 << 10) {
    Ok(piece) => piece,
    Err(_) => panic!("a power of two"),
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(unsafe_code, reason = "declares what the functions here call")]
unsafe extern "C" {
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set(option: c_int, value: c_long);
}

/// Has the allocator keep what is freed for a while, unless `MIMALLOC_PURGE_DELAY` says otherwise.
/// To be called before there is another thread.
pub fn keep_freed_memory() {
    set_purge_delay(KEEP_FREED_MS);
}

/// Takes `bytes` from the system, touches all of them, and keeps them for good. Blocks meanwhile:
/// a fraction of a second for a GiB, or several where the host has to find the memory first. Not
/// kept where `MIMALLOC_PURGE_DELAY` says otherwise.
pub fn reserve(bytes: u64) -> Result<(), String> {
    set_purge_delay(KEEP_FREED);
    let mut pieces = Vec::new();
    for _ in 0..bytes.div_ceil(PIECE.size() as u64) {
        pieces.push(Piece::take()?);
    }
    Ok(())
}

/// Memory that is held until all is taken.
struct Piece(NonNull<u8>);

#[expect(unsafe_code, reason = "memory is allocated without a type, and touched by a system call")]
impl Piece {
    fn take() -> Result<Self, String> {
        // SAFETY: a piece has a size.
        let start = NonNull::new(unsafe { alloc(PIECE) });
        let piece = Self(start.ok_or("the system has no more")?);
        // SAFETY: the piece is ours, and the call changes nothing in it.
        let touched =
            unsafe { madvise(piece.0.as_ptr().cast(), PIECE.size(), Advice::LinuxPopulateWrite) };
        touched.map_err(|error| format!("the system does not provide it: {error}"))?;
        Ok(piece)
    }
}

#[expect(unsafe_code, reason = "the other half of what `take` does")]
impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: allocated by `take`, with this layout.
        unsafe { dealloc(self.0.as_ptr(), PIECE) }
    }
}

#[expect(unsafe_code, reason = "the allocator's options are set by a C call")]
fn set_purge_delay(delay: c_long) {
    let (option, untouched) = PURGE_DELAY;
    // SAFETY: both read or write one integer of the allocator's table and check its index. Another
    // version's table would show another value there and is left alone.
    unsafe {
        if [untouched, KEEP_FREED_MS].contains(&mi_option_get(option)) {
            mi_option_set(option, delay);
        }
    }
}
