//! Publish bodies: a vector of fixed structs, one per event, and one of bytes.
//!
//! The way of a published event into the log: [`PublishBuilder::push`] copies its bytes behind
//! those of the events before it, [`PublishBuilder::finish`] makes the table. No allocation per
//! event; the builder's own vectors are kept from entry to entry.

use std::sync::Arc;

use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::body::{self, Body, BodyError};
use super::entry::EntryHeader;
use super::generated::record as fb;
use crate::base::api::{Span, StoredEvent};
use crate::base::ids::{PartitionId, TopicNo};
use crate::base::limits::{ENTRY_BODY_BYTES, ENTRY_TARGET_BYTES};

const EVENT_BYTES: usize = size_of::<fb::Event>();
const TOPIC_BYTES: usize = size_of::<fb::Topic>();
const ALLOW_DUPLICATE: u8 = 1;

/// An event on its way into a body.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// At most `MESSAGE_ID_BYTES`.
    pub message_id: &'a [u8],
    /// At most `META_BYTES`.
    pub meta: &'a [u8],
    /// At most `PAYLOAD_BYTES`.
    pub payload: &'a [u8],
    /// Its topic, defined in this entry or before.
    pub topic: TopicNo,
    /// Unix ms.
    pub schedule_ts: u64,
    /// CRC32 (IEEE) of the payload.
    pub checksum: u32,
    /// Published without dedup.
    pub allow_duplicate: bool,
}

/// An event as it lies in a body: spans into [`Body::bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// `message_id`.
    pub message_id: Span,
    /// `meta` as published: encoded field-5 entries.
    pub meta: Span,
    /// Payload.
    pub payload: Span,
    /// Its topic.
    pub topic: TopicNo,
    /// Unix ms.
    pub schedule_ts: u64,
    /// CRC32 (IEEE) of the payload.
    pub checksum: u32,
    /// Published without dedup.
    pub allow_duplicate: bool,
}

/// Collects events for one entry.
#[derive(Debug, Default)]
pub struct PublishBuilder {
    events: Vec<fb::Event>,
    topics: Vec<fb::Topic>,
    blobs: Vec<u8>,
}

impl PublishBuilder {
    /// An empty one; allocates with the first event.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event behind the others.
    ///
    /// # Panics
    /// If a length is over its limit; `wire` has checked them.
    pub fn push(&mut self, record: NewRecord<'_>) {
        let start = u32::try_from(self.blobs.len()).expect("a body is below 4 GiB");
        self.blobs.extend_from_slice(record.message_id);
        self.blobs.extend_from_slice(record.meta);
        self.blobs.extend_from_slice(record.payload);
        self.events.push(fb::Event::new(
            record.schedule_ts,
            start,
            u32::try_from(record.payload.len()).expect("PAYLOAD_BYTES fits"),
            record.topic.0,
            record.checksum,
            u16::try_from(record.meta.len()).expect("META_BYTES fits"),
            u8::try_from(record.message_id.len()).expect("MESSAGE_ID_BYTES fits"),
            if record.allow_duplicate { ALLOW_DUPLICATE } else { 0 },
        ));
    }

    /// Gives a topic its number, from this entry on.
    pub fn define_topic(&mut self, topic: TopicNo, name: &str) {
        let start = body::push_text(&mut self.blobs, name);
        self.topics.push(fb::Topic::new(topic.0, start, name.len() as u32));
    }

    /// Events so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is no event (there may be topics).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes the body would have by now, rounded up a little.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        let rows = self.events.len() * EVENT_BYTES + self.topics.len() * TOPIC_BYTES;
        rows + self.blobs.len() + body::TABLE_BYTES
    }

    /// The body; the builder is empty again.
    ///
    /// # Panics
    /// If there is no event, or the body is over `ENTRY_BODY_BYTES`.
    pub fn finish(&mut self) -> Body {
        assert!(!self.events.is_empty(), "an entry of no events is never proposed");
        assert!(self.body_bytes() <= ENTRY_BODY_BYTES, "the proposer keeps the limit");
        let mut builder = FlatBufferBuilder::with_capacity(self.body_bytes());
        let args = fb::PublishArgs {
            blobs: Some(body::byte_vector(&mut builder, &self.blobs)),
            topics: (!self.topics.is_empty()).then(|| builder.create_vector(&self.topics)),
            events: Some(builder.create_vector(&self.events)),
        };
        let table = fb::Publish::create(&mut builder, &args);
        let body = body::seal(builder, fb::Content::Publish, table.as_union_value());
        assert_eq!(body.records() as usize, self.events.len(), "no event is lost on the way");
        self.clear();
        body
    }

    /// Empties it. What one huge batch has grown is given back.
    fn clear(&mut self) {
        self.events.clear();
        self.topics.clear();
        self.blobs.clear();
        self.blobs.shrink_to(2 * ENTRY_TARGET_BYTES);
    }
}

