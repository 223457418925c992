//! The story of a publish: split to the owners, decided there, answered once with a result per
//! event.
//!
//! A message whose events all lie in one partition (every single publish) is passed on whole.

use std::sync::Arc;

use bytes::Bytes;

use super::recover::Phase;
use crate::base::api::{EventOutcome, EventSpan, Placed, PublishMessage, Reply, Span};
use crate::base::config::FsyncMode;
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Caller, Offset, PartitionId, ShardId, TopicNo};
use crate::base::{limits, route};
use crate::engine::dedup::{Findings, IdHash, Original};
use crate::engine::front::{Front, Open};
use crate::engine::log::NewRecord;
use crate::engine::log_clock::LogClock;
use crate::engine::mesh::MeshMessage;
use crate::engine::partition::Partition;
use crate::engine::proposals::{OpenPublishes, PendingId, Proposals, Waiter};
use crate::engine::step::Step;

/// A publish with slices outstanding.
#[derive(Debug)]
pub struct OpenPublish {
    to: Caller,
    batch: bool,
    slices_left: usize,
    /// `None`: the one slice is the whole message.
    split: Option<Split>,
}

#[derive(Debug)]
struct Split {
    outcomes: Vec<Option<EventOutcome>>,
    /// Per partition: the places of its events in the request.
    places: Vec<(PartitionId, Vec<u32>)>,
}

impl Front {
    /// A session publishes.
    pub(in crate::engine) fn publish(
        &mut self,
        step: &mut Step<'_>,
        from: Caller,
        message: PublishMessage,
    ) {
        let partitions = step.config.partitions;
        let owner_of =
            |event: &EventSpan| route::partition_of(event.routing_key(&message.bytes), partitions);
        let batch = message.batch;
        let Some(first) = message.events.first() else {
            return step.reply(from, Reply::Published { batch, outcomes: Vec::new() });
        };
        let clean = message.events.iter().all(|event| event.fault.is_none());
        if clean {
            let partition = owner_of(first);
            if message.events.iter().skip(1).all(|event| owner_of(event) == partition) {
                let open = OpenPublish { to: from, batch, slices_left: 1, split: None };
                let request = self.open(Open::Publish(open));
                let (bytes, events) = (message.bytes, message.events);
                let allow_duplicate = message.allow_duplicate;
                let slice =
                    MeshMessage::Publish { request, partition, bytes, events, allow_duplicate };
                return step.send(step.owner(partition), slice);
            }
        }
        let mut outcomes: Vec<Option<EventOutcome>> = vec![None; message.events.len()];
        let mut slices: Vec<(PartitionId, Vec<u32>, Vec<EventSpan>)> = Vec::new();
        let mut slot_of = vec![usize::MAX; usize::from(partitions)];
        for (place, event) in message.events.iter().enumerate() {
            if let Some(fault) = event.fault {
                outcomes[place] = Some(EventOutcome::Failed(Box::new(fault.error())));
                continue;
            }
            let partition = owner_of(event);
            let slot = &mut slot_of[usize::from(partition.0)];
            if *slot == usize::MAX {
                *slot = slices.len();
                slices.push((partition, Vec::new(), Vec::new()));
            }
            slices[*slot].1.push(place as u32);
            slices[*slot].2.push(*event);
        }
        if slices.is_empty() {
            let outcomes = outcomes.into_iter().flatten().collect();
            return step.reply(from, Reply::Published { batch, outcomes });
        }
        let places = slices.iter_mut().map(|s| (s.0, std::mem::take(&mut s.1))).collect();
        let split = Some(Split { outcomes, places });
        let open = OpenPublish { to: from, batch, slices_left: slices.len(), split };
        let request = self.open(Open::Publish(open));
        for (partition, _, events) in slices {
            let (bytes, allow_duplicate) = (message.bytes.clone(), message.allow_duplicate);
            let slice = MeshMessage::Publish { request, partition, bytes, events, allow_duplicate };
            step.send(step.owner(partition), slice);
        }
    }

