//! Settle bodies (what became of deliveries) and group bodies (groups that begin to exist).

use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::body::{self, Body, BodyError};
use super::generated::record as fb;
use crate::base::api::Span;
use crate::base::ids::{GroupNo, Offset, Position, TopicNo};
use crate::base::limits::ENTRY_BODY_BYTES;

const SETTLEMENT_BYTES: usize = size_of::<fb::Settlement>();
const GROUP_BYTES: usize = size_of::<fb::Group>();
const TOPIC_BYTES: usize = size_of::<fb::Topic>();

const ACKED: u8 = 1;
const RETRY: u8 = 2;
const RELEASED: u8 = 3;
const DEAD: u8 = 4;
const PASSED: u8 = 5;
const FRONTIER: u8 = 6;

/// Why an event became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DeadReason {
    /// The last attempt was refused by the consumer.
    Nacked = 1,
    /// The last attempt's lease ran out.
    Expired = 2,
    /// Too many members disconnected while they held it.
    Disconnected = 3,
    /// Its group had no members for longer than events are kept for one.
    Gone = 4,
}

impl DeadReason {
    /// The reason with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Nacked, Self::Expired, Self::Disconnected, Self::Gone]
            .into_iter()
            .find(|reason| *reason as u8 == number)
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleKind<'a> {
    /// Done for the group.
    Acked,
    /// Failed; the next attempt comes later.
    Retry {
        /// Not before this log time, ms.
        not_before_ms: u64,
    },
    /// Given back without a verdict; no attempt is counted.
    Released,
    /// All attempts are used up.
    Dead {
        /// What ended the last one.
        reason: DeadReason,
        /// The consumer's words, at most `NACK_REASON_BYTES`.
        text: &'a str,
    },
    /// Not settled, and passed by the frontier that follows in the same entry.
    Passed,
    /// No event's: the group's frontier moves here.
    Frontier,
}

/// What became of one event for one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement<'a> {
    /// The group.
    pub group: GroupNo,
    /// The event's place.
    pub position: Position,
    /// Attempts that count, so far.
    pub attempts: u32,
    /// Releases by disconnect, so far.
    pub releases: u32,
    /// What became of it.
    pub kind: SettleKind<'a>,
}

/// Collects settlements for one entry.
#[derive(Debug, Default)]
pub struct SettleBuilder {
    rows: Vec<fb::Settlement>,
    text: Vec<u8>,
}

impl SettleBuilder {
    /// Bytes of a row.
    pub const ROW_BYTES: usize = SETTLEMENT_BYTES;

    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a settlement behind the others.
    ///
    /// # Panics
    /// If a dead letter's text is over 64 KiB.
    pub fn push(&mut self, settlement: &Settlement<'_>) {
        let (kind, not_before, reason, text) = match settlement.kind {
            SettleKind::Acked => (ACKED, 0, 0, ""),
            SettleKind::Retry { not_before_ms } => (RETRY, not_before_ms, 0, ""),
            SettleKind::Released => (RELEASED, 0, 0, ""),
            SettleKind::Dead { reason, text } => (DEAD, 0, reason as u8, text),
            SettleKind::Passed => (PASSED, 0, 0, ""),
            SettleKind::Frontier => (FRONTIER, 0, 0, ""),
        };
        let text_start = body::push_text(&mut self.text, text);
        self.rows.push(fb::Settlement::new(
            settlement.position.due,
            settlement.position.offset.0,
            not_before,
            settlement.group.0,
            settlement.attempts,
            settlement.releases,
            text_start,
            u16::try_from(text.len()).expect("NACK_REASON_BYTES fits"),
            kind,
            reason,
        ));
    }