/// Where a publish body's vectors lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    events: Span,
    topics: Span,
    blobs: Span,
}

impl Layout {
    pub(super) fn read(bytes: &[u8], table: fb::Publish<'_>) -> Result<Self, BodyError> {
        let layout = Self {
            events: body::place_of(bytes, table.events().map(|v| v.bytes())),
            topics: body::place_of(bytes, table.topics().map(|v| v.bytes())),
            blobs: body::place_of(bytes, table.blobs().map(|v| v.bytes())),
        };
        for i in 0..layout.records() {
            let event = fb::Event(body::row(bytes, layout.events, i));
            let len = u64::from(event.id_len())
                + u64::from(event.meta_len())
                + u64::from(event.payload_len());
            body::span_in(layout.blobs, event.blob_start(), len)?;
            if event.flags() & !ALLOW_DUPLICATE != 0 {
                return Err(BodyError::Number);
            }
        }
        body::check_topics(bytes, layout.topics, layout.blobs)?;
        Ok(layout)
    }

    pub(super) fn records(&self) -> u32 {
        body::row_count::<EVENT_BYTES>(self.events)
    }
}

/// Published events, in offset order.
#[derive(Clone, Copy)]
pub struct PublishView<'a> {
    bytes: &'a Bytes,
    layout: Layout,
}

impl<'a> PublishView<'a> {
    pub(super) fn new(bytes: &'a Bytes, layout: Layout) -> Self {
        Self { bytes, layout }
    }

    /// Events.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.layout.records()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `i`-th event.
    ///
    /// # Panics
    /// If `i` is not below [`PublishView::len`].
    #[must_use]
    pub fn record(&self, i: u32) -> Record {
        let event = fb::Event(body::row(self.bytes, self.layout.events, i));
        let id_start = self.layout.blobs.start + event.blob_start();
        let message_id = Span { start: id_start, len: u32::from(event.id_len()) };
        let meta = Span { start: id_start + message_id.len, len: u32::from(event.meta_len()) };
        let payload = Span { start: meta.start + meta.len, len: event.payload_len() };
        Record {
            message_id,
            meta,
            payload,
            topic: TopicNo(event.topic()),
            schedule_ts: event.schedule_ts(),
            checksum: event.checksum(),
            allow_duplicate: event.flags() & ALLOW_DUPLICATE != 0,
        }
    }

    /// All events in order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record> {
        let view = *self;
        (0..self.len()).map(move |i| view.record(i))
    }

    /// Topics that got their numbers with this entry.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicNo, &'a str)> {
        body::topics(self.bytes, self.layout.topics, self.layout.blobs)
    }

    /// The `i`-th event for delivery or replay; `header` is its entry's, `topic` its topic's name.
    ///
    /// # Panics
    /// If `i` is not below [`PublishView::len`], or `header` belongs to another body.
    #[must_use]
    pub fn stored_event(
        &self,
        i: u32,
        header: &EntryHeader,
        partition: PartitionId,
        topic: Arc<str>,
    ) -> StoredEvent {
        assert_eq!(header.count, self.len(), "header and body are of one entry");
        let record = self.record(i);
        StoredEvent {
            body: self.bytes.clone(),
            message_id: record.message_id,
            meta: record.meta,
            payload: record.payload,
            topic,
            schedule_ts: record.schedule_ts,
            append_ts: header.append_ts,
            partition,
            offset: header.base_offset.plus(u64::from(i)),
            term: header.term,
            checksum: record.checksum,
        }
    }
}