    /// A partition has stored, or refused, its slice.
    pub(in crate::engine) fn published(
        &mut self,
        step: &mut Step<'_>,
        request: u64,
        partition: PartitionId,
        outcomes: Vec<EventOutcome>,
    ) {
        let Open::Publish(open) = self.opened(request) else {
            unreachable!("a slice's answer belongs to a publish");
        };
        open.slices_left -= 1;
        let (left, whole) = (open.slices_left, open.split.is_none());
        if let Some(split) = &mut open.split {
            let at = split.places.iter().position(|(p, _)| *p == partition);
            let (_, places) = split.places.swap_remove(at.expect("one answer per slice"));
            assert_eq!(places.len(), outcomes.len(), "one outcome per event");
            for (place, outcome) in places.into_iter().zip(outcomes) {
                split.outcomes[place as usize] = Some(outcome);
            }
            if left == 0 {
                let Open::Publish(open) = self.close(request) else { unreachable!() };
                let split = open.split.expect("just seen");
                let outcomes: Vec<_> =
                    split.outcomes.into_iter().map(|o| o.expect("all slices are in")).collect();
                step.reply(open.to, Reply::Published { batch: open.batch, outcomes });
            }
            return;
        }
        assert!(whole && left == 0, "one slice, one answer");
        let Open::Publish(open) = self.close(request) else { unreachable!() };
        step.reply(open.to, Reply::Published { batch: open.batch, outcomes });
    }
}

// ------------------------------------------------------------------------------- owner half

/// A slice of a publish message, at its partition.
#[derive(Debug)]
pub(in crate::engine) struct Slice {
    pub(in crate::engine) shard: ShardId,
    pub(in crate::engine) request: u64,
    pub(in crate::engine) bytes: Bytes,
    pub(in crate::engine) events: Vec<EventSpan>,
    pub(in crate::engine) allow_duplicate: bool,
}

/// What is known of the ids of a slice.
pub(super) struct Ids<'a> {
    /// Their hashes.
    pub(super) hashes: &'a [IdHash],
    /// Whether memory has a claim to each, unless nobody asks; nothing was applied since.
    pub(super) known: &'a [bool],
    /// What runs say.
    pub(super) findings: &'a Findings,
}

/// What is decided about a slice while its events are taken one by one.
struct Decisions {
    outcomes: Vec<EventOutcome>,
    /// A duplicate of an event that is itself not committed: the last one waited for.
    waits_for: Option<Offset>,
    stored: u64,
    durable: bool,
    /// Topic of the last event: where it lies in the message, and its number.
    topic: Option<(Span, TopicNo)>,
}

impl Partition {
    /// A slice comes in: it is decided at once, unless runs must be asked for its ids first, or
    /// others wait before it.
    pub(in crate::engine) fn publish(&mut self, step: &mut Step<'_>, slice: Slice) {
        let topic = |span: &EventSpan| span.topic.of(&slice.bytes);
        let hash = |span: &EventSpan| self.dedup.hash(topic(span), id_of(&slice, span));
        let hashes: Vec<IdHash> = slice.events.iter().map(hash).collect();
        // Who publishes with `allow_duplicate` does not ask.
        let asked = if slice.allow_duplicate { &[] } else { &hashes[..] };
        let known = self.dedup.in_memory(asked);
        let findings = Findings::default();
        if self.is_serving() {
            let looks = self.looks(&slice, &hashes, &known, &findings);
            if !looks.is_empty() || !self.lookups.is_empty() {
                return self.park_slice(step, slice, hashes, looks);
            }
        }
        let ids = Ids { hashes: &hashes, known: &known, findings: &findings };
        self.decide(step, &slice, &ids);
    }

