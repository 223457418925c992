//! Members of a group and the leases they hold.

use std::sync::Arc;

use super::deadline::DeadlineNo;
use crate::base::ids::{ShardId, SubscriptionId};

/// A member: the stream of a session on some shard of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// Shard of the session.
    pub shard: ShardId,
    /// The stream there.
    pub subscription: SubscriptionId,
}

/// A member as the partition sees it. Its credit lives in its session; here is only what was
/// offered to it and granted by it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Name the client gave; need not be unique.
    pub name: Arc<str>,
    /// An offer is out: the next word is the member's.
    pub offered: bool,
    /// A grant that is not answered yet: it waits for a turn, a read, or an event.
    pub granted: Option<Grant>,
}

/// What a member may be handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Events at most.
    pub events: u32,
    /// Bytes at most; the first event may exceed them, unless the grant stays.
    pub bytes: u64,
    /// It stays until there is something to hand out.
    pub stays: bool,
}

/// The right of one member to handle one event until a deadline. 16 bytes: who holds it is known of
/// its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Number of the delivery, from 1: failed attempts, releases and this one.
    pub attempt: u32,
    /// Failed attempts before this one.
    pub failed: u32,
    /// When it ends.
    pub deadline: DeadlineNo,
}
