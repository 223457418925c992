//! A block of a run: rows of fixed size first, sorted by key, then the bytes of varying length.
//!
//! ```text
//! head [96], its fields:  32 topic u32 | 36 count u32 | 40 due u64 | 48 offset u64 | 56 zero [28]
//! rows [count x 32 or 64] 0 topic u32 | 4 flags u8 | 5 zero [3] | 8 due u64 | 16 offset u64
//!                         24 schedule_ts u64
//!         of a due run    32 append_ts u64 | 40 term u64 | 48 checksum u32 | 52 start u32
//!                         56 payload_len u32 | 60 meta_len u16 | 62 id_len u8 | 63 zero
//! bytes                   of each row in turn: message id, meta, payload
//! ```
//! `start` counts from the first byte behind the rows. Rows leave no gap there and share no byte.
//! A block is checked once, as a whole ([`Block::decode`]); what it gives access to later can't
//! fail. Search touches rows alone.

use std::ops::Range;

use bytes::Bytes;

use super::due_source::DueEvent;
use super::part::{
    FIELD_BYTES, HEAD_BYTES, Part, PartHead, RunFault, RunHead, RunKind, is_zero, open, part_len,
    seal,
};
use super::record::{RunKey, RunRecord};
use crate::base::api::Span;
use crate::base::ids::{Offset, Position, Term, TopicNo};
use crate::base::limits::{
    MESSAGE_ID_BYTES, META_BYTES, PAYLOAD_BYTES, RUN_BLOCK_BYTES, RUN_BLOCK_BYTES_MAX,
};
use crate::base::little_endian::{u16_at, u32_at, u64_at};

const KEY_ROW_BYTES: usize = 32;
const CARRIED_ROW_BYTES: usize = 64;
const ALLOW_DUPLICATE: u8 = 1;
const TOMBSTONE: u8 = 2;

const _: () = assert!(
    HEAD_BYTES + CARRIED_ROW_BYTES + MESSAGE_ID_BYTES + META_BYTES + PAYLOAD_BYTES + 4096
        <= RUN_BLOCK_BYTES_MAX,
    "the largest record has a block"
);
const _: () = assert!(
    RUN_BLOCK_BYTES / KEY_ROW_BYTES <= u16::MAX as usize,
    "the directory counts a block's records in a u16"
);

/// A block that is whole, sound and sorted.
#[derive(Clone, Debug)]
pub struct Block {
    bytes: Bytes,
    kind: RunKind,
    /// Records; at least one.
    len: usize,
}

impl Block {
    /// Checks that `bytes` are block `number` of the run `head`, and everything in it.
    pub fn decode(bytes: Bytes, head: &RunHead, number: usize) -> Result<Self, RunFault> {
        let number = u32::try_from(number).map_err(|_| RunFault::Foreign)?;
        if bytes.len() > RUN_BLOCK_BYTES_MAX {
            return Err(RunFault::Length);
        }
        let opened = open(&bytes, &head.ids, Part::Block, number)?;
        if opened.kind != head.kind {
            return Err(RunFault::Foreign);
        }
        let len = u32_at(&opened.fields, 4) as usize;
        let rows = len.checked_mul(row_bytes(head.kind)).ok_or(RunFault::Field)?;
        if len == 0 || rows > opened.body.len() || !is_zero(&opened.fields[24..]) {
            return Err(RunFault::Field);
        }
        let block = Self { bytes, kind: head.kind, len };
        let blobs_end = block.check_rows(head, opened.body.end)?;
        let first = RunKey::new(
            TopicNo(u32_at(&opened.fields, 0)),
            Position::new(u64_at(&opened.fields, 8), Offset(u64_at(&opened.fields, 16))),
        );
        let exact = blobs_end == opened.body.end && first == block.key(0);
        if exact { Ok(block) } else { Err(RunFault::Field) }
    }

    /// Records; at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a block is made with its first record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block as it lies in the file; what [`Block::spans`] counts in.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same block, whose users are counted apart from those of this one: where they are many,
    /// and on other cores, these would take the count from each other.
    #[must_use]
    pub fn counted_apart(&self) -> Self {
        Self { bytes: Bytes::from_owner(self.bytes.clone()), ..self.clone() }
    }

