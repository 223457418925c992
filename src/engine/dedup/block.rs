//! The blocks of a dedup run: each 4 KiB of the file says what it is and proves that it is whole.
//!
//! ```text
//!  0 magic u32 | 4 version u16 | 6 kind u8 | 7 zero | 8 cluster u64 | 16 partition u16
//! 18 count u16 | 20 number u32: position in the file / 4096 | 24 run u64 | 32 zero [28]
//! 60 crc u32: CRC32 of bytes 0 to 59 and 64 to 4095 | 64 items, then zeros
//! ```
//!
//! Cluster, partition, run and number are in every block, so that a misdirected or stale one is
//! never taken for the one that was asked for. Everything is checked once, when a block is opened;
//! foreign bytes never panic.

use super::row::{ROW_BYTES, Row, decode_hash, decode_row};
use super::window::IdHash;
use crate::base::ids::{PartitionId, RunNo};
use crate::base::little_endian::{u16_at, u32_at, u64_at};
use crate::base::size::BLOCK;

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = BLOCK as usize;
/// Bytes of a block's head.
pub(super) const HEAD_BYTES: usize = 64;
/// Bytes of a block behind its head.
pub(super) const ITEMS_BYTES: usize = BLOCK_BYTES - HEAD_BYTES;
/// Rows of a block.
pub const BLOCK_ROWS: usize = ITEMS_BYTES / ROW_BYTES;

/// First bytes of every block: "CDBd".
pub const MAGIC: [u8; 4] = *b"CDBd";
/// The format this code writes and reads.
pub const FORMAT_VERSION: u16 = 1;

const CRC_AT: usize = 60;

const _: () = assert!(BLOCK_ROWS * ROW_BYTES == ITEMS_BYTES, "rows fill a block");

/// Which run a block is of; in every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunIds {
    /// Random number of the data directory.
    pub cluster: u64,
    /// Partition.
    pub partition: PartitionId,
    /// Number of the run, which no other run of the partition has or had, of ids or of records.
    pub run: RunNo,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BlockKind {
    /// The first block: which offsets the run covers.
    Header = 1,
    /// Rows, in the order of their hashes.
    Rows = 2,
    /// The leading half of the first hash of each block of rows.
    Index = 3,
    /// The parameters of each group's filter.
    Groups = 4,
    /// The fingerprints of all filters.
    Fingerprints = 5,
    /// The last block: how much there is of each.
    Footer = 6,
}

impl BlockKind {
    /// Bytes of one item.
    pub(super) fn item_bytes(self) -> usize {
        match self {
            Self::Header | Self::Footer => ITEMS_BYTES,
            Self::Rows => ROW_BYTES,
            Self::Index => 8,
            Self::Groups => 16,
            Self::Fingerprints => 2,
        }
    }

    /// Items that fit in a block.
    pub(super) fn block_items(self) -> usize {
        ITEMS_BYTES / self.item_bytes()
    }
}

/// Why 4 KiB are not the block that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFault {
    /// Not 4 KiB, or other bytes than the magic.
    Magic,
    /// The CRC does not match.
    Crc,
    /// A newer version, whole and sound: a newer program wrote it.
    Version(u16),
    /// A sound block of another data directory, partition, run or place.
    Foreign,
    /// The CRC matches, yet a field can't be, or contradicts another block.
    Field,
    /// The file is shorter or longer than its last block says.
    Length,
}

/// What is wrong with a run, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunFault {
    /// Number of the block: its position in the file / 4096.
    pub block: u32,
    /// What is wrong with it.
    pub fault: BlockFault,
}

impl std::fmt::Display for RunFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {}: ", self.block)?;
        match self.fault {
            BlockFault::Magic => f.write_str("no block begins there"),
            BlockFault::Crc => f.write_str("checksum"),
            BlockFault::Version(v) => write!(f, "written in the newer format {v}"),
            BlockFault::Foreign => f.write_str("a block of another run or place"),
            BlockFault::Field => f.write_str("impossible contents"),
            BlockFault::Length => f.write_str("the file has not the length it says"),
        }
    }
}

impl std::error::Error for RunFault {}

