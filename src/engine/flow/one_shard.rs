//! For tests: one engine on a disk that does everything at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::base::api::{
    EventSpan, PartitionSet, PublishMessage, Request, Span, Start, SubscribeSpec,
};
use crate::base::config::EngineConfig;
use crate::base::ids::{Caller, PartitionId, SessionId, ShardId};
use crate::base::limits;
use crate::base::time::Now;
use crate::engine::checkpoint::Found;
use crate::engine::mesh::MeshMessage;
use crate::engine::{Effect, Engine, Input};

pub const NOW: Now = Now { wall_us: 1_790_000_000_000_000, boot_us: 1_000_000 };
/// The first shard's.
pub const PARTITION: PartitionId = PartitionId(0);

/// A key of [`PARTITION`], of one or two.
const KEY: &str = "a";

/// The first of so many shards, each with one partition.
pub struct Shard {
    pub engine: Engine,
    pub now: Now,
    published: u64,
    /// What other shards have been told.
    pub told: Vec<MeshMessage>,
    /// Offsets delivered to each stream.
    pub delivered: BTreeMap<u64, Vec<u64>>,
}

impl Shard {
    pub fn of(shards: u16) -> Self {
        let config = EngineConfig { partitions: shards, shards, ..EngineConfig::default() };
        let engine = Engine::new(config, ShardId(0));
        let (told, delivered) = (Vec::new(), BTreeMap::new());
        let mut shard = Self { engine, now: NOW, published: 0, told, delivered };
        let (partition, checkpoints, segments) = (PARTITION, Found::default(), Vec::new());
        shard.give(Input::Mount { partition, segments, hard_state: None, checkpoints });
        shard
    }

    /// An input and all that follows from it; then the turn ends, once.
    pub fn turn(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            inputs.extend(self.step(input));
        }
        let late = self.step(Input::TurnEnd);
        for input in late {
            self.step(input);
        }
    }

    /// As [`Self::turn`], until nothing is on its way to the disk.
    pub fn give(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        loop {
            let turn_ends = inputs.is_empty();
            let input = inputs.pop_front().unwrap_or(Input::TurnEnd);
            inputs.extend(self.step(input));
            if turn_ends && inputs.is_empty() {
                return;
            }
        }
    }

    fn step(&mut self, input: Input) -> Vec<Input> {
        let mut effects = Vec::new();
        self.engine.step(self.now, input, &mut effects);
        effects.into_iter().filter_map(|effect| self.done(effect)).collect()
    }

    fn done(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::CreateSegment { partition, segment } => {
                Some(Input::SegmentCreated { partition, segment })
            }
            Effect::Fill { partition, segment, to, .. } => {
                Some(Input::Filled { partition, segment, end: to })
            }
            Effect::Write { partition, write, len, .. } => {
                self.engine.fill_write(partition, write, &mut vec![0; len as usize]);
                Some(Input::WriteDone { partition, write })
            }
            Effect::SaveHardState { partition, .. } => Some(Input::HardStateSaved { partition }),
            Effect::Deliver { to, deliveries, subscription, bytes, .. } => {
                let offsets = deliveries.iter().map(|delivery| delivery.event.offset.0);
                self.delivered.entry(to.correlation).or_default().extend(offsets);
                Some(Input::Sent { subscription, bytes, batches: 1 })
            }
            Effect::Mesh { message, .. } => {
                self.told.push(message);
                None
            }
            _ => None,
        }
    }

    pub fn subscribe(&mut self, stream: u64, topic: &str) {
        let (group, topic) = (Arc::from("g"), Arc::from(topic));
        let (partitions, start) = (PartitionSet::All, Start::Beginning);
        let (member, credit) = (Arc::from("m"), limits::CREDIT_MAX);
        let spec = SubscribeSpec { group, topic, member, partitions, start, credit };
        let from = Caller { session: SessionId(1), correlation: stream };
        self.give(Input::Request { from, request: Request::Subscribe(spec) });
    }

    /// Publishes so many events of a topic, with payloads of so many bytes.
    pub fn publish(&mut self, topic: &str, count: usize, len: usize, schedule_ts: u64) {
        let mut bytes = Vec::new();
        let mut events = Vec::new();
        for _ in 0..count {
            let mut put = |data: &str| {
                let start = bytes.len() as u32;
                bytes.extend_from_slice(data.as_bytes());
                Span { start, len: data.len() as u32 }
            };
            events.push(EventSpan {
                message_id: put(&self.published.to_string()),
                topic: put(topic),
                payload: put(&"x".repeat(len)),
                meta: put(""),
                partition_key: put(KEY),
                schedule_ts,
                delay_ms: None,
                durable_ack: false,
                fault: None,
            });
            self.published += 1;
        }
        let bytes = bytes.into();
        let message = PublishMessage { bytes, events, allow_duplicate: false, batch: true };
        let from = Caller { session: SessionId(2), correlation: self.published };
        self.give(Input::Request { from, request: Request::Publish(message) });
    }

    pub fn delivered(&self, stream: u64) -> usize {
        self.delivered.get(&stream).map_or(0, Vec::len)
    }
}
