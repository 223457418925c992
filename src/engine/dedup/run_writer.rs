//! Writes a run: rows in the order of their hashes go in, blocks of 4 KiB in the order of the file
//! come out, and at the end the directory, as [`RunLoad`] would read it back.
//!
//! ```text
//! RunWriter::new -> push ... push -> close -> RunClosing::write ... write -> directory
//!   header          rows                      index, filters, footer
//! ```
//! Whole blocks are appended to a buffer of the caller's, who writes and empties it whenever it
//! likes. No call takes more than about 150 us: each `push` fills at most one block and builds at
//! most one filter (5,040 rows). Memory held is the directory's, 2.7 bytes an id, and 44 KiB.
//!
//! The same rows make the same bytes. A file whose footer was not written is no run.
//!
//! [`RunLoad`]: super::run_load::RunLoad

use std::ops::Range;

use super::block::{BLOCK_BYTES, BLOCK_ROWS, BlockKind, HEAD_BYTES, RunIds, seal_block};
use super::filter::{FILTER_KEYS, Filter, SHAPE_BYTES};
use super::layout::{GROUP_BLOCKS, Layout, RUN_ROWS_MAX};
use super::row::{ROW_BYTES, Row, encode_row};
use super::run_directory::RunDirectory;
use crate::base::ids::Offset;

/// A run that takes rows.
#[derive(Debug)]
pub struct RunWriter {
    ids: RunIds,
    layout: Layout,
    /// The last row, which another claim to its id may still replace.
    pending: Option<Row>,
    /// The block that is being filled.
    block: Vec<u8>,
    firsts: Vec<u64>,
    /// Keys of the group that is being filled.
    keys: Vec<u64>,
    filters: Vec<Filter>,
}

impl RunWriter {
    /// Begins a run with the ids of `offsets`, and appends its header. `rows` is about how many
    /// there will be: memory for the index is set aside at once, so that no `push` has to move it.
    pub fn new(ids: RunIds, offsets: Range<Offset>, rows: u64, out: &mut Vec<u8>) -> Self {
        assert!(offsets.start <= offsets.end, "a range of offsets");
        assert!(rows <= RUN_ROWS_MAX, "a run has its bounds");
        Layout::encode_header(ids, &offsets, out);
        let blocks = rows.div_ceil(BLOCK_ROWS as u64) as usize;
        Self {
            ids,
            layout: Layout { offsets, rows: 0, fingerprints: 0 },
            pending: None,
            block: Vec::with_capacity(BLOCK_BYTES),
            firsts: Vec::with_capacity(blocks),
            keys: Vec::with_capacity(FILTER_KEYS),
            filters: Vec::with_capacity(blocks.div_ceil(GROUP_BLOCKS)),
        }
    }

    /// Takes the next row. Of rows with one hash the claim that prevails is written
    /// ([`Claim::prevailing`](super::Claim::prevailing)); so none of them may be dead.
    ///
    /// # Panics
    /// If hashes fall, or the event is none of the run's.
    pub fn push(&mut self, row: Row, out: &mut Vec<u8>) {
        let offset = row.claim.original.offset;
        assert!(self.layout.offsets.contains(&offset), "the run covers its events");
        match &mut self.pending {
            Some(last) if last.hash == row.hash => last.claim = last.claim.prevailing(row.claim),
            Some(last) => {
                assert!(last.hash < row.hash, "rows come in the order of their hashes");
                let last = std::mem::replace(last, row);
                self.write(&last, out);
            }
            None => self.pending = Some(row),
        }
    }