/// Writes head and checksum of a block whose `count` items are in their place.
pub(super) fn seal_block(
    block: &mut [u8],
    ids: RunIds,
    kind: BlockKind,
    number: u32,
    count: usize,
) {
    assert_eq!(block.len(), BLOCK_BYTES, "a block has 4 KiB");
    assert!(count <= kind.block_items(), "the items fit");
    block[0..4].copy_from_slice(&MAGIC);
    block[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    block[6] = kind as u8;
    block[7] = 0;
    block[8..16].copy_from_slice(&ids.cluster.to_le_bytes());
    block[16..18].copy_from_slice(&ids.partition.0.to_le_bytes());
    block[18..20].copy_from_slice(&(count as u16).to_le_bytes());
    block[20..24].copy_from_slice(&number.to_le_bytes());
    block[24..32].copy_from_slice(&ids.run.0.to_le_bytes());
    block[32..CRC_AT].fill(0);
    let crc = block_crc(block);
    block[CRC_AT..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// The items of a block that is exactly the one asked for, without what is behind them.
pub(super) fn open_block(
    block: &[u8],
    ids: RunIds,
    kind: BlockKind,
    number: u32,
) -> Result<&[u8], RunFault> {
    judge(block, ids, kind, number).map_err(|fault| RunFault { block: number, fault })
}

fn judge(block: &[u8], ids: RunIds, kind: BlockKind, number: u32) -> Result<&[u8], BlockFault> {
    if block.len() != BLOCK_BYTES || block[..4] != MAGIC {
        return Err(BlockFault::Magic);
    }
    if block_crc(block) != u32_at(block, CRC_AT) {
        return Err(BlockFault::Crc);
    }
    let version = u16_at(block, 4);
    if version != FORMAT_VERSION {
        return Err(BlockFault::Version(version));
    }
    let its = RunIds {
        cluster: u64_at(block, 8),
        partition: PartitionId(u16_at(block, 16)),
        run: RunNo(u64_at(block, 24)),
    };
    if its != ids || u32_at(block, 20) != number || block[6] != kind as u8 {
        return Err(BlockFault::Foreign);
    }
    let count = usize::from(u16_at(block, 18));
    if count > kind.block_items() || block[7] != 0 || !blank(&block[32..CRC_AT]) {
        return Err(BlockFault::Field);
    }
    let (items, rest) = block[HEAD_BYTES..].split_at(count * kind.item_bytes());
    if blank(rest) { Ok(items) } else { Err(BlockFault::Field) }
}

/// Rows that were checked: in rising order of their hashes, with flags this version knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBlock<'a> {
    rows: &'a [u8],
}

impl<'a> RowBlock<'a> {
    /// Checks a block of rows, all of it.
    pub(super) fn open(block: &'a [u8], ids: RunIds, number: u32) -> Result<Self, RunFault> {
        let rows = open_block(block, ids, BlockKind::Rows, number)?;
        let known = rows.chunks_exact(ROW_BYTES).all(|row| decode_row(row).is_some());
        let rising = rows
            .chunks_exact(ROW_BYTES)
            .zip(rows.chunks_exact(ROW_BYTES).skip(1))
            .all(|(row, next)| row[..16] < next[..16]);
        if rows.is_empty() || !known || !rising {
            return Err(RunFault { block: number, fault: BlockFault::Field });
        }
        Ok(Self { rows })
    }

    /// Rows in it; at least one.
    pub(super) fn len(&self) -> usize {
        self.rows.len() / ROW_BYTES
    }

    /// The row at a place.
    pub(super) fn row(&self, at: usize) -> Row {
        decode_row(self.bytes(at)).expect("flags were checked when the block was opened")
    }

    /// The hash of the row at a place.
    pub(super) fn hash(&self, at: usize) -> IdHash {
        decode_hash(self.bytes(at))
    }

    /// The row of a hash.
    pub(super) fn find(&self, hash: IdHash) -> Option<Row> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            if self.hash(middle) < hash {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        (from < self.len() && self.hash(from) == hash).then(|| self.row(from))
    }

    fn bytes(&self, at: usize) -> &'a [u8] {
        &self.rows[at * ROW_BYTES..][..ROW_BYTES]
    }
}

fn block_crc(block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block[..CRC_AT]);
    crc.update(&block[HEAD_BYTES..]);
    crc.finalize()
}

