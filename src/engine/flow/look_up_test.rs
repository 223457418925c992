//! Look-ups of one partition, on a disk in memory whose reads of runs come when the test wants.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::base::api::{EventOutcome, EventSpan, PublishMessage, Reply, Request, Span};
use crate::base::config::EngineConfig;
use crate::base::error::ErrorCode;
use crate::base::ids::{Caller, Index, PartitionId, RunNo, SessionId, ShardId};
use crate::base::limits;
use crate::base::time::Now;
use crate::engine::checkpoint::Found;
use crate::engine::dedup::RUNS_MAX;
use crate::engine::jobs::{Job, JobStep};
use crate::engine::{Effect, Engine, Input, ReplicaEvent};

const NOW: Now = Now { wall_us: 1_790_000_000_000_000, boot_us: 1_000_000 };
const PARTITION: PartitionId = PartitionId(0);

/// An outcome, short.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Stored(u64),
    Duplicate(u64),
    Failed(ErrorCode),
}
use Answer::{Duplicate, Failed, Stored};

/// The engine and its disk: all but reads of runs is done at once.
struct Shard {
    engine: Engine,
    now: Now,
    /// Jobs never end.
    jobs_stall: bool,
    runs: BTreeMap<RunNo, Vec<u8>>,
    reads: VecDeque<(u64, RunNo, u64, u64)>,
    /// Publishes are numbered from 0.
    published: u64,
    answers: Vec<(u64, Vec<Answer>)>,
}

impl Shard {
    fn new(mut config: EngineConfig) -> Self {
        config.partitions = 1;
        let engine = Engine::new(config, ShardId(0));
        let mut shard = Self {
            engine,
            now: NOW,
            jobs_stall: false,
            runs: BTreeMap::new(),
            reads: VecDeque::new(),
            published: 0,
            answers: Vec::new(),
        };
        let segments = Vec::new();
        let (partition, checkpoints) = (PARTITION, Found::default());
        shard.give(Input::Mount { partition, segments, hard_state: None, checkpoints });
        shard
    }

    /// One with the ids `0..count` published one by one, at the offsets of the same numbers.
    fn with_ids(count: u64, id_window: usize) -> Self {
        let mut shard = Self::new(EngineConfig { id_window, ..EngineConfig::default() });
        for id in 0..count {
            shard.publish(&[&id.to_string()], false);
            assert_eq!(shard.take_answers(), [(id, vec![Stored(id)])], "new ids wait for nothing");
        }
        shard
    }

    fn give(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        loop {
            let turn_ends = inputs.is_empty();
            let input = inputs.pop_front().unwrap_or(Input::TurnEnd);
            let mut effects = Vec::new();
            self.engine.step(self.now, input, &mut effects);
            for effect in effects {
                inputs.extend(self.done(effect));
            }
            if turn_ends && inputs.is_empty() {
                return;
            }
        }
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
            Effect::StartJob { .. } if self.jobs_stall => None,
            Effect::StartJob { partition, job } => {
                let outcome = self.run_job(Job::new(job));
                Some(Input::JobDone { partition, outcome })
            }
            Effect::ReadRun { read, run, position, len, .. } => {
                self.reads.push_back((read, run, position, len));
                None
            }
            Effect::RemoveRun { run, .. } => {
                assert!(self.reads.iter().all(|read| read.1 != run), "run {run} is being read");
                self.runs.remove(&run).expect("a run is removed once");
                None
            }
            Effect::Reply { to, reply: Reply::Published { outcomes, .. } } => {
                let short = outcomes.iter().map(|outcome| match outcome {
                    EventOutcome::Stored(placed) => Stored(placed.offset.0),
                    EventOutcome::Duplicate(placed) => Duplicate(placed.offset.0),
                    EventOutcome::Failed(error) => Failed(error.code),
                });
                self.answers.push((to.correlation, short.collect()));
                None
            }
            _ => None,
        }
    }

    fn run_job(&mut self, mut job: Job) -> crate::engine::jobs::JobOutcome {
        loop {
            match job.go_on() {
                JobStep::Write { run, position, bytes } => {
                    let file = self.runs.entry(run).or_default();
                    assert_eq!(file.len() as u64, position, "in file order");
                    file.extend(bytes);
                }
                JobStep::ReadRun { run, position, len } => {
                    let bytes = self.read(run, position, len);
                    job.feed(&bytes);
                }
                JobStep::Sync { run } => assert!(self.runs.contains_key(&run)),
                JobStep::Pause => {}
                JobStep::Done(outcome) => return outcome,
                JobStep::ReadLog { .. } => unreachable!("nothing is due far ahead"),
            }
        }
    }

    fn read(&self, run: RunNo, position: u64, len: u64) -> Bytes {
        Bytes::copy_from_slice(&self.runs[&run][position as usize..][..len as usize])
    }

    fn publish(&mut self, ids: &[&str], allow_duplicate: bool) {
        let mut bytes = Vec::new();
        let mut put = |data: &str| {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(data.as_bytes());
            Span { start, len: data.len() as u32 }
        };
        let events = ids.iter().map(|id| EventSpan {
            message_id: put(id),
            topic: put("t"),
            payload: put("x"),
            meta: put(""),
            partition_key: put(""),
            schedule_ts: 1,
            delay_ms: None,
            durable_ack: false,
            fault: None,
        });
        let events = events.collect();
        let batch = ids.len() > 1;
        let message = PublishMessage { bytes: bytes.into(), events, allow_duplicate, batch };
        let from = Caller { session: SessionId(1), correlation: self.published };
        self.published += 1;
        self.give(Input::Request { from, request: Request::Publish(message) });
    }

    fn pass(&mut self, ms: u64) {
        self.now.wall_us += ms * 1_000;
        self.now.boot_us += ms * 1_000;
    }

    /// All reads of runs that are out are done: how many.
    fn answer_reads(&mut self) -> usize {
        let reads = self.reads.len();
        for _ in 0..reads {
            let (read, run, position, len) = self.reads.pop_front().expect("counted");
            let data = self.read(run, position, len);
            self.give(Input::ReadDone { partition: PARTITION, read, data });
        }
        reads
    }

    fn take_answers(&mut self) -> Vec<(u64, Vec<Answer>)> {
        std::mem::take(&mut self.answers)
    }
}

