//! One engine with one partition over the disk in memory: whatever it asks for is done at once, and
//! time passes as a test says, from deadline to deadline.
//!
//! For tests of what is kept and for how long: they publish, consume, restart, lose files, and look
//! at the files that are left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chronosdb::base::api::{
    AckSpec, Delivery, DeliveryId, EventOutcome, EventSpan, PartitionSet, PublishMessage,
    ReplayRange, ReplaySpec, Reply, Request, Span, Start, SubscribeSpec, TopicSpec, Verdict,
};
use chronosdb::base::config::EngineConfig;
use chronosdb::base::error::ErrorCode;
use chronosdb::base::ids::{Caller, Index, NameHash, Offset, PartitionId, SessionId, ShardId};
use chronosdb::base::time::Now;
use chronosdb::base::topic_retention::TopicRetention;
use chronosdb::engine::checkpoint::Found;
use chronosdb::engine::jobs::Job;
use chronosdb::engine::log::{Content, Ids};
use chronosdb::engine::{Effect, Engine, EngineStats, Input, RecoveryReport};

use super::disk::{Crash, Disk, Op, Write};
use super::jobs::Jobs;
use super::rng::{Rng, Salt};

/// The only partition.
pub const PARTITION: PartitionId = PartitionId(0);
/// When everything begins, Unix ms.
pub const BEGIN_MS: u64 = 1_790_000_000_000;
/// Turns at one moment, beyond which the engine goes in circles.
const TURNS_MAX: u64 = 20_000;

/// An event as a consumer or a replay gets it: its offset and its id.
pub type Seen = (u64, String);

/// A member's stream.
pub struct Stream {
    pub group: &'static str,
    pub acks: bool,
    /// What has come and is not acked.
    pub open: Vec<Delivery>,
}

/// See the module.
pub struct Keeper {
    config: EngineConfig,
    engine: Engine,
    pub disk: Disk,
    pub jobs: Jobs,
    now: Now,
    rng: Rng,
    inputs: VecDeque<Input>,
    correlation: u64,
    /// Open streams, by their correlation ids.
    streams: BTreeMap<u64, Stream>,
    /// All deliveries, in order, by group.
    pub got: BTreeMap<&'static str, Vec<Seen>>,
    pub replies: BTreeMap<u64, Reply>,
    pub replayed: BTreeMap<u64, Vec<Seen>>,
    /// Acks that were confirmed, by group.
    pub confirmed: BTreeMap<&'static str, BTreeSet<u64>>,
    acking: BTreeMap<u64, (&'static str, Vec<u64>)>,
    pub report: Option<RecoveryReport>,
    pub removed_segments: u64,
    /// Jobs begin, and do not end.
    pub holds_jobs: bool,
    /// Reads of the log begin, and are done one by one as a test says.
    pub holds_reads: bool,
    held_reads: VecDeque<Op>,
}

/// Small files, looked at all the time: most limits are exact to the ms.
pub fn small() -> EngineConfig {
    EngineConfig {
        cluster: 7,
        partitions: 1,
        segment_bytes: 64 << 10,
        index_interval_bytes: 4 << 10,
        flush_bytes: 16 << 10,
        id_window: 1,
        past_events: 0,
        horizon_ms: 1_000,
        retention_ms: 60_000,
        dedup_ttl_ms: 1,
        retention_check_ms: 1,
        jump_pause_ms: 0,
        ..EngineConfig::default()
    }
}

impl Keeper {
    pub fn new(config: EngineConfig) -> Self {
        let engine = Engine::new(config.clone(), ShardId(0));
        let mut keeper = Self {
            config,
            engine,
            disk: Disk::new(Rng::new(1, Salt::Disk)),
            jobs: Jobs::default(),
            now: Now { wall_us: BEGIN_MS * 1_000, boot_us: 1_000_000 },
            rng: Rng::new(1, Salt::Crash),
            inputs: VecDeque::new(),
            correlation: 0,
            streams: BTreeMap::new(),
            got: BTreeMap::new(),
            replies: BTreeMap::new(),
            replayed: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            acking: BTreeMap::new(),
            report: None,
            removed_segments: 0,
            holds_jobs: false,
            holds_reads: false,
            held_reads: VecDeque::new(),
        };
        keeper.start();
        keeper
    }

