//! The replicated part of a log entry: what every replica of a partition has bit for bit.
//!
//! Indexes are dense from 1, terms never fall, `append_ts` never falls, and `base_offset` is the
//! sum of all counts before it. The chain ties each entry to everything before it: two logs whose
//! chains agree at an index are equal up to there.

use crate::base::ids::{Index, Offset, Term};

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// Carries a body of records, settlements, groups or state.
    Normal = 1,
    /// Begins a term; no body.
    NoOp = 2,
    /// Changes the membership.
    ConfChange = 3,
}

impl EntryKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Normal, Self::NoOp, Self::ConfChange].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The head of an entry, equal on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// What the entry is for.
    pub kind: EntryKind,
    /// Leadership that proposed it.
    pub term: Term,
    /// Position in the log, from 1.
    pub index: Index,
    /// [`EntryHeader::next_chain`] of the entry before; 0 for the first of a log.
    pub chain: u32,
    /// Offset of its first record; of the next record to come, if it has none.
    pub base_offset: Offset,
    /// Records in it.
    pub count: u32,
    /// Log time of the append, Unix ms.
    pub append_ts: u64,
}

impl EntryHeader {
    /// The chain of the entry that follows this one, whose body has this CRC.
    #[must_use]
    pub fn next_chain(&self, body_crc: u32) -> u32 {
        let mut fields = [0_u8; 48];
        let parts: [&[u8]; 8] = [
            &[self.kind as u8],
            &self.term.0.to_le_bytes(),
            &self.index.0.to_le_bytes(),
            &self.chain.to_le_bytes(),
            &self.base_offset.0.to_le_bytes(),
            &self.count.to_le_bytes(),
            &self.append_ts.to_le_bytes(),
            &body_crc.to_le_bytes(),
        ];
        let mut at = 0;
        for part in parts {
            fields[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        assert_eq!(at, 45, "every field is in the chain");
        crc32fast::hash(&fields[..at])
    }

    /// Offset behind its last record.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.count))
    }

    /// Why `next` can't be the entry behind this one, whose body has the CRC `body_crc`.
    #[must_use]
    pub fn break_before(&self, body_crc: u32, next: &Self) -> Option<SequenceBreak> {
        if next.index != self.index.next() {
            Some(SequenceBreak::Index)
        } else if next.chain != self.next_chain(body_crc) {
            Some(SequenceBreak::Chain)
        } else if next.term < self.term {
            Some(SequenceBreak::Term)
        } else if next.base_offset != self.end_offset() {
            Some(SequenceBreak::Offset)
        } else if next.append_ts < self.append_ts {
            Some(SequenceBreak::Time)
        } else {
            None
        }
    }
}

/// How two entries fail to be neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceBreak {
    /// The index does not follow.
    Index,
    /// The chain is another log's, or something in between is lost.
    Chain,
    /// The term falls.
    Term,
    /// Offsets are not dense.
    Offset,
    /// Log time falls.
    Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> EntryHeader {
        EntryHeader {
            kind: EntryKind::Normal,
            term: Term(3),
            index: Index(9),
            chain: 77,
            base_offset: Offset(100),
            count: 5,
            append_ts: 1_000,
        }
    }

    #[test]
    fn the_chain_depends_on_every_field() {
        let base = header();
        let others = [
            EntryHeader { kind: EntryKind::NoOp, ..base },
            EntryHeader { term: Term(4), ..base },
            EntryHeader { index: Index(10), ..base },
            EntryHeader { chain: 78, ..base },
            EntryHeader { base_offset: Offset(101), ..base },
            EntryHeader { count: 6, ..base },
            EntryHeader { append_ts: 1_001, ..base },
        ];
        for other in others {
            assert_ne!(other.next_chain(1), base.next_chain(1), "{other:?}");
        }
        assert_ne!(base.next_chain(2), base.next_chain(1));
    }

    #[test]
    fn neighbours_are_judged_by_each_rule() {
        let base = header();
        let next = EntryHeader {
            index: Index(10),
            chain: base.next_chain(1),
            base_offset: Offset(105),
            ..base
        };
        assert_eq!(base.break_before(1, &next), None);
        let cases = [
            (EntryHeader { index: Index(11), ..next }, SequenceBreak::Index),
            (EntryHeader { chain: 1, ..next }, SequenceBreak::Chain),
            (EntryHeader { term: Term(2), ..next }, SequenceBreak::Term),
            (EntryHeader { base_offset: Offset(104), ..next }, SequenceBreak::Offset),
            (EntryHeader { append_ts: 999, ..next }, SequenceBreak::Time),
        ];
        for (broken, why) in cases {
            assert_eq!(base.break_before(1, &broken), Some(why));
        }
        assert_eq!(base.break_before(2, &next), Some(SequenceBreak::Chain));
    }

    #[test]
    fn kinds_have_stable_numbers() {
        for kind in [EntryKind::Normal, EntryKind::NoOp, EntryKind::ConfChange] {
            assert_eq!(EntryKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!(EntryKind::from_number(0), None);
        assert_eq!(EntryKind::from_number(4), None);
    }
}
