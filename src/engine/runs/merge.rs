//! Merges runs of one kind into one.
//!
//! ```text
//!  next_read() -> MergeRead    the driver reads    feed(input, bytes)
//!       ^                                               |
//!       '------ Waiting ------ step(budget, writer) <---'      Working: again    Done: finish
//! ```
//! The output is what sorting all records of the inputs by key would be, where of several with one
//! key the newest input's counts and the others are gone. Then tombstones are kept or dropped, and
//! of the rest the caller says what is still needed.
//!
//! Each step is bounded, and so is memory: an input holds its current block; more is read ahead
//! only while all inputs together hold little. Reads may be fed in any order. A merge that met a
//! fault is to be dropped: its inputs stay as they are, its output was never a run.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::block::Block;
use super::directory::Directory;
use super::file::Extent;
use super::part::{RunFault, RunHead, RunIds};
use super::record::{RunKey, RunRecord};
use super::writer::RunWriter;
use crate::base::ids::RunNo;
use crate::base::limits::{RUN_MERGE_BYTES, RUN_MERGE_INPUTS, RUN_READ_BYTES};

/// A read to be done for a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeRead {
    /// Which input, as given to [`Merge::new`].
    pub input: usize,
    /// Its run.
    pub run: RunNo,
    /// What to read: one block or several.
    pub extent: Extent,
}

/// What a merge needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeProgress {
    /// Another step, once the writer's output is taken.
    Working,
    /// The bytes of a read.
    Waiting,
    /// Nothing: everything is in the writer.
    Done,
}

/// A block of an input that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeFault {
    /// The input's run.
    pub run: RunNo,
    /// The block, from 0.
    pub block: usize,
    /// What is wrong with it.
    pub fault: RunFault,
}

impl fmt::Display for MergeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}, block {}: {}", self.run, self.block, self.fault)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Merge {
    inputs: Vec<Input>,
    /// Of each input that has a record in memory, the next one: least key first, and of equal ones
    /// the newest input's.
    next: BinaryHeap<Reverse<(RunKey, Reverse<usize>)>>,
    /// Some input may have no record in memory and more in its file.
    ran_out: bool,
    /// Bytes of blocks in memory.
    held_bytes: usize,
    drop_tombstones: bool,
}

impl Merge {
    /// Begins a merge of `inputs`, the oldest first. `drop_tombstones`: no run older than the
    /// newest input is left out, so that a tombstone has nothing more to hide.
    ///
    /// # Panics
    /// If there is no input, over `RUN_MERGE_INPUTS`, one twice, or of another kind or partition
    /// than the others.
    #[must_use]
    pub fn new(inputs: Vec<Arc<Directory>>, drop_tombstones: bool) -> Self {
        assert!((1..=RUN_MERGE_INPUTS).contains(&inputs.len()), "{} inputs", inputs.len());
        let first = *inputs[0].head();
        for (i, input) in inputs.iter().enumerate() {
            let head = input.head();
            let ids = RunIds { run: first.ids.run, ..head.ids };
            assert!(ids == first.ids && head.kind == first.kind, "{head:?} beside {first:?}");
            let twice = inputs[..i].iter().any(|other| other.head().ids == head.ids);
            assert!(!twice, "run {} is there twice", head.ids.run);
        }
        let inputs = inputs.into_iter().map(Input::new).collect();
        Self { inputs, next: BinaryHeap::new(), ran_out: true, held_bytes: 0, drop_tombstones }
    }

    /// The head of the run that comes out, by its number.
    #[must_use]
    pub fn head(&self, run: RunNo) -> RunHead {
        let heads = || self.inputs.iter().map(|input| input.directory.head());
        let first = heads().next().expect("at least one input");
        RunHead {
            ids: RunIds { run, ..first.ids },
            kind: first.kind,
            first_offset: heads().map(|head| head.first_offset).min().expect("at least one"),
            end_offset: heads().map(|head| head.end_offset).max().expect("at least one"),
        }
    }

    /// The next read to be done, beside those under way: what steps wait for first, then what lies
    /// ahead, while there is room.
    pub fn next_read(&mut self) -> Option<MergeRead> {
        let needed = self.inputs.iter().position(|input| input.wants(0));
        let ahead = || self.inputs.iter().position(|input| input.wants(1));
        let input = needed.or_else(|| ahead().filter(|_| self.held_bytes < RUN_MERGE_BYTES))?;
        let (run, extent) = self.inputs[input].begin_read();
        Some(MergeRead { input, run, extent })
    }

    /// Takes the bytes of a read, fewer if its file ended before.
    ///
    /// # Panics
    /// If there is no read under way for this input.
    pub fn feed(&mut self, input: usize, bytes: &Bytes) -> Result<(), MergeFault> {
        let was_empty = self.inputs[input].blocks.is_empty();
        self.held_bytes += self.inputs[input].end_read(bytes)?;
        if was_empty {
            self.note_next(input);
        }
        Ok(())
    }