    /// Decides on each event of a slice and adds the new ones to the open entry. The answer leaves
    /// when that entry is applied; a slice of mere duplicates is answered as soon as the last of
    /// its originals is committed.
    pub(super) fn decide(&mut self, step: &mut Step<'_>, slice: &Slice, ids: &Ids<'_>) {
        if let Err(error) = self.admit(step, slice) {
            step.stats.refused += slice.events.len() as u64;
            let failed = EventOutcome::Failed(Box::new(error));
            let outcomes = vec![failed; slice.events.len()];
            let (request, partition) = (slice.request, self.id);
            return step.send(slice.shard, MeshMessage::Published { request, partition, outcomes });
        }
        let mut decisions = Decisions {
            outcomes: Vec::with_capacity(slice.events.len()),
            waits_for: None,
            stored: 0,
            durable: false,
            topic: None,
        };
        for (number, span) in slice.events.iter().enumerate() {
            let known = if slice.allow_duplicate {
                None
            } else {
                self.original(ids, number, &mut decisions)
            };
            self.take(step, slice, (span, ids.hashes[number]), known, &mut decisions);
        }
        let Decisions { outcomes, waits_for, stored, durable, .. } = decisions;
        step.stats.published += stored;
        self.writes.force_sync |= durable;
        let (shard, request) = (slice.shard, slice.request);
        let writing = self.tail.as_ref().is_some_and(|tail| tail.writes_in_flight() > 0);
        if cfg!(bug_ack_joiners) && stored > 0 && writing {
            // Known bad: it waits for the write under way, which does not hold its bytes.
            let waiter = Waiter::Publish { shard, request, outcomes };
            self.proposals.wait(self.replica.last().0, vec![waiter]);
        } else if stored > 0 {
            let open = self.proposals.publishes.as_mut().expect("events were just added");
            open.waiters.push(Waiter::Publish { shard, request, outcomes });
        } else if let Some(offset) = waits_for {
            let waiter = Waiter::Publish { shard, request, outcomes };
            self.proposals.wait_for_offset(offset, waiter);
        } else {
            let partition = self.id;
            step.send(shard, MeshMessage::Published { request, partition, outcomes });
        }
        if step.config.fsync == FsyncMode::EveryEvent {
            self.seal(step);
        }
    }

    /// Whether the slice can be taken at all: asked before anything is written.
    fn admit(&self, step: &mut Step<'_>, slice: &Slice) -> Result<(), ApiError> {
        match &self.phase {
            Phase::Serving if self.replica.is_leader() => {}
            Phase::Serving => return Err(ApiError::not_leader()),
            Phase::ReadOnly(reason) => {
                let text = format!("partition {} is read-only: {reason}", self.id);
                return Err(ApiError::new(ErrorCode::DataLoss, text));
            }
            _ => {
                let text = format!("partition {} is opening; retry with backoff", self.id);
                return Err(ApiError::new(ErrorCode::Unavailable, text));
            }
        }
        // Known bad: what is kept for settlements is given to publishes.
        if step.space.is_low() && !cfg!(bug_publish_on_full_disk) {
            step.stats.refused_disk_full += slice.events.len() as u64;
            return Err(step.space.refusal());
        }
        if self.retention.is_full {
            let text = "--retention-max-size-gb is reached by events that groups have not settled: \
                        let them catch up, or raise it";
            return Err(ApiError::new(ErrorCode::ResourceExhausted, text));
        }
        let open = self.proposals.open_bytes();
        let queued = self.tail.as_ref().map_or(0, |tail| tail.queued_bytes() as usize);
        let entry_limit = limits::ENTRY_BODY_BYTES.min((step.config.segment_bytes / 2) as usize);
        let adds: usize = slice.events.iter().map(record_bytes).sum();
        let index_share = step.config.index_events / u64::from(step.config.partitions)
            * u64::from(step.config.shards);
        let full = open + adds > entry_limit
            || open + queued + adds > limits::OPEN_ENTRY_BYTES
            || self.dedup.is_full(step.config.id_window)
            || self.indexed() + slice.events.len() as u64 > index_share.max(1);
        if full { Err(ApiError::at_capacity(self.id)) } else { Ok(()) }
    }

