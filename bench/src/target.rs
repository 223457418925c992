//! The server as a load sees it: connections that publish template events over either transport.
//!
//! gRPC requests go through tonic's client with a codec that takes encoded bytes, so both
//! transports carry the same bytes and neither is charged for building messages.

use std::hash::{BuildHasher, RandomState};

use bytes::{Bytes, BytesMut};
use chronosdb::base::ids::ShardId;
use chronosdb::client::{ClientError, Connection, ConnectionOptions};
use chronosdb::wire::codec::RawCodec;
use chronosdb::wire::kind::FrameKind;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::args::{Load, PartitionKey, Transport};
use crate::received::{Counts, batch_counts, single_counts};
use crate::template::{EventMaker, Owned, Shape};

/// Requests in flight that no load reaches: loads bound themselves.
const UNBOUNDED: usize = chronosdb::base::limits::SESSION_IN_FLIGHT;

/// Where a run's events go.
#[derive(Clone, Debug)]
pub struct Run {
    /// Number that no other run has.
    pub number: u64,
    /// Topic of the run.
    pub topic: String,
}

impl Run {
    /// A new run.
    pub fn new(load: &Load) -> Self {
        // The standard library seeds these from the system's source of randomness.
        let number = RandomState::new().hash_one(std::process::id()) & 0xffff_ffff;
        let topic = load.topic.clone().unwrap_or_else(|| format!("bench-{number:08x}"));
        Self { number, topic }
    }
}

/// A connection to publish on.
#[derive(Clone, Debug)]
pub enum Publisher {
    /// To a shard.
    Native(Connection),
    /// To the bridge.
    Grpc(Grpc<Channel>),
}

/// Connects to the server, and for native connections in turn to each of its shards.
pub async fn publishers(load: &Load) -> Result<Vec<Publisher>, String> {
    match load.transport {
        Transport::Native => {
            let count = usize::from(load.connections);
            let connections = connect_shards(load.address(), count).await?;
            Ok(connections.into_iter().map(Publisher::Native).collect())
        }
        Transport::Grpc => {
            let mut publishers = Vec::new();
            for _ in 0..load.connections {
                publishers.push(Publisher::Grpc(Grpc::new(channel(load.address()).await?)));
            }
            Ok(publishers)
        }
    }
}

/// `count` connections, in turn to each shard. With fewer connections than shards, all of them to
/// the given address.
pub async fn connect_shards(addr: &str, count: usize) -> Result<Vec<Connection>, String> {
    let first = connect(addr).await?;
    let topology = first.topology().clone();
    let shards = usize::from(topology.shards());
    let mut connections = Vec::new();
    for number in 0..count {
        let shard = topology.address(ShardId((number % shards) as u16));
        let at = shard.filter(|_| count >= shards).map_or(addr, AsRef::as_ref);
        connections.push(connect(at).await?);
    }
    Ok(connections)
}

/// A connection to this address.
pub async fn connect(addr: &str) -> Result<Connection, String> {
    let options = ConnectionOptions {
        name: "chronosdb-bench".to_owned(),
        in_flight: UNBOUNDED,
        ..ConnectionOptions::default()
    };
    let connected = Connection::connect(addr, &options).await;
    connected.map_err(|error| chronosdb::cli::remote::explain(&error))
}

/// A gRPC channel of its own.
pub async fn channel(addr: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"));
    let endpoint = endpoint.map_err(|error| format!("{addr} is no address: {error}"))?;
    // The defaults hold back large batches until the peer has widened its windows.
    let endpoint = endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024);
    endpoint.connect().await.map_err(|error| {
        format!(
            "no gRPC server on {addr} ({error}); \
             start one with `chronosdb serve`, or name one with --addr"
        )
    })
}

impl Publisher {
    /// A maker of events for this connection. `lane` tells it from all others of the run.
    pub fn maker(&self, load: &Load, run: &Run, connection: usize, lane: usize) -> EventMaker {
        let prefix = format!("b-{:08x}-{connection:04x}{lane:04x}-", run.number);
        let owned = self.owned(load);
        let key = (load.partition_key == PartitionKey::Fixed)
            .then(|| fixed_key(owned.as_ref(), run, connection));
        let payload = load.payload as usize;
        EventMaker::new(&Shape { topic: run.topic.clone(), payload, prefix, key }, owned)
    }

    /// The partitions of the connection's shard, if it is to keep to them.
    fn owned(&self, load: &Load) -> Option<Owned> {
        let Self::Native(connection) = self else { return None };
        let topology = connection.topology();
        let few = load.connections < topology.shards();
        if few && load.partition_key == PartitionKey::Spread {
            return None;
        }
        let mut partitions = vec![false; usize::from(topology.partitions())];
        for partition in topology.owned_by(topology.shard) {
            partitions[usize::from(partition.0)] = true;
        }
        partitions.contains(&true).then_some(Owned { partitions })
    }

    /// Publishes the next `count` events of `maker` and waits for the answer.
    pub async fn publish(
        &mut self,
        maker: &mut EventMaker,
        count: u16,
        due: impl Fn(u16) -> u64,
    ) -> Result<Counts, String> {
        let Self::Native(connection) = self else {
            let body = maker.fill(count, due);
            return self.publish_body(count, body).await;
        };
        let bytes = usize::from(count) * maker.event_bytes();
        // Straight into the connection's output: the bytes are copied once.
        let fill = |out: &mut BytesMut| (0..count).for_each(|n| maker.put(due(n), out));
        let answer = async { connection.send(kind(count), bytes, fill).await?.await };
        let frame = answer.await.map_err(|error: ClientError| error.to_string())?;
        counts(count, frame.body)
    }

    /// Publishes `count` encoded events and waits for the answer.
    pub async fn publish_body(&mut self, count: u16, body: Bytes) -> Result<Counts, String> {
        let body = match self {
            Self::Native(connection) => {
                let answer = connection.call(kind(count), &body).await;
                answer.map_err(|error| error.to_string())?.body
            }
            Self::Grpc(grpc) => grpc_call(grpc, count, body).await?,
        };
        counts(count, body)
    }

    /// Whether it is of no more use.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Native(connection) => connection.is_closed(),
            // A channel connects again by itself.
            Self::Grpc(_) => false,
        }
    }
}

/// A key of the connection's own that leads to its shard.
fn fixed_key(owned: Option<&Owned>, run: &Run, connection: usize) -> String {
    let fits = |key: &String| {
        owned.is_none_or(|owned| {
            let count = owned.partitions.len() as u16;
            let partition = chronosdb::base::route::partition_of(key.as_bytes(), count);
            owned.partitions[usize::from(partition.0)]
        })
    };
    let candidate = |n: u32| format!("k-{:08x}-{connection:04x}-{n}", run.number);
    (0..u32::MAX).map(candidate).find(fits).unwrap_or_default()
}

fn kind(count: u16) -> FrameKind {
    if count == 1 { FrameKind::Publish } else { FrameKind::PublishBatch }
}

fn counts(count: u16, body: Bytes) -> Result<Counts, String> {
    if count == 1 { single_counts(body) } else { batch_counts(&body) }
}

async fn grpc_call(grpc: &mut Grpc<Channel>, count: u16, body: Bytes) -> Result<Bytes, String> {
    grpc.ready().await.map_err(|error| error.to_string())?;
    let path = PathAndQuery::from_static(match count {
        1 => "/cronos_db.EventService/Publish",
        _ => "/cronos_db.EventService/PublishBatch",
    });
    let answer = grpc.unary(tonic::Request::new(body), path, RawCodec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}
