//! The story of a record that is needed again, owner half: from memory, or by a read of the log.
//!
//! Reads take the log in pieces of up to `read_bytes` from a place of the sparse index on; what
//! they bring goes into the record cache, and the flows that waited go on from there. What walks
//! along the log has the next piece read while it goes through the last (`read_ahead.rs`).

use std::sync::Arc;

use bytes::Bytes;

use super::replay::Page;
use crate::base::api::StoredEvent;
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{GroupNo, Offset, Position, TopicNo};
use crate::base::size::{block_ceil, block_floor};
use crate::engine::effect::Effect;
use crate::engine::horizon::BlockFlow;
use crate::engine::log::{Body, Cached, Content, EntryHeader, Parsed, Piece, Place, Reader, Spot};
use crate::engine::mesh::{MeshMessage, ReplayCursor};
use crate::engine::partition::Partition;
use crate::engine::reads::{AXIS_READ, CUT_READ, Flow, Reading, SCAN_READ};
use crate::engine::runs::{Block, RunKey};
use crate::engine::step::Step;

/// Where a walk has found its last event: the next one often lies behind it.
///
/// What the walk finds goes to another core, which lets go of it there. So a walk has counts of its
/// own for what its events share: one that all use is taken by one core from the other for each of
/// them.
#[derive(Debug, Default)]
pub(super) struct Near {
    /// The entry of the last one that was in the log's.
    entry: Option<Cached>,
    /// The block of the last one that was in a run's, and its record there.
    record: Option<(Block, usize)>,
    /// The name of the last one's topic.
    name: Option<(TopicNo, Arc<str>)>,
}

impl Near {
    /// The record behind the last one, if it has this key.
    fn next_record(&mut self, key: &RunKey) -> Option<(&Block, usize)> {
        let (block, record) = self.record.as_mut()?;
        let next = *record + 1;
        if next == block.len() || block.key(next) != *key {
            return None;
        }
        *record = next;
        Some((block, next))
    }

    fn name_of(&mut self, topic: TopicNo, name: &str) -> Arc<str> {
        match &self.name {
            Some((of, name)) if *of == topic => Arc::clone(name),
            _ => {
                let own = Arc::from(name);
                self.name = Some((topic, Arc::clone(&own)));
                own
            }
        }
    }
}

impl Partition {
    /// The event, if it is in memory.
    pub(super) fn fetch(
        &self,
        topic: TopicNo,
        position: Position,
        near: &mut Near,
    ) -> Option<StoredEvent> {
        let key = RunKey::new(topic, position);
        let name = near.name_of(topic, &self.topics.get(topic).name);
        if let Some((block, record)) = near.next_record(&key) {
            return Some(self.carried_event(block, record, name));
        }
        if !near.entry.as_ref().is_some_and(|entry| entry.holds(position.offset)) {
            let entry = self.cache.get(position.offset);
            near.entry = entry.map(|Cached { header, body }| {
                let (header, body) = (*header, body.counted_apart());
                Cached { header, body }
            });
        }
        if let Some(entry) = &near.entry {
            return Some(self.stored(entry, topic, position.offset, name));
        }
        let (run, number) = self.carrier(topic, position)?;
        let block = self.horizon.blocks.get(run.head().ids.run, number)?;
        let record = block.find(&key)?;
        let (block, record) = near.record.insert((block.counted_apart(), record));
        Some(self.carried_event(block, *record, name))
    }

    fn carried_event(&self, block: &Block, number: usize, topic: Arc<str>) -> StoredEvent {
        let (record, spans) = (block.record(number), block.spans(number));
        StoredEvent {
            body: block.bytes().clone(),
            message_id: spans.message_id,
            meta: spans.meta,
            payload: spans.payload,
            topic,
            schedule_ts: record.schedule_ts,
            append_ts: record.append_ts,
            partition: self.id,
            offset: record.key.position.offset,
            term: record.term,
            checksum: record.checksum,
        }
    }

    fn stored(
        &self,
        cached: &Cached,
        topic: TopicNo,
        offset: Offset,
        name: Arc<str>,
    ) -> StoredEvent {
        let Cached { header, body } = cached;
        let view = body.published();
        let slot = (offset.0 - header.base_offset.0) as u32;
        assert_eq!(view.record(slot).topic, topic, "the axis of a topic holds its own events");
        view.stored_event(slot, header, self.id, name)
    }

