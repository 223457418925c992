//! Everything the world can say to the engine.
//!
//! A driver (the shard's pump, or the simulator) hands these to `Engine::step` one at a time. Any
//! order the types allow must be survived: completions come in any order, sessions close at any
//! moment.

use bytes::Bytes;

use super::checkpoint::Found;
use super::jobs::JobOutcome;
pub use super::log::segment::SegmentFile;
use super::mesh::MeshMessage;
pub use super::replica::HardState;
use crate::base::api::Request;
use crate::base::ids::{Caller, Index, PartitionId, SessionId, ShardId, SubscriptionId, Term};

/// One thing that happened.
#[derive(Debug)]
pub enum Input {
    /// A partition that this shard owns is there: these files hold its log (none: a new one). The
    /// first input about a partition; answered by reads until [`super::Effect::Recovered`].
    Mount {
        /// Which partition.
        partition: PartitionId,
        /// Its segment files, sorted by first index.
        segments: Vec<SegmentFile>,
        /// What `Effect::SaveHardState` saved last; `None` for a new partition, or if both of its
        /// copies are unreadable (then the log's own terms decide).
        hard_state: Option<HardState>,
        /// Its checkpoints, as [`super::checkpoint::choose`] finds them.
        checkpoints: Found,
    },
    /// A session asks for something. Only given while `Engine::has_room`.
    Request {
        /// Who is answered.
        from: Caller,
        /// What is asked.
        request: Request,
    },
    /// Deliveries of one [`super::Effect::Deliver`] or `Replay` have left for the socket.
    Sent {
        /// Which stream.
        subscription: SubscriptionId,
        /// The `bytes` of the effects that are gone.
        bytes: u64,
        /// How many effects are gone.
        batches: u32,
    },
    /// The connection is gone: its streams end, nothing more is sent to it.
    SessionClosed {
        /// Which session.
        session: SessionId,
    },
    /// Another shard of this node speaks. Messages of one pair of shards keep their order.
    Mesh {
        /// The sender.
        from: ShardId,
        /// What it says.
        message: MeshMessage,
    },
    /// The write is on the disk, durably unless it was asked for without sync.
    WriteDone {
        /// Whose log.
        partition: PartitionId,
        /// The number the effect carried.
        write: u64,
    },
    /// The bytes read. Shorter than asked for only at the end of the file.
    ReadDone {
        /// Whose log.
        partition: PartitionId,
        /// The number the effect carried.
        read: u64,
        /// What lies there.
        data: Bytes,
    },
    /// The partition's job is over. What it wrote is durable.
    JobDone {
        /// Whose job.
        partition: PartitionId,
        /// What came of it.
        outcome: JobOutcome,
    },
    /// The partition's job found no space and was given up; what it had written is removed.
    JobGivenUp {
        /// Whose job.
        partition: PartitionId,
    },
    /// What the disk below the data directory has free; 0 if an operation has just found none.
    DiskSpace {
        /// Bytes that this process may take.
        free_bytes: u64,
    },
    /// The segment is zero-filled up to `end`, durably: as far as was asked for, or less where the
    /// disk is full.
    Filled {
        /// Whose log.
        partition: PartitionId,
        /// Which segment, by its first index.
        segment: Index,
        /// First byte not filled.
        end: u64,
    },
    /// The new segment file exists and its directory entry is durable.
    SegmentCreated {
        /// Whose log.
        partition: PartitionId,
        /// Which segment, by its first index.
        segment: Index,
    },
    /// All of the segment's bytes and its length are durable.
    Synced {
        /// Whose log.
        partition: PartitionId,
        /// Which segment, by its first index.
        segment: Index,
    },
    /// The last `SaveCheckpoint` of the partition is durable.
    CheckpointSaved {
        /// Whose.
        partition: PartitionId,
    },
    /// The last `SaveHardState` of the partition is durable.
    HardStateSaved {
        /// Which partition.
        partition: PartitionId,
    },
    /// The replication layer (a scripted replica, later Raft) speaks. Never given to a partition
    /// whose replica commits alone.
    Replica {
        /// Which partition.
        partition: PartitionId,
        /// What it says.
        event: ReplicaEvent,
    },
    /// Nothing but time: something may be due.
    Tick,
    /// The turn's inputs are all in: dirty partitions write, grants go out. Given once per turn.
    TurnEnd,
    /// The node is shutting down: no new request will come, what is open is finished.
    Drain,
}

/// What the replication layer can tell a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// Entries up to this index are held by a majority.
    Committed(Index),
    /// The leadership is lost: what is proposed and not committed fails with `not the leader`, and
    /// the log is cut from this index on, durably.
    Deposed {
        /// First index to cut; everything before stays.
        truncate_from: Index,
    },
    /// This replica leads again, in this term, higher than any before.
    Elected(Term),
}
