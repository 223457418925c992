//! Makes checksums right: a fuzzer that has to guess a CRC never comes to what lies behind it.
//!
//! Layouts as in `engine/log/envelope.rs`, `engine/runs/part.rs` and `engine/dedup/block.rs`.

const BLOCK: usize = 4096;
/// Bytes of the head of an entry and of a part of a due run; its CRC is in the last four.
const HEAD: usize = 96;

/// The number at a place; zeros where there are no bytes.
#[must_use]
pub fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let byte = |i: usize| u64::from(bytes.get(at + i).copied().unwrap_or(0));
    (0..len).map(|i| byte(i) << (8 * i)).sum()
}

/// Every entry of a log, wherever one seems to begin.
pub fn mend_entries(bytes: &mut [u8]) {
    for at in (0..bytes.len().saturating_sub(HEAD - 1)).step_by(8) {
        if bytes[at..].starts_with(b"CDBe") {
            let len = number(bytes, at + 76, 4) as usize;
            if let Some(body) = bytes.get(at + HEAD..at + HEAD + len) {
                let crc = crc32fast::hash(body);
                bytes[at + 80..at + 84].copy_from_slice(&crc.to_le_bytes());
            }
            mend_head(&mut bytes[at..at + HEAD]);
        }
    }
}

/// Every part of a due run.
pub fn mend_parts(bytes: &mut [u8]) {
    for at in (0..bytes.len().saturating_sub(HEAD - 1)).step_by(BLOCK) {
        if bytes[at..].starts_with(b"CDBr") {
            let len = (HEAD + number(bytes, at + 84, 4) as usize).next_multiple_of(BLOCK);
            if let Some(body) = bytes.get(at + HEAD..at + len) {
                let crc = crc32fast::hash(body);
                bytes[at + 88..at + 92].copy_from_slice(&crc.to_le_bytes());
            }
            mend_head(&mut bytes[at..at + HEAD]);
        }
    }
}

/// Every block of a dedup run.
pub fn mend_blocks(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&block[..60]);
        crc.update(&block[64..]);
        block[60..64].copy_from_slice(&crc.finalize().to_le_bytes());
    }
}

/// The head of a checkpoint: its length and both of its checksums.
pub fn mend_checkpoint(bytes: &mut [u8]) {
    const HEAD: usize = 56;
    if bytes.len() < HEAD {
        return;
    }
    let (len, crc) = ((bytes.len() - HEAD) as u64, crc32fast::hash(&bytes[HEAD..]));
    bytes[32..40].copy_from_slice(&len.to_le_bytes());
    bytes[40..44].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..48]);
    bytes[48..52].copy_from_slice(&crc.to_le_bytes());
}

fn mend_head(head: &mut [u8]) {
    let crc = crc32fast::hash(&head[..HEAD - 4]);
    head[HEAD - 4..].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes of a file, as far as it has them.
#[must_use]
pub fn slice(file: &bytes::Bytes, position: u64, len: u64) -> bytes::Bytes {
    let end = position.saturating_add(len).min(file.len() as u64) as usize;
    file.slice(end.min(usize::try_from(position).unwrap_or(end))..end)
}
