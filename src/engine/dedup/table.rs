//! A bounded exact table of ids: dense entries, and an index of four bytes a slot.
//!
//! Entries lie in one vector and are only ever removed by [`Table::retain`], which makes the index
//! anew: so there are no tombstones. A slot of the index holds a tag of 16 bits and the entry's
//! number, so an id that is not there costs one look at the index and none at the entries.
//!
//! What must hold: every entry is in the index, at its home slot or behind it with no empty slot
//! in between; at most three quarters of the slots are taken; no two entries have one hash.

use super::row::{Claim, Row};
use super::window::{IdHash, Original};
use crate::base::ids::{Offset, TopicNo};

/// A full table: it is split before it takes another id. Bounds what one insert costs.
pub(super) const FULL: usize = 2_048;

/// Slots of the smallest index.
const SLOTS_MIN: usize = 16;
const EMPTY: u32 = 0;

const _: () = assert!(FULL < u16::MAX as usize, "an entry's number fits beside its tag");

/// A [`Row`], without the gaps.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: IdHash,
    offset: Offset,
    schedule_ts: u64,
    append_ts: u64,
    topic: TopicNo,
    weak: bool,
}

const _: () = assert!(size_of::<Entry>() == 48);

impl Entry {
    fn new(hash: IdHash, claim: Claim) -> Self {
        let Claim { original: Original { offset, schedule_ts, append_ts, topic }, weak } = claim;
        Self { hash, offset, schedule_ts, append_ts, topic, weak }
    }

    fn claim(&self) -> Claim {
        let Self { offset, schedule_ts, append_ts, topic, weak, .. } = *self;
        Claim { original: Original { offset, schedule_ts, append_ts, topic }, weak }
    }
}

/// The ids whose hashes begin with the same `depth` bits.
#[derive(Debug)]
pub(super) struct Table {
    /// Leading bits of the hash that all ids here share.
    pub(super) depth: u32,
    /// No entry was appended earlier, ms.
    oldest: u64,
    entries: Vec<Entry>,
    /// Empty, or a power of two of them.
    slots: Vec<u32>,
}

impl Table {
    pub(super) fn new(depth: u32) -> Self {
        Self { depth, oldest: u64::MAX, entries: Vec::new(), slots: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A lower bound of the `append_ts` of all entries; `u64::MAX` if there is none.
    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.slots.capacity() * size_of::<u32>()
    }

    pub(super) fn get(&self, hash: IdHash) -> Option<Claim> {
        self.find(hash).map(|number| self.entries[number].claim())
    }

    /// All that is here, in the order of hashes.
    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |entry: &Entry| Row { hash: entry.hash, claim: entry.claim() };
        let mut rows: Vec<Row> = self.entries.iter().map(row).collect();
        rows.sort_unstable_by_key(|row| row.hash);
        rows
    }

    /// Puts `claim` in the place of what an id maps to; the id must be there.
    pub(super) fn replace(&mut self, hash: IdHash, claim: Claim) {
        let number = self.find(hash).expect("only a known id is replaced");
        self.entries[number] = Entry::new(hash, claim);
        self.oldest = self.oldest.min(claim.original.append_ts);
    }

