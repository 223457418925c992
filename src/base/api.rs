//! Requests, replies and stored events in the engine's own terms.
//!
//! `wire` turns foreign bytes into these (and has checked every field by then); the engine turns
//! them into replies; `shard` and `control` carry both. Nothing here knows protobuf.

use std::sync::Arc;

use bytes::Bytes;

use super::error::{ApiError, ErrorCode};
use super::ids::{GroupNo, NameHash, Offset, PartitionId, Position, ShardId, Term};
use super::topic_retention::TopicRetention;

/// A range of bytes inside a message or an entry's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Span {
    /// The bytes of this span.
    ///
    /// # Panics
    /// If the span does not lie inside `bytes`; whoever made the span has checked it.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..(self.start + self.len) as usize]
    }

    /// Whether the span holds no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

// ---------------------------------------------------------------------------------- publish

/// One event of a publish message, as spans into it. Valid unless `fault` is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSpan {
    /// Required, UTF-8, at most `MESSAGE_ID_BYTES`.
    pub message_id: Span,
    /// UTF-8, may be empty, at most `NAME_BYTES`.
    pub topic: Span,
    /// Required, at most `PAYLOAD_BYTES`.
    pub payload: Span,
    /// All `meta` entries as they lie in the message: field 5 with tags and lengths, contiguous.
    pub meta: Span,
    /// Value of `meta.partition_key`; empty when there is none (then the message id routes).
    pub partition_key: Span,
    /// Unix ms, > 0, or 0 when `delay_ms` is given.
    pub schedule_ts: u64,
    /// Instead of `schedule_ts`: ms from the moment the server takes the event, by its clock.
    pub delay_ms: Option<u64>,
    /// `meta["cronos.durable_ack"] == "true"`: sync before the answer in any mode.
    pub durable_ack: bool,
    /// Why the event can't be taken; the other fields then mean nothing.
    pub fault: Option<EventFault>,
}

impl EventSpan {
    /// The bytes that decide the partition.
    #[must_use]
    pub fn routing_key<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        let span = if self.partition_key.is_empty() { self.message_id } else { self.partition_key };
        span.of(message)
    }
}

/// A rule that an event breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFault {
    /// No `message_id`.
    MessageIdMissing,
    /// `message_id` over its limit.
    MessageIdTooLong,
    /// `topic` over its limit.
    TopicTooLong,
    /// Control characters in `message_id` or `topic`: they would forge log lines and ids.
    ControlCharacter,
    /// Empty payload.
    PayloadMissing,
    /// Payload over its limit.
    PayloadTooLarge,
    /// Neither `schedule_ts` nor `delay_ms`, or one that is not positive.
    ScheduleMissing,
    /// `schedule_ts` or `delay_ms` further than 100 years away.
    ScheduleTooFar,
    /// Both `schedule_ts` and `delay_ms`.
    ScheduleTwice,
    /// `meta` has too many entries or bytes.
    MetaTooLarge,
}

impl EventFault {
    /// The text clients see; the ones in `wire-compat` are fixed to the letter.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::MessageIdMissing => "message_id is required",
            Self::MessageIdTooLong => "message_id exceeds 128 characters",
            Self::TopicTooLong => "topic exceeds 255 characters",
            Self::ControlCharacter => "message_id and topic must not contain control characters",
            Self::PayloadMissing => "payload is required",
            Self::PayloadTooLarge => "payload exceeds 4MB limit",
            Self::ScheduleMissing => "schedule_ts is required",
            Self::ScheduleTooFar => "schedule_ts is more than 100 years away",
            Self::ScheduleTwice => "schedule_ts and delay_ms exclude each other",
            Self::MetaTooLarge => "meta exceeds 64 entries or 16 KiB",
        }
    }

    /// As an answer to the client.
    #[must_use]
    pub fn error(self) -> ApiError {
        ApiError::new(ErrorCode::InvalidArgument, self.text())
    }
}

/// A publish message: its bytes and where its events lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishMessage {
    /// The protobuf message as received; shared, never copied on the way to the log's builder.
    pub bytes: Bytes,
    /// At most `BATCH_EVENTS`.
    pub events: Vec<EventSpan>,
    /// Skip dedup.
    pub allow_duplicate: bool,
    /// `PublishBatch` rather than `Publish`: decides the form of the answer.
    pub batch: bool,
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// Durable at this offset.
    Stored(Placed),
    /// Published before; the place is the original's.
    Duplicate(Placed),
    /// Not stored.
    Failed(Box<ApiError>),
}

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// Its `schedule_ts`, absolute Unix ms.
    pub schedule_ts: u64,
}

