//! For tests: the file of a run, in memory.

use std::ops::Range;

use super::RunWriter;
use super::{BlockRead, Claim, IdHash, Original, Row, RunDirectory, RunFault, RunIds, RunLoad};
use crate::base::ids::{Offset, PartitionId, RunNo, TopicNo};
use crate::base::size::BLOCK;

/// Ids of a run with this number.
pub(super) fn ids(run: u64) -> RunIds {
    RunIds { cluster: 0x0102_0304_0506_0708, partition: PartitionId(0x0a0b), run: RunNo(run) }
}

/// A hash that looks like chance.
pub(super) fn hash(n: u64) -> IdHash {
    let mix = |n: u64| {
        let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ n >> 31
    };
    let high = mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    IdHash { high, low: mix(high) }
}

/// The claim of the event at an offset.
pub(super) fn claim(offset: u64, weak: bool) -> Claim {
    let original = Original {
        offset: Offset(offset),
        schedule_ts: 7_000_000 + offset,
        append_ts: 5_000_000 + offset,
        topic: TopicNo(offset as u32 % 5),
    };
    Claim { original, weak }
}

/// Strong claims to ids `from..to`, the offset of each being its number; in the order of hashes.
pub(super) fn rows(range: Range<u64>) -> Vec<Row> {
    let mut rows: Vec<Row> = range.map(|n| Row { hash: hash(n), claim: claim(n, false) }).collect();
    rows.sort_by_key(|row| row.hash);
    rows
}

/// A run and its file.
pub(super) struct RunFile {
    pub(super) directory: RunDirectory,
    pub(super) bytes: Vec<u8>,
}

impl RunFile {
    /// Writes a run of rows that are in the order of their hashes.
    pub(super) fn write(ids: RunIds, offsets: Range<u64>, rows: &[Row]) -> Self {
        let mut bytes = Vec::new();
        let offsets = Offset(offsets.start)..Offset(offsets.end);
        let mut writer = RunWriter::new(ids, offsets, rows.len() as u64, &mut bytes);
        for row in rows {
            let before = bytes.len();
            writer.push(*row, &mut bytes);
            assert!(bytes.len() - before <= BLOCK as usize, "a push puts out one block at most");
        }
        let mut closing = writer.close(&mut bytes);
        loop {
            let before = bytes.len();
            let complete = closing.write(2, &mut bytes);
            assert!(bytes.len() - before <= 2 * BLOCK as usize, "no more than asked for");
            if complete {
                break;
            }
        }
        let directory = closing.directory();
        assert_eq!(bytes.len() as u64, directory.file_len());
        Self { directory, bytes }
    }
}

/// Loads a directory from a file.
pub(super) fn load(ids: RunIds, file: &[u8]) -> Result<RunDirectory, RunFault> {
    let mut load = RunLoad::new(ids, file.len() as u64)?;
    while let Some(read) = load.next_read() {
        load.feed(piece(file, read))?;
    }
    Ok(load.finish())
}

/// The bytes of a read.
pub(super) fn piece(file: &[u8], read: BlockRead) -> &[u8] {
    &file[read.position as usize..][..read.len as usize]
}

/// Looks an id up, as a server does.
pub(super) fn look_up(
    directory: &RunDirectory,
    file: &[u8],
    hash: IdHash,
) -> Result<Option<Row>, RunFault> {
    match directory.probe(hash) {
        Some(read) => directory.find(hash, read, piece(file, read)),
        None => Ok(None),
    }
}

/// Makes the checksum of a block right again.
pub(super) fn reseal(block: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block[..60]);
    crc.update(&block[64..]);
    block[60..64].copy_from_slice(&crc.finalize().to_le_bytes());
}
