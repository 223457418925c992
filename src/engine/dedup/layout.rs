//! Where things lie in the file of a run: a function of how many rows and fingerprints it has.
//!
//! ```text
//! block 0   Header        the offsets the run covers
//! then      Rows          84 a block, rising; all blocks full but the last
//!           Index         for each block of rows, the leading half of its first hash: 504 a block
//!           Groups        for each 60 blocks of rows, its filter's parameters: 252 a block
//!           Fingerprints  of all filters, one behind the other: 2,016 a block
//! last      Footer        offsets, number of rows and of fingerprints
//! ```
//!
//! Header and footer, behind their heads:
//! `64 offsets_start u64 | 72 offsets_end u64 | 80 rows u64 | 88 fingerprints u64`. The header has
//! zeros for the latter two: they are not known when it is written.

use std::ops::Range;

use super::block::{
    BLOCK_BYTES, BLOCK_ROWS, BlockFault, BlockKind, HEAD_BYTES, RunFault, RunIds, open_block,
    seal_block,
};
use super::filter::FILTER_KEYS;
use crate::base::ids::Offset;
use crate::base::little_endian::u64_at;
use crate::base::size::BLOCK;

/// Blocks of rows that share a filter.
pub(super) const GROUP_BLOCKS: usize = 60;
/// Rows of a run at most. Bounds all arithmetic on what a file says.
pub const RUN_ROWS_MAX: u64 = 1 << 36;
const FINGERPRINTS_MAX: u64 = 1 << 40;

const _: () = assert!(GROUP_BLOCKS * BLOCK_ROWS == FILTER_KEYS, "a full group fills a filter");
const _: () =
    assert!(RUN_ROWS_MAX / BLOCK_ROWS as u64 + FINGERPRINTS_MAX / 2_000 < u32::MAX as u64);

/// A piece of a run's file to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRead {
    /// Position in the file, a multiple of 4 KiB.
    pub position: u64,
    /// Bytes, a multiple of 4 KiB.
    pub len: u64,
}

impl BlockRead {
    pub(super) fn of_blocks(blocks: Range<u32>) -> Self {
        let len = u64::from(blocks.end - blocks.start) * BLOCK;
        Self { position: u64::from(blocks.start) * BLOCK, len }
    }

    pub(super) fn first_block(&self) -> u32 {
        (self.position / BLOCK) as u32
    }
}

/// How much a run holds, and thereby where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Offsets whose ids the run has.
    pub(super) offsets: Range<Offset>,
    pub(super) rows: u64,
    pub(super) fingerprints: u64,
}

impl Layout {
    pub(super) fn row_blocks(&self) -> u32 {
        self.rows.div_ceil(BLOCK_ROWS as u64) as u32
    }

    /// Rows in a block of rows, which are counted from 0.
    pub(super) fn rows_in(&self, row_block: u32) -> usize {
        let before = u64::from(row_block) * BLOCK_ROWS as u64;
        self.rows.saturating_sub(before).min(BLOCK_ROWS as u64) as usize
    }

    pub(super) fn groups(&self) -> u32 {
        self.row_blocks().div_ceil(GROUP_BLOCKS as u32)
    }

    /// Items of a kind in the whole file.
    pub(super) fn items(&self, kind: BlockKind) -> u64 {
        match kind {
            BlockKind::Header | BlockKind::Footer => 1,
            BlockKind::Rows => self.rows,
            BlockKind::Index => u64::from(self.row_blocks()),
            BlockKind::Groups => u64::from(self.groups()),
            BlockKind::Fingerprints => self.fingerprints,
        }
    }

    /// Blocks of a kind in the whole file.
    pub(super) fn blocks(&self, kind: BlockKind) -> u32 {
        self.items(kind).div_ceil(kind.block_items() as u64) as u32
    }

    /// Number of the first block behind the rows.
    pub(super) fn directory_start(&self) -> u32 {
        1 + self.row_blocks()
    }

    /// Number of the last block.
    pub(super) fn footer(&self) -> u32 {
        self.directory_start()
            + self.blocks(BlockKind::Index)
            + self.blocks(BlockKind::Groups)
            + self.blocks(BlockKind::Fingerprints)
    }

    /// Length of the file, bytes.
    pub(super) fn file_len(&self) -> u64 {
        (u64::from(self.footer()) + 1) * BLOCK
    }

    /// Appends the first block.
    pub(super) fn encode_header(ids: RunIds, offsets: &Range<Offset>, out: &mut Vec<u8>) {
        let header = Self { offsets: offsets.clone(), rows: 0, fingerprints: 0 };
        header.encode(ids, BlockKind::Header, 0, out);
    }

    /// Appends the last block.
    pub(super) fn encode_footer(&self, ids: RunIds, out: &mut Vec<u8>) {
        self.encode(ids, BlockKind::Footer, self.footer(), out);
    }

