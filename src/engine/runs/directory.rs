//! The directory of a run: what is kept of it in memory, 32 bytes a block and 40 a topic.
//!
//! ```text
//! head [96], its fields: 32 first_offset u64 | 40 end_offset u64 | 48 blocks u32 | 52 topics u32
//!                        56 tombstones u64 | 64 zero [20]
//! blocks [n x 24]        0 topic u32 | 4 len u16, in 4 KiB | 6 count u16 | 8 due u64
//!                        16 offset u64
//! topics [n x 40]        0 topic u32 | 4 first_block u32 | 8 last_block u32 | 12 records u32
//!                        16 first_due u64 | 24 last_due u64 | 32 last_offset u64
//! ```
//! A block's row has its first key. Blocks follow one another without a gap from 4096 on, so their
//! positions are sums. What must hold: blocks sorted by first key, topics by number; the blocks of
//! a topic are exactly those that have a record of it; both count the same records.

use std::ops::Range;

use bytes::Bytes;

use super::block::{Block, Sealed};
use super::file::{Extent, Footer, HEADER};
use super::part::{
    FIELD_BYTES, HEAD_BYTES, Part, PartHead, RunFault, RunHead, is_zero, open, seal,
};
use super::record::RunKey;
use crate::base::ids::{Offset, Position, TopicNo};
use crate::base::limits::{RUN_BLOCK_BYTES_MAX, RUN_READ_BYTES};
use crate::base::little_endian::{u16_at, u32_at, u64_at};
use crate::base::size::BLOCK;

const BLOCK_ROW_BYTES: usize = 24;
const TOPIC_ROW_BYTES: usize = 40;

const _: () = assert!(size_of::<BlockRow>() == 32 && size_of::<TopicSlice>() == 40);
const _: () = assert!(RUN_BLOCK_BYTES_MAX as u64 / BLOCK <= u16::MAX as u64);

/// A block, as the directory knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockRow {
    first: RunKey,
    /// In 4 KiB from the file's start.
    at: u32,
    /// In 4 KiB.
    len: u16,
    count: u16,
}

/// What a run has of one topic, tombstones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSlice {
    /// Its first record's due, Unix ms.
    pub first_due: u64,
    /// Its last record's place.
    pub last: Position,
    /// The topic.
    pub topic: TopicNo,
    /// Its records.
    pub records: u32,
    first_block: u32,
    last_block: u32,
}

impl TopicSlice {
    /// The blocks that have a record of it; at least one.
    #[must_use]
    pub fn blocks(&self) -> Range<usize> {
        self.first_block as usize..self.last_block as usize + 1
    }
}

/// The directory of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    head: RunHead,
    blocks: Vec<BlockRow>,
    topics: Vec<TopicSlice>,
    records: u64,
    tombstones: u64,
    /// First and last due, Unix ms; `None` where there is no record.
    dues: Option<(u64, u64)>,
}

impl Directory {
    /// Reads the directory that `footer` speaks of, from the bytes of its extent.
    pub fn decode(bytes: &[u8], footer: &Footer) -> Result<Self, RunFault> {
        if bytes.len() as u64 != footer.directory.len {
            return Err(RunFault::Length);
        }
        let opened = open(bytes, &footer.ids, Part::Directory, 0)?;
        if opened.kind != footer.kind {
            return Err(RunFault::Foreign);
        }
        let head = RunHead::from_fields(footer.ids, footer.kind, &opened.fields)?;
        let (blocks, topics) = (u32_at(&opened.fields, 16), u32_at(&opened.fields, 20));
        let block_bytes = u64::from(blocks) * BLOCK_ROW_BYTES as u64;
        let row_bytes = block_bytes + u64::from(topics) * TOPIC_ROW_BYTES as u64;
        if row_bytes != opened.body.len() as u64 || !is_zero(&opened.fields[32..]) {
            return Err(RunFault::Field);
        }
        let (block_rows, topic_rows) = bytes[opened.body].split_at(block_bytes as usize);
        let blocks = decode_blocks(block_rows, footer.directory.position)?;
        let topics = topic_rows.as_chunks().0.iter().map(decode_topic).collect();
        let directory = Self::new(head, blocks, topics, u64_at(&opened.fields, 24));
        directory.check_topics()?;
        Ok(directory)
    }

    /// Which run it is, of what kind, and its offsets.
    #[must_use]
    pub fn head(&self) -> &RunHead {
        &self.head
    }

