//! Recovery: reads a partition's log from its first segment on and decides where it ends.
//!
//! ```text
//! next_read() -> ReadRequest     the driver reads     feed(bytes)    take_entries()
//!        ^------------------------- until None ------------------------'  finish() -> ScanOutcome
//! ```
//! The one decision that matters: what follows the last good entry is either a **torn** tail, whose
//! entries nobody was ever told about, and is cut; or **rot**, damage to what had been durable, and
//! is reported and never cut. A bad entry is rot if
//! - a valid later entry has a `synced_index` at or above it, or
//! - a later segment holds a valid entry (a segment is begun when the one before is synced), or
//! - the caller knows it to be durable ([`Scan::known_synced`]), or
//! - it is the head of the oldest segment and not the first of the log, or
//! - the log was known to have durable entries, and has no segment any more, or
//! - no tear can leave what lies there: another log's entry, a newer version's, an impossible head.
//!
//! Everything else is torn, valid entries behind it included: writes in flight finish in any order.
//! Damage in the very last window, which no later entry vouches for, can't be told from a tear.

use bytes::Bytes;

use super::body::Body;
use super::entry::EntryHeader;
use super::envelope::{HeadError, Ids};
use super::hunt::{Hunt, Proof};
use super::index::Spot;
use super::reader::{EntryFault, Parsed, Reader};
use super::segment::{Place, SegmentFile, file_name};
use crate::base::ids::{Index, Offset, Term};
use crate::base::size::{BLOCK, block_ceil, block_floor};

/// Bytes that recovery reads at once (more for a larger entry).
pub const SCAN_READ_BYTES: u64 = 4 << 20;

/// A read to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Which segment.
    pub segment: Index,
    /// First byte, a multiple of 4 KiB.
    pub position: u64,
    /// Bytes, a multiple of 4 KiB; the file may end before.
    pub len: u64,
}

/// An entry found by recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Where it begins.
    pub place: Place,
    /// Its header.
    pub header: EntryHeader,
    /// Its body, a slice of what was read (see [`Body::detached`]).
    pub body: Body,
}

/// Where a log goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Behind the last good entry.
    pub place: Place,
    /// The bytes before it of the block it lies in, for `Tail::new`.
    pub tail_block: Vec<u8>,
    /// Behind it there is something in that block: a torn write. It is to be cleared before the
    /// next entry is written there, since what is left of both could make an entry.
    pub is_dirty: bool,
    /// How far the segment is zero-filled, once the window to clear is cleared.
    pub filled_end: u64,
}

/// What is known of a log from outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Entries up to here are committed, and that was only said once they were synced.
    pub committed: Index,
    /// The log was being cut from here on when the process ended; 0: it was not.
    pub cut_from: Index,
    /// The segment that the log begins with; 0: the first one.
    pub log_start: Index,
}

/// Damage to entries that had been durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotReport {
    /// First entry that can't be read.
    pub first_bad: Index,
    /// First entry behind it whose head is whole; whether its body is, [`Salvage`] finds out.
    ///
    /// [`Salvage`]: super::salvage::Salvage
    pub next_valid: Option<Index>,
    /// Where the damage begins.
    pub place: Place,
    /// Byte of the same file where it ends.
    pub end: u64,
    /// A newer version of the program wrote there, in this format: it may be no damage at all.
    pub newer: Option<u16>,
    /// All of this for people.
    pub text: String,
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanOutcome {
    /// Where the log goes on; `None` if there is no segment at all.
    pub end: Option<LogEnd>,
    /// Bytes behind the end that are cut off.
    pub torn_bytes: u64,
    /// Whole blocks behind the end, in its segment, to be zeroed before anything is written.
    pub zero: Option<(u64, u64)>,
    /// Segments behind the end, that hold nothing: to be removed before anything is written.
    pub segments_to_remove: Vec<Index>,
    /// Set if the log must not be written to. Nothing is to be zeroed or removed then.
    pub rot: Option<RotReport>,
    /// Last good entry.
    pub last: Option<EntryHeader>,
    /// Chain of the entry behind it.
    pub next_chain: u32,
    /// Good entries.
    pub entries: u64,
    /// Records in them.
    pub events: u64,
}

impl ScanOutcome {
    /// Index of the next entry; `first` is that of the log's first segment, 1 for a new log.
    #[must_use]
    pub fn next_index(&self, first: Index) -> Index {
        self.last.as_ref().map_or(first, |last| last.index.next())
    }

