//! The oracle: it sees every input before the engine does and every effect before the world does,
//! and ends the run where a rule is broken.
//!
//! `records` knows events, `groups` (with `order`) deliveries, `replays` history; here requests are
//! matched with their answers, and the end of a run is judged.

use std::collections::BTreeMap;

use chronosdb::base::api::{
    AckOutcome, AckSpec, EventOutcome, PartitionStatus, PublishMessage, Replayed, Reply, Request,
    TopicSpec,
};
use chronosdb::base::error::{ApiError, ErrorCode};
use chronosdb::base::ids::{Caller, PartitionId, SessionId, ShardId};
use chronosdb::base::route;
use chronosdb::engine::{Effect, Input, RecoveryReport, ReplicaEvent};

use super::groups::{Facts, Groups, StreamKey};
use super::probe::GroupAudit;
use super::records::{Moment, Partition, Records};
use super::replays::Replay;
use crate::hold;

/// A request that waits for its final answer.
struct Open {
    kind: Kind,
    /// When it was given, and the wall since: what a relative delay may have counted from.
    given_us: u64,
    lowest_ms: u64,
    highest_ms: u64,
    /// Its session is gone: it may stay without an answer.
    orphan: bool,
    /// A stream that its session has closed.
    closed: bool,
}

enum Kind {
    Publish {
        numbers: Vec<u32>,
        batch: bool,
    },
    Ack(Vec<AckSpec>),
    Subscribe,
    Replay(Box<Replay>),
    /// Ends a stream; whether it gets an answer of its own is left open.
    Close,
    /// With the high watermarks known by then.
    Partitions(Option<PartitionId>, Vec<u64>),
    /// With whether the change was known to hold by then.
    Topic(TopicSpec, bool),
}

/// Judge of one run.
pub struct Oracle {
    pub facts: Facts,
    pub records: Records,
    pub groups: Groups,
    open: BTreeMap<StreamKey, Open>,
    /// Partitions with a flipped bit, not yet told about.
    rot_planted: Vec<bool>,
    /// Per shard: since when the disk has had too little room for publishes.
    low_since_us: BTreeMap<ShardId, u64>,
    pub replays_finished: u64,
}

impl Oracle {
    pub fn new(facts: Facts, exact_dedup: bool) -> Self {
        Self {
            records: Records::new(facts.partitions, exact_dedup),
            groups: Groups::new(facts.clone()),
            rot_planted: vec![false; facts.partitions as usize],
            facts,
            open: BTreeMap::new(),
            low_since_us: BTreeMap::new(),
            replays_finished: 0,
        }
    }

    /// The engine of a shard is about to be given this.
    pub fn given(&mut self, shard: ShardId, input: &Input, now: Moment) {
        self.records.highest_ms = now.highest_ms.max(self.records.highest_ms);
        match input {
            Input::Request { from, request } => self.asked((shard, *from), request, now),
            Input::DiskSpace { free_bytes } => {
                let reserve = self.facts.disk_reserve_bytes;
                if *free_bytes < reserve {
                    self.low_since_us.entry(shard).or_insert(now.time_us);
                } else if *free_bytes >= 2 * reserve {
                    self.low_since_us.remove(&shard);
                }
            }
            Input::SessionClosed { session } => self.session_closed(shard, *session, now),
            Input::Replica { partition, event: ReplicaEvent::Deposed { .. } } => {
                self.groups.deposed(*partition, now);
            }
            _ => {}
        }
    }

