//! The engine's step without a disk: publish in batches of 1,000, applied and answered; then the
//! same delivered to a subscription and acknowledged. Writes are done at once, by this driver.
//!
//! `cargo bench --package chronosdb-bench --bench step`

#![allow(missing_docs)] // criterion's macros make public functions

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use chronosdb::base::api::{
    AckSpec, DeliveryId, PartitionSet, Request, Start, SubscribeSpec, Verdict,
};
use chronosdb::base::config::EngineConfig;
use chronosdb::base::ids::{Caller, PartitionId, SessionId, ShardId};
use chronosdb::base::time::Now;
use chronosdb::engine::checkpoint::Found;
use chronosdb::engine::{Effect, Engine, Input};
use chronosdb::wire::{events, publish};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;

const BATCH: u64 = 1_000;
const NOW: Now = Now { wall_us: 1_790_000_000_000_000, boot_us: 1_000_000 };

/// Runs effects at once: every write, fill and save is done when it is asked for.
struct Driver {
    engine: Engine,
    acks: bool,
    sent: u64,
    correlation: u64,
}

impl Driver {
    fn new() -> Self {
        // Nothing here runs jobs: ids stay in memory.
        let id_window = usize::MAX;
        let config = EngineConfig { partitions: 1, id_window, ..EngineConfig::default() };
        let mut driver =
            Self { engine: Engine::new(config, ShardId(0)), acks: false, sent: 0, correlation: 0 };
        let partition = PartitionId(0);
        let (segments, hard_state, checkpoints) = (Vec::new(), None, Found::default());
        driver.run(Input::Mount { partition, segments, hard_state, checkpoints });
        driver
    }

    fn caller(&mut self) -> Caller {
        self.correlation += 1;
        Caller { session: SessionId(1), correlation: self.correlation }
    }

    fn run(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut effects = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.engine.step(NOW, input, &mut effects);
            for effect in effects.drain(..) {
                inputs.extend(self.done(effect));
            }
            if inputs.is_empty() {
                self.engine.step(NOW, Input::TurnEnd, &mut effects);
                for effect in effects.drain(..) {
                    inputs.extend(self.done(effect));
                }
            }
        }
    }

    fn done(&mut self, effect: Effect) -> Vec<Input> {
        match effect {
            Effect::CreateSegment { partition, segment } => {
                vec![Input::SegmentCreated { partition, segment }]
            }
            Effect::Fill { partition, segment, to, .. } => {
                vec![Input::Filled { partition, segment, end: to }]
            }
            Effect::Write { partition, write, len, .. } => {
                let mut buffer = vec![0; len as usize];
                self.engine.fill_write(partition, write, &mut buffer);
                vec![Input::WriteDone { partition, write }]
            }
            Effect::SaveHardState { partition, .. } => vec![Input::HardStateSaved { partition }],
            Effect::Deliver { subscription, group, deliveries, bytes, .. } => {
                self.sent += deliveries.len() as u64;
                let mut inputs = vec![Input::Sent { subscription, bytes, batches: 1 }];
                if self.acks {
                    let ack = |d: &chronosdb::base::api::Delivery| AckSpec {
                        id: Some(DeliveryId {
                            group: group.clone(),
                            partition: d.event.partition,
                            group_no: d.group,
                            term: d.term,
                            position: d.event.position(),
                            attempt: d.attempt,
                            seal: d.seal,
                        }),
                        verdict: Verdict::Ack,
                    };
                    let request = Request::Ack(deliveries.iter().map(ack).collect());
                    inputs.push(Input::Request { from: self.caller(), request });
                }
                inputs
            }
            _ => Vec::new(),
        }
    }

    fn publish(&mut self, message: &Bytes) {
        let message = publish::scan(message.clone(), true, NOW.wall_ms()).expect("our own");
        let from = self.caller();
        self.run(Input::Request { from, request: Request::Publish(message) });
    }
}

fn message(first: u64) -> Bytes {
    let event = |n: u64| events::Event {
        message_id: format!("event-{:010}", first + n),
        schedule_ts: 1,
        payload: Bytes::from_static(&[0x5a; 256]),
        topic: "orders".into(),
        ..events::Event::default()
    };
    let batch = events::PublishBatchRequest {
        events: (0..BATCH).map(event).collect(),
        ..events::PublishBatchRequest::default()
    };
    batch.encode_to_vec().into()
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    group.throughput(Throughput::Elements(BATCH));
    for (name, subscribed) in [("publish", false), ("publish, deliver and ack", true)] {
        let mut driver = Driver::new();
        if subscribed {
            driver.acks = true;
            let from = driver.caller();
            let request = Request::Subscribe(SubscribeSpec {
                group: Arc::from("g"),
                topic: Arc::from("orders"),
                member: Arc::from("m"),
                partitions: PartitionSet::All,
                start: Start::Beginning,
                credit: 10_000,
            });
            driver.run(Input::Request { from, request });
        }
        let mut first = 0;
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    first += BATCH;
                    message(first)
                },
                |message| driver.publish(&message),
                BatchSize::SmallInput,
            );
        });
        assert!(!subscribed || driver.sent > 0, "the subscription got what was published");
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
