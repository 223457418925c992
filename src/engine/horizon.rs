//! What of a partition is due beyond the near future: the runs that carry it, and how far each of
//! memory's readers may go without them.
//!
//! ```text
//!    floor       now         armed_to          far                    (due, wall clock)
//!  ----|-- memory --|-- wheel ----|-- memory index --|-- memory until flushed, then runs
//!   runs
//! ```
//! An event is in the wheel up to `armed_to`. One that is due behind `far` (at `armed_to` or later)
//! leaves the memory when a flush has carried it into a run; it is loaded again, block by block,
//! when its time nears or a reader comes to it. What is long past leaves it too, once it is in a
//! run or a due index (up to the topic's `floor`): who reads there reads pages of them (`past`).
//!
//! Must hold:
//! - every applied event is in its topic's memory index, or in a run behind the topic's
//!   `loaded_to` (or both), or at or before its `floor` in a run or a due index (or both);
//! - a topic's `floor` is not behind its `loaded_to`;
//! - what left the memory ahead of its time was due at its `schedule_ts`, was not armed, and was
//!   known to no group;
//! - a run's file is removed when nothing refers to it and no read of it is out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::block_load::BlockLoad;
use super::flow::replay::Page;
use super::past::GroupPast;
use super::runs::{Block, Directory, RunKey, RunKind};
use crate::base::ids::{GroupNo, Offset, Position, RunNo, TopicNo};
use crate::base::limits;

/// What of a topic lies in runs only.
#[derive(Debug)]
pub struct OnDisk {
    /// Memory may lack what lies at or before this: runs and due indexes have it.
    pub floor: Position,
    /// Past events that have left the memory so far: a page that was read before some did does
    /// not know of those.
    pub trimmed: u64,
    /// From the floor up to here runs hold nothing of the topic behind memory's back.
    pub loaded_to: Position,
    /// Before the last load: readers that are behind it have enough to read.
    pub mark: Position,
    /// No event that is in runs only is due earlier, Unix ms; `u64::MAX` if there is none.
    pub next_due: u64,
    /// Events that are in runs only.
    pub count: u64,
    /// Blocks under way.
    pub loading: Option<Loading>,
    /// Pages that wait for a load.
    pub waits: Vec<Page>,
}

impl Default for OnDisk {
    fn default() -> Self {
        Self {
            floor: Position::START,
            trimmed: 0,
            loaded_to: Position::START,
            mark: Position::START,
            next_due: u64::MAX,
            count: 0,
            loading: None,
            waits: Vec::new(),
        }
    }
}

impl OnDisk {
    /// The last place up to which a reader may go by memory alone, if it wants what is due up to
    /// `due` (Unix ms); `None`: as far as it wants.
    pub fn end_of_memory(&self, due: u64) -> Option<Position> {
        (self.next_due <= due).then_some(self.loaded_to)
    }
}

/// A load of a topic.
#[derive(Debug)]
pub struct Loading {
    /// What is read.
    pub load: BlockLoad,
    /// Only to count what is due already: memory has no room for it.
    pub skim: bool,
}

/// Who waits for a block of a run.
#[derive(Debug)]
pub enum BlockFlow {
    /// A load of this topic.
    Load(TopicNo),
    /// The next page of the past of a group.
    Past(GroupNo),
    /// A group whose next record lies there.
    Group(GroupNo),
    /// A page whose next record lies there.
    Replay(Box<Page>),
}

impl BlockFlow {
    /// Whether both are one that waits. No two pages are.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Load(one), Self::Load(other)) => one == other,
            (Self::Past(one), Self::Past(other)) | (Self::Group(one), Self::Group(other)) => {
                one == other
            }
            _ => false,
        }
    }
}

/// A read of a run that is out.
#[derive(Debug)]
pub struct BlockRead {
    /// The run.
    pub run: Arc<Directory>,
    /// The blocks.
    pub numbers: Range<usize>,
    /// Who waits for which of them.
    pub flows: Vec<(usize, BlockFlow)>,
}

/// Events that leave the memory, a few at a time.
#[derive(Debug)]
pub struct Drop {
    /// Their topic.
    pub topic: TopicNo,
    /// Their offsets.
    pub offsets: Range<Offset>,
    /// They are due later than this, Unix ms.
    pub far: u64,
    /// Where to go on.
    pub at: Position,
}

