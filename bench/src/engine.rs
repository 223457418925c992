//! The engine without a disk, for everything that measures it alone: micro-benchmarks, instruction
//! counts, allocation counts, and what a partition or a pending event costs.
//!
//! [`Driver`] does every write, fill and save at the moment it is asked for, on the thread that
//! asks, and allocates nothing of its own once its buffers have grown. It runs no jobs: what is
//! pending stays in memory, and so do ids.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use chronosdb::base::api::{
    AckSpec, Delivery, DeliveryId, PartitionSet, Request, Start, SubscribeSpec, Verdict,
};
use chronosdb::base::config::EngineConfig;
use chronosdb::base::ids::{Caller, NameHash, PartitionId, SessionId, ShardId};
use chronosdb::base::time::Now;
use chronosdb::engine::checkpoint::Found;
use chronosdb::engine::{Effect, Engine, Input};
use chronosdb::wire::{events, publish};
use prost::Message;

/// Topic of [`batch`]'s events.
pub const TOPIC: &str = "orders";
/// The clock of a driver until it is moved.
pub const START: Now = Now { wall_us: 1_790_000_000_000_000, boot_us: 1_000_000 };
/// Steps that [`Driver::advance`] takes at most: jobs that never run keep an engine wanting more.
const TICKS_MAX: u32 = 64;

/// Runs an engine and its effects.
#[derive(Debug)]
pub struct Driver {
    /// What the engine is told to be the time.
    pub now: Now,
    /// Deliveries made so far.
    pub delivered: u64,
    /// Bytes of the writes to logs so far.
    pub written_bytes: u64,
    engine: Engine,
    inputs: VecDeque<Input>,
    effects: Vec<Effect>,
    buffer: Vec<u8>,
    correlation: u64,
}

impl Driver {
    /// An engine of one shard that owns `partitions` (1 to 256) empty partitions.
    pub fn new(partitions: u16) -> Self {
        let id_window = usize::MAX;
        // A hundred million pending and a few more: the limit of a shard is not what is measured.
        let index_events = 1 << 30;
        let config =
            EngineConfig { partitions, id_window, index_events, ..EngineConfig::default() };
        let mut driver = Self {
            now: START,
            delivered: 0,
            written_bytes: 0,
            engine: Engine::new(config, ShardId(0)),
            inputs: VecDeque::new(),
            effects: Vec::new(),
            buffer: Vec::new(),
            correlation: 0,
        };
        for partition in (0..partitions).map(PartitionId) {
            let (segments, hard_state, checkpoints) = (Vec::new(), None, Found::default());
            driver.run(Input::Mount { partition, segments, hard_state, checkpoints });
        }
        driver
    }

    fn caller(&mut self) -> Caller {
        self.correlation += 1;
        Caller { session: SessionId(1), correlation: self.correlation }
    }

    /// Publishes a batch as it comes off the wire, and returns when it is committed and applied.
    pub fn publish(&mut self, message: Bytes) {
        let message = publish::scan(message, true, self.now.wall_ms()).expect("our own batch");
        let from = self.caller();
        self.run(Input::Request { from, request: Request::Publish(message) });
    }

    /// Subscribes a member of a group to all partitions, from the beginning. Everything that it is
    /// sent from now on is acknowledged at once.
    pub fn subscribe(&mut self) {
        let from = self.caller();
        let request = Request::Subscribe(SubscribeSpec {
            group: Arc::from("g"),
            topic: Arc::from(TOPIC),
            member: Arc::from("m"),
            partitions: PartitionSet::All,
            start: Start::Beginning,
            credit: 10_000,
        });
        self.run(Input::Request { from, request });
    }

    /// Moves both clocks and fires what has become due.
    pub fn advance(&mut self, ms: u64) {
        self.now.wall_us += ms * 1_000;
        self.now.boot_us += ms * 1_000;
        // A step fires a bounded number; what is left is wanted at once.
        for _ in 0..TICKS_MAX {
            self.run(Input::Tick);
            if self.engine.next_deadline(self.now).is_none_or(|at_us| at_us > self.now.boot_us) {
                return;
            }
        }
    }