#[test]
fn an_id_in_a_run_is_a_duplicate_of_its_original() {
    let mut shard = Shard::with_ids(40, 3);
    let stats = shard.engine.stats();
    assert!(stats.ids_in_memory <= 4 && stats.ids_in_runs >= 36, "{stats:?}");
    assert!(shard.runs.len() <= RUNS_MAX, "runs are merged, and their files removed");
    for id in 0..40_u64 {
        shard.publish(&[&id.to_string()], false);
        let looked = shard.answer_reads();
        assert!(looked <= 1 && shard.reads.is_empty(), "one read of one block says it");
        assert_eq!(shard.take_answers(), [(40 + id, vec![Duplicate(id)])]);
    }
    let looks = shard.engine.stats().id_reads;
    assert!(looks >= 36, "{looks}");
    shard.publish(&["new"], false);
    assert_eq!(shard.take_answers(), [(80, vec![Stored(40)])], "offsets are dense");
    assert_eq!(shard.engine.stats().id_reads, looks, "no read for an id that is new");
}

#[test]
fn a_batch_is_decided_when_all_its_ids_are_known() {
    let mut shard = Shard::with_ids(20, 4);
    shard.publish(&["3", "x", "3", "x", "19", "7"], false);
    assert!(shard.take_answers().is_empty());
    assert_eq!(shard.answer_reads(), 3, "each block once, all at the same time");
    let expected =
        vec![Duplicate(3), Stored(20), Duplicate(3), Duplicate(20), Duplicate(19), Duplicate(7)];
    assert_eq!(shard.take_answers(), [(20, expected)]);
}

#[test]
fn what_comes_behind_a_waiting_slice_is_decided_behind_it() {
    let mut shard = Shard::with_ids(20, 4);
    shard.publish(&["5"], false);
    shard.publish(&["x"], false);
    shard.publish(&["x"], true);
    shard.publish(&["x", "6"], false);
    assert!(shard.take_answers().is_empty(), "all wait for the first");
    assert!(!shard.engine.is_drained(), "and a drain waits for them");
    assert_eq!(shard.engine.stats().waiting_publishes, 4);
    while shard.answer_reads() > 0 {}
    let (mut answers, stats) = (shard.take_answers(), shard.engine.stats());
    assert_eq!(stats.waiting_publishes, 0);
    answers.sort_by_key(|answer| answer.0);
    let expected = [
        (20, vec![Duplicate(5)]),
        (21, vec![Stored(20)]),
        (22, vec![Stored(21)]),
        (23, vec![Duplicate(20), Duplicate(6)]),
    ];
    assert_eq!(answers, expected);
    assert!(shard.engine.is_drained());
}