    fn encode(&self, ids: RunIds, kind: BlockKind, number: u32, out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + BLOCK_BYTES, 0);
        let block = &mut out[at..];
        let fields = [self.offsets.start.0, self.offsets.end.0, self.rows, self.fingerprints];
        for (field, place) in fields.iter().zip(block[HEAD_BYTES..].chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        seal_block(block, ids, kind, number, 1);
    }

    /// Reads the last block of a file of this length.
    pub(super) fn decode_footer(
        block: &[u8],
        ids: RunIds,
        file_len: u64,
    ) -> Result<Self, RunFault> {
        let number = (file_len / BLOCK - 1) as u32;
        let fields = open_block(block, ids, BlockKind::Footer, number)?;
        let fault = |fault| Err(RunFault { block: number, fault });
        let Some(layout) = Self::decode(fields) else { return fault(BlockFault::Field) };
        if layout.file_len() != file_len {
            return fault(BlockFault::Length);
        }
        Ok(layout)
    }

    /// Checks the first block: it must say what the footer says.
    pub(super) fn check_header(&self, block: &[u8], ids: RunIds) -> Result<(), RunFault> {
        let fields = open_block(block, ids, BlockKind::Header, 0)?;
        let expected = Self { offsets: self.offsets.clone(), rows: 0, fingerprints: 0 };
        if Self::decode(fields) == Some(expected) {
            return Ok(());
        }
        Err(RunFault { block: 0, fault: BlockFault::Field })
    }

    fn decode(fields: &[u8]) -> Option<Self> {
        let (fields, rest) = fields.split_at_checked(32)?;
        let layout = Self {
            offsets: Offset(u64_at(fields, 0))..Offset(u64_at(fields, 8)),
            rows: u64_at(fields, 16),
            fingerprints: u64_at(fields, 24),
        };
        let bounded = layout.rows <= RUN_ROWS_MAX && layout.fingerprints <= FINGERPRINTS_MAX;
        let ordered = layout.offsets.start <= layout.offsets.end
            && layout.rows <= layout.offsets.end.0 - layout.offsets.start.0;
        (bounded && ordered && rest.iter().all(|byte| *byte == 0)).then_some(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{PartitionId, RunNo};

    const IDS: RunIds = RunIds { cluster: 1, partition: PartitionId(2), run: RunNo(3) };

    fn layout(rows: u64, fingerprints: u64) -> Layout {
        Layout { offsets: Offset(10)..Offset(1_000_000), rows, fingerprints }
    }

    #[test]
    fn everything_has_its_place() {
        assert_eq!(layout(0, 0).file_len(), 2 * BLOCK, "an empty run");
        let layout = layout(84 * 60 * 2 + 1, 20_000);
        assert_eq!((layout.row_blocks(), layout.groups()), (121, 3));
        assert_eq!([119, 120, 121].map(|block| layout.rows_in(block)), [84, 1, 0]);
        assert_eq!(layout.directory_start(), 122);
        assert_eq!(layout.footer(), 122 + 1 + 1 + 10);
    }

    #[test]
    fn a_footer_fits_one_length_only() {
        let layout = layout(1_000, 5_000);
        let mut bytes = Vec::new();
        layout.encode_footer(IDS, &mut bytes);
        let len = layout.file_len();
        assert_eq!(Layout::decode_footer(&bytes, IDS, len), Ok(layout));
        for other in [len - BLOCK, len + BLOCK] {
            let fault = Layout::decode_footer(&bytes, IDS, other).expect_err("it is elsewhere");
            assert_eq!(fault.fault, BlockFault::Foreign);
        }
    }

    #[test]
    fn impossible_footers_are_refused() {
        for bad in [
            layout(RUN_ROWS_MAX + 1, 0),
            layout(u64::MAX, 0),
            layout(0, u64::MAX),
            layout(1_000_000, 0),
            Layout { offsets: Offset(9)..Offset(8), rows: 0, fingerprints: 0 },
            Layout { offsets: Offset(u64::MAX)..Offset(0), rows: 0, fingerprints: 0 },
        ] {
            let mut fields = [0; 64];
            let values = [bad.offsets.start.0, bad.offsets.end.0, bad.rows, bad.fingerprints];
            for (value, place) in values.iter().zip(fields.chunks_exact_mut(8)) {
                place.copy_from_slice(&value.to_le_bytes());
            }
            assert_eq!(Layout::decode(&fields), None, "{bad:?}");
        }
        let mut block = Vec::new();
        Layout::encode_header(IDS, &(Offset(10)..Offset(1_000_000)), &mut block);
        assert_eq!(layout(1, 12).check_header(&block, IDS), Ok(()));
        let other = Layout { offsets: Offset(11)..Offset(1_000_000), rows: 1, fingerprints: 12 };
        assert!(other.check_header(&block, IDS).is_err());
    }
}
