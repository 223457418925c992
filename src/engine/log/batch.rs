//! Publish bodies: a vector of fixed structs, one per event, and one of bytes.
//!
//! The way of a published event into the log: [`PublishBuilder::push`] notes where its bytes lie in
//! the message that brought them, [`PublishBuilder::finish`] copies them into the body, once. No
//! allocation per event.
//!
//! Must hold: no more than `OPEN_ENTRY_MESSAGES` bytes of messages, or one message, are kept alive
//! for an entry that gathers, however little of them goes into it.

use std::sync::Arc;

use bytes::Bytes;

use super::body::{self, Body, BodyError};
use super::entry::EntryHeader;
use super::generated::record as fb;
use super::publish_table;
use crate::base::api::{Span, StoredEvent};
use crate::base::ids::{PartitionId, TopicNo};
use crate::base::limits::{ENTRY_BODY_BYTES, OPEN_ENTRY_MESSAGES};

const EVENT_BYTES: usize = size_of::<fb::Event>();
const TOPIC_BYTES: usize = size_of::<fb::Topic>();
const ALLOW_DUPLICATE: u8 = 1;
/// For so many events a builder that is empty keeps its memory.
const KEPT_EVENTS: usize = 1_024;

/// An event on its way into a body: spans into the message that brought it.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord {
    /// At most `MESSAGE_ID_BYTES`.
    pub message_id: Span,
    /// At most `META_BYTES`.
    pub meta: Span,
    /// At most `PAYLOAD_BYTES`.
    pub payload: Span,
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
    /// What the blobs will be, in order.
    fragments: Vec<Fragment>,
    /// Length of all fragments.
    blob_bytes: usize,
    messages: Vec<Bytes>,
    /// Bytes of all messages.
    message_bytes: usize,
    /// Names, and what was copied out of messages that had to go.
    own: Vec<u8>,
}

/// Bytes that lie in one of the messages, or in the builder's own memory.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    /// Which message; `OWN`: the builder.
    source: u32,
    span: Span,
}

const OWN: u32 = u32::MAX;

impl PublishBuilder {
    /// An empty one; allocates with the first event.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event that `message` has brought behind the others. The message is kept alive until
    /// the body is made.
    ///
    /// # Panics
    /// If a length is over its limit; `wire` has checked them.
    pub fn push(&mut self, message: &Bytes, record: NewRecord) {
        let source = self.source(message);
        let start = u32::try_from(self.blob_bytes).expect("a body is below 4 GiB");
        for span in [record.message_id, record.meta, record.payload] {
            if !span.is_empty() {
                self.fragments.push(Fragment { source, span });
                self.blob_bytes += span.len as usize;
            }
        }
        self.events.push(fb::Event::new(
            record.schedule_ts,
            start,
            record.payload.len,
            record.topic.0,
            record.checksum,
            u16::try_from(record.meta.len).expect("META_BYTES fits"),
            u8::try_from(record.message_id.len).expect("MESSAGE_ID_BYTES fits"),
            if record.allow_duplicate { ALLOW_DUPLICATE } else { 0 },
        ));
    }

    /// Gives a topic its number, from this entry on.
    pub fn define_topic(&mut self, topic: TopicNo, name: &str) {
        let start = u32::try_from(self.blob_bytes).expect("a body is below 4 GiB");
        let own = body::push_text(&mut self.own, name);
        let span = Span { start: own, len: name.len() as u32 };
        self.fragments.push(Fragment { source: OWN, span });
        self.blob_bytes += name.len();
        self.topics.push(fb::Topic::new(topic.0, start, span.len));
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
        rows + self.blob_bytes + body::TABLE_BYTES
    }

    /// The body; the builder is empty again.
    ///
    /// # Panics
    /// If there is no event, or the body is over `ENTRY_BODY_BYTES`.
    pub fn finish(&mut self) -> Body {
        assert!(!self.events.is_empty(), "an entry of no events is never proposed");
        assert!(self.body_bytes() <= ENTRY_BODY_BYTES, "the proposer keeps the limit");
        let Self { events, topics, blob_bytes, .. } = &*self;
        let mut bytes = Vec::new();
        let put_blobs = |out: &mut Vec<u8>| self.put_blobs(out);
        publish_table::write(&mut bytes, events, topics, *blob_bytes, put_blobs);
        let body = Body::verify(Bytes::from(bytes)).expect("what is written here verifies");
        assert_eq!(body.records() as usize, self.events.len(), "no event is lost on the way");
        self.clear();
        body
    }

