//! A part of a run file: header, block, directory or footer. Each is a head of 96 bytes, little
//! endian, and a body, padded with zeros to whole 4 KiB.
//!
//! ```text
//!  0 magic u32 | 4 version u16 | 6 part u8 | 7 kind u8 | 8 cluster u64 | 16 partition u16
//! 18 zero u16 | 20 number u32 | 24 run u64 | 32 fields of the part [52] | 84 body_len u32
//! 88 body_crc u32: CRC32 of bytes 96 to the end, padding included
//! 92 head_crc u32: CRC32 of bytes 0 to 91
//! ```
//! Cluster, partition, run and number are in every part, so that a misdirected or stale read is
//! never taken for ours. What must hold: a part has exactly one encoding, and no bytes panic here.

use std::fmt;
use std::ops::Range;

use crate::base::ids::{Offset, PartitionId, RunNo};
use crate::base::little_endian::{u16_at, u32_at, u64_at};
use crate::base::size::block_ceil;

/// Bytes of an encoded head.
pub const HEAD_BYTES: usize = 96;
/// First bytes of every part: "CDBr".
pub const MAGIC: [u8; 4] = *b"CDBr";
/// The format this code writes and reads.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of a head that each part uses in its own way.
pub(super) const FIELD_BYTES: usize = 52;

const FIELDS_AT: usize = 32;
const BODY_LEN_AT: usize = 84;
const BODY_CRC_AT: usize = 88;
const HEAD_CRC_AT: usize = 92;
const _: () = assert!(FIELDS_AT + FIELD_BYTES == BODY_LEN_AT && HEAD_CRC_AT + 4 == HEAD_BYTES);

/// Which run it is; in every part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunIds {
    /// Random number of the data directory.
    pub cluster: u64,
    /// Partition.
    pub partition: PartitionId,
    /// The run.
    pub run: RunNo,
}

/// What the records of a run have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunKind {
    /// A due run: message id, meta and payload are here.
    Carried = 1,
    /// A due index: keys alone, the record is still in the log.
    Index = 2,
}

impl RunKind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Carried, Self::Index].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What is true of a whole run, known before its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunHead {
    /// Which run it is.
    pub ids: RunIds,
    /// What its records have.
    pub kind: RunKind,
    /// First offset that a record of it may have. A tombstone may name an older one.
    pub first_offset: Offset,
    /// Behind the last offset that a record or tombstone of it may have.
    pub end_offset: Offset,
}

impl RunHead {
    /// Whether a record at this offset may lie here.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        (self.first_offset..self.end_offset).contains(&offset)
    }
}

/// Why bytes are not the part of a run that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunFault {
    /// Too few bytes, or not as many as the part has.
    Length,
    /// No part begins there.
    Magic,
    /// The head's CRC is wrong.
    HeadCrc,
    /// A newer version, its head whole and sound: a newer program wrote it.
    Version(u16),
    /// A sound part of another run, or another part of this one.
    Foreign,
    /// The head's CRC is right, yet a field of it can't be.
    Field,
    /// The body's CRC is wrong.
    BodyCrc,
    /// The CRCs are right, yet this row (of records, blocks or topics) can't be.
    Row(usize),
    /// A sound block, but not the one that the directory speaks of.
    Directory,
}

impl fmt::Display for RunFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("cut short"),
            Self::Magic => f.write_str("no part of a run begins there"),
            Self::HeadCrc => f.write_str("header checksum"),
            Self::Version(version) => write!(f, "written in the newer format {version}"),
            Self::Foreign => f.write_str("a part of another run, or from another place"),
            Self::Field => f.write_str("impossible header"),
            Self::BodyCrc => f.write_str("body checksum"),
            Self::Row(row) => write!(f, "impossible row {row}"),
            Self::Directory => f.write_str("the directory speaks of another block"),
        }
    }
}

/// Which part it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Part {
    Header = 1,
    Block = 2,
    Directory = 3,
    Footer = 4,
}

/// The head of a part, but for what [`seal`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartHead {
    pub part: Part,
    pub kind: RunKind,
    pub ids: RunIds,
    /// Of a block, from 0; 0 in other parts.
    pub number: u32,
    pub fields: [u8; FIELD_BYTES],
}

/// A part whose CRCs are right and that is the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub kind: RunKind,
    pub fields: [u8; FIELD_BYTES],
    /// Where its body lies in the bytes it was opened from.
    pub body: Range<usize>,
}

/// Makes a part of the bytes of `out` from `start` on: room for the head, and the body behind it.
/// Returns the part's length.
pub(super) fn seal(out: &mut Vec<u8>, start: usize, head: &PartHead) -> usize {
    let body_at = start + HEAD_BYTES;
    let body_len = out.len().checked_sub(body_at).expect("there is room for the head");
    let part_len = part_len(body_len);
    out.resize(start + part_len, 0);
    let body_crc = crc32fast::hash(&out[body_at..]);
    let bytes = &mut out[start..body_at];
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[6] = head.part as u8;
    bytes[7] = head.kind as u8;
    bytes[8..16].copy_from_slice(&head.ids.cluster.to_le_bytes());
    bytes[16..18].copy_from_slice(&head.ids.partition.0.to_le_bytes());
    bytes[18..20].fill(0);
    bytes[20..24].copy_from_slice(&head.number.to_le_bytes());
    bytes[24..32].copy_from_slice(&head.ids.run.0.to_le_bytes());
    bytes[FIELDS_AT..BODY_LEN_AT].copy_from_slice(&head.fields);
    let body_len = u32::try_from(body_len).expect("a part is below 4 GiB");
    bytes[BODY_LEN_AT..BODY_CRC_AT].copy_from_slice(&body_len.to_le_bytes());
    bytes[BODY_CRC_AT..HEAD_CRC_AT].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..HEAD_CRC_AT]);
    bytes[HEAD_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    part_len
}