    pub fn now_ms(&self) -> u64 {
        self.now.wall_ms()
    }

    pub fn stats(&mut self) -> &EngineStats {
        self.engine.stats()
    }

    /// First indexes of the segments that are there.
    pub fn segments(&mut self) -> Vec<Index> {
        self.disk.firsts(PARTITION)
    }

    /// Bytes of all files: segments, runs, checkpoints.
    pub fn disk_bytes(&self) -> u64 {
        self.disk.bytes() + self.jobs.bytes() + self.jobs.checkpoint_bytes()
    }

    /// What a start would find.
    pub fn look(&mut self) -> Found {
        let (segments, hard_state) = self.disk.mount(PARTITION);
        let ids = Ids { cluster: self.config.cluster, partition: PARTITION };
        let log_start = hard_state.unwrap_or_default().log_start;
        let found = self.jobs.mount(ids, &segments, log_start);
        self.disk.lock(PARTITION);
        found
    }

    /// The process is killed, and starts again with this setting.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// The process is killed. Members are gone with it.
    pub fn kill(&mut self) {
        self.streams.clear();
        self.acking.clear();
        self.inputs.clear();
        self.disk.crash(Crash::Process);
        self.jobs.crash(Crash::Process, &mut self.rng);
    }

    /// It starts.
    pub fn start(&mut self) {
        self.engine = Engine::new(self.config.clone(), ShardId(0));
        self.report = None;
        let (segments, hard_state) = self.disk.mount(PARTITION);
        let ids = Ids { cluster: self.config.cluster, partition: PARTITION };
        let log_start = hard_state.unwrap_or_default().log_start;
        let checkpoints = self.jobs.mount(ids, &segments, log_start);
        let partition = PARTITION;
        self.give(Input::Mount { partition, segments, hard_state, checkpoints });
        assert!(self.report.is_some(), "a start comes to its end");
    }

    /// The job that is held runs to its end, and so do those behind it.
    pub fn release_job(&mut self) {
        self.holds_jobs = false;
        let done = loop {
            if let Some(done) = self.jobs.advance(PARTITION, &self.disk, u64::MAX) {
                break done;
            }
        };
        self.give(done);
    }

    /// How many reads of the log are held.
    pub fn held_reads(&self) -> usize {
        self.held_reads.len()
    }

    /// The read that has been held for longest is done.
    pub fn release_read(&mut self) {
        let read = self.held_reads.pop_front().expect("a read is held");
        self.op(read);
        self.go_on();
    }

    /// Whether a publish would be given to the engine now.
    pub fn takes_publishes(&self) -> bool {
        self.engine.takes_publishes()
    }

    pub fn set_config(&mut self, change: impl FnOnce(&mut EngineConfig)) {
        change(&mut self.config);
    }

