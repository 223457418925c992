//! Publishes of one partition that wait for what runs say of their ids.
//!
//! ```text
//!   slice --> a filter says maybe --> queue --(blocks are read)--> front of the queue: decided
//!   slice --> others wait ----------> queue --^
//! ```
//! Must hold: slices leave in the order they came in, so that answers and offsets are the same as
//! if nobody had waited; at most [`limits::ID_READS`] reads are out; everything here belongs to
//! requests that their fronts have admitted, and is bounded with them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::dedup::{BlockRead, Findings, IdHash, RunDirectory, RunFault, RunLook};
use super::flow::publish::Slice;
use crate::base::ids::RunNo;
use crate::base::limits;

/// A slice that waits.
#[derive(Debug)]
pub struct WaitingSlice {
    pub(in crate::engine) slice: Slice,
    /// The ids of its events, in order.
    pub(in crate::engine) hashes: Vec<IdHash>,
    /// What runs were found to say of them.
    pub(in crate::engine) findings: Findings,
    /// Looks that were asked for and are not answered.
    open_looks: usize,
}

/// A read that is out.
#[derive(Debug)]
pub struct BlockLook {
    /// The run.
    pub run: Arc<RunDirectory>,
    /// Where in it.
    pub read: BlockRead,
    /// Slices, by number, and the ids they ask for.
    waiters: Vec<(u64, IdHash)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lookups {
    queue: VecDeque<WaitingSlice>,
    /// Number of the slice at the front.
    front: u64,
    /// Looks for which there was no room among the reads, by the number of their slice.
    asked: VecDeque<(u64, RunLook)>,
    /// Reads that are out, by number.
    out: BTreeMap<u64, BlockLook>,
    /// Runs that were merged away, whose files may still be read.
    retired: Vec<RunNo>,
}

impl Lookups {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Slices that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether the front has all that it asked for.
    pub fn is_ready(&self) -> bool {
        self.queue.front().is_some_and(|front| front.open_looks == 0)
    }

    /// A slice waits, behind all others.
    pub(in crate::engine) fn push(
        &mut self,
        slice: Slice,
        hashes: Vec<IdHash>,
        looks: Vec<RunLook>,
    ) {
        let number = self.front + self.queue.len() as u64;
        let findings = Findings::default();
        self.queue.push_back(WaitingSlice { slice, hashes, findings, open_looks: looks.len() });
        self.asked.extend(looks.into_iter().map(|look| (number, look)));
    }

    /// The slice at the front.
    pub fn front(&self) -> Option<&WaitingSlice> {
        self.queue.front()
    }

    /// The front needs to look further.
    pub fn ask_again(&mut self, looks: Vec<RunLook>) {
        let front = self.queue.front_mut().expect("someone asks");
        assert_eq!(front.open_looks, 0, "it looks further when it has seen what it asked for");
        front.open_looks = looks.len();
        self.asked.extend(looks.into_iter().map(|look| (self.front, look)));
    }

    /// The front waits no longer.
    pub fn pop(&mut self) -> WaitingSlice {
        let front = self.queue.pop_front().expect("someone waits");
        assert_eq!(front.open_looks, 0, "it has seen what it asked for");
        self.front += 1;
        front
    }

    /// The next read to be begun under `number`, if there is room. What asks for a block that is
    /// being read waits for that read.
    pub fn next_read(&mut self, number: u64) -> Option<&BlockLook> {
        while self.out.len() < limits::ID_READS {
            let (slice, RunLook { hash, run, read }) = self.asked.pop_front()?;
            let same = |look: &&mut BlockLook| look.run.ids() == run.ids() && look.read == read;
            if let Some(look) = self.out.values_mut().find(same) {
                look.waiters.push((slice, hash));
                continue;
            }
            let look = BlockLook { run, read, waiters: vec![(slice, hash)] };
            return Some(self.out.entry(number).or_insert(look));
        }
        None
    }

    /// A read is done; `None` if it is none of these.
    pub fn read_done(&mut self, number: u64) -> Option<BlockLook> {
        self.out.remove(&number)
    }

    /// Tells everyone who waited for a read what is there.
    pub fn tell(&mut self, look: &BlockLook, data: &[u8]) -> Result<(), RunFault> {
        let run = look.run.ids().run;
        for (number, hash) in &look.waiters {
            let claim = look.run.find(*hash, look.read, data)?.map(|row| row.claim);
            // A slice that was dropped meanwhile has a number before the front's.
            let place = number.checked_sub(self.front).map(|place| place as usize);
            let Some(waiting) = place.and_then(|place| self.queue.get_mut(place)) else { continue };
            waiting.findings.insert(*hash, run, claim);
            waiting.open_looks -= 1;
        }
        Ok(())
    }

    /// Nobody waits any more: who did, in order. Reads that are out end for themselves.
    pub fn drop_all(&mut self) -> VecDeque<WaitingSlice> {
        self.asked.clear();
        self.front += self.queue.len() as u64;
        std::mem::take(&mut self.queue)
    }

    /// Runs that no new look goes to.
    pub fn retire(&mut self, runs: impl Iterator<Item = RunNo>) {
        self.retired.extend(runs);
    }

    /// Retired runs whose last read is done, and that nobody else needs: their files may go.
    pub fn unused(&mut self, needed: impl Fn(RunNo) -> bool) -> Vec<RunNo> {
        let read: Vec<RunNo> = self.out.values().map(|look| look.run.ids().run).collect();
        let asked = |run: &RunNo| self.asked.iter().any(|(_, look)| look.run.ids().run == *run);
        let used = |run: &RunNo| read.contains(run) || asked(run) || needed(*run);
        let (kept, unused) = self.retired.iter().partition(|run| used(run));
        self.retired = kept;
        unused
    }
}
