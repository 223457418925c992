//! Faults that a test puts in the way of the disk: one operation of a kind fails, as a failing
//! device has it, and those behind it work. Only tests are built with this.
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
    /// And how many of its kind are let through before.
    static PLANTED: Cell<Option<(Fault, u32)>> = const { Cell::new(None) };
}

/// The next operation of this kind fails.
pub(super) fn plant(fault: Fault) {
    plant_behind(fault, 0);
}

/// After so many operations of this kind, the next one fails.
pub(super) fn plant_behind(fault: Fault, others: u32) {
    let before = PLANTED.replace(Some((fault, others)));
    assert_eq!(before, None, "one fault at a time");
}

/// An operation of this kind is about to be done: does it fail?
pub(super) fn strike(fault: Fault) -> io::Result<()> {
    match PLANTED.get() {
        Some((planted, others)) if planted == fault => {
            PLANTED.set(others.checked_sub(1).map(|others| (fault, others)));
            if others == 0 { Err(Errno::IO.into()) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}