#[test]
fn an_allowed_duplicate_in_memory_does_not_hide_the_original_in_a_run() {
    let mut shard = Shard::with_ids(20, 4);
    shard.publish(&["2"], true);
    assert_eq!(shard.take_answers(), [(20, vec![Stored(20)])], "it asks nobody");
    shard.publish(&["2"], false);
    assert_eq!(shard.answer_reads(), 1);
    assert_eq!(shard.take_answers(), [(21, vec![Duplicate(2)])]);
    // Now several runs have claims to it.
    for id in 100..140 {
        shard.publish(&[&id.to_string()], false);
    }
    shard.take_answers();
    shard.publish(&["2"], false);
    while shard.answer_reads() > 0 {}
    assert_eq!(shard.take_answers(), [(62, vec![Duplicate(2)])]);
}

#[test]
fn an_id_that_is_past_its_ttl_and_settled_is_new_again_and_leaves_its_runs() {
    let dedup_ttl_ms = 60_000;
    let mut shard =
        Shard::new(EngineConfig { id_window: 3, dedup_ttl_ms, ..EngineConfig::default() });
    let ask = |shard: &mut Shard, id: &str| {
        shard.publish(&[id], false);
        while shard.answer_reads() > 0 {}
        shard.take_answers().pop().expect("an answer").1
    };
    // Nobody consumes the topic: what is due is settled.
    for round in 0..10_u64 {
        // Log time goes on with what is logged.
        let first = 11 * round;
        assert_eq!(ask(&mut shard, &format!("tick-{round}")), [Stored(first)]);
        for id in 0..10 {
            assert_eq!(ask(&mut shard, &id.to_string()), [Stored(first + 1 + id)]);
        }
        shard.pass(dedup_ttl_ms);
        for id in 0..10 {
            assert_eq!(ask(&mut shard, &id.to_string()), [Duplicate(first + 1 + id)]);
        }
        shard.pass(1);
    }
    let stats = shard.engine.stats();
    assert!(stats.ids_in_memory + stats.ids_in_runs < 50, "merges drop what is dead: {stats:?}");
}

#[test]
fn ids_in_memory_are_bounded_where_they_cannot_be_written() {
    let config = EngineConfig { id_window: 2, ..EngineConfig::default() };
    let mut shard = Shard::new(config);
    shard.jobs_stall = true;
    let stored = 3 + 2 * limits::ID_WINDOW_TIMES as u64 + 1;
    for id in 0..stored {
        shard.publish(&[&id.to_string()], false);
        assert_eq!(shard.take_answers(), [(id, vec![Stored(id)])]);
    }
    shard.publish(&["one more"], false);
    assert_eq!(shard.take_answers(), [(stored, vec![Failed(ErrorCode::ResourceExhausted)])]);
    assert_eq!(shard.engine.stats().ids_in_memory, stored);
}

#[test]
fn a_lost_leadership_is_told_to_those_who_wait() {
    let config = EngineConfig { id_window: 2, external_commit: true, ..EngineConfig::default() };
    let mut shard = Shard::new(config);
    let tell = |shard: &mut Shard, event| {
        shard.give(Input::Replica { partition: PARTITION, event });
    };
    let last = |shard: &Shard| shard.engine.replica_status(PARTITION).expect("it is open").last;
    let commit = |shard: &mut Shard| {
        let index = last(shard);
        tell(shard, ReplicaEvent::Committed(index));
    };
    commit(&mut shard);
    for id in 0..10_u64 {
        shard.publish(&[&id.to_string()], false);
        commit(&mut shard);
        assert_eq!(shard.take_answers(), [(id, vec![Stored(id)])]);
    }
    shard.publish(&["1"], false);
    shard.publish(&["x", "y"], false);
    assert!(shard.take_answers().is_empty());
    let truncate_from = Index(last(&shard).0 + 1);
    tell(&mut shard, ReplicaEvent::Deposed { truncate_from });
    let lost = || Failed(ErrorCode::NotLeader);
    assert_eq!(shard.take_answers(), [(10, vec![lost()]), (11, vec![lost(), lost()])]);
    shard.answer_reads();
    let term = shard.engine.replica_status(PARTITION).expect("it is deposed").term;
    tell(&mut shard, ReplicaEvent::Elected(crate::base::ids::Term(term.0 + 1)));
    commit(&mut shard);
    shard.publish(&["1"], false);
    shard.answer_reads();
    assert_eq!(shard.take_answers(), [(12, vec![Duplicate(1)])], "runs are still known");
}
