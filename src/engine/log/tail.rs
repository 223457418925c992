//! The tail of a log: decides where the next bytes go.
//!
//! ```text
//!         synced          in flight              in flight        queue
//! ... | e e e e . | e e e e e e . . | e e e e e e e e e . | <- e e e e
//!       `-- a block is rewritten (same bytes, new ones behind) only when nothing is in flight;
//!           else the next write starts on a fresh block, and zeros stay in the gap
//! ```
//! What must hold:
//! - no two writes in flight share a block, so a torn write never damages synced bytes;
//! - at most `WRITES_IN_FLIGHT` are out, of about [`WRITE_BYTES`] (one larger entry goes alone);
//! - a write lies inside the segment and inside its zero-filled extent;
//! - writes finish in any order, entries are acknowledged in log order;
//! - an entry's `synced_index` is durable when its write is submitted.

use std::collections::VecDeque;

use super::body::{Body, Content};
use super::entry::{EntryHeader, EntryKind};
use super::envelope::{ENTRY_ALIGN, Envelope, HEAD_BYTES, Ids, encode_head};
use super::fill::{Ahead, FillAhead};
use super::segment::Place;
use crate::base::ids::Index;
use crate::base::limits::{ENTRY_TARGET_BYTES, WRITES_IN_FLIGHT};
use crate::base::size::{BLOCK, block_ceil, block_floor};

/// A write takes no further entry beyond this many bytes.
pub const WRITE_BYTES: u64 = ENTRY_TARGET_BYTES as u64;

/// The active segment of one partition's log, from its last synced block on.
#[derive(Debug)]
pub struct Tail {
    ids: Ids,
    segment: Index,
    segment_bytes: u64,
    /// Behind the last planned entry.
    end: u64,
    /// The bytes before `end` of the block it lies in, once the write that holds them is filled.
    block: Vec<u8>,
    queue: VecDeque<Queued>,
    /// Bytes of the queue, each entry alone in its blocks: the most it can take.
    queued_blocks: u64,
    in_flight: VecDeque<Flight>,
    next_write: u64,
    fill: FillAhead,
    /// Last entry pushed since the tail was made, with its body's CRC.
    last: Option<(EntryHeader, u32)>,
    /// Last entry planned since then.
    planned: Option<(EntryHeader, u32)>,
    synced_index: Index,
    leftovers: Leftovers,
}

/// What a cut leaves in the tail block, behind the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leftovers {
    None,
    /// Entries that were dropped.
    Stale,
    /// This write removes them.
    Going(u64),
}

#[derive(Debug)]
struct Queued {
    header: EntryHeader,
    body: Body,
    len: u64,
}

#[derive(Debug)]
struct Flight {
    write: u64,
    position: u64,
    len: u64,
    /// Its last entry; `None` for a rewrite of the tail block alone.
    last: Option<Index>,
    synced_index: Index,
    /// Synced bytes that the first block begins with.
    prefix: Vec<u8>,
    /// What to write, with positions; taken when the buffer is filled.
    entries: Vec<(u64, EntryHeader, Body)>,
    filled: bool,
    done: bool,
}

/// A write to be submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its number, for [`Tail::fill_write`] and [`Tail::done`].
    pub write: u64,
    /// Segment to write to.
    pub segment: Index,
    /// First byte, a multiple of 4 KiB.
    pub position: u64,
    /// Bytes, a multiple of 4 KiB.
    pub len: u64,
    /// First and last entry in it; `None` for a rewrite of the tail block alone, after a cut.
    pub entries: Option<(Index, Index)>,
    /// Where each entry begins, in order.
    pub places: Vec<Place>,
}

impl Tail {
    /// A tail that goes on at `end`. `tail_block` holds the bytes before `end` of its block,
    /// `filled_end` is the first byte of the segment that is not zero-filled.
    ///
    /// # Panics
    /// If the parts do not fit together.
    #[must_use]
    pub fn new(
        ids: Ids,
        segment_bytes: u64,
        end: Place,
        tail_block: &[u8],
        filled_end: u64,
    ) -> Self {
        let mut tail = Self {
            ids,
            segment: end.segment,
            segment_bytes,
            end: 0,
            block: Vec::new(),
            queue: VecDeque::new(),
            queued_blocks: 0,
            in_flight: VecDeque::new(),
            next_write: 1,
            fill: FillAhead::new(segment_bytes, filled_end),
            last: None,
            planned: None,
            synced_index: Index(0),
            leftovers: Leftovers::None,
        };
        tail.set_end(end.position, tail_block);
        tail
    }

