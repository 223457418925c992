//! A toy with the engine's interface, to run the driver for real until the engine is here.
//!
//! It stores what is published in one segment per partition, delivers it in memory when due, and
//! uses each effect once. To be dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::mesh::MeshMessage;
use super::stats::EngineStats;
use super::{Effect, HardState, Input, RecoveryReport};
use crate::base::api::{
    AckOutcome, Delivery, EventOutcome, EventSpan, PartitionStatus, Placed, Replayed, Reply,
    Request, Span, StoredEvent,
};
use crate::base::config::EngineConfig;
use crate::base::ids::{
    Caller, GroupNo, Index, Offset, PartitionId, ShardId, SubscriptionId, Term,
};
use crate::base::route::{partition_of, shard_of};
use crate::base::size::{BLOCK, block_ceil};
use crate::base::time::Now;

const MAGIC: u32 = 0xC0FF_EE01;
const SEGMENT: Index = Index(1);
const FILLED: u64 = 16 << 20;

/// Who waits for a publish slice.
#[derive(Clone, Copy)]
enum Asker {
    Here(u64),
    Shard(ShardId, u64),
}

struct Slice {
    asker: Asker,
    bytes: Bytes,
    events: Vec<EventSpan>,
}

#[derive(Default)]
struct Partition {
    dirty: Vec<Slice>,
    writing: Vec<Slice>,
    image: Vec<u8>,
    next: u64,
    tail: u64,
    write: u64,
    hard: HardState,
    stored: Vec<StoredEvent>,
    saved: u64,
}

struct Slot {
    from: Caller,
    batch: bool,
    outcomes: Vec<Option<EventOutcome>>,
    places: BTreeMap<PartitionId, Vec<usize>>,
    left: usize,
}

struct Stream {
    to: Caller,
    group: Arc<str>,
    topic: Arc<str>,
    out: u32,
    ready: VecDeque<StoredEvent>,
}

/// The toy.
pub struct Engine {
    config: EngineConfig,
    shard: ShardId,
    stats: EngineStats,
    partitions: BTreeMap<PartitionId, Partition>,
    slots: BTreeMap<u64, Slot>,
    next_slot: u64,
    streams: BTreeMap<SubscriptionId, Stream>,
    next_stream: u64,
    /// (due, partition, offset) to the events that are not due yet.
    wheel: BTreeMap<(u64, PartitionId, Offset), StoredEvent>,
}

impl Engine {
    /// A shard's toy engine.
    pub fn new(config: EngineConfig, shard: ShardId) -> Self {
        Self {
            config,
            shard,
            stats: EngineStats::default(),
            partitions: BTreeMap::new(),
            slots: BTreeMap::new(),
            next_slot: 0,
            streams: BTreeMap::new(),
            next_stream: 0,
            wheel: BTreeMap::new(),
        }
    }

    /// Counters.
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// Whether a request may be given.
    pub fn has_room(&self) -> bool {
        self.slots.len() < 8192
    }

    /// Whether nothing is open.
    pub fn is_drained(&self) -> bool {
        self.slots.is_empty()
            && self.partitions.values().all(|p| p.dirty.is_empty() && p.writing.is_empty())
    }

    /// When `Tick` is wanted, boot time in us.
    pub fn next_deadline(&self, now: Now) -> Option<u64> {
        let (due, _, _) = *self.wheel.keys().next()?;
        Some(now.boot_us + (due * 1000).saturating_sub(now.wall_us))
    }

    /// Fills the buffer of a write.
    pub fn fill_write(&mut self, partition: PartitionId, write: u64, buffer: &mut [u8]) {
        let state = self.partitions.get_mut(&partition).expect("a mounted partition");
        assert_eq!(state.write, write);
        assert!(buffer.iter().all(|byte| *byte == 0), "the buffer is zeroed");
        buffer[..state.image.len()].copy_from_slice(&state.image);
    }