    /// The number of a message; nearly always that of the event before.
    fn source(&mut self, message: &Bytes) -> u32 {
        let same = |last: &Bytes| last.as_ptr() == message.as_ptr() && last.len() == message.len();
        if !self.messages.last().is_some_and(same) {
            if self.message_bytes + message.len() > OPEN_ENTRY_MESSAGES {
                self.let_go();
            }
            self.message_bytes += message.len();
            self.messages.push(message.clone());
        }
        self.messages.len() as u32 - 1
    }

    /// Copies what is wanted of the messages, and lets go of them.
    fn let_go(&mut self) {
        let mut own = Vec::with_capacity(self.blob_bytes);
        self.put_blobs(&mut own);
        let span = Span { start: 0, len: own.len() as u32 };
        self.fragments.clear();
        self.fragments.push(Fragment { source: OWN, span });
        self.own = own;
        self.messages.clear();
        self.message_bytes = 0;
    }

    fn put_blobs(&self, out: &mut Vec<u8>) {
        for fragment in &self.fragments {
            let source = match fragment.source {
                OWN => &self.own[..],
                message => &self.messages[message as usize][..],
            };
            out.extend_from_slice(fragment.span.of(source));
        }
    }

    /// Empties it. What one huge batch has grown is given back.
    fn clear(&mut self) {
        let Self { events, topics, fragments, messages, own, .. } = self;
        events.clear();
        topics.clear();
        fragments.clear();
        messages.clear();
        own.clear();
        events.shrink_to(KEPT_EVENTS);
        topics.shrink_to(KEPT_EVENTS);
        fragments.shrink_to(3 * KEPT_EVENTS);
        messages.shrink_to(KEPT_EVENTS);
        own.shrink_to(KEPT_EVENTS);
        (self.blob_bytes, self.message_bytes) = (0, 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The events have a byte of a message each.
    fn push(builder: &mut PublishBuilder, message: &Bytes, start: u32) {
        let record = NewRecord {
            message_id: Span::default(),
            meta: Span::default(),
            payload: Span { start, len: 1 },
            topic: TopicNo(0),
            schedule_ts: 1,
            checksum: 0,
            allow_duplicate: false,
        };
        builder.push(message, record);
    }

    fn message(len: usize, byte: u8) -> Bytes {
        Bytes::from(vec![byte; len])
    }

    #[test]
    fn messages_are_kept_alive_up_to_their_limit() {
        let mut builder = PublishBuilder::new();
        let (first, second, third) =
            (message(OPEN_ENTRY_MESSAGES - 2, 1), message(2, 2), message(1, 3));
        push(&mut builder, &first, 0);
        push(&mut builder, &first, 7);
        push(&mut builder, &second, 1);
        assert!(!first.is_unique() && !second.is_unique(), "at the limit");
        builder.define_topic(TopicNo(0), "orders");
        push(&mut builder, &third, 0);
        assert!(first.is_unique() && second.is_unique(), "beyond it they are copied");
        push(&mut builder, &second, 0);
        let body = builder.finish();
        assert!(third.is_unique() && second.is_unique(), "the body has bytes of its own");
        let view = body.published();
        let payloads: Vec<u8> = view.records().map(|r| r.payload.of(body.bytes())[0]).collect();
        assert_eq!(payloads, [1, 1, 2, 3, 2]);
        assert_eq!(view.topics().collect::<Vec<_>>(), [(TopicNo(0), "orders")]);
    }

    #[test]
    fn one_message_is_kept_though_it_be_larger() {
        let (mut builder, large) = (PublishBuilder::new(), message(OPEN_ENTRY_MESSAGES + 1, 4));
        push(&mut builder, &large, 0);
        assert!(!large.is_unique());
        push(&mut builder, &message(1, 5), 0);
        assert!(large.is_unique(), "for one");
    }
}
