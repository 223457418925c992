//! The story of publishes that wait for jobs: what no run has yet is held in memory, so it must not
//! grow faster than flushes carry it away.
//!
//! ```text
//!  owner: its logs' unflushed bytes > BEHIND_MAX --> JobsBehind(true) to every front
//!  front: takes no publish while a shard is behind (drivers ask `Engine::takes_publishes`);
//!         acks, subscriptions and all else are taken as ever
//!  owner: below BEHIND_RESUME --> JobsBehind(false)
//! ```
//! Must hold: whoever is behind has a flush under way or can begin one, so it ends. What a start
//! has found unflushed is not counted: it holds nobody back, and can only become less.

use std::collections::BTreeMap;

use super::flush::flush_at;
use super::recover::Phase;
use crate::base::config::EngineConfig;
use crate::base::ids::{PartitionId, ShardId};
use crate::base::limits;
use crate::engine::front::Front;
use crate::engine::mesh::MeshMessage;
use crate::engine::partition::Partition;
use crate::engine::step::Step;

/// Tells every front when this shard's jobs fall far behind, and when they have caught up. Once per
/// turn.
pub(in crate::engine) fn tell_behind(
    partitions: &mut BTreeMap<PartitionId, Partition>,
    step: &mut Step<'_>,
) {
    let bytes: u64 = partitions.values_mut().map(Partition::growing_unflushed).sum();
    let percent = percent_behind(step.config, partitions.len(), bytes);
    let bound = if step.jobs.is_behind { limits::BEHIND_RESUME } else { limits::BEHIND_MAX };
    // Where the disk is full publishes are refused: none may wait for jobs that wait for space.
    let is_behind = percent > bound && !step.space.is_low();
    if is_behind == step.jobs.is_behind {
        return;
    }
    step.jobs.is_behind = is_behind;
    step.stats.held_back += u64::from(is_behind);
    for shard in (0..step.config.shards).map(ShardId) {
        step.send(shard, MeshMessage::JobsBehind { is_behind });
    }
}

/// Bytes that no run has, in percent of those at which all partitions would begin a flush.
pub(in crate::engine) fn percent_behind(config: &EngineConfig, owned: usize, bytes: u64) -> u64 {
    bytes.saturating_mul(100) / (flush_at(config) * owned.max(1) as u64)
}

impl Front {
    /// A shard's jobs are far behind, or have caught up.
    pub(in crate::engine) fn jobs_behind(&mut self, shard: ShardId, is_behind: bool) {
        let changed =
            if is_behind { self.behind.insert(shard) } else { self.behind.remove(&shard) };
        assert!(changed, "a shard tells each change once");
    }
}

impl Partition {
    /// Bytes of the log that no run has, but for those that a start has found.
    fn growing_unflushed(&mut self) -> u64 {
        if self.phase != Phase::Serving {
            return 0;
        }
        let unflushed = self.unflushed();
        self.horizon.inherited_bytes = self.horizon.inherited_bytes.min(unflushed);
        unflushed - self.horizon.inherited_bytes
    }
}
