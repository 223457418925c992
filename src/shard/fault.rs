//! Faults that a test puts in the way of the disk: the next operation of a kind fails once, as a
//! failing device has it, and works ever after. Only tests are built with this.
//!
//! A fault belongs to the thread that plants it, so tests side by side don't meet each other's.

use std::cell::Cell;
use std::io;

use rustix::io::Errno;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Making the bytes of a file durable.
    Sync,
    /// Making the entries of a directory durable.
    DirectorySync,
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// The next operation of this kind fails.
pub(super) fn plant(fault: Fault) {
    let before = PLANTED.replace(Some(fault));
    assert_eq!(before, None, "one fault at a time");
}

/// An operation of this kind is about to be done: does it fail?
pub(super) fn strike(fault: Fault) -> io::Result<()> {
    if PLANTED.get() != Some(fault) {
        return Ok(());
    }
    PLANTED.set(None);
    Err(Errno::IO.into())
}
