//! Seeds that have found bugs: they run first, always. One line each, with what they found.

pub const REGRESSIONS: &[u64] = &[];
