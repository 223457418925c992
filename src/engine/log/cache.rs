//! The record cache: entries kept in memory so that what is due soon is delivered without a read.
//!
//! Two parts under one budget of bytes: the newest entries, in log order, evicted from the old end;
//! and entries read back from disk, which may take a quarter of the budget once the newest fill it,
//! evicted in the order they came. Holds whole entries: their records share one body.

use std::collections::{BTreeMap, VecDeque};

use super::body::Body;
use super::entry::EntryHeader;
use crate::base::ids::Offset;

/// What a cached entry costs beside its body, bytes.
const ENTRY_COST: u64 = 192;

/// An entry in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Its header.
    pub header: EntryHeader,
    /// Its body.
    pub body: Body,
}

impl Cached {
    fn cost(&self) -> u64 {
        self.body.bytes().len() as u64 + ENTRY_COST
    }

    /// Whether the record at `offset` is one of its own.
    #[must_use]
    pub fn holds(&self, offset: Offset) -> bool {
        self.header.base_offset <= offset && offset < self.header.end_offset()
    }
}

/// The cached entries of one partition.
#[derive(Debug)]
pub struct RecordCache {
    budget: u64,
    recent: VecDeque<Cached>,
    recent_bytes: u64,
    read: BTreeMap<Offset, Cached>,
    /// Base offsets of `read`, oldest first.
    read_order: VecDeque<Offset>,
    read_bytes: u64,
}

