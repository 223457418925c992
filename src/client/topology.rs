//! What a server tells in its handshake: partitions, shards, who owns what, and its limits.
//!
//! Checked once here; whoever reads a [`Topology`] may index by partition and shard.

use std::sync::Arc;

use super::error::ClientError;
use crate::base::ids::{PartitionId, ShardId};
use crate::base::limits;
use crate::base::route;
use crate::wire::frame::VERSION;
use crate::wire::native;

/// The server as its handshake describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Name of the node.
    pub node: String,
    /// Version of the server program.
    pub server_version: String,
    /// The shard that serves the connection the handshake was made on.
    pub shard: ShardId,
    /// `host:port` of each shard.
    shards: Vec<Arc<str>>,
    /// Owner of each partition, an index into `shards`.
    owners: Vec<ShardId>,
    /// Requests that one connection may have unanswered.
    pub in_flight: usize,
    /// Events of one batch.
    pub batch_events: usize,
    /// Verdicts of one ack batch.
    pub ack_batch: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
}

impl Topology {
    /// Checks a handshake's answer. `addr` is the `host:port` that was connected to: it lends its
    /// host to shard addresses without one.
    pub(super) fn from_hello(ack: native::HelloAck, addr: &str) -> Result<Self, ClientError> {
        let bad = |reason: String| Err(ClientError::handshake(addr, reason));
        if ack.version != u32::from(VERSION) {
            return bad(format!("it chose version {}, this client speaks {VERSION}", ack.version));
        }
        let partitions = ack.partitions as usize;
        if partitions == 0 || partitions > usize::from(u16::MAX) {
            return bad(format!("it claims {partitions} partitions"));
        }
        if ack.partition_shards.len() != partitions {
            let owners = ack.partition_shards.len();
            return bad(format!("it names owners of {owners} of {partitions} partitions"));
        }
        let count = ack.shards.len();
        if count == 0 || count > usize::from(u16::MAX) || ack.shard as usize >= count {
            return bad(format!("it claims {count} shards and serves on number {}", ack.shard));
        }
        if let Some(shard) = ack.partition_shards.iter().find(|shard| **shard as usize >= count) {
            return bad(format!("shard {shard} of {count} owns a partition"));
        }
        let given = ack.limits.unwrap_or_default();
        let limit = |given: u32, ours: usize| match given {
            0 => ours,
            given => (given as usize).min(ours),
        };
        Ok(Self {
            node: ack.node_id,
            server_version: ack.server_version,
            shard: ShardId(ack.shard as u16),
            shards: ack.shards.iter().map(|shard| resolve(&shard.address, addr)).collect(),
            owners: ack.partition_shards.iter().map(|shard| ShardId(*shard as u16)).collect(),
            in_flight: limit(given.in_flight, limits::SESSION_IN_FLIGHT),
            batch_events: limit(given.batch_events, limits::BATCH_EVENTS),
            ack_batch: limit(given.ack_batch, limits::ACK_BATCH),
            message_bytes: limit(given.message_bytes, limits::MESSAGE_BYTES),
        })
    }

    /// The same, seen from another shard.
    pub(super) fn at(mut self, shard: ShardId) -> Self {
        self.shard = shard;
        self
    }

    /// Number of partitions, at least 1.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.owners.len() as u16
    }

    /// Number of shards, at least 1.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// `host:port` of a shard; `None` for one that is not there.
    #[must_use]
    pub fn address(&self, shard: ShardId) -> Option<&Arc<str>> {
        self.shards.get(usize::from(shard.0))
    }

    /// The shard that owns a partition; the connection's own for a partition that is not there (the
    /// server refuses it then, with the reason).
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> ShardId {
        self.owners.get(usize::from(partition.0)).copied().unwrap_or(self.shard)
    }

    /// The partition of a routing key, see [`route::partition_of`].
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        route::partition_of(key, self.partitions())
    }

    /// The partitions that a shard owns, ascending.
    pub fn owned_by(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + '_ {
        let owned = self.owners.iter().enumerate().filter(move |(_, owner)| **owner == shard);
        owned.map(|(partition, _)| PartitionId(partition as u16))
    }
}

/// A shard's address; one without a host (`:7701`) is on the host that was connected to.
fn resolve(address: &str, connected: &str) -> Arc<str> {
    match (address.strip_prefix(':'), connected.rsplit_once(':')) {
        (Some(port), Some((host, _))) => format!("{host}:{port}").into(),
        _ => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(shards: &[&str], owners: &[u32]) -> native::HelloAck {
        let shards = shards.iter().map(|at| native::Shard { address: (*at).to_owned() }).collect();
        native::HelloAck {
            version: 1,
            partitions: owners.len() as u32,
            shards,
            partition_shards: owners.to_vec(),
            ..native::HelloAck::default()
        }
    }

    #[test]
    fn shards_without_a_host_are_where_we_connected_to() {
        let ack = hello(&[":7701", "10.0.0.1:7702"], &[0, 1, 0]);
        let topology = Topology::from_hello(ack, "[::1]:7700").expect("it is sound");
        assert_eq!(topology.address(ShardId(0)).map(AsRef::as_ref), Some("[::1]:7701"));
        assert_eq!(topology.address(ShardId(1)).map(AsRef::as_ref), Some("10.0.0.1:7702"));
        assert_eq!(topology.address(ShardId(2)), None);
        assert_eq!(topology.owner(PartitionId(1)), ShardId(1));
        let owned: Vec<_> = topology.owned_by(ShardId(0)).collect();
        assert_eq!(owned, [PartitionId(0), PartitionId(2)]);
        assert_eq!(topology.in_flight, limits::SESSION_IN_FLIGHT, "no limit given means ours");
    }

    #[test]
    fn an_unsound_handshake_is_refused() {
        let sound = hello(&[":1"], &[0]);
        let unsound = [
            native::HelloAck { version: 2, ..sound.clone() },
            native::HelloAck { partitions: 0, ..sound.clone() },
            native::HelloAck { partitions: 2, ..sound.clone() },
            native::HelloAck { partition_shards: vec![1], ..sound.clone() },
            native::HelloAck { shard: 1, ..sound.clone() },
            native::HelloAck { shards: Vec::new(), ..sound.clone() },
        ];
        for ack in unsound {
            let refused = Topology::from_hello(ack.clone(), "localhost:7700");
            assert!(matches!(refused, Err(ClientError::Handshake { .. })), "{ack:?}");
        }
    }
}