    /// A group's next event is on disk only: its grants wait for the read.
    pub(in crate::engine) fn read_for_group(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        position: Position,
    ) {
        let group = &mut self.groups[no.0 as usize];
        if std::mem::replace(&mut group.dispatch.reading, true) {
            return;
        }
        let topic = group.topic;
        match self.carrier(topic, position) {
            Some((run, number)) => self.read_block(step, &run, number, BlockFlow::Group(no)),
            None if self.is_gone(position.offset) => {
                self.groups[no.0 as usize].dispatch.reading = false;
                self.give_up_gone(step, no, position);
            }
            None => self.read_for(step, position.offset, Flow::Group(no)),
        }
    }

    /// A page's next event is on disk only: it waits for the read.
    pub(super) fn read_for_page(
        &mut self,
        step: &mut Step<'_>,
        topic: TopicNo,
        position: Position,
        mut page: Page,
    ) {
        match self.carrier(topic, position) {
            Some((run, number)) => {
                self.read_block(step, &run, number, BlockFlow::Replay(Box::new(page)));
            }
            None if self.is_gone(position.offset) => {
                // Retention has passed it since its page was read.
                (page.from, page.past) = (ReplayCursor::Due(position.after()), None);
                self.replay_page(step, page);
            }
            None => self.read_for(step, position.offset, Flow::Replay(Box::new(page))),
        }
    }

    /// A new entry: its records are kept in memory, as long as there is room. What is due behind
    /// the horizon comes back out of a run.
    pub(super) fn keep_in_memory(&mut self, step: &Step<'_>, header: EntryHeader, body: Body) {
        let Content::Publish(view) = body.content() else { return };
        let far = step.now.wall_ms() + step.config.horizon_ms;
        let is_near = (0..view.len()).any(|slot| view.record(slot).schedule_ts <= far);
        if is_near {
            self.cache.push(header, body);
        } else {
            self.cache.push_idle(header, body);
        }
    }

    /// Parks a flow until the record at `offset` is in memory.
    pub(in crate::engine) fn read_for(&mut self, step: &mut Step<'_>, offset: Offset, flow: Flow) {
        let spot = self.sparse.locate(offset).expect("an applied record has a place in the log");
        let joined = self.reads.out.values_mut().find(|read| read.serves(spot.place, offset));
        if let Some(reading) = joined {
            reading.flows.push((offset, flow));
        } else if self.reads.has_room() {
            let piece = self.sparse.piece(spot, step.config.read_bytes);
            self.walks_from(offset, &piece, &flow);
            self.read_piece(step, spot, piece, offset, vec![(offset, flow)]);
        } else {
            self.reads.waiting.push_back((offset, flow));
        }
    }

    /// Begins the read of a piece that holds the record at `from`.
    pub(super) fn read_piece(
        &mut self,
        step: &mut Step<'_>,
        Spot { place, index }: Spot,
        Piece { end, next }: Piece,
        from: Offset,
        flows: Vec<(Offset, Flow)>,
    ) {
        let len = block_ceil(end) - block_floor(place.position);
        let until = next.map_or(from, |(_, offset)| offset);
        self.read(step, Reading { place, index, len, flows, from, until });
    }

    /// Behind the last applied entry of a segment.
    fn segment_end(&self, place: Place) -> u64 {
        self.sparse.segment_end(place.segment).expect("a noted entry lies in a noted segment")
    }

    fn read(&mut self, step: &mut Step<'_>, reading: Reading) {
        step.stats.reads += 1;
        let (partition, read) = (self.id, self.reads.number());
        let segment = reading.place.segment;
        let (position, len) = (block_floor(reading.place.position), reading.len);
        step.effects.push(Effect::Read { partition, read, segment, position, len });
        self.reads.out.insert(read, reading);
    }