    /// The engine of a shard wants this done.
    pub fn wanted(&mut self, shard: ShardId, effect: &Effect, now: Moment) {
        match effect {
            Effect::Reply { to, reply } => self.replied((shard, *to), reply, now),
            Effect::Deliver { to, group, deliveries, bytes, not_before, .. } => {
                let size: u64 = deliveries.iter().map(|d| d.event.size()).sum();
                let latest = deliveries.iter().map(|d| d.event.schedule_ts).max();
                hold!(
                    StreamKept,
                    *bytes == size && latest == Some(*not_before),
                    "{bytes} of {size} bytes, not before {not_before} of {latest:?}"
                );
                for d in deliveries {
                    let (place, schedule_ts) = (d.event.offset, d.event.schedule_ts);
                    hold!(NeverEarly, schedule_ts <= now.wall_ms, "{place}: {schedule_ts} {now:?}");
                    self.records.seen(&d.event);
                    self.groups.delivered((shard, *to), group, d, &self.records, now);
                }
            }
            Effect::Replay { to, events, bytes, not_before, .. } => {
                let size: u64 = events.iter().map(|r| r.event.size()).sum();
                let latest = events.iter().map(|r| r.event.schedule_ts).max();
                hold!(
                    ReplayExact,
                    *bytes == size && latest == Some(*not_before),
                    "{bytes} of {size} bytes, not before {not_before} of {latest:?}"
                );
                for replayed in events {
                    self.replayed((shard, *to), replayed, now);
                }
            }
            Effect::Recovered { report } => self.recovered(report),
            _ => {}
        }
    }

    /// The process is gone, and what was open is unknown.
    pub fn crashed(&mut self, now: Moment) {
        self.open.clear();
        self.low_since_us.clear();
        self.groups.crashed(now);
        self.records.partitions.iter_mut().for_each(|partition| partition.served = false);
    }

    /// The wall has jumped.
    pub fn wall_stepped(&mut self, before_ms: u64, wall_ms: u64) {
        for open in self.open.values_mut() {
            open.lowest_ms = open.lowest_ms.min(wall_ms);
            open.highest_ms = open.highest_ms.max(wall_ms).max(before_ms);
            if let Kind::Replay(replay) = &mut open.kind {
                replay.wall_stepped(wall_ms);
            }
        }
    }

    /// A bit of what is durable is flipped.
    pub fn rotted(&mut self, partition: PartitionId) {
        self.rot_planted[partition.0 as usize] = true;
    }

    /// Requests of living sessions that wait for an answer which must come.
    pub fn unanswered(&self) -> Vec<StreamKey> {
        let due = |open: &Open| !open.orphan && !open.kind.is_stream();
        self.open.iter().filter(|(_, open)| due(open)).map(|(key, _)| *key).collect()
    }

    /// At any moment: the sum of a group's parts is what was applied.
    pub fn audited(partition: PartitionId, audits: &[GroupAudit]) {
        for audit in audits {
            if !audit.is_whole {
                continue; // part of it is on the disk only
            }
            let parts = audit.settled + audit.unsettled + audit.beyond;
            hold!(AuditSum, parts == audit.applied, "partition {partition}: {audit:?}");
        }
    }

    /// At the end, when nothing is under way: every part is what it should be.
    pub fn judge(&self, partition: PartitionId, audits: &[GroupAudit], now: Moment) {
        Self::audited(partition, audits);
        let p = partition.0;
        for group in &self.groups.all {
            let same = |a: &&GroupAudit| a.group == group.name && a.topic == group.topic;
            let Some(audit) = audits.iter().find(same) else {
                hold!(AuditSum, false, "partition {partition} does not know {}", group.name);
                return;
            };
            let known = self.records.of_topic(p, &group.topic).count() as u64;
            let future = self
                .records
                .of_topic(p, &group.topic)
                .filter(|(_, r)| r.schedule_ts > now.wall_ms)
                .count() as u64;
            let unseen = self.records.unseen(now.wall_ms);
            // A group that came after some of it was hidden does not take that.
            let takes_all = group.takes_all() && !self.records.hides(&group.topic);
            let all = !takes_all || !audit.is_whole || audit.applied >= known;
            hold!(AuditSum, all && audit.applied <= known + unseen, "{known} events, {audit:?}");
            hold!(
                EverythingSettles,
                audit.beyond + audit.unsettled <= future + unseen,
                "{partition}: {future} to come, {unseen} unseen, {audit:?}"
            );
        }
    }

    /// At the end of the run.
    pub fn finish(&self, now: Moment) {
        let open = self.unanswered();
        hold!(OneReply, open.is_empty(), "without an answer: {open:?}");
        let unfinished = self.groups.unfinished(&self.records, now);
        hold!(EverythingSettles, unfinished.is_empty(), "{unfinished:#?}");
        self.records.dense(now.wall_ms, self.records.unseen(now.wall_ms));
    }