    /// The key of record `i`.
    ///
    /// # Panics
    /// Like everything that takes an `i`: if there are not that many records.
    #[must_use]
    pub fn key(&self, i: usize) -> RunKey {
        let row = self.row(i);
        let position = Position::new(u64_at(row, 8), Offset(u64_at(row, 16)));
        RunKey::new(TopicNo(u32_at(row, 0)), position)
    }

    /// Record `i`.
    #[must_use]
    pub fn record(&self, i: usize) -> RunRecord<'_> {
        let row = self.row(i);
        let key_only = RunRecord {
            allow_duplicate: row[4] & ALLOW_DUPLICATE != 0,
            tombstone: row[4] & TOMBSTONE != 0,
            ..RunRecord::key_only(self.key(i), u64_at(row, 24))
        };
        if self.kind == RunKind::Index {
            return key_only;
        }
        let spans = self.spans(i);
        RunRecord {
            append_ts: u64_at(row, 32),
            term: Term(u64_at(row, 40)),
            checksum: u32_at(row, 48),
            message_id: spans.message_id.of(&self.bytes),
            meta: spans.meta.of(&self.bytes),
            payload: spans.payload.of(&self.bytes),
            ..key_only
        }
    }

    /// Record `i` on the due axis of its topic.
    #[must_use]
    pub fn due_event(&self, i: usize) -> DueEvent {
        let schedule_ts = u64_at(self.row(i), 24);
        DueEvent { position: self.key(i).position, schedule_ts, is_loaded: true }
    }

    /// Where the bytes of record `i` lie in [`Block::bytes`]; all empty in a due index.
    #[must_use]
    pub fn spans(&self, i: usize) -> RecordSpans {
        if self.kind == RunKind::Index {
            return RecordSpans::default();
        }
        let row = self.row(i);
        let start = self.rows_end() as u32 + u32_at(row, 52);
        let message_id = Span { start, len: u32::from(row[62]) };
        let meta = Span { start: start + message_id.len, len: u32::from(u16_at(row, 60)) };
        let payload = Span { start: meta.start + meta.len, len: u32_at(row, 56) };
        RecordSpans { message_id, meta, payload }
    }

    /// The records of this topic strictly behind `after`.
    #[must_use]
    pub fn seek(&self, topic: TopicNo, after: Position) -> Range<usize> {
        let from = RunKey::new(topic, after);
        let start = self.first_where(|key| key > from);
        start..self.first_where(|key| key.topic > topic)
    }

    /// The record with exactly this key.
    #[must_use]
    pub fn find(&self, key: &RunKey) -> Option<usize> {
        let i = self.first_where(|other| other >= *key);
        (i < self.len && self.key(i) == *key).then_some(i)
    }

    /// The first record for which `holds`, which holds for all behind it too; `len` if for none.
    fn first_where(&self, holds: impl Fn(RunKey) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = usize::midpoint(low, high);
            if holds(self.key(middle)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    fn row(&self, i: usize) -> &[u8] {
        assert!(i < self.len, "record {i} of {}", self.len);
        let row_bytes = row_bytes(self.kind);
        &self.bytes[HEAD_BYTES + i * row_bytes..][..row_bytes]
    }

    fn rows_end(&self) -> usize {
        HEAD_BYTES + self.len * row_bytes(self.kind)
    }

    /// Checks each row before anything is read through it. Returns where the last one's bytes end.
    fn check_rows(&self, head: &RunHead, body_end: usize) -> Result<usize, RunFault> {
        let mut end = self.rows_end();
        let mut before = None;
        for i in 0..self.len {
            let row = self.row(i);
            let reserved = row[4] & !(ALLOW_DUPLICATE | TOMBSTONE) == 0 && row[5..8] == [0; 3];
            if self.kind == RunKind::Carried {
                let start = self.rows_end() as u64 + u64::from(u32_at(row, 52));
                let len =
                    u64::from(u32_at(row, 56)) + u64::from(u16_at(row, 60)) + u64::from(row[62]);
                if start != end as u64 || start + len > body_end as u64 || row[63] != 0 {
                    return Err(RunFault::Row(i));
                }
                end = (start + len) as usize;
            }
            let key = Some(self.key(i));
            if !reserved || before >= key || !self.record(i).is_valid(head) {
                return Err(RunFault::Row(i));
            }
            before = key;
        }
        Ok(end)
    }
}

/// Where the bytes of a record lie in those of its block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordSpans {
    /// `message_id`.
    pub message_id: Span,
    /// `meta` as published: encoded field-5 entries.
    pub meta: Span,
    /// Payload.
    pub payload: Span,
}