    /// Settlements so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes the body would have by now, rounded up a little.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.rows.len() * Self::ROW_BYTES + self.text.len() + body::TABLE_BYTES
    }

    /// The body; the builder is empty again.
    ///
    /// # Panics
    /// If there is no settlement, or the body is over `ENTRY_BODY_BYTES`.
    pub fn finish(&mut self) -> Body {
        assert!(!self.rows.is_empty(), "an entry that settles nothing is never proposed");
        assert!(self.body_bytes() <= ENTRY_BODY_BYTES, "the proposer keeps the limit");
        let mut builder = FlatBufferBuilder::with_capacity(self.body_bytes());
        let args = fb::SettleArgs {
            text: (!self.text.is_empty()).then(|| body::byte_vector(&mut builder, &self.text)),
            settlements: Some(builder.create_vector(&self.rows)),
        };
        let table = fb::Settle::create(&mut builder, &args);
        self.rows.clear();
        self.text.clear();
        body::seal(builder, fb::Content::Settle, table.as_union_value())
    }
}

/// Where a settle body's vectors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SettleLayout {
    rows: Span,
    text: Span,
}

impl SettleLayout {
    pub(super) fn read(bytes: &[u8], table: fb::Settle<'_>) -> Result<Self, BodyError> {
        let layout = Self {
            rows: body::place_of(bytes, table.settlements().map(|v| v.bytes())),
            text: body::place_of(bytes, table.text().map(|v| v.bytes())),
        };
        for i in 0..body::row_count::<SETTLEMENT_BYTES>(layout.rows) {
            let row = fb::Settlement(body::row(bytes, layout.rows, i));
            body::text_in(bytes, layout.text, row.text_start(), u32::from(row.text_len()))?;
            let known = match row.kind() {
                ACKED | RETRY | RELEASED | PASSED | FRONTIER => row.reason() == 0,
                DEAD => DeadReason::from_number(row.reason()).is_some(),
                _ => false,
            };
            if !known {
                return Err(BodyError::Number);
            }
        }
        Ok(layout)
    }
}

/// Settlements in the order they were decided.
#[derive(Clone, Copy)]
pub struct SettleView<'a> {
    bytes: &'a [u8],
    layout: SettleLayout,
}

impl<'a> SettleView<'a> {
    pub(super) fn new(bytes: &'a Bytes, layout: SettleLayout) -> Self {
        Self { bytes, layout }
    }

    /// Settlements.
    #[must_use]
    pub fn len(&self) -> u32 {
        body::row_count::<SETTLEMENT_BYTES>(self.layout.rows)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `i`-th settlement.
    ///
    /// # Panics
    /// If `i` is not below [`SettleView::len`].
    #[must_use]
    pub fn settlement(&self, i: u32) -> Settlement<'a> {
        let row = fb::Settlement(body::row(self.bytes, self.layout.rows, i));
        let text_len = u32::from(row.text_len());
        let kind = match row.kind() {
            ACKED => SettleKind::Acked,
            RETRY => SettleKind::Retry { not_before_ms: row.not_before() },
            RELEASED => SettleKind::Released,
            DEAD => SettleKind::Dead {
                reason: DeadReason::from_number(row.reason()).expect("checked when verified"),
                text: body::text_at(self.bytes, self.layout.text, row.text_start(), text_len),
            },
            PASSED => SettleKind::Passed,
            FRONTIER => SettleKind::Frontier,
            kind => unreachable!("kind {kind} was refused when the body was verified"),
        };
        Settlement {
            group: GroupNo(row.group()),
            position: Position::new(row.due(), Offset(row.offset())),
            attempts: row.attempts(),
            releases: row.releases(),
            kind,
        }
    }

    /// All settlements in order.
    pub fn settlements(&self) -> impl ExactSizeIterator<Item = Settlement<'a>> {
        let view = *self;
        (0..self.len()).map(move |i| view.settlement(i))
    }
}

/// A consumer group that begins to exist in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewGroup<'a> {
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
}

/// Collects new groups for one entry.
#[derive(Debug, Default)]
pub struct GroupsBuilder {
    rows: Vec<fb::Group>,
    topics: Vec<fb::Topic>,
    text: Vec<u8>,
}