    /// Merges up to `budget` records of the inputs into `writer`, fewer when its output must be
    /// taken first. `keep` says of a record, never of a tombstone, whether it is still needed.
    ///
    /// # Panics
    /// If the writer was not begun with [`Merge::head`], or has records of another origin.
    pub fn step(
        &mut self,
        budget: usize,
        writer: &mut RunWriter,
        mut keep: impl FnMut(&RunRecord<'_>) -> bool,
    ) -> MergeProgress {
        assert_eq!(*writer.head(), self.head(writer.head().ids.run), "the output of this merge");
        let mut left = budget;
        loop {
            // An input without a record in memory may have the least key of all.
            if self.ran_out && self.inputs.iter().any(Input::is_waited_for) {
                return MergeProgress::Waiting;
            }
            self.ran_out = false;
            let Some(Reverse((key, Reverse(newest)))) = self.next.peek().copied() else {
                return MergeProgress::Done;
            };
            if left == 0 || writer.is_full() {
                return MergeProgress::Working;
            }
            let record = self.inputs[newest].record();
            assert_eq!(record.key, key, "the heap shows each input's next record");
            let wanted = if record.tombstone { !self.drop_tombstones } else { keep(&record) };
            if wanted {
                writer.push(&record);
            }
            left = left.saturating_sub(self.advance_past(key));
        }
    }

    /// Steps over the record with this key in every input; how many there were.
    fn advance_past(&mut self, key: RunKey) -> usize {
        let mut passed = 0;
        while let Some(mut top) = self.next.peek_mut() {
            let Reverse((next, Reverse(input))) = *top;
            if next != key {
                break;
            }
            self.held_bytes -= self.inputs[input].advance();
            if let Some(next) = self.inputs[input].key() {
                *top = Reverse((next, Reverse(input)));
            } else {
                self.ran_out = true;
                PeekMut::pop(top);
            }
            passed += 1;
        }
        assert!(passed > 0, "each step takes something");
        passed
    }

    fn note_next(&mut self, input: usize) {
        if let Some(key) = self.inputs[input].key() {
            self.next.push(Reverse((key, Reverse(input))));
        }
    }
}

#[derive(Debug)]
struct Input {
    directory: Arc<Directory>,
    /// The current block, if it is in memory, and those behind it.
    blocks: VecDeque<Block>,
    /// The next record, in the current block.
    row: usize,
    /// The first block that was not asked for.
    unread: usize,
    /// Blocks of the read under way.
    reading: Option<Range<usize>>,
}

impl Input {
    fn new(directory: Arc<Directory>) -> Self {
        Self { directory, blocks: VecDeque::new(), row: 0, unread: 0, reading: None }
    }

    /// Whether there is something to read, and no more than `held` blocks are in memory.
    fn wants(&self, held: usize) -> bool {
        let rest = self.unread < self.directory.blocks();
        rest && self.reading.is_none() && self.blocks.len() <= held
    }

    /// Whether its next record is still in the file.
    fn is_waited_for(&self) -> bool {
        let rest = self.unread < self.directory.blocks();
        self.blocks.is_empty() && (rest || self.reading.is_some())
    }

    fn key(&self) -> Option<RunKey> {
        self.blocks.front().map(|block| block.key(self.row))
    }

    fn record(&self) -> RunRecord<'_> {
        self.blocks.front().expect("it was in the heap").record(self.row)
    }

    /// Steps behind the current record. Returns the bytes of the block that this gives back.
    fn advance(&mut self) -> usize {
        let block = self.blocks.front().expect("it was in the heap");
        self.row += 1;
        if self.row < block.len() {
            return 0;
        }
        let bytes = block.bytes().len();
        self.blocks.pop_front();
        self.row = 0;
        bytes
    }

    /// Asks for the next block and as many behind it as one read takes.
    fn begin_read(&mut self) -> (RunNo, Extent) {
        let start = self.unread;
        let mut extent = self.directory.extent(start);
        self.unread += 1;
        while self.unread < self.directory.blocks() {
            let next = self.directory.extent(self.unread);
            assert_eq!(next.position, extent.end(), "blocks follow one another");
            if extent.len + next.len > RUN_READ_BYTES as u64 {
                break;
            }
            extent.len += next.len;
            self.unread += 1;
        }
        self.reading = Some(start..self.unread);
        (self.directory.head().ids.run, extent)
    }

    /// Takes in the blocks that were read. Returns their bytes.
    fn end_read(&mut self, bytes: &Bytes) -> Result<usize, MergeFault> {
        let blocks = self.reading.take().expect("a read of this input is under way");
        let mut at = 0;
        for block in blocks {
            let end = at + self.directory.extent(block).len as usize;
            let decoded = if end <= bytes.len() {
                self.directory.decode_block(block, bytes.slice(at..end))
            } else {
                Err(RunFault::Length)
            };
            let run = self.directory.head().ids.run;
            self.blocks.push_back(decoded.map_err(|fault| MergeFault { run, block, fault })?);
            at = end;
        }
        assert!(bytes.len() <= at, "no more than was asked for");
        Ok(at)
    }
}
