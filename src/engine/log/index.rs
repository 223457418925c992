//! The sparse index: where in the log an offset, an index or a log time is found, to within a few
//! entries. In memory, remade by recovery.
//!
//! Every entry of the log is shown to it once, in order; it notes the first of each segment and
//! then one per interval. Offsets, indexes and times never fall along the log, so each is a binary
//! search.

use super::entry::EntryHeader;
use super::segment::Place;
use crate::base::ids::{Index, Offset};

/// The place of a noted entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Where it begins.
    pub place: Place,
    /// Its index.
    pub index: Index,
}

/// A piece of the log, from a noted entry on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Behind its last entry, in the segment it begins in, or where it is cut off.
    pub end: u64,
    /// The noted entry right behind it, and the first offset at or behind that; `None` where the
    /// log ends, or the piece is cut off.
    pub next: Option<(Spot, Offset)>,
}

/// The notes of one segment, for a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentNotes {
    /// Index of its first entry.
    pub first: Index,
    end: u64,
    notes: Vec<Note>,
}

impl SegmentNotes {
    /// Tells its numbers, in order.
    pub fn to_numbers(&self, put: &mut impl FnMut(u64)) {
        [self.first.0, self.end, self.notes.len() as u64].into_iter().for_each(&mut *put);
        for note in &self.notes {
            let numbers = [note.position, note.index.0, note.base_offset.0, note.append_ts];
            numbers.into_iter().for_each(&mut *put);
        }
    }

    /// The reverse; `None` where they end too early, or can't be.
    pub fn from_numbers(mut next: impl FnMut() -> Option<u64>) -> Option<Self> {
        let (first, end, count) = (Index(next()?), next()?, next()?);
        let mut notes: Vec<Note> = Vec::new();
        for _ in 0..count {
            let (position, index) = (next()?, Index(next()?));
            let (base_offset, append_ts) = (Offset(next()?), next()?);
            let note = Note { position, index, base_offset, append_ts };
            let behind = notes.last().is_none_or(|before| {
                before.position < position
                    && before.index < index
                    && before.base_offset <= base_offset
                    && before.append_ts <= append_ts
            });
            if !behind || position >= end || index < first {
                return None;
            }
            notes.push(note);
        }
        (!notes.is_empty()).then_some(Self { first, end, notes })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    position: u64,
    index: Index,
    base_offset: Offset,
    append_ts: u64,
}

#[derive(Debug)]
struct Segment {
    first: Index,
    /// Behind its last entry.
    end: u64,
    /// At least one, once it has an entry.
    notes: Vec<Note>,
}

/// The sparse index of one partition's log.
#[derive(Debug)]
pub struct SparseIndex {
    interval_bytes: u64,
    segments: Vec<Segment>,
}

impl SparseIndex {
    /// An empty index that notes an entry every `interval_bytes`.
    #[must_use]
    pub fn new(interval_bytes: u64) -> Self {
        Self { interval_bytes, segments: Vec::new() }
    }

    /// Takes in the entry at `place`, `len` bytes long on disk, the next of the log. The first of a
    /// segment begins it.
    ///
    /// # Panics
    /// If the entry lies before one that was taken in.
    pub fn note(&mut self, place: Place, header: &EntryHeader, len: u64) {
        if self.segments.last().is_none_or(|segment| segment.first < place.segment) {
            self.segments.push(Segment { first: place.segment, end: 0, notes: Vec::new() });
        }
        let segment = self.segments.last_mut().expect("there is one now");
        assert_eq!(segment.first, place.segment, "segments come in order");
        assert!(place.position >= segment.end, "entries come in order");
        segment.end = place.position + len;
        let last = segment.notes.last();
        if last.is_none_or(|note| place.position >= note.position + self.interval_bytes) {
            let previous = last.map_or(Index(0), |note| note.index);
            assert!(header.index > previous, "indexes grow along the log");
            segment.notes.push(Note {
                position: place.position,
                index: header.index,
                base_offset: header.base_offset,
                append_ts: header.append_ts,
            });
        }
    }