    /// Publishes an event of so many bytes, and tells what became of it: its offset, or that of the
    /// event that has its id already.
    pub fn publish_some(
        &mut self,
        topic: &str,
        id: &str,
        due_ms: u64,
        bytes: usize,
    ) -> Result<u64, ErrorCode> {
        let mut text = Vec::new();
        let mut put = |data: &str| {
            let start = text.len() as u32;
            text.extend_from_slice(data.as_bytes());
            Span { start, len: data.len() as u32 }
        };
        let event = EventSpan {
            message_id: put(id),
            topic: put(topic),
            payload: put(&"x".repeat(bytes)),
            schedule_ts: due_ms,
            ..EventSpan::default()
        };
        let (bytes, events) = (text.into(), vec![event]);
        let message = PublishMessage { bytes, events, allow_duplicate: false, batch: false };
        let correlation = self.ask(Request::Publish(message));
        match self.replies.remove(&correlation) {
            Some(Reply::Published { outcomes, .. }) => match &outcomes[..] {
                [EventOutcome::Stored(placed) | EventOutcome::Duplicate(placed)] => {
                    Ok(placed.offset.0)
                }
                [EventOutcome::Failed(error)] => Err(error.code),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// Publishes an event of 1000 bytes: its offset, which is also its id.
    pub fn publish(&mut self, topic: &str, due_ms: u64) -> u64 {
        let id = format!("{topic}-{}", self.correlation);
        self.publish_some(topic, &id, due_ms, 1_000).expect("it is stored")
    }

    /// Publishes what is due now until a new segment is begun, and a bit more. The offsets.
    pub fn fill_segment(&mut self, topic: &str) -> Vec<u64> {
        let before = self.segments().len();
        let removed = self.removed_segments;
        let mut offsets = Vec::new();
        while self.segments().len() as u64 + self.removed_segments == before as u64 + removed {
            offsets.push(self.publish(topic, self.now_ms()));
        }
        offsets
    }

    /// Asks how long a topic is kept, or says it; what holds then.
    pub fn topic(&mut self, topic: &str, retention: Option<TopicRetention>) -> TopicRetention {
        match self.topics(&[(topic, retention)]).remove(0) {
            Ok(held) => held,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// As [`Self::topic`], many in one turn.
    pub fn topics(
        &mut self,
        asked: &[(&str, Option<TopicRetention>)],
    ) -> Vec<Result<TopicRetention, ErrorCode>> {
        let first = self.correlation;
        for (topic, retention) in asked {
            let request =
                Request::Topic(TopicSpec { topic: (*topic).into(), retention: *retention });
            let correlation = self.correlation;
            self.correlation += 1;
            let from = Caller { session: SessionId(correlation), correlation };
            self.inputs.push_back(Input::Request { from, request });
        }
        self.go_on();
        let answers =
            (first..self.correlation).map(|correlation| match self.replies.remove(&correlation) {
                Some(Reply::Topic(held)) => Ok(held[0].1),
                Some(Reply::Failed(error)) => Err(error.code),
                other => panic!("{other:?}"),
            });
        answers.collect()
    }

    /// Opens a member's stream: its correlation id, which is the number of its session, too.
    pub fn subscribe(&mut self, group: &'static str, topic: &str, acks: bool) -> u64 {
        let spec = SubscribeSpec {
            group: group.into(),
            topic: topic.into(),
            member: "m".into(),
            partitions: PartitionSet::All,
            start: Start::Beginning,
            credit: 50_000,
        };
        self.streams.insert(self.correlation, Stream { group, acks, open: Vec::new() });
        self.ask(Request::Subscribe(spec))
    }

    /// A member goes, with its connection.
    pub fn leave(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.give(Input::SessionClosed { session: SessionId(stream) });
    }

    /// Acks what a stream has open.
    pub fn ack_open(&mut self, stream: u64) {
        let stream = self.streams.get_mut(&stream).expect("an open stream");
        let (group, open) = (stream.group, std::mem::take(&mut stream.open));
        self.ack(group, &open);
        self.go_on();
    }

    /// What a stream has open, which is never acked then.
    pub fn take_open(&mut self, stream: u64) -> Vec<Delivery> {
        std::mem::take(&mut self.streams.get_mut(&stream).expect("an open stream").open)
    }

    pub fn has_stream(&self, stream: u64) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Dead letters of the newest checkpoint: group, offset, reason.
    pub fn dead_letters(&mut self) -> Vec<(String, u64, String)> {
        let restored = self.look().restored.expect("a checkpoint");
        let mut names = BTreeMap::new();
        let mut dead = Vec::new();
        for body in &restored.checkpoint.state {
            let Content::State(view) = body.content() else { panic!("a state") };
            names.extend(view.groups().map(|group| (group.no, group.name.to_string())));
            dead.extend(view.dead().map(|row| {
                (names[&row.group].clone(), row.position.offset.0, format!("{:?}", row.reason))
            }));
        }
        dead
    }

    /// All of a replay.
    pub fn replay(&mut self, topic: &str, range: ReplayRange) -> Vec<Seen> {
        let correlation = self.begin_replay(topic, range);
        self.end_replay(correlation)
    }

    /// Begins one: its correlation id.
    pub fn begin_replay(&mut self, topic: &str, range: ReplayRange) -> u64 {
        let (topic, partitions) = (Arc::from(topic), PartitionSet::All);
        self.ask(Request::Replay(ReplaySpec { topic, partitions, range, speed: 0.0 }))
    }

    /// All of one that is over.
    pub fn end_replay(&mut self, correlation: u64) -> Vec<Seen> {
        let end = self.replies.remove(&correlation);
        assert!(matches!(end, Some(Reply::StreamEnd(Ok(())))), "{end:?}");
        self.replayed.remove(&correlation).unwrap_or_default()
    }

    /// Ids of what a group was given.
    pub fn offsets_of(&self, group: &str) -> Vec<u64> {
        self.got.get(group).into_iter().flatten().map(|(offset, _)| *offset).collect()
    }

    /// Time passes, up to this moment (Unix ms), from deadline to deadline.
    pub fn pass_to(&mut self, wall_ms: u64) {
        while self.now.wall_ms() < wall_ms {
            let rest_us = wall_ms * 1_000 - self.now.wall_us;
            let next_us = self.engine.next_deadline(self.now).unwrap_or(u64::MAX);
            let step_us = next_us.saturating_sub(self.now.boot_us).clamp(1_000, rest_us);
            self.now.wall_us += step_us;
            self.now.boot_us += step_us;
            self.give(Input::Tick);
        }
    }

    /// Time passes while there is no process.
    pub fn sleep_to(&mut self, wall_ms: u64) {
        let us = wall_ms * 1_000 - self.now.wall_us;
        self.now.wall_us += us;
        self.now.boot_us += us;
    }

    pub fn pass(&mut self, ms: u64) {
        self.pass_to(self.now_ms() + ms);
    }

    fn ask(&mut self, request: Request) -> u64 {
        let correlation = self.correlation;
        self.correlation += 1;
        let from = Caller { session: SessionId(correlation), correlation };
        self.give(Input::Request { from, request });
        correlation
    }

    fn give(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.go_on();
    }

    /// Turns, until nothing is to be done now.
    fn go_on(&mut self) {
        for _ in 0..TURNS_MAX {
            while let Some(input) = self.inputs.pop_front() {
                self.step(input);
            }
            self.step(Input::TurnEnd);
            if !self.inputs.is_empty() {
                continue;
            }
            if self.engine.next_deadline(self.now).is_none_or(|at_us| at_us > self.now.boot_us) {
                return;
            }
            self.inputs.push_back(Input::Tick);
        }
        panic!("the engine goes in circles");
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.engine.step(self.now, input, &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn op(&mut self, op: Op) {
        let id = self.disk.submit(op);
        self.inputs.extend(self.disk.complete(id).map(|(_, input)| input));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { to, reply } => self.replied(to.correlation, reply),
            Effect::Deliver { to, subscription, deliveries, bytes, not_before, .. } => {
                assert!(not_before <= self.now_ms(), "nothing is early");
                self.inputs.push_back(Input::Sent { subscription, bytes, batches: 1 });
                self.delivered(to.correlation, deliveries);
            }
            Effect::Replay { to, subscription, events, bytes, not_before } => {
                assert!(not_before <= self.now_ms(), "nothing is early");
                self.inputs.push_back(Input::Sent { subscription, bytes, batches: 1 });
                let seen = events.iter().map(|event| seen(&event.event));
                self.replayed.entry(to.correlation).or_default().extend(seen);
            }
            Effect::Mesh { .. } => unreachable!("one shard"),
            Effect::Write { partition, write: number, segment, position, len, sync } => {
                let mut data = vec![0xee; len as usize];
                self.engine.fill_write(partition, number, &mut data);
                self.op(Op::Write(Write { partition, number, segment, position, data, sync }));
            }
            Effect::CreateSegment { partition, segment } => {
                self.op(Op::Create { partition, segment });
            }
            Effect::Fill { partition, segment, from, to } => {
                self.op(Op::Fill { partition, segment, from, to });
            }
            Effect::Read { partition, read, segment, position, len } => {
                let read = Op::Read { partition, read, segment, position, len };
                if self.holds_reads {
                    return self.held_reads.push_back(read);
                }
                self.op(read);
            }
            Effect::Sync { partition, segment } => self.op(Op::Sync { partition, segment }),
            Effect::RemoveSegment { partition, segment } => {
                self.removed_segments += 1;
                self.op(Op::Remove { partition, segment });
            }
            Effect::SaveHardState { partition, state } => self.op(Op::Save { partition, state }),
            Effect::Recovered { report } => {
                self.disk.lock(PARTITION);
                self.report = Some(report);
            }
            derived => self.carry_out_derived(derived),
        }
    }

    fn carry_out_derived(&mut self, effect: Effect) {
        match effect {
            Effect::StartJob { partition, job } => {
                self.jobs.start(partition, Job::new(job));
                if self.holds_jobs {
                    return;
                }
                let done = loop {
                    if let Some(input) = self.jobs.advance(partition, &self.disk, u64::MAX) {
                        break input;
                    }
                };
                self.inputs.push_back(done);
            }
            Effect::ReadRun { partition, read, run, position, len } => {
                let data = self.jobs.read(partition, run, position, len);
                self.inputs.push_back(Input::ReadDone { partition, read, data });
            }
            Effect::RemoveRun { partition, run } => self.jobs.remove(partition, run),
            Effect::SaveCheckpoint { partition, number, bytes } => {
                self.jobs.save(partition, number, bytes);
                let saved = self.jobs.saved(partition);
                self.inputs.push_back(saved);
            }
            Effect::RemoveCheckpoint { partition, number } => {
                self.jobs.remove_checkpoint(partition, number);
            }
            Effect::Condemn { partition, text } => {
                self.jobs.renew(partition, &self.disk);
                panic!("condemned: {text}");
            }
            other => unreachable!("not derived: {other:?}"),
        }
    }

    fn delivered(&mut self, correlation: u64, deliveries: Vec<Delivery>) {
        let Some(stream) = self.streams.get_mut(&correlation) else { return };
        let got = self.got.entry(stream.group).or_default();
        got.extend(deliveries.iter().map(|delivery| seen(&delivery.event)));
        if stream.acks {
            let group = stream.group;
            return self.ack(group, &deliveries);
        }
        stream.open.extend(deliveries);
    }

    fn ack(&mut self, group: &'static str, deliveries: &[Delivery]) {
        let specs = deliveries.iter().map(|delivery| {
            let id = DeliveryId {
                group: NameHash::of(group),
                partition: delivery.event.partition,
                group_no: delivery.group,
                term: delivery.term,
                position: delivery.event.position(),
                attempt: delivery.attempt,
                seal: delivery.seal,
            };
            AckSpec { id: Some(id), verdict: Verdict::Ack }
        });
        let request = Request::Ack(specs.collect());
        let offsets = deliveries.iter().map(|delivery| delivery.event.offset.0).collect();
        let correlation = self.correlation;
        self.correlation += 1;
        self.acking.insert(correlation, (group, offsets));
        let from = Caller { session: SessionId(correlation), correlation };
        self.inputs.push_back(Input::Request { from, request });
    }

    fn replied(&mut self, correlation: u64, reply: Reply) {
        if let Reply::Acked(outcomes) = &reply {
            let (group, offsets) = self.acking.remove(&correlation).expect("an ack was asked for");
            let confirmed =
                outcomes.iter().zip(offsets).filter(|(outcome, _)| outcome.result.is_ok());
            let confirmed = confirmed.map(|(_, offset)| offset);
            self.confirmed.entry(group).or_default().extend(confirmed);
            return;
        }
        self.replies.insert(correlation, reply);
    }
}

fn seen(event: &chronosdb::base::api::StoredEvent) -> Seen {
    let id = String::from_utf8_lossy(event.message_id.of(&event.body)).into_owned();
    (event.offset.0, id)
}

/// All that a replay by offsets can have.
pub fn from_offset(start: u64) -> ReplayRange {
    ReplayRange::Offsets { start: Offset(start), count: u64::MAX >> 1 }
}