impl RecordCache {
    /// An empty cache of at most `budget` bytes; the newest entry is kept though it be larger.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            recent: VecDeque::new(),
            recent_bytes: 0,
            read: BTreeMap::new(),
            read_order: VecDeque::new(),
            read_bytes: 0,
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.recent_bytes + self.read_bytes
    }

    /// Another budget: evicts at once what is over it.
    pub fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
        self.evict();
    }

    /// Adds an entry behind the newest. One without records is not kept.
    ///
    /// # Panics
    /// If its records do not lie behind all that were added.
    pub fn push(&mut self, header: EntryHeader, body: Body) {
        assert_eq!(header.count, body.records(), "header and body are of one entry");
        if header.count == 0 {
            return;
        }
        let newest = self.recent.back().map_or(Offset(0), |last| last.header.end_offset());
        assert!(header.base_offset >= newest, "entries are added in log order");
        let cached = Cached { header, body };
        self.recent_bytes += cached.cost();
        self.recent.push_back(cached);
        self.evict();
    }

    /// As [`Self::push`], of an entry none of whose records is needed soon: kept only while an
    /// eighth of the budget is enough for all that is recent.
    pub fn push_idle(&mut self, header: EntryHeader, body: Body) {
        if self.recent_bytes < self.budget / 8 {
            self.push(header, body);
        }
    }

    /// Adds an entry read from disk, unless it is there. Its body is copied: it would keep all of
    /// the read alive.
    pub fn push_read(&mut self, header: EntryHeader, body: &Body) {
        assert_eq!(header.count, body.records(), "header and body are of one entry");
        if header.count == 0 || self.get(header.base_offset).is_some() {
            return;
        }
        let cached = Cached { header, body: body.detached() };
        self.read_bytes += cached.cost();
        self.read.insert(header.base_offset, cached);
        self.read_order.push_back(header.base_offset);
        self.evict();
    }

    /// The entry that holds the record at `offset`, if it is in memory.
    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<&Cached> {
        let behind = self.recent.partition_point(|cached| cached.header.base_offset <= offset);
        let recent = behind.checked_sub(1).map(|i| &self.recent[i]);
        if let Some(cached) = recent.filter(|cached| cached.holds(offset)) {
            return Some(cached);
        }
        let read = self.read.range(..=offset).next_back().map(|(_, cached)| cached);
        read.filter(|cached| cached.holds(offset))
    }

    /// Forgets every entry with a record at or behind `offset`: the log is cut there.
    pub fn truncate(&mut self, offset: Offset) {
        while let Some(cached) = self.recent.pop_back_if(|last| last.header.end_offset() > offset) {
            self.recent_bytes -= cached.cost();
        }
        let mut freed = 0;
        self.read.retain(|_, cached| {
            let keep = cached.header.end_offset() <= offset;
            freed += if keep { 0 } else { cached.cost() };
            keep
        });
        self.read_bytes -= freed;
        self.read_order.retain(|base| self.read.contains_key(base));
    }

    fn evict(&mut self) {
        // The last entry read stays though it be too large: a flow waits for it, and would read it
        // again for ever.
        while self.bytes() > self.budget && (self.recent.len() > 1 || self.read.len() > 1) {
            let read_is_over = self.read_bytes > self.budget / 4 || self.recent.len() <= 1;
            if read_is_over
                && self.read.len() > 1
                && let Some(base) = self.read_order.pop_front()
            {
                let cached = self.read.remove(&base).expect("the order names what is held");
                self.read_bytes -= cached.cost();
            } else {
                let cached = self.recent.pop_front().expect("more than one entry is held");
                self.recent_bytes -= cached.cost();
            }
        }
        assert_eq!(self.read.len(), self.read_order.len(), "each is evicted once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Index, Term, TopicNo};
    use crate::engine::log::batch::PublishBuilder;
    use crate::engine::log::entry::EntryKind;
    use crate::engine::log::model::Loose;

    /// The `i`-th entry of a log whose entries all have two records of 1000 bytes.
    fn entry(i: u64) -> (EntryHeader, Body) {
        let mut builder = PublishBuilder::new();
        for _ in 0..2 {
            Loose {
                message_id: b"id",
                meta: b"",
                payload: &[7; 1_000],
                topic: TopicNo(0),
                schedule_ts: i,
                checksum: 0,
                allow_duplicate: false,
            }
            .push_to(&mut builder);
        }
        let header = EntryHeader {
            kind: EntryKind::Normal,
            term: Term(1),
            index: Index(i + 1),
            chain: 0,
            base_offset: Offset(2 * i),
            count: 2,
            append_ts: 0,
        };
        (header, builder.finish())
    }

    fn cost() -> u64 {
        let (header, body) = entry(0);
        Cached { header, body }.cost()
    }

    #[test]
    fn the_newest_stay_and_every_record_is_found() {
        let mut cache = RecordCache::new(10 * cost());
        for i in 0..100 {
            let (header, body) = entry(i);
            cache.push(header, body);
            assert!(cache.bytes() <= 10 * cost());
        }
        for offset in 0..202 {
            let held = cache.get(Offset(offset)).map(|cached| cached.header.index.0);
            let expected = (180..200).contains(&offset).then_some(offset / 2 + 1);
            assert_eq!(held, expected, "offset {offset}");
        }
    }

    #[test]
    fn reads_take_their_share_and_no_more() {
        let mut cache = RecordCache::new(12 * cost());
        (100..112).for_each(|i| cache.push(entry(i).0, entry(i).1));
        (0..50).for_each(|i| cache.push_read(entry(i).0, &entry(i).1));
        assert!(cache.bytes() <= 12 * cost());
        let recent = (100..112).filter(|i| cache.get(Offset(2 * i)).is_some()).count();
        let read = (0..50).filter(|i| cache.get(Offset(2 * i + 1)).is_some()).count();
        assert_eq!((recent, read), (9, 3));
        cache.push_read(entry(49).0, &entry(49).1);
        assert_eq!(cache.read.len(), 3, "held once");
    }

    #[test]
    fn one_entry_is_kept_though_it_be_larger() {
        let mut cache = RecordCache::new(1);
        (0..3).for_each(|i| cache.push(entry(i).0, entry(i).1));
        assert!(cache.get(Offset(4)).is_some() && cache.get(Offset(2)).is_none());
    }

    #[test]
    fn a_cut_forgets_what_is_behind() {
        let mut cache = RecordCache::new(100 * cost());
        (10..20).for_each(|i| cache.push(entry(i).0, entry(i).1));
        (0..5).for_each(|i| cache.push_read(entry(i).0, &entry(i).1));
        cache.truncate(Offset(31));
        assert!(cache.get(Offset(29)).is_some() && cache.get(Offset(30)).is_none());
        cache.truncate(Offset(2));
        assert!(cache.get(Offset(1)).is_some() && cache.get(Offset(2)).is_none());
        assert_eq!(cache.bytes(), cost());
    }

    #[test]
    fn what_is_needed_late_takes_an_eighth_of_the_room() {
        let mut cache = RecordCache::new(16 * 2_300);
        (0..20).for_each(|i| cache.push_idle(entry(i).0, entry(i).1));
        assert!(cache.get(Offset(0)).is_some() && cache.get(Offset(30)).is_none());
        let held = cache.bytes();
        assert!(held <= 3 * 2_300, "{held}");
        (20..24).for_each(|i| cache.push(entry(i).0, entry(i).1));
        assert!(cache.get(Offset(40)).is_some() && cache.get(Offset(0)).is_some());
    }
}
