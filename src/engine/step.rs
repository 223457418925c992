//! What one step carries along: the time, the settings, and where effects go.

use std::collections::VecDeque;

use super::effect::Effect;
use super::mesh::MeshMessage;
use super::space::Space;
use super::stats::EngineStats;
use crate::base::api::Reply;
use crate::base::config::EngineConfig;
use crate::base::ids::{Caller, PartitionId, ShardId};
use crate::base::route;
use crate::base::time::Now;

/// See the module. Lives for one call of `Engine::step`.
pub struct Step<'a> {
    /// The clocks at the start of the step.
    pub now: Now,
    /// Settings of the node.
    pub config: &'a EngineConfig,
    /// The engine's own shard.
    pub shard: ShardId,
    /// Where effects go, in order.
    pub effects: &'a mut Vec<Effect>,
    /// Messages to the own shard, handled before the step ends.
    pub local: &'a mut VecDeque<MeshMessage>,
    /// The room that the disk has.
    pub space: &'a mut Space,
    /// Jobs of the shard that are under way.
    pub jobs: &'a mut usize,
    /// Counters.
    pub stats: &'a mut EngineStats,
}

impl Step<'_> {
    /// Tells a shard something; the own shard hears it within this step.
    pub fn send(&mut self, to: ShardId, message: MeshMessage) {
        if to == self.shard {
            self.local.push_back(message);
        } else {
            self.effects.push(Effect::Mesh { to, message });
        }
    }

    /// Answers a request.
    pub fn reply(&mut self, to: Caller, reply: Reply) {
        self.effects.push(Effect::Reply { to, reply });
    }

    /// The shard that owns a partition.
    pub fn owner(&self, partition: PartitionId) -> ShardId {
        route::shard_of(partition, self.config.shards)
    }
}