    fn asked(&mut self, key: StreamKey, request: &Request, now: Moment) {
        let kind = match request {
            Request::Publish(message) => self.published(message, now),
            Request::Ack(specs) => {
                for spec in specs {
                    self.groups.judged(spec, now);
                }
                Kind::Ack(specs.clone())
            }
            Request::Subscribe(s) => {
                let partitions = s.partitions.clone();
                self.groups.subscribe(key, &s.group, &s.topic, partitions, s.credit, now);
                Kind::Subscribe
            }
            Request::Replay(spec) => Kind::Replay(Box::new(Replay::new(spec.clone(), now))),
            Request::CloseStream { correlation } => {
                let stream = (key.0, Caller { correlation: *correlation, ..key.1 });
                if let Some(open) = self.open.get_mut(&stream) {
                    open.closed = true;
                }
                Kind::Close
            }
            Request::Topic(spec) => Kind::Topic(spec.clone(), self.records.holds(&spec.topic)),
            Request::Partitions(which) => {
                let known = |p: &Partition| if p.served { p.high_watermark } else { 0 };
                let known = self.records.partitions.iter().map(known);
                Kind::Partitions(*which, known.collect())
            }
        };
        let open = Open {
            kind,
            given_us: now.time_us,
            lowest_ms: now.lowest_ms,
            highest_ms: now.highest_ms,
            orphan: false,
            closed: false,
        };
        let reused = self.open.insert(key, open).is_some();
        assert!(!reused, "the workload gives each request a correlation id of its own");
    }

    fn published(&mut self, message: &PublishMessage, now: Moment) -> Kind {
        let numbers = message.events.iter().map(|event| {
            let payload = event.payload.of(&message.bytes);
            let number = u32::from_le_bytes(*payload.first_chunk().expect("a number"));
            self.records.tried(number, now);
            number
        });
        Kind::Publish { numbers: numbers.collect(), batch: message.batch }
    }

    fn session_closed(&mut self, shard: ShardId, session: SessionId, now: Moment) {
        for (key, open) in &mut self.open {
            if key.0 == shard && key.1.session == session {
                open.orphan = true;
                if open.kind.is_stream() {
                    self.groups.ended(*key, now);
                }
            }
        }
    }

    fn replied(&mut self, key: StreamKey, reply: &Reply, now: Moment) {
        if let Reply::Subscribed = reply {
            let expected = self.open.get(&key).is_some_and(|open| open.kind.is_stream());
            hold!(OneReply, expected, "{key:?}: nobody opened a stream");
            return self.groups.subscribed(key);
        }
        let Some(open) = self.open.remove(&key) else {
            hold!(OneReply, false, "{key:?} is not open: {reply:?}");
            return;
        };
        match (&open.kind, reply) {
            (Kind::Publish { numbers, batch }, Reply::Published { batch: form, outcomes }) => {
                hold!(
                    OneReply,
                    numbers.len() == outcomes.len() && batch == form,
                    "{key:?}: {} outcomes for {} events",
                    outcomes.len(),
                    numbers.len()
                );
                for (number, outcome) in numbers.iter().zip(outcomes) {
                    self.outcome(*number, outcome, &open, now);
                }
            }
            (Kind::Publish { numbers, .. }, Reply::Failed(error)) => {
                for number in numbers {
                    self.records.refused(*number, error);
                }
            }
            (Kind::Ack(specs), Reply::Acked(outcomes)) => {
                hold!(OneReply, specs.len() == outcomes.len(), "{key:?}: {outcomes:?}");
                self.acked(specs, outcomes, open.given_us, now);
            }
            (Kind::Partitions(which, known), Reply::Partitions(list)) => {
                self.status(*which, known, list, now);
            }
            (Kind::Topic(spec, held), Reply::Topic(list)) => {
                self.records.topic_is(spec, *held, list, now);
            }
            (Kind::Subscribe, Reply::StreamEnd(_) | Reply::Failed(_)) => {
                self.groups.ended(key, now);
            }
            (Kind::Close, Reply::StreamEnd(_) | Reply::Failed(_)) => {}
            (Kind::Replay(_), Reply::StreamEnd(Ok(()))) => self.replay_finished(open),
            (
                Kind::Ack(_) | Kind::Partitions(..) | Kind::Topic(..) | Kind::Replay(_),
                Reply::Failed(error) | Reply::StreamEnd(Err(error)),
            ) => self.failed(key, error),
            _ => hold!(OneReply, false, "{key:?}: not an answer to it: {reply:?}"),
        }
    }