    /// Whether a record at this offset may lie in the run.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.head.contains(offset)
    }

    /// First and last due, Unix ms; `None` where there is no record.
    #[must_use]
    pub fn dues(&self) -> Option<(u64, u64)> {
        self.dues
    }

    /// Whether a record may be due in `first_due..=last_due`, Unix ms.
    #[must_use]
    pub fn overlaps(&self, first_due: u64, last_due: u64) -> bool {
        self.dues.is_some_and(|(first, last)| first <= last_due && first_due <= last)
    }

    /// Records, tombstones included.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Records that are tombstones.
    #[must_use]
    pub fn tombstones(&self) -> u64 {
        self.tombstones
    }

    /// Topics with a record, by number.
    #[must_use]
    pub fn topics(&self) -> &[TopicSlice] {
        &self.topics
    }

    /// What the run has of this topic.
    #[must_use]
    pub fn topic(&self, topic: TopicNo) -> Option<&TopicSlice> {
        let found = self.topics.binary_search_by_key(&topic, |slice| slice.topic);
        found.ok().map(|i| &self.topics[i])
    }

    /// Blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes of its blocks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let end = self.blocks.last().map_or(0, |row| u64::from(row.at) + u64::from(row.len));
        end * BLOCK
    }

    /// Where a block lies.
    ///
    /// # Panics
    /// If there are not that many blocks.
    #[must_use]
    pub fn extent(&self, block: usize) -> Extent {
        let row = &self.blocks[block];
        Extent { position: u64::from(row.at) * BLOCK, len: u64::from(row.len) * BLOCK }
    }

    /// The first block that may hold an event of the topic strictly behind `after`; `None` if the
    /// run has no such event. Where that block turns out to have none, the next one begins with it
    /// ([`Directory::block_behind`]).
    #[must_use]
    pub fn block_for(&self, topic: TopicNo, after: Position) -> Option<usize> {
        let slice = self.topic(topic).filter(|slice| after < slice.last)?;
        let from = RunKey::new(topic, after);
        Some(self.last_block_at(slice, &from).unwrap_or(slice.first_block as usize))
    }

    /// The next block that has a record of the topic.
    #[must_use]
    pub fn block_behind(&self, topic: TopicNo, block: usize) -> Option<usize> {
        self.topic(topic).map(TopicSlice::blocks).filter(|blocks| blocks.contains(&(block + 1)))?;
        Some(block + 1)
    }

    /// No event of the topic in this block lies behind this; `None` if the run has none of it.
    #[must_use]
    pub fn block_end(&self, topic: TopicNo, block: usize) -> Option<Position> {
        let slice = self.topic(topic)?;
        let behind = self.block_behind(topic, block).map(|next| self.blocks[next].first.position);
        Some(behind.unwrap_or(slice.last))
    }

    /// Records of the topic behind `after`, and up to a block of others.
    #[must_use]
    pub fn records_behind(&self, topic: TopicNo, after: Position) -> u64 {
        let Some(first) = self.block_for(topic, after) else { return 0 };
        let slice = self.topic(topic).expect("it has a block");
        let rows = &self.blocks[first..slice.blocks().end];
        let records = rows.iter().map(|row| u64::from(row.count)).sum::<u64>();
        records.min(u64::from(slice.records))
    }

    /// Records of a block.
    ///
    /// # Panics
    /// If there are not that many blocks.
    #[must_use]
    pub fn block_records(&self, block: usize) -> u64 {
        u64::from(self.blocks[block].count)
    }

    /// Whether all of a block's records are of this topic, as far as the directory can tell.
    #[must_use]
    pub fn is_inner(&self, topic: TopicNo, block: usize) -> bool {
        let of = |row: Option<&BlockRow>| row.is_some_and(|row| row.first.topic == topic);
        of(self.blocks.get(block)) && of(self.blocks.get(block + 1))
    }

    /// This block, and those behind it that hold nothing but what of the topic may be due up to
    /// `until`, Unix ms: as many as are worth one read.
    #[must_use]
    pub fn blocks_due(&self, topic: TopicNo, block: usize, until: u64) -> Range<usize> {
        let mut end = block + 1;
        let mut bytes = self.extent(block).len;
        while self.is_inner(topic, end) && self.blocks[end].first.position.due <= until {
            bytes += self.extent(end).len;
            if bytes > RUN_READ_BYTES as u64 {
                break;
            }
            end += 1;
        }
        block..end
    }

    /// The one block that may hold the record with exactly this key.
    #[must_use]
    pub fn block_of(&self, key: &RunKey) -> Option<usize> {
        let slice = self.topic(key.topic)?;
        let within = (slice.first_due..=slice.last.due).contains(&key.position.due);
        let within = within && key.position <= slice.last;
        within.then(|| self.last_block_at(slice, key)).flatten()
    }

    /// When the topic's first event strictly behind `after` is due, at the earliest, Unix ms.
    /// `None` if the run has no such event. Exact where `after` is before the topic's first event;
    /// a tombstone counts as one.
    #[must_use]
    pub fn next_due(&self, topic: TopicNo, after: Position) -> Option<u64> {
        let slice = self.topic(topic).filter(|slice| after < slice.last)?;
        Some(after.due.max(slice.first_due))
    }

    /// Checks that `bytes` are this block, and all that is in it.
    ///
    /// # Panics
    /// If there are not that many blocks.
    pub fn decode_block(&self, block: usize, bytes: Bytes) -> Result<Block, RunFault> {
        let row = &self.blocks[block];
        if bytes.len() as u64 != self.extent(block).len {
            return Err(RunFault::Length);
        }
        let decoded = Block::decode(bytes, &self.head, block)?;
        let last = decoded.key(decoded.len() - 1);
        let sorted = self.blocks.get(block + 1).is_none_or(|next| last < next.first);
        let same = decoded.key(0) == row.first && decoded.len() == usize::from(row.count);
        if same && sorted { Ok(decoded) } else { Err(RunFault::Directory) }
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.blocks) + size_of_val(&*self.topics)
    }

    fn new(head: RunHead, blocks: Vec<BlockRow>, topics: Vec<TopicSlice>, tombstones: u64) -> Self {
        let records = blocks.iter().map(|row| u64::from(row.count)).sum();
        let first = topics.iter().map(|slice| slice.first_due).min();
        let last = topics.iter().map(|slice| slice.last.due).max();
        Self { head, blocks, topics, records, tombstones, dues: first.zip(last) }
    }

    /// The last block of the slice that does not begin behind `key`; `None` if they all do.
    fn last_block_at(&self, slice: &TopicSlice, key: &RunKey) -> Option<usize> {
        let rows = &self.blocks[slice.blocks()];
        let behind = rows.partition_point(|row| row.first <= *key);
        Some(slice.first_block as usize + behind.checked_sub(1)?)
    }

    /// Topics and blocks must tell the same story: each topic begins in the block where the one
    /// before ends, or in the next, and all blocks behind its first begin with it.
    fn check_topics(&self) -> Result<(), RunFault> {
        let mut before: Option<&TopicSlice> = None;
        let mut records = 0;
        for (i, slice) in self.topics.iter().enumerate() {
            let rows = self.blocks.get(slice.first_block as usize..=slice.last_block as usize);
            let Some([first, rest @ ..]) = rows else { return Err(RunFault::Row(i)) };
            let begins = first.first.topic == slice.topic;
            let due = begins.then_some(first.first.position.due);
            let expected = match before {
                None => begins && slice.first_block == 0,
                Some(before) if begins => before.last_block + 1 == slice.first_block,
                Some(before) => before.last_block == slice.first_block,
            };
            let last = RunKey::new(slice.topic, slice.last);
            let sound = expected
                && before.is_none_or(|before| before.topic < slice.topic)
                && rest.iter().all(|row| row.first.topic == slice.topic && row.first <= last)
                && due.is_none_or(|due| due == slice.first_due && first.first <= last)
                && slice.first_due <= slice.last.due
                && slice.last.offset < self.head.end_offset
                && slice.records as usize > rest.len();
            if !sound {
                return Err(RunFault::Row(i));
            }
            records += u64::from(slice.records);
            before = Some(slice);
        }
        let blocks = before.map_or(0, |slice| slice.last_block as usize + 1);
        let counted = records == self.records && self.tombstones <= records;
        if counted && blocks == self.blocks.len() { Ok(()) } else { Err(RunFault::Field) }
    }

    /// Puts the directory behind `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut fields = [0; FIELD_BYTES];
        self.head.to_fields(&mut fields);
        fields[16..20].copy_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        fields[20..24].copy_from_slice(&(self.topics.len() as u32).to_le_bytes());
        fields[24..32].copy_from_slice(&self.tombstones.to_le_bytes());
        let start = out.len();
        out.resize(start + HEAD_BYTES, 0);
        for row in &self.blocks {
            out.extend_from_slice(&row.first.topic.0.to_le_bytes());
            out.extend_from_slice(&row.len.to_le_bytes());
            out.extend_from_slice(&row.count.to_le_bytes());
            out.extend_from_slice(&row.first.position.due.to_le_bytes());
            out.extend_from_slice(&row.first.position.offset.0.to_le_bytes());
        }
        for slice in &self.topics {
            out.extend_from_slice(&slice.topic.0.to_le_bytes());
            out.extend_from_slice(&slice.first_block.to_le_bytes());
            out.extend_from_slice(&slice.last_block.to_le_bytes());
            out.extend_from_slice(&slice.records.to_le_bytes());
            out.extend_from_slice(&slice.first_due.to_le_bytes());
            out.extend_from_slice(&slice.last.due.to_le_bytes());
            out.extend_from_slice(&slice.last.offset.0.to_le_bytes());
        }
        let (part, kind, ids) = (Part::Directory, self.head.kind, self.head.ids);
        seal(out, start, &PartHead { part, kind, ids, number: 0, fields });
    }
}

