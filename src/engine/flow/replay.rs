//! The story of a replay: pages of history, merged over partitions, at a pace.
//!
//! Front half: a stream asks each of its partitions for pages, one at a time, and passes events on
//! in due order over all of them (by time) or partition after partition (by offsets), as fast as
//! the socket takes them or at `speed` times the original spacing.
//! Owner half: a page is read from the due axis or straight from the log, from memory or disk.
//!
//! Must hold: no cursor moves; nothing is returned before its `schedule_ts`; memory is bounded by a
//! page per partition.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fetch::Near;
use super::past::Reach;
use super::recover::Phase;
use super::subscribe::partitions_of;
use crate::base::api::{ReplayRange, ReplaySpec, Replayed, Reply, StoredEvent};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Caller, Offset, PartitionId, Position, ShardId, SubscriptionId, TopicNo};
use crate::base::limits;
use crate::base::time::Now;
use crate::engine::block_load::BlockLoad;
use crate::engine::detach::detach;
use crate::engine::effect::Effect;
use crate::engine::front::{Front, Stream};
use crate::engine::mesh::{MeshMessage, ReplayCursor};
use crate::engine::partition::Partition;
use crate::engine::past::{self, PastPage};
use crate::engine::reads::Flow;
use crate::engine::step::Step;
use crate::engine::topics::Topic;

/// Events of a page.
const PAGE_EVENTS: u32 = 512;
/// Bytes of a page, about: it ends behind the event that passes this.
const PAGE_BYTES: u64 = 1 << 20;
/// Events of an axis or a log looked at for one page; then it ends, filled or not.
const LOOK_EVENTS: usize = limits::STEP_EVENTS;

/// An open replay.
#[derive(Debug)]
pub struct ReplayStream {
    id: SubscriptionId,
    caller: Caller,
    topic: Arc<str>,
    range: ReplayRange,
    speed: f64,
    /// Events still wanted (by offsets).
    left: u64,
    index: u64,
    sources: VecDeque<ReplaySource>,
    out_bytes: u64,
    out_batches: u32,
    /// First event's `schedule_ts` and when it was sent (boot time, ms): the origin of the pace.
    origin: Option<(u64, u64)>,
    /// When the next event may go, boot time, ms; 0: at once.
    wake_ms: u64,
    /// `schedule_ts` of a next event that the clock went back behind, Unix ms; 0: none.
    early: u64,
}

#[derive(Debug)]
struct ReplaySource {
    partition: PartitionId,
    page: VecDeque<StoredEvent>,
    /// Where the next page begins; `None`: there is none.
    next: Option<ReplayCursor>,
    asked: bool,
}

impl Front {
    /// A session opens a replay.
    pub(in crate::engine) fn replay(
        &mut self,
        step: &mut Step<'_>,
        from: Caller,
        spec: ReplaySpec,
    ) {
        if self.has_stream(from) {
            let text = "correlation id: a stream with this id is open already";
            return step.reply(from, Reply::StreamEnd(Err(ApiError::invalid(text))));
        }
        let partitions = match partitions_of(&spec.partitions, step.config.partitions) {
            Ok(partitions) => partitions,
            Err(error) => return step.reply(from, Reply::StreamEnd(Err(error))),
        };
        // The end of "until now" is now, not when the last page is read.
        let range = match spec.range {
            ReplayRange::Time { start, end: None } => {
                ReplayRange::Time { start, end: Some(step.now.wall_ms()) }
            }
            range => range,
        };
        let (first, left) = match range {
            ReplayRange::Time { start, .. } => {
                (ReplayCursor::Due(Position::new(start, Offset(0))), u64::MAX)
            }
            ReplayRange::Offsets { start, count } => (ReplayCursor::Offset(start), count),
        };
        let source = |partition: &PartitionId| ReplaySource {
            partition: *partition,
            page: VecDeque::new(),
            next: Some(first),
            asked: false,
        };
        let sources = partitions.iter().map(source).collect();
        let id = self.open_stream(from, |id| {
            Stream::Replay(ReplayStream {
                id,
                caller: from,
                topic: spec.topic,
                range,
                speed: spec.speed,
                left,
                index: 0,
                sources,
                out_bytes: 0,
                out_batches: 0,
                origin: None,
                wake_ms: 0,
                early: 0,
            })
        });
        self.replay_on(step, id);
    }