impl GroupsBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a group behind the others.
    pub fn push(&mut self, group: &NewGroup<'_>) {
        let start = body::push_text(&mut self.text, group.name);
        self.rows.push(fb::Group::new(
            group.min_offset.0,
            group.min_due,
            group.no.0,
            group.topic.0,
            start,
            group.name.len() as u32,
            u8::from(group.ordered),
        ));
    }

    /// Gives a topic its number, from this entry on.
    pub fn define_topic(&mut self, topic: TopicNo, name: &str) {
        let start = body::push_text(&mut self.text, name);
        self.topics.push(fb::Topic::new(topic.0, start, name.len() as u32));
    }

    /// Groups so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no group (there may be topics).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes the body would have by now, rounded up a little.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        let rows = self.rows.len() * GROUP_BYTES + self.topics.len() * TOPIC_BYTES;
        rows + self.text.len() + body::TABLE_BYTES
    }

    /// The body; the builder is empty again.
    ///
    /// # Panics
    /// If there is no group, or the body is over `ENTRY_BODY_BYTES`.
    pub fn finish(&mut self) -> Body {
        assert!(!self.rows.is_empty(), "an entry of no groups is never proposed");
        assert!(self.body_bytes() <= ENTRY_BODY_BYTES, "the proposer keeps the limit");
        let mut builder = FlatBufferBuilder::with_capacity(self.body_bytes());
        let args = fb::GroupsArgs {
            text: Some(body::byte_vector(&mut builder, &self.text)),
            topics: (!self.topics.is_empty()).then(|| builder.create_vector(&self.topics)),
            groups: Some(builder.create_vector(&self.rows)),
        };
        let table = fb::Groups::create(&mut builder, &args);
        self.rows.clear();
        self.topics.clear();
        self.text.clear();
        body::seal(builder, fb::Content::Groups, table.as_union_value())
    }
}

/// Where a group body's vectors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupsLayout {
    rows: Span,
    topics: Span,
    text: Span,
}

impl GroupsLayout {
    pub(super) fn read(bytes: &[u8], table: fb::Groups<'_>) -> Result<Self, BodyError> {
        let layout = Self {
            rows: body::place_of(bytes, table.groups().map(|v| v.bytes())),
            topics: body::place_of(bytes, table.topics().map(|v| v.bytes())),
            text: body::place_of(bytes, table.text().map(|v| v.bytes())),
        };
        for i in 0..body::row_count::<GROUP_BYTES>(layout.rows) {
            let row = fb::Group(body::row(bytes, layout.rows, i));
            body::text_in(bytes, layout.text, row.name_start(), row.name_len())?;
            if row.ordered() > 1 {
                return Err(BodyError::Number);
            }
        }
        body::check_topics(bytes, layout.topics, layout.text)?;
        Ok(layout)
    }
}

/// New groups, and the topics that got their numbers with them.
#[derive(Clone, Copy)]
pub struct GroupsView<'a> {
    bytes: &'a [u8],
    layout: GroupsLayout,
}

impl<'a> GroupsView<'a> {
    pub(super) fn new(bytes: &'a Bytes, layout: GroupsLayout) -> Self {
        Self { bytes, layout }
    }

    /// The groups in order.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = NewGroup<'a>> {
        let GroupsLayout { rows, text, .. } = self.layout;
        let bytes = self.bytes;
        (0..body::row_count::<GROUP_BYTES>(rows)).map(move |i| {
            let row = fb::Group(body::row(bytes, rows, i));
            NewGroup {
                no: GroupNo(row.no()),
                name: body::text_at(bytes, text, row.name_start(), row.name_len()),
                topic: TopicNo(row.topic()),
                min_offset: Offset(row.min_offset()),
                min_due: row.min_due(),
                ordered: row.ordered() == 1,
            }
        })
    }

    /// Topics that got their numbers with this entry.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicNo, &'a str)> {
        body::topics(self.bytes, self.layout.topics, self.layout.text)
    }
}