    /// Bytes of the log are there.
    pub(in crate::engine) fn read_done(&mut self, step: &mut Step<'_>, read: u64, data: &Bytes) {
        match read {
            SCAN_READ => return self.scanned(step, data),
            AXIS_READ => return self.axis_read(step, data),
            CUT_READ => return self.cut_block(step, data),
            _ if self.block_read(step, read, data) || self.ids_read(step, read, data) => return,
            _ => {}
        }
        let reading = self.reads.out.remove(&read).expect("a read is done once");
        let at = block_floor(reading.place.position);
        let end = self.segment_end(reading.place);
        let mut reader = Reader::new(self.ids, reading.place, reading.index);
        let mut found_one = false;
        // What a flow waits for goes into the cache last: nothing else of the read evicts it.
        let mut wanted = Vec::new();
        let is_wanted = |header: &EntryHeader| {
            let holds = |offset| header.base_offset <= offset && offset < header.end_offset();
            reading.flows.iter().any(|(offset, _)| holds(*offset))
        };
        let mut rest = None;
        let fault = loop {
            match reader.next(at, data, end) {
                Parsed::Entry { header, body, .. } => {
                    found_one = true;
                    // What is not applied may still be cut away.
                    if header.count == 0 || header.end_offset() > self.applied_end {
                        continue;
                    }
                    if is_wanted(&header) {
                        wanted.push((header, body));
                    } else {
                        self.cache.push_read(header, &body);
                    }
                }
                Parsed::Need { position, len } if !found_one => {
                    assert!(position == at && len > reading.len, "only a longer read helps");
                    return self.read(step, Reading { len, ..reading });
                }
                Parsed::Need { position, len } => {
                    rest = Some((position, len));
                    break None;
                }
                Parsed::End => break None,
                Parsed::Bad { position, fault } => break Some((position, fault)),
            }
        };
        for (header, body) in wanted {
            self.cache.push_read(header, &body);
        }
        let text = fault.map(|(position, fault)| {
            format!("segment {} is damaged at byte {position}: {fault}", reading.place.segment)
        });
        let flows = match rest {
            Some(rest) => self.read_rest(step, &reader, rest, reading.flows),
            None => reading.flows,
        };
        self.resume(step, flows, text.as_deref());
        while self.reads.has_room() {
            let Some((offset, flow)) = self.reads.waiting.pop_front() else { break };
            self.resume(step, vec![(offset, flow)], None);
        }
    }

    /// What was read ends within an entry. Who wants that, or what is behind it, waits for a read
    /// from there on, as long as the entry is: from where this one began it would end there again.
    /// The others are returned.
    fn read_rest(
        &mut self,
        step: &mut Step<'_>,
        reader: &Reader,
        (position, len): (u64, u64),
        flows: Vec<(Offset, Flow)>,
    ) -> Vec<(Offset, Flow)> {
        let Some((last, _)) = reader.before() else { unreachable!("some entry was read") };
        let is_behind = |(offset, _): &(Offset, Flow)| *offset >= last.end_offset();
        let (flows, others) = flows.into_iter().partition::<Vec<_>, _>(is_behind);
        if !flows.is_empty() {
            let Place { segment, position: behind } = reader.place();
            let place = Place::new(segment, position.max(behind));
            let len = len.max(step.config.read_bytes);
            let len = len.min(block_ceil(self.segment_end(place)) - block_floor(place.position));
            let index = reader.next_index();
            let (from, until) = (last.end_offset(), last.end_offset());
            self.read(step, Reading { place, index, len, flows, from, until });
        }
        others
    }

    /// Flows go on: those whose record is there now, or that read on from another place. Where the
    /// record can't be read, a replay is told; a group stays where it is, and says so.
    fn resume(&mut self, step: &mut Step<'_>, flows: Vec<(Offset, Flow)>, fault: Option<&str>) {
        for (offset, flow) in flows {
            let lost = fault.filter(|_| self.cache.get(offset).is_none());
            match flow {
                Flow::Group(no) => {
                    if let Some(text) = lost {
                        // Skipping it would lose it silently: the process stops, as for any disk
                        // that returns what was not written.
                        panic!("partition {}: an unsettled record is unreadable: {text}", self.id);
                    }
                    self.group_read(step, no);
                }
                Flow::Replay(page) => match lost {
                    Some(text) => {
                        let error = ApiError::new(ErrorCode::DataLoss, text.to_owned());
                        self.replay_failed(step, &page, error);
                    }
                    None => self.replay_page(step, *page),
                },
            }
        }
    }

    /// A group's next record is there, or may be by now: its grants go on.
    pub(super) fn group_read(&mut self, step: &mut Step<'_>, no: GroupNo) {
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        dispatch.reading = false;
        let open = dispatch.members.iter().filter(|(_, m)| m.granted.is_some_and(|g| !g.stays));
        let open: Vec<_> = open.map(|(key, _)| *key).collect();
        for key in open {
            self.serve_in_turn(step, no, key);
        }
        // Those that stay are served with what is dirty.
        self.dirty.insert(no);
    }

    pub(super) fn replay_failed(&self, step: &mut Step<'_>, page: &Page, error: ApiError) {
        let (subscription, partition) = (page.subscription, self.id);
        let (events, next, error) = (Vec::new(), None, Some(error));
        step.send(
            page.shard,
            MeshMessage::Replayed { subscription, partition, events, next, error },
        );
    }
}
