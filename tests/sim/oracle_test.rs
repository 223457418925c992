//! The oracle's own test: for each rule a history that breaks it, and one that breaks none.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use chronosdb::base::api::{
    AckOutcome, AckSpec, Delivery, DeliveryId, EventOutcome, Nack, PartitionSet, Placed,
    ReplayRange, ReplaySpec, Replayed, Reply, Request, Span, Start, StoredEvent, SubscribeSpec,
    Verdict,
};
use chronosdb::base::error::{ApiError, ErrorCode};
use chronosdb::base::ids::{
    Caller, GroupNo, Index, NameHash, Offset, PartitionId, SessionId, ShardId, SubscriptionId, Term,
};
use chronosdb::engine::{Effect, Input, RecoveryReport};

use crate::content::{Content, When, message};
use crate::groups::Facts;
use crate::oracle::Oracle;
use crate::probe::{GroupAudit, ReplicaStatus};
use crate::records::Moment;
use crate::replica::Replica;
use crate::rng::{Rng, Salt};
use crate::rule::Rule;

const SHARD: ShardId = ShardId(0);
const STREAM: u64 = 1_000;
const WALL_MS: u64 = 1_000_000;

/// A run with one partition, one topic and one group, told step by step.
struct History {
    oracle: Oracle,
    now: Moment,
    correlation: u64,
}

impl History {
    fn new() -> Self {
        let facts = Facts {
            partitions: 1,
            ack_timeout_ms: 1_000,
            max_retries: 1,
            max_credit: 100,
            tick_ms: 1,
            disk_reserve_bytes: 100,
            slack_us: 1_000,
        };
        let mut oracle = Oracle::new(facts, true);
        oracle.groups.add("g".into(), "t".into(), Start::Beginning);
        let mut history = Self { oracle, now: Moment::default(), correlation: 0 };
        history.now.shards = 1;
        history.wait(1);
        history
    }

    /// Time goes on.
    fn wait(&mut self, ms: u64) {
        self.now.time_us += ms * 1_000;
        let wall_ms = WALL_MS + self.now.time_us / 1_000;
        self.now.wall_ms = wall_ms;
        (self.now.lowest_ms, self.now.highest_ms) = (wall_ms, wall_ms);
        self.now.noticed_ms = wall_ms - 1;
    }

    fn give(&mut self, correlation: u64, request: Request) {
        let from = caller(correlation);
        self.oracle.given(SHARD, &Input::Request { from, request }, self.now);
    }

    fn ask(&mut self, request: Request) -> u64 {
        self.correlation += 1;
        self.give(self.correlation, request);
        self.correlation
    }

    fn free(&mut self, bytes: [u64; 3]) {
        for free_bytes in bytes {
            self.oracle.given(SHARD, &Input::DiskSpace { free_bytes }, self.now);
            self.wait(1);
        }
    }

    fn effect(&mut self, effect: &Effect) {
        self.oracle.wanted(SHARD, effect, self.now);
    }

    fn reply(&mut self, correlation: u64, reply: Reply) {
        self.effect(&Effect::Reply { to: caller(correlation), reply });
    }

    /// A new event under this id, given to the engine; its number.
    fn publish(&mut self, id: &str) -> (u32, u64) {
        let number = self.oracle.records.add(Content {
            number: 0,
            topic: "t".into(),
            message_id: id.into(),
            partition_key: None,
            when: When::At(WALL_MS),
            payload_len: 20,
            meta_len: 4,
            allow_duplicate: false,
            durable_ack: false,
            fault: None,
        });
        (number, self.publish_again(number))
    }

    fn publish_again(&mut self, number: u32) -> u64 {
        let message = message(&[self.oracle.records.content(number)], false);
        self.ask(Request::Publish(message))
    }

    fn outcome(&mut self, correlation: u64, outcome: EventOutcome) {
        self.reply(correlation, Reply::Published { batch: false, outcomes: vec![outcome] });
    }

    /// A new event, acknowledged at this offset.
    fn stored(&mut self, id: &str, offset: u64) -> StoredEvent {
        let (number, correlation) = self.publish(id);
        self.outcome(correlation, EventOutcome::Stored(placed(offset)));
        self.event(number, offset)
    }

