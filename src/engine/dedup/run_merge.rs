//! Merges runs that lie side by side in age into one.
//!
//! ```text
//! loop:  next_read -> (the driver reads) -> feed        as often as there is a read
//!        step -> Working    there is more to do
//!             -> NeedsRead  nothing goes on before a read is fed
//!             -> Done       -> finish: the directory of the new run
//! ```
//! Each step appends whole blocks of the new file to a buffer of the caller's, in file order.
//!
//! What is kept: ids that are dead are dropped; of the living claims to one id the one that
//! prevails ([`Claim::prevailing`](super::Claim::prevailing)). That loses nothing that had the id:
//! a claim that is alive now was alive when a newer weak one was made, which therefore never got
//! it. And what an older run still says of a dropped id is dead as well.
//!
//! Rows come out in rising order, or a source is damaged: then the step fails, and the merge is
//! given up. Memory held: the new directory's, and two pieces of 128 KiB for each source.

use std::collections::VecDeque;

use bytes::Bytes;

use super::block::{BLOCK_BYTES, BLOCK_ROWS, BlockFault, RowBlock, RunFault, RunIds};
use super::layout::{BlockRead, Layout};
use super::row::{Claim, Row};
use super::run_directory::RunDirectory;
use super::run_writer::{RunClosing, RunWriter};
use super::window::{IdHash, Original};

/// Blocks of one read.
const READ_BLOCKS: u32 = 32;
/// Pieces of a source that are held.
const PIECES: usize = 2;
/// In the place of a hash: the source has no more rows. One that has may have a hash like this.
const END: u64 = u64::MAX;

/// A piece of a source to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeRead {
    /// Which source, by its place in the list given.
    pub source: usize,
    /// Which piece of its file.
    pub read: BlockRead,
}

/// What [`RunMerge::step`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// The budget is used up.
    Working,
    /// A read has to be fed first.
    NeedsRead,
    /// The file is complete.
    Done,
}

/// Which source is damaged, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeFault {
    /// Which source, by its place in the list given.
    pub source: usize,
    /// What is wrong with its run.
    pub fault: RunFault,
}

/// A merge under way.
#[derive(Debug)]
pub struct RunMerge {
    sources: Vec<Source>,
    /// The leading half of the next hash of each source, or [`END`]: what is looked at for each
    /// row lies in one cache line.
    heads: Vec<u64>,
    /// Sources whose next row is not known: nothing is taken before it is.
    unknown: Vec<usize>,
    /// Until the last row.
    writer: Option<RunWriter>,
    /// From then on.
    closing: Option<RunClosing>,
}

impl RunMerge {
    /// Begins to merge `newest_first` into the run `target`, and appends its header.
    ///
    /// # Panics
    /// If there are not two of them, or they overlap in age or are out of order.
    pub fn new(target: RunIds, newest_first: &[&RunDirectory], out: &mut Vec<u8>) -> Self {
        let [newest, .., oldest] = newest_first else { panic!("two runs at least are merged") };
        let in_order = newest_first.is_sorted_by(|newer, older| {
            newer.ids() != older.ids() && newer.offsets().start >= older.offsets().end
        });
        assert!(in_order, "the newest comes first, and no two overlap");
        let offsets = oldest.offsets().start..newest.offsets().end;
        let rows = newest_first.iter().map(|run| run.rows()).sum();
        let writer = RunWriter::new(target, offsets, rows, out);
        let sources: Vec<_> = newest_first.iter().map(|run| Source::new(run)).collect();
        let (heads, unknown) = (vec![END; sources.len()], (0..sources.len()).collect());
        Self { sources, heads, unknown, writer: Some(writer), closing: None }
    }

    /// The next piece to be read, if there is room for one. Each must be fed once; those of
    /// different sources may be read at the same time and fed in any order.
    pub fn next_read(&mut self) -> Option<MergeRead> {
        let wanting = self.sources.iter().enumerate().filter(|(_, source)| source.wants_read());
        let (number, _) = wanting.min_by_key(|(_, source)| source.pieces.len())?;
        Some(MergeRead { source: number, read: self.sources[number].ask() })
    }

    /// Takes the bytes of a piece that was asked for.
    ///
    /// # Panics
    /// If no piece of this source is being read.
    pub fn feed(&mut self, source: usize, bytes: Bytes) -> Result<(), MergeFault> {
        self.sources[source].feed(bytes).map_err(|fault| MergeFault { source, fault })
    }

