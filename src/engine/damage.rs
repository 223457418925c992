//! What of a partition cannot be read, and whether anything else still has it.
//!
//! ```text
//!   offsets:  removed segments | log_start ........ log ........ |
//!   runs:     [ data ] [ data ........ ] [ derived ] [ derived ]
//! ```
//! A run all of whose offsets the log still has only costs the time to make it anew. One that
//! begins before the log does is data: as a whole, since nobody looks which of its records are
//! behind that. A due index is never data: it has keys alone, of records that are in the log or
//! gone.

use std::ops::Range;

use super::runs::{RunHead, RunKind};
use crate::base::ids::Offset;

/// What is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A segment. A start that reads all of the log tells what is lost.
    Log,
    /// A due run or a due index.
    Run {
        /// What its records have.
        kind: RunKind,
        /// Those that it may have.
        offsets: Range<Offset>,
    },
    /// A run of ids.
    Ids(Range<Offset>),
}

impl Damage {
    /// That a run is damaged.
    #[must_use]
    pub fn of_run(head: &RunHead) -> Self {
        Self::Run { kind: head.kind, offsets: head.first_offset..head.end_offset }
    }

    /// Whether it may have had what a log that begins with this offset has not.
    #[must_use]
    pub fn is_beyond(&self, log_start: Offset) -> bool {
        match self {
            Self::Log | Self::Run { kind: RunKind::Index, .. } => false,
            Self::Run { kind: RunKind::Carried, offsets } | Self::Ids(offsets) => {
                offsets.start < log_start
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(start: u64) -> Range<Offset> {
        Offset(start)..Offset(start + 10)
    }

    fn run(kind: RunKind, start: u64) -> Damage {
        Damage::Run { kind, offsets: offsets(start) }
    }

    #[test]
    fn a_run_that_begins_with_the_log_is_derived_and_one_before_it_is_data() {
        let start = Offset(100);
        for begins in [100, 101, 5_000] {
            assert!(!run(RunKind::Carried, begins).is_beyond(start), "{begins}");
            assert!(!Damage::Ids(offsets(begins)).is_beyond(start), "{begins}");
        }
        // The last one reaches into the log, the first one is all before it.
        for begins in [0, 89, 90, 99] {
            assert!(run(RunKind::Carried, begins).is_beyond(start), "{begins}");
            assert!(Damage::Ids(offsets(begins)).is_beyond(start), "{begins}");
        }
    }

    #[test]
    fn keys_and_the_log_itself_are_never_beyond_the_log() {
        for start in [0, 99, 100, 101] {
            assert!(!run(RunKind::Index, 100).is_beyond(Offset(start)));
            assert!(!Damage::Log.is_beyond(Offset(start)));
        }
    }

    #[test]
    fn nothing_is_beyond_a_whole_log() {
        assert!(!run(RunKind::Carried, 0).is_beyond(Offset(0)));
        assert!(!Damage::Ids(offsets(0)).is_beyond(Offset(0)));
    }
}
