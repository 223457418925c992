//! Deliveries, verdicts and credit of the groups, as far as they can be told from outside.
//!
//! A lease begins at its partition and is seen a mesh hop later, so every rule here uses bounds
//! that hold in any case: a lease is *surely held* until its floor, and what comes within `slack`
//! of a cause may have been decided before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronosdb::base::api::{AckSpec, Delivery, DeliveryId, PartitionSet, Start, Verdict};
use chronosdb::base::error::{ApiError, ErrorCode};
use chronosdb::base::ids::{Caller, GroupNo, PartitionId, Position, ShardId, Term};
use chronosdb::base::limits::{DISCONNECT_RELEASES, START_NOW_GRACE_MS};
use chronosdb::base::route;

use super::order::Order;
use super::records::{Moment, Record, Records};
use crate::hold;

/// What the engine runs with, as far as rules need it.
#[derive(Clone, Debug)]
pub struct Facts {
    pub partitions: u16,
    pub ack_timeout_ms: u64,
    pub max_retries: u32,
    pub max_credit: u32,
    pub tick_ms: u64,
    pub disk_reserve_bytes: u64,
    /// Longest way from a decision in one shard to its effect in another, microseconds.
    pub slack_us: u64,
}

pub type StreamKey = (ShardId, Caller);
/// Partition and offset.
pub type Place = (u16, u64);

/// A member's open stream in this process.
pub struct Stream {
    pub group: usize,
    pub partitions: PartitionSet,
    credit: u32,
    /// Nothing may be delivered any more.
    pub ended: bool,
    in_flight: BTreeSet<Place>,
    order: Order,
}

/// The last hand-over of an event.
#[derive(Clone, Debug)]
struct Lease {
    stream: StreamKey,
    epoch: u64,
    term: Term,
    attempt: u32,
    at_us: u64,
    /// Surely held before this world time, unless judged or released.
    floor_us: u64,
    acked: bool,
    nacked: bool,
    released: bool,
}

/// What a group has done with one event.
#[derive(Default)]
pub struct Handled {
    last: Option<Lease>,
    max_attempt: u32,
    /// When an ack was last given to the engine; its answer may have been lost.
    ack_given_us: Option<u64>,
    /// When an ack was confirmed, in which process.
    confirmed: Option<(u64, u64)>,
    /// Attempts whose nack was confirmed, and attempts that may have failed.
    nacks_confirmed: u32,
    failures_possible: u32,
}

/// One group and topic.
pub struct Group {
    pub name: Arc<str>,
    pub topic: Arc<str>,
    start: Start,
    /// Wall at the requests that may have created it: lowest and highest.
    created_ms: (u64, u64),
    created: bool,
    /// Per partition, the highest the wall had ever read when it was first delivered from: the
    /// group was there by then.
    there_ms: BTreeMap<u16, u64>,
    pub handled: BTreeMap<Place, Handled>,
    /// World time at which a stream of it last ended.
    last_end_us: u64,
}

/// All groups.
pub struct Groups {
    facts: Facts,
    pub all: Vec<Group>,
    pub streams: BTreeMap<StreamKey, Stream>,
    numbers: BTreeMap<(PartitionId, GroupNo), usize>,
    terms: BTreeMap<PartitionId, Term>,
    /// World time at which each partition was last deposed.
    deposed_us: BTreeMap<PartitionId, u64>,
    /// World time at which each process ended.
    ends: Vec<u64>,
    pub deliveries: u64,
    pub confirmed: u64,
}

