//! An ordered map of positions: sorted blocks of up to 64 entries, under a tree of where each
//! begins.
//!
//! A tree of small nodes takes memory for every six to eleven events and walks through as many
//! levels of it. Here that is once for 32 to 64 events, or for 64 where they come in order, which
//! most do. It is the sorted-blocks half of a B+ tree; the tree above it is the standard library's.
//!
//! Must hold: no block is empty; a block's key is at or before its first entry, and behind the last
//! entry of the block before; two neighbours have more than a quarter of a block together. So a
//! value of 4 bytes costs 24 bytes where entries come in order, about 35 where they do not, and at
//! most 200 where most were removed.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::ids::Position;

/// Entries of a block at most.
const BLOCK: usize = 64;
/// A block that shrinks to this looks for a neighbour to be one with.
const SMALL: usize = BLOCK / 4;
/// What two blocks have at most that become one.
const MERGED: usize = BLOCK / 2;

/// See the module.
#[derive(Clone, Debug)]
pub struct PositionMap<V> {
    blocks: BTreeMap<Position, Vec<(Position, V)>>,
    len: usize,
}

impl<V> Default for PositionMap<V> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new(), len: 0 }
    }
}

impl<V: Copy> PositionMap<V> {
    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at a position.
    #[must_use]
    pub fn get(&self, position: Position) -> Option<V> {
        let (_, block) = self.blocks.range(..=position).next_back()?;
        let at = find(block, position).ok()?;
        Some(block[at].1)
    }

    /// The value at a position, to be changed.
    pub fn get_mut(&mut self, position: Position) -> Option<&mut V> {
        let (_, block) = self.blocks.range_mut(..=position).next_back()?;
        let at = find(block, position).ok()?;
        Some(&mut block[at].1)
    }

    /// Adds an entry; false, and nothing changes, if the position has one.
    pub fn insert(&mut self, position: Position, value: V) -> bool {
        let is_only = self.blocks.len() <= 1;
        let Some((key, block)) = self.blocks.range_mut(..=position).next_back() else {
            self.insert_first(position, value);
            return true;
        };
        let Err(at) = find(block, position) else { return false };
        self.len += 1;
        if block.len() == BLOCK {
            let key = *key;
            self.insert_into_full(key, at, (position, value));
            return true;
        }
        // The first block grows as it is filled: a small map stays small.
        if block.len() == block.capacity() && !is_only {
            block.reserve_exact(BLOCK - block.len());
        }
        block.insert(at, (position, value));
        true
    }

    /// Removes an entry, and returns its value.
    pub fn remove(&mut self, position: Position) -> Option<V> {
        let (key, block) = self.blocks.range_mut(..=position).next_back()?;
        let at = find(block, position).ok()?;
        let (_, value) = block.remove(at);
        self.len -= 1;
        if block.len() <= SMALL {
            let key = *key;
            self.shrink(key);
        }
        Some(value)
    }

    /// The entries behind a position, in order.
    pub fn after(&self, position: Position) -> impl Iterator<Item = (Position, V)> + '_ {
        let first = self.blocks.range(..=position).next_back();
        let first = first.map_or(&[][..], |(_, block)| {
            &block[block.partition_point(|entry| entry.0 <= position)..]
        });
        let others = self.blocks.range((Excluded(position), Unbounded));
        first.iter().chain(others.flat_map(|(_, block)| block)).copied()
    }

    /// Before all others, or the first of all.
    fn insert_first(&mut self, position: Position, value: V) {
        self.len += 1;
        let first = self.blocks.first_key_value().map(|(_, block)| block.len());
        if first.is_none_or(|entries| entries == BLOCK) {
            self.add_block(position, vec![(position, value)]);
        } else {
            let (_, mut block) = self.blocks.pop_first().expect("just seen");
            block.insert(0, (position, value));
            self.add_block(position, block);
        }
    }

    /// Splits the block at `key`, unless the entry comes behind all others: where entries come in
    /// order, blocks stay full.
    fn insert_into_full(&mut self, key: Position, at: usize, entry: (Position, V)) {
        let is_last = self.blocks.last_key_value().is_some_and(|(last, _)| *last == key);
        if at == BLOCK && is_last {
            return self.add_block(entry.0, vec_of(&[entry]));
        }
        let block = self.blocks.get_mut(&key).expect("just seen");
        let mut upper = vec_of(&block[BLOCK / 2..]);
        block.truncate(BLOCK / 2);
        match at.checked_sub(BLOCK / 2) {
            None | Some(0) => block.insert(at, entry),
            Some(at) => upper.insert(at, entry),
        }
        self.add_block(upper[0].0, upper);
    }

    fn add_block(&mut self, key: Position, block: Vec<(Position, V)>) {
        let before = self.blocks.insert(key, block);
        assert!(before.is_none(), "blocks do not overlap");
    }

    /// The block at `key` has few entries: it goes if it has none, or becomes one with a neighbour.
    fn shrink(&mut self, key: Position) {
        let own = self.blocks[&key].len();
        if own == 0 {
            self.blocks.remove(&key);
            return;
        }
        let fits =
            |(key, block): (&Position, &Vec<_>)| (own + block.len() <= MERGED).then_some(*key);
        let behind = self.blocks.range((Excluded(key), Unbounded)).next().and_then(fits);
        let before = self.blocks.range(..key).next_back().and_then(fits);
        let (left, right) = match (before, behind) {
            (_, Some(behind)) => (key, behind),
            (Some(before), None) => (before, key),
            (None, None) => return,
        };
        let mut upper = self.blocks.remove(&right).expect("just seen");
        self.blocks.get_mut(&left).expect("just seen").append(&mut upper);
    }
}

fn find<V>(block: &[(Position, V)], position: Position) -> Result<usize, usize> {
    block.binary_search_by(|entry| entry.0.cmp(&position))
}

/// A block with room for all that it may have.
fn vec_of<V: Copy>(entries: &[(Position, V)]) -> Vec<(Position, V)> {
    let mut block = Vec::with_capacity(BLOCK);
    block.extend_from_slice(entries);
    block
}

#[cfg(test)]
#[path = "position_map_test.rs"]
mod tests;
