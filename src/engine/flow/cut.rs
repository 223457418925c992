//! The story of a cut, owner half: what a copy of a running partition has to hold so that a start
//! finds the partition as it was at one moment.
//!
//! ```text
//!   segments:  [ sealed ] [ sealed ] [ active ... end | in flight, zero-filled ]
//!              `---- copied whole ---'`- copied up to `end`, zeros behind ------'
//! ```
//! A cut is what a crash at that moment would leave for sure, without what a crash might leave: the
//! log up to the last write that is done, the checkpoints that are kept, and the runs that they
//! list. Reading it changes nothing.
//!
//! Must hold: every entry that was answered before the cut lies before `end`; the hard state's
//! `commit` and the checkpoints speak of no entry behind it, which would make the copy look rotten.

use super::recover::Phase;
use crate::base::ids::{Index, PartitionId, RunNo};
use crate::engine::input::HardState;
use crate::engine::log::{Ids, Place};
use crate::engine::partition::Partition;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whose.
    pub ids: Ids,
    /// To be saved with the copy; its `commit` lies before `end`.
    pub hard_state: HardState,
    /// First indexes of the segments, oldest first; the last one is `end`'s.
    pub segments: Vec<Index>,
    /// Behind the last entry that is done, or at the block behind it.
    pub end: Place,
    /// Numbers of the checkpoints that are kept, oldest first.
    pub checkpoints: Vec<u64>,
    /// The runs that they list, in ascending order.
    pub runs: Vec<RunNo>,
}

/// Why there is no cut of a partition now. Displays as one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCut {
    /// Its log is damaged: a copy would look sound and lack what is lost.
    ReadOnly {
        /// Which.
        partition: PartitionId,
        /// What is lost.
        rot: String,
    },
    /// It is being opened, or its log is being cut.
    NotServing {
        /// Which.
        partition: PartitionId,
    },
}

impl std::fmt::Display for NoCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ReadOnly { partition, rot } => {
                write!(f, "partition {partition} is damaged and can only be read: {rot}")
            }
            Self::NotServing { partition } => write!(f, "partition {partition} does not serve now"),
        }
    }
}

impl Partition {
    /// Where a copy of this partition would end now.
    pub(in crate::engine) fn cut(&self) -> Result<Cut, NoCut> {
        let partition = self.id();
        if let Phase::ReadOnly(rot) = &self.phase {
            return Err(NoCut::ReadOnly { partition, rot: rot.clone() });
        }
        let tail = self.tail.as_ref().filter(|_| self.is_serving());
        let Some(tail) = tail else { return Err(NoCut::NotServing { partition }) };
        let end = tail.done_end();
        let last = self.segments.last().map(|(first, _)| *first);
        assert_eq!(last, Some(end.segment), "the log ends in its last segment");
        let hard_state = HardState { cut_from: Index(0), ..self.replica.hard_state() };
        assert!(hard_state.commit <= self.writes.written, "what is committed is written");
        // Those before the log's start are about to be removed.
        let segments = self.segments.iter().map(|(first, _)| *first);
        let segments: Vec<Index> = segments.filter(|s| *s >= hard_state.log_start).collect();
        let (checkpoints, runs) = self.checkpoints.kept();
        Ok(Cut { ids: self.ids, hard_state, segments, end, checkpoints, runs })
    }
}
