//! Everything the engine can ask of the world: the complete repertoire.
//!
//! A driver runs effects in the order given, right after the step. None is ever waited for inside
//! the engine: what comes of one is an [`super::Input`] of a later step.

use std::sync::Arc;

use super::input::HardState;
use super::jobs::JobSpec;
use super::mesh::MeshMessage;
use crate::base::api::{Delivery, Replayed, Reply};
use crate::base::ids::{Caller, Index, PartitionId, RunNo, ShardId, SubscriptionId};

/// One thing to be done.
#[derive(Debug)]
pub enum Effect {
    /// Answer a request. Replies to a session that is gone are dropped by the driver.
    Reply {
        /// Who asked.
        to: Caller,
        /// The answer.
        reply: Reply,
    },
    /// Send deliveries on a member's stream. The driver answers with `Input::Sent` once their bytes
    /// have left its buffer; never puts them on a socket before `not_before`.
    Deliver {
        /// The stream's session and correlation id.
        to: Caller,
        /// The stream, for `Input::Sent`.
        subscription: SubscriptionId,
        /// The group's name, for the delivery ids.
        group: Arc<str>,
        /// What to send, never empty, in order.
        deliveries: Vec<Delivery>,
        /// Sum of the events' sizes.
        bytes: u64,
        /// Highest `schedule_ts` of them, Unix ms: the last guard of "never early".
        not_before: u64,
    },
    /// Send replayed events on a stream; as `Deliver`.
    Replay {
        /// The stream's session and correlation id.
        to: Caller,
        /// The stream, for `Input::Sent`.
        subscription: SubscriptionId,
        /// What to send, never empty, in order.
        events: Vec<Replayed>,
        /// Sum of the events' sizes.
        bytes: u64,
        /// Highest `schedule_ts` of them, Unix ms.
        not_before: u64,
    },
    /// Hand a message to another shard of this node, in order.
    Mesh {
        /// The receiver.
        to: ShardId,
        /// What to tell it.
        message: MeshMessage,
    },
    /// Create the file of a new segment and make its directory entry durable.
    CreateSegment {
        /// Whose log.
        partition: PartitionId,
        /// The segment's name: the index of its first entry.
        segment: Index,
    },
    /// Write zeros from `from` to `to`, durably (blocks never written before), or as far as there
    /// is space; answered by `Filled`.
    Fill {
        /// Whose log.
        partition: PartitionId,
        /// Which segment.
        segment: Index,
        /// First byte, a multiple of 4 KiB.
        from: u64,
        /// Behind the last byte, a multiple of 4 KiB.
        to: u64,
    },
    /// Write to the log. The driver lends a buffer of `len` bytes to
    /// `Engine::fill_write(partition, write, buffer)` while it runs this effect, writes it at
    /// `position` and answers `WriteDone`.
    Write {
        /// Whose log.
        partition: PartitionId,
        /// Number of the write.
        write: u64,
        /// Which segment.
        segment: Index,
        /// First byte, a multiple of 4 KiB.
        position: u64,
        /// Bytes, a multiple of 4 KiB.
        len: u64,
        /// Durable before it is done. False only in periodic mode.
        sync: bool,
    },
    /// Read from the log; answered by `ReadDone`.
    Read {
        /// Whose log.
        partition: PartitionId,
        /// Number of the read.
        read: u64,
        /// Which segment.
        segment: Index,
        /// First byte, a multiple of 4 KiB.
        position: u64,
        /// Bytes, a multiple of 4 KiB; the file may end before.
        len: u64,
    },
    /// Run a job beside everything else; answered by `JobDone` or `JobGivenUp`. One at a time per
    /// partition.
    StartJob {
        /// Whose.
        partition: PartitionId,
        /// What to do.
        job: JobSpec,
    },
    /// Read from a run; answered by `ReadDone`.
    ReadRun {
        /// Whose run.
        partition: PartitionId,
        /// Number of the read.
        read: u64,
        /// Which run.
        run: RunNo,
        /// First byte, a multiple of 4 KiB.
        position: u64,
        /// Bytes, a multiple of 4 KiB.
        len: u64,
    },
    /// Remove the file of a run: nothing needs it any more.
    RemoveRun {
        /// Whose run.
        partition: PartitionId,
        /// Which run.
        run: RunNo,
    },
    /// Write a checkpoint to a file of its own, durably under its name at once or not at all, and
    /// then the directory; answered by `CheckpointSaved`. One at a time per partition.
    SaveCheckpoint {
        /// Whose.
        partition: PartitionId,
        /// Its number: its name.
        number: u64,
        /// The file.
        bytes: Vec<u8>,
    },
    /// Remove the file of a checkpoint.
    RemoveCheckpoint {
        /// Whose.
        partition: PartitionId,
        /// Which.
        number: u64,
    },
    /// What was written durably cannot be read. See to it that the next start reads the whole log:
    /// without the partition's checkpoints, or, where segments were removed, from a renewed one
    /// alone ([`renew`](super::renew)). Then end the process with this text.
    Condemn {
        /// Whose.
        partition: PartitionId,
        /// What cannot be read.
        text: String,
    },
    /// Make all bytes of a segment and its length durable; answered by `Synced`.
    Sync {
        /// Whose log.
        partition: PartitionId,
        /// Which segment.
        segment: Index,
    },
    /// Remove a segment file durably: a truncated suffix began before it.
    RemoveSegment {
        /// Whose log.
        partition: PartitionId,
        /// Which segment.
        segment: Index,
    },
    /// Make the hard state durable in the partition's slot file (two checksummed copies, written in
    /// turn); answered by `HardStateSaved`. One at a time per partition.
    SaveHardState {
        /// Which partition.
        partition: PartitionId,
        /// What to save.
        state: HardState,
    },
    /// The partition serves from now on.
    Recovered {
        /// Which partition, and what was found.
        report: RecoveryReport,
    },
}

/// What opening a partition found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Which partition.
    pub partition: PartitionId,
    /// Entries read.
    pub entries: u64,
    /// Events read.
    pub events: u64,
    /// Events that are not due yet.
    pub pending: u64,
    /// Bytes behind the last valid entry that were cut off.
    pub torn_bytes: u64,
    /// What is lost, if the log is damaged where it had been durable: the partition is read-only.
    pub rot: Option<String>,
}