    fn event(&self, number: u32, offset: u64) -> StoredEvent {
        let content = self.oracle.records.content(number);
        let mut body = Vec::new();
        let mut put = |bytes: &[u8]| {
            let start = body.len() as u32;
            body.extend_from_slice(bytes);
            Span { start, len: bytes.len() as u32 }
        };
        let message_id = put(content.message_id.as_bytes());
        let (meta, payload) = (put(&content.meta()), put(&content.payload()));
        StoredEvent {
            body: Bytes::from(body),
            message_id,
            meta,
            payload,
            topic: content.topic.clone(),
            schedule_ts: WALL_MS,
            append_ts: WALL_MS + offset,
            partition: PartitionId(0),
            offset: Offset(offset),
            term: Term(1),
            checksum: crc32fast::hash(&content.payload()),
        }
    }

    fn subscribe(&mut self, correlation: u64, credit: u32) {
        let (group, topic) = ("g".into(), "t".into());
        let (member, partitions, start) = ("m".into(), PartitionSet::All, Start::Beginning);
        let spec = SubscribeSpec { group, topic, member, partitions, start, credit };
        self.give(correlation, Request::Subscribe(spec));
        self.reply(correlation, Reply::Subscribed);
    }

    fn deliver_on(&mut self, stream: u64, event: &StoredEvent, attempt: u32) {
        let delivery = Delivery {
            event: event.clone(),
            group: GroupNo(0),
            term: Term(1),
            attempt,
            ack_timeout_ms: 1_000,
            seal: 0,
        };
        self.effect(&Effect::Deliver {
            to: caller(stream),
            subscription: SubscriptionId(stream),
            group: "g".into(),
            bytes: event.size(),
            not_before: event.schedule_ts,
            deliveries: vec![delivery],
        });
    }

    fn deliver(&mut self, event: &StoredEvent, attempt: u32) {
        self.deliver_on(STREAM, event, attempt);
    }

    /// Gives a verdict and confirms it.
    fn judge(&mut self, event: &StoredEvent, attempt: u32, verdict: Verdict) {
        let id = DeliveryId {
            group: NameHash::of("g"),
            partition: PartitionId(0),
            group_no: GroupNo(0),
            term: Term(1),
            position: event.position(),
            attempt,
            seal: 0,
        };
        let correlation = self.ask(Request::Ack(vec![AckSpec { id: Some(id), verdict }]));
        let outcome = AckOutcome { result: Ok(()), committed_offset: Offset(0) };
        self.reply(correlation, Reply::Acked(vec![outcome]));
    }

    /// Reads the whole topic: these events come, and the stream ends.
    fn replay(&mut self, events: &[&StoredEvent]) {
        let range = ReplayRange::Offsets { start: Offset(0), count: 100 };
        let (topic, partitions) = ("t".into(), PartitionSet::All);
        let correlation =
            self.ask(Request::Replay(ReplaySpec { topic, partitions, range, speed: 0.0 }));
        for (index, event) in (0..).zip(events) {
            self.effect(&Effect::Replay {
                to: caller(correlation),
                subscription: SubscriptionId(correlation),
                bytes: event.size(),
                not_before: event.schedule_ts,
                events: vec![Replayed { event: (*event).clone(), index }],
            });
        }
        self.reply(correlation, Reply::StreamEnd(Ok(())));
    }

    fn recover(&mut self, events: u64, rot: Option<&str>) {
        let partition = PartitionId(0);
        let rot = rot.map(str::to_owned);
        let report =
            RecoveryReport { partition, entries: 9, events, pending: 0, torn_bytes: 0, rot };
        self.effect(&Effect::Recovered { report });
    }

    fn audit(&mut self, applied: u64, settled: u64, unsettled: u64, beyond: u64) {
        let (group, topic) = ("g".into(), "t".into());
        let audit =
            GroupAudit { is_whole: true, group, topic, applied, settled, unsettled, beyond };
        self.oracle.judge(PartitionId(0), &[audit], self.now);
    }
}

fn caller(correlation: u64) -> Caller {
    Caller { session: SessionId(1), correlation }
}

fn placed(offset: u64) -> Placed {
    Placed { partition: PartitionId(0), offset: Offset(offset), schedule_ts: WALL_MS }
}

fn nack() -> Verdict {
    Verdict::Nack(Box::new(Nack { delay_ms: None, reason: "no".into() }))
}

/// The history must be ended by this rule.
fn breaks(rule: Rule, tell: impl FnOnce(&mut History)) {
    let mut history = History::new();
    let told = catch_unwind(AssertUnwindSafe(|| tell(&mut history)));
    let panic = told.expect_err("the oracle has taken a bad history for a good one");
    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains(&format!("{rule} is broken")), "{rule} was expected: {text}");
}

