//! Flows of one partition that wait for a read of its log: the one table where anything outlives a
//! step while the disk works.
//!
//! Must hold: at most `PARKED_READS` reads are out; each flow waits for one read at a time, and
//! there are no more flows than groups and replay streams.

use std::collections::{BTreeMap, VecDeque};

use super::flow::replay::Page;
use super::log::{Place, Spot};
use crate::base::ids::{GroupNo, Index, Offset};
use crate::base::limits;

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
    /// Records from this one on ...
    pub from: Offset,
    /// ... up to this one come with it, once they are applied; perhaps others.
    pub until: Offset,
}

impl Reading {
    /// Whether a flow that would read from `place` to get `offset` may wait for this one.
    #[must_use]
    pub fn serves(&self, place: Place, offset: Offset) -> bool {
        self.place == place || (self.from <= offset && offset < self.until)
    }
}

/// What is read of the log before the flow that walks along it asks for it.
#[derive(Debug)]
pub struct Ahead {
    /// First offset of the piece that the flow is in.
    pub at: Offset,
    /// First offsets of the pieces that are begun behind it.
    pub begun: VecDeque<Offset>,
    /// Where the piece behind those begins, and its first offset.
    pub next: (Spot, Offset),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reads {
    next: u64,
    /// Reads that are out, by number.
    pub out: BTreeMap<u64, Reading>,
    /// Flows for which there was no room among them.
    pub waiting: VecDeque<(Offset, Flow)>,
    /// Ahead of the flow that walks along the log and was the last to ask.
    pub ahead: Option<Ahead>,
    /// The place where the log will be cut once its block is read.
    pub cut: Option<Place>,
}

impl Reads {
    /// Whether another read may be out.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.out.len() < limits::PARKED_READS
    }

    /// A number for the next read.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        assert!(self.next < AXIS_READ, "numbers of reads last for ever");
        self.next
    }
}