// ---------------------------------------------------------------------------------- deliver

/// An event read back from the log: spans into the body of its entry.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// The body of the entry the event lies in; shared.
    pub body: Bytes,
    /// `message_id`.
    pub message_id: Span,
    /// `meta` as published: encoded field-5 entries, ready to be sent again.
    pub meta: Span,
    /// Payload.
    pub payload: Span,
    /// Topic name.
    pub topic: Arc<str>,
    /// Unix ms.
    pub schedule_ts: u64,
    /// Log time of the append, Unix ms.
    pub append_ts: u64,
    /// Partition it lies in.
    pub partition: PartitionId,
    /// Offset in that partition.
    pub offset: Offset,
    /// Term of its entry.
    pub term: Term,
    /// CRC32 (IEEE) of the payload, taken when it was received.
    pub checksum: u32,
}

impl StoredEvent {
    /// Place on the due-time axis.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.schedule_ts.max(self.append_ts), self.offset)
    }

    /// Where what it has of the body lies.
    #[must_use]
    pub fn spans(&self) -> [Span; 3] {
        [self.message_id, self.meta, self.payload]
    }

    /// Bytes the event will take in a socket buffer, about.
    #[must_use]
    pub fn size(&self) -> u64 {
        let varying = self.message_id.len + self.meta.len + self.payload.len;
        u64::from(varying) + self.topic.len() as u64 + 128
    }
}

/// One hand-over of an event to a member.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What is handed over.
    pub event: StoredEvent,
    /// The group in its partition, for the delivery id.
    pub group: GroupNo,
    /// Term of the leadership that delivers (the fencing token).
    pub term: Term,
    /// From 1.
    pub attempt: u32,
    /// How long the member may take, ms.
    pub ack_timeout_ms: u64,
    /// See [`DeliveryId::seal`].
    pub seal: u32,
}

/// Which partitions a stream reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionSet {
    /// All partitions of the node's cluster.
    All,
    /// These, sorted and without repetition.
    These(Vec<PartitionId>),
}

/// Where a *new* group starts; an existing one resumes where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the first event of the topic.
    Beginning,
    /// From this offset of each partition.
    Offset(Offset),
    /// What becomes due from now on (less `START_NOW_GRACE_MS`), whenever it was published.
    Now,
}

/// Opens a member's stream of deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeSpec {
    /// Group name, 1 to `NAME_BYTES` bytes.
    pub group: Arc<str>,
    /// Topic name, up to `NAME_BYTES` bytes.
    pub topic: Arc<str>,
    /// Member name as the client gave it; two members may give the same.
    pub member: Arc<str>,
    /// Partitions to consume.
    pub partitions: PartitionSet,
    /// Start position of a group that does not exist yet.
    pub start: Start,
    /// Deliveries in flight, 1 to `CREDIT_MAX`.
    pub credit: u32,
}

/// A delivery's id, taken apart. It alone tells all that is needed to judge an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryId {
    /// Of the group's name. It is only compared, and the seal tells whether the rest is true.
    pub group: NameHash,
    /// Partition of the event.
    pub partition: PartitionId,
    /// The group's number in that partition; must belong to `group`.
    pub group_no: GroupNo,
    /// Term of the leadership that delivered.
    pub term: Term,
    /// The event's place.
    pub position: Position,
    /// From 1.
    pub attempt: u32,
    /// Keyed hash of group and place: nobody else can name a delivery that never was.
    pub seal: u32,
}

/// What a member says about a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Ack,
    /// Failed; try again after this delay (ms), or after the configured backoff.
    Nack(Box<Nack>),
    /// More time: the lease ends this many ms from now.
    Extend {
        /// Milliseconds from now.
        by_ms: u64,
    },
}

/// Why an attempt failed, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The client's own delay instead of backoff, ms.
    pub delay_ms: Option<u64>,
    /// Why, for the dead letter; at most `NACK_REASON_BYTES`.
    pub reason: Arc<str>,
}