#[test]
fn a_good_history_is_taken() {
    let mut h = History::new();
    h.recover(0, None);
    h.free([99, 200, 100]);
    let (a, b) = (h.stored("a", 0), h.stored("b", 1));
    h.subscribe(STREAM, 10);
    h.deliver(&a, 1);
    h.judge(&a, 1, Verdict::Ack);
    h.deliver(&b, 1);
    h.wait(2_000);
    h.deliver(&b, 2);
    h.judge(&b, 2, nack());
    h.replay(&[&a, &b]);
    h.audit(2, 2, 0, 0);
    h.oracle.records.high_watermark(PartitionId(0), 2, 0);
    h.oracle.finish(h.now);
}

#[test]
fn events_that_are_lost_changed_or_made_up_are_found() {
    breaks(Rule::AckedNeverLost, |h| {
        h.stored("a", 0);
        h.recover(0, None);
    });
    breaks(Rule::PayloadEqual, |h| {
        let mut event = h.stored("a", 0);
        let mut body = event.body.to_vec();
        *body.last_mut().unwrap() ^= 1;
        event.body = Bytes::from(body);
        h.replay(&[&event]);
    });
    breaks(Rule::NoPhantom, |h| {
        let (number, correlation) = h.publish("a");
        let full = ApiError::at_capacity(PartitionId(0));
        h.outcome(correlation, EventOutcome::Failed(Box::new(full)));
        let event = h.event(number, 0);
        h.replay(&[&event]);
    });
    breaks(Rule::OneOffsetOneId, |h| {
        h.stored("a", 0);
        h.stored("b", 0);
    });
    breaks(Rule::OffsetsDense, |h| {
        h.recover(0, None);
        let (a, c) = (h.stored("a", 0), h.stored("c", 2));
        h.replay(&[&a, &c]);
        h.oracle.records.high_watermark(PartitionId(0), 3, 0);
        h.oracle.records.dense(h.now.wall_ms, 0);
    });
    breaks(Rule::ScheduleKept, |h| {
        let (_, correlation) = h.publish("a");
        let placed = Placed { schedule_ts: WALL_MS + 1, ..placed(0) };
        h.outcome(correlation, EventOutcome::Stored(placed));
    });
    breaks(Rule::RefusalExplained, |h| {
        let (_, correlation) = h.publish("a");
        let error = ApiError::new(ErrorCode::InvalidArgument, "why not");
        h.outcome(correlation, EventOutcome::Failed(Box::new(error)));
    });
}

#[test]
fn wrong_duplicates_are_found() {
    breaks(Rule::DuplicateIsOriginal, |h| {
        let (number, first) = h.publish("a");
        h.outcome(first, EventOutcome::Stored(placed(0)));
        let second = h.publish_again(number);
        h.outcome(second, EventOutcome::Stored(placed(1)));
    });
    breaks(Rule::DuplicateIsOriginal, |h| {
        let (number, first) = h.publish("a");
        h.outcome(first, EventOutcome::Stored(placed(1)));
        for offset in [1, 0] {
            let again = h.publish_again(number);
            h.outcome(again, EventOutcome::Duplicate(placed(offset)));
        }
    });
    breaks(Rule::OneOffsetOneId, |h| {
        h.stored("a", 0);
        let (number, first) = h.publish("b");
        h.outcome(first, EventOutcome::Stored(placed(1)));
        let again = h.publish_again(number);
        h.outcome(again, EventOutcome::Duplicate(placed(0)));
    });
}

#[test]
fn wrong_deliveries_are_found() {
    breaks(Rule::NeverEarly, |h| {
        let event = h.stored("a", 0);
        h.subscribe(STREAM, 10);
        h.now.wall_ms = WALL_MS - 1;
        h.deliver(&event, 1);
    });
    breaks(Rule::ConfirmedAckFinal, |h| {
        let event = h.stored("a", 0);
        h.subscribe(STREAM, 10);
        h.deliver(&event, 1);
        h.judge(&event, 1, Verdict::Ack);
        h.oracle.crashed(h.now);
        h.now.epoch += 1;
        h.wait(100);
        h.subscribe(STREAM, 10);
        h.deliver(&event, 1);
    });
    breaks(Rule::CreditKept, |h| {
        let (a, b) = (h.stored("a", 0), h.stored("b", 1));
        h.subscribe(STREAM, 1);
        h.deliver(&a, 1);
        h.deliver(&b, 1);
    });
    breaks(Rule::OneMember, |h| {
        let event = h.stored("a", 0);
        h.subscribe(STREAM, 10);
        h.subscribe(STREAM + 1, 10);
        h.deliver(&event, 1);
        h.wait(500);
        h.deliver_on(STREAM + 1, &event, 1);
    });
    breaks(Rule::DueOrder, |h| {
        let (a, b) = (h.stored("a", 0), h.stored("b", 1));
        h.wait(100);
        h.subscribe(STREAM, 10);
        h.deliver(&b, 1);
        h.deliver(&a, 1);
    });
    breaks(Rule::StreamKept, |h| {
        let event = h.stored("a", 0);
        h.subscribe(STREAM, 10);
        let session = SessionId(1);
        h.oracle.given(SHARD, &Input::SessionClosed { session }, h.now);
        h.deliver(&event, 1);
    });
    breaks(Rule::TermGrows, |h| {
        let mut event = h.stored("a", 0);
        event.term = Term(2);
        h.subscribe(STREAM, 10);
        h.deliver(&event, 1);
    });
}

