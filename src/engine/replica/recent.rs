//! The entries of a log's end that are in memory: all that are not applied, and some applied ones.

use std::collections::VecDeque;

use super::LogEntry;
use crate::base::ids::Index;

#[derive(Debug)]
pub(super) struct Recent<E> {
    /// Index of the first entry of `entries`, or the next to come.
    first: Index,
    entries: VecDeque<E>,
    bytes: usize,
    /// Of them, bytes of entries that are applied.
    applied_bytes: usize,
}

impl<E: LogEntry> Recent<E> {
    /// Nothing in memory of a log that ends at `last`.
    pub(super) fn new(last: Index) -> Self {
        Self { first: last.next(), entries: VecDeque::new(), bytes: 0, applied_bytes: 0 }
    }

    pub(super) fn first(&self) -> Index {
        self.first
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, entry: E) {
        assert_eq!(entry.index().0, self.first.0 + self.entries.len() as u64, "no gap in memory");
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    pub(super) fn get(&self, index: Index) -> Option<&E> {
        self.entries.get(index.0.checked_sub(self.first.0)? as usize)
    }

    /// The entries of `low..high`, which must begin in memory unless it is empty.
    pub(super) fn range(&self, low: Index, high: Index) -> impl Iterator<Item = &E> {
        let skip = low.0.saturating_sub(self.first.0) as usize;
        self.entries.iter().skip(skip).take((high.0 - low.0) as usize)
    }

    /// `applied` has just been handed out: forgets the oldest applied ones beyond so many bytes.
    pub(super) fn trim(&mut self, applied: Index, kept: usize) {
        self.applied_bytes += self.get(applied).expect("it was just handed out").bytes();
        while self.applied_bytes > kept && self.first <= applied {
            self.pop_applied();
        }
    }

    /// Forgets everything up to and including `index`, which is applied.
    pub(super) fn forget(&mut self, index: Index) {
        while self.first <= index && !self.entries.is_empty() {
            self.pop_applied();
        }
    }

    /// Cuts from `index` on; nothing applied is ever cut.
    pub(super) fn truncate_from(&mut self, index: Index) -> Vec<E> {
        assert!(index >= self.first, "what is cut is in memory");
        let cut: Vec<E> = self.entries.drain((index.0 - self.first.0) as usize..).collect();
        self.bytes -= cut.iter().map(E::bytes).sum::<usize>();
        assert!(self.applied_bytes <= self.bytes, "an applied entry was cut");
        cut
    }

    fn pop_applied(&mut self) {
        let entry = self.entries.pop_front().expect("applied bytes belong to entries");
        self.first = self.first.next();
        self.bytes -= entry.bytes();
        self.applied_bytes -= entry.bytes();
    }
}