    /// What is noted of everything before a place.
    #[must_use]
    pub fn before(&self, place: Place) -> Vec<SegmentNotes> {
        let until = self.segments.iter().take_while(|segment| segment.first <= place.segment);
        let cut = until.map(|Segment { first, end, notes }| {
            let (mut end, mut notes) = (*end, notes.clone());
            if *first == place.segment {
                end = end.min(place.position);
                notes.retain(|note| note.position < place.position);
            }
            SegmentNotes { first: *first, end, notes }
        });
        cut.filter(|segment| !segment.notes.is_empty()).collect()
    }

    /// Begins with what was noted [before](Self::before).
    ///
    /// # Panics
    /// If something is noted already.
    pub fn restore(&mut self, notes: Vec<SegmentNotes>) {
        assert!(self.segments.is_empty(), "an index is restored before anything is noted");
        let segment = |SegmentNotes { first, end, notes }| Segment { first, end, notes };
        self.segments = notes.into_iter().map(segment).collect();
    }

    /// Where to read from to find the record at `offset`: the last noted entry that does not begin
    /// behind it. `None` if the log begins behind it.
    #[must_use]
    pub fn locate(&self, offset: Offset) -> Option<Spot> {
        self.last_noted(|note| note.base_offset <= offset)
    }

    /// What to read at once from a noted entry on: whole entries of about `bytes`, up to another
    /// noted one or the end of the segment. It is cut off where notes lie farther apart.
    ///
    /// # Panics
    /// If the log has no such segment.
    #[must_use]
    pub fn piece(&self, from: Spot, bytes: u64) -> Piece {
        let place = self.find(from.place.segment).expect("a piece begins in a known segment");
        let segment = &self.segments[place];
        let limit = from.place.position + bytes;
        let other = self.segments.get(place + 1);
        let next = other.and_then(|other| other.notes.first().map(|note| other.noted(note)));
        let rest = Piece { end: segment.end, next };
        if segment.end <= limit {
            return rest;
        }
        let first = segment.notes.partition_point(|note| note.position <= from.place.position);
        let within = segment.notes.partition_point(|note| note.position <= limit);
        // An entry larger than that is read as a whole.
        let at = if within > first { within - 1 } else { first };
        if within == first && self.interval_bytes > bytes {
            return Piece { end: limit, next: None };
        }
        segment
            .notes
            .get(at)
            .map_or(rest, |note| Piece { end: note.position, next: Some(segment.noted(note)) })
    }

    /// Offset of the first noted entry that lies `bytes` or more behind `from` in the log.
    #[must_use]
    pub fn offset_behind(&self, from: Spot, bytes: u64) -> Option<Offset> {
        let mut before = 0;
        let segments = self.segments.iter().filter(|s| s.first >= from.place.segment);
        for segment in segments {
            let start = if segment.first == from.place.segment { from.place.position } else { 0 };
            let far =
                |note: &&Note| note.position >= start && before + note.position - start >= bytes;
            if let Some(note) = segment.notes.iter().find(far) {
                return Some(note.base_offset);
            }
            before += segment.end.saturating_sub(start);
        }
        None
    }

    /// Where to read from to find the entry `index`; `None` if the log begins behind it.
    #[must_use]
    pub fn locate_index(&self, index: Index) -> Option<Spot> {
        self.last_noted(|note| note.index <= index)
    }

    /// Where to read from to find the first entry appended at `append_ts` or later.
    #[must_use]
    pub fn locate_time(&self, append_ts: u64) -> Option<Spot> {
        // The last one before it, not the first at it: entries not noted may share its time.
        self.last_noted(|note| note.append_ts < append_ts).or_else(|| self.log_start())
    }

    /// The first entry of the log.
    #[must_use]
    pub fn log_start(&self) -> Option<Spot> {
        self.segments.first().and_then(Segment::start)
    }

    /// Behind the last entry of the log.
    #[must_use]
    pub fn log_end(&self) -> Option<Place> {
        self.segments.last().map(|segment| Place::new(segment.first, segment.end))
    }