#[test]
fn wrong_attempts_are_found() {
    breaks(Rule::AttemptsBounded, |h| {
        let event = h.stored("a", 0);
        h.subscribe(STREAM, 10);
        for attempt in 1..=3 {
            h.deliver(&event, attempt);
            h.wait(2_000);
        }
    });
    breaks(Rule::AttemptCounted, |h| {
        let event = h.stored("a", 0);
        h.subscribe(STREAM, 10);
        h.deliver(&event, 1);
        h.wait(2_000);
        h.deliver(&event, 1);
    });
    breaks(Rule::AttemptCounted, |h| {
        let event = h.stored("a", 0);
        h.subscribe(STREAM, 10);
        h.deliver(&event, 1);
        h.judge(&event, 1, nack());
        h.oracle.crashed(h.now);
        h.now.epoch += 1;
        h.subscribe(STREAM, 10);
        h.deliver(&event, 1);
    });
}

#[test]
fn what_never_settles_or_does_not_add_up_is_found() {
    breaks(Rule::EverythingSettles, |h| {
        h.stored("a", 0);
        h.oracle.finish(h.now);
    });
    breaks(Rule::EverythingSettles, |h| {
        h.stored("a", 0);
        h.audit(1, 0, 1, 0);
    });
    breaks(Rule::AuditSum, |h| {
        h.stored("a", 0);
        h.audit(1, 0, 0, 0);
    });
    breaks(Rule::AuditSum, |h| h.audit(1, 1, 0, 0));
    breaks(Rule::OneReply, |h| {
        h.publish("a");
        h.oracle.finish(h.now);
    });
    breaks(Rule::OneReply, |h| {
        let (_, correlation) = h.publish("a");
        h.outcome(correlation, EventOutcome::Stored(placed(0)));
        h.outcome(correlation, EventOutcome::Stored(placed(0)));
    });
}

#[test]
fn wrong_replays_are_found() {
    breaks(Rule::ReplayExact, |h| {
        let a = h.stored("a", 0);
        h.stored("b", 1);
        h.wait(1);
        h.replay(&[&a]);
    });
    breaks(Rule::ReplayExact, |h| {
        let (a, b) = (h.stored("a", 0), h.stored("b", 1));
        h.replay(&[&b, &a]);
    });
    breaks(Rule::NeverEarly, |h| {
        let a = h.stored("a", 0);
        h.now.wall_ms = WALL_MS - 1;
        h.replay(&[&a]);
    });
}

#[test]
fn silent_and_invented_damage_is_found() {
    breaks(Rule::RotReported, |h| h.recover(0, Some("a sector is gone")));
    breaks(Rule::RotReported, |h| {
        h.oracle.rotted(PartitionId(0));
        h.recover(0, Some("a sector is gone"));
        h.stored("a", 0);
    });
    breaks(Rule::AckedNeverLost, |h| {
        h.stored("a", 0);
        h.oracle.rotted(PartitionId(0));
        h.recover(0, None);
    });
}

#[test]
fn cut_and_invented_commits_are_found() {
    let status = |last, committed| {
        let (last, persisted, committed) = (Index(last), Index(last), Index(committed));
        ReplicaStatus { term: Term(1), last, persisted, committed, leader: true }
    };
    breaks(Rule::CommittedKept, |_| {
        let mut replica = Replica::default();
        replica.speak(&status(5, 0), true, &mut Rng::new(1, Salt::Replica));
        replica.recovered(&status(4, 0));
    });
    breaks(Rule::CommittedKept, |_| {
        Replica::default().speak(&status(5, 1), true, &mut Rng::new(1, Salt::Replica));
    });
}

#[test]
fn what_is_stored_out_of_the_reserve_is_found() {
    breaks(Rule::ReserveKept, |h| {
        h.free([200, 99, 199]);
        h.stored("a", 0);
    });
}
