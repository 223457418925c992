//! The truth about events: what was sent, what was acknowledged, and what was seen at which offset.
//!
//! Everything that shows an event (an answer, a delivery, a replay) is a sighting, and all
//! sightings of an offset must agree, for ever and across crashes.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronosdb::base::api::{Placed, StoredEvent, TopicSpec};
use chronosdb::base::error::{ApiError, ErrorCode};
use chronosdb::base::ids::PartitionId;
use chronosdb::base::topic_retention::TopicRetention;

use super::content::{Content, When, number_of};
use super::rule::{Rule, broken};
use crate::hold;

/// The moment a rule is judged at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// World time.
    pub time_us: u64,
    /// What the wall reads.
    pub wall_ms: u64,
    /// Lowest and highest wall of the last moments: what another shard may have acted on.
    pub lowest_ms: u64,
    pub highest_ms: u64,
    /// What the engine surely knows the wall to have reached.
    pub noticed_ms: u64,
    /// Number of the process.
    pub epoch: u64,
    /// Its shards.
    pub shards: u16,
}

/// What is known of one offset.
#[derive(Clone, Debug)]
pub struct Record {
    pub topic: Arc<str>,
    message_id: String,
    /// Which content lies there; an answer `duplicate` names only its id.
    pub content: Option<u32>,
    pub schedule_ts: u64,
    /// Known once the event itself was seen.
    pub append_ts: Option<u64>,
    /// World time of the first answer that acknowledged it.
    pub acked_us: Option<u64>,
    /// An answer has said `stored`; no other may.
    stored: bool,
}

/// One partition's log as seen from outside.
#[derive(Default)]
pub struct Partition {
    pub records: BTreeMap<u64, Record>,
    /// Damage was reported: read-only from here on.
    pub rotten: bool,
    /// Highest high watermark that was answered.
    pub high_watermark: u64,
    /// Served by the present process: before that its end is not known.
    pub served: bool,
}

/// How long a topic is kept.
struct Planned {
    retention: TopicRetention,
    /// Since when all partitions are known to do so.
    since_us: Option<u64>,
}

/// What is known of a message id in its partition and topic.
#[derive(Default)]
struct Known {
    /// Offset that dedup maps to: pinned by an answer.
    first: Option<u64>,
    /// Offsets that hold the id.
    offsets: Vec<u64>,
}

/// All events of a run.
pub struct Records {
    pub contents: Vec<Content>,
    /// How often each content was given to the engine without a definite refusal.
    tries: Vec<u32>,
    /// World time at which each content was first given to the engine.
    given_us: Vec<u64>,
    pub partitions: Vec<Partition>,
    ids: BTreeMap<(u16, Arc<str>, String), Known>,
    /// Ids are remembered for the whole run.
    exact_dedup: bool,
    /// How long events are kept behind their due time; `None`: for ever.
    pub retention_ms: Option<u64>,
    /// How long topics are kept, where it is not like that.
    topics: BTreeMap<Arc<str>, Planned>,
    /// The highest the wall has ever read.
    pub highest_ms: u64,
}

impl Records {
    pub fn new(partitions: u16, exact_dedup: bool) -> Self {
        Self {
            contents: Vec::new(),
            tries: Vec::new(),
            given_us: Vec::new(),
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            ids: BTreeMap::new(),
            exact_dedup,
            retention_ms: None,
            topics: BTreeMap::new(),
            highest_ms: 0,
        }
    }

    /// Retention may have let go of the event while the wall read no more than this.
    pub fn may_be_gone(&self, record: &Record, wall_ms: u64) -> bool {
        let due = record.schedule_ts.max(record.append_ts.unwrap_or(0));
        self.kept_ms(record).is_some_and(|kept| due.saturating_add(kept) <= wall_ms)
    }

    /// How long the event is kept for sure behind its due time, ms; `None`: for ever.
    fn kept_ms(&self, record: &Record) -> Option<u64> {
        let Some(planned) = self.topics.get(&record.topic) else { return self.retention_ms };
        let own = match planned.retention {
            TopicRetention::For(ms) => Some(ms),
            _ => None,
        };
        // What was published before may have been let go of, or be hidden since.
        let is_new = planned.since_us.is_some_and(|since| self.given_us(record) > since);
        if is_new { own } else { own.into_iter().chain(self.retention_ms).min() }
    }

    /// Topics are going to be kept this long.
    pub fn plan(&mut self, plan: &[(Arc<str>, TopicRetention)]) {
        for (topic, retention) in plan {
            let planned = Planned { retention: *retention, since_us: None };
            self.topics.insert(topic.clone(), planned);
        }
    }

