//! Sizes of the storage: the block that direct I/O and torn writes count in.

/// Unit of every direct read and write, bytes. Many devices say 512; 4 KiB is right for all.
pub const BLOCK: u64 = 4096;

/// `bytes` rounded up to whole blocks.
#[must_use]
pub fn block_ceil(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

/// `bytes` rounded down to whole blocks.
#[must_use]
pub fn block_floor(bytes: u64) -> u64 {
    bytes - bytes % BLOCK
}
