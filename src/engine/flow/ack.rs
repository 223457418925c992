//! The story of an ack, front half: verdicts to the owners of their events, one answer in order.
//!
//! The delivery id alone says where a verdict belongs; any connection of any shard may send it.

use crate::base::api::{AckOutcome, AckSpec, Reply};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Caller, Offset, PartitionId};
use crate::engine::front::{Front, Open};
use crate::engine::mesh::MeshMessage;
use crate::engine::step::Step;

/// Verdicts with answers outstanding.
#[derive(Debug)]
pub struct OpenAck {
    to: Caller,
    left: usize,
    outcomes: Vec<Option<AckOutcome>>,
}

impl Front {
    /// A session sends verdicts.
    pub(in crate::engine) fn ack(&mut self, step: &mut Step<'_>, from: Caller, acks: Vec<AckSpec>) {
        let count = step.config.partitions;
        let mut outcomes = vec![None; acks.len()];
        let mut by_partition: Vec<(PartitionId, Vec<(u32, AckSpec)>)> = Vec::new();
        let mut left = 0;
        for (place, ack) in acks.into_iter().enumerate() {
            let Some(partition) = ack.id.as_ref().map(|id| id.partition).filter(|p| p.0 < count)
            else {
                outcomes[place] = Some(unknown_delivery());
                continue;
            };
            left += 1;
            let item = (place as u32, ack);
            match by_partition.iter_mut().find(|(p, _)| *p == partition) {
                Some((_, list)) => list.push(item),
                None => by_partition.push((partition, vec![item])),
            }
        }
        if left == 0 {
            return step.reply(from, Reply::Acked(outcomes.into_iter().flatten().collect()));
        }
        let request = self.open(Open::Ack(OpenAck { to: from, left, outcomes }));
        for (partition, acks) in by_partition {
            step.send(step.owner(partition), MeshMessage::Ack { request, partition, acks });
        }
    }

    /// A partition has judged some of them.
    pub(in crate::engine) fn acked(
        &mut self,
        step: &mut Step<'_>,
        request: u64,
        outcomes: Vec<(u32, AckOutcome)>,
    ) {
        let Open::Ack(open) = self.opened(request) else {
            unreachable!("a verdict's answer belongs to an ack");
        };
        for (place, outcome) in outcomes {
            let before = open.outcomes[place as usize].replace(outcome);
            assert!(before.is_none(), "one outcome per verdict");
            open.left -= 1;
        }
        if open.left == 0 {
            let Open::Ack(open) = self.close(request) else { unreachable!() };
            let outcomes = open.outcomes.into_iter().map(|o| o.expect("all are in")).collect();
            step.reply(open.to, Reply::Acked(outcomes));
        }
    }
}

/// The answer to an id that names no delivery.
pub(super) fn unknown_delivery() -> AckOutcome {
    let error = ApiError::new(ErrorCode::NotFound, "unknown delivery_id");
    AckOutcome { result: Err(error), committed_offset: Offset(0) }
}
