//! The story of an ack, front half: verdicts to the owners of their events, one answer in order.
//!
//! The delivery id alone says where a verdict belongs; any connection of any shard may send it.

use std::sync::Arc;

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

/// The verdicts of a request on events of one partition.
struct Part {
    partition: PartitionId,
    /// The last group that was named, as the request has it and as it is sent on.
    group: Option<(Arc<str>, Arc<str>)>,
    acks: Vec<(u32, AckSpec)>,
}

impl Part {
    /// The owner may be on another core, and lets go of each verdict there: a name that all
    /// partitions share would be taken by one core from the other for each of them.
    fn push(&mut self, place: u32, mut ack: AckSpec) {
        let id = ack.id.as_mut().expect("of a partition");
        match &self.group {
            Some((theirs, own)) if Arc::ptr_eq(theirs, &id.group) => id.group = Arc::clone(own),
            _ => {
                let own: Arc<str> = Arc::from(&*id.group);
                let theirs = std::mem::replace(&mut id.group, Arc::clone(&own));
                self.group = Some((theirs, own));
            }
        }
        self.acks.push((place, ack));
    }
}

impl Front {
    /// A session sends verdicts.
    pub(in crate::engine) fn ack(&mut self, step: &mut Step<'_>, from: Caller, acks: Vec<AckSpec>) {
        let count = step.config.partitions;
        let mut outcomes = vec![None; acks.len()];
        let mut by_partition: Vec<Part> = Vec::new();
        let mut left = 0;
        for (place, ack) in acks.into_iter().enumerate() {
            let Some(partition) = ack.id.as_ref().map(|id| id.partition).filter(|p| p.0 < count)
            else {
                outcomes[place] = Some(unknown_delivery());
                continue;
            };
            left += 1;
            let at = by_partition.iter().position(|part| part.partition == partition);
            let at = at.unwrap_or_else(|| {
                by_partition.push(Part { partition, group: None, acks: Vec::new() });
                by_partition.len() - 1
            });
            by_partition[at].push(place as u32, ack);
        }
        if left == 0 {
            return step.reply(from, Reply::Acked(outcomes.into_iter().flatten().collect()));
        }
        let request = self.open(Open::Ack(OpenAck { to: from, left, outcomes }));
        for Part { partition, acks, .. } in by_partition {
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