    /// Bytes of all segments, each up to its last entry.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    /// Behind the last entry of a segment.
    #[must_use]
    pub fn segment_end(&self, segment: Index) -> Option<u64> {
        self.find(segment).ok().map(|i| self.segments[i].end)
    }

    /// The first entry of the segment behind this one.
    #[must_use]
    pub fn next_segment(&self, segment: Index) -> Option<Spot> {
        let behind = self.segments.partition_point(|other| other.first <= segment);
        self.segments.get(behind).and_then(Segment::start)
    }

    /// Offset of the first record at or behind the head of a segment, and its `append_ts`.
    #[must_use]
    pub fn segment_head(&self, segment: Index) -> Option<(Offset, u64)> {
        let notes = &self.segments[self.find(segment).ok()?].notes;
        notes.first().map(|note| (note.base_offset, note.append_ts))
    }

    /// Segments, oldest first.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Index> + '_ {
        self.segments.iter().map(|segment| segment.first)
    }

    /// Forgets everything from `place` on: the log now ends there.
    pub fn truncate(&mut self, place: Place) {
        self.segments.retain(|segment| segment.first <= place.segment);
        if let Some(segment) = self.segments.last_mut()
            && segment.first == place.segment
        {
            segment.end = segment.end.min(place.position);
            segment.notes.retain(|note| note.position < place.position);
            if segment.notes.is_empty() {
                self.segments.pop();
            }
        }
    }

    /// Forgets the oldest segment, whose file is removed.
    ///
    /// # Panics
    /// If it is not the oldest.
    pub fn remove_oldest(&mut self, segment: Index) {
        assert_eq!(
            self.segments.first().map(|s| s.first),
            Some(segment),
            "the log is cut in front"
        );
        self.segments.remove(0);
    }

    fn find(&self, segment: Index) -> Result<usize, usize> {
        self.segments.binary_search_by_key(&segment, |other| other.first)
    }

    /// The last note for which `holds`, where it holds for all before the first that it fails for.
    fn last_noted(&self, holds: impl Fn(&Note) -> bool) -> Option<Spot> {
        let behind = self.segments.partition_point(|s| s.notes.first().is_some_and(&holds));
        let segment = self.segments[..behind].last()?;
        let count = segment.notes.partition_point(&holds);
        segment.notes[..count].last().map(|note| segment.spot(note))
    }
}

impl Segment {
    fn spot(&self, note: &Note) -> Spot {
        Spot { place: Place::new(self.first, note.position), index: note.index }
    }

    fn noted(&self, note: &Note) -> (Spot, Offset) {
        (self.spot(note), note.base_offset)
    }