    fn take(
        &mut self,
        step: &mut Step<'_>,
        slice: &Slice,
        (span, hash): (&EventSpan, IdHash),
        known: Option<(Offset, u64)>,
        decisions: &mut Decisions,
    ) {
        let message = &slice.bytes[..];
        if let Some((offset, schedule_ts)) = known {
            step.stats.duplicates += 1;
            let placed = Placed { partition: self.id, offset, schedule_ts };
            decisions.outcomes.push(EventOutcome::Duplicate(placed));
            return;
        }
        let same = |(last, _): &(Span, TopicNo)| last.of(message) == span.topic.of(message);
        let topic = match decisions.topic.filter(same) {
            Some((_, topic)) => topic,
            None => match self.topic_number(topic_of(slice, span)) {
                Ok(topic) => topic,
                Err(error) => {
                    decisions.outcomes.push(EventOutcome::Failed(Box::new(error)));
                    return;
                }
            },
        };
        decisions.topic = Some((span.topic, topic));
        let schedule_ts = match span.delay_ms {
            Some(delay) => step.now.wall_ms() + delay,
            None => span.schedule_ts,
        };
        let offset = self.proposals.next_offset;
        let open = open_publishes(&mut self.proposals, &mut self.clock, step);
        open.min_schedule_ts = open.min_schedule_ts.min(schedule_ts);
        let record = NewRecord {
            message_id: span.message_id,
            meta: span.meta,
            payload: span.payload,
            topic,
            schedule_ts,
            checksum: crc32fast::hash(span.payload.of(message)),
            allow_duplicate: slice.allow_duplicate,
        };
        open.builder.push(&slice.bytes, record);
        open.hashes.push(hash);
        self.proposals.next_offset = offset.plus(1);
        // The first mapping stays: an allowed duplicate never becomes the original of another.
        let pending = PendingId { offset, schedule_ts, weak: slice.allow_duplicate };
        self.proposals.ids.entry(hash).or_insert(pending);
        let placed = Placed { partition: self.id, offset, schedule_ts };
        decisions.outcomes.push(EventOutcome::Stored(placed));
        decisions.stored += 1;
        decisions.durable |= span.durable_ack;
    }

    /// The first event with this id: one on its way to the log, or one in it.
    fn original(
        &self,
        ids: &Ids<'_>,
        number: usize,
        decisions: &mut Decisions,
    ) -> Option<(Offset, u64)> {
        let hash = ids.hashes[number];
        if ids.known[number] || !ids.findings.is_empty() {
            let settled = |original: &Original| self.is_settled(original);
            let known = self.dedup.get(hash, self.clock.expiry_time(), ids.findings, settled);
            if let Some(original) = known {
                return Some((original.offset, original.schedule_ts));
            }
        }
        let pending = self.proposals.ids.get(&hash)?;
        decisions.waits_for = decisions.waits_for.max(Some(pending.offset));
        Some((pending.offset, pending.schedule_ts))
    }

    /// The number of a topic, given out now if it is new.
    pub(in crate::engine) fn topic_number(&mut self, name: &str) -> Result<TopicNo, ApiError> {
        if let Some(no) =
            self.topics.number(name).or_else(|| self.proposals.topics.get(name).copied())
        {
            return Ok(no);
        }
        let next = self.topics.count() + self.proposals.topics.len();
        if next >= limits::TOPICS {
            let text = format!("topic: partition {} has {next} topics, its limit", self.id);
            return Err(ApiError::new(ErrorCode::ResourceExhausted, text));
        }
        let (no, name) = (TopicNo(next as u32), Arc::<str>::from(name));
        self.proposals.topics.insert(name.clone(), no);
        self.proposals.new_topics.push((no, name));
        Ok(no)
    }
}

fn open_publishes<'a>(
    proposals: &'a mut Proposals,
    clock: &mut LogClock,
    step: &Step<'_>,
) -> &'a mut OpenPublishes {
    let base_offset = proposals.next_offset;
    proposals.publishes.get_or_insert_with(|| OpenPublishes {
        builder: std::mem::take(&mut proposals.builder),
        append_ts: clock.stamp(step.now),
        base_offset,
        min_schedule_ts: u64::MAX,
        hashes: Vec::new(),
        waiters: Vec::new(),
    })
}

fn topic_of<'a>(slice: &'a Slice, span: &EventSpan) -> &'a str {
    std::str::from_utf8(span.topic.of(&slice.bytes)).expect("checked by the scanner")
}

fn id_of<'a>(slice: &'a Slice, span: &EventSpan) -> &'a [u8] {
    span.message_id.of(&slice.bytes)
}

/// Bytes an event takes in an entry's body, at most.
fn record_bytes(span: &EventSpan) -> usize {
    (span.message_id.len + span.meta.len + span.payload.len) as usize + 64
}
