//! Very many events due at once, and what another topic and the other inputs feel of it: one shard
//! on a disk that does everything at once.

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
use crate::engine::{Effect, Engine, Input};

const NOW: Now = Now { wall_us: 1_790_000_000_000_000, boot_us: 1_000_000 };
const PARTITION: PartitionId = PartitionId(0);
const BIG: u64 = 1;
const SMALL: u64 = 2;

struct Shard {
    engine: Engine,
    now: Now,
    published: u64,
    /// Offsets delivered to each stream.
    delivered: BTreeMap<u64, Vec<u64>>,
}

impl Shard {
    fn new() -> Self {
        let config = EngineConfig { partitions: 1, ..EngineConfig::default() };
        let engine = Engine::new(config, ShardId(0));
        let mut shard = Self { engine, now: NOW, published: 0, delivered: BTreeMap::new() };
        let (partition, checkpoints, segments) = (PARTITION, Found::default(), Vec::new());
        shard.give(Input::Mount { partition, segments, hard_state: None, checkpoints });
        shard
    }

    /// An input and all that follows from it; then the turn ends, once.
    fn turn(&mut self, input: Input) {
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
    fn give(&mut self, input: Input) {
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
            _ => None,
        }
    }

    fn subscribe(&mut self, stream: u64, topic: &str) {
        let (group, topic) = (Arc::from("g"), Arc::from(topic));
        let (partitions, start) = (PartitionSet::All, Start::Beginning);
        let (member, credit) = (Arc::from("m"), limits::CREDIT_MAX);
        let spec = SubscribeSpec { group, topic, member, partitions, start, credit };
        let from = Caller { session: SessionId(1), correlation: stream };
        self.give(Input::Request { from, request: Request::Subscribe(spec) });
    }

    /// Publishes so many events of a topic.
    fn publish(&mut self, topic: &str, count: usize, schedule_ts: u64) {
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
                payload: put("x"),
                meta: put(""),
                partition_key: put(""),
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

    fn delivered(&self, stream: u64) -> usize {
        self.delivered.get(&stream).map_or(0, Vec::len)
    }
}

/// Far more than a tick fires and a turn hands out.
const CROWD: usize = 20 * limits::TURN_DELIVERIES;

fn cliff() -> Shard {
    let mut shard = Shard::new();
    shard.subscribe(BIG, "big");
    shard.subscribe(SMALL, "small");
    let due = NOW.wall_ms() + 1_000;
    for _ in 0..20 {
        shard.publish("big", CROWD / 20, due);
    }
    shard.publish("small", 1, due + 1);
    shard.now = Now { wall_us: NOW.wall_us + 1_001_000, boot_us: NOW.boot_us + 1_001_000 };
    shard
}

#[test]
fn what_is_due_behind_a_crowd_does_not_wait_for_it() {
    let mut shard = cliff();
    shard.turn(Input::Tick);
    assert_eq!(shard.delivered(SMALL), 1, "its tick comes last, its group reads on");
    assert!(shard.delivered(BIG) < CROWD / 2);
}

#[test]
fn a_turn_hands_out_a_share_and_the_next_ones_the_rest_in_order() {
    let mut shard = cliff();
    let mut before = 0;
    while shard.delivered(BIG) < CROWD {
        let at = shard.engine.next_deadline(shard.now);
        assert_eq!(at, Some(shard.now.boot_us), "there is more to do at once");
        shard.turn(Input::Tick);
        let now = shard.delivered(BIG);
        let share = limits::TURN_DELIVERIES + limits::GRANT_EVENTS as usize;
        assert!(now - before <= share, "{} in one turn", now - before);
        before = now;
    }
    let offsets = &shard.delivered[&BIG];
    assert!(offsets.iter().copied().eq(0..CROWD as u64), "each once, in order");
}