    /// Events that are not due yet.
    pub fn pending(&mut self) -> u64 {
        self.engine.stats().pending
    }

    fn run(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.drain();
    }

    /// Turns until nothing is left to do.
    fn drain(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            self.engine.step(self.now, input, &mut self.effects);
            self.run_effects();
            if self.inputs.is_empty() {
                self.end_turn();
            }
        }
    }

    fn end_turn(&mut self) {
        self.engine.step(self.now, Input::TurnEnd, &mut self.effects);
        self.run_effects();
    }

    fn run_effects(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.run_effect(effect);
        }
        self.effects = effects;
    }

    fn run_effect(&mut self, effect: Effect) {
        let done = match effect {
            Effect::CreateSegment { partition, segment } => {
                Input::SegmentCreated { partition, segment }
            }
            Effect::Fill { partition, segment, to, .. } => {
                Input::Filled { partition, segment, end: to }
            }
            Effect::Write { partition, write, len, .. } => {
                self.buffer.clear();
                self.buffer.resize(len as usize, 0);
                self.engine.fill_write(partition, write, &mut self.buffer);
                self.written_bytes += len;
                Input::WriteDone { partition, write }
            }
            Effect::SaveHardState { partition, .. } => Input::HardStateSaved { partition },
            Effect::Deliver { subscription, group, deliveries, bytes, .. } => {
                self.delivered += deliveries.len() as u64;
                let request = Request::Ack(deliveries.iter().map(|d| ack(&group, d)).collect());
                let from = self.caller();
                self.inputs.push_back(Input::Sent { subscription, bytes, batches: 1 });
                Input::Request { from, request }
            }
            _ => return,
        };
        self.inputs.push_back(done);
    }
}

fn ack(group: &Arc<str>, delivery: &Delivery) -> AckSpec {
    AckSpec {
        id: Some(DeliveryId {
            group: NameHash::of(&**group),
            partition: delivery.event.partition,
            group_no: delivery.group,
            term: delivery.term,
            position: delivery.event.position(),
            attempt: delivery.attempt,
            seal: delivery.seal,
        }),
        verdict: Verdict::Ack,
    }
}

/// A batch as it comes off the wire: `count` events with ids from `first` on and payloads of 256
/// bytes, each due at `due(its number)` (Unix ms).
pub fn batch(first: u64, count: u64, due: impl Fn(u64) -> u64) -> Bytes {
    batch_of(first, count, due, |_| 0)
}

/// The same, spread over topics: [`TOPIC`] where `topic(its number)` is 0, others by their numbers.
pub fn batch_of(
    first: u64,
    count: u64,
    due: impl Fn(u64) -> u64,
    topic: impl Fn(u64) -> u64,
) -> Bytes {
    let event = |n: u64| events::Event {
        message_id: format!("event-{n:010}"),
        schedule_ts: due(n) as i64,
        payload: Bytes::from_static(&[0x5a; 256]),
        topic: match topic(n) {
            0 => TOPIC.into(),
            number => format!("{TOPIC}-{number}"),
        },
        ..events::Event::default()
    };
    let events = (first..first + count).map(event).collect();
    events::PublishBatchRequest { events, allow_duplicate: false }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_delivered_when_it_is_due() {
        let mut driver = Driver::new(4);
        driver.subscribe();
        let later_ms = START.wall_ms() + 1_000;
        driver.publish(batch(0, 100, |n| if n < 30 { 1 } else { later_ms }));
        assert_eq!((driver.delivered, driver.pending()), (30, 70));
        driver.advance(999);
        assert_eq!(driver.delivered, 30);
        driver.advance(1);
        assert_eq!((driver.delivered, driver.pending()), (100, 0));
        assert!(driver.written_bytes > 100 * 256);
    }
}
