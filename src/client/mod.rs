//! The native client: publish, subscribe, acknowledge, replay, over tokio.
//!
//! Knows which shard owns which partition, and talks to the owners directly. Connections are made
//! when they are needed and made again when they are lost; requests are pipelined and bounded, so
//! a caller that is faster than the server waits. What was in flight when a connection was lost
//! fails with [`ClientError::Unknown`], because nobody can tell; subscriptions go on by themselves.
//!
//! ```no_run
//! use chronosdb::client::{Client, Event, SubscribeOptions};
//!
//! # async fn example() -> Result<(), chronosdb::client::ClientError> {
//! let client = Client::connect("127.0.0.1:7700").await?;
//! let placed = client.publish(Event::new("orders", "order-1", "hello").after_ms(5_000)).await?;
//! println!("durable at offset {} of partition {}", placed.offset, placed.partition);
//!
//! let mut orders = client.subscribe(SubscribeOptions::new("orders", "billing")).await?;
//! while let Some(delivery) = orders.next().await {
//!     let delivery = delivery?;
//!     println!("{:?}", delivery.event.payload);
//!     orders.ack(&delivery).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Delivery is at least once: an event comes again if its ack was not confirmed in time.
//! [`Connection`] is the layer below, for load generators: one socket, no routing, no retries.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::time::timeout;

use crate::base::ids::{PartitionId, ShardId};
use crate::wire::events::ListPartitionsResponse;
use crate::wire::frame::Frame;
use crate::wire::kind::FrameKind;
use crate::wire::native;

pub mod ack;
pub mod connection;
mod driver;
pub mod error;
pub mod event;
mod inflight;
mod link;
pub mod publish;
pub mod replay;
pub mod subscription;
pub mod topology;

pub use ack::AckSummary;
pub use connection::{Answer, Connection, ConnectionOptions, FrameStream};
pub use error::ClientError;
pub use event::Published;
pub use publish::PublishOptions;
pub use replay::{ReplayOptions, ReplayStream, Replayed};
pub use subscription::{Delivery, SubscribeOptions, Subscription};
pub use topology::Topology;

pub use crate::base::api::{ReplayRange, Start};
pub use crate::wire::events::{Event, PartitionInfo};

#[cfg(test)]
mod client_test;
#[cfg(test)]
mod fake_server;
#[cfg(test)]
mod stream_test;

use ack::AckQueue;
use link::{Known, Link};

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Settings of each of its connections.
    pub connection: ConnectionOptions,
    /// Time for the answer to a request. One that takes longer fails as `Unknown`.
    pub request_timeout: Duration,
    /// How long a request waits for a lost connection to come back before it fails; attempts are
    /// repeated with backoff. The first connection of all is tried once.
    pub reconnect_within: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connection: ConnectionOptions::default(),
            request_timeout: Duration::from_secs(30),
            reconnect_within: Duration::from_secs(10),
        }
    }
}

/// A client of one node. Clones share its connections, which close with the last of them.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ClientOptions,
    /// `host:port` that the client was given.
    addr: Arc<str>,
    home: Arc<Link>,
    known: Arc<Known>,
    /// Links to other shards, by address.
    links: Mutex<HashMap<Arc<str>, Arc<Link>>>,
    /// Ack queues by the address of their link, `addr` for the home link.
    acks: Mutex<HashMap<Arc<str>, AckQueue>>,
    /// Spreads over the shards what could go to any of them.
    turn: AtomicUsize,
}

impl Client {
    /// Connects to a node by any of its native addresses (`host:port`, by default port 7700).
    pub async fn connect(addr: &str) -> Result<Self, ClientError> {
        Self::connect_with(addr, ClientOptions::default()).await
    }

    /// Connects with settings of one's own.
    pub async fn connect_with(addr: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let (addr, known): (Arc<str>, _) = (addr.into(), Arc::new(Known::default()));
        let home = Link::new(
            vec![addr.clone()],
            true,
            Arc::clone(&known),
            options.connection.clone(),
            options.reconnect_within,
        );
        home.connect().await?;
        let (links, acks, turn) = (Mutex::default(), Mutex::default(), AtomicUsize::new(0));
        let inner = Inner { options, addr, home: Arc::new(home), known, links, acks, turn };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the server told about itself in the latest handshake.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        // `connect` hands out no client before the first handshake.
        self.inner.known.topology().expect("a client has shaken hands")
    }

