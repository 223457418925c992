//! What is kept in memory of a run: for each block of rows the leading half of its first hash, for
//! each group of them a filter. 2.7 bytes an id.
//!
//! Promise: an id that the run has is always found, in the blocks that [`RunDirectory::probe`]
//! names and nowhere else; for one it does not have, `probe` answers `None` all but once in 65,536.
//! What the blocks say is checked against what the directory says: a block that contradicts it is
//! a fault, never an answer.

use std::ops::Range;

use super::block::{BLOCK_BYTES, BlockFault, RowBlock, RunFault, RunIds};
use super::filter::{Filter, Touch};
use super::layout::{BlockRead, GROUP_BLOCKS, Layout};
use super::row::Row;
use super::window::IdHash;
use crate::base::ids::Offset;
use crate::base::size::BLOCK;

/// Look-ups that [`RunDirectory::probe_all`] has under way at a time.
const PROBES: usize = 64;

/// The index and the filters of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    ids: RunIds,
    layout: Layout,
    /// Leading half of the first hash of each block of rows. Never falls.
    firsts: Vec<u64>,
    /// One for each [`GROUP_BLOCKS`] blocks of rows.
    filters: Vec<Filter>,
}

impl RunDirectory {
    /// A directory from its parts.
    ///
    /// # Panics
    /// If they don't belong together.
    pub(super) fn new(ids: RunIds, layout: Layout, firsts: Vec<u64>, filters: Vec<Filter>) -> Self {
        assert_eq!(firsts.len(), layout.row_blocks() as usize, "a hash for each block");
        assert_eq!(filters.len(), layout.groups() as usize, "a filter for each group");
        debug_assert!(firsts.is_sorted(), "blocks of rows rise");
        Self { ids, layout, firsts, filters }
    }

    /// Where the row of `hash` must be, if there is one; `None` if there is surely none.
    ///
    /// One block; two if one begins with the same leading half (one in 84 of the ids that are
    /// there). More only if 84 ids had the same leading 64 bits.
    #[must_use]
    pub fn probe(&self, hash: IdHash) -> Option<BlockRead> {
        let blocks = self.blocks_of(hash)?;
        let key = hash.high;
        let passes = groups_of(&blocks).any(|group| self.filters[group].may_contain(key));
        passes.then(|| read_of(&blocks))
    }

    /// [`probe`](Self::probe) for many: appends the number of each hash that may be there, and
    /// where. Look-ups overlap in the memory system: first the places of all are worked out, then
    /// the filters are touched.
    pub fn probe_all(&self, hashes: &[IdHash], out: &mut Vec<(usize, BlockRead)>) {
        for (chunk, hashes) in hashes.chunks(PROBES).enumerate() {
            let mut looks: [Option<Look>; PROBES] = [const { None }; PROBES];
            for (look, hash) in looks.iter_mut().zip(hashes) {
                *look = self.blocks_of(*hash).map(|blocks| {
                    let group = groups_of(&blocks).start;
                    Look { blocks, touch: self.filters[group].touch(hash.high) }
                });
            }
            for (number, (look, hash)) in looks.iter().zip(hashes).enumerate() {
                let Some(Look { blocks, touch }) = look else { continue };
                let mut groups = groups_of(blocks);
                let first = groups.next().expect("blocks lie in a group");
                let passes = self.filters[first].holds(touch)
                    || groups.any(|group| self.filters[group].may_contain(hash.high));
                if passes {
                    out.push((chunk * PROBES + number, read_of(blocks)));
                }
            }
        }
    }

    /// The row of `hash`, out of the bytes that were read where [`probe`](Self::probe) said.
    pub fn find(
        &self,
        hash: IdHash,
        read: BlockRead,
        bytes: &[u8],
    ) -> Result<Option<Row>, RunFault> {
        assert!(read.len >= BLOCK && read.len.is_multiple_of(BLOCK), "a read of `probe`");
        let first = read.first_block();
        if bytes.len() as u64 != read.len {
            return Err(RunFault { block: first, fault: BlockFault::Length });
        }
        let mut found = None;
        for (number, block) in (first..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            found = found.or(self.open(number, block)?.find(hash));
        }
        let outside = found.is_some_and(|row| !self.covers(row.claim.original.offset));
        if outside {
            return Err(RunFault { block: first, fault: BlockFault::Field });
        }
        Ok(found)
    }

    /// Which run this is.
    #[must_use]
    pub fn ids(&self) -> RunIds {
        self.ids
    }

    /// The offsets whose ids the run has.
    #[must_use]
    pub fn offsets(&self) -> Range<Offset> {
        self.layout.offsets.clone()
    }

    /// Ids in the run.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.layout.rows
    }

    /// Length of the run's file, bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.layout.file_len()
    }

    /// Bytes of memory held. Walks the filters: for statistics, not for each event.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let filters: usize = self.filters.iter().map(Filter::memory_bytes).sum();
        let spare = self.filters.capacity() - self.filters.len();
        size_of::<Self>()
            + self.firsts.capacity() * size_of::<u64>()
            + spare * size_of::<Filter>()
            + filters
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn firsts(&self) -> &[u64] {
        &self.firsts
    }

    pub(super) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// A block of rows that says what the directory says.
    fn open<'a>(&self, number: u32, block: &'a [u8]) -> Result<RowBlock<'a>, RunFault> {
        let rows = RowBlock::open(block, self.ids, number)?;
        let row_block = number - 1;
        let agrees = rows.len() == self.layout.rows_in(row_block)
            && self.firsts.get(row_block as usize) == Some(&rows.hash(0).high);
        if agrees { Ok(rows) } else { Err(RunFault { block: number, fault: BlockFault::Field }) }
    }

    fn covers(&self, offset: Offset) -> bool {
        self.layout.offsets.contains(&offset)
    }

    /// Blocks of rows, counted from 0, that may have `hash`; not empty.
    fn blocks_of(&self, hash: IdHash) -> Option<Range<u32>> {
        // The last block that begins before the hash, and those that begin with its leading half.
        let behind = self.first_not_below(hash.high);
        let equal = self.firsts[behind..].iter().take_while(|first| **first == hash.high).count();
        let blocks = behind.saturating_sub(1) as u32..(behind + equal) as u32;
        (!blocks.is_empty()).then_some(blocks)
    }

    /// The first block that does not begin before `high`. Hashes are spread evenly, so it is near
    /// where the leading bits say: a few cache lines are touched, however many blocks there are.
    fn first_not_below(&self, high: u64) -> usize {
        let len = self.firsts.len();
        let guess = ((u128::from(high) * len as u128) >> 64) as usize;
        let (mut from, mut to) = (guess, guess);
        let mut step = 8;
        while from > 0 && self.firsts[from - 1] >= high {
            to = from - 1;
            from = from.saturating_sub(step);
            step *= 2;
        }
        step = 8;
        while to < len && self.firsts[to] < high {
            from = to + 1;
            to = (to + step).min(len);
            step *= 2;
        }
        from + self.firsts[from..to].partition_point(|first| *first < high)
    }
}

/// The filters of blocks of rows, counted from 0.
fn groups_of(blocks: &Range<u32>) -> Range<usize> {
    blocks.start as usize / GROUP_BLOCKS..(blocks.end as usize).div_ceil(GROUP_BLOCKS)
}

/// The place of blocks of rows, counted from 0: they lie behind the header.
fn read_of(blocks: &Range<u32>) -> BlockRead {
    BlockRead::of_blocks(1 + blocks.start..1 + blocks.end)
}

/// A look-up under way.
struct Look {
    blocks: Range<u32>,
    /// For the filter of the first group.
    touch: Touch,
}
