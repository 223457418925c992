//! For tests: records by a seed, whole files of them, and a reader that touches all of a file.

use bytes::Bytes;

use super::block::Block;
use super::directory::Directory;
use super::file::{Extent, Footer, HEADER};
use super::part::{HEAD_BYTES, RunFault, RunHead, RunIds, RunKind};
use super::record::{RunKey, RunRecord};
use super::writer::RunWriter;
use crate::base::ids::{Offset, PartitionId, Position, RunNo, Term, TopicNo};

/// Offsets of the records that [`records`] makes lie below this.
pub const OFFSETS: u64 = 1 << 40;

pub fn head(run: u64, kind: RunKind) -> RunHead {
    RunHead {
        ids: RunIds {
            cluster: 0x0102_0304_0506_0708,
            partition: PartitionId(0x0a0b),
            run: RunNo(run),
        },
        kind,
        first_offset: Offset(0),
        end_offset: Offset(OFFSETS),
    }
}

pub fn key(topic: u32, due: u64, offset: u64) -> RunKey {
    RunKey::new(TopicNo(topic), Position::new(due, Offset(offset)))
}

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub key: RunKey,
    pub schedule_ts: u64,
    pub allow_duplicate: bool,
    pub tombstone: bool,
    pub append_ts: u64,
    pub term: Term,
    pub checksum: u32,
    pub message_id: Vec<u8>,
    pub meta: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Owned {
    pub fn of(record: &RunRecord<'_>) -> Self {
        Self {
            key: record.key,
            schedule_ts: record.schedule_ts,
            allow_duplicate: record.allow_duplicate,
            tombstone: record.tombstone,
            append_ts: record.append_ts,
            term: record.term,
            checksum: record.checksum,
            message_id: record.message_id.to_vec(),
            meta: record.meta.to_vec(),
            payload: record.payload.to_vec(),
        }
    }

    pub fn record(&self) -> RunRecord<'_> {
        RunRecord {
            key: self.key,
            schedule_ts: self.schedule_ts,
            allow_duplicate: self.allow_duplicate,
            tombstone: self.tombstone,
            append_ts: self.append_ts,
            term: self.term,
            checksum: self.checksum,
            message_id: &self.message_id,
            meta: &self.meta,
            payload: &self.payload,
        }
    }

    pub fn carried(key: RunKey, message_id: &[u8], meta: &[u8], payload: &[u8]) -> Self {
        Self {
            append_ts: key.position.due.saturating_sub(7),
            term: Term(3),
            checksum: crc32fast::hash(payload),
            message_id: message_id.to_vec(),
            meta: meta.to_vec(),
            payload: payload.to_vec(),
            ..Self::of(&RunRecord::key_only(key, key.position.due))
        }
    }
}

/// Numbers that look like chance and follow from the seed.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// About `count` records in key order, with topics, dues and offsets below `spread`; a tenth are
/// tombstones.
pub fn records(seed: u64, kind: RunKind, count: usize, spread: u64) -> Vec<Owned> {
    let mut dice = Dice(seed ^ 0x9e37_79b9);
    let mut keys: Vec<RunKey> = (0..count)
        .map(|_| key(dice.below(spread) as u32, dice.below(spread), dice.below(spread)))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let make = |key: RunKey| {
        if dice.below(10) == 0 {
            return Owned::of(&RunRecord::tombstone(key));
        }
        let schedule_ts = key.position.due - key.position.due.min(dice.below(3));
        let allow_duplicate = dice.below(2) == 0;
        let bytes = vec![seed as u8; dice.below(9_000) as usize];
        let record = match kind {
            RunKind::Index => Owned::of(&RunRecord::key_only(key, schedule_ts)),
            RunKind::Carried => Owned::carried(
                key,
                &bytes[..bytes.len().min(20)],
                &bytes[..bytes.len() / 9],
                &bytes,
            ),
        };
        Owned { schedule_ts, allow_duplicate, ..record }
    };
    keys.into_iter().map(make).collect()
}

/// The file of these records, with the directory that its writer kept.
pub fn write(head: RunHead, records: &[Owned]) -> (Bytes, Directory) {
    let mut writer = RunWriter::new(head);
    let mut file = writer.take_output().expect("the header").bytes;
    for record in records {
        writer.push(&record.record());
        if let Some(chunk) = writer.take_output() {
            assert_eq!(chunk.position, file.len() as u64, "chunks come in file order");
            file.extend_from_slice(&chunk.bytes);
        }
    }
    assert_eq!((writer.records(), writer.file_len()), (records.len() as u64, file.len() as u64));
    let (directory, chunk) = writer.finish();
    assert_eq!(chunk.position, file.len() as u64, "chunks come in file order");
    file.extend_from_slice(&chunk.bytes);
    (file.into(), directory)
}

/// The bytes of an extent; as many as the file has.
pub fn slice(file: &Bytes, extent: Extent) -> Bytes {
    let end = file.len().min(extent.end() as usize);
    file.slice(end.min(extent.position as usize)..end)
}

/// Opens a file as a server does: from its end, without its blocks.
pub fn open(file: &Bytes, ids: &RunIds) -> Result<Directory, RunFault> {
    let head = RunHead::decode(&slice(file, HEADER), ids)?;
    let len = file.len() as u64;
    let footer = Footer::extent(len).ok_or(RunFault::Length)?;
    let footer = Footer::decode(&slice(file, footer), ids, len)?;
    let directory = Directory::decode(&slice(file, footer.directory), &footer)?;
    assert_eq!(*directory.head(), head, "header and directory say the same");
    Ok(directory)
}

pub fn read_block(file: &Bytes, directory: &Directory, block: usize) -> Result<Block, RunFault> {
    directory.decode_block(block, slice(file, directory.extent(block)))
}

/// Every record of a file.
pub fn read_all(file: &Bytes, ids: &RunIds) -> Result<Vec<Owned>, RunFault> {
    let directory = open(file, ids)?;
    let mut records = Vec::new();
    for block in 0..directory.blocks() {
        let block = read_block(file, &directory, block)?;
        records.extend((0..block.len()).map(|i| Owned::of(&block.record(i))));
    }
    Ok(records)
}

/// Makes the CRCs of a changed part right again.
pub fn reseal(part: &mut [u8]) {
    let body_crc = crc32fast::hash(&part[HEAD_BYTES..]);
    part[88..92].copy_from_slice(&body_crc.to_le_bytes());
    let head_crc = crc32fast::hash(&part[..92]);
    part[92..HEAD_BYTES].copy_from_slice(&head_crc.to_le_bytes());
}
