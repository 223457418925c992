//! State bodies: a snapshot of the applied state, at the head of each segment, so that any
//! retained suffix of the log rebuilds everything but runs.
//!
//! A snapshot comes in parts (entries) of about [`STATE_PART_BYTES`], so that neither a write nor
//! an apply is unbounded. Parts are numbered from 0 and follow one another; the head, equal in all
//! of them, says how many there are. Each row lies in exactly one part: the reader adds them up.

use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::body::{self, Body, BodyError};
use super::generated::record as fb;
use super::settle::DeadReason;
use super::topics::{RETENTION_BYTES, retention_at, retention_row};
use crate::base::api::Span;
use crate::base::ids::{GroupNo, Index, Offset, Position, Term, TopicNo};
use crate::base::limits::{ENTRY_TARGET_BYTES, NACK_REASON_BYTES, NAME_BYTES};
use crate::base::topic_retention::TopicRetention;

/// A part is closed once it has this many bytes of rows and text.
pub const STATE_PART_BYTES: usize = ENTRY_TARGET_BYTES;

const TOPIC_BYTES: usize = size_of::<fb::Topic>();
const GROUP_BYTES: usize = size_of::<fb::GroupState>();
const SETTLED_BYTES: usize = size_of::<fb::Settled>();
const UNSETTLED_BYTES: usize = size_of::<fb::Unsettled>();
const DEAD_BYTES: usize = size_of::<fb::DeadLetter>();

/// What every part of a snapshot repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateHead {
    /// Offset of the next record.
    pub next_offset: Offset,
    /// How long an id is remembered, ms of log time.
    pub dedup_ttl_ms: u64,
    /// Last index before the first entry that the log still has.
    pub truncated_index: Index,
    /// And its term.
    pub truncated_term: Term,
}

/// A group with its frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupState<'a> {
    /// Its number in the partition.
    pub no: GroupNo,
    /// Its name.
    pub name: &'a str,
    /// The topic it consumes.
    pub topic: TopicNo,
    /// Events before this offset are not the group's.
    pub min_offset: Offset,
    /// Events due before this (Unix ms) are not the group's.
    pub min_due: u64,
    /// One event in flight per key.
    pub ordered: bool,
    /// Everything at or behind it is settled, but for the unsettled set.
    pub frontier: Position,
}

/// An event at or behind its group's frontier that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The group.
    pub group: GroupNo,
    /// The event's place.
    pub position: Position,
    /// Attempts that count, so far.
    pub attempts: u32,
    /// Releases by disconnect, so far.
    pub releases: u32,
    /// Next attempt not before this log time, ms; 0: at once.
    pub not_before_ms: u64,
}

/// A dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The group.
    pub group: GroupNo,
    /// The event's place.
    pub position: Position,
    /// Attempts that were made.
    pub attempts: u32,
    /// What ended the last one.
    pub reason: DeadReason,
    /// The consumer's words.
    pub text: &'a str,
}

#[derive(Debug, Default)]
struct Part {
    topics: Vec<fb::Topic>,
    retention: Vec<fb::TopicRetention>,
    groups: Vec<fb::GroupState>,
    settled: Vec<fb::Settled>,
    unsettled: Vec<fb::Unsettled>,
    dead: Vec<fb::DeadLetter>,
    text: Vec<u8>,
}

/// Collects a snapshot and cuts it into parts.
#[derive(Debug)]
pub struct StateBuilder {
    head: StateHead,
    full: Vec<Part>,
    part: Part,
}

impl StateBuilder {
    /// An empty snapshot.
    #[must_use]
    pub fn new(head: StateHead) -> Self {
        Self { head, full: Vec::new(), part: Part::default() }
    }

    /// Adds a topic, and how long it is kept, unless the node says.
    pub fn topic(&mut self, no: TopicNo, name: &str, retention: TopicRetention) {
        let part = self.open_part();
        let start = body::push_text(&mut part.text, name);
        part.topics.push(fb::Topic::new(no.0, start, name.len() as u32));
        if retention != TopicRetention::Node {
            part.retention.push(retention_row(no, retention));
        }
    }

    /// Adds a group.
    pub fn group(&mut self, group: &GroupState<'_>) {
        let part = self.open_part();
        let start = body::push_text(&mut part.text, group.name);
        part.groups.push(fb::GroupState::new(
            group.min_offset.0,
            group.min_due,
            group.frontier.due,
            group.frontier.offset.0,
            group.no.0,
            group.topic.0,
            start,
            group.name.len() as u32,
            u8::from(group.ordered),
        ));
    }

