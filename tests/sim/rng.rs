//! Seeded randomness of our own: xoshiro256++, seeded by SplitMix64.
//!
//! Each concern draws from a stream of its own ([`Salt`]), so that one more draw for the disk does
//! not change what the workload does. Same seed and salt, same numbers, on every machine.

/// Whose draws these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Salt {
    Profile = 1,
    Workload = 2,
    Disk = 3,
    Clock = 4,
    Crash = 5,
    Net = 6,
    Turn = 7,
    Replica = 8,
    Ids = 9,
    Space = 10,
    Retention = 11,
    Topics = 12,
}

/// One stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    pub fn new(seed: u64, salt: Salt) -> Self {
        let mut x = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ ((salt as u64) << 56);
        let state = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(x)
        });
        Self { state }
    }

    pub fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no number");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high);
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// A number in `low..=high`, small ones as likely as large ones of ten times the size.
    pub fn scale(&mut self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high);
        let octaves = u64::from((high / low).ilog2()) + 1;
        let base = low << self.below(octaves);
        self.between(base.min(high), (base * 2).min(high))
    }
}

/// One round of SplitMix64: a good hash of a number.
pub fn mix(x: u64) -> u64 {
    let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn streams_of_one_seed_are_independent_and_repeatable() {
    let draw = |salt| {
        let mut rng = Rng::new(7, salt);
        (0..8).map(|_| rng.next()).collect::<Vec<_>>()
    };
    assert_eq!(draw(Salt::Disk), draw(Salt::Disk));
    assert_ne!(draw(Salt::Disk), draw(Salt::Clock));
    let mut rng = Rng::new(1, Salt::Net);
    assert!((0..1_000).all(|_| (3..=9).contains(&rng.between(3, 9))));
    assert!((0..1_000).all(|_| (3..=900).contains(&rng.scale(3, 900))));
}
