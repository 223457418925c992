//! Reads entries out of chunks of a segment file.
//!
//! An entry counts only if everything about it is right: its head's CRC, cluster, partition and
//! segment, its index, chain, term and offset behind the entry before, its body's CRC and table.
//! So neither a gap nor a stale remainder is ever taken for an entry: where the next one is not
//! found right behind the last, it is looked for at the next block, where the tail goes on after a
//! gap, and nowhere else.

use bytes::Bytes;

use super::body::{Body, BodyError, Content};
use super::entry::{EntryHeader, EntryKind, SequenceBreak};
use super::envelope::{Envelope, HEAD_BYTES, HeadError, Ids, decode_head};
use super::segment::Place;
use crate::base::ids::Index;
use crate::base::size::{BLOCK, block_ceil, block_floor};

/// Why the bytes at a place are not the entry that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryFault {
    /// No valid head.
    Head(HeadError),
    /// A valid head of another cluster, partition or segment.
    Foreign,
    /// A valid head that does not follow the entry before.
    Sequence(SequenceBreak),
    /// The body reaches beyond the end of the segment.
    Length,
    /// The body's CRC is wrong.
    BodyCrc,
    /// The body has the right CRC, yet is none.
    Body(BodyError),
    /// Head and body contradict one another: kind or count.
    Mismatch,
    /// The file ends where an entry should begin.
    FileEnd,
    /// The file that should begin with the entry is not there.
    NoFile,
}

impl EntryFault {
    /// Whether the expected entry's head is in its place, and the damage is behind it.
    #[must_use]
    pub fn is_of_the_entry_itself(&self) -> bool {
        matches!(self, Self::Length | Self::BodyCrc | Self::Body(_) | Self::Mismatch)
    }
}

impl std::fmt::Display for EntryFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head(HeadError::Blank) => f.write_str("nothing but zeros"),
            Self::Head(HeadError::Magic) => f.write_str("no entry begins there"),
            Self::Head(HeadError::Crc) => f.write_str("header checksum"),
            Self::Head(HeadError::Version(v)) => write!(f, "written in the newer format {v}"),
            Self::Head(HeadError::Field) => f.write_str("impossible header"),
            Self::Foreign => f.write_str("an entry of another log or segment"),
            Self::Sequence(why) => write!(f, "does not follow the entry before: {why:?}"),
            Self::Length => f.write_str("reaches beyond its file"),
            Self::BodyCrc => f.write_str("body checksum"),
            Self::Body(error) => write!(f, "{error}"),
            Self::Mismatch => f.write_str("header and body contradict one another"),
            Self::FileEnd => f.write_str("the file ends before it"),
            Self::NoFile => f.write_str("the file is missing"),
        }
    }
}

/// What [`Reader::next`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An entry; the reader now stands behind it.
    Entry {
        /// Where it begins.
        place: Place,
        /// Its header.
        header: EntryHeader,
        /// Its body: a slice of the chunk, see [`Body::detached`].
        body: Body,
    },
    /// The chunk ends too early: go on with one that holds at least this range.
    Need {
        /// First byte, a multiple of 4 KiB.
        position: u64,
        /// Bytes, a multiple of 4 KiB (the file may end before).
        len: u64,
    },
    /// The end given, or too few bytes before it for another entry.
    End,
    /// What is there is not the next entry. The reader stays where it is.
    Bad {
        /// Where the next entry should be.
        position: u64,
        /// What is wrong.
        fault: EntryFault,
    },
}

/// A position in the log from which entries are read in order.
#[derive(Clone, Debug)]
pub struct Reader {
    ids: Ids,
    place: Place,
    /// Index of the next entry.
    index: Index,
    /// The entry before, with its body's CRC, once one was read.
    before: Option<(EntryHeader, u32)>,
}

impl Reader {
    /// A reader of the log `ids`, whose next entry has this index and lies at `place`.
    #[must_use]
    pub fn new(ids: Ids, place: Place, index: Index) -> Self {
        Self { ids, place, index, before: None }
    }

    /// Behind the last entry read.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Index of the next entry.
    #[must_use]
    pub fn next_index(&self) -> Index {
        self.index
    }

    /// The last entry read, with its body's CRC.
    #[must_use]
    pub fn before(&self) -> Option<(EntryHeader, u32)> {
        self.before
    }

    /// Goes on at the beginning of the segment behind, whose first entry must follow the last.
    pub fn enter_segment(&mut self, segment: Index) {
        assert!(segment > self.place.segment, "segments are read upwards");
        self.place = Place::new(segment, 0);
    }

    /// The range to read next, of `max` bytes at most, where the segment's entries end at `end`.
    /// `None` when there is nothing left.
    #[must_use]
    pub fn range(&self, end: u64, max: u64) -> Option<(u64, u64)> {
        assert!(max >= 2 * BLOCK && max.is_multiple_of(BLOCK), "a gap and a head fit in a read");
        let from = block_floor(self.place.position);
        let len = block_ceil(end).saturating_sub(from).min(max);
        (self.place.position < end).then_some((from, len))
    }

