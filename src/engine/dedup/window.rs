//! The window of ids that are remembered, in memory.
//!
//! A directory, indexed by the leading bits of the hash, leads to tables of at most 2,048 ids. A
//! full table is split in two by one more bit, so no insert ever moves more than one table's ids
//! (about 20 us), however many ids there are. At most 64 bytes an id, 58 on the average.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

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

/// What [`Dedup::record`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The id was not known.
    New,
    /// The id names the new event from now on.
    Replaced,
    /// The id keeps its first, living mapping.
    Kept,
}

/// What one partition remembers of its ids.
#[derive(Debug)]
pub struct Dedup {
    key: [u8; 16],
    ttl_ms: u64,
    /// Whatever was appended before this had passed its TTL when the TTL was last changed, ms.
    expired_before: u64,
    /// The latest log time that something may have been removed by, ms.
    swept_at: u64,
    tables: Vec<Table>,
    /// Table of each combination of the leading `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    len: usize,
    /// The table at which the next sweep goes on.
    sweep_next: usize,
}

impl Dedup {
    /// An empty window. `key` is the data directory's; ids live for `ttl_ms` at least.
    pub fn new(key: [u8; 16], ttl_ms: u64) -> Self {
        let tables = 1 << DEPTH_MIN;
        Self {
            key,
            ttl_ms,
            expired_before: 0,
            swept_at: 0,
            tables: (0..tables).map(|_| Table::new(DEPTH_MIN)).collect(),
            directory: (0..tables).collect(),
            depth: DEPTH_MIN,
            len: 0,
            sweep_next: 0,
        }
    }

    /// The data directory's key.
    pub fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// The hash of an id: SipHash-2-4-128 over the topic's length (u16, little endian), the topic
    /// and the id. Ids of different topics never meet.
    ///
    /// # Panics
    /// If the topic is longer than 65,535 bytes.
    pub fn hash(&self, topic: &str, message_id: &[u8]) -> IdHash {
        let topic_len = u16::try_from(topic.len()).expect("names have at most 255 bytes");
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&topic_len.to_le_bytes());
        hasher.write(topic.as_bytes());
        hasher.write(message_id);
        let hash = hasher.finish128();
        IdHash { high: hash.h1, low: hash.h2 }
    }

    /// The event an id names, if the id is alive at `log_now_ms`.
    ///
    /// `log_now_ms` is the log time an event published now would get. `settled` says whether every
    /// group is done with the event; it is asked only if nothing else keeps the id alive.
    ///
    /// # Panics
    /// If log time ran backwards: `log_now_ms` before that of a `sweep` or `set_ttl`.
    pub fn get(
        &self,
        hash: IdHash,
        log_now_ms: u64,
        settled: impl FnOnce(&Original) -> bool,
    ) -> Option<Original> {
        self.assert_monotone(log_now_ms);
        let original = self.tables[self.table_of(hash)].get(hash)?;
        self.alive(original, log_now_ms, settled).then_some(*original)
    }

    /// Remembers that `hash` names `original`, which has just been applied.
    ///
    /// An event published without `allow_duplicate` was judged new when it was proposed: it takes
    /// the id over from whatever had it. With `allow_duplicate` a living first mapping stays, and
    /// only a dead one is replaced. Log time is the event's own `append_ts`.
    ///
    /// # Panics
    /// If log time ran backwards.
    pub fn record(
        &mut self,
        hash: IdHash,
        original: Original,
        allow_duplicate: bool,
        settled: impl FnOnce(&Original) -> bool,
    ) -> Recorded {
        self.assert_monotone(original.append_ts);
        let mut number = self.table_of(hash);
        if let Some(first) = self.tables[number].get(hash) {
            if allow_duplicate && self.alive(first, original.append_ts, settled) {
                return Recorded::Kept;
            }
            self.tables[number].replace(hash, original);
            return Recorded::Replaced;
        }
        while self.tables[number].len() == FULL {
            self.split(hash);
            number = self.table_of(hash);
        }
        self.tables[number].insert(hash, original);
        self.len += 1;
        Recorded::New
    }

    /// Removes dead ids: looks at about `budget` ids (at most 2,047 more), going on where the last
    /// sweep stopped, and at none twice. Returns how many were removed.
    ///
    /// `log_now_ms` is the log time of the last *applied* entry; one that is only proposed may
    /// never come.
    ///
    /// # Panics
    /// If log time ran backwards.
    pub fn sweep(
        &mut self,
        log_now_ms: u64,
        budget: usize,
        mut settled: impl FnMut(&Original) -> bool,
    ) -> usize {
        self.assert_monotone(log_now_ms);
        self.swept_at = log_now_ms;
        let cut = self.cut(log_now_ms);
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
                removed += table.retain(|original| {
                    is_alive(original, cut, log_now_ms, |original| settled(original))
                });
            }
        }
        self.len -= removed;
        removed
    }

    /// Changes the TTL, from the log time `log_now_ms` on. What is past the old one by then stays
    /// so.
    ///
    /// # Panics
    /// If log time ran backwards.
    pub fn set_ttl(&mut self, ttl_ms: u64, log_now_ms: u64) {
        self.assert_monotone(log_now_ms);
        self.expired_before = self.cut(log_now_ms);
        self.swept_at = log_now_ms;
        self.ttl_ms = ttl_ms;
    }

    /// How long an id is remembered at least, ms of log time.
    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// Ids remembered, dead ones that no sweep has met included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no id is remembered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory held. Walks the tables: for statistics, not for each event.
    pub fn memory_bytes(&self) -> usize {
        let tables: usize = self.tables.iter().map(Table::memory_bytes).sum();
        size_of::<Self>() + tables + self.directory.capacity() * size_of::<u32>()
    }

    /// Ids appended before this are past their TTL at `log_now_ms`. Never falls as time goes on.
    fn cut(&self, log_now_ms: u64) -> u64 {
        self.expired_before.max(log_now_ms.saturating_sub(self.ttl_ms))
    }

    fn alive(
        &self,
        original: &Original,
        log_now_ms: u64,
        settled: impl FnOnce(&Original) -> bool,
    ) -> bool {
        is_alive(original, self.cut(log_now_ms), log_now_ms, settled)
    }

    fn assert_monotone(&self, log_now_ms: u64) {
        assert!(log_now_ms >= self.swept_at, "log time never runs backwards");
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

fn is_alive(
    original: &Original,
    cut: u64,
    log_now_ms: u64,
    settled: impl FnOnce(&Original) -> bool,
) -> bool {
    original.append_ts >= cut || original.due() > log_now_ms || !settled(original)
}
