//! Newtypes of every number that names something.
//!
//! A bare integer never crosses a module boundary: an offset can't be passed where an index is
//! meant. All of them are plain values, ordered, and printed as their number.

use std::fmt;

use ahash::RandomState;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// A slice of the data: unit of order, logging, ownership and replication. From 0.
    PartitionId,
    u16
);
id!(
    /// One core of the node: its executor and memory. From 0; never a slice of data.
    ShardId,
    u16
);
id!(
    /// Dense position of a record in its partition, from 0. Counts events, never entries.
    Offset,
    u64
);
id!(
    /// Position of an entry in the replicated log of a partition, from 1. 0 means "before the log".
    Index,
    u64
);
id!(
    /// Number of a leadership, from 1; raised by every open of the log.
    Term,
    u64
);
id!(
    /// A topic's number inside one partition, assigned in log order, from 0.
    TopicNo,
    u32
);
id!(
    /// A consumer group's number inside one partition, assigned in log order, from 0.
    GroupNo,
    u32
);
id!(
    /// A due run, due index or run of ids of one partition, from 1. Given once; the number is its
    /// file's name.
    RunNo,
    u64
);
id!(
    /// A client connection (or one stream of the gRPC bridge) on the shard that serves it.
    /// Unique for the life of the process within that shard.
    SessionId,
    u64
);
id!(
    /// A member's open stream, on the shard of its session. Never reused within a process.
    SubscriptionId,
    u64
);

impl Offset {
    /// The offset `count` events further on.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl Index {
    /// The entry behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// An event's place on the due-time axis of its partition: (due, offset), in that order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// `max(schedule_ts, append_ts)`, Unix ms.
    pub due: u64,
    /// The event's offset, which orders events of one millisecond.
    pub offset: Offset,
}

impl Position {
    /// Before every event.
    pub const START: Self = Self { due: 0, offset: Offset(0) };

    /// The position of the event at `offset` that is due at `due` (Unix ms).
    pub fn new(due: u64, offset: Offset) -> Self {
        Self { due, offset }
    }

    /// The place right before this one. Before [`Self::START`] there is none: it is not asked for.
    #[must_use]
    pub fn before(self) -> Self {
        match self.offset.0.checked_sub(1) {
            Some(offset) => Self::new(self.due, Offset(offset)),
            None => Self::new(self.due.saturating_sub(1), Offset(u64::MAX)),
        }
    }

    /// The place right behind this one.
    #[must_use]
    pub fn after(self) -> Self {
        match self.offset.0.checked_add(1) {
            Some(offset) => Self::new(self.due, Offset(offset)),
            None => Self::new(self.due.saturating_add(1), Offset(0)),
        }
    }
}

/// Stands for a name where all that counts is whether it is the same: equal names have equal ones,
/// others almost never. It is the same in one process only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameHash(u64);

impl NameHash {
    /// Of a name's bytes.
    #[must_use]
    pub fn of(name: impl AsRef<[u8]>) -> Self {
        Self(RandomState::with_seeds(5, 6, 7, 8).hash_one(name.as_ref()))
    }
}

/// Who asked: the session and the correlation id the client gave its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// The session the request came in on.
    pub session: SessionId,
    /// The client's own number for the request, echoed in every answer to it.
    pub correlation: u64,
}
