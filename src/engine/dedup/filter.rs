//! Filters that know which ids a run can't have: one binary fuse filter of 16-bit fingerprints for
//! each group of at most 5,040 rows that lie side by side.
//!
//! Promise: no id of the group is ever missed; another passes with a chance of 2^-16. A group takes
//! 2.6 bytes an id, and 120 us to build: that is why the groups are small.
//!
//! The key is the hash's leading half, so keys are sorted as rows are. Where its fingerprints lie
//! and what they must add up to is part of the format of a run, and written out here; the filter
//! is built by `xorf`, and every key is looked up once before it counts as built.
//!
//! ```text
//! 0 seed u64 | 8 segment_len u32 | 12 starts u32          (16 bytes, and the fingerprints: u16)
//!
//!                        starts                 one segment more
//! fingerprints:  [ ......a.............. ][ segment ][ segment ]
//! a = a key's first place, anywhere in `starts`; the second and third lie one and two segments on,
//! each moved within its segment. The three fingerprints xor to the key's own.
//! ```

use crate::base::little_endian::{u32_at, u64_at};
use xorf::BinaryFuse16;

/// Keys of a filter at most.
pub(super) const FILTER_KEYS: usize = 5_040;
/// Fingerprints of a filter at most: bounds what the bytes of a file can ask for.
const FINGERPRINTS_MAX: u64 = 1 << 16;
/// Bytes of the encoded parameters.
pub(super) const SHAPE_BYTES: usize = 16;

/// The parameters of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilterShape {
    /// Mixed into each key.
    seed: u64,
    /// A power of two, or 0: a filter without fingerprints, which lets every key pass.
    segment_len: u32,
    /// Places where a key's first fingerprint may lie; whole segments.
    starts: u32,
}

impl FilterShape {
    /// Fingerprints that a filter of this shape has.
    pub(super) fn fingerprints(self) -> usize {
        self.starts as usize + 2 * self.segment_len as usize
    }

    pub(super) fn encode(self, into: &mut [u8]) {
        into[..8].copy_from_slice(&self.seed.to_le_bytes());
        into[8..12].copy_from_slice(&self.segment_len.to_le_bytes());
        into[12..SHAPE_BYTES].copy_from_slice(&self.starts.to_le_bytes());
    }

    /// `None` if no filter has this shape.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (segment_len, starts) = (u32_at(bytes, 8), u32_at(bytes, 12));
        let possible = if segment_len == 0 {
            starts == 0
        } else {
            segment_len.is_power_of_two() && starts > 0 && starts.is_multiple_of(segment_len)
        };
        let bounded = u64::from(starts) + 2 * u64::from(segment_len) <= FINGERPRINTS_MAX;
        let shape = Self { seed: u64_at(bytes, 0), segment_len, starts };
        (possible && bounded).then_some(shape)
    }

    fn touch(self, key: u64) -> Touch {
        let mixed = mix(key.wrapping_add(self.seed));
        let mask = self.segment_len.wrapping_sub(1);
        let first = ((u128::from(mixed) * u128::from(self.starts)) >> 64) as u32;
        let second = (first + self.segment_len) ^ ((mixed >> 18) as u32 & mask);
        let third = (first + 2 * self.segment_len) ^ (mixed as u32 & mask);
        let places = [first, second, third];
        Touch { places, fingerprint: (mixed ^ mixed >> 32) as u16 }
    }
}

/// What a key is judged by: three places, and what must come of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Touch {
    places: [u32; 3],
    fingerprint: u16,
}

/// The filter of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    shape: FilterShape,
    fingerprints: Box<[u16]>,
}

impl Filter {
    /// The filter of these keys, which rise strictly.
    ///
    /// # Panics
    /// If there are none, or too many.
    pub(super) fn build(keys: &[u64]) -> Self {
        assert!(!keys.is_empty() && keys.len() <= FILTER_KEYS, "a group has its bounds");
        assert!(keys.is_sorted_by(|key, next| key < next), "keys rise");
        let Ok(BinaryFuse16 { descriptor, fingerprints }) = BinaryFuse16::try_from(keys) else {
            // A thousand seeds failed: less likely than a broken memory, and no reason to lose ids.
            return Self::passing();
        };
        let shape = FilterShape {
            seed: descriptor.seed,
            segment_len: descriptor.segment_length,
            starts: descriptor.segment_count_length,
        };
        let filter = Self::new(shape, fingerprints);
        // A key that its filter misses is a duplicate that nobody sees: not left to another crate.
        assert!(keys.iter().all(|key| filter.may_contain(*key)), "a filter knows its keys");
        filter
    }

    /// A filter from its parts.
    ///
    /// # Panics
    /// If it has not as many fingerprints as its shape says.
    pub(super) fn new(shape: FilterShape, fingerprints: Box<[u16]>) -> Self {
        assert_eq!(fingerprints.len(), shape.fingerprints(), "a filter is whole");
        Self { shape, fingerprints }
    }

