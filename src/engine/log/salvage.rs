//! Behind rot: what can still be read of a log, and what exactly is lost.
//!
//! ```text
//!   scan | rot          readable      hole       readable      end
//!   e e e | x x x x x x | e e e e e e | x x x x | e e e e e e | 0 0 0
//!         `- Hole ------'- Entry ... -'- Hole --'- Entry ... -'
//! ```
//! Driven as [`Scan`](super::scan::Scan) is, from the damage that one has found on. For people and
//! tools alone: nothing found here is ever applied, since what lies before it is missing.
//!
//! What must hold: entries come in rising order, each whole and its neighbours' neighbour; a hole
//! lies between any two that do not follow one another. What no valid entry follows is no hole but
//! the end of the log, for a tear can't be told from rot there; only the first hole may be open.

use bytes::Bytes;

use super::entry::EntryHeader;
use super::envelope::{ENTRY_ALIGN, Ids};
use super::hunt::{Hunt, Proof};
use super::reader::{Parsed, Reader};
use super::scan::{ReadRequest, RotReport, SCAN_READ_BYTES, Scanned};
use super::segment::{Place, SegmentFile};
use crate::base::ids::{Index, Offset, Term};
use crate::base::size::{BLOCK, block_floor};

/// Entries that can't be read, between two that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First entry that is lost.
    pub first: Index,
    /// First entry behind it that can be read; `None`: all behind it are lost.
    pub end: Option<Index>,
    /// First offset that is lost, if an entry before tells it.
    pub first_offset: Option<Offset>,
    /// First offset behind it that can be read, if an entry there tells it.
    pub end_offset: Option<Offset>,
    /// Behind the last entry before it.
    pub from: Place,
    /// Where the first entry behind it begins, or the files end.
    pub to: Place,
}

/// What lies behind rot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Salvaged {
    /// Entries are lost here.
    Hole(Hole),
    /// An entry that can be read.
    Entry(Scanned),
}

/// The reading of what lies behind rot, step by step.
#[derive(Debug)]
pub struct Salvage {
    ids: Ids,
    segments: Vec<SegmentFile>,
    /// Place in `segments` of what is being read.
    at: usize,
    step: Step,
    /// The hole that the next good entry closes.
    hole: Option<Hole>,
    /// The last good entry.
    before: Option<EntryHeader>,
    /// No entry was found yet behind the first hole.
    first: bool,
    found: Vec<Salvaged>,
}

#[derive(Debug)]
enum Step {
    Hunt(Hunt, ReadRequest),
    Read(Reader, ReadRequest),
    Done,
}

impl Salvage {
    /// Reads on in the log `ids` of these files from `rot` on, which a scan of them has found
    /// behind the entry `last`.
    #[must_use]
    pub fn new(
        ids: Ids,
        segments: Vec<SegmentFile>,
        rot: &RotReport,
        last: Option<EntryHeader>,
    ) -> Self {
        let first_offset = match &last {
            None if rot.first_bad == Index(1) => Some(Offset(0)),
            last => last.as_ref().map(EntryHeader::end_offset),
        };
        let hole = Hole {
            first: rot.first_bad,
            end: None,
            first_offset,
            end_offset: None,
            from: rot.place,
            to: rot.place,
        };
        let at = segments.partition_point(|file| file.first < rot.place.segment);
        let mut salvage = Self {
            ids,
            segments,
            at,
            step: Step::Done,
            hole: Some(hole),
            before: last,
            first: true,
            found: Vec::new(),
        };
        salvage.hunt_from(rot.place, rot.first_bad);
        salvage
    }

    /// The next read; `None` when all is read. Stays the same until [`Salvage::feed`].
    #[must_use]
    pub fn next_read(&self) -> Option<ReadRequest> {
        match &self.step {
            Step::Hunt(_, request) | Step::Read(_, request) => Some(*request),
            Step::Done => None,
        }
    }

