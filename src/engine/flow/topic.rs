//! The story of a topic's settings: asked of every partition, changed in all of them by an entry
//! each, answered once.
//!
//! ```text
//!   Topic(orders, keep 90 d) --> one message a partition --> an entry of settings --> applied
//!                            <-- what holds in each, durably
//! ```
//! A topic's retention is logical. A shorter one than the node's hides what is past it from
//! replays, and from groups that are created later; a longer one has flushes carry its events, so
//! that their segments may go. What a group has not settled is kept and delivered in any case.

use crate::base::api::{Reply, TopicSpec};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Caller, PartitionId, ShardId, TopicNo};
use crate::base::limits;
use crate::base::topic_retention::TopicRetention;
use crate::engine::flow::recover::Phase;
use crate::engine::front::{Front, Open};
use crate::engine::log::EntryKind;
use crate::engine::mesh::MeshMessage;
use crate::engine::partition::Partition;
use crate::engine::proposals::Waiter;
use crate::engine::step::Step;

/// A question, or a change, with partitions outstanding.
#[derive(Debug)]
pub struct OpenTopic {
    to: Caller,
    left: u16,
    held: Vec<(PartitionId, TopicRetention)>,
    failed: Option<ApiError>,
}

impl Front {
    /// A session asks for a topic's settings, or changes them.
    pub(in crate::engine) fn topic(&mut self, step: &mut Step<'_>, from: Caller, spec: &TopicSpec) {
        let left = step.config.partitions;
        let open = OpenTopic { to: from, left, held: Vec::new(), failed: None };
        let request = self.open(Open::Topic(open));
        for partition in (0..left).map(PartitionId) {
            let (owner, spec) = (step.owner(partition), spec.clone());
            step.send(owner, MeshMessage::Topic { request, partition, spec });
        }
    }

    /// A partition has answered.
    pub(in crate::engine) fn topic_is(
        &mut self,
        step: &mut Step<'_>,
        request: u64,
        partition: PartitionId,
        result: Result<TopicRetention, ApiError>,
    ) {
        let Open::Topic(open) = self.opened(request) else {
            unreachable!("settings belong to a question for them");
        };
        match result {
            Ok(retention) => open.held.push((partition, retention)),
            Err(error) => open.failed = open.failed.take().or(Some(error)),
        }
        open.left -= 1;
        if open.left > 0 {
            return;
        }
        let Open::Topic(mut open) = self.close(request) else { unreachable!() };
        open.held.sort_unstable();
        let reply = match open.failed {
            // Some partitions may have it: the same change again brings them together.
            Some(error) => Reply::Failed(error),
            None => Reply::Topic(open.held),
        };
        step.reply(open.to, reply);
    }
}

impl Partition {
    /// Answers what holds for a topic, once a change of it is durable.
    pub(in crate::engine) fn topic(
        &mut self,
        step: &mut Step<'_>,
        shard: ShardId,
        request: u64,
        spec: &TopicSpec,
    ) {
        let partition = self.id;
        match self.change_topic(shard, request, spec) {
            Ok(None) => {} // answered when it is applied
            Ok(Some(held)) => {
                step.send(shard, MeshMessage::TopicIs { request, partition, result: Ok(held) });
            }
            Err(error) => {
                step.send(shard, MeshMessage::TopicIs { request, partition, result: Err(error) });
            }
        }
    }

    fn change_topic(
        &mut self,
        shard: ShardId,
        request: u64,
        spec: &TopicSpec,
    ) -> Result<Option<TopicRetention>, ApiError> {
        let serves = if spec.retention.is_some() {
            self.is_serving()
        } else {
            matches!(self.phase, Phase::Serving | Phase::ReadOnly(_))
        };
        if !serves {
            let text = format!("partition {} is not serving; retry with backoff", self.id);
            return Err(ApiError::new(ErrorCode::Unavailable, text));
        }
        let Some(retention) = spec.retention else {
            let no = self.topics.number(&spec.topic);
            return Ok(Some(no.map_or(TopicRetention::Node, |no| self.topics.retention(no))));
        };
        if self.proposals.settings.body_bytes() >= limits::SETTINGS_BYTES {
            return Err(ApiError::at_capacity(self.id));
        }
        let no = self.topic_number(&spec.topic)?;
        self.proposals.settings.retain(no, retention);
        self.proposals.settings_waits.push(Waiter::Topic { shard, request, retention });
        Ok(None)
    }

    /// Makes an entry of the settings that are gathered. False if a roll must come first.
    pub(super) fn seal_settings(&mut self, step: &mut Step<'_>) -> bool {
        if self.proposals.settings.is_empty() {
            return true;
        }
        let new_topics: usize = self.proposals.new_topics.iter().map(|t| t.1.len() + 16).sum();
        if !self.fits(self.proposals.settings.body_bytes() + new_topics) {
            return false;
        }
        for (no, name) in std::mem::take(&mut self.proposals.new_topics) {
            self.proposals.settings.define_topic(no, &name);
        }
        let (base, append_ts) = self.stamp_beside_publishes(step);
        let body = self.proposals.settings.finish();
        let index = self.propose(EntryKind::Normal, base, append_ts, body);
        let waiters = std::mem::take(&mut self.proposals.settings_waits);
        self.proposals.wait(index, waiters);
        true
    }

    /// What of a topic is due before this is past its own time and hidden, Unix ms; 0: nothing.
    pub(super) fn hidden_before(&self, step: &Step<'_>, topic: TopicNo) -> u64 {
        let now = self.clock.peek(step.now).min(step.now.wall_ms());
        self.topics.retention(topic).passed_ms(now).unwrap_or(0)
    }

    /// What of a topic is due before this is past its time, Unix ms, as of the last look.
    pub(super) fn passed_of(&self, topic: TopicNo) -> u64 {
        let passed = self.topics.retention(topic).passed_ms(self.retention.now_ms);
        passed.unwrap_or(self.retention.passed_ms)
    }

    /// Topics of which the node would let go of events that they still want.
    pub(super) fn outliving<'a>(&'a self, step: &Step<'_>) -> impl Iterator<Item = TopicNo> + 'a {
        let (kept_ms, by_size) = (step.config.retention_ms, step.config.retention_bytes > 0);
        let topics = self.topics.retained();
        topics.filter(move |(_, kept)| kept.outlives(kept_ms, by_size)).map(|(no, _)| no)
    }
}