    /// Goes on, looking at about `rows` rows: 500 take about 50 us, and 150 more for each filter
    /// (5,040 rows) that becomes complete. `keep` says whether an event keeps its id alive; what it
    /// refuses once it must always refuse.
    pub fn step(
        &mut self,
        rows: usize,
        mut keep: impl FnMut(&Original) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<MergeStep, MergeFault> {
        let mut looked_at = 0;
        while self.writer.is_some() {
            if looked_at >= rows {
                return Ok(MergeStep::Working);
            }
            if !self.all_known()? {
                return Ok(MergeStep::NeedsRead);
            }
            let Some(hash) = self.least() else {
                self.closing = self.writer.take().map(|writer| writer.close(out));
                return Ok(MergeStep::Working);
            };
            looked_at += self.take(hash, &mut keep, out);
        }
        let closing = self.closing.as_mut().expect("rows, then closing");
        let complete = closing.write(rows.div_ceil(BLOCK_ROWS), out);
        Ok(if complete { MergeStep::Done } else { MergeStep::Working })
    }

    /// Opens what is read of sources whose next row is not known. False if one waits for a read.
    fn all_known(&mut self) -> Result<bool, MergeFault> {
        while let Some(&source) = self.unknown.last() {
            let head = self.sources[source].head().map_err(|fault| MergeFault { source, fault })?;
            self.heads[source] = match head {
                Head::Unread => return Ok(false),
                Head::Hash(hash) => hash.high,
                Head::End => END,
            };
            self.unknown.pop();
        }
        Ok(true)
    }

    /// The least hash that any source has; `None` if none has one.
    fn least(&self) -> Option<IdHash> {
        let least = *self.heads.iter().min().expect("two sources at least");
        let heads = self.heads.iter().zip(&self.sources);
        let nexts = heads.filter(|(head, _)| **head == least);
        nexts.filter_map(|(_, source)| source.next_hash()).min()
    }

    /// Takes the rows with this hash, the least of all, and writes the claim that prevails of those
    /// that are kept. Returns how many there were.
    fn take(
        &mut self,
        hash: IdHash,
        mut keep: impl FnMut(&Original) -> bool,
        out: &mut Vec<u8>,
    ) -> usize {
        let (mut taken, mut kept) = (0, None::<Claim>);
        for (number, source) in self.sources.iter_mut().enumerate() {
            if self.heads[number] != hash.high {
                continue;
            }
            let Some(claim) = source.take(hash) else { continue };
            match source.next_hash() {
                Some(next) => self.heads[number] = next.high,
                None => self.unknown.push(number),
            }
            taken += 1;
            if keep(&claim.original) {
                kept = Some(kept.map_or(claim, |other| other.prevailing(claim)));
            }
        }
        if let Some(claim) = kept {
            let writer = self.writer.as_mut().expect("rows come before closing");
            writer.push(Row { hash, claim }, out);
        }
        taken
    }

    /// The directory of the new run.
    ///
    /// # Panics
    /// If the last step was not [`MergeStep::Done`].
    #[must_use]
    pub fn finish(self) -> RunDirectory {
        self.closing.expect("the merge is done").directory()
    }
}

/// What comes next of a source.
enum Head {
    /// A row with this hash.
    Hash(IdHash),
    /// Something that was not fed yet.
    Unread,
    /// Nothing.
    End,
}

/// A run that is read from its first row to its last.
#[derive(Debug)]
struct Source {
    ids: RunIds,
    layout: Layout,
    /// Number of the next block to be asked for.
    ask: u32,
    /// The piece that is being read.
    asked: Option<BlockRead>,
    pieces: VecDeque<Bytes>,
    /// Number of the next block to be opened: the first one of `pieces`.
    next: u32,
    /// Rows of the block before that, and how many of them are taken.
    rows: Vec<Row>,
    taken: usize,
}

impl Source {
    fn new(run: &RunDirectory) -> Self {
        Self {
            ids: run.ids(),
            layout: run.layout().clone(),
            ask: 1,
            asked: None,
            pieces: VecDeque::new(),
            next: 1,
            rows: Vec::new(),
            taken: 0,
        }
    }

    fn wants_read(&self) -> bool {
        let more = self.ask < self.layout.directory_start();
        more && self.asked.is_none() && self.pieces.len() < PIECES
    }

    fn ask(&mut self) -> BlockRead {
        let end = self.layout.directory_start().min(self.ask + READ_BLOCKS);
        let read = BlockRead::of_blocks(self.ask..end);
        self.ask = end;
        self.asked = Some(read);
        read
    }

    fn feed(&mut self, bytes: Bytes) -> Result<(), RunFault> {
        let read = self.asked.take().expect("a piece that was asked for");
        if bytes.len() as u64 != read.len {
            return Err(RunFault { block: read.first_block(), fault: BlockFault::Length });
        }
        self.pieces.push_back(bytes);
        Ok(())
    }

    fn head(&mut self) -> Result<Head, RunFault> {
        if self.taken == self.rows.len() {
            if self.next == self.layout.directory_start() {
                return Ok(Head::End);
            }
            let Some(piece) = self.pieces.front_mut() else { return Ok(Head::Unread) };
            let block = piece.split_to(BLOCK_BYTES);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            self.open(&block)?;
        }
        Ok(Head::Hash(self.rows[self.taken].hash))
    }

    /// The hash of the next row, if its block is open.
    fn next_hash(&self) -> Option<IdHash> {
        self.rows.get(self.taken).map(|row| row.hash)
    }

    /// The claim of the next row, if it is one to `hash`.
    fn take(&mut self, hash: IdHash) -> Option<Claim> {
        let row = self.rows.get(self.taken).filter(|row| row.hash == hash)?;
        self.taken += 1;
        Some(row.claim)
    }

    fn open(&mut self, block: &[u8]) -> Result<(), RunFault> {
        let last = self.rows.last().map(|row| row.hash);
        let block = RowBlock::open(block, self.ids, self.next)?;
        self.rows.clear();
        self.rows.extend((0..block.len()).map(|at| block.row(at)));
        self.taken = 0;
        let full = self.rows.len() == self.layout.rows_in(self.next - 1);
        let covered =
            self.rows.iter().all(|row| self.layout.offsets.contains(&row.claim.original.offset));
        if !full || !covered || last >= Some(self.rows[0].hash) {
            return Err(RunFault { block: self.next, fault: BlockFault::Field });
        }
        self.next += 1;
        Ok(())
    }
}
