//! Random numbers from a seed that is printed, so that a run can be told apart from another.

use chronosdb::base::time;

/// `SplitMix64`: small, and good enough to choose what a load does.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From the environment variable, or from the clock; says which.
    pub fn from_environment(variable: &str) -> Self {
        let given = std::env::var(variable).ok().map(|text| text.parse().expect("a number"));
        let seed = given.unwrap_or_else(time::wall_ms);
        println!("{variable}={seed}");
        Self::seeded(seed)
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is a number to choose");
        self.next() % end
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Another source, independent of this one.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
