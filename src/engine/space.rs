//! The room that is left on the disk, and what it allows.
//!
//! ```text
//!   free:   0 ......... reserve ......... 2 x reserve .........
//!             publishes    (as it was)       all is well
//!             refused
//! ```
//! The driver tells what is free ([`super::Input::DiskSpace`]): every second, behind every fill,
//! and at once when an operation finds no space. Below `disk_reserve_bytes` space is **low** until
//! twice as much is free, so that a disk at the mark does not switch with every answer.
//!
//! While it is low: publishes are refused before anything is appended; no flush or merge begins;
//! logs are zero-filled no further than what waits to be written. Settlements, new groups and rolls
//! go on from what is filled already and from the reserve. What is queued is written in any case.

use super::log::Ahead;
use crate::base::error::ApiError;
use crate::base::limits::{FILL_STEP_MAX, FILL_STEP_MIN};

/// Fills that may be out at once are taken to be so many: together they stay clear of the reserve.
const FILLS_AT_ONCE: u64 = 16;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    reserve_bytes: u64,
    free_bytes: u64,
    low: bool,
}

impl Space {
    /// Of which nothing is known: it is there.
    pub fn new(reserve_bytes: u64) -> Self {
        Self { reserve_bytes, free_bytes: u64::MAX, low: false }
    }

    /// So much is free now.
    pub fn observed(&mut self, free_bytes: u64) {
        self.free_bytes = free_bytes;
        let clear = self.reserve_bytes.saturating_mul(2);
        self.low = free_bytes < if self.low { clear } else { self.reserve_bytes };
        assert!(self.low || free_bytes >= self.reserve_bytes, "the reserve is not for publishes");
    }

    /// Whether only what lessens the load goes on.
    pub fn is_low(&self) -> bool {
        self.low
    }

    /// How far ahead of its tail a log may be filled.
    pub fn ahead(&self) -> Ahead {
        if self.low {
            return Ahead::Needed;
        }
        let beyond = self.free_bytes - self.reserve_bytes;
        Ahead::UpTo((beyond / FILLS_AT_ONCE).clamp(FILL_STEP_MIN, FILL_STEP_MAX))
    }

    /// What a publisher is told while it is low.
    pub fn refusal(&self) -> ApiError {
        ApiError::disk_full(self.free_bytes, self.reserve_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: u64 = 64 << 20;

    #[test]
    fn it_is_low_below_the_reserve_and_until_twice_as_much_is_free() {
        let mut space = Space::new(RESERVE);
        assert!(!space.is_low(), "nothing is known yet");
        for (free, low) in [
            (2 * RESERVE, false),
            (RESERVE, false),
            (RESERVE - 1, true),
            (RESERVE, true),
            (2 * RESERVE - 1, true),
            (2 * RESERVE, false),
            (RESERVE, false),
            (0, true),
            (u64::MAX, false),
        ] {
            space.observed(free);
            assert_eq!(space.is_low(), low, "{free} bytes free");
        }
    }

    #[test]
    fn fills_stay_clear_of_the_reserve() {
        let mut space = Space::new(RESERVE);
        assert_eq!(space.ahead(), Ahead::UpTo(FILL_STEP_MAX));
        space.observed(RESERVE);
        assert_eq!(space.ahead(), Ahead::UpTo(FILL_STEP_MIN));
        space.observed(RESERVE + 16 * (2 << 20));
        assert_eq!(space.ahead(), Ahead::UpTo(2 << 20));
        space.observed(RESERVE - 1);
        assert_eq!(space.ahead(), Ahead::Needed);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let mut space = Space::new(RESERVE);
        space.observed(3 << 20);
        let text = space.refusal().text;
        assert!(text.contains("3 MiB") && text.contains("64 MiB") && text.contains("128 MiB"));
        assert!(text.contains("retry"), "{text}");
    }
}