fn blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::row::{Claim, encode_row};
    use super::super::window::Original;
    use super::*;
    use crate::base::ids::{Offset, TopicNo};

    const IDS: RunIds = RunIds { cluster: 7, partition: PartitionId(3), run: RunNo(5) };

    fn row(high: u64) -> Row {
        let original =
            Original { offset: Offset(high), schedule_ts: 1, append_ts: 2, topic: TopicNo(3) };
        Row {
            hash: IdHash { high, low: !high },
            claim: Claim { original, weak: high.is_multiple_of(3) },
        }
    }

    fn block(rows: &[Row]) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        for (at, row) in rows.iter().enumerate() {
            encode_row(row, &mut block[HEAD_BYTES + at * ROW_BYTES..][..ROW_BYTES]);
        }
        seal_block(&mut block, IDS, BlockKind::Rows, 9, rows.len());
        block
    }

    fn fault(block: &[u8]) -> Option<BlockFault> {
        RowBlock::open(block, IDS, 9).err().map(|fault| fault.fault)
    }

    #[test]
    fn a_block_finds_its_rows_and_no_others() {
        let rows: Vec<Row> = (0..BLOCK_ROWS as u64).map(|n| row(2 * n + 1)).collect();
        for count in [1, 2, 3, 50, BLOCK_ROWS] {
            let bytes = block(&rows[..count]);
            let block = RowBlock::open(&bytes, IDS, 9).expect("sound");
            assert_eq!(block.len(), count);
            for high in 0..2 * BLOCK_ROWS as u64 + 2 {
                let there = high % 2 == 1 && high < 2 * count as u64;
                assert_eq!(block.find(row(high).hash), there.then(|| row(high)), "{high}");
            }
        }
    }

    #[test]
    fn what_is_not_exactly_the_block_is_refused() {
        let sound = block(&[row(1), row(2)]);
        assert_eq!(fault(&sound), None);
        assert_eq!(fault(&sound[1..]), Some(BlockFault::Magic));
        assert_eq!(fault(&[0; BLOCK_BYTES]), Some(BlockFault::Magic));
        assert_eq!(fault(&block(&[])), Some(BlockFault::Field), "no rows");
        assert_eq!(fault(&block(&[row(2), row(1)])), Some(BlockFault::Field), "falling");
        assert_eq!(fault(&block(&[row(2), row(2)])), Some(BlockFault::Field), "twice");
        let foreign = |ids, number| {
            RowBlock::open(&sound, ids, number).err().map(|fault| fault.fault)
                == Some(BlockFault::Foreign)
        };
        assert!(foreign(RunIds { cluster: 8, ..IDS }, 9));
        assert!(foreign(RunIds { partition: PartitionId(4), ..IDS }, 9));
        assert!(foreign(RunIds { run: RunNo(6), ..IDS }, 9));
        assert!(foreign(IDS, 10));
        let resealed = |at: usize, byte: u8| {
            let mut block = sound.clone();
            block[at] = byte;
            let crc = block_crc(&block);
            block[CRC_AT..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
            fault(&block)
        };
        assert_eq!(resealed(4, 2), Some(BlockFault::Version(2)));
        assert_eq!(resealed(6, 9), Some(BlockFault::Foreign));
        assert_eq!(resealed(7, 1), Some(BlockFault::Field));
        assert_eq!(resealed(18, 85), Some(BlockFault::Field), "too many");
        assert_eq!(resealed(18, 1), Some(BlockFault::Field), "more than it says");
        assert_eq!(resealed(40, 1), Some(BlockFault::Field));
        assert_eq!(resealed(HEAD_BYTES + 44, 2), Some(BlockFault::Field), "an unknown flag");
        assert_eq!(resealed(BLOCK_BYTES - 1, 1), Some(BlockFault::Field));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let sound = block(&[row(1), row(2), row(3)]);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut bad = sound.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(fault(&bad).is_some(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_items_never_panic(
            items in proptest::collection::vec(any::<u8>(), ITEMS_BYTES),
            count in 0..=BLOCK_ROWS,
        ) {
            let mut block = vec![0; HEAD_BYTES];
            block.extend(items);
            let _ = RowBlock::open(&block, IDS, 9);
            seal_block(&mut block, IDS, BlockKind::Rows, 9, count);
            if let Ok(block) = RowBlock::open(&block, IDS, 9) {
                for at in 0..block.len() {
                    prop_assert_eq!(block.find(block.hash(at)), Some(block.row(at)));
                }
            }
        }
    }
}