    /// Whether some of the topic may be hidden though it is there.
    pub fn hides(&self, topic: &str) -> bool {
        let planned = self.topics.get(topic);
        planned.is_some_and(|p| matches!(p.retention, TopicRetention::For(_)))
    }

    /// Whether the topic's setting has been answered for.
    pub fn holds(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|planned| planned.since_us.is_some())
    }

    /// What holds for a topic was answered; `held` was known when it was asked.
    pub fn topic_is(
        &mut self,
        spec: &TopicSpec,
        held: bool,
        list: &[(PartitionId, TopicRetention)],
        now: Moment,
    ) {
        let planned = self.topics.get_mut(&spec.topic).expect("only planned ones are asked for");
        let all: Vec<u16> = list.iter().map(|(partition, _)| partition.0).collect();
        let every: Vec<u16> = (0..self.partitions.len() as u16).collect();
        hold!(SettingKept, all == every, "{spec:?}: answered for {all:?}");
        for (partition, kept) in list {
            let set = *kept == planned.retention;
            let right = set || !held && spec.retention.is_none() && *kept == TopicRetention::Node;
            hold!(SettingKept, right, "{spec:?}: partition {partition} keeps it {kept}");
        }
        if spec.retention.is_some() {
            planned.since_us.get_or_insert(now.time_us);
        }
    }

    /// Its segment may be gone: no replay by offsets finds it.
    pub fn may_have_left(&self, record: &Record, wall_ms: u64) -> bool {
        let written = record.append_ts.unwrap_or(0);
        // A topic that is kept for longer is carried: no replay by offsets finds that.
        let hidden = self.may_be_gone(record, wall_ms);
        hidden || self.retention_ms.is_some_and(|kept| written.saturating_add(kept) <= wall_ms)
    }

    /// A new content; its number is its place.
    pub fn add(&mut self, mut content: Content) -> u32 {
        content.number = self.contents.len() as u32;
        self.contents.push(content);
        self.tries.push(0);
        self.given_us.push(u64::MAX);
        self.contents.len() as u32 - 1
    }

    pub fn content(&self, number: u32) -> &Content {
        &self.contents[number as usize]
    }

    pub fn partition_of(&self, number: u32) -> PartitionId {
        self.content(number).partition(self.partitions.len() as u16)
    }

    /// The engine is given this event.
    pub fn tried(&mut self, number: u32, now: Moment) {
        self.tries[number as usize] += 1;
        let given_us = &mut self.given_us[number as usize];
        *given_us = now.time_us.min(*given_us);
    }

    /// World time before which the event cannot have been in the log.
    pub fn given_us(&self, record: &Record) -> u64 {
        record.content.map_or(0, |number| self.given_us[number as usize])
    }

    /// Stored at an offset of its own.
    pub fn stored(&mut self, number: u32, placed: Placed, low_ms: u64, high_ms: u64, now: Moment) {
        let content = self.content(number).clone();
        let place = (placed.partition.0, placed.offset.0);
        hold!(RefusalExplained, content.fault.is_none(), "{number}: stored in spite of its fault");
        hold!(
            OneOffsetOneId,
            placed.partition == self.partition_of(number),
            "{number} is stored in partition {}, not in its own",
            placed.partition
        );
        let rotten = self.partitions[placed.partition.0 as usize].rotten;
        hold!(RotReported, !rotten, "{place:?}: stored in a read-only partition");
        hold!(
            ScheduleKept,
            match content.when {
                When::At(ts) => placed.schedule_ts == ts,
                When::Delay(ms) => (low_ms + ms..=high_ms + ms).contains(&placed.schedule_ts),
            },
            "{number}: {:?} became {} (wall {low_ms} to {high_ms})",
            content.when,
            placed.schedule_ts
        );
        self.see(place, number, placed.schedule_ts, None);
        self.acknowledge(place, now);
        let record = self.partitions[place.0 as usize].records.get_mut(&place.1);
        let twice = std::mem::replace(&mut record.expect("just seen").stored, true);
        hold!(OneOffsetOneId, !twice, "{place:?} is given to {number}, and was given before");
        let known = self.known(place);
        let first = known.offsets.iter().all(|other| placed.offset.0 <= *other);
        hold!(
            DuplicateIsOriginal,
            !self.exact_dedup || content.allow_duplicate || first,
            "{number} is stored at {place:?}, yet its id is at {:?}",
            known.offsets
        );
    }

    /// Known before: the place is the original's.
    pub fn duplicate(&mut self, number: u32, placed: Placed, now: Moment) {
        let content = self.content(number).clone();
        let place = (placed.partition.0, placed.offset.0);
        hold!(DuplicateIsOriginal, !content.allow_duplicate, "{number} allowed duplicates");
        hold!(
            DuplicateIsOriginal,
            placed.partition == self.partition_of(number),
            "{number}: original in partition {}",
            placed.partition
        );
        let record = Record {
            topic: content.topic,
            message_id: content.message_id,
            content: None,
            schedule_ts: placed.schedule_ts,
            append_ts: None,
            acked_us: None,
            stored: false,
        };
        self.agree(place, record);
        self.acknowledge(place, now);
        if self.exact_dedup {
            let key = self.key(place);
            let known = self.ids.get_mut(&key).expect("agree has added it");
            let pinned = *known.first.get_or_insert(placed.offset.0);
            let lowest = known.offsets.iter().all(|other| pinned <= *other);
            hold!(
                DuplicateIsOriginal,
                pinned == placed.offset.0 && lowest,
                "{number}: answered {place:?}, first {pinned}, seen {:?}",
                known.offsets
            );
        }
    }

    /// Not stored, if the code says so for certain.
    pub fn refused(&mut self, number: u32, error: &ApiError) {
        let content = self.content(number);
        let partition = self.partition_of(number);
        let rotten = self.partitions[partition.0 as usize].rotten;
        let explained = match error.code {
            ErrorCode::InvalidArgument => content.fault.is_some(),
            ErrorCode::DataLoss => rotten,
            ErrorCode::Unavailable | ErrorCode::NotLeader | ErrorCode::ResourceExhausted => {
                content.fault.is_none()
            }
            _ => false,
        };
        hold!(RefusalExplained, explained, "{number}: refused with {error:?}");
        let certain = matches!(
            error.code,
            ErrorCode::InvalidArgument | ErrorCode::ResourceExhausted | ErrorCode::DataLoss
        );
        if certain {
            self.tries[number as usize] -= 1;
        }
    }

    /// The event itself is seen, in a delivery or a replay.
    pub fn seen(&mut self, event: &StoredEvent) {
        let place = (event.partition.0, event.offset.0);
        let number = number_of(event).filter(|n| (*n as usize) < self.contents.len());
        let Some(number) = number else {
            broken(Rule::PayloadEqual, format_args!("{place:?}: an unknown payload"))
        };
        let content = self.content(number);
        hold!(PayloadEqual, content.matches(event), "{place:?} is not what {number} was");
        let kept = match content.when {
            When::At(ts) => event.schedule_ts == ts,
            When::Delay(ms) => event.schedule_ts >= ms,
        };
        hold!(ScheduleKept, kept, "{place:?}: {number} is due at {}", event.schedule_ts);
        self.see(place, number, event.schedule_ts, Some(event.append_ts));
    }

    pub fn record(&self, (partition, offset): (u16, u64)) -> Option<&Record> {
        self.partitions[partition as usize].records.get(&offset)
    }

    /// Events of a topic in a partition, with their offsets.
    pub fn of_topic<'a>(
        &'a self,
        partition: u16,
        topic: &'a str,
    ) -> impl Iterator<Item = (u64, &'a Record)> {
        let records = &self.partitions[partition as usize].records;
        records.iter().filter(move |(_, r)| &*r.topic == topic).map(|(offset, r)| (*offset, r))
    }

    /// A partition is served again: what was acknowledged must be in it.
    pub fn recovered(&mut self, partition: PartitionId, events: u64) {
        let p = &mut self.partitions[partition.0 as usize];
        p.served = true;
        let acked =
            p.records.iter().rev().find(|(_, r)| r.acked_us.is_some() || r.append_ts.is_some());
        let needed = acked.map_or(0, |(offset, _)| offset + 1);
        hold!(
            AckedNeverLost,
            events >= needed,
            "partition {partition} recovered {events} events, {needed} were acknowledged"
        );
    }

    /// A high watermark was answered; `least` was known when it was asked for.
    pub fn high_watermark(&mut self, partition: PartitionId, offset: u64, least: u64) {
        let p = &mut self.partitions[partition.0 as usize];
        if p.served {
            hold!(
                AckedNeverLost,
                offset >= least || p.rotten,
                "partition {partition}: the high watermark went from {least} back to {offset}"
            );
            p.high_watermark = p.high_watermark.max(offset);
        }
    }

    /// Offsets are dense at the end: every one below the high watermark is known or not yet due.
    pub fn dense(&self, wall_ms: u64, unknown: u64) {
        // What retention took before anyone saw it is not known.
        let goes = self.retention_ms.is_some() || !self.topics.is_empty();
        let unknown = if goes { u64::MAX } else { unknown };
        for (number, p) in self.partitions.iter().enumerate().filter(|(_, p)| !p.rotten) {
            let highest = p.records.keys().next_back().map_or(0, |offset| offset + 1);
            hold!(
                OffsetsDense,
                highest <= p.high_watermark,
                "partition {number}: offset {highest} was seen, high watermark {}",
                p.high_watermark
            );
            let holes = p.high_watermark - p.records.len() as u64;
            hold!(
                OffsetsDense,
                holes <= unknown,
                "partition {number}: {holes} of {} offsets hold no event, at most {unknown} may \
                 (wall {wall_ms})",
                p.high_watermark
            );
        }
    }

    /// Contents that may lie in the log without ever having been seen there, and are not due.
    pub fn unseen(&self, wall_ms: u64) -> u64 {
        let mut seen = vec![0; self.contents.len()];
        for record in self.partitions.iter().flat_map(|p| p.records.values()) {
            if let Some(number) = record.content {
                seen[number as usize] += 1;
            }
        }
        let future = |content: &Content| match content.when {
            When::At(ts) => ts > wall_ms,
            When::Delay(_) => false,
        };
        let contents = self.contents.iter().filter(|c| future(c));
        contents
            .map(|c| {
                let n = c.number as usize;
                u64::from(self.tries[n].saturating_sub(seen[n]))
            })
            .sum()
    }

    fn see(&mut self, place: (u16, u64), number: u32, schedule_ts: u64, append_ts: Option<u64>) {
        let content = self.content(number).clone();
        hold!(
            NoPhantom,
            self.tries[number as usize] > 0,
            "{place:?} holds {number}, which was refused or never sent"
        );
        let record = Record {
            topic: content.topic,
            message_id: content.message_id,
            content: Some(number),
            schedule_ts,
            append_ts,
            acked_us: None,
            stored: false,
        };
        self.agree(place, record);
        let known = self.known(place);
        let copies = known.offsets.iter().filter(|offset| {
            let record = self.record((place.0, **offset)).expect("an id's offsets are recorded");
            record.content.is_some_and(|n| !self.content(n).allow_duplicate)
        });
        hold!(
            DuplicateIsOriginal,
            !self.exact_dedup || copies.count() <= 1,
            "the id of {number} was stored more than once: {:?}",
            known.offsets
        );
        hold!(
            DuplicateIsOriginal,
            !self.exact_dedup || known.first.is_none_or(|first| first <= place.1),
            "{place:?} holds {number}, before the first {:?}",
            known.first
        );
    }

    /// Merges a sighting into what is known of the offset.
    fn agree(&mut self, place: (u16, u64), new: Record) {
        let records = &mut self.partitions[place.0 as usize].records;
        let before = records.range(..place.1).next_back().and_then(|(_, r)| r.append_ts);
        let after = records.range(place.1 + 1..).next().and_then(|(_, r)| r.append_ts);
        let grows = new.append_ts.is_none_or(|ts| {
            before.is_none_or(|before| before <= ts) && after.is_none_or(|after| ts <= after)
        });
        hold!(DueOrder, grows, "{place:?}: log time {:?} is not in order", new.append_ts);
        let (topic, id) = (new.topic.clone(), new.message_id.clone());
        let Some(old) = records.get_mut(&place.1) else {
            records.insert(place.1, new);
            self.ids.entry((place.0, topic, id)).or_default().offsets.push(place.1);
            return;
        };
        let same = old.topic == new.topic
            && old.message_id == new.message_id
            && old.schedule_ts == new.schedule_ts
            && (old.content.is_none() || new.content.is_none() || old.content == new.content)
            && (old.append_ts.is_none()
                || new.append_ts.is_none()
                || old.append_ts == new.append_ts);
        hold!(OneOffsetOneId, same, "{place:?} was {old:?} and is {new:?}");
        old.content = old.content.or(new.content);
        old.append_ts = old.append_ts.or(new.append_ts);
    }

    fn acknowledge(&mut self, place: (u16, u64), now: Moment) {
        let records = &mut self.partitions[place.0 as usize].records;
        let record = records.get_mut(&place.1).expect("seen before it is acknowledged");
        record.acked_us.get_or_insert(now.time_us);
    }

    fn key(&self, place: (u16, u64)) -> (u16, Arc<str>, String) {
        let record = self.record(place).expect("recorded");
        (place.0, record.topic.clone(), record.message_id.clone())
    }

    fn known(&self, place: (u16, u64)) -> &Known {
        &self.ids[&self.key(place)]
    }
}
