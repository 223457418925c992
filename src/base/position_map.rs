//! An ordered map of positions: sorted blocks of up to 64 entries, under a tree of where each
//! begins.
//!
//! A tree of small nodes takes memory for every six to eleven events and walks through as many
//! levels of it. Here that is once for 32 to 64 events, or for 64 where they come in order, which
//! most do. It is the sorted-blocks half of a B+ tree; the tree above it is the standard library's.
//!
//! What is done with many positions comes to the same block again and again, so the block that was
//! changed twice in a row is remembered, and found without the tree.
//!
//! Must hold: no block is empty; a block's key is at or before its first entry, and behind the last
//! entry of the block before; two neighbours have more than a quarter of a block together. So a
//! value of 4 bytes costs 24 bytes where entries come in order, about 35 where they do not, and at
//! most 200 where most were removed.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::ids::{Offset, Position};

/// Entries of a block at most.
const BLOCK: usize = 64;
/// A block that shrinks to this looks for a neighbour to be one with.
const SMALL: usize = BLOCK / 4;
/// What two blocks have at most that become one: of two small neighbours, the second to become
/// small takes the other in.
const MERGED: usize = 2 * SMALL;
/// Behind all positions but itself.
const END: Position = Position { due: u64::MAX, offset: Offset(u64::MAX) };

/// See the module.
#[derive(Clone, Debug)]
pub struct PositionMap<V> {
    /// The number of each block, by its key.
    tree: BTreeMap<Position, u32>,
    blocks: Vec<Block<V>>,
    len: usize,
    recent: Recent,
}

#[derive(Clone, Debug)]
struct Block<V> {
    key: Position,
    entries: Vec<(Position, V)>,
}

/// The block that was changed last. What lies from `from` up to before `to` belongs there; nothing
/// is known where both are the same.
#[derive(Clone, Copy, Debug)]
struct Recent {
    number: u32,
    from: Position,
    to: Position,
}

impl Recent {
    const NONE: Self = Self { number: u32::MAX, from: Position::START, to: Position::START };

    fn block_of(&self, position: Position) -> Option<usize> {
        (self.from <= position && position < self.to).then_some(self.number as usize)
    }
}

impl<V> Default for PositionMap<V> {
    fn default() -> Self {
        let (tree, blocks) = (BTreeMap::new(), Vec::new());
        Self { tree, blocks, len: 0, recent: Recent::NONE }
    }
}