    /// Rows taken so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.layout.rows + u64::from(self.pending.is_some())
    }

    /// Ends the rows.
    #[must_use]
    pub fn close(mut self, out: &mut Vec<u8>) -> RunClosing {
        if let Some(last) = self.pending.take() {
            self.write(&last, out);
        }
        if !self.block.is_empty() {
            self.end_block(out);
        }
        if !self.keys.is_empty() {
            self.end_group();
        }
        let Self { ids, layout, firsts, filters, .. } = self;
        let next = layout.directory_start();
        let directory = RunDirectory::new(ids, layout, firsts, filters);
        RunClosing { directory, next, filter: 0, fingerprint: 0 }
    }

    fn write(&mut self, row: &Row, out: &mut Vec<u8>) {
        assert!(self.layout.rows < RUN_ROWS_MAX, "a run has its bounds");
        if self.block.is_empty() {
            self.block.resize(HEAD_BYTES, 0);
            self.firsts.push(row.hash.high);
        }
        let at = self.block.len();
        self.block.resize(at + ROW_BYTES, 0);
        encode_row(row, &mut self.block[at..]);
        self.layout.rows += 1;
        // Ids that share a key lie side by side.
        if self.keys.last() != Some(&row.hash.high) {
            self.keys.push(row.hash.high);
        }
        if self.block.len() == BLOCK_BYTES {
            self.end_block(out);
        }
    }

    fn end_block(&mut self, out: &mut Vec<u8>) {
        let count = (self.block.len() - HEAD_BYTES) / ROW_BYTES;
        let number = self.firsts.len() as u32;
        self.block.resize(BLOCK_BYTES, 0);
        seal_block(&mut self.block, self.ids, BlockKind::Rows, number, count);
        out.extend_from_slice(&self.block);
        self.block.clear();
        if self.firsts.len().is_multiple_of(GROUP_BLOCKS) {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        let filter = Filter::build(&self.keys);
        self.layout.fingerprints += filter.fingerprints().len() as u64;
        self.filters.push(filter);
        self.keys.clear();
    }
}

/// A run whose rows are written, and whose index, filters and footer are not.
#[derive(Debug)]
pub struct RunClosing {
    directory: RunDirectory,
    /// Number of the next block; one behind the footer when all are written.
    next: u32,
    /// The next fingerprint to be written: its filter, and its place in it.
    filter: usize,
    fingerprint: usize,
}

impl RunClosing {
    /// Appends the next blocks, at most `blocks`: whether the file is complete.
    pub fn write(&mut self, blocks: usize, out: &mut Vec<u8>) -> bool {
        for _ in 0..blocks {
            if self.is_complete() {
                break;
            }
            self.write_block(out);
            self.next += 1;
        }
        self.is_complete()
    }

    /// Whether the whole file was put out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.next > self.directory.layout().footer()
    }

    /// The directory of the run.
    ///
    /// # Panics
    /// If the file is not complete.
    #[must_use]
    pub fn directory(self) -> RunDirectory {
        assert!(self.is_complete(), "a run without a footer is none");
        self.directory
    }

    fn write_block(&mut self, out: &mut Vec<u8>) {
        let (ids, layout) = (self.directory.ids(), self.directory.layout().clone());
        let mut number = self.next - layout.directory_start();
        for kind in [BlockKind::Index, BlockKind::Groups, BlockKind::Fingerprints] {
            let blocks = layout.blocks(kind);
            if number >= blocks {
                number -= blocks;
                continue;
            }
            let before = number as usize * kind.block_items();
            let start = out.len();
            out.resize(start + BLOCK_BYTES, 0);
            let items = &mut out[start + HEAD_BYTES..];
            let count = match kind {
                BlockKind::Index => self.put_index(before, items),
                BlockKind::Groups => self.put_shapes(before, items),
                _ => self.put_fingerprints(items),
            };
            seal_block(&mut out[start..], ids, kind, self.next, count);
            return;
        }
        layout.encode_footer(ids, out);
    }

    fn put_index(&self, before: usize, items: &mut [u8]) -> usize {
        let firsts = self.directory.firsts()[before..].iter();
        firsts.zip(items.chunks_exact_mut(8)).fold(0, |count, (first, item)| {
            item.copy_from_slice(&first.to_le_bytes());
            count + 1
        })
    }

    fn put_shapes(&self, before: usize, items: &mut [u8]) -> usize {
        let filters = self.directory.filters()[before..].iter();
        filters.zip(items.chunks_exact_mut(SHAPE_BYTES)).fold(0, |count, (filter, item)| {
            filter.shape().encode(item);
            count + 1
        })
    }

    fn put_fingerprints(&mut self, items: &mut [u8]) -> usize {
        let mut count = 0;
        let mut places = items.chunks_exact_mut(2);
        while let Some(filter) = self.directory.filters().get(self.filter) {
            let rest = &filter.fingerprints()[self.fingerprint..];
            // Shorter first: `zip` would take a place that no fingerprint fills.
            for (fingerprint, place) in rest.iter().zip(places.by_ref()) {
                place.copy_from_slice(&fingerprint.to_le_bytes());
                self.fingerprint += 1;
                count += 1;
            }
            if self.fingerprint < filter.fingerprints().len() {
                break;
            }
            self.filter += 1;
            self.fingerprint = 0;
        }
        count
    }
}