    /// A partition has read a page.
    pub(in crate::engine) fn replayed(
        &mut self,
        step: &mut Step<'_>,
        id: SubscriptionId,
        partition: PartitionId,
        events: Vec<StoredEvent>,
        next: Option<ReplayCursor>,
        error: Option<ApiError>,
    ) {
        let Some(Stream::Replay(stream)) = self.stream(id) else { return };
        if let Some(error) = error {
            let caller = stream.caller;
            self.drop_stream(step, caller);
            return step.reply(caller, Reply::StreamEnd(Err(error)));
        }
        let source = stream.sources.iter_mut().find(|source| source.partition == partition);
        let source = source.expect("a page belongs to a source that asked");
        assert!(source.asked && source.page.is_empty(), "one page at a time");
        source.asked = false;
        source.page = events.into();
        source.next = next;
        self.replay_on(step, id);
    }

    /// Goes on with a replay as far as pages, the socket and the pace allow.
    pub(in crate::engine) fn replay_on(&mut self, step: &mut Step<'_>, id: SubscriptionId) {
        let Some(Stream::Replay(stream)) = self.stream(id) else { return };
        stream.send(step);
        let waits = stream.wake_ms != 0 || stream.early != 0;
        let over = stream.is_over();
        self.note_time(id, waits);
        let Some(Stream::Replay(stream)) = self.stream(id) else { return };
        if over {
            let caller = stream.caller;
            self.drop_stream(step, caller);
            return step.reply(caller, Reply::StreamEnd(Ok(())));
        }
        stream.ask(step);
    }

    /// Streams that wait for time go on: replays by their pace, or because the wall clock went back
    /// behind what had been read already.
    pub(in crate::engine) fn pace(&mut self, step: &mut Step<'_>) {
        let now = step.now;
        let due = |stream: &Stream| stream.wakes_at(now).is_some_and(|at| at <= now.boot_us);
        let due: Vec<_> = self.timed().filter(|(_, s)| due(s)).map(|(id, _)| id).collect();
        for id in due {
            self.replay_on(step, id);
        }
    }

    /// When the next stream that waits for time goes on, boot time, microseconds.
    pub(in crate::engine) fn next_pace_us(&self, now: Now) -> Option<u64> {
        self.timed().filter_map(|(_, stream)| stream.wakes_at(now)).min()
    }
}

impl Stream {
    /// When this stream wants to go on by itself, boot time, microseconds.
    fn wakes_at(&self, now: Now) -> Option<u64> {
        let wall_ms = match self {
            Self::Subscription(_) => return None,
            Self::Replay(replay) if replay.early != 0 => replay.early,
            Self::Replay(replay) => return (replay.wake_ms != 0).then_some(replay.wake_ms * 1_000),
        };
        Some(now.boot_us + wall_ms.saturating_mul(1_000).saturating_sub(now.wall_us))
    }
}

impl ReplayStream {
    /// What a driver has sent makes room for more.
    pub(in crate::engine) fn sent(&mut self, bytes: u64, batches: u32) {
        self.out_bytes = self.out_bytes.checked_sub(bytes).expect("sent bytes were replayed");
        self.out_batches = self.out_batches.checked_sub(batches).expect("sent was replayed");
    }

    fn is_over(&self) -> bool {
        self.left == 0 || self.sources.iter().all(|s| s.page.is_empty() && s.next.is_none())
    }

    fn ask(&mut self, step: &mut Step<'_>) {
        let in_turn = matches!(self.range, ReplayRange::Offsets { .. });
        for source in &mut self.sources {
            if let Some(from) = source.next
                && source.page.is_empty()
                && !source.asked
            {
                source.asked = true;
                let events = PAGE_EVENTS.min(u32::try_from(self.left).unwrap_or(PAGE_EVENTS));
                let (subscription, partition) = (self.id, source.partition);
                let (topic, range) = (self.topic.clone(), self.range);
                let page =
                    MeshMessage::Replay { subscription, partition, topic, range, from, events };
                step.send(step.owner(partition), page);
            }
            if in_turn && (source.next.is_some() || !source.page.is_empty()) {
                return;
            }
        }
    }

    /// The source of the next event; `None` while a page is missing that might hold it.
    fn source(&mut self) -> Option<&mut ReplaySource> {
        if matches!(self.range, ReplayRange::Offsets { .. }) {
            let mut open =
                self.sources.iter_mut().filter(|s| s.next.is_some() || !s.page.is_empty());
            return open.next().filter(|source| !source.page.is_empty());
        }
        if self.sources.iter().any(|source| source.page.is_empty() && source.next.is_some()) {
            return None;
        }
        let with_page = self.sources.iter_mut().filter(|source| !source.page.is_empty());
        with_page.min_by_key(|source| source.page.front().map(StoredEvent::position))
    }

