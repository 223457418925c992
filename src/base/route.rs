//! Which partition an event belongs to. Clients compute the same, bit for bit.

use super::ids::{PartitionId, ShardId};

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, 64 bit (Fowler, Noll, Vo).
#[must_use]
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    fnv1a_64_continued(FNV_OFFSET, bytes)
}

/// The hash of what `hash` is the hash of, and `bytes` behind it: for keys that share a beginning.
#[must_use]
pub fn fnv1a_64_continued(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The partition of a routing key (`meta.partition_key`, else the `message_id`).
///
/// # Panics
/// If `partitions` is 0.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u16) -> PartitionId {
    assert!(partitions > 0, "a data directory has at least one partition");
    PartitionId((fnv1a_64(key) % u64::from(partitions)) as u16)
}

/// The shard that owns a partition on a node of `shards` shards.
#[must_use]
pub fn shard_of(partition: PartitionId, shards: u16) -> ShardId {
    assert!(shards > 0, "a node has at least one shard");
    ShardId(partition.0 % shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_matches_the_published_vectors() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(fnv1a_64_continued(fnv1a_64(b"foo"), b"bar"), fnv1a_64(b"foobar"));
    }

    #[test]
    fn every_partition_has_one_shard() {
        for partition in 0..16 {
            assert!(shard_of(PartitionId(partition), 3).0 < 3);
        }
    }
}