/// Reads the rows of blocks, which must fill the file up to `end`.
fn decode_blocks(rows: &[u8], end: u64) -> Result<Vec<BlockRow>, RunFault> {
    let rows: &[[u8; BLOCK_ROW_BYTES]] = rows.as_chunks().0;
    let mut blocks: Vec<BlockRow> = Vec::with_capacity(rows.len());
    let mut at = HEADER.end();
    for (i, row) in rows.iter().enumerate() {
        let position = Position::new(u64_at(row, 8), Offset(u64_at(row, 16)));
        let (len, count) = (u16_at(row, 4), u16_at(row, 6));
        let first = RunKey::new(TopicNo(u32_at(row, 0)), position);
        let bounded = len > 0 && u64::from(len) * BLOCK <= RUN_BLOCK_BYTES_MAX as u64 && count > 0;
        let sorted = blocks.last().is_none_or(|before| before.first < first);
        let at_blocks = u32::try_from(at / BLOCK).map_err(|_| RunFault::Row(i))?;
        if !bounded || !sorted {
            return Err(RunFault::Row(i));
        }
        blocks.push(BlockRow { first, at: at_blocks, len, count });
        at += u64::from(len) * BLOCK;
    }
    if at == end { Ok(blocks) } else { Err(RunFault::Field) }
}