/// A pass over all topics in which what is past leaves the memory, a few events at a time.
#[derive(Debug)]
pub struct Trim {
    /// The topic to go on with.
    pub topic: u32,
    /// Where in it to go on, and where to end; `None`: it is not begun.
    pub within: Option<(Position, Position)>,
    /// What is due later stays, Unix ms.
    pub to: u64,
    /// What groups have not read goes as well: they read pages.
    pub all: bool,
    /// Retention waits for it: of offsets before this nothing stays that is due up to `to`. `None`:
    /// nobody does, or it was not so everywhere.
    pub whole: Option<Offset>,
}

/// A step of `armed_to`, a few events at a time.
#[derive(Debug)]
pub struct Arming {
    /// The topic to go on with.
    pub topic: u32,
    /// Where in it.
    pub at: Position,
    /// Where in each topic to begin: behind the former `armed_to`.
    pub from: Position,
    /// Where in each topic to end, due in Unix ms.
    pub to: u64,
    /// Events from here on were armed when they were applied.
    pub below: Offset,
}

/// The job under way.
#[derive(Debug)]
pub enum RunningJob {
    /// Of these offsets what is due later than `far`.
    Flush {
        /// Which records.
        offsets: Range<Offset>,
        /// Bound of their due, Unix ms.
        far: u64,
    },
    /// Of these runs.
    Merge {
        /// What they are.
        kind: RunKind,
        /// The inputs, oldest first.
        inputs: Vec<RunNo>,
    },
    /// Of the frozen window of ids.
    FlushIds,
    /// Of runs of ids.
    MergeIds {
        /// Places of the inputs among them.
        range: Range<usize>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Horizon {
    /// Carried runs, oldest first: their offsets rise and do not overlap.
    pub runs: Vec<Arc<Directory>>,
    /// Due indexes of what no run carries, likewise. Read at a start only.
    pub indexes: Vec<Arc<Directory>>,
    /// Number of the run made last, of whatever kind.
    pub last_run: RunNo,
    /// The job under way.
    pub job: Option<RunningJob>,
    /// A flush has begun to look at everything before this.
    pub flushed: Offset,
    /// Everything before this is in carried runs or due indexes.
    pub on_runs: Offset,
    /// The ids of everything before this should be in runs, too.
    pub ids_wanted: Offset,
    /// Bytes of the log behind it, about.
    pub unflushed_bytes: u64,
    /// Of those and the flush's, what a start has found: it holds no publish back.
    pub inherited_bytes: u64,
    /// Bytes of the log that the flush under way carries, about.
    pub flushing_bytes: u64,
    /// Up to here events are in the wheel, Unix ms.
    pub armed_to: u64,
    /// Events in memory that are not in the wheel, and not due.
    pub unarmed: u64,
    /// Events that are in runs only, their time to come or not looked at since it came.
    pub on_disk: u64,
    /// Events at or before their topics' floors that are not in memory.
    pub past: u64,
    /// Past events in memory above which the next pass begins.
    pub trim_at: u64,
    /// A pass that lets go of what is past, under way.
    pub trim: Option<Trim>,
    /// Topics of which due events in runs are only counted, since memory has no room for them.
    pub skims: BTreeSet<TopicNo>,
    /// Groups that read the past.
    pub readers: BTreeMap<GroupNo, GroupPast>,
    /// Groups that have read their page of the past.
    pub pages_wanted: BTreeSet<GroupNo>,
    /// Groups that come to events of the past that the clock has gone back behind, by due.
    pub rewound: BTreeSet<(u64, GroupNo)>,
    /// Topics that groups consume, by the `next_due` of what is in runs only.
    pub queue: BTreeSet<(u64, TopicNo)>,
    /// Topics whose readers have come to what is in runs only.
    pub wanted: BTreeSet<TopicNo>,
    /// Events on their way out of memory.
    pub drops: VecDeque<Drop>,
    /// A step of `armed_to` under way.
    pub arming: Option<Arming>,
    /// Loads under way.
    pub loads: usize,
    /// Reads of runs that are out, by number.
    pub reads: BTreeMap<u64, BlockRead>,
    /// Blocks in memory.
    pub blocks: BlockCache,
    /// Runs that are not used any more, whose files may still be read.
    pub retired: Vec<RunNo>,
}

impl Horizon {
    /// Nothing is in runs. Blocks may take `cache_bytes`.
    pub fn new(cache_bytes: u64) -> Self {
        Self {
            runs: Vec::new(),
            indexes: Vec::new(),
            last_run: RunNo(0),
            job: None,
            flushed: Offset(0),
            on_runs: Offset(0),
            ids_wanted: Offset(0),
            unflushed_bytes: 0,
            inherited_bytes: 0,
            flushing_bytes: 0,
            armed_to: 0,
            unarmed: 0,
            on_disk: 0,
            past: 0,
            trim_at: 0,
            trim: None,
            skims: BTreeSet::new(),
            readers: BTreeMap::new(),
            pages_wanted: BTreeSet::new(),
            rewound: BTreeSet::new(),
            queue: BTreeSet::new(),
            wanted: BTreeSet::new(),
            drops: VecDeque::new(),
            arming: None,
            loads: 0,
            reads: BTreeMap::new(),
            blocks: BlockCache::new(cache_bytes),
            retired: Vec::new(),
        }
    }

    /// The one block that may hold a record.
    pub fn block_of(&self, key: &RunKey) -> Option<(&Arc<Directory>, usize)> {
        let behind =
            self.runs.partition_point(|run| run.head().first_offset <= key.position.offset);
        let run = self.runs[..behind].last()?;
        let number = run.contains(key.position.offset).then(|| run.block_of(key)).flatten()?;
        Some((run, number))
    }

    /// Whether something is to be done as soon as possible.
    pub fn is_busy(&self) -> bool {
        // A load may end in the step that begins it, and a reader want the next one at once.
        let wanted = !self.wanted.is_empty() || !self.skims.is_empty();
        let pages = !self.pages_wanted.is_empty();
        let passes = self.arming.is_some() || self.trim.is_some();
        !self.drops.is_empty() || passes || pages || wanted
    }

    /// All runs, of both kinds.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Directory>> + Clone {
        self.runs.iter().chain(&self.indexes)
    }

    /// The runs of a kind, oldest first.
    pub fn list(&self, kind: RunKind) -> &[Arc<Directory>] {
        match kind {
            RunKind::Carried => &self.runs,
            RunKind::Index => &self.indexes,
        }
    }

    /// As [`Self::list`].
    pub fn list_mut(&mut self, kind: RunKind) -> &mut Vec<Arc<Directory>> {
        match kind {
            RunKind::Carried => &mut self.runs,
            RunKind::Index => &mut self.indexes,
        }
    }
}

/// The oldest run of the newest [`limits::RUN_FANOUT`] ones, if they are alike enough in size to be
/// merged: so each record is written again only when its run has grown by that factor.
/// Runs of `largest` bytes and more stay as they are.
pub fn merge_from(runs: &[Arc<Directory>], largest: u64) -> Option<usize> {
    let from = runs.len().checked_sub(limits::RUN_FANOUT)?;
    if runs[from..].iter().any(|run| run.bytes() >= largest) {
        return None;
    }
    let tier = |run: &Arc<Directory>| (run.blocks() as u64).max(1).ilog(limits::RUN_FANOUT as u64);
    let newest = tier(&runs[runs.len() - 1]);
    runs[from..].iter().all(|run| tier(run) <= newest).then_some(from)
}

/// Blocks of runs in memory, under a budget of bytes; the oldest go first.
#[derive(Debug)]
pub struct BlockCache {
    budget: u64,
    bytes: u64,
    blocks: BTreeMap<(RunNo, usize), Block>,
    order: VecDeque<(RunNo, usize)>,
}

impl BlockCache {
    fn new(budget: u64) -> Self {
        Self { budget, bytes: 0, blocks: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A block, if it is in memory.
    pub fn get(&self, run: RunNo, number: usize) -> Option<&Block> {
        self.blocks.get(&(run, number))
    }

    /// Adds a block, and lets go of the oldest ones beyond the budget. The new one stays.
    pub fn push(&mut self, run: RunNo, number: usize, block: Block) {
        let bytes = block.bytes().len() as u64;
        if self.blocks.insert((run, number), block).is_none() {
            self.bytes += bytes;
            self.order.push_back((run, number));
        }
        while self.bytes > self.budget && self.order.len() > 1 {
            let oldest = self.order.pop_front().expect("more than one");
            let block = self.blocks.remove(&oldest).expect("the order names what is held");
            self.bytes -= block.bytes().len() as u64;
        }
    }

    /// Forgets the blocks of a run.
    pub fn forget(&mut self, run: RunNo) {
        let mut freed = 0;
        self.blocks.retain(|(of, _), block| {
            let keep = *of != run;
            freed += if keep { 0 } else { block.bytes().len() as u64 };
            keep
        });
        self.order.retain(|(of, _)| *of != run);
        self.bytes -= freed;
    }
}