    /// The bytes of the last [`Salvage::next_read`]; shorter only where the file ends.
    ///
    /// # Panics
    /// If nothing is to be read, or there are more bytes than asked for.
    pub fn feed(&mut self, bytes: &Bytes) {
        let request = self.next_read().expect("a read is out");
        assert!(bytes.len() as u64 <= request.len, "no more than was asked for");
        if (bytes.len() as u64) < request.len {
            let file = &mut self.segments[self.at];
            file.len = file.len.min(request.position + bytes.len() as u64);
        }
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Hunt(hunt, request) => self.hunt(hunt, request, bytes),
            Step::Read(reader, request) => self.read(reader, request, bytes),
            Step::Done => unreachable!("a read is out"),
        }
    }

    /// What was found since the last call, in the order of the log.
    pub fn take(&mut self) -> Vec<Salvaged> {
        std::mem::take(&mut self.found)
    }

    /// Looks for a valid head of an entry behind `bad`, from `place` on.
    fn hunt_from(&mut self, place: Place, bad: Index) {
        let term = self.before.map_or(Term(0), |before| before.term);
        let mut hunt = Hunt::new(self.ids, place, bad, term);
        // That it is rot is known: the first valid head is all that is wanted.
        hunt.proof = Some(Proof::Known);
        let here = self.segments.get(self.at).is_some_and(|file| file.first == place.segment);
        self.hunt_on(hunt, if here { block_floor(place.position) } else { 0 });
    }

    fn hunt_on(&mut self, hunt: Hunt, mut position: u64) {
        while self.segments.get(self.at).is_some_and(|file| file.len <= position) {
            self.at += 1;
            position = 0;
        }
        self.step = match self.segments.get(self.at) {
            Some(file) => {
                let request = ReadRequest { segment: file.first, position, len: SCAN_READ_BYTES };
                Step::Hunt(hunt, request)
            }
            None => self.end(),
        };
    }

    fn hunt(&mut self, mut hunt: Hunt, request: ReadRequest, chunk: &[u8]) {
        hunt.feed(Place::new(request.segment, request.position), chunk);
        let read_end = request.position + chunk.len() as u64;
        if let Some((header, place)) = hunt.first_later {
            let reader = Reader::new(self.ids, place, header.index);
            self.step = read_at(reader, 0);
        } else if read_end < self.segments[self.at].len {
            // A head may lie across the end of the chunk: the last block is read again.
            self.hunt_on(hunt, block_floor(read_end) - BLOCK);
        } else {
            self.at += 1;
            self.hunt_on(hunt, 0);
        }
    }

    fn read(&mut self, mut reader: Reader, request: ReadRequest, chunk: &Bytes) {
        let fault_is_its_own = loop {
            match reader.next(request.position, chunk, self.segments[self.at].len) {
                Parsed::Entry { place, header, body } => {
                    self.close_hole(place, &header);
                    self.before = Some(header);
                    self.found.push(Salvaged::Entry(Scanned { place, header, body }));
                }
                Parsed::Need { len, .. } => {
                    self.step = read_at(reader, len);
                    return;
                }
                Parsed::End => break false,
                Parsed::Bad { fault, .. } => break fault.is_of_the_entry_itself(),
            }
        };
        let (bad, place) = (reader.next_index(), reader.place());
        if self.hole.is_some() {
            // The head that was found is good, what belongs to it is not.
            let behind = Place::new(place.segment, place.position + ENTRY_ALIGN);
            return self.hunt_from(behind, bad);
        }
        if let Some(next) = self.segments.get(self.at + 1)
            && next.first == bad
            && !fault_is_its_own
        {
            self.at += 1;
            reader.enter_segment(next.first);
            self.step = read_at(reader, 0);
            return;
        }
        let first_offset = self.before.as_ref().map(EntryHeader::end_offset);
        self.hole = Some(Hole {
            first: bad,
            end: None,
            first_offset,
            end_offset: None,
            from: place,
            to: place,
        });
        self.hunt_from(place, bad);
    }

    fn close_hole(&mut self, place: Place, header: &EntryHeader) {
        let Some(hole) = self.hole.take() else { return };
        assert!(hole.first < header.index, "an entry behind a hole is behind it");
        self.first = false;
        let (end, end_offset) = (Some(header.index), Some(header.base_offset));
        self.found.push(Salvaged::Hole(Hole { end, end_offset, to: place, ..hole }));
    }

    fn end(&mut self) -> Step {
        // The first one is rot for sure; behind a later one may be the end of the log.
        if let Some(hole) = self.hole.take().filter(|_| self.first) {
            let to =
                self.segments.last().map_or(hole.from, |file| Place::new(file.first, file.len));
            self.found.push(Salvaged::Hole(Hole { to: to.max(hole.from), ..hole }));
        }
        Step::Done
    }
}

/// A read of `least` bytes or more from the place of `reader` on.
fn read_at(reader: Reader, least: u64) -> Step {
    let Place { segment, position } = reader.place();
    let len = least.max(SCAN_READ_BYTES);
    Step::Read(reader, ReadRequest { segment, position: block_floor(position), len })
}

#[cfg(test)]
#[path = "salvage_test.rs"]
mod tests;