    /// Adds an event that is settled beyond its group's frontier.
    pub fn settled(&mut self, group: GroupNo, position: Position) {
        let row = fb::Settled::new(position.due, position.offset.0, group.0);
        self.open_part().settled.push(row);
    }

    /// Adds an event that is not settled at or behind its group's frontier.
    pub fn unsettled(&mut self, event: &Unsettled) {
        self.open_part().unsettled.push(fb::Unsettled::new(
            event.position.due,
            event.position.offset.0,
            event.not_before_ms,
            event.group.0,
            event.attempts,
            event.releases,
        ));
    }

    /// Adds a dead letter.
    pub fn dead(&mut self, letter: &DeadLetter<'_>) {
        let part = self.open_part();
        let start = body::push_text(&mut part.text, letter.text);
        part.dead.push(fb::DeadLetter::new(
            letter.position.due,
            letter.position.offset.0,
            letter.group.0,
            letter.attempts,
            start,
            u16::try_from(letter.text.len()).expect("NACK_REASON_BYTES fits"),
            letter.reason as u8,
        ));
    }

    /// The parts in order, one body each; at least one.
    #[must_use]
    pub fn finish(mut self) -> Vec<Body> {
        self.full.push(self.part);
        let parts = u32::try_from(self.full.len()).expect("a snapshot has few parts");
        let head = self.head;
        self.full.iter().zip(0..).map(|(part, no)| part.seal(&head, no, parts)).collect()
    }

    fn open_part(&mut self) -> &mut Part {
        if self.part.bytes() >= STATE_PART_BYTES {
            self.full.push(std::mem::take(&mut self.part));
        }
        &mut self.part
    }
}

impl Part {
    fn bytes(&self) -> usize {
        self.topics.len() * TOPIC_BYTES
            + self.retention.len() * RETENTION_BYTES
            + self.groups.len() * GROUP_BYTES
            + self.settled.len() * SETTLED_BYTES
            + self.unsettled.len() * UNSETTLED_BYTES
            + self.dead.len() * DEAD_BYTES
            + self.text.len()
    }

    fn seal(&self, head: &StateHead, part: u32, parts: u32) -> Body {
        let largest_row = GROUP_BYTES + NAME_BYTES + NACK_REASON_BYTES;
        assert!(self.bytes() <= STATE_PART_BYTES + largest_row, "a part is closed in time");
        let mut builder = FlatBufferBuilder::with_capacity(self.bytes() + body::TABLE_BYTES);
        let args = fb::StateArgs {
            part,
            parts,
            next_offset: head.next_offset.0,
            dedup_ttl_ms: head.dedup_ttl_ms,
            truncated_index: head.truncated_index.0,
            truncated_term: head.truncated_term.0,
            topics: Some(builder.create_vector(&self.topics)),
            groups: Some(builder.create_vector(&self.groups)),
            settled: Some(builder.create_vector(&self.settled)),
            unsettled: Some(builder.create_vector(&self.unsettled)),
            dead: Some(builder.create_vector(&self.dead)),
            text: Some(body::byte_vector(&mut builder, &self.text)),
            // Absent where no topic has any: as states were before there were settings.
            retention: (!self.retention.is_empty()).then(|| builder.create_vector(&self.retention)),
        };
        let table = fb::State::create(&mut builder, &args);
        body::seal(builder, fb::Content::State, table.as_union_value())
    }
}

/// Where a state body's vectors lie, and its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    head: StateHead,
    part: u32,
    parts: u32,
    topics: Span,
    groups: Span,
    settled: Span,
    unsettled: Span,
    dead: Span,
    text: Span,
    retention: Span,
}

