//! The head of an entry on this replica's disk: the local envelope and the replicated header, in
//! 96 bytes, little endian.
//!
//! ```text
//!  0 magic u32 | 4 version u16 | 6 kind u8 | 7 zero | 8 cluster u64 | 16 partition u16 | 18 zero
//! 20 count u32 | 24 segment u64 | 32 synced_index u64 | 40 term u64 | 48 index u64
//! 56 base_offset u64 | 64 append_ts u64 | 72 chain u32 | 76 body_len u32 | 80 body_crc u32
//! 84 zero [8] | 92 header_crc u32: CRC32 of bytes 0 to 91
//! ```
//!
//! An entry starts at a multiple of 8; its body follows the head and is padded with zeros to a
//! multiple of 8. Cluster, partition and segment are in every envelope so that a misdirected or
//! stale block is never taken for ours.

use super::entry::{EntryHeader, EntryKind};
use crate::base::ids::{Index, Offset, PartitionId, Term};
use crate::base::limits::ENTRY_BODY_BYTES;
use crate::base::little_endian::{u16_at, u32_at, u64_at};

/// Bytes of an encoded head.
pub const HEAD_BYTES: usize = 96;
/// Entries start at multiples of this.
pub const ENTRY_ALIGN: u64 = 8;
/// First bytes of every entry: "CDBe".
pub const MAGIC: [u8; 4] = *b"CDBe";
/// The format this code writes and reads.
pub const FORMAT_VERSION: u16 = 1;

const _: () = assert!((HEAD_BYTES as u64).is_multiple_of(ENTRY_ALIGN), "a body starts aligned");

/// Whose log this is; in every envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Random number of the data directory.
    pub cluster: u64,
    /// Partition.
    pub partition: PartitionId,
}

/// The local frame of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Random number of the data directory.
    pub cluster: u64,
    /// Partition.
    pub partition: PartitionId,
    /// Segment the entry lies in, by its first index.
    pub segment: Index,
    /// Highest index known durable when the entry's write was submitted; below its own index.
    pub synced_index: Index,
    /// Length of the body, bytes, without padding.
    pub body_len: u32,
    /// CRC32 (IEEE) of the body.
    pub body_crc: u32,
}

impl Envelope {
    /// Bytes the entry takes on disk.
    #[must_use]
    pub fn entry_len(&self) -> u64 {
        entry_len(self.body_len as usize)
    }
}

/// Bytes that an entry with a body of `body_len` bytes takes on disk.
#[must_use]
pub fn entry_len(body_len: usize) -> u64 {
    (HEAD_BYTES as u64 + body_len as u64).next_multiple_of(ENTRY_ALIGN)
}

/// Why 96 bytes are no head of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Zeros: nothing was ever written here.
    Blank,
    /// Fewer bytes than a head has, or other bytes than the magic.
    Magic,
    /// The CRC does not match.
    Crc,
    /// A newer version, whole and sound. Never to be cut: a newer program wrote it.
    Version(u16),
    /// The CRC matches, yet a field can't be: kind, reserved bytes, length or synced index.
    Field,
}