    fn send(&mut self, step: &mut Step<'_>) {
        (self.wake_ms, self.early) = (0, 0);
        let (mut events, mut bytes, mut not_before) = (Vec::new(), 0, 0);
        let window = limits::SUBSCRIPTION_OUT_BYTES;
        if self.out_batches >= limits::SUBSCRIPTION_OUT_BATCHES {
            return;
        }
        while self.left > 0 && self.out_bytes + bytes < window {
            let Some(source) = self.source() else { break };
            let schedule_ts = source.page.front().expect("chosen for its page").schedule_ts;
            if !self.may_go(step, schedule_ts) {
                break;
            }
            let source = self.source().expect("just seen");
            let event = source.page.pop_front().expect("just seen");
            bytes += event.size();
            not_before = not_before.max(event.schedule_ts);
            events.push(Replayed { event, index: self.index });
            self.index += 1;
            self.left -= 1;
        }
        if events.is_empty() {
            return;
        }
        step.stats.replayed += events.len() as u64;
        self.out_bytes += bytes;
        self.out_batches += 1;
        let (to, subscription) = (self.caller, self.id);
        step.effects.push(Effect::Replay { to, subscription, events, bytes, not_before });
    }

    /// Whether the pace allows an event now; else when it will is noted.
    fn may_go(&mut self, step: &Step<'_>, schedule_ts: u64) -> bool {
        if schedule_ts > step.now.wall_ms() {
            self.early = schedule_ts;
            return false;
        }
        if self.speed <= 0.0 {
            return true;
        }
        let now = step.now.boot_ms();
        let (first, began) = *self.origin.get_or_insert((schedule_ts, now));
        let spacing = schedule_ts.saturating_sub(first) as f64 / self.speed;
        let due = began + spacing as u64;
        if due > now {
            self.wake_ms = due;
        }
        due <= now
    }
}

// ------------------------------------------------------------------------------- owner half

/// A page that is being read.
#[derive(Debug)]
pub struct Page {
    pub(in crate::engine) shard: ShardId,
    pub(in crate::engine) subscription: SubscriptionId,
    pub(in crate::engine) topic: Arc<str>,
    pub(in crate::engine) range: ReplayRange,
    pub(in crate::engine) from: ReplayCursor,
    pub(in crate::engine) events: u32,
    /// What it reads where the due axis has left the memory.
    pub(in crate::engine) past: Option<PastPage>,
    /// The next of that, under way.
    pub(in crate::engine) load: Option<BlockLoad>,
}

/// What was found for a page before it was full, or had to wait for a read.
struct Found {
    events: Vec<StoredEvent>,
    next: Option<ReplayCursor>,
    /// What is not in memory.
    missing: Option<Missing>,
}

/// Why a page can't go on at once.
enum Missing {
    /// The record at this offset of the log.
    Offset(Offset),
    /// The record of this event.
    Record(TopicNo, Position),
    /// The due axis itself: it goes on in runs.
    Axis(TopicNo),
    /// The due axis behind this place: it has left the memory.
    Past(TopicNo, Position),
}

impl Page {
    /// Whether it walks along the log.
    pub(super) fn is_by_offset(&self) -> bool {
        matches!(self.range, ReplayRange::Offsets { .. })
    }
}

impl Partition {
    /// Reads a page; one that needs the disk and has nothing yet is parked.
    pub(in crate::engine) fn replay_page(&mut self, step: &mut Step<'_>, mut page: Page) {
        // Before that, what is applied may be less than what was once acknowledged.
        if !matches!(self.phase, Phase::Serving | Phase::ReadOnly(_)) {
            let text = format!("partition {} is opening; retry with backoff", self.id);
            return self.replay_failed(step, &page, ApiError::new(ErrorCode::Unavailable, text));
        }
        let found = match (page.range, page.from) {
            (ReplayRange::Time { start, end }, ReplayCursor::Due(from)) => {
                self.page_by_time(step, &page, start, end.unwrap_or(u64::MAX), from)
            }
            (ReplayRange::Offsets { .. }, ReplayCursor::Offset(from)) => {
                let found = self.page_by_offset(step, &page, from);
                // A page of fewer events is the last one.
                let goes_on = page.events == PAGE_EVENTS || found.missing.is_some();
                if let Some(ReplayCursor::Offset(next)) = found.next.filter(|_| goes_on) {
                    self.read_ahead(step, next);
                }
                found
            }
            (range, from) => unreachable!("a cursor of another kind: {range:?} {from:?}"),
        };
        if let Some(missing) = found.missing.filter(|_| found.events.is_empty()) {
            // What was passed is not needed again: it may be out of the cache by then.
            page.from = found.next.expect("a page goes on where a record is missing");
            return match missing {
                Missing::Offset(offset) => {
                    self.read_for(step, offset, Flow::Replay(Box::new(page)));
                }
                Missing::Record(topic, position) => {
                    self.read_for_page(step, topic, position, page);
                }
                Missing::Past(topic, from) => self.past_for_replay(step, topic, from, page),
                Missing::Axis(topic) => {
                    self.topics.get_mut(topic).disk.waits.push(page);
                    self.horizon.wanted.insert(topic);
                }
            };
        }
        let (subscription, partition) = (page.subscription, self.id);
        let (mut events, next) = (found.events, found.next);
        detach(&mut events);
        let message = MeshMessage::Replayed { subscription, partition, events, next, error: None };
        step.send(page.shard, message);
    }