    /// Where the next entry will lie, at least.
    #[must_use]
    pub fn end(&self) -> Place {
        Place::new(self.segment, self.end)
    }

    /// Behind everything that is on the disk for good: no write in flight or to come changes a byte
    /// before it.
    #[must_use]
    pub fn done_end(&self) -> Place {
        // Known bad: what is in flight is taken for done.
        let first = self.in_flight.front().filter(|_| !cfg!(bug_cut_in_flight));
        let end = first.map_or(self.end, |flight| flight.position + flight.prefix.len() as u64);
        Place::new(self.segment, end)
    }

    /// Whether nothing is queued or in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Writes in flight.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Entries queued and not planned.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Last entry pushed since the tail was made or cut.
    #[must_use]
    pub fn last_index(&self) -> Option<Index> {
        self.last.as_ref().map(|(last, _)| last.index)
    }

    /// Bytes of entries queued, rounded up to blocks each.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_blocks
    }

    /// Bytes that the segment still takes for sure, heads included.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.segment_bytes.saturating_sub(block_ceil(self.end) + self.queued_blocks)
    }

    /// Whether an entry of `len` bytes (`Body::entry_len`) still fits into the segment.
    #[must_use]
    pub fn fits(&self, len: u64) -> bool {
        len <= self.remaining()
    }

    /// Queues an entry.
    ///
    /// # Panics
    /// If it is not the one behind the last, does not match its body, or does not fit.
    pub fn push(&mut self, header: EntryHeader, body: Body) {
        if let Some((last, crc)) = &self.last {
            let broken = last.break_before(*crc, &header);
            assert_eq!(broken, None, "{header:?} must follow {last:?}");
        }
        assert!(header.index > Index(0) && header.index >= self.segment, "indexes count from 1");
        assert_eq!(header.count, body.records(), "the header counts the body's records");
        let empty = matches!(body.content(), Content::NoOp);
        assert!(empty || header.kind == EntryKind::Normal, "only normal entries carry a body");
        let len = body.entry_len();
        assert!(self.fits(len), "the proposer rolls over before the segment is full");
        self.last = Some((header, body.crc()));
        self.queued_blocks += block_ceil(len);
        self.queue.push_back(Queued { header, body, len });
    }

    /// Begins a new segment, whose file exists. The one before is sealed: all of its entries are
    /// durable (in periodic mode: synced), which is what lets recovery tell rot from a tear.
    ///
    /// # Panics
    /// If something is queued or in flight, or an entry before `first_index` is not synced.
    pub fn start_segment(&mut self, first_index: Index, synced_index: Index) {
        assert!(self.is_idle(), "a segment is sealed when all of it is written");
        assert!(first_index > self.segment, "segments are named upwards");
        assert_eq!(synced_index.next(), first_index, "a sealed segment is durable to its end");
        if let Some((last, _)) = &self.last {
            assert_eq!(last.index.next(), first_index, "a segment is named by its first entry");
        }
        self.raise_synced(synced_index);
        self.segment = first_index;
        self.fill.start_segment();
        self.set_end(0, &[]);
    }

    /// The next write, if one may go out now. `synced_index`: all entries up to it are durable.
    ///
    /// # Panics
    /// If `synced_index` falls, or is not below the first entry of the write.
    pub fn plan(&mut self, synced_index: Index) -> Option<Planned> {
        self.raise_synced(synced_index);
        if self.in_flight.len() >= WRITES_IN_FLIGHT || self.fill.is_stale() {
            return None;
        }
        match self.leftovers {
            Leftovers::None => {}
            Leftovers::Stale => return Some(self.plan_rewrite()),
            Leftovers::Going(_) => return None,
        }
        let alone = self.in_flight.is_empty();
        let position = if alone { block_floor(self.end) } else { block_ceil(self.end) };
        let start = if alone { self.end } else { position };
        let first_index = self.queue.front()?.header.index;
        let count = self.entries_of_write(position, start);
        if count == 0 {
            return None;
        }
        assert!(synced_index < first_index, "what is not written is not synced");
        let prefix = if alone { std::mem::take(&mut self.block) } else { Vec::new() };
        let mut end = start;
        let mut entries = Vec::with_capacity(count);
        for Queued { header, body, len } in self.queue.drain(..count) {
            self.queued_blocks -= block_ceil(len);
            self.planned = Some((header, body.crc()));
            entries.push((end, header, body));
            end += len;
        }
        self.end = end;
        self.block.clear();
        Some(self.submit(position, start, prefix, entries))
    }

    /// A write of the tail block as it should be: synced bytes, and zeros behind.
    fn plan_rewrite(&mut self) -> Planned {
        assert!(self.in_flight.is_empty(), "a log is cut when nothing is in flight");
        self.leftovers = Leftovers::Going(self.next_write);
        self.submit(block_floor(self.end), self.end, self.block.clone(), Vec::new())
    }

    fn submit(
        &mut self,
        position: u64,
        start: u64,
        prefix: Vec<u8>,
        entries: Vec<(u64, EntryHeader, Body)>,
    ) -> Planned {
        assert_eq!(prefix.len() as u64, start - position, "the rewritten block is known");
        let apart = self.in_flight.iter().all(|flight| flight.position + flight.len <= position);
        assert!(apart, "no two writes in flight share a block");
        let len = block_ceil(self.end) - position;
        assert!(len > 0 && position + len <= self.fill.writable_end(), "on zeros only");
        let places = entries.iter().map(|(at, ..)| Place::new(self.segment, *at)).collect();
        let index = |entry: &(u64, EntryHeader, Body)| entry.1.index;
        let (first, last) = (entries.first().map(index), entries.last().map(index));
        let write = self.next_write;
        self.next_write += 1;
        let synced_index = self.synced_index;
        let (filled, done) = (false, false);
        let flight =
            Flight { write, position, len, last, synced_index, prefix, entries, filled, done };
        self.in_flight.push_back(flight);
        Planned { write, segment: self.segment, position, len, entries: first.zip(last), places }
    }

    /// Puts the bytes of a planned write into the driver's buffer, whatever that holds: what lies
    /// between entries and behind them is zero. Once per write.
    ///
    /// # Panics
    /// If the write is not in flight or was filled before, or the buffer has another length.
    pub fn fill_write(&mut self, write: u64, buffer: &mut [u8]) {
        let flight = self.in_flight.iter_mut().find(|flight| flight.write == write);
        let flight = flight.expect("the write is in flight");
        assert_eq!(buffer.len() as u64, flight.len, "the buffer is as long as planned");
        assert!(!flight.filled, "a write is filled once");
        flight.filled = true;
        buffer[..flight.prefix.len()].copy_from_slice(&flight.prefix);
        let mut end = flight.prefix.len();
        for (at, header, body) in flight.entries.drain(..) {
            assert!(at.is_multiple_of(ENTRY_ALIGN), "entries are aligned");
            let envelope = Envelope {
                cluster: self.ids.cluster,
                partition: self.ids.partition,
                segment: self.segment,
                synced_index: flight.synced_index,
                body_len: body.bytes().len() as u32,
                body_crc: body.crc(),
            };
            let start = (at - flight.position) as usize;
            buffer[end..start].fill(0);
            end = start + HEAD_BYTES + body.bytes().len();
            let (head, rest) = buffer[start..end].split_at_mut(HEAD_BYTES);
            head.copy_from_slice(&encode_head(&envelope, &header));
            rest.copy_from_slice(body.bytes());
        }
        buffer[end..].fill(0);
        if write + 1 == self.next_write {
            let from = (block_floor(self.end) - flight.position) as usize;
            let to = (self.end - flight.position) as usize;
            self.block.clear();
            self.block.extend_from_slice(&buffer[from..to]);
        }
    }

    /// A write is on the disk. Returns the index up to which all entries now are, if it rose.
    ///
    /// # Panics
    /// If the write is not in flight, is done already, or was never filled.
    pub fn done(&mut self, write: u64) -> Option<Index> {
        let flight = self.in_flight.iter_mut().find(|flight| flight.write == write);
        let flight = flight.expect("the write is in flight");
        assert!(!flight.done && flight.filled, "filled, and done once");
        flight.done = true;
        if self.leftovers == Leftovers::Going(write) {
            self.leftovers = Leftovers::None;
        }
        let mut risen = None;
        while self.in_flight.front().is_some_and(|flight| flight.done) {
            risen = self.in_flight.pop_front().and_then(|flight| flight.last);
        }
        risen
    }

    /// Forgets the queued entries from `index` on. Returns the index that the next entry must
    /// have: if it is above `index`, entries from there are written or in flight, and the log has
    /// to be cut on disk once nothing is in flight ([`Tail::cut`]).
    pub fn drop_from(&mut self, index: Index) -> Index {
        while let Some(queued) = self.queue.pop_back_if(|queued| queued.header.index >= index) {
            self.queued_blocks -= block_ceil(queued.len);
        }
        let queued = self.queue.back().map(|queued| (queued.header, queued.body.crc()));
        self.last = queued.or(self.planned);
        self.last.as_ref().map_or(index, |(last, _)| last.index.next())
    }

    /// Cuts the log in the active segment: written entries from `end` on are dropped. `tail_block`
    /// as in [`Tail::new`].
    ///
    /// It takes a while: the ranges of [`Tail::wants_fill`] and one write of [`Tail::plan`] remove
    /// the old bytes, then [`Tail::is_cut`]; no entry is written before. If the process ends in
    /// between, some of the dropped entries are still there and others are not, which looks like
    /// rot: whoever cuts makes the index durable first, elsewhere, and gives it to
    /// `Scan::cut_from` until the cut is done; no entry is pushed before that is withdrawn.
    ///
    /// # Panics
    /// If something is queued, in flight or being filled, or `end` lies behind the tail.
    pub fn cut(&mut self, end: Place, tail_block: &[u8]) {
        assert!(self.is_idle(), "a log is cut when nothing is in flight");
        assert!(end.segment == self.segment && end.position <= self.end, "cut back, not ahead");
        self.set_end(end.position, tail_block);
        self.fill.distrust(block_ceil(self.end));
        self.last = None;
        self.planned = None;
        // Durability is judged anew by whoever cuts: what was synced may be gone.
        self.synced_index = Index(0);
        self.clear_tail_block();
    }

    /// Has the tail block rewritten before anything else: what lies in it behind the end was
    /// dropped on purpose (a cut that recovery carried on), or was left by a torn write.
    pub fn clear_tail_block(&mut self) {
        assert!(self.is_idle(), "a log is cut when nothing is in flight");
        let whole = self.end.is_multiple_of(BLOCK);
        self.leftovers = if whole { Leftovers::None } else { Leftovers::Stale };
    }

    /// Whether nothing is left of what a cut has dropped.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.leftovers == Leftovers::None && !self.fill.is_stale()
    }

    /// The next range of the active segment to fill with zeros; each is asked for once.
    pub fn wants_fill(&mut self, ahead: Ahead) -> Option<(u64, u64)> {
        let need = self.need();
        self.fill.ask(need, ahead)
    }

    /// Whether a fill is out.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.fill.is_out()
    }

    /// A range is filled up to `end`, which is less than asked for on a full disk. One of a segment
    /// that has been sealed since changes nothing.
    ///
    /// # Panics
    /// If it is not in the range that was asked for.
    pub fn filled(&mut self, segment: Index, end: u64) {
        if segment == self.segment {
            let need = self.need();
            self.fill.filled(end, need);
        } else {
            assert!(segment < self.segment, "only segments that were begun are filled");
        }
    }

    /// First byte that is not spoken for: what is to be written lies before it.
    fn need(&self) -> u64 {
        let queued: u64 = self.queue.iter().map(|queued| queued.len).sum();
        block_ceil(block_ceil(self.end) + queued).min(self.segment_bytes)
    }

    fn set_end(&mut self, end: u64, tail_block: &[u8]) {
        assert!(end.is_multiple_of(ENTRY_ALIGN), "entries are aligned");
        assert_eq!(tail_block.len() as u64, end % BLOCK, "the tail block holds what is before end");
        self.end = end;
        self.block.clear();
        self.block.extend_from_slice(tail_block);
    }

    fn raise_synced(&mut self, synced_index: Index) {
        assert!(synced_index >= self.synced_index, "what is synced stays synced");
        self.synced_index = synced_index;
    }

    /// How many queued entries a write takes that begins at `position`, its first entry at `start`.
    fn entries_of_write(&self, position: u64, start: u64) -> usize {
        let mut end = start;
        let mut count = 0;
        for queued in &self.queue {
            end += queued.len;
            let full = count > 0 && end - position > WRITE_BYTES;
            if full || block_ceil(end) > self.fill.writable_end() {
                break;
            }
            count += 1;
        }
        count
    }
}

#[cfg(test)]
#[path = "tail_test.rs"]
mod tests;
