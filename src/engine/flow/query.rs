//! The story of a question about partitions: asked of every shard, answered once, sorted.

use crate::base::api::{PartitionStatus, Reply};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Caller, PartitionId, ShardId};
use crate::engine::front::{Front, Open};
use crate::engine::mesh::MeshMessage;
use crate::engine::step::Step;

/// A question with shards outstanding.
#[derive(Debug)]
pub struct OpenStatus {
    to: Caller,
    shards_left: u16,
    partitions: Vec<PartitionStatus>,
}

impl Front {
    /// A session asks for the state of one partition, or of all.
    pub(in crate::engine) fn status(
        &mut self,
        step: &mut Step<'_>,
        from: Caller,
        partition: Option<PartitionId>,
    ) {
        if let Some(partition) = partition.filter(|p| p.0 >= step.config.partitions) {
            let text = format!("partition_id {partition} does not exist");
            let error = ApiError::new(ErrorCode::NotFound, text);
            return step.reply(from, Reply::Failed(error));
        }
        let shards: Vec<ShardId> = match partition {
            Some(partition) => vec![step.owner(partition)],
            None => (0..step.config.shards).map(ShardId).collect(),
        };
        let open =
            OpenStatus { to: from, shards_left: shards.len() as u16, partitions: Vec::new() };
        let request = self.open(Open::Status(open));
        for shard in shards {
            step.send(shard, MeshMessage::Status { request, partition });
        }
    }

    /// A shard has answered.
    pub(in crate::engine) fn status_is(
        &mut self,
        step: &mut Step<'_>,
        request: u64,
        partitions: Vec<PartitionStatus>,
    ) {
        let Open::Status(open) = self.opened(request) else {
            unreachable!("a status belongs to a question");
        };
        open.partitions.extend(partitions);
        open.shards_left -= 1;
        if open.shards_left == 0 {
            let Open::Status(mut open) = self.close(request) else { unreachable!() };
            open.partitions.sort_by_key(|status| status.partition);
            step.reply(open.to, Reply::Partitions(open.partitions));
        }
    }
}