    /// Offset of the next record, as far as the entries say.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last.as_ref().map_or(Offset(0), EntryHeader::end_offset)
    }
}

/// Recovery of one log, step by step.
#[derive(Debug)]
pub struct Scan {
    ids: Ids,
    segments: Vec<SegmentFile>,
    known_synced: Index,
    cut_from: Option<Index>,
    /// Place in `segments` of what is being read.
    at: usize,
    reader: Reader,
    step: Step,
    found: Vec<Scanned>,
    outcome: ScanOutcome,
}

#[derive(Debug)]
enum Step {
    Read(ReadRequest),
    Hunt { hunt: Hunt, fault: EntryFault, at: usize, request: ReadRequest },
    Done,
}

impl Scan {
    /// Recovery of the log `ids` out of these files.
    ///
    /// # Panics
    /// If the files are not sorted, or one is named twice.
    #[must_use]
    pub fn new(ids: Ids, segments: Vec<SegmentFile>) -> Self {
        assert!(segments.is_sorted_by(|a, b| a.first < b.first), "segments are sorted");
        let first = segments.first().map_or(Index(1), |file| file.first);
        let reader = Reader::new(ids, Place::new(first, 0), first);
        let mut scan = Self {
            ids,
            segments,
            known_synced: Index(0),
            cut_from: None,
            at: 0,
            reader,
            step: Step::Done,
            found: Vec::new(),
            outcome: ScanOutcome::default(),
        };
        if !scan.segments.is_empty() {
            scan.step = Step::Read(scan.request(0));
        }
        scan
    }

    /// Recovery of a whole log: as [`Scan::new`], with all that its files and its hard state prove.
    ///
    /// # Panics
    /// As [`Scan::new`].
    #[must_use]
    pub fn recover(ids: Ids, segments: Vec<SegmentFile>, known: Known) -> Self {
        // A segment is begun when everything before it is synced: its file says so, empty as it is.
        let before_last = segments.last().map_or(0, |file| file.first.0.saturating_sub(1));
        let synced = Index(before_last.max(known.committed.0));
        let mut scan = Self::new(ids, segments).known_synced(synced);
        // No cut reaches back to what is known to be durable: a slot that says so is not believed.
        if known.cut_from > synced {
            scan = scan.cut_from(known.cut_from);
        }
        let log_start = known.log_start.max(Index(1));
        let begins = scan.segments.first().is_some_and(|file| file.first == log_start);
        if !begins && synced > Index(0) {
            scan.miss_the_head(log_start);
        }
        scan
    }

    /// As [`Scan::recover`], but reads from `from` on only: what lies before is known to be there.
    ///
    /// # Panics
    /// As [`Scan::new`], and if there is no such file.
    #[must_use]
    pub fn resume(ids: Ids, segments: Vec<SegmentFile>, known: Known, from: Spot) -> Self {
        assert!(from.index <= known.committed, "what was said to be there is durable");
        let at = segments.iter().position(|file| file.first == from.place.segment);
        let mut scan = Self::recover(ids, segments, known);
        scan.at = at.expect("the file was looked for");
        scan.reader = Reader::new(ids, from.place, from.index);
        scan.step = Step::Read(scan.request(0));
        scan
    }

    /// Says that the entries up to `index` are known, from outside of the log, to be durable.
    #[must_use]
    pub fn known_synced(mut self, index: Index) -> Self {
        self.known_synced = index;
        self
    }

    /// Says that the log was being cut from `index` on when the process ended: what lies there is
    /// dropped, whatever it says.
    #[must_use]
    pub fn cut_from(mut self, index: Index) -> Self {
        assert!(index > self.known_synced, "what is known to be durable is not cut");
        self.cut_from = Some(index);
        self
    }

    /// The next read; `None` when the outcome is ready. Stays the same until [`Scan::feed`].
    #[must_use]
    pub fn next_read(&self) -> Option<ReadRequest> {
        match &self.step {
            Step::Read(request) | Step::Hunt { request, .. } => Some(*request),
            Step::Done => None,
        }
    }

