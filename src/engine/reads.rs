//! Flows of one partition that wait for a read of its log: the one table where anything outlives a
//! step while the disk works.
//!
//! Must hold: at most `PARKED_READS` reads are out; each flow waits for one read at a time, and
//! there are no more flows than groups and replay streams.

use std::collections::{BTreeMap, VecDeque};

use super::flow::replay::Page;
use super::log::Place;
use crate::base::ids::{GroupNo, Index, Offset};

/// Number of the reads of a recovery's scan.
pub const SCAN_READ: u64 = u64::MAX;
/// Number of the read of the block in which a log is cut.
pub const CUT_READ: u64 = u64::MAX - 1;

/// Number of the reads of runs at a start.
pub const AXIS_READ: u64 = u64::MAX - 2;

/// Who waits.
#[derive(Debug)]
pub enum Flow {
    /// A group whose next event is not in memory.
    Group(GroupNo),
    /// A page of a replay.
    Replay(Box<Page>),
}

/// A read that is out.
#[derive(Debug)]
pub struct Reading {
    /// Where it began.
    pub place: Place,
    /// Index of the entry there.
    pub index: Index,
    /// Bytes asked for.
    pub len: u64,
    /// Flows, and the offset that each of them needs.
    pub flows: Vec<(Offset, Flow)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reads {
    next: u64,
    /// Reads that are out, by number.
    pub out: BTreeMap<u64, Reading>,
    /// Flows for which there was no room among them.
    pub waiting: VecDeque<(Offset, Flow)>,
    /// The place where the log will be cut once its block is read.
    pub cut: Option<Place>,
}

impl Reads {
    /// A number for the next read.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        assert!(self.next < AXIS_READ, "numbers of reads last for ever");
        self.next
    }
}