    fn page_by_time(
        &self,
        step: &Step<'_>,
        page: &Page,
        start: u64,
        end: u64,
        from: Position,
    ) -> Found {
        let mut found = Found { events: Vec::new(), next: None, missing: None };
        let Some(topic) = self.topics.number(&page.topic) else { return found };
        let Topic { axis, .. } = self.topics.get(topic);
        let wall = step.now.wall_ms();
        let hidden = self.hidden_before(step, topic);
        // `from` is the first position wanted, the axis is read behind one.
        let from = from.max(Position::new(hidden, Offset(0)));
        let behind = from.before();
        // What is in runs only, its time to come, is due at its schedule_ts.
        let past = self.page_at(topic, page.past.as_ref(), behind);
        let Reach { end: reach, is_past } = self.reach(topic, past, behind, end.min(wall));
        let axis_goes_on = |events: Vec<StoredEvent>, reach: Position| {
            let missing = if is_past { Missing::Past(topic, reach) } else { Missing::Axis(topic) };
            let next = Some(ReplayCursor::Due(reach.after().max(from)));
            Found { events, next, missing: Some(missing) }
        };
        // An event published late lies on the axis up to this far behind its schedule_ts.
        let last_due = end.saturating_add(axis.max_passed_ms());
        let (mut bytes, mut looked, mut near) = (0, 0, Near::default());
        for event in past::read(past, axis, behind) {
            if let Some(reach) = reach.filter(|reach| event.position > *reach) {
                return axis_goes_on(found.events, reach);
            }
            if event.position.due > last_due {
                return found;
            }
            let full = found.events.len() as u32 >= page.events || bytes >= PAGE_BYTES;
            if full || looked >= LOOK_EVENTS {
                found.next = Some(ReplayCursor::Due(event.position));
                return found;
            }
            looked += 1;
            let late = event.schedule_ts > end || event.schedule_ts > wall;
            let gone = !event.is_loaded && self.is_gone(event.position.offset);
            if event.schedule_ts < start || late || gone {
                continue;
            }
            let Some(stored) = self.fetch(topic, event.position, &mut near) else {
                found.next = Some(ReplayCursor::Due(event.position));
                found.missing = Some(Missing::Record(topic, event.position));
                return found;
            };
            if stored.schedule_ts < start || stored.schedule_ts > end.min(wall) {
                continue;
            }
            bytes += stored.size();
            found.events.push(stored);
        }
        if let Some(reach) = reach {
            return axis_goes_on(found.events, reach);
        }
        found
    }

    fn page_by_offset(&self, step: &Step<'_>, page: &Page, from: Offset) -> Found {
        let mut found = Found { events: Vec::new(), next: None, missing: None };
        let Some(topic) = self.topics.number(&page.topic) else { return found };
        let (wall, hidden) = (step.now.wall_ms(), self.hidden_before(step, topic));
        let (mut bytes, mut looked) = (0, 0);
        let mut offset = from.max(self.retention.log_start);
        while offset < self.applied_end {
            let Some(cached) = self.cache.get(offset) else {
                found.next = Some(ReplayCursor::Offset(offset));
                found.missing = Some(Missing::Offset(offset));
                return found;
            };
            let (view, header) = (cached.body.published(), &cached.header);
            let name = &self.topics.get(topic).name;
            let end = header.end_offset().min(self.applied_end);
            while offset < end {
                let full = found.events.len() as u32 >= page.events || bytes >= PAGE_BYTES;
                if full || looked >= LOOK_EVENTS {
                    found.next = Some(ReplayCursor::Offset(offset));
                    return found;
                }
                looked += 1;
                let slot = (offset.0 - header.base_offset.0) as u32;
                if view.record(slot).topic == topic {
                    let stored = view.stored_event(slot, header, self.id, Arc::clone(name));
                    if stored.schedule_ts <= wall && stored.position().due >= hidden {
                        bytes += stored.size();
                        found.events.push(stored);
                    }
                }
                offset = offset.plus(1);
            }
        }
        found
    }
}