/// Collects the records of one block, then of the next.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    kind: RunKind,
    rows: Vec<u8>,
    blobs: Vec<u8>,
    count: u32,
    first: RunKey,
}

/// What the directory notes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub first: RunKey,
    pub count: u32,
    /// Bytes, padding included.
    pub len: usize,
}

impl BlockBuilder {
    pub(super) fn new(kind: RunKind) -> Self {
        Self { kind, rows: Vec::new(), blobs: Vec::new(), count: 0, first: RunKey::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a record with this many bytes of varying length can join: always the first.
    pub(super) fn fits(&self, blob_bytes: usize) -> bool {
        let body = self.rows.len() + self.blobs.len() + row_bytes(self.kind) + blob_bytes;
        self.is_empty() || HEAD_BYTES + body <= RUN_BLOCK_BYTES
    }

    /// Adds a record, which the writer has checked.
    pub(super) fn push(&mut self, record: &RunRecord<'_>) {
        assert!(self.fits(record.blob_bytes()), "the writer seals a full block first");
        if self.is_empty() {
            self.first = record.key;
        }
        let flags = u8::from(record.allow_duplicate) * ALLOW_DUPLICATE
            + u8::from(record.tombstone) * TOMBSTONE;
        self.rows.extend_from_slice(&record.key.topic.0.to_le_bytes());
        self.rows.extend_from_slice(&[flags, 0, 0, 0]);
        self.rows.extend_from_slice(&record.key.position.due.to_le_bytes());
        self.rows.extend_from_slice(&record.key.position.offset.0.to_le_bytes());
        self.rows.extend_from_slice(&record.schedule_ts.to_le_bytes());
        if self.kind == RunKind::Carried {
            self.push_carried(record);
        }
        self.count += 1;
    }

    fn push_carried(&mut self, record: &RunRecord<'_>) {
        let start = u32::try_from(self.blobs.len()).expect("a block is far below 4 GiB");
        self.rows.extend_from_slice(&record.append_ts.to_le_bytes());
        self.rows.extend_from_slice(&record.term.0.to_le_bytes());
        self.rows.extend_from_slice(&record.checksum.to_le_bytes());
        self.rows.extend_from_slice(&start.to_le_bytes());
        self.rows.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
        self.rows.extend_from_slice(&(record.meta.len() as u16).to_le_bytes());
        self.rows.extend_from_slice(&[record.message_id.len() as u8, 0]);
        self.blobs.extend_from_slice(record.message_id);
        self.blobs.extend_from_slice(record.meta);
        self.blobs.extend_from_slice(record.payload);
    }

    /// Puts the block behind `out`. The builder is empty again.
    pub(super) fn seal(&mut self, out: &mut Vec<u8>, head: &RunHead, number: u32) -> Sealed {
        assert!(!self.is_empty(), "a block has a record");
        assert_eq!(self.kind, head.kind);
        let mut fields = [0; FIELD_BYTES];
        fields[0..4].copy_from_slice(&self.first.topic.0.to_le_bytes());
        fields[4..8].copy_from_slice(&self.count.to_le_bytes());
        fields[8..16].copy_from_slice(&self.first.position.due.to_le_bytes());
        fields[16..24].copy_from_slice(&self.first.position.offset.0.to_le_bytes());
        let start = out.len();
        out.reserve(part_len(self.rows.len() + self.blobs.len()));
        out.resize(start + HEAD_BYTES, 0);
        out.extend_from_slice(&self.rows);
        out.extend_from_slice(&self.blobs);
        let part = PartHead { part: Part::Block, kind: self.kind, ids: head.ids, number, fields };
        let len = seal(out, start, &part);
        assert!(len <= RUN_BLOCK_BYTES_MAX, "the limits of a record bound its block");
        let sealed = Sealed { first: self.first, count: self.count, len };
        self.rows.clear();
        self.blobs.clear();
        // What one huge record has grown is given back.
        self.blobs.shrink_to(RUN_BLOCK_BYTES);
        self.count = 0;
        sealed
    }
}

fn row_bytes(kind: RunKind) -> usize {
    match kind {
        RunKind::Carried => CARRIED_ROW_BYTES,
        RunKind::Index => KEY_ROW_BYTES,
    }
}
