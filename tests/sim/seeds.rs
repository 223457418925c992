//! Seeds that have found bugs: they run first, always. One line each, with what they found.

pub const REGRESSIONS: &[u64] = &[
    6_583,  // a deposed partition gave back credit for what its members still held
    7_634,  // after a start, an event ahead of the wall that waited for its retry was not noted
    7_529,  // the same, with the other partition on another shard
    10_148, // the same, on one shard
    106,    // a flush during a load: the load took its run for read
    121,    // what was published 50 days late was armed twice
    1_441,  // a group that had read ahead was taken for one that has more to read
    1_636,  // a merge dropped what had left the memory after it was loaded once
    1_923,  // after a merge a run's next due was an older run's
    12_420, // a new leadership took groups nobody had looked at yet for abandoned
    14_890, // a condemned process (the simulator's) waited for an effect to die at
    2_002,  // dead letters filled the head of each segment, so that nothing else fitted
];