    fn passing() -> Self {
        Self {
            shape: FilterShape { seed: 0, segment_len: 0, starts: 0 },
            fingerprints: Box::new([]),
        }
    }

    /// Whether the group may have the key. If it has, it is always `true`.
    pub(super) fn may_contain(&self, key: u64) -> bool {
        self.holds(&self.touch(key))
    }

    /// Where to look for a key: arithmetic only, the fingerprints are not touched.
    pub(super) fn touch(&self, key: u64) -> Touch {
        self.shape.touch(key)
    }

    /// The second half of [`may_contain`](Self::may_contain): looks at the fingerprints.
    pub(super) fn holds(&self, touch: &Touch) -> bool {
        let xor = touch.places.iter().fold(touch.fingerprint, |xor, place| {
            xor ^ self.fingerprints.get(*place as usize).copied().unwrap_or_default()
        });
        xor == 0 || self.fingerprints.is_empty()
    }

    pub(super) fn shape(&self) -> FilterShape {
        self.shape
    }

    pub(super) fn fingerprints(&self) -> &[u16] {
        &self.fingerprints
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.fingerprints)
    }
}

/// The finalizer of MurmurHash3: a bijection, so distinct keys stay distinct.
fn mix(mut key: u64) -> u64 {
    key ^= key >> 33;
    key = key.wrapping_mul(0xff51_afd7_ed55_8ccd);
    key ^= key >> 33;
    key = key.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ key >> 33
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use xorf::Filter as _;

    use super::*;

    /// Distinct keys in rising order that look like chance.
    fn keys(count: u64, salt: u64) -> Vec<u64> {
        let keys: BTreeSet<u64> = (0..count).map(|n| mix(n ^ salt << 32)).collect();
        keys.into_iter().collect()
    }

    #[test]
    fn one_in_65_536_strangers_passes() {
        let filter = Filter::build(&keys(FILTER_KEYS as u64, 1));
        let strangers = 4_000_000;
        let passed = (0..strangers).filter(|n| filter.may_contain(mix(n ^ 2 << 32))).count();
        // 61 are expected; 8 standard deviations to either side.
        assert!((1..=123).contains(&passed), "{passed} of {strangers}");
    }

    #[test]
    fn a_full_filter_takes_less_than_three_bytes_a_key() {
        let filter = Filter::build(&keys(FILTER_KEYS as u64, 3));
        assert!(filter.memory_bytes() * 10 <= FILTER_KEYS * 27, "{}", filter.memory_bytes());
    }

    #[test]
    fn look_ups_are_those_of_the_crate_that_builds() {
        let keys = keys(777, 4);
        let theirs = BinaryFuse16::try_from(&keys).expect("distinct keys");
        let ours = Filter::build(&keys);
        for key in keys.iter().copied().chain(0..200_000) {
            assert_eq!(ours.may_contain(key), theirs.contains(&key), "{key}");
        }
    }

    #[test]
    fn a_filter_without_fingerprints_lets_everything_pass() {
        assert!((0..1_000).all(|key| Filter::passing().may_contain(key)));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (segment_len, starts, possible) in [
            (0, 0, true),
            (4, 4, true),
            (512, 512 * 11, true),
            (0, 4, false),
            (4, 0, false),
            (3, 6, false),
            (4, 6, false),
            (1 << 15, 1 << 15, false),
            (1 << 31, 1 << 31, false),
        ] {
            let mut bytes = [0; SHAPE_BYTES];
            FilterShape { seed: 9, segment_len, starts }.encode(&mut bytes);
            assert_eq!(FilterShape::decode(&bytes).is_some(), possible, "{segment_len} {starts}");
        }
    }

    proptest! {
        #[test]
        fn every_key_is_found(count in 1..400_u64, salt in any::<u32>(), dense in any::<bool>()) {
            let keys = if dense { (0..count).collect() } else { keys(count, u64::from(salt)) };
            let filter = Filter::build(&keys);
            let mut bytes = [0; SHAPE_BYTES];
            filter.shape().encode(&mut bytes);
            prop_assert_eq!(FilterShape::decode(&bytes), Some(filter.shape()));
            prop_assert!(keys.iter().all(|key| filter.may_contain(*key)));
        }

        #[test]
        fn no_place_lies_outside(seed in any::<u64>(), key in any::<u64>(), log in 0..14_u32) {
            let segment_len = 1 << log;
            for segments in 1..4 {
                let shape = FilterShape { seed, segment_len, starts: segments * segment_len };
                for place in shape.touch(key).places {
                    prop_assert!((place as usize) < shape.fingerprints());
                }
            }
        }
    }
}
