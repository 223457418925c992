//! Weathers: profiles bent towards one kind of accident that plain seeds meet too seldom.
//!
//! A seed from 2^32 on is in a weather: its upper half is the weather's number, its lower half
//! counts. So a failing one is replayed like any other, with `scripts/sim.sh SEED`.

use std::ops::Range;

use chronosdb::base::config::FsyncMode;

use super::profile::Profile;

/// What a profile is bent towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Processes die while large entries are on their way to the disk, and the power goes soon
    /// after they have started again: what was readable and not durable is lost then.
    PowerLossAfterRestart = 1,
}

const ALL: [Weather; 1] = [Weather::PowerLossAfterRestart];

impl Weather {
    /// The weather of a seed; `None`: as it comes.
    pub fn of(seed: u64) -> Option<Self> {
        ALL.into_iter().find(|weather| *weather as u64 == seed >> 32)
    }

    /// The first `count` seeds in this weather.
    pub fn seeds(self, count: u32) -> Range<u64> {
        let first = (self as u64) << 32;
        first..first + u64::from(count)
    }

    /// Bends a profile.
    pub fn bend(self, profile: &mut Profile) {
        match self {
            Self::PowerLossAfterRestart => {
                profile.engine.fsync = FsyncMode::Batch;
                profile.engine.external_commit = false;
                profile.rot = false;
                profile.disk_max_us = 20_000;
                (profile.payload_max, profile.batch_max) = (5_000, 4);
                (profile.chaos_us, profile.events) = (10_000_000, 150);
                (profile.crashes, profile.drain_percent) = (16, 0);
                // The first death of a pair mostly spares the kernel's memory, the second never.
                (profile.power_percent, profile.again_percent) = (20, 50);
            }
        }
    }
}