    fn outcome(&mut self, number: u32, outcome: &EventOutcome, open: &Open, now: Moment) {
        match outcome {
            EventOutcome::Stored(placed) => {
                let low = open.lowest_ms;
                let high = open.highest_ms.max(now.highest_ms);
                let owner = route::shard_of(placed.partition, now.shards);
                let since = self.low_since_us.get(&owner);
                let room = since.is_none_or(|low_us| open.given_us <= *low_us);
                hold!(ReserveKept, room, "{number} was given when space was low since {since:?}");
                self.records.stored(number, *placed, low, high, now);
            }
            EventOutcome::Duplicate(placed) => self.records.duplicate(number, *placed, now),
            EventOutcome::Failed(error) => self.records.refused(number, error),
        }
    }

    fn acked(&mut self, specs: &[AckSpec], outcomes: &[AckOutcome], given_us: u64, now: Moment) {
        for (spec, outcome) in specs.iter().zip(outcomes) {
            self.groups.answered(spec, &outcome.result, given_us, now);
        }
    }

    fn status(
        &mut self,
        which: Option<PartitionId>,
        known: &[u64],
        list: &[PartitionStatus],
        now: Moment,
    ) {
        let asked: Vec<PartitionId> = match which {
            Some(partition) => vec![partition],
            None => (0..self.facts.partitions).map(PartitionId).collect(),
        };
        let given: Vec<PartitionId> = list.iter().map(|status| status.partition).collect();
        hold!(OneReply, asked == given, "asked for {asked:?}, told of {given:?}");
        for status in list {
            let partition = status.partition;
            let shard = route::shard_of(partition, now.shards);
            hold!(OneReply, status.shard == shard, "{partition} is not on {}", status.shard);
            let rotten = self.records.partitions[partition.0 as usize].rotten;
            let told = !status.read_only || rotten;
            hold!(RotReported, told, "{partition} is read-only, and nobody was told why");
            let least = known[partition.0 as usize];
            self.records.high_watermark(partition, status.high_watermark.0, least);
        }
    }

    fn failed(&self, key: StreamKey, error: &ApiError) {
        let rot = self.records.partitions.iter().any(|p| p.rotten);
        let explained = match error.code {
            ErrorCode::Unavailable | ErrorCode::NotLeader | ErrorCode::ResourceExhausted => true,
            ErrorCode::DataLoss => rot,
            _ => false,
        };
        hold!(RefusalExplained, explained, "{key:?}: {error:?}");
    }

    fn replayed(&mut self, key: StreamKey, replayed: &Replayed, now: Moment) {
        let (place, schedule_ts) = (replayed.event.offset, replayed.event.schedule_ts);
        hold!(NeverEarly, schedule_ts <= now.wall_ms, "{place}: {schedule_ts} {now:?}");
        self.records.seen(&replayed.event);
        match self.open.get_mut(&key) {
            Some(Open { kind: Kind::Replay(replay), orphan: false, .. }) => replay.came(replayed),
            _ => hold!(StreamKept, false, "{key:?}: a replay of nobody"),
        }
    }

    fn replay_finished(&mut self, open: Open) {
        if let Kind::Replay(replay) = open.kind
            && !open.closed
        {
            replay.finished(&self.records);
            self.replays_finished += 1;
        }
    }

    fn recovered(&mut self, report: &RecoveryReport) {
        let p = report.partition.0 as usize;
        let planted = std::mem::take(&mut self.rot_planted[p]);
        let was = self.records.partitions[p].rotten;
        if let Some(text) = &report.rot {
            hold!(RotReported, planted || was, "partition {p}: no bit was flipped, yet: {text}");
            self.records.partitions[p].rotten = true;
        } else {
            hold!(RotReported, !was, "partition {p} was damaged and is well again");
            self.records.recovered(report.partition, report.events);
        }
    }
}

impl Kind {
    fn is_stream(&self) -> bool {
        matches!(self, Self::Subscribe | Self::Replay(_) | Self::Close)
    }
}