    /// State of all partitions, sorted by id.
    pub async fn partitions(&self) -> Result<Vec<PartitionInfo>, ClientError> {
        let asked = native::Partitions { partition: None };
        let request = self.request(&self.inner.home, FrameKind::Partitions, asked.encoded_len());
        let answer = request.call(|out| asked.encode_raw(out)).await?;
        let body = expect(answer, FrameKind::PartitionList)?;
        let list = ListPartitionsResponse::decode(body).map_err(ClientError::answer)?;
        Ok(list.partitions)
    }

    /// Asks the server for a sign of life; returns how long it took.
    pub async fn ping(&self) -> Result<Duration, ClientError> {
        let start = Instant::now();
        let answer = self.request(&self.inner.home, FrameKind::Ping, 0).call(|_out| {}).await?;
        expect(answer, FrameKind::Pong)?;
        Ok(start.elapsed())
    }

    /// The way to a shard.
    fn link(&self, shard: ShardId) -> Arc<Link> {
        let (inner, topology) = (&self.inner, self.topology());
        let Some(addr) = topology.address(shard).filter(|_| shard != topology.shard) else {
            return Arc::clone(&inner.home);
        };
        let mut links = inner.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(addr.clone()).or_insert_with(|| Arc::new(self.new_link(addr)));
        Arc::clone(link)
    }

    /// A link to `addr`, with the given address as a second choice: any shard takes any request.
    fn new_link(&self, addr: &Arc<str>) -> Link {
        let inner = &self.inner;
        let mut addrs = vec![addr.clone(), inner.addr.clone()];
        addrs.dedup();
        Link::new(
            addrs,
            false,
            Arc::clone(&inner.known),
            inner.options.connection.clone(),
            inner.options.reconnect_within,
        )
    }

    /// The shard for a stream over `partitions` (none: all): their owner, or if they have several,
    /// one after the other.
    fn shard_for(&self, partitions: &[PartitionId]) -> ShardId {
        let topology = self.topology();
        let mut owners = partitions.iter().map(|partition| topology.owner(*partition));
        match owners.next() {
            Some(first) if owners.all(|owner| owner == first) => first,
            _ => {
                let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
                ShardId((turn % usize::from(topology.shards())) as u16)
            }
        }
    }

    fn request<'a>(&self, link: &'a Link, kind: FrameKind, bytes: usize) -> Request<'a> {
        Request { link, kind, bytes, timeout: self.inner.options.request_timeout }
    }
}

/// A request on its way to an answer.
struct Request<'a> {
    link: &'a Link,
    kind: FrameKind,
    bytes: usize,
    timeout: Duration,
}

impl Request<'_> {
    /// Times that a request is put on a new connection because the old one took none of it.
    const SENDS: u32 = 3;

    /// Sends it and waits for the answer. Sent again only if it certainly was not sent before.
    async fn call(self, encode: impl Fn(&mut BytesMut)) -> Result<Frame, ClientError> {
        let mut sends = 0;
        loop {
            sends += 1;
            let connection = self.link.connection().await?;
            match self.call_once(&connection, &encode).await {
                // One that is still open had no room in all that time: no other would have.
                Err(ClientError::NotSent(_)) if connection.is_closed() && sends < Self::SENDS => {}
                answered => return answered,
            }
        }
    }

    async fn call_once(
        &self,
        connection: &Connection,
        encode: impl Fn(&mut BytesMut),
    ) -> Result<Frame, ClientError> {
        let ms = self.timeout.as_millis();
        let sending = timeout(self.timeout, connection.send(self.kind, self.bytes, encode));
        let answer = sending.await.unwrap_or_else(|_elapsed| {
            let reason = format!("earlier requests are unanswered for {ms} ms");
            Err(ClientError::NotSent(reason.into()))
        })?;
        let no_answer =
            |_elapsed| Err(ClientError::unknown(format_args!("no answer within {ms} ms")));
        timeout(self.timeout, answer).await.unwrap_or_else(no_answer)
    }
}

/// The body of an answer that has to be of this kind.
fn expect(frame: Frame, kind: FrameKind) -> Result<Bytes, ClientError> {
    if frame.kind == kind {
        return Ok(frame.body);
    }
    Err(ClientError::answer(format_args!("{:?} in place of {kind:?}", frame.kind)))
}
