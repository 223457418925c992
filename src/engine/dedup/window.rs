//! A window: ids in memory, each with one claim.
//!
//! A directory, indexed by the leading bits of the hash, leads to tables of at most 2,048 ids. A
//! full table is split in two by one more bit, so no insert ever moves more than one table's ids
//! (about 20 us), however many ids there are. At most 64 bytes an id, 58 on the average.

use super::row::{Claim, Row};
use super::table::{FULL, Table};
use crate::base::ids::{Offset, TopicNo};

/// Leading bits that the directory starts with: 256 tables.
const DEPTH_MIN: u32 = 8;

/// Keyed hash of (topic, `message_id`). The same in every process on one data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash {
    pub(super) high: u64,
    pub(super) low: u64,
}

impl IdHash {
    /// The bit `number` places behind the leading one.
    pub(super) fn bit(self, number: u32) -> bool {
        assert!(number < 64, "2^64 ids don't share their leading bits");
        self.high << number >> 63 == 1
    }

    /// Which slot of an index it would have, before the index's size is counted in.
    pub(super) fn home(self) -> usize {
        self.low as usize
    }

    /// Sixteen bits that neither the directory nor [`home`](Self::home) looks at.
    pub(super) fn tag(self) -> u32 {
        (self.low >> 48) as u32
    }

    /// The hash's bytes, high first: their order is the order of hashes.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.high.to_be_bytes());
        bytes[8..].copy_from_slice(&self.low.to_be_bytes());
        bytes
    }
}

/// The event that an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    /// Where it lies.
    pub offset: Offset,
    /// The time on it, Unix ms.
    pub schedule_ts: u64,
    /// When it was appended, log time in Unix ms.
    pub append_ts: u64,
    /// Its topic.
    pub topic: TopicNo,
}

impl Original {
    /// Its place on the due-time axis, Unix ms.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.schedule_ts.max(self.append_ts)
    }
}

/// Ids with the claims that have them. See the module.
#[derive(Debug)]
pub struct Window {
    tables: Vec<Table>,
    /// Table of each combination of the leading `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    len: usize,
    /// The table at which the next sweep goes on.
    sweep_next: usize,
}

impl Window {
    /// An empty one.
    pub(super) fn new() -> Self {
        let tables = 1 << DEPTH_MIN;
        Self {
            tables: (0..tables).map(|_| Table::new(DEPTH_MIN)).collect(),
            directory: (0..tables).collect(),
            depth: DEPTH_MIN,
            len: 0,
            sweep_next: 0,
        }
    }

    /// The claim to an id.
    pub(super) fn get(&self, hash: IdHash) -> Option<Claim> {
        self.tables[self.table_of(hash)].get(hash)
    }

    /// Puts `claim` in the place of the one to the id, which must be there.
    pub(super) fn replace(&mut self, hash: IdHash, claim: Claim) {
        let number = self.table_of(hash);
        self.tables[number].replace(hash, claim);
    }

    /// Takes an id that is not there.
    pub(super) fn insert(&mut self, hash: IdHash, claim: Claim) {
        let mut number = self.table_of(hash);
        while self.tables[number].len() == FULL {
            self.split(hash);
            number = self.table_of(hash);
        }
        self.tables[number].insert(hash, claim);
        self.len += 1;
    }

    /// Removes ids that `keep` does not want: looks at about `budget` ids (at most 2,047 more),
    /// going on where the last sweep stopped, and at none twice, nor into tables whose ids were all
    /// appended at `cut` or later. Returns how many were removed.
    pub(super) fn sweep(
        &mut self,
        cut: u64,
        budget: usize,
        mut keep: impl FnMut(&Original) -> bool,
    ) -> usize {
        let (mut looked_at, mut removed) = (0, 0);
        for _ in 0..self.tables.len() {
            if looked_at >= budget {
                break;
            }
            let tables = self.tables.len();
            let table = &mut self.tables[self.sweep_next];
            self.sweep_next = (self.sweep_next + 1) % tables;
            looked_at += 1;
            if table.oldest() < cut {
                looked_at += table.len();
                removed += table.retain(&mut keep);
            }
        }
        self.len -= removed;
        removed
    }

    /// Ids that are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The ids of one table, at most 2,048, in the order of their hashes, and the place of the next
    /// table; `None` behind the last one. From place 0 on all ids come in the order of hashes.
    #[must_use]
    pub fn rows_at(&self, place: usize) -> Option<(Vec<Row>, usize)> {
        let number = *self.directory.get(place)?;
        let table = &self.tables[number as usize];
        Some((table.rows(), place + (1 << (self.depth - table.depth))))
    }

    /// Lets go of the memory of at most `tables` tables of a window that is not needed any more:
    /// whether nothing is left.
    pub(super) fn dissolve(&mut self, tables: usize) -> bool {
        self.len = 0;
        self.tables.truncate(self.tables.len().saturating_sub(tables));
        self.tables.is_empty()
    }

    /// Bytes of memory held. Walks the tables: for statistics, not for each event.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let tables: usize = self.tables.iter().map(Table::memory_bytes).sum();
        size_of::<Self>() + tables + self.directory.capacity() * size_of::<u32>()
    }

    fn table_of(&self, hash: IdHash) -> usize {
        self.directory[(hash.high >> (64 - self.depth)) as usize] as usize
    }

    /// Splits the table of `hash`, and doubles the directory if it has but one entry for it.
    fn split(&mut self, hash: IdHash) {
        let number = self.table_of(hash);
        if self.tables[number].depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&table| [table, table]).collect();
            self.depth += 1;
        }
        let sibling = self.tables.len() as u32;
        let ones = self.tables[number].split();
        // The table's entries of the directory lie side by side; the upper half is the sibling's.
        let half = 1_usize << (self.depth - ones.depth);
        let place = (hash.high >> (64 - self.depth)) as usize;
        let first = place - place % (2 * half);
        let entries = &mut self.directory[first..first + 2 * half];
        assert!(entries.iter().all(|&table| table as usize == number), "a table's entries adjoin");
        entries[half..].fill(sibling);
        self.tables.push(ones);
    }
}