impl<V: Copy + PartialEq> PartialEq for PositionMap<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<V: Copy + Eq> Eq for PositionMap<V> {}

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
        let entries = &self.blocks[self.block_of(position)?].entries;
        let at = find(entries, position).ok()?;
        Some(entries[at].1)
    }

    /// The value at a position, to be changed.
    pub fn get_mut(&mut self, position: Position) -> Option<&mut V> {
        let number = self.block_to_change(position)?;
        let entries = &mut self.blocks[number].entries;
        let at = find(entries, position).ok()?;
        Some(&mut entries[at].1)
    }

    /// Adds an entry; false, and nothing changes, if the position has one.
    pub fn insert(&mut self, position: Position, value: V) -> bool {
        let is_only = self.blocks.len() <= 1;
        let Some(number) = self.block_to_change(position) else {
            self.insert_first(position, value);
            return true;
        };
        let entries = &mut self.blocks[number].entries;
        let Err(at) = find(entries, position) else { return false };
        self.len += 1;
        if entries.len() == BLOCK {
            self.insert_into_full(number, at, (position, value));
            return true;
        }
        // The first block grows as it is filled: a small map stays small.
        if entries.len() == entries.capacity() && !is_only {
            entries.reserve_exact(BLOCK - entries.len());
        }
        entries.insert(at, (position, value));
        true
    }

    /// Removes an entry, and returns its value.
    pub fn remove(&mut self, position: Position) -> Option<V> {
        let number = self.block_to_change(position)?;
        let entries = &mut self.blocks[number].entries;
        let at = find(entries, position).ok()?;
        let (_, value) = entries.remove(at);
        self.len -= 1;
        match entries.len() {
            0 => drop(self.remove_block(number)),
            SMALL => self.merge(number),
            _ => {}
        }
        Some(value)
    }

    /// Removes all entries up to a position, and that one.
    pub fn remove_up_to(&mut self, position: Position) {
        while let Some(number) = self.tree.values().next().map(|number| *number as usize) {
            let entries = &mut self.blocks[number].entries;
            let gone = entries.partition_point(|entry| entry.0 <= position);
            self.len -= gone;
            if gone == entries.len() {
                drop(self.remove_block(number));
                continue;
            }
            entries.drain(..gone);
            if gone > 0 && entries.len() <= SMALL {
                self.merge(number);
            }
            return;
        }
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> Option<(Position, V)> {
        let (_, number) = self.tree.last_key_value()?;
        self.blocks[*number as usize].entries.last().copied()
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Position, V)> + '_ {
        self.tree.values().flat_map(|number| &self.blocks[*number as usize].entries).copied()
    }

    /// The entries behind a position, in order.
    pub fn after(&self, position: Position) -> impl Iterator<Item = (Position, V)> + '_ {
        let first = self.block_of(position).map_or(&[][..], |number| {
            let entries = &self.blocks[number].entries;
            &entries[entries.partition_point(|entry| entry.0 <= position)..]
        });
        let others = move || self.tree.range((Excluded(position), Unbounded));
        let others = std::iter::once_with(others).flatten();
        let others = others.flat_map(|(_, number)| &self.blocks[*number as usize].entries);
        first.iter().chain(others).copied()
    }

    /// The block that has a position if any has it: the last one whose key is not behind it.
    fn block_of(&self, position: Position) -> Option<usize> {
        self.recent.block_of(position).or_else(|| Some(self.search(position)?.1 as usize))
    }

    /// The same, for a change: who comes for the second time comes again, so it is worth while to
    /// see where the block ends.
    fn block_to_change(&mut self, position: Position) -> Option<usize> {
        if let Some(number) = self.recent.block_of(position) {
            return Some(number);
        }
        let (from, number) = self.search(position)?;
        let to = if number == self.recent.number { self.end_of(from) } else { from };
        self.recent = Recent { number, from, to };
        Some(number as usize)
    }

    /// Looks for a block in the tree: its key and its number.
    fn search(&self, position: Position) -> Option<(Position, u32)> {
        self.tree.range(..=position).next_back().map(|(from, number)| (*from, *number))
    }

    /// The key of the block behind the one with this key.
    fn end_of(&self, key: Position) -> Position {
        self.tree.range((Excluded(key), Unbounded)).next().map_or(END, |(next, _)| *next)
    }

    /// Before all others, or the first of all.
    fn insert_first(&mut self, position: Position, value: V) {
        self.len += 1;
        let first = self.tree.first_key_value().map(|(_, number)| *number);
        let Some(number) = first.filter(|number| self.entries_of(*number) < BLOCK) else {
            return self.add_block(vec![(position, value)]);
        };
        self.tree.pop_first();
        self.tree.insert(position, number);
        let block = &mut self.blocks[number as usize];
        block.key = position;
        block.entries.insert(0, (position, value));
        self.recent = Recent::NONE;
    }

    /// Splits a block, unless the entry comes behind all others: where entries come in order,
    /// blocks stay full.
    fn insert_into_full(&mut self, number: usize, at: usize, entry: (Position, V)) {
        let last = self.tree.last_key_value().map(|(_, last)| *last as usize);
        if at == BLOCK && last == Some(number) {
            let new = self.blocks.len() as u32;
            self.add_block(vec_of(&[entry]));
            self.recent = Recent { number: new, from: entry.0, to: END };
            return;
        }
        let entries = &mut self.blocks[number].entries;
        let mut upper = vec_of(&entries[BLOCK / 2..]);
        entries.truncate(BLOCK / 2);
        match at.checked_sub(BLOCK / 2) {
            None | Some(0) => entries.insert(at, entry),
            Some(at) => upper.insert(at, entry),
        }
        self.add_block(upper);
    }

    /// A block of its own for these entries, whose key is the first one's position.
    fn add_block(&mut self, entries: Vec<(Position, V)>) {
        let (key, number) = (entries[0].0, self.blocks.len() as u32);
        let before = self.tree.insert(key, number);
        assert!(before.is_none(), "blocks do not overlap");
        self.blocks.push(Block { key, entries });
        self.recent = Recent::NONE;
    }

    /// A block that has become small is one with a neighbour that is small, too.
    fn merge(&mut self, number: usize) {
        let (key, own) = (self.blocks[number].key, self.blocks[number].entries.len());
        let fits = |number: &u32| own + self.entries_of(*number) <= MERGED;
        let behind = self.tree.range((Excluded(key), Unbounded)).next().map(|(_, number)| *number);
        let before = self.tree.range(..key).next_back().map(|(_, number)| *number);
        let (left, right) = match (before.filter(fits), behind.filter(fits)) {
            (_, Some(behind)) => (key, behind),
            (Some(before), None) => (self.blocks[before as usize].key, number as u32),
            (None, None) => return,
        };
        let mut upper = self.remove_block(right as usize);
        // It may have another number now.
        let left = self.tree[&left] as usize;
        self.blocks[left].entries.append(&mut upper);
    }

    /// Takes out a block; the last one gets its number.
    fn remove_block(&mut self, number: usize) -> Vec<(Position, V)> {
        let Block { key, entries } = self.blocks.swap_remove(number);
        let was = self.tree.remove(&key);
        assert_eq!(was, Some(number as u32), "the tree knows each block");
        if let Some(moved) = self.blocks.get(number) {
            self.tree.insert(moved.key, number as u32);
        }
        if self.blocks.len() < self.blocks.capacity() / 4 {
            self.blocks.shrink_to(2 * self.blocks.len());
        }
        self.recent = Recent::NONE;
        entries
    }

    fn entries_of(&self, number: u32) -> usize {
        self.blocks[number as usize].entries.len()
    }
}

/// Where a position is, or would be. Most come behind all others, or before.
fn find<V>(entries: &[(Position, V)], position: Position) -> Result<usize, usize> {
    match (entries.first(), entries.last()) {
        (_, Some(last)) if last.0 < position => Err(entries.len()),
        (Some(first), _) if first.0 == position => Ok(0),
        _ => entries.binary_search_by(|entry| entry.0.cmp(&position)),
    }
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