    /// Takes a new id; the table must have room, and not know it.
    pub(super) fn insert(&mut self, hash: IdHash, claim: Claim) {
        assert!(self.entries.len() < FULL, "a full table is split first");
        debug_assert!(self.find(hash).is_none(), "an id has one entry");
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(8.max(self.entries.len() / 4));
        }
        self.entries.push(Entry::new(hash, claim));
        self.oldest = self.oldest.min(claim.original.append_ts);
        if self.entries.len() * 4 > self.slots.len() * 3 {
            self.index();
        } else {
            place(&mut self.slots, hash, self.entries.len() - 1);
        }
    }

    /// Removes what `keep` does not want: how many that were.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Original) -> bool) -> usize {
        let before = self.entries.len();
        self.entries.retain(|entry| keep(&entry.claim().original));
        let removed = before - self.entries.len();
        if removed > 0 {
            if self.entries.len() < self.entries.capacity() / 2 {
                self.entries.shrink_to_fit();
            }
            self.index();
        }
        self.oldest = self.oldest_entry();
        removed
    }

    /// Moves the ids whose next bit of the hash is 1 to a new table; both are one bit deeper.
    pub(super) fn split(&mut self) -> Self {
        let bit = self.depth;
        let count = self.entries.iter().filter(|entry| entry.hash.bit(bit)).count();
        // With room for the next ones, so that these do not have all of it moved at once.
        let with_room = |count: usize| Vec::with_capacity(count + count / 8);
        let mut ones: Vec<Entry> = with_room(count);
        let mut zeros: Vec<Entry> = with_room(self.entries.len() - count);
        for entry in std::mem::take(&mut self.entries) {
            let half = if entry.hash.bit(bit) { &mut ones } else { &mut zeros };
            half.push(entry);
        }
        let [zeros, ones] = [zeros, ones].map(|entries| {
            let mut half = Self { entries, ..Self::new(bit + 1) };
            half.oldest = half.oldest_entry();
            half.index();
            half
        });
        *self = zeros;
        ones
    }

    fn oldest_entry(&self) -> u64 {
        self.entries.iter().map(|entry| entry.append_ts).min().unwrap_or(u64::MAX)
    }

    fn find(&self, hash: IdHash) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = hash.home() & mask;
        // Ends: a quarter of the slots is empty.
        while self.slots[at] != EMPTY {
            let slot = self.slots[at];
            if slot >> 16 == hash.tag() {
                let number = (slot & 0xffff) as usize - 1;
                if self.entries[number].hash == hash {
                    return Some(number);
                }
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Makes the index anew, in the size the entries need.
    fn index(&mut self) {
        let needed = (self.entries.len() * 4).div_ceil(3).max(SLOTS_MIN).next_power_of_two();
        self.slots = vec![EMPTY; needed];
        for (number, entry) in self.entries.iter().enumerate() {
            place(&mut self.slots, entry.hash, number);
        }
    }
}

fn place(slots: &mut [u32], hash: IdHash, number: usize) {
    let mask = slots.len() - 1;
    let mut at = hash.home() & mask;
    while slots[at] != EMPTY {
        at = (at + 1) & mask;
    }
    slots[at] = hash.tag() << 16 | (number as u32 + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(offset: u64) -> Claim {
        let (append_ts, topic) = (1_000 + offset, TopicNo(offset as u32));
        let original = Original { offset: Offset(offset), schedule_ts: 7, append_ts, topic };
        Claim { original, weak: offset.is_multiple_of(2) }
    }

    #[test]
    fn ids_that_share_home_and_tag_are_told_apart() {
        let mut table = Table::new(0);
        let clash = |n: u64| IdHash { high: n, low: 7 };
        for n in 0..100 {
            assert_eq!(table.get(clash(n)), None);
            table.insert(clash(n), claim(n));
        }
        for n in 0..100 {
            assert_eq!(table.get(clash(n)), Some(claim(n)));
        }
        assert_eq!(table.retain(|original| original.offset.0 % 3 == 0), 66);
        for n in 0..100 {
            assert_eq!(table.get(clash(n)).is_some(), n % 3 == 0);
        }
    }

    #[test]
    fn a_split_keeps_every_id_on_its_side() {
        let mut table = Table::new(3);
        let hash = |n: u64| IdHash {
            high: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3,
            low: n.wrapping_mul(0xd1b5_4a32_d192_ed03),
        };
        for n in 0..FULL as u64 {
            table.insert(hash(n), claim(n));
        }
        let ones = table.split();
        assert_eq!(table.len() + ones.len(), FULL);
        assert_eq!((table.depth, ones.depth), (4, 4));
        for n in 0..FULL as u64 {
            let (here, there) = if hash(n).bit(3) { (&ones, &table) } else { (&table, &ones) };
            assert_eq!(here.get(hash(n)), Some(claim(n)));
            assert_eq!(there.get(hash(n)), None);
        }
        assert_eq!(table.oldest().min(ones.oldest()), 1_000);
    }
}
