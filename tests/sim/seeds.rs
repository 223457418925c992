//! Seeds that have found bugs: they run first, always. One line each, with what they found.

pub const REGRESSIONS: &[u64] = &[
    6_583,  // a deposed partition gave back credit for what its members still held
    7_634,  // after a start, an event ahead of the wall that waited for its retry was not noted
    7_529,  // the same, with the other partition on another shard
    10_148, // the same, on one shard
];