/// A verdict on a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckSpec {
    /// Which delivery. `None`: the client's id could not be read, so it is unknown.
    pub id: Option<DeliveryId>,
    /// What became of it.
    pub verdict: Verdict,
}

/// The answer to one verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckOutcome {
    /// Whether it is settled (ack), recorded (nack) or extended.
    pub result: Result<(), ApiError>,
    /// First offset of the partition that the group has not passed, for information.
    pub committed_offset: Offset,
}

// ---------------------------------------------------------------------------------- replay

/// What a replay returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayRange {
    /// Events with `start <= schedule_ts <= end` (Unix ms), in due order.
    Time {
        /// First `schedule_ts`.
        start: u64,
        /// Last `schedule_ts`; `None` is now.
        end: Option<u64>,
    },
    /// `count` events from `start` on, in offset order, partition by partition.
    Offsets {
        /// First offset.
        start: Offset,
        /// How many at most, over all partitions.
        count: u64,
    },
}

/// Opens a stream over history. Moves no cursor; never returns what is not yet due.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplaySpec {
    /// Only this topic.
    pub topic: Arc<str>,
    /// Partitions to read.
    pub partitions: PartitionSet,
    /// Which events.
    pub range: ReplayRange,
    /// 0: as fast as the reader takes them; k: k times the original spacing.
    pub speed: f64,
}

/// An event of a replay.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The event.
    pub event: StoredEvent,
    /// Its number in this stream, from 0.
    pub index: u64,
}

// ---------------------------------------------------------------------------------- the rest

/// What a session may ask of the engine.
#[derive(Clone, Debug)]
pub enum Request {
    /// Answered by [`Reply::Published`].
    Publish(PublishMessage),
    /// Answered by [`Reply::Acked`], one outcome per verdict, in order.
    Ack(Vec<AckSpec>),
    /// Answered by [`Reply::Subscribed`], then deliveries, then [`Reply::StreamEnd`].
    Subscribe(SubscribeSpec),
    /// Answered by replay batches, then [`Reply::StreamEnd`].
    Replay(ReplaySpec),
    /// Ends the stream that this session opened with this correlation id.
    CloseStream {
        /// The correlation id of the request that opened the stream.
        correlation: u64,
    },
    /// Answered by [`Reply::Partitions`]: one partition, or all of them in order.
    Partitions(Option<PartitionId>),
    /// Answered by [`Reply::Topic`]: by every partition, after the change where there is one.
    Topic(TopicSpec),
}

/// What the engine answers. Each request has exactly one final reply.
#[derive(Clone, Debug)]
pub enum Reply {
    /// One outcome per event, in request order.
    Published {
        /// As asked: the form of the answer.
        batch: bool,
        /// Never empty but for an empty batch.
        outcomes: Vec<EventOutcome>,
    },
    /// One outcome per verdict.
    Acked(Vec<AckOutcome>),
    /// The stream is open on every partition asked for; deliveries may already have come.
    Subscribed,
    /// No more will come on this stream.
    StreamEnd(Result<(), ApiError>),
    /// Status of partitions, sorted by id.
    Partitions(Vec<PartitionStatus>),
    /// Settings of a topic, per partition, sorted by id. A change is durable in all of them.
    Topic(Vec<(PartitionId, TopicRetention)>),
    /// The request failed as a whole.
    Failed(ApiError),
}

/// Asks for a topic's settings, or changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Topic name, up to `NAME_BYTES` bytes. A change of one that does not exist makes it.
    pub topic: Arc<str>,
    /// How long its events are kept from now on; `None`: as it is.
    pub retention: Option<TopicRetention>,
}

/// State of one partition at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which.
    pub partition: PartitionId,
    /// Shard that owns it on this node.
    pub shard: ShardId,
    /// Term of the present leadership.
    pub term: Term,
    /// First offset not yet committed.
    pub high_watermark: Offset,
    /// Files of the log.
    pub segment_count: u32,
    /// Bytes of those files on disk.
    pub disk_usage_bytes: u64,
    /// Events that are not due yet.
    pub pending: u64,
    /// Events due and waiting, over all groups.
    pub ready: u64,
    /// Deliveries in flight, over all groups.
    pub in_flight: u64,
    /// The log is rotten in the middle: it is served for reading only.
    pub read_only: bool,
}
