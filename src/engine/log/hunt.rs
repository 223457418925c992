//! Behind a bad entry: are there valid ones, and do they prove that it had been durable?
//!
//! Looks at every multiple of 8 for a head with a valid CRC of this log and segment. The CRC covers
//! the head alone, which is enough: what it says was true when it was written, whatever became of
//! its body. Heads of a term below the last good entry's are stale (terms never fall in a log) and
//! prove nothing.
//!
//! How far: to the end of the files. Segments are zero-filled only `FILL_STEP_MAX` or one write
//! ahead, so at a clean or torn end this reads some ten MiB at most; and behind damage in the
//! middle of a log it ends with the first proof, which is close by.

use super::entry::EntryHeader;
use super::envelope::{ENTRY_ALIGN, HEAD_BYTES, HeadError, Ids, MAGIC, decode_head};
use super::segment::Place;
use crate::base::ids::{Index, Term};

/// What is known of the bytes behind a bad entry.
#[derive(Debug)]
pub(super) struct Hunt {
    ids: Ids,
    /// Where the good entries end.
    end: Place,
    /// Index of the entry that is bad or absent.
    bad: Index,
    /// Term of the last good entry.
    term: Term,
    /// Behind the last byte that is not zero, in the segment of `end`.
    pub(super) garbage_end: u64,
    /// Head and place of the first valid later entry.
    pub(super) first_later: Option<(EntryHeader, Place)>,
    /// Why the bad entry had been durable.
    pub(super) proof: Option<Proof>,
}

/// Why an entry must have been durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// A valid later entry, with this index, knew that everything up to the second was synced.
    Synced(Index, Index),
    /// A later segment has been begun, by the entry with this index.
    Sealed(Index),
    /// Something outside of the log knows it.
    Known,
    /// It is the head of the oldest segment left.
    Head,
    /// A newer version of the program wrote here, in this format: no tear makes its heads.
    Newer(u16),
    /// Another log's entry lies here, or a head that no version writes: no tear makes these.
    Impossible,
}

impl Hunt {
    pub(super) fn new(ids: Ids, end: Place, bad: Index, term: Term) -> Self {
        let garbage_end = end.position;
        Self { ids, end, bad, term, garbage_end, first_later: None, proof: None }
    }

    /// Whether nothing more needs to be read.
    pub(super) fn is_over(&self) -> bool {
        self.proof.is_some() && self.first_later.is_some()
    }

    /// Looks through the bytes at `at`, which overlap those before by a head at least.
    pub(super) fn feed(&mut self, at: Place, chunk: &[u8]) {
        assert!(at.position.is_multiple_of(ENTRY_ALIGN), "chunks begin with a block");
        let first = at.segment == self.end.segment;
        for (word, position) in chunk.chunks(8).zip((at.position..).step_by(8)) {
            if word.iter().all(|byte| *byte == 0) || (first && position < self.end.position) {
                continue;
            }
            if first {
                self.garbage_end = self.garbage_end.max(position + word.len() as u64);
            }
            if word.starts_with(&MAGIC) {
                let from = (position - at.position) as usize;
                let to = chunk.len().min(from + HEAD_BYTES);
                self.judge(Place::new(at.segment, position), &chunk[from..to]);
            }
            if self.is_over() {
                return;
            }
        }
    }

    fn judge(&mut self, place: Place, head: &[u8]) {
        let (envelope, header) = match decode_head(head) {
            Ok(head) => head,
            Err(HeadError::Version(version)) => {
                self.proof.get_or_insert(Proof::Newer(version));
                return;
            }
            Err(_) => return,
        };
        let ours = envelope.cluster == self.ids.cluster
            && envelope.partition == self.ids.partition
            && envelope.segment == place.segment;
        if !ours || header.index <= self.bad || header.term < self.term {
            return;
        }
        self.first_later.get_or_insert((header, place));
        if envelope.synced_index >= self.bad {
            self.proof.get_or_insert(Proof::Synced(header.index, envelope.synced_index));
        } else if place.segment > self.end.segment {
            self.proof.get_or_insert(Proof::Sealed(header.index));
        }
    }
}
