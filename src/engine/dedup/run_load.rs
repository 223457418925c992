//! Reads the directory of a run back from its file: the footer, which says where everything is,
//! the header, then index and filters in order. Rows are not read.
//!
//! A state machine: as long as [`RunLoad::next_read`] names a piece of the file, it is read and
//! [fed](RunLoad::feed); then [`RunLoad::finish`] has the directory. One piece is worked on in
//! about 50 us.

use super::block::{
    BLOCK_BYTES, BlockFault, BlockKind, FORMAT_VERSION, RunFault, RunIds, open_block,
};
use super::filter::{Filter, FilterShape, SHAPE_BYTES};
use super::layout::{BlockRead, Layout};
use super::run_directory::RunDirectory;
use crate::base::little_endian::{u16_at, u64_at};
use crate::base::size::BLOCK;

/// Blocks of one read.
const READ_BLOCKS: u32 = 64;

const _: () = assert!(FORMAT_VERSION == 1, "a new version needs its own way of being read");

/// The directory of a run, being read.
#[derive(Debug)]
pub struct RunLoad {
    ids: RunIds,
    file_len: u64,
    /// What the footer says, once it was read.
    layout: Option<Layout>,
    /// Number of the next block; 0 while the header was not read.
    next: u32,
    firsts: Vec<u64>,
    shapes: Vec<FilterShape>,
    /// Fingerprints that the shapes have.
    described: u64,
    /// Fingerprints of the filter that is next to be complete.
    fingerprints: Vec<u16>,
    filters: Vec<Filter>,
}

impl RunLoad {
    /// Begins to read the run `ids` from a file of `file_len` bytes.
    pub fn new(ids: RunIds, file_len: u64) -> Result<Self, RunFault> {
        let blocks = file_len / BLOCK;
        let whole = file_len.is_multiple_of(BLOCK);
        if !whole || blocks < 2 || blocks > u64::from(u32::MAX) {
            return Err(RunFault { block: 0, fault: BlockFault::Length });
        }
        Ok(Self {
            ids,
            file_len,
            layout: None,
            next: 0,
            firsts: Vec::new(),
            shapes: Vec::new(),
            described: 0,
            fingerprints: Vec::new(),
            filters: Vec::new(),
        })
    }

    /// The piece to be read next; `None` when the directory is complete.
    #[must_use]
    pub fn next_read(&self) -> Option<BlockRead> {
        let Some(layout) = &self.layout else {
            return Some(BlockRead { position: self.file_len - BLOCK, len: BLOCK });
        };
        if self.next == 0 {
            return Some(BlockRead::of_blocks(0..1));
        }
        let end = layout.footer().min(self.next + READ_BLOCKS);
        (self.next < end).then(|| BlockRead::of_blocks(self.next..end))
    }

    /// Takes the bytes of the piece that [`next_read`](Self::next_read) named.
    ///
    /// # Panics
    /// If it named none.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), RunFault> {
        let read = self.next_read().expect("only what was asked for is fed");
        if bytes.len() as u64 != read.len {
            return Err(RunFault { block: read.first_block(), fault: BlockFault::Length });
        }
        let Some(layout) = self.layout.take() else {
            let layout = Layout::decode_footer(bytes, self.ids, self.file_len)?;
            // Bounded by the length of a file that is there.
            self.firsts.reserve_exact(layout.row_blocks() as usize);
            self.filters.reserve_exact(layout.groups() as usize);
            self.layout = Some(layout);
            return Ok(());
        };
        if self.next == 0 {
            layout.check_header(bytes, self.ids)?;
            self.next = layout.directory_start();
        } else {
            for block in bytes.chunks_exact(BLOCK_BYTES) {
                self.take(&layout, block)?;
                self.next += 1;
            }
        }
        self.layout = Some(layout);
        Ok(())
    }

    /// The directory.
    ///
    /// # Panics
    /// If it is not complete.
    #[must_use]
    pub fn finish(self) -> RunDirectory {
        assert!(self.next_read().is_none(), "everything was read");
        let layout = self.layout.expect("the footer was read");
        RunDirectory::new(self.ids, layout, self.firsts, self.filters)
    }

    /// Takes the next block of index or filters.
    fn take(&mut self, layout: &Layout, block: &[u8]) -> Result<(), RunFault> {
        let mut number = self.next - layout.directory_start();
        for kind in [BlockKind::Index, BlockKind::Groups, BlockKind::Fingerprints] {
            let blocks = layout.blocks(kind);
            if number >= blocks {
                number -= blocks;
                continue;
            }
            let items = open_block(block, self.ids, kind, self.next)?;
            let before = u64::from(number) * kind.block_items() as u64;
            let expected = (layout.items(kind) - before).min(kind.block_items() as u64);
            let last = number + 1 == blocks;
            let right = (items.len() / kind.item_bytes()) as u64 == expected
                && match kind {
                    BlockKind::Index => self.take_index(items),
                    BlockKind::Groups => self.take_shapes(items, last, layout.fingerprints),
                    _ => self.take_fingerprints(items),
                };
            let field = RunFault { block: self.next, fault: BlockFault::Field };
            return if right { Ok(()) } else { Err(field) };
        }
        unreachable!("no read goes beyond the fingerprints")
    }

    /// Whether they go on where the last ones ended.
    fn take_index(&mut self, items: &[u8]) -> bool {
        let from = self.firsts.len().saturating_sub(1);
        self.firsts.extend(items.chunks_exact(8).map(|first| u64_at(first, 0)));
        self.firsts[from..].is_sorted()
    }

    /// Whether all are possible, and have as many fingerprints as there are.
    fn take_shapes(&mut self, items: &[u8], last: bool, fingerprints: u64) -> bool {
        for shape in items.chunks_exact(SHAPE_BYTES) {
            let Some(shape) = FilterShape::decode(shape) else { return false };
            self.described += shape.fingerprints() as u64;
            self.shapes.push(shape);
        }
        if last {
            self.complete_filters();
        }
        if last { self.described == fingerprints } else { self.described <= fingerprints }
    }

    /// Whether some filter lacks each of them.
    fn take_fingerprints(&mut self, mut items: &[u8]) -> bool {
        while !items.is_empty() {
            let Some(shape) = self.shapes.get(self.filters.len()) else { return false };
            let missing = shape.fingerprints() - self.fingerprints.len();
            let (these, rest) = items.split_at(items.len().min(2 * missing));
            self.fingerprints.reserve_exact(missing);
            self.fingerprints.extend(these.chunks_exact(2).map(|item| u16_at(item, 0)));
            self.complete_filters();
            items = rest;
        }
        true
    }

    /// Makes filters of what has gathered; of those without fingerprints too.
    fn complete_filters(&mut self) {
        while let Some(shape) = self.shapes.get(self.filters.len())
            && shape.fingerprints() == self.fingerprints.len()
        {
            let fingerprints = std::mem::take(&mut self.fingerprints).into_boxed_slice();
            self.filters.push(Filter::new(*shape, fingerprints));
        }
    }
}