/// Writes the head of an entry.
///
/// # Panics
/// If `synced_index` is not below the entry's own index, or the body is over its limit.
#[must_use]
pub fn encode_head(envelope: &Envelope, header: &EntryHeader) -> [u8; HEAD_BYTES] {
    assert!(envelope.synced_index < header.index, "an entry can't be durable before its write");
    assert!(envelope.body_len as usize <= ENTRY_BODY_BYTES, "the body is within its limit");
    let mut head = [0_u8; HEAD_BYTES];
    head[0..4].copy_from_slice(&MAGIC);
    head[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    head[6] = header.kind as u8;
    head[8..16].copy_from_slice(&envelope.cluster.to_le_bytes());
    head[16..18].copy_from_slice(&envelope.partition.0.to_le_bytes());
    head[20..24].copy_from_slice(&header.count.to_le_bytes());
    head[24..32].copy_from_slice(&envelope.segment.0.to_le_bytes());
    head[32..40].copy_from_slice(&envelope.synced_index.0.to_le_bytes());
    head[40..48].copy_from_slice(&header.term.0.to_le_bytes());
    head[48..56].copy_from_slice(&header.index.0.to_le_bytes());
    head[56..64].copy_from_slice(&header.base_offset.0.to_le_bytes());
    head[64..72].copy_from_slice(&header.append_ts.to_le_bytes());
    head[72..76].copy_from_slice(&header.chain.to_le_bytes());
    head[76..80].copy_from_slice(&envelope.body_len.to_le_bytes());
    head[80..84].copy_from_slice(&envelope.body_crc.to_le_bytes());
    let crc = crc32fast::hash(&head[..92]);
    head[92..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Reads the head of an entry from the first bytes of `bytes`.
pub fn decode_head(bytes: &[u8]) -> Result<(Envelope, EntryHeader), HeadError> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(HeadError::Magic)?;
    if head[..4] != MAGIC {
        return Err(if head.iter().all(|b| *b == 0) { HeadError::Blank } else { HeadError::Magic });
    }
    if crc32fast::hash(&head[..92]) != u32_at(head, 92) {
        return Err(HeadError::Crc);
    }
    let version = u16_at(head, 4);
    if version != FORMAT_VERSION {
        return Err(HeadError::Version(version));
    }
    let envelope = Envelope {
        cluster: u64_at(head, 8),
        partition: PartitionId(u16_at(head, 16)),
        segment: Index(u64_at(head, 24)),
        synced_index: Index(u64_at(head, 32)),
        body_len: u32_at(head, 76),
        body_crc: u32_at(head, 80),
    };
    let header = EntryHeader {
        kind: EntryKind::from_number(head[6]).ok_or(HeadError::Field)?,
        term: Term(u64_at(head, 40)),
        index: Index(u64_at(head, 48)),
        chain: u32_at(head, 72),
        base_offset: Offset(u64_at(head, 56)),
        count: u32_at(head, 20),
        append_ts: u64_at(head, 64),
    };
    let reserved = head[7] == 0 && head[18..20] == [0; 2] && head[84..92] == [0; 8];
    // Bounds that keep the arithmetic of every reader from overflowing.
    let bounded = envelope.body_len as usize <= ENTRY_BODY_BYTES
        && header.index.0 < u64::MAX
        && header.base_offset.0.checked_add(u64::from(header.count)).is_some();
    let ordered = envelope.synced_index < header.index && envelope.segment <= header.index;
    if reserved && bounded && ordered { Ok((envelope, header)) } else { Err(HeadError::Field) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> (Envelope, EntryHeader) {
        let envelope = Envelope {
            cluster: 0x0102_0304_0506_0708,
            partition: PartitionId(0x0a0b),
            segment: Index(17),
            synced_index: Index(41),
            body_len: 1_000,
            body_crc: 0xdead_beef,
        };
        let header = EntryHeader {
            kind: EntryKind::Normal,
            term: Term(5),
            index: Index(42),
            chain: 0xcafe_f00d,
            base_offset: Offset(123_456),
            count: 7,
            append_ts: 1_763_800_000_000,
        };
        (envelope, header)
    }

    #[test]
    fn golden_head_of_version_1() {
        let (envelope, header) = sample();
        let head = encode_head(&envelope, &header);
        let golden = include_bytes!("../../../tests/golden/head.v1.bin");
        assert_eq!(head.as_slice(), golden, "format v1 never changes");
        assert_eq!(decode_head(golden), Ok((envelope, header)));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (envelope, header) = sample();
        let head = encode_head(&envelope, &header);
        for bit in 0..HEAD_BYTES * 8 {
            let mut bad = head;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_head(&bad).is_err(), "bit {bit}");
        }
        for len in 0..HEAD_BYTES {
            assert_eq!(decode_head(&head[..len]), Err(HeadError::Magic));
        }
    }

    #[test]
    fn blank_newer_and_impossible_heads_are_told_apart() {
        assert_eq!(decode_head(&[0; HEAD_BYTES]), Err(HeadError::Blank));
        let (envelope, header) = sample();
        let resealed = |change: &dyn Fn(&mut [u8; HEAD_BYTES])| {
            let mut head = encode_head(&envelope, &header);
            change(&mut head);
            let crc = crc32fast::hash(&head[..92]);
            head[92..].copy_from_slice(&crc.to_le_bytes());
            decode_head(&head)
        };
        assert_eq!(resealed(&|head| head[4] = 2), Err(HeadError::Version(2)));
        assert_eq!(resealed(&|head| head[6] = 9), Err(HeadError::Field));
        assert_eq!(resealed(&|head| head[7] = 1), Err(HeadError::Field));
        assert_eq!(resealed(&|head| head[32] = 42), Err(HeadError::Field));
        assert_eq!(resealed(&|head| head[79] = 0xff), Err(HeadError::Field));
        assert!(resealed(&|_| ()).is_ok());
    }

    proptest! {
        #[test]
        fn heads_round_trip(
            ids in (any::<u64>(), any::<u16>()), term in any::<u64>(), index in 1..u64::MAX,
            back in 0_u64..100, synced in 1_u64..100, count in any::<u32>(),
            offset in 0..u64::MAX / 2, append_ts in any::<u64>(), chain in any::<u32>(),
            body in (0..ENTRY_BODY_BYTES as u32, any::<u32>()),
        ) {
            let envelope = Envelope {
                cluster: ids.0,
                partition: PartitionId(ids.1),
                segment: Index(index.saturating_sub(back)),
                synced_index: Index(index.saturating_sub(synced)),
                body_len: body.0,
                body_crc: body.1,
            };
            let header = EntryHeader {
                kind: EntryKind::NoOp, term: Term(term), index: Index(index), chain,
                base_offset: Offset(offset), count, append_ts,
            };
            let head = encode_head(&envelope, &header);
            prop_assert_eq!(decode_head(&head), Ok((envelope, header)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_head(&bytes);
        }
    }
}