impl Layout {
    pub(super) fn read(bytes: &[u8], table: fb::State<'_>) -> Result<Self, BodyError> {
        let layout = Self {
            head: StateHead {
                next_offset: Offset(table.next_offset()),
                dedup_ttl_ms: table.dedup_ttl_ms(),
                truncated_index: Index(table.truncated_index()),
                truncated_term: Term(table.truncated_term()),
            },
            part: table.part(),
            parts: table.parts(),
            topics: body::place_of(bytes, table.topics().map(|v| v.bytes())),
            groups: body::place_of(bytes, table.groups().map(|v| v.bytes())),
            settled: body::place_of(bytes, table.settled().map(|v| v.bytes())),
            unsettled: body::place_of(bytes, table.unsettled().map(|v| v.bytes())),
            dead: body::place_of(bytes, table.dead().map(|v| v.bytes())),
            text: body::place_of(bytes, table.text().map(|v| v.bytes())),
            retention: body::place_of(bytes, table.retention().map(|v| v.bytes())),
        };
        let mut known = layout.part < layout.parts;
        body::check_topics(bytes, layout.topics, layout.text)?;
        for i in 0..body::row_count::<GROUP_BYTES>(layout.groups) {
            let row = fb::GroupState(body::row(bytes, layout.groups, i));
            body::text_in(bytes, layout.text, row.name_start(), row.name_len())?;
            known &= row.ordered() <= 1;
        }
        for i in 0..body::row_count::<DEAD_BYTES>(layout.dead) {
            let row = fb::DeadLetter(body::row(bytes, layout.dead, i));
            body::text_in(bytes, layout.text, row.text_start(), u32::from(row.text_len()))?;
            known &= DeadReason::from_number(row.reason()).is_some();
        }
        if known { Ok(layout) } else { Err(BodyError::Number) }
    }
}

/// One part of a snapshot.
#[derive(Clone, Copy)]
pub struct StateView<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

impl<'a> StateView<'a> {
    pub(super) fn new(bytes: &'a Bytes, layout: Layout) -> Self {
        Self { bytes, layout }
    }

    /// What every part repeats.
    #[must_use]
    pub fn head(&self) -> StateHead {
        self.layout.head
    }

    /// Number of this part, from 0.
    #[must_use]
    pub fn part(&self) -> u32 {
        self.layout.part
    }

    /// Parts of the snapshot; above [`StateView::part`].
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.layout.parts
    }

    /// Topics of this part.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicNo, &'a str)> {
        body::topics(self.bytes, self.layout.topics, self.layout.text)
    }

    /// How long topics are kept, where the node does not say; each topic is defined by this part
    /// or an earlier one.
    pub fn retention(&self) -> impl ExactSizeIterator<Item = (TopicNo, TopicRetention)> + use<'a> {
        retention_at(self.bytes, self.layout.retention)
    }

    /// Groups of this part.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = GroupState<'a>> {
        let Layout { groups, text, .. } = self.layout;
        let bytes = self.bytes;
        (0..body::row_count::<GROUP_BYTES>(groups)).map(move |i| {
            let row = fb::GroupState(body::row(bytes, groups, i));
            GroupState {
                no: GroupNo(row.no()),
                name: body::text_at(bytes, text, row.name_start(), row.name_len()),
                topic: TopicNo(row.topic()),
                min_offset: Offset(row.min_offset()),
                min_due: row.min_due(),
                ordered: row.ordered() == 1,
                frontier: Position::new(row.frontier_due(), Offset(row.frontier_offset())),
            }
        })
    }

    /// Events of this part that are settled beyond their group's frontier.
    pub fn settled(&self) -> impl ExactSizeIterator<Item = (GroupNo, Position)> {
        let (bytes, rows) = (self.bytes, self.layout.settled);
        (0..body::row_count::<SETTLED_BYTES>(rows)).map(move |i| {
            let row = fb::Settled(body::row(bytes, rows, i));
            (GroupNo(row.group()), Position::new(row.due(), Offset(row.offset())))
        })
    }

    /// Events of this part that are not settled at or behind their group's frontier.
    pub fn unsettled(&self) -> impl ExactSizeIterator<Item = Unsettled> {
        let (bytes, rows) = (self.bytes, self.layout.unsettled);
        (0..body::row_count::<UNSETTLED_BYTES>(rows)).map(move |i| {
            let row = fb::Unsettled(body::row(bytes, rows, i));
            Unsettled {
                group: GroupNo(row.group()),
                position: Position::new(row.due(), Offset(row.offset())),
                attempts: row.attempts(),
                releases: row.releases(),
                not_before_ms: row.not_before(),
            }
        })
    }

    /// Dead letters of this part.
    pub fn dead(&self) -> impl ExactSizeIterator<Item = DeadLetter<'a>> {
        let Layout { dead, text, .. } = self.layout;
        let bytes = self.bytes;
        (0..body::row_count::<DEAD_BYTES>(dead)).map(move |i| {
            let row = fb::DeadLetter(body::row(bytes, dead, i));
            DeadLetter {
                group: GroupNo(row.group()),
                position: Position::new(row.due(), Offset(row.offset())),
                attempts: row.attempts(),
                reason: DeadReason::from_number(row.reason()).expect("checked when verified"),
                text: body::text_at(bytes, text, row.text_start(), u32::from(row.text_len())),
            }
        })
    }
}