    fn start(&self) -> Option<Spot> {
        self.notes.first().map(|note| self.spot(note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Term;
    use crate::engine::log::entry::EntryKind;

    const LEN: u64 = 200;

    /// Two segments of 50 entries; every second entry has 3 records, time moves every tenth.
    fn index(interval: u64) -> (SparseIndex, Vec<(Place, EntryHeader)>) {
        let mut index = SparseIndex::new(interval);
        let mut all = Vec::new();
        let mut offset = Offset(0);
        for i in 1..=100_u64 {
            let segment = if i <= 50 { 1 } else { 51 };
            let header = EntryHeader {
                kind: EntryKind::Normal,
                term: Term(1),
                index: Index(i),
                chain: 0,
                base_offset: offset,
                count: if i % 2 == 0 { 3 } else { 0 },
                append_ts: 1_000 + i / 10,
            };
            let place = Place::new(Index(segment), (i - segment) * LEN);
            offset = header.end_offset();
            index.note(place, &header, LEN);
            all.push((place, header));
        }
        (index, all)
    }

    #[test]
    fn every_offset_index_and_time_is_found_from_its_spot() {
        for interval in [1, 500, 1_000_000] {
            let (index, all) = index(interval);
            let at = |spot: Spot| all.iter().position(|(place, _)| *place == spot.place).unwrap();
            for offset in 0..150 {
                let from = at(index.locate(Offset(offset)).unwrap());
                let holder = all.iter().position(|(_, h)| h.end_offset().0 > offset).unwrap();
                assert!(from <= holder, "offset {offset} is at {holder}, not before {from}");
                assert!((holder - from) as u64 * LEN <= interval + 2 * LEN);
            }
            for i in 1..=100 {
                let spot = index.locate_index(Index(i)).unwrap();
                assert!(spot.index <= Index(i) && all[at(spot)].1.index == spot.index);
            }
            for ts in 990..1_012 {
                let from = at(index.locate_time(ts).unwrap());
                let first = all.iter().position(|(_, h)| h.append_ts >= ts).unwrap_or(all.len());
                assert!(from <= first, "time {ts}");
            }
        }
    }

    #[test]
    fn pieces_are_whole_entries_and_leave_nothing_out() {
        for interval in [1, 500, 1_000] {
            let (index, all) = index(interval);
            for bytes in [1_000, 1_300, 100_000] {
                let (mut spot, mut ends) = (index.log_start().unwrap(), Vec::new());
                let offset = loop {
                    let Piece { end, next } = index.piece(spot, bytes);
                    assert!(end > spot.place.position && end - spot.place.position <= bytes);
                    ends.push((spot.place.segment, end));
                    let Some((next, offset)) = next else { break Offset(150) };
                    let (_, header) = all.iter().find(|(place, _)| *place == next.place).unwrap();
                    assert_eq!((header.index, header.base_offset), (next.index, offset));
                    spot = next;
                };
                assert_eq!(offset, Offset(150), "the log's end");
                assert_eq!(*ends.last().unwrap(), (Index(51), 50 * LEN));
                assert!(ends.contains(&(Index(1), 50 * LEN)), "a segment's end ends a piece");
            }
        }
    }

    #[test]
    fn a_piece_is_cut_off_only_where_notes_are_rare() {
        let spot = |index: &SparseIndex| index.log_start().unwrap();
        let (rare, _) = index(5_000);
        assert_eq!(rare.piece(spot(&rare), 1_000), Piece { end: 1_000, next: None });
        let (dense, all) = index(1);
        // Each entry is longer than what should be read: one is read, as a whole.
        let second = Spot { place: all[1].0, index: Index(2) };
        let piece = Piece { end: LEN, next: Some((second, Offset(0))) };
        assert_eq!(dense.piece(spot(&dense), LEN / 2), piece);
        // The last of a segment, too.
        let last = Spot { place: all[49].0, index: Index(50) };
        let behind = Spot { place: all[50].0, index: Index(51) };
        let piece = Piece { end: 50 * LEN, next: Some((behind, all[50].1.base_offset)) };
        assert_eq!(dense.piece(last, LEN / 2), piece);
    }

    #[test]
    fn ends_and_neighbours_of_segments() {
        let (mut index, _) = index(1_000);
        assert_eq!(index.log_start().unwrap().place, Place::new(Index(1), 0));
        assert_eq!(index.segment_end(Index(1)), Some(50 * LEN));
        assert_eq!(index.next_segment(Index(1)).unwrap().place, Place::new(Index(51), 0));
        assert_eq!(index.next_segment(Index(51)), None);
        assert_eq!(index.log_end(), Some(Place::new(Index(51), 50 * LEN)));
        index.remove_oldest(Index(1));
        assert_eq!(index.locate(Offset(3)), None, "the log begins behind it");
        assert_eq!(index.segments().collect::<Vec<_>>(), [Index(51)]);
    }

    #[test]
    fn a_cut_forgets_what_is_behind() {
        let (mut index, _) = index(1);
        index.truncate(Place::new(Index(51), 10 * LEN));
        assert_eq!(index.log_end(), Some(Place::new(Index(51), 10 * LEN)));
        assert_eq!(index.locate_index(Index(100)).unwrap().index, Index(60));
        index.truncate(Place::new(Index(51), 0));
        assert_eq!(index.log_end(), Some(Place::new(Index(1), 50 * LEN)));
        index.truncate(Place::new(Index(1), LEN));
        assert_eq!(index.locate_index(Index(100)).unwrap().index, Index(1));
        index.truncate(Place::new(Index(1), 0));
        assert_eq!((index.log_end(), index.locate(Offset(0))), (None, None));
    }
}