fn decode_topic(row: &[u8; TOPIC_ROW_BYTES]) -> TopicSlice {
    TopicSlice {
        topic: TopicNo(u32_at(row, 0)),
        first_block: u32_at(row, 4),
        last_block: u32_at(row, 8),
        records: u32_at(row, 12),
        first_due: u64_at(row, 16),
        last: Position::new(u64_at(row, 24), Offset(u64_at(row, 32))),
    }
}

/// Collects the directory of a run that is being written.
#[derive(Debug)]
pub(super) struct DirectoryBuilder {
    head: RunHead,
    blocks: Vec<BlockRow>,
    topics: Vec<TopicSlice>,
    tombstones: u64,
    /// Where the next block begins.
    position: u64,
}

impl DirectoryBuilder {
    pub(super) fn new(head: RunHead) -> Self {
        let (blocks, topics) = (Vec::new(), Vec::new());
        Self { head, blocks, topics, tombstones: 0, position: HEADER.end() }
    }

    /// The number of the open block.
    pub(super) fn block_number(&self) -> u32 {
        u32::try_from(self.blocks.len()).expect("blocks are counted in 32 bits")
    }

    /// Notes a record of the open block.
    pub(super) fn record(&mut self, key: &RunKey, tombstone: bool) {
        let block = self.block_number();
        self.tombstones += u64::from(tombstone);
        match self.topics.last_mut().filter(|slice| slice.topic == key.topic) {
            Some(slice) => {
                slice.records = slice.records.checked_add(1).expect("below 2^32 in one run");
                slice.last = key.position;
                slice.last_block = block;
            }
            None => self.topics.push(TopicSlice {
                topic: key.topic,
                first_due: key.position.due,
                last: key.position,
                records: 1,
                first_block: block,
                last_block: block,
            }),
        }
    }

    /// Closes the open block.
    pub(super) fn block(&mut self, sealed: &Sealed) {
        self.blocks.push(BlockRow {
            first: sealed.first,
            at: u32::try_from(self.position / BLOCK).expect("a run is below 16 TiB"),
            len: u16::try_from(sealed.len as u64 / BLOCK).expect("RUN_BLOCK_BYTES_MAX fits"),
            count: u16::try_from(sealed.count).expect("RUN_BLOCK_BYTES bounds the rows"),
        });
        self.position += sealed.len as u64;
    }

    /// The whole directory, and where it begins in the file.
    pub(super) fn finish(self) -> (Directory, u64) {
        let mut directory = Directory::new(self.head, self.blocks, self.topics, self.tombstones);
        directory.blocks.shrink_to_fit();
        directory.topics.shrink_to_fit();
        let told = directory.check_topics();
        assert_eq!(told, Ok(()), "what is written can be read");
        (directory, self.position)
    }
}