    /// One step.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Mount { partition, segments, hard_state } => {
                let state =
                    Partition { hard: hard_state.unwrap_or_default(), ..Default::default() };
                self.partitions.insert(partition, state);
                if segments.is_empty() {
                    effects.push(Effect::CreateSegment { partition, segment: SEGMENT });
                } else {
                    self.read(partition, effects);
                }
            }
            Input::SegmentCreated { partition, segment } => {
                effects.push(Effect::Fill { partition, segment, from: 0, to: FILLED });
            }
            Input::Filled { partition, segment, .. } => {
                effects.push(Effect::Sync { partition, segment });
            }
            Input::Synced { partition, .. } => {
                let state = self.partitions.get_mut(&partition).expect("mounted");
                state.hard.term = Term(state.hard.term.0 + 1);
                effects.push(Effect::SaveHardState { partition, state: state.hard });
            }
            Input::HardStateSaved { partition } => self.recovered(partition, effects),
            Input::ReadDone { partition, data, .. } => self.scan(partition, &data, effects),
            Input::Request { from, request } => self.request(now, from, request, effects),
            Input::Mesh { from, message } => self.mesh(from, message, effects),
            Input::TurnEnd => self.turn_end(now, effects),
            Input::WriteDone { partition, write } => self.written(now, partition, write, effects),
            Input::Sent { subscription, batches, .. } => {
                if let Some(stream) = self.streams.get_mut(&subscription) {
                    assert!(stream.out >= batches, "sent is told once");
                    stream.out -= batches;
                }
            }
            Input::SessionClosed { session } => self.streams.retain(|_, s| s.to.session != session),
            Input::Tick => self.fire(now),
            Input::Replica { .. } | Input::Drain => {}
        }
    }

    fn read(&mut self, partition: PartitionId, effects: &mut Vec<Effect>) {
        let position = self.partitions[&partition].tail;
        effects.push(Effect::Read { partition, read: 1, segment: SEGMENT, position, len: 1 << 20 });
    }

    fn scan(&mut self, partition: PartitionId, data: &Bytes, effects: &mut Vec<Effect>) {
        let state = self.partitions.get_mut(&partition).expect("mounted");
        let mut at = 0;
        loop {
            let Some(head) = data.get(at..at + 12) else { break };
            let word = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("4 bytes"));
            if word(0) != MAGIC {
                effects.push(Effect::Sync { partition, segment: SEGMENT });
                return;
            }
            state.next += u64::from(word(8));
            at += word(4) as usize;
            state.tail += u64::from(word(4));
        }
        assert!(!data.is_empty(), "a filled segment ends in zeros");
        self.read(partition, effects);
    }

    fn recovered(&mut self, partition: PartitionId, effects: &mut Vec<Effect>) {
        let state = self.partitions.get_mut(&partition).expect("mounted");
        state.saved += 1;
        if state.saved > 1 {
            return;
        }
        let report = RecoveryReport {
            partition,
            entries: 0,
            events: state.next,
            pending: 0,
            torn_bytes: 0,
            rot: None,
        };
        effects.push(Effect::Recovered { report });
    }

    fn request(&mut self, now: Now, from: Caller, request: Request, effects: &mut Vec<Effect>) {
        match request {
            Request::Publish(message) => {
                let mut places: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
                let mut outcomes = vec![None; message.events.len()];
                for (i, event) in message.events.iter().enumerate() {
                    if let Some(fault) = event.fault {
                        outcomes[i] = Some(EventOutcome::Failed(Box::new(fault.error())));
                        continue;
                    }
                    let key = event.routing_key(&message.bytes);
                    places.entry(partition_of(key, self.config.partitions)).or_default().push(i);
                }
                self.next_slot += 1;
                let request = self.next_slot;
                let left = places.len();
                for (&partition, which) in &places {
                    let events: Vec<_> = which.iter().map(|i| message.events[*i]).collect();
                    let owner = shard_of(partition, self.config.shards);
                    let bytes = message.bytes.clone();
                    if owner == self.shard {
                        let asker = Asker::Here(request);
                        let state = self.partitions.get_mut(&partition).expect("mounted");
                        state.dirty.push(Slice { asker, bytes, events });
                    } else {
                        let allow_duplicate = message.allow_duplicate;
                        let message = MeshMessage::Publish {
                            request,
                            partition,
                            bytes,
                            events,
                            allow_duplicate,
                        };
                        effects.push(Effect::Mesh { to: owner, message });
                    }
                }
                let slot = Slot { from, batch: message.batch, outcomes, places, left };
                self.slots.insert(request, slot);
                if left == 0 {
                    self.finish(request, effects);
                }
            }
            Request::Ack(acks) => {
                let outcome = AckOutcome { result: Ok(()), committed_offset: Offset(0) };
                let reply = Reply::Acked(vec![outcome; acks.len()]);
                effects.push(Effect::Reply { to: from, reply });
            }
            Request::Subscribe(spec) => {
                self.next_stream += 1;
                let ready = self.partitions.values().flat_map(|p| p.stored.clone());
                let ready = ready
                    .filter(|e| e.schedule_ts <= now.wall_ms() && e.topic == spec.topic)
                    .collect();
                let stream =
                    Stream { to: from, group: spec.group, topic: spec.topic, out: 0, ready };
                self.streams.insert(SubscriptionId(self.next_stream), stream);
                effects.push(Effect::Reply { to: from, reply: Reply::Subscribed });
            }
            Request::Replay(_) => {
                self.next_stream += 1;
                let events: Vec<_> = self
                    .partitions
                    .values()
                    .flat_map(|p| p.stored.iter().cloned())
                    .enumerate()
                    .map(|(i, event)| Replayed { event, index: i as u64 })
                    .collect();
                if !events.is_empty() {
                    effects.push(Effect::Replay {
                        to: from,
                        subscription: SubscriptionId(self.next_stream),
                        events,
                        bytes: 1,
                        not_before: 0,
                    });
                }
                effects.push(Effect::Reply { to: from, reply: Reply::StreamEnd(Ok(())) });
            }
            Request::CloseStream { correlation } => {
                let to = Caller { session: from.session, correlation };
                self.streams.retain(|_, s| s.to != to);
                effects.push(Effect::Reply { to, reply: Reply::StreamEnd(Ok(())) });
            }
            Request::Partitions(_) => {
                let list = self.partitions.iter().map(|(id, p)| PartitionStatus {
                    partition: *id,
                    shard: self.shard,
                    term: p.hard.term,
                    high_watermark: Offset(p.next),
                    segment_count: 1,
                    disk_usage_bytes: FILLED,
                    pending: 0,
                    ready: 0,
                    in_flight: 0,
                    read_only: false,
                });
                let reply = Reply::Partitions(list.collect());
                effects.push(Effect::Reply { to: from, reply });
            }
        }
    }

    fn mesh(&mut self, from: ShardId, message: MeshMessage, effects: &mut Vec<Effect>) {
        match message {
            MeshMessage::Publish { request, partition, bytes, events, .. } => {
                let state = self.partitions.get_mut(&partition).expect("routed to its owner");
                state.dirty.push(Slice { asker: Asker::Shard(from, request), bytes, events });
            }
            MeshMessage::Published { request, partition, outcomes } => {
                self.answer(request, partition, outcomes, effects);
            }
            _ => unreachable!("the toy sends no other"),
        }
    }

    fn answer(
        &mut self,
        request: u64,
        partition: PartitionId,
        outcomes: Vec<EventOutcome>,
        effects: &mut Vec<Effect>,
    ) {
        let slot = self.slots.get_mut(&request).expect("an open slot");
        for (place, outcome) in slot.places[&partition].iter().zip(outcomes) {
            slot.outcomes[*place] = Some(outcome);
        }
        slot.left -= 1;
        if slot.left == 0 {
            self.finish(request, effects);
        }
    }

    fn finish(&mut self, request: u64, effects: &mut Vec<Effect>) {
        let slot = self.slots.remove(&request).expect("an open slot");
        let outcomes = slot.outcomes.into_iter().map(|o| o.expect("answered")).collect();
        let reply = Reply::Published { batch: slot.batch, outcomes };
        effects.push(Effect::Reply { to: slot.from, reply });
    }

    fn turn_end(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for (id, state) in &mut self.partitions {
            if state.dirty.is_empty() || !state.writing.is_empty() {
                continue;
            }
            state.writing = std::mem::take(&mut state.dirty);
            state.image.clear();
            state.image.extend_from_slice(&[0; 12]);
            let mut count = 0_u32;
            for slice in &state.writing {
                for event in &slice.events {
                    state.image.extend_from_slice(event.message_id.of(&slice.bytes));
                    state.image.extend_from_slice(event.payload.of(&slice.bytes));
                    count += 1;
                }
            }
            let len = block_ceil(state.image.len() as u64);
            state.image[0..4].copy_from_slice(&MAGIC.to_le_bytes());
            state.image[4..8].copy_from_slice(&(len as u32).to_le_bytes());
            state.image[8..12].copy_from_slice(&count.to_le_bytes());
            state.write += 1;
            if state.tail + len + BLOCK > FILLED {
                state.tail = 0;
            }
            effects.push(Effect::Write {
                partition: *id,
                write: state.write,
                segment: SEGMENT,
                position: state.tail,
                len,
                sync: true,
            });
            state.tail += len;
        }
        self.deliver(now, effects);
    }

    fn written(&mut self, now: Now, id: PartitionId, write: u64, effects: &mut Vec<Effect>) {
        let state = self.partitions.get_mut(&id).expect("mounted");
        assert_eq!(state.write, write);
        let mut answers = Vec::new();
        for slice in std::mem::take(&mut state.writing) {
            let mut outcomes = Vec::new();
            for event in &slice.events {
                let offset = Offset(state.next);
                state.next += 1;
                self.stats.published += 1;
                let schedule_ts =
                    event.delay_ms.map_or(event.schedule_ts, |delay| now.wall_ms() + delay);
                let placed = Placed { partition: id, offset, schedule_ts };
                outcomes.push(EventOutcome::Stored(placed));
                if !self.streams.is_empty() || state.stored.len() < 1000 {
                    let topic = String::from_utf8_lossy(event.topic.of(&slice.bytes));
                    let stored = stored(&slice.bytes, event, &topic, placed, now);
                    state.stored.push(stored.clone());
                    self.wheel.insert((schedule_ts, id, offset), stored);
                }
            }
            answers.push((slice.asker, outcomes));
        }
        for (asker, outcomes) in answers {
            match asker {
                Asker::Here(request) => self.answer(request, id, outcomes, effects),
                Asker::Shard(to, request) => {
                    let message = MeshMessage::Published { request, partition: id, outcomes };
                    effects.push(Effect::Mesh { to, message });
                }
            }
        }
    }

    fn fire(&mut self, now: Now) {
        while let Some(entry) = self.wheel.first_entry() {
            if entry.key().0 > now.wall_ms() {
                break;
            }
            let event = entry.remove();
            for stream in self.streams.values_mut().filter(|s| s.topic == event.topic) {
                stream.ready.push_back(event.clone());
            }
        }
    }

    fn deliver(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.fire(now);
        for (id, stream) in &mut self.streams {
            while !stream.ready.is_empty() && stream.out < 64 {
                let count = stream.ready.len().min(100);
                let deliveries: Vec<_> = stream
                    .ready
                    .drain(..count)
                    .map(|event| Delivery {
                        event,
                        group: GroupNo(0),
                        term: Term(1),
                        attempt: 1,
                        ack_timeout_ms: 1000,
                    })
                    .collect();
                stream.out += 1;
                self.stats.delivered += count as u64;
                effects.push(Effect::Deliver {
                    to: stream.to,
                    subscription: *id,
                    group: stream.group.clone(),
                    bytes: deliveries.iter().map(|d| d.event.size()).sum(),
                    not_before: deliveries.iter().map(|d| d.event.schedule_ts).max().unwrap_or(0),
                    deliveries,
                });
            }
        }
    }
}

fn stored(bytes: &Bytes, event: &EventSpan, topic: &str, placed: Placed, now: Now) -> StoredEvent {
    StoredEvent {
        body: bytes.clone(),
        message_id: event.message_id,
        meta: Span::default(),
        payload: event.payload,
        topic: Arc::from(topic),
        schedule_ts: placed.schedule_ts,
        append_ts: now.wall_ms(),
        partition: placed.partition,
        offset: placed.offset,
        term: Term(1),
        checksum: 0,
    }
}