/// Bytes of a part with a body of `body_len` bytes.
pub(super) fn part_len(body_len: usize) -> usize {
    block_ceil(HEAD_BYTES as u64 + body_len as u64) as usize
}

/// Checks that `bytes` are exactly this part of this run.
pub(super) fn open(
    bytes: &[u8],
    ids: &RunIds,
    part: Part,
    number: u32,
) -> Result<Opened, RunFault> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(RunFault::Length)?;
    if head[..4] != MAGIC {
        return Err(RunFault::Magic);
    }
    if crc32fast::hash(&head[..HEAD_CRC_AT]) != u32_at(head, HEAD_CRC_AT) {
        return Err(RunFault::HeadCrc);
    }
    let version = u16_at(head, 4);
    if version != FORMAT_VERSION {
        return Err(RunFault::Version(version));
    }
    let found = RunIds {
        cluster: u64_at(head, 8),
        partition: PartitionId(u16_at(head, 16)),
        run: RunNo(u64_at(head, 24)),
    };
    if found != *ids || head[6] != part as u8 || u32_at(head, 20) != number {
        return Err(RunFault::Foreign);
    }
    let kind = RunKind::from_number(head[7]).ok_or(RunFault::Field)?;
    if head[18..20] != [0; 2] {
        return Err(RunFault::Field);
    }
    let body_len = u32_at(head, BODY_LEN_AT) as usize;
    if part_len(body_len) != bytes.len() {
        return Err(RunFault::Length);
    }
    if crc32fast::hash(&bytes[HEAD_BYTES..]) != u32_at(head, BODY_CRC_AT) {
        return Err(RunFault::BodyCrc);
    }
    let body = HEAD_BYTES..HEAD_BYTES + body_len;
    if !is_zero(&bytes[body.end..]) {
        return Err(RunFault::Field);
    }
    let mut fields = [0; FIELD_BYTES];
    fields.copy_from_slice(&head[FIELDS_AT..BODY_LEN_AT]);
    Ok(Opened { kind, fields, body })
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDS: RunIds = RunIds { cluster: 77, partition: PartitionId(3), run: RunNo(9) };

    fn part(body: &[u8]) -> Vec<u8> {
        let mut fields = [0; FIELD_BYTES];
        fields[0] = 1;
        fields[FIELD_BYTES - 1] = 2;
        let mut out = vec![0; HEAD_BYTES];
        out.extend_from_slice(body);
        let head =
            PartHead { part: Part::Block, kind: RunKind::Index, ids: IDS, number: 5, fields };
        assert_eq!(seal(&mut out, 0, &head), out.len());
        out
    }

    fn reopen(bytes: &[u8]) -> Result<Opened, RunFault> {
        open(bytes, &IDS, Part::Block, 5)
    }

    #[test]
    fn a_part_comes_back_as_it_went_in() {
        for len in [0, 1, 4000, 4001, 70_000] {
            let body: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let bytes = part(&body);
            assert!(bytes.len().is_multiple_of(4096));
            let opened = reopen(&bytes).unwrap();
            assert_eq!(bytes[opened.body], body);
            assert_eq!((opened.kind, opened.fields[0], opened.fields[51]), (RunKind::Index, 1, 2));
        }
    }

    #[test]
    fn another_part_is_never_taken_for_ours() {
        let bytes = part(b"body");
        let others = [
            RunIds { cluster: 78, ..IDS },
            RunIds { partition: PartitionId(4), ..IDS },
            RunIds { run: RunNo(8), ..IDS },
        ];
        for ids in others {
            assert_eq!(open(&bytes, &ids, Part::Block, 5), Err(RunFault::Foreign));
        }
        assert_eq!(open(&bytes, &IDS, Part::Footer, 5), Err(RunFault::Foreign));
        assert_eq!(open(&bytes, &IDS, Part::Block, 6), Err(RunFault::Foreign));
    }

    #[test]
    fn newer_and_impossible_heads_are_told_apart() {
        let resealed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = part(b"body");
            change(&mut bytes);
            let body = crc32fast::hash(&bytes[HEAD_BYTES..]);
            bytes[BODY_CRC_AT..HEAD_CRC_AT].copy_from_slice(&body.to_le_bytes());
            let head = crc32fast::hash(&bytes[..HEAD_CRC_AT]);
            bytes[HEAD_CRC_AT..HEAD_BYTES].copy_from_slice(&head.to_le_bytes());
            reopen(&bytes)
        };
        assert!(resealed(&|_| ()).is_ok());
        assert_eq!(resealed(&|bytes| bytes[4] = 2), Err(RunFault::Version(2)));
        assert_eq!(resealed(&|bytes| bytes[7] = 3), Err(RunFault::Field));
        assert_eq!(resealed(&|bytes| bytes[18] = 1), Err(RunFault::Field));
        assert_eq!(resealed(&|bytes| bytes[4095] = 1), Err(RunFault::Field));
        assert_eq!(resealed(&|bytes| bytes[87] = 0xff), Err(RunFault::Length));
        assert_eq!(resealed(&|bytes| bytes.truncate(4095)), Err(RunFault::Length));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(reopen(&bytes).is_err());
        }
    }
}