    /// The bytes of the last [`Scan::next_read`]; shorter only where the file ends.
    ///
    /// # Panics
    /// If nothing is to be read, or there are more bytes than asked for.
    pub fn feed(&mut self, bytes: &Bytes) {
        let request = self.next_read().expect("a read is out");
        assert!(bytes.len() as u64 <= request.len, "no more than was asked for");
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Read(request) => self.read(request, bytes),
            Step::Hunt { hunt, fault, at, request } => {
                self.shorten(at, request, bytes.len());
                self.hunt(hunt, fault, at, request, bytes);
            }
            Step::Done => unreachable!("a read is out"),
        }
    }

    /// The entries found since the last call, in order.
    pub fn take_entries(&mut self) -> Vec<Scanned> {
        std::mem::take(&mut self.found)
    }

    /// What was found.
    ///
    /// # Panics
    /// If there is more to read, or entries were not taken.
    #[must_use]
    pub fn finish(self) -> ScanOutcome {
        assert!(matches!(self.step, Step::Done), "all is read");
        assert!(self.found.is_empty(), "all entries are taken");
        self.outcome
    }

    /// The file that the log began with is gone: rot, of everything before what is left.
    fn miss_the_head(&mut self, log_start: Index) {
        let head = Place::new(log_start, 0);
        self.segments.insert(0, SegmentFile { first: head.segment, len: 0 });
        self.reader = Reader::new(self.ids, head, head.segment);
        let mut hunt = Hunt::new(self.ids, head, head.segment, Term(0));
        hunt.proof = Some(Proof::Known);
        self.go_on_hunting(hunt, EntryFault::NoFile, 0, 0);
    }

    fn request(&self, least: u64) -> ReadRequest {
        let Place { segment, position } = self.reader.place();
        ReadRequest { segment, position: block_floor(position), len: least.max(SCAN_READ_BYTES) }
    }

    /// A read that came back short says where the file ends.
    fn shorten(&mut self, at: usize, request: ReadRequest, got: usize) {
        if (got as u64) < request.len {
            let file = &mut self.segments[at];
            file.len = file.len.min(request.position + got as u64);
        }
    }

    fn read(&mut self, request: ReadRequest, chunk: &Bytes) {
        self.shorten(self.at, request, chunk.len());
        let file_end = self.segments[self.at].len;
        let fault = loop {
            if self.cut_from.is_some_and(|index| self.reader.next_index() >= index) {
                break EntryFault::FileEnd;
            }
            match self.reader.next(request.position, chunk, file_end) {
                Parsed::Entry { place, header, body } => {
                    self.outcome.entries += 1;
                    self.outcome.events += u64::from(header.count);
                    self.found.push(Scanned { place, header, body });
                }
                Parsed::Need { position, len } => {
                    let next = self.request(len);
                    assert_eq!(position, next.position, "it goes on where the entry begins");
                    self.step = Step::Read(next);
                    return;
                }
                Parsed::End => break EntryFault::FileEnd,
                Parsed::Bad { fault, .. } => break fault,
            }
        };
        self.stop(request, chunk, fault);
    }

    /// No further entry here: the segment ends, or the log does, or it is damaged.
    fn stop(&mut self, request: ReadRequest, chunk: &Bytes, fault: EntryFault) {
        let bad = self.reader.next_index();
        let cutting = self.cut_from.is_some_and(|index| bad >= index);
        let gone = !fault.is_of_the_entry_itself();
        if let Some(next) = self.segments.get(self.at + 1)
            && next.first == bad
            && gone
            && !cutting
        {
            self.at += 1;
            self.reader.enter_segment(next.first);
            self.step = Step::Read(self.request(0));
            return;
        }
        let end = self.reader.place();
        self.keep_end(request, chunk);
        let before = self.reader.before();
        let term = match before {
            _ if cutting => Term(u64::MAX), // Everything behind is stale, and is read to its end.
            Some((header, _)) => header.term,
            None => Term(0),
        };
        let mut hunt = Hunt::new(self.ids, end, bad, term);
        if !cutting {
            hunt.proof = self.proof_at_hand(bad, &fault);
        }
        self.outcome.last = before.map(|(header, _)| header);
        self.outcome.next_chain = before.map_or(0, |(header, crc)| header.next_chain(crc));
        self.go_on_hunting(hunt, fault, self.at, block_floor(end.position));
    }

    /// What says, without looking further, that the bad entry had been durable.
    fn proof_at_hand(&self, bad: Index, fault: &EntryFault) -> Option<Proof> {
        use EntryFault as F;
        let impossible =
            matches!(fault, F::Foreign | F::Head(HeadError::Field) | F::Body(_) | F::Mismatch);
        if let F::Head(HeadError::Version(version)) = fault {
            Some(Proof::Newer(*version))
        } else if impossible {
            Some(Proof::Impossible)
        } else if bad <= self.known_synced {
            Some(Proof::Known)
        } else if self.outcome.entries == 0 && bad > Index(1) {
            Some(Proof::Head)
        } else {
            None
        }
    }

    fn keep_end(&mut self, request: ReadRequest, chunk: &Bytes) {
        let place = self.reader.place();
        let from = (block_floor(place.position) - request.position) as usize;
        let to = (place.position - request.position) as usize;
        let tail_block = chunk[from..to].to_vec();
        let rest = &chunk[to..chunk.len().min(from + BLOCK as usize).max(to)];
        let is_dirty = to > from && rest.iter().any(|byte| *byte != 0);
        let filled_end = block_floor(self.segments[self.at].len).max(block_ceil(place.position));
        self.outcome.end = Some(LogEnd { place, tail_block, is_dirty, filled_end });
    }

    fn hunt(
        &mut self,
        mut hunt: Hunt,
        fault: EntryFault,
        at: usize,
        request: ReadRequest,
        chunk: &[u8],
    ) {
        hunt.feed(Place::new(request.segment, request.position), chunk);
        let read_end = request.position + chunk.len() as u64;
        if hunt.is_over() {
            self.conclude(&hunt, &fault);
        } else if read_end < self.segments[at].len {
            // A head may lie across the end of the chunk: the last block is read again.
            self.go_on_hunting(hunt, fault, at, block_floor(read_end) - BLOCK);
        } else {
            self.go_on_hunting(hunt, fault, at + 1, 0);
        }
    }

    fn go_on_hunting(&mut self, hunt: Hunt, fault: EntryFault, mut at: usize, mut position: u64) {
        while self.segments.get(at).is_some_and(|file| file.len <= position) {
            at += 1;
            position = 0;
        }
        // While a log is being cut nothing behind proves anything.
        let cutting = self.cut_from.is_some_and(|index| self.reader.next_index() >= index);
        match self.segments.get(at) {
            Some(file) if at == self.at || !cutting => {
                let request = ReadRequest { segment: file.first, position, len: SCAN_READ_BYTES };
                self.step = Step::Hunt { hunt, fault, at, request };
            }
            _ => self.conclude(&hunt, &fault),
        }
    }

    fn conclude(&mut self, hunt: &Hunt, fault: &EntryFault) {
        self.step = Step::Done;
        let end = self.reader.place();
        let cutting = self.cut_from.is_some_and(|index| self.reader.next_index() >= index);
        // Known bad: what was durable is cut like a torn end.
        let may_cut = cutting || cfg!(bug_cut_on_rot);
        if let Some(proof) = hunt.proof.filter(|_| !may_cut) {
            self.outcome.rot = Some(self.report(hunt, proof, fault));
            return;
        }
        self.outcome.torn_bytes = hunt.garbage_end - end.position;
        let (from, to) = (block_ceil(end.position), block_ceil(hunt.garbage_end));
        self.outcome.zero = (from < to).then_some((from, to));
        let behind = &self.segments[self.at + 1..];
        self.outcome.segments_to_remove = behind.iter().map(|file| file.first).collect();
    }

    fn report(&self, hunt: &Hunt, proof: Proof, fault: &EntryFault) -> RotReport {
        let place = self.reader.place();
        let first_bad = self.reader.next_index();
        let file_end = self.segments[self.at].len.max(place.position);
        let end = match hunt.first_later {
            Some((_, later)) if later.segment == place.segment => later.position,
            _ => file_end,
        };
        let why = match proof {
            Proof::Synced(index, synced) => {
                format!("entry {index} was written when everything up to {synced} was durable")
            }
            Proof::Sealed(index) => format!("entry {index} begins a later segment"),
            Proof::Known => "it is known to have been durable".to_owned(),
            Proof::Head => "it is the head of the oldest segment left".to_owned(),
            Proof::Newer(version) => format!("a newer version wrote there, in format {version}"),
            Proof::Impossible => "no interrupted write leaves such bytes".to_owned(),
        };
        let next_valid = hunt.first_later.map(|(header, _)| header.index);
        let lost = match next_valid {
            Some(next) if next == first_bad.next() => format!("entry {first_bad} is lost"),
            Some(next) => format!("entries {first_bad} to {} are lost", next.0 - 1),
            None => format!("entry {first_bad} and all behind it are lost"),
        };
        let text = format!(
            "{}: damaged from byte {} to {end} ({fault}): {lost}; {why}",
            file_name(place.segment),
            place.position,
        );
        let newer = if let Proof::Newer(version) = proof { Some(version) } else { None };
        RotReport { first_bad, next_valid, place, end, newer, text }
    }
}

#[cfg(test)]
#[path = "scan_test.rs"]
mod tests;