impl Groups {
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            all: Vec::new(),
            streams: BTreeMap::new(),
            numbers: BTreeMap::new(),
            terms: BTreeMap::new(),
            deposed_us: BTreeMap::new(),
            ends: Vec::new(),
            deliveries: 0,
            confirmed: 0,
        }
    }

    /// A group that members will use, always with the same start.
    pub fn add(&mut self, name: Arc<str>, topic: Arc<str>, start: Start) -> usize {
        self.all.push(Group {
            name,
            topic,
            start,
            created_ms: (u64::MAX, 0),
            created: false,
            there_ms: BTreeMap::new(),
            handled: BTreeMap::new(),
            last_end_us: 0,
        });
        self.all.len() - 1
    }

    /// The process is gone: streams and leases with it.
    pub fn crashed(&mut self, now: Moment) {
        self.ends.resize(now.epoch as usize + 1, u64::MAX);
        self.ends[now.epoch as usize] = now.time_us;
        self.streams.clear();
        self.all.iter_mut().for_each(|group| group.last_end_us = 0);
    }

    pub fn subscribe(
        &mut self,
        key: StreamKey,
        name: &str,
        topic: &str,
        partitions: PartitionSet,
        credit: u32,
        now: Moment,
    ) {
        let group = self.find(name, topic).expect("members use the groups that were added");
        let g = &mut self.all[group];
        if !g.created {
            let (low, high) = g.created_ms;
            g.created_ms = (low.min(now.lowest_ms), high.max(now.highest_ms));
        }
        let credit = credit.min(self.facts.max_credit);
        let order = Order::new();
        let stream =
            Stream { group, partitions, credit, ended: false, in_flight: BTreeSet::new(), order };
        self.streams.insert(key, stream);
    }

    pub fn subscribed(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get(&key) {
            self.all[stream.group].created = true;
        }
    }

    /// The stream is closed by its member or by the engine: nothing may follow on it.
    pub fn ended(&mut self, key: StreamKey, now: Moment) {
        let Some(stream) = self.streams.get_mut(&key).filter(|stream| !stream.ended) else {
            return;
        };
        stream.ended = true;
        let group = &mut self.all[stream.group];
        group.last_end_us = now.time_us;
        for place in std::mem::take(&mut stream.in_flight) {
            let handled = group.handled.get_mut(&place).expect("in flight, so handled");
            if let Some(last) = handled.last.as_mut().filter(|last| last.stream == key) {
                last.released = true;
            }
        }
    }

    /// The partition's leadership ended: its leases are void, uncounted.
    pub fn deposed(&mut self, partition: PartitionId, now: Moment) {
        self.deposed_us.insert(partition, now.time_us);
        for group in &mut self.all {
            group.last_end_us = now.time_us;
            let places = (partition.0, 0)..=(partition.0, u64::MAX);
            for (_, handled) in group.handled.range_mut(places) {
                if let Some(last) = &mut handled.last {
                    last.released = true;
                }
            }
        }
    }

    /// A verdict is given to the engine.
    pub fn judged(&mut self, spec: &AckSpec, now: Moment) {
        let slack = self.facts.slack_us;
        let Some((group, place)) = self.target(spec) else { return };
        let Some(handled) = self.all[group].handled.get_mut(&place) else { return };
        let attempt = spec.id.as_ref().map_or(0, |id| id.attempt);
        let last = handled.last.as_mut().filter(|last| last.attempt == attempt);
        match &spec.verdict {
            Verdict::Ack => {
                handled.ack_given_us = Some(now.time_us);
                if let Some(last) = &mut handled.last {
                    last.acked = true;
                }
            }
            Verdict::Nack(_) => {
                if let Some(last) = last {
                    last.nacked = true;
                }
            }
            Verdict::Extend { by_ms } => {
                if let Some(last) = last {
                    let end = (now.time_us + by_ms * 1_000).saturating_sub(slack);
                    last.floor_us = last.floor_us.min(end);
                }
            }
        }
    }

    /// A verdict is answered.
    pub fn answered(
        &mut self,
        spec: &AckSpec,
        result: &Result<(), ApiError>,
        given_us: u64,
        now: Moment,
    ) {
        let slack = self.facts.slack_us;
        let Some((group, place)) = self.target(spec) else {
            hold!(RefusalExplained, result.is_err(), "an unknown delivery id was accepted");
            return;
        };
        let handled = self.all[group].handled.get_mut(&place).expect("delivered before");
        let attempt = spec.id.as_ref().map_or(0, |id| id.attempt);
        match (&spec.verdict, result) {
            (Verdict::Ack, Ok(())) => {
                if handled.confirmed.is_none() {
                    self.confirmed += 1;
                }
                handled.confirmed.get_or_insert((now.time_us, now.epoch));
            }
            (Verdict::Ack, Err(error)) => {
                let known = matches!(
                    error.code,
                    ErrorCode::NotLeader | ErrorCode::Unavailable | ErrorCode::ResourceExhausted
                );
                let rot = error.code == ErrorCode::DataLoss;
                hold!(RefusalExplained, known || rot, "ack of {place:?} refused: {error:?}");
            }
            (Verdict::Nack(_), Ok(())) => {
                handled.nacks_confirmed += 1;
                let (nacks, most) = (handled.nacks_confirmed, self.facts.max_retries + 1);
                hold!(
                    AttemptsBounded,
                    nacks <= most,
                    "{place:?}: {nacks} nacks of {most} attempts"
                );
            }
            (Verdict::Extend { by_ms }, Ok(())) => {
                let same = |last: &&mut Lease| last.attempt == attempt && last.epoch == now.epoch;
                if let Some(last) = handled.last.as_mut().filter(same) {
                    last.floor_us = (given_us + by_ms * 1_000).saturating_sub(slack);
                }
            }
            (_, Err(_)) => {}
        }
    }

    /// A delivery leaves on a stream.
    pub fn delivered(
        &mut self,
        key: StreamKey,
        name: &str,
        d: &Delivery,
        records: &Records,
        now: Moment,
    ) {
        self.deliveries += 1;
        let place = (d.event.partition.0, d.event.offset.0);
        let Some(stream) = self.streams.get(&key) else {
            hold!(StreamKept, false, "{place:?} is delivered on no stream {key:?}");
            return;
        };
        let group = stream.group;
        self.all[group].there_ms.entry(place.0).or_insert(records.highest_ms);
        let stream = &self.streams[&key];
        self.check_stream(stream, name, d);
        self.check_terms(group, d);
        self.check_lease(key, group, place, d, now);
        self.take_credit(key, place, now);
        let first = self.lease(key, group, place, d, now);
        if first {
            let record = records.record(place).expect("seen before it is judged");
            // Granted to a stream that ended, and never seen here: it comes again, and late.
            let quiet = self.all[group].last_end_us < records.given_us(record);
            let stream = self.streams.get_mut(&key).expect("looked up above");
            stream.order.first(d.event.position(), place.0, record, quiet, now, &self.facts);
        }
    }

    /// Due events of a group's topic that it has neither settled nor given up.
    pub fn unfinished(&self, records: &Records, now: Moment) -> Vec<String> {
        let mut left = Vec::new();
        for group in &self.all {
            for partition in self.sound(records) {
                for (offset, record) in records.of_topic(partition, &group.topic) {
                    let place = (partition, offset);
                    let there_ms = group.there_ms.get(&partition).copied();
                    if records.may_be_gone(record, there_ms.unwrap_or(records.highest_ms)) {
                        continue; // before the group was there
                    }
                    if !group.requires(offset, record) || record.schedule_ts > now.wall_ms {
                        continue;
                    }
                    let handled = group.handled.get(&place);
                    if !handled.is_some_and(|h| h.done() || self.dead(h, now)) {
                        let state = handled.map(|h| (h.max_attempt, &h.last));
                        left.push(format!("{} {}: {place:?} {state:?}", group.name, group.topic));
                    }
                }
            }
        }
        left
    }

    /// Events that were given up, over all groups.
    pub fn dead_letters(&self, now: Moment) -> u64 {
        let handled = self.all.iter().flat_map(|group| group.handled.values());
        handled.filter(|h| h.confirmed.is_none() && self.dead(h, now)).count() as u64
    }

    pub fn find(&self, name: &str, topic: &str) -> Option<usize> {
        self.all.iter().position(|group| &*group.name == name && &*group.topic == topic)
    }

    fn sound(&self, records: &Records) -> impl Iterator<Item = u16> {
        let rotten: Vec<bool> = records.partitions.iter().map(|p| p.rotten).collect();
        (0..self.facts.partitions).filter(move |p| !rotten[*p as usize])
    }

    /// Attempts are used up, and the last one has surely failed.
    fn dead(&self, handled: &Handled, now: Moment) -> bool {
        let Some(last) = &handled.last else { return false };
        let over = now.time_us > last.floor_us + 2 * self.facts.slack_us;
        let failed = handled.failures_possible + u32::from(last.nacked || over);
        failed > self.facts.max_retries || handled.max_attempt > DISCONNECT_RELEASES
    }

    /// The group and event that a verdict is about.
    fn target(&self, spec: &AckSpec) -> Option<(usize, Place)> {
        let DeliveryId { partition, group_no, position, .. } = spec.id.as_ref()?;
        let group = *self.numbers.get(&(*partition, *group_no))?;
        let place = (partition.0, position.offset.0);
        self.all[group].handled.contains_key(&place).then_some((group, place))
    }

    fn check_stream(&self, stream: &Stream, name: &str, d: &Delivery) {
        let group = &self.all[stream.group];
        let partition = d.event.partition;
        let inside = match &stream.partitions {
            PartitionSet::All => true,
            PartitionSet::These(these) => these.contains(&partition),
        };
        hold!(StreamKept, !stream.ended, "{partition} {}: the stream has ended", d.event.offset);
        hold!(
            StreamKept,
            inside && *name == *group.name && d.event.topic == group.topic,
            "{partition} {} of {} is not of {} {}",
            d.event.offset,
            d.event.topic,
            group.name,
            group.topic
        );
        hold!(
            StreamKept,
            d.ack_timeout_ms == self.facts.ack_timeout_ms,
            "ack timeout {} is not the configured one",
            d.ack_timeout_ms
        );
        let position = d.event.position();
        hold!(
            StreamKept,
            group.allows(position),
            "{} starts at {:?}: {position:?}",
            group.name,
            group.start
        );
    }

    fn check_terms(&mut self, group: usize, d: &Delivery) {
        let partition = d.event.partition;
        let known = *self.numbers.entry((partition, d.group)).or_insert(group);
        hold!(StreamKept, known == group, "{partition}: group number {} changes hands", d.group);
        let term = self.terms.entry(partition).or_default();
        hold!(TermGrows, *term <= d.term, "{partition}: term {} after {term}", d.term);
        hold!(TermGrows, d.event.term <= d.term, "{partition}: entry of term {}", d.event.term);
        *term = d.term;
    }

    fn check_lease(&self, key: StreamKey, group: usize, place: Place, d: &Delivery, now: Moment) {
        let Some(handled) = self.all[group].handled.get(&place) else {
            let unseen = self.all[group].last_end_us > 0;
            let first = d.attempt == 1 || unseen;
            hold!(AttemptCounted, first, "{place:?}: attempt {} is the first", d.attempt);
            return;
        };
        let who = (&self.all[group].name, place, d.attempt);
        let foreign = route::shard_of(PartitionId(place.0), now.shards) != key.0;
        if let Some((at, epoch)) = handled.confirmed {
            // An ack may overtake, in another shard, a delivery that was on its way.
            let racing = foreign && epoch == now.epoch && now.time_us <= at + self.facts.slack_us;
            hold!(ConfirmedAckFinal, racing, "{who:?} is delivered after its confirmed ack");
        }
        let Some(last) = &handled.last else { return };
        let failed = handled.failures_possible + u32::from(last.nacked || self.ran_out(last, now));
        // Grants that were on their way to a closed stream are given back, and never seen here.
        let ended_us = self.all[group].last_end_us;
        let releases = if ended_us > 0 { DISCONNECT_RELEASES } else { 0 };
        let most = (failed.min(self.facts.max_retries) + releases) + 1;
        hold!(AttemptsBounded, (1..=most).contains(&d.attempt), "{who:?}: {most} are possible");
        let least = handled.nacks_confirmed + 1;
        hold!(AttemptCounted, d.attempt >= least, "{who:?}: {least} are confirmed to have failed");
        if last.epoch == now.epoch && last.term == d.term {
            let over = self.ran_out(last, now) || last.acked || last.nacked || last.released;
            hold!(OneMember, over, "{who:?} is still with {last:?}");
            let unseen = ended_us >= last.at_us;
            let next = d.attempt == last.attempt + 1 || (d.attempt > last.attempt && unseen);
            hold!(AttemptCounted, next, "{who:?}: the last was {last:?}");
        }
    }

    /// The lease may have ended by its time, in the process that held it.
    fn ran_out(&self, last: &Lease, now: Moment) -> bool {
        let end = self.ends.get(last.epoch as usize).copied().unwrap_or(u64::MAX);
        end.min(now.time_us) >= last.floor_us
    }

    fn take_credit(&mut self, key: StreamKey, place: Place, now: Moment) {
        let Self { streams, all, .. } = self;
        let stream = streams.get_mut(&key).expect("checked by the caller");
        let group = &all[stream.group];
        if stream.in_flight.len() as u32 >= stream.credit {
            // Only now is it worth looking which of them may have ended.
            stream.in_flight.retain(|place| {
                let last = group.handled[place].last.as_ref().expect("in flight, so leased");
                let over = last.acked || last.nacked || last.released || last.stream != key;
                !over && now.time_us < last.floor_us
            });
        }
        stream.in_flight.insert(place);
        let (held, credit) = (stream.in_flight.len() as u32, stream.credit);
        hold!(CreditKept, held <= credit, "{key:?}: {held} in flight, credit {credit}");
    }

    /// Takes the hand-over down; true if it is the event's first.
    fn lease(
        &mut self,
        key: StreamKey,
        group: usize,
        place: Place,
        d: &Delivery,
        now: Moment,
    ) -> bool {
        let held_us = (d.ack_timeout_ms * 1_000).saturating_sub(self.facts.slack_us);
        let last = self.all[group].handled.get(&place).and_then(|h| h.last.as_ref());
        let failed = last.is_some_and(|last| last.nacked || self.ran_out(last, now));
        let handled = self.all[group].handled.entry(place).or_default();
        let first = handled.last.is_none();
        handled.failures_possible += u32::from(failed);
        // An ack of an earlier attempt may still be on its way, and settles this one.
        let slack = self.facts.slack_us;
        let acked = handled.ack_given_us.is_some_and(|at| now.time_us <= at + slack);
        // So may a delivery whose leadership has just ended.
        let deposed_us = self.deposed_us.get(&d.event.partition);
        let released = deposed_us.is_some_and(|at| now.time_us <= at + slack);
        handled.max_attempt = handled.max_attempt.max(d.attempt);
        handled.last = Some(Lease {
            stream: key,
            epoch: now.epoch,
            term: d.term,
            attempt: d.attempt,
            at_us: now.time_us,
            floor_us: now.time_us + held_us,
            acked,
            nacked: false,
            released,
        });
        first
    }
}

impl Group {
    /// The group must get this event, wherever between its bounds it was created.
    fn requires(&self, offset: u64, record: &Record) -> bool {
        match self.start {
            Start::Beginning => true,
            Start::Offset(first) => offset >= first.0,
            Start::Now => record.schedule_ts > self.created_ms.1,
        }
    }

    /// The group may get this event.
    fn allows(&self, position: Position) -> bool {
        match self.start {
            Start::Beginning => true,
            Start::Offset(first) => position.offset >= first,
            Start::Now => position.due + START_NOW_GRACE_MS + 1 >= self.created_ms.0,
        }
    }

    /// Whether every event of the topic is the group's.
    pub fn takes_all(&self) -> bool {
        self.start == Start::Beginning
    }
}

impl Handled {
    /// Acknowledged; or an ack was given whose answer nobody saw, and it has not come again.
    fn done(&self) -> bool {
        self.confirmed.is_some()
            || (self.ack_given_us.is_some() && self.last.as_ref().is_some_and(|l| l.acked))
    }
}
