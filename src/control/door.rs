//! The way from the control plane into the shards.
//!
//! [`Door`] is what control needs of a shard's gate, so that tests can stand in for shards.
//! [`Doors`] knows all of the node's and which one a request should go through: any will do, the
//! owner's spares a hop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::api::{PublishMessage, Reply, Request};
use crate::base::error::ApiError;
use crate::base::ids::PartitionId;
use crate::base::route::{partition_of, shard_of};
use crate::shard::{Cuts, Gate, GateStream, ShardStats, StreamMessage};

/// One shard, as control sees it.
pub trait Door: Clone + Send + Sync + 'static {
    /// What [`Door::open`] gives.
    type Stream: Messages;

    /// Asks for something that is answered once.
    fn call(&self, request: Request) -> impl Future<Output = Result<Reply, ApiError>> + Send;

    /// Opens a subscription or a replay; dropping the stream closes it.
    fn open(&self, request: Request)
    -> impl Future<Output = Result<Self::Stream, ApiError>> + Send;

    /// The shard's counters as they are now.
    fn stats(&self) -> impl Future<Output = Result<ShardStats, ApiError>> + Send;

    /// Where copies of the shard's partitions would end.
    fn cuts(&self) -> impl Future<Output = Result<Cuts, ApiError>> + Send;
}

/// A stream's messages.
pub trait Messages: Send + 'static {
    /// The next one; `None` behind the last.
    fn next(&mut self) -> impl Future<Output = Option<StreamMessage>> + Send;
}

impl Door for Gate {
    type Stream = GateStream;

    async fn call(&self, request: Request) -> Result<Reply, ApiError> {
        Self::call(self, request).await
    }

    async fn open(&self, request: Request) -> Result<GateStream, ApiError> {
        Self::open(self, request).await
    }

    async fn stats(&self) -> Result<ShardStats, ApiError> {
        Self::stats(self).await
    }

    async fn cuts(&self) -> Result<Cuts, ApiError> {
        Self::cuts(self).await
    }
}

impl Messages for GateStream {
    async fn next(&mut self) -> Option<StreamMessage> {
        Self::next(self).await
    }
}

/// All shards of the node.
#[derive(Clone, Debug)]
pub struct Doors<D> {
    shards: Arc<[D]>,
    partitions: u16,
    turn: Arc<AtomicUsize>,
}

impl<D: Door> Doors<D> {
    /// Shard i is behind the i-th door.
    ///
    /// # Panics
    /// If there is no shard or no partition.
    pub fn new(doors: Vec<D>, partitions: u16) -> Self {
        assert!(!doors.is_empty() && partitions > 0, "a node has shards and partitions");
        Self { shards: doors.into(), partitions, turn: Arc::default() }
    }

    /// Partitions of the node.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// Every shard, in order.
    pub fn all(&self) -> &[D] {
        &self.shards
    }

    /// The owner of a partition. One that does not exist has some door, which will say so.
    pub fn of(&self, partition: PartitionId) -> &D {
        &self.shards[usize::from(shard_of(partition, self.shards.len() as u16).0)]
    }

    /// The owner of the message's first event.
    pub fn of_message(&self, message: &PublishMessage) -> &D {
        match message.events.iter().find(|event| event.fault.is_none()) {
            Some(event) => {
                self.of(partition_of(event.routing_key(&message.bytes), self.partitions))
            }
            None => self.any(),
        }
    }

    /// One after the other.
    pub fn any(&self) -> &D {
        &self.shards[self.turn.fetch_add(1, Ordering::Relaxed) % self.shards.len()]
    }
}

/// Whether a message carries events, and until when they have to wait (Unix ms).
#[must_use]
pub fn not_before(message: &StreamMessage) -> Option<u64> {
    match message {
        StreamMessage::Deliveries { not_before, .. }
        | StreamMessage::Replayed { not_before, .. } => Some(*not_before),
        StreamMessage::Opened | StreamMessage::End(_) => None,
    }
}

#[cfg(test)]
pub(super) use fake::{FakeShard, stats_of};

/// A shard that tests play.
#[cfg(test)]
#[path = "fake_shard.rs"]
mod fake;
