//! What shards of one node tell each other.
//!
//! A request takes a slot of the asking shard's bounded table first, so its answer has reserved
//! room. Messages to the own shard never leave the engine.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::api::{
    AckOutcome, AckSpec, Delivery, EventOutcome, EventSpan, PartitionStatus, ReplayRange, Start,
    StoredEvent, TopicSpec,
};
use crate::base::error::ApiError;
use crate::base::ids::{Offset, PartitionId, Position, SubscriptionId};
use crate::base::topic_retention::TopicRetention;

/// A message between two shards. `request` numbers a slot of the asking shard's table.
#[derive(Debug)]
pub enum MeshMessage {
    /// A publish message's events of one partition.
    Publish {
        /// Slot of the asker.
        request: u64,
        /// Owner of the events.
        partition: PartitionId,
        /// The message, shared.
        bytes: Bytes,
        /// The events of this partition, in request order; none has a fault.
        events: Vec<EventSpan>,
        /// Skip dedup.
        allow_duplicate: bool,
    },
    /// Answers `Publish`: one outcome per event, in order.
    Published {
        /// Slot of the asker.
        request: u64,
        /// Which slice.
        partition: PartitionId,
        /// In the order of the slice.
        outcomes: Vec<EventOutcome>,
    },
    /// Verdicts on deliveries of one partition.
    Ack {
        /// Slot of the asker.
        request: u64,
        /// Owner of the events.
        partition: PartitionId,
        /// Place of each in the request, and the verdict.
        acks: Vec<(u32, AckSpec)>,
    },
    /// Answers `Ack`, possibly in several messages.
    Acked {
        /// Slot of the asker.
        request: u64,
        /// Place in the request, and the outcome.
        outcomes: Vec<(u32, AckOutcome)>,
    },
    /// The sender's jobs are so far behind that publishes have to wait, or have caught up.
    JobsBehind {
        /// Which.
        is_behind: bool,
    },
    /// A member opens its stream on one partition.
    Join {
        /// The stream on the asking shard.
        subscription: SubscriptionId,
        /// Partition to consume.
        partition: PartitionId,
        /// Group name.
        group: Arc<str>,
        /// Topic name.
        topic: Arc<str>,
        /// Member name.
        member: Arc<str>,
        /// Filters of the group, should it be new: first offset and first due (Unix ms).
        filter: StartFilter,
    },
    /// Answers `Join`: the group exists durably, offers may follow.
    Joined {
        /// The stream.
        subscription: SubscriptionId,
        /// Which partition.
        partition: PartitionId,
        /// Or why not.
        result: Result<(), ApiError>,
    },
    /// The member's stream is gone.
    Leave {
        /// The stream.
        subscription: SubscriptionId,
        /// Which partition.
        partition: PartitionId,
    },
    /// There is something to deliver, and no grant for it. Sent once, then only after a grant was
    /// answered.
    Offer {
        /// To which stream.
        subscription: SubscriptionId,
        /// By which partition.
        partition: PartitionId,
        /// What is ready.
        offer: Offer,
    },
    /// Deliver up to this much.
    Grant {
        /// The stream.
        subscription: SubscriptionId,
        /// To which partition.
        partition: PartitionId,
        /// Deliveries.
        events: u32,
        /// Bytes; the first event may exceed them, unless the grant stays.
        bytes: u64,
        /// It is for what has not been offered: it stays until there is something, and is answered
        /// then.
        stays: bool,
    },
    /// Answer the grant that stays, if it still does.
    CallBack {
        /// The stream.
        subscription: SubscriptionId,
        /// To which partition.
        partition: PartitionId,
    },
    /// Answers `Grant`: what is delivered (fewer: the rest of the grant returns), and what is left.
    Granted {
        /// The stream.
        subscription: SubscriptionId,
        /// By which partition.
        partition: PartitionId,
        /// The deliveries, in order; each holds one credit until `Credit` returns it.
        deliveries: Vec<Delivery>,
        /// What else is ready; `None`: an `Offer` follows when there is.
        offer: Option<Offer>,
    },
    /// Deliveries of a `Granted` that must not leave: the wall clock has gone back behind them
    /// since. Their leases end, and no attempt is counted.
    GiveBack {
        /// The stream.
        subscription: SubscriptionId,
        /// Whose events.
        partition: PartitionId,
        /// Which, and their attempts.
        events: Vec<(Position, u32)>,
    },
    /// Deliveries have been acknowledged, or their leases ended: credit is back.
    Credit {
        /// The stream.
        subscription: SubscriptionId,
        /// Deliveries.
        events: u32,
    },
    /// Read a page of history.
    Replay {
        /// The replay stream on the asking shard.
        subscription: SubscriptionId,
        /// Which partition.
        partition: PartitionId,
        /// Only this topic.
        topic: Arc<str>,
        /// Which events of it.
        range: ReplayRange,
        /// Where to go on: the first position (time) or offset (offsets) not yet returned.
        from: ReplayCursor,
        /// Events at most.
        events: u32,
    },
    /// Answers `Replay`.
    Replayed {
        /// The stream.
        subscription: SubscriptionId,
        /// Which partition.
        partition: PartitionId,
        /// In due order (time) or offset order (offsets).
        events: Vec<StoredEvent>,
        /// Where the next page begins; `None`: this was the last.
        next: Option<ReplayCursor>,
        /// Why the page can't be read.
        error: Option<ApiError>,
    },
    /// Ask for the state of partitions.
    Status {
        /// Slot of the asker.
        request: u64,
        /// One, or all that the receiver owns.
        partition: Option<PartitionId>,
    },
    /// Ask for a topic's settings in one partition, or change them.
    Topic {
        /// Slot of the asker.
        request: u64,
        /// Which partition.
        partition: PartitionId,
        /// What is asked.
        spec: TopicSpec,
    },
    /// Answers `Topic`.
    TopicIs {
        /// Slot of the asker.
        request: u64,
        /// Which partition.
        partition: PartitionId,
        /// What holds there now, durably.
        result: Result<TopicRetention, ApiError>,
    },
    /// Answers `Status`.
    StatusIs {
        /// Slot of the asker.
        request: u64,
        /// States, in no particular order.
        partitions: Vec<PartitionStatus>,
    },
}

/// The two fixed start filters of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartFilter {
    /// Events before this offset are not the group's.
    pub min_offset: Offset,
    /// Events due before this (Unix ms) are not the group's.
    pub min_due: u64,
}

impl StartFilter {
    /// The filters of a group that starts so, at a moment (Unix ms of the wall).
    #[must_use]
    pub fn new(start: Start, wall_ms: u64) -> Self {
        match start {
            Start::Beginning => Self::default(),
            Start::Offset(offset) => Self { min_offset: offset, min_due: 0 },
            Start::Now => Self {
                min_offset: Offset(0),
                min_due: wall_ms.saturating_sub(crate::base::limits::START_NOW_GRACE_MS),
            },
        }
    }
}

/// What a partition has ready for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Events ready, at least this many.
    pub ready: u32,
    /// The earliest of them.
    pub earliest: Position,
}

/// Where a replay goes on inside a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayCursor {
    /// By due: the first position not yet returned.
    Due(Position),
    /// By offset: the first offset not yet returned.
    Offset(Offset),
}
