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
/// Parts that are looked at around the one where a hash should be.
const NEAR: usize = 4;

/// The index and the filters of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    ids: RunIds,
    layout: Layout,
    /// Leading half of the first hash of each block of rows. Never falls.
    firsts: Vec<u64>,
    /// The same for each group of blocks: all of them stay near in the caches.
    group_firsts: Vec<u64>,
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
        let group_firsts = firsts.iter().step_by(GROUP_BLOCKS).copied().collect();
        Self { ids, layout, firsts, group_firsts, filters }
    }

    /// Where the row of `hash` must be, if there is one; `None` if there is surely none.
    ///
    /// One block; two if one begins with the same leading half (one in 84 of the ids that are
    /// there). More only if 84 ids had the same leading 64 bits.
    #[must_use]
    pub fn probe(&self, hash: IdHash) -> Option<BlockRead> {
        let mut groups = places_of(&self.group_firsts, hash.high);
        let passes = groups.any(|group| self.filters[group].may_contain(hash.high));
        passes.then(|| self.read_of(hash))
    }

    /// [`probe`](Self::probe) for many: appends the number of each hash that may be there, and
    /// where. Look-ups overlap in the memory system: first the places of all are worked out, then
    /// the filters are touched.
    pub fn probe_all(&self, hashes: &[IdHash], out: &mut Vec<(usize, BlockRead)>) {
        if let [hash] = hashes {
            // Nothing to overlap with.
            return out.extend(self.probe(*hash).map(|read| (0, read)));
        }
        let mut looks = [Look::default(); PROBES];
        for (chunk, hashes) in hashes.chunks(PROBES).enumerate() {
            for (look, hash) in looks.iter_mut().zip(hashes) {
                let Range { start, end } = places_of(&self.group_firsts, hash.high);
                let filter = self.filters.get(start);
                let touch = filter.map_or(Touch::default(), |filter| filter.touch(hash.high));
                *look = Look { groups: (start as u32, end as u32), touch };
            }
            for (number, (look, hash)) in looks.iter().zip(hashes).enumerate() {
                let (start, end) = (look.groups.0 as usize, look.groups.1 as usize);
                let mut others = start + 1..end;
                let passes = start < end
                    && (self.filters[start].holds(&look.touch)
                        || others.any(|group| self.filters[group].may_contain(hash.high)));
                if passes {
                    out.push((chunk * PROBES + number, self.read_of(*hash)));
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
            + (self.firsts.capacity() + self.group_firsts.capacity()) * size_of::<u64>()
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

    /// The blocks that have `hash`, if any do: rows lie behind the header.
    fn read_of(&self, hash: IdHash) -> BlockRead {
        let blocks = places_of(&self.firsts, hash.high);
        BlockRead::of_blocks(1 + blocks.start as u32..1 + blocks.end as u32)
    }
}

/// A look-up under way.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// The groups that may have the hash: from here up to before there. Hardly ever more than one.
    groups: (u32, u32),
    /// Where to look in the filter of the first one.
    touch: Touch,
}

/// Which parts of a sorted whole may have `high`, given the first one of each part: the last part
/// that begins before it, and those that begin with it.
fn places_of(firsts: &[u64], high: u64) -> Range<usize> {
    let behind = first_not_below(firsts, high);
    let equal = firsts[behind..].iter().take_while(|first| **first == high).count();
    behind.saturating_sub(1)..behind + equal
}

/// The first part that does not begin before `high`. Hashes are spread evenly, so it is near where
/// the leading bits say: of the few there it is counted how many begin before. To go from one to
/// the next would be a branch that nobody can foresee, and keeps others' look-ups waiting.
fn first_not_below(firsts: &[u64], high: u64) -> usize {
    let guess = ((u128::from(high) * firsts.len() as u128) >> 64) as usize;
    let from = guess.saturating_sub(1);
    let to = firsts.len().min(from + NEAR);
    let below: usize = firsts[from..to].iter().map(|first| usize::from(*first < high)).sum();
    let none_before = from == 0 || below > 0;
    let none_behind = to == firsts.len() || below < to - from;
    if none_before && none_behind { from + below } else { search(firsts, high, guess) }
}

/// The same, from a guess on that may be far away.
fn search(firsts: &[u64], high: u64, guess: usize) -> usize {
    let (mut from, mut to) = (guess, guess);
    let mut step = 1;
    while from > 0 && firsts[from - 1] >= high {
        to = from - 1;
        from = from.saturating_sub(step);
        step *= 2;
    }
    step = 1;
    while to < firsts.len() && firsts[to] < high {
        from = to + 1;
        to = (to + step).min(firsts.len());
        step *= 2;
    }
    from + firsts[from..to].partition_point(|first| *first < high)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_are_those_of_a_plain_search(
            mut firsts in vec(prop_oneof![any::<u64>(), 0..20_u64, u64::MAX - 9..], 0..300),
            any in any::<u64>(),
        ) {
            firsts.sort_unstable();
            let near = firsts.iter().flat_map(|f| [f.saturating_sub(1), *f, f.saturating_add(1)]);
            for high in near.chain([0, u64::MAX, any]) {
                let below = firsts.iter().filter(|first| **first < high).count();
                let not_above = firsts.iter().filter(|first| **first <= high).count();
                prop_assert_eq!(places_of(&firsts, high), below.saturating_sub(1)..not_above);
            }
        }
    }
}