    /// The next entry, out of `chunk`, which holds the bytes of the reader's segment from
    /// `chunk_at` on. `end`: entries of the segment end there at the latest.
    pub fn next(&mut self, chunk_at: u64, chunk: &Bytes, end: u64) -> Parsed {
        assert!(chunk_at <= self.place.position, "the chunk begins before the next entry");
        let chunk = Chunk { at: chunk_at, bytes: chunk, end };
        let here = self.place.position;
        let fresh = block_ceil(here);
        let fault = match self.candidate(&chunk, here) {
            Found::Entry(place, header, body) => return self.advance(place, header, body),
            Found::Short(until) => return need(here, until),
            Found::Bad(fault) => fault,
        };
        let other = if fresh == here { None } else { Some(self.candidate(&chunk, fresh)) };
        match other {
            Some(Found::Entry(place, header, body)) => self.advance(place, header, body),
            Some(Found::Short(until)) => need(here, until),
            Some(Found::Bad(EntryFault::FileEnd)) | None if fault == EntryFault::FileEnd => {
                Parsed::End
            }
            // A blank gap: what counts is what lies behind it.
            Some(Found::Bad(behind)) if fault == EntryFault::Head(HeadError::Blank) => {
                Parsed::Bad { position: fresh, fault: behind }
            }
            Some(Found::Bad(behind)) if behind.is_of_the_entry_itself() => {
                Parsed::Bad { position: fresh, fault: behind }
            }
            Some(Found::Bad(_)) | None => Parsed::Bad { position: here, fault },
        }
    }

    fn candidate(&self, chunk: &Chunk<'_>, position: u64) -> Found {
        if position + HEAD_BYTES as u64 > chunk.end {
            return Found::Bad(EntryFault::FileEnd);
        }
        let Some(head) = chunk.get(position, HEAD_BYTES as u64) else {
            return Found::Short(position + HEAD_BYTES as u64);
        };
        let (envelope, header) = match self.judge(&head) {
            Ok(head) => head,
            Err(fault) => return Found::Bad(fault),
        };
        if position + envelope.entry_len() > chunk.end {
            return Found::Bad(EntryFault::Length);
        }
        let body_at = position + HEAD_BYTES as u64;
        let Some(bytes) = chunk.get(body_at, u64::from(envelope.body_len)) else {
            return Found::Short(position + envelope.entry_len());
        };
        if crc32fast::hash(&bytes) != envelope.body_crc {
            return Found::Bad(EntryFault::BodyCrc);
        }
        let body = match Body::verify_with_crc(bytes, envelope.body_crc) {
            Ok(body) => body,
            Err(error) => return Found::Bad(EntryFault::Body(error)),
        };
        let empty = matches!(body.content(), Content::NoOp);
        if header.count != body.records() || !(empty || header.kind == EntryKind::Normal) {
            return Found::Bad(EntryFault::Mismatch);
        }
        Found::Entry(position, header, body)
    }

    /// Whether `head` is that of the next entry.
    fn judge(&self, head: &[u8]) -> Result<(Envelope, EntryHeader), EntryFault> {
        let (envelope, header) = decode_head(head).map_err(EntryFault::Head)?;
        let ours = envelope.cluster == self.ids.cluster
            && envelope.partition == self.ids.partition
            && envelope.segment == self.place.segment;
        if !ours {
            return Err(EntryFault::Foreign);
        }
        if header.index != self.index {
            return Err(EntryFault::Sequence(SequenceBreak::Index));
        }
        let broken = self.before.and_then(|(before, crc)| before.break_before(crc, &header));
        broken.map_or(Ok((envelope, header)), |why| Err(EntryFault::Sequence(why)))
    }

    fn advance(&mut self, position: u64, header: EntryHeader, body: Body) -> Parsed {
        let place = Place::new(self.place.segment, position);
        self.place.position = position + body.entry_len();
        self.index = header.index.next();
        self.before = Some((header, body.crc()));
        Parsed::Entry { place, header, body }
    }
}

enum Found {
    Entry(u64, EntryHeader, Body),
    /// The chunk would have to reach this byte.
    Short(u64),
    Bad(EntryFault),
}

struct Chunk<'a> {
    at: u64,
    bytes: &'a Bytes,
    end: u64,
}

impl Chunk<'_> {
    fn get(&self, position: u64, len: u64) -> Option<Bytes> {
        let from = (position - self.at) as usize;
        let to = from + len as usize;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

fn need(from: u64, until: u64) -> Parsed {
    let position = block_floor(from);
    Parsed::Need { position, len: block_ceil(until) - position }
}
