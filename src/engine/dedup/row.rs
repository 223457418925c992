//! A row of a dedup run: one id and the event that claims it, in 48 bytes, little endian but for
//! the hash.
//!
//! ```text
//!  0 hash [16], high half first, big endian: the order of bytes is the order of hashes
//! 16 offset u64 | 24 schedule_ts u64 | 32 append_ts u64 | 40 topic u32
//! 44 flags u32: bit 0 = published with allow_duplicate; the others are zero
//! ```
//!
//! A run has one row for a hash. Of several living claims to one id the one that [prevails] is
//! kept: the newest strong one, else the oldest weak one.
//!
//! [prevails]: Claim::prevailing

use super::window::{IdHash, Original};
use crate::base::ids::{Offset, TopicNo};
use crate::base::little_endian::{u32_at, u64_at};

/// Bytes of an encoded row.
pub const ROW_BYTES: usize = 48;

const WEAK: u32 = 1;

/// What one publish says of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The event that was published.
    pub original: Original,
    /// Published with `allow_duplicate`: it takes the id only while nobody living has it. A claim
    /// that is not weak is strong: when it was made, nobody living had the id.
    pub weak: bool,
}

impl Claim {
    /// Which of two *living* claims to one id is remembered: the newest strong one, else the
    /// oldest weak one.
    ///
    /// Both must be alive at one moment: a dead strong claim would hide a living weak one that
    /// came after its death.
    #[must_use]
    pub fn prevailing(self, other: Self) -> Self {
        let (older, newer) = if self.original.offset <= other.original.offset {
            (self, other)
        } else {
            (other, self)
        };
        if newer.weak { older } else { newer }
    }
}

/// An id, by its hash, and who claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The id.
    pub hash: IdHash,
    /// The publish that has it.
    pub claim: Claim,
}

/// The hash of an encoded row.
pub(super) fn decode_hash(row: &[u8]) -> IdHash {
    IdHash { high: u64_at(row, 0).swap_bytes(), low: u64_at(row, 8).swap_bytes() }
}

/// Writes a row into 48 bytes.
pub(super) fn encode_row(row: &Row, into: &mut [u8]) {
    let Row { hash, claim: Claim { original, weak } } = row;
    into[..16].copy_from_slice(&hash.to_bytes());
    into[16..24].copy_from_slice(&original.offset.0.to_le_bytes());
    into[24..32].copy_from_slice(&original.schedule_ts.to_le_bytes());
    into[32..40].copy_from_slice(&original.append_ts.to_le_bytes());
    into[40..44].copy_from_slice(&original.topic.0.to_le_bytes());
    into[44..ROW_BYTES].copy_from_slice(&(u32::from(*weak) * WEAK).to_le_bytes());
}

/// Reads 48 bytes. `None` if they have a flag that this version does not know.
pub(super) fn decode_row(row: &[u8]) -> Option<Row> {
    let original = Original {
        offset: Offset(u64_at(row, 16)),
        schedule_ts: u64_at(row, 24),
        append_ts: u64_at(row, 32),
        topic: TopicNo(u32_at(row, 40)),
    };
    let flags = u32_at(row, 44);
    let claim = Claim { original, weak: flags == WEAK };
    (flags <= WEAK).then(|| Row { hash: decode_hash(row), claim })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(offset: u64, weak: bool) -> Claim {
        let original =
            Original { offset: Offset(offset), schedule_ts: 0, append_ts: 0, topic: TopicNo(0) };
        Claim { original, weak }
    }

    #[test]
    fn the_newest_strong_claim_prevails_else_the_oldest_weak_one() {
        let [strong, weak] = [false, true];
        for (old, new, newer_wins) in [
            (strong, strong, true),
            (weak, strong, true),
            (strong, weak, false),
            (weak, weak, false),
        ] {
            let (older, newer) = (claim(1, old), claim(2, new));
            let expected = if newer_wins { newer } else { older };
            assert_eq!(older.prevailing(newer), expected);
            assert_eq!(newer.prevailing(older), expected, "the order asked in is no matter");
        }
    }

    proptest! {
        #[test]
        fn rows_round_trip_and_keep_their_order(
            hash in any::<(u64, u64)>(), other in any::<(u64, u64)>(), weak in any::<bool>(),
            times in any::<(u64, u64)>(), offset in any::<u64>(), topic in any::<u32>(),
        ) {
            let original = Original {
                offset: Offset(offset),
                schedule_ts: times.0,
                append_ts: times.1,
                topic: TopicNo(topic),
            };
            let row = Row {
                hash: IdHash { high: hash.0, low: hash.1 },
                claim: Claim { original, weak },
            };
            let mut bytes = [0; ROW_BYTES];
            encode_row(&row, &mut bytes);
            prop_assert_eq!(decode_row(&bytes), Some(row));
            let mut behind = bytes;
            let hash = IdHash { high: other.0, low: other.1 };
            encode_row(&Row { hash, ..row }, &mut behind);
            prop_assert_eq!(bytes[..16].cmp(&behind[..16]), row.hash.cmp(&hash));
            behind[44] |= 2;
            prop_assert_eq!(decode_row(&behind), None);
        }
    }
}
