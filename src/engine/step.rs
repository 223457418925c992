//! What one step carries along: the time, the settings, and where effects go.

use std::collections::VecDeque;

use super::effect::Effect;
use super::jobs::places::Places;
use super::mesh::MeshMessage;
use super::space::Space;
use super::stats::EngineStats;
use super::turn::Turn;
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
    /// What the inputs of a turn share.
    pub turn: &'a mut Turn,
    /// The room that the disk has.
    pub space: &'a mut Space,
    /// Places for jobs of the shard.
    pub jobs: &'a mut Places,
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

    /// Tells members of the credit that has come back. False if there is none.
    pub fn send_credits(&mut self) -> bool {
        let mut any = false;
        while let Some((member, events)) = self.turn.next_credit() {
            any = true;
            let message = MeshMessage::Credit { subscription: member.subscription, events };
            self.send(member.shard, message);
        }
        any
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
