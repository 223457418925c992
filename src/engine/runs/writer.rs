//! Writes a run: records in, whole 4 KiB of the file out, in file order.
//!
//! ```text
//! new -> push ... push -> finish
//!           |  take_output()  |
//!           v                 v
//!        header, blocks     the rest, and the directory to be kept
//! ```
//! Holds the open block, the directory, and what was not taken yet. The file counts once all of it
//! is written and synced: its footer comes last.

use super::block::BlockBuilder;
use super::directory::{Directory, DirectoryBuilder};
use super::file::{Extent, Footer, HEADER};
use super::part::RunHead;
use super::record::{RunKey, RunRecord};
use crate::base::limits::RUN_OUTPUT_BYTES;
use crate::base::size::BLOCK;

/// Bytes of the file, to be written at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunChunk {
    /// First byte, a multiple of 4 KiB: the end of the chunk before.
    pub position: u64,
    /// A multiple of 4 KiB.
    pub bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct RunWriter {
    head: RunHead,
    block: BlockBuilder,
    directory: DirectoryBuilder,
    last: Option<RunKey>,
    records: u64,
    /// Bytes of the file that were taken.
    taken: u64,
    output: Vec<u8>,
}

impl RunWriter {
    /// Begins a run.
    ///
    /// # Panics
    /// If the range of offsets is turned round.
    #[must_use]
    pub fn new(head: RunHead) -> Self {
        assert!(head.first_offset <= head.end_offset, "a range of offsets");
        let mut output = Vec::new();
        head.encode(&mut output);
        assert_eq!(output.len() as u64, HEADER.len);
        let (block, directory) = (BlockBuilder::new(head.kind), DirectoryBuilder::new(head));
        Self { head, block, directory, last: None, records: 0, taken: 0, output }
    }

    /// What the run was begun with.
    #[must_use]
    pub fn head(&self) -> &RunHead {
        &self.head
    }

    /// Adds a record behind all others.
    ///
    /// # Panics
    /// If its key is not behind the last one's, its offset is not of this run, it is due before its
    /// `schedule_ts`, a length is over its limit, or a record of keys alone carries anything.
    pub fn push(&mut self, record: &RunRecord<'_>) {
        assert!(self.last < Some(record.key), "{:?} behind {:?}", record.key, self.last);
        assert!(record.is_valid(&self.head), "{:?} in {:?}", record.key, self.head);
        if !self.block.fits(record.blob_bytes()) {
            self.seal_block();
        }
        self.directory.record(&record.key, record.tombstone);
        self.block.push(record);
        self.last = Some(record.key);
        self.records += 1;
    }

    /// Records so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of the file so far, without the open block and the directory.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.taken + self.output.len() as u64
    }

    /// Whether so much is waiting to be taken that no more should be pushed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.output.len() >= RUN_OUTPUT_BYTES
    }

    /// What was finished since the last call, if anything.
    pub fn take_output(&mut self) -> Option<RunChunk> {
        let bytes = std::mem::take(&mut self.output);
        assert!((bytes.len() as u64).is_multiple_of(BLOCK), "parts are whole blocks");
        let position = self.taken;
        self.taken += bytes.len() as u64;
        (!bytes.is_empty()).then_some(RunChunk { position, bytes })
    }

    /// Ends the run: its directory, and the last bytes of its file.
    #[must_use]
    pub fn finish(mut self) -> (Directory, RunChunk) {
        if !self.block.is_empty() {
            self.seal_block();
        }
        let Self { head, directory, records, taken, mut output, .. } = self;
        let blocks_end = taken + output.len() as u64;
        let (directory, position) = directory.finish();
        assert_eq!(position, blocks_end, "the directory follows the last block");
        assert_eq!(directory.records(), records, "no record is lost on the way");
        directory.encode(&mut output);
        let len = taken + output.len() as u64 - position;
        Footer::encode(&mut output, &head, Extent { position, len });
        assert!((output.len() as u64).is_multiple_of(BLOCK), "parts are whole blocks");
        (directory, RunChunk { position: taken, bytes: output })
    }

    fn seal_block(&mut self) {
        let number = self.directory.block_number();
        let sealed = self.block.seal(&mut self.output, &self.head, number);
        self.directory.block(&sealed);
    }
}
