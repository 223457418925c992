//! Topics bodies: settings of topics change.
//!
//! Rows are read in order: the last one that names a topic counts.

use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::body::{self, Body, BodyError};
use super::generated::record as fb;
use crate::base::api::Span;
use crate::base::ids::TopicNo;
use crate::base::limits::ENTRY_BODY_BYTES;
use crate::base::topic_retention::TopicRetention;

pub(super) const RETENTION_BYTES: usize = size_of::<fb::TopicRetention>();
const TOPIC_BYTES: usize = size_of::<fb::Topic>();

/// Collects settings for one entry.
#[derive(Debug, Default)]
pub struct TopicsBuilder {
    rows: Vec<fb::TopicRetention>,
    topics: Vec<fb::Topic>,
    text: Vec<u8>,
}

impl TopicsBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a setting behind the others.
    pub fn retain(&mut self, topic: TopicNo, retention: TopicRetention) {
        self.rows.push(retention_row(topic, retention));
    }

    /// Gives a topic its number, from this entry on.
    pub fn define_topic(&mut self, topic: TopicNo, name: &str) {
        let start = body::push_text(&mut self.text, name);
        self.topics.push(fb::Topic::new(topic.0, start, name.len() as u32));
    }

    /// Whether there is no setting (there may be topics).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes the body would have by now, rounded up a little.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        let rows = self.rows.len() * RETENTION_BYTES + self.topics.len() * TOPIC_BYTES;
        rows + self.text.len() + body::TABLE_BYTES
    }

    /// The body; the builder is empty again.
    ///
    /// # Panics
    /// If there is no setting, or the body is over `ENTRY_BODY_BYTES`.
    pub fn finish(&mut self) -> Body {
        assert!(!self.rows.is_empty(), "an entry of no settings is never proposed");
        assert!(self.body_bytes() <= ENTRY_BODY_BYTES, "the proposer keeps the limit");
        let mut builder = FlatBufferBuilder::with_capacity(self.body_bytes());
        let args = fb::TopicsArgs {
            text: Some(body::byte_vector(&mut builder, &self.text)),
            topics: (!self.topics.is_empty()).then(|| builder.create_vector(&self.topics)),
            retention: Some(builder.create_vector(&self.rows)),
        };
        let table = fb::Topics::create(&mut builder, &args);
        self.rows.clear();
        self.topics.clear();
        self.text.clear();
        body::seal(builder, fb::Content::Topics, table.as_union_value())
    }
}

/// Where a topics body's vectors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    rows: Span,
    topics: Span,
    text: Span,
}

impl Layout {
    pub(super) fn read(bytes: &[u8], table: fb::Topics<'_>) -> Result<Self, BodyError> {
        let layout = Self {
            rows: body::place_of(bytes, table.retention().map(|v| v.bytes())),
            topics: body::place_of(bytes, table.topics().map(|v| v.bytes())),
            text: body::place_of(bytes, table.text().map(|v| v.bytes())),
        };
        body::check_topics(bytes, layout.topics, layout.text)?;
        Ok(layout)
    }
}

/// Settings, and the topics that got their numbers with them.
#[derive(Clone, Copy)]
pub struct TopicsView<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

impl<'a> TopicsView<'a> {
    pub(super) fn new(bytes: &'a Bytes, layout: Layout) -> Self {
        Self { bytes, layout }
    }

    /// How long topics are kept from now on, in order.
    pub fn retention(&self) -> impl ExactSizeIterator<Item = (TopicNo, TopicRetention)> + use<'a> {
        retention_at(self.bytes, self.layout.rows)
    }

    /// Topics that got their numbers with this entry.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicNo, &'a str)> {
        body::topics(self.bytes, self.layout.topics, self.layout.text)
    }
}

/// A setting as it is logged.
pub(super) fn retention_row(topic: TopicNo, retention: TopicRetention) -> fb::TopicRetention {
    fb::TopicRetention::new(retention.number(), topic.0)
}

/// The settings at `rows`.
pub(super) fn retention_at(
    bytes: &[u8],
    rows: Span,
) -> impl ExactSizeIterator<Item = (TopicNo, TopicRetention)> {
    (0..body::row_count::<RETENTION_BYTES>(rows)).map(move |i| {
        let row = fb::TopicRetention(body::row(bytes, rows, i));
        (TopicNo(row.topic()), TopicRetention::from_number(row.retention()))
    })
}
