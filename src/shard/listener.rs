//! Takes client connections: on the shard's own port and on the port all shards share.
//!
//! The kernel spreads connections of the shared port over the shards (SO_REUSEPORT); a client that
//! knows the shards connects to their own ports. Each shard takes its part of
//! [`ConnectionLimits`](crate::base::config::ConnectionLimits) and closes what is beyond. A sweep
//! closes connections whose peer has let a time limit pass.
//!
//! A flood of connections must not keep the shard from its work: the runtime takes one after the
//! other for as long as there are any, so a breath is drawn every few.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;

use super::clock::breathe;
use super::inbox::Inbox;
use super::peers::{AcceptRate, Peers};
use super::route::Route;
use super::session::Connection;
use super::stats::Counters;
use crate::base::config::{EngineConfig, NodeConfig};
use crate::base::ids::{PartitionId, SessionId, ShardId};
use crate::base::limits;
use crate::base::route::shard_of;
use crate::base::time::Now;
use crate::wire::frame::VERSION;
use crate::wire::native;
use crate::wire::request::Bounds;

/// What one read from a socket takes at most, bytes.
const SCRATCH: usize = 64 << 10;
/// Time between two sweeps, ms: how much later than its limit a connection may be closed.
const SWEEP_MS: u64 = 250;
/// Pause after the system refused to accept, ms: it has no descriptors or memory just now.
const ACCEPT_PAUSE_MS: u64 = 50;
/// Connections taken in one go; then others have their turn.
const BREATH_CONNECTIONS: u32 = 16;

/// What the connections of one shard share.
pub(super) struct Shared {
    pub(super) inbox: Rc<Inbox>,
    pub(super) route: Rc<Route>,
    pub(super) counters: Rc<Counters>,
    pub(super) bounds: Bounds,
    pub(super) node_id: String,
    /// The answer to each Hello.
    pub(super) hello_ack: Box<native::HelloAck>,
    /// Sockets are read into this and copied from here: small connections stay small.
    pub(super) scratch: RefCell<Vec<u8>>,
    pub(super) large_frames: LargeFrames,
    next_session: Cell<u64>,
    connections_max: usize,
    peers: Rc<RefCell<Peers>>,
    accept_rate: Cell<AcceptRate>,
}

/// A connection's place among those of its address; given back when dropped.
pub(super) struct Place {
    peers: Rc<RefCell<Peers>>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peers.borrow_mut().leave(self.ip);
    }
}

impl Shared {
    /// For the connections of a shard; `addresses` are the own ports of all shards.
    pub(super) fn new(
        shard: ShardId,
        config: &NodeConfig,
        addresses: &[SocketAddr],
        (inbox, route, counters): (Rc<Inbox>, Rc<Route>, Rc<Counters>),
    ) -> Rc<Self> {
        let NodeConfig { node_id, engine, connections, .. } = config;
        let limits = connections.share(engine.shards);
        Rc::new(Self {
            inbox,
            route,
            counters,
            bounds: Bounds { partitions: engine.partitions, max_credit: engine.max_credit },
            node_id: node_id.clone(),
            hello_ack: Box::new(hello_ack(shard, node_id, engine, addresses)),
            scratch: RefCell::new(vec![0; SCRATCH]),
            large_frames: LargeFrames::default(),
            next_session: Cell::new(1),
            connections_max: limits.total,
            peers: Rc::new(RefCell::new(Peers::new(limits.per_ip))),
            accept_rate: Cell::new(AcceptRate::new(limits.per_second)),
        })
    }

    /// Opens a connection that has come, if there is a place for it.
    pub(super) fn take(self: &Rc<Self>, stream: TcpStream) {
        let (Ok(peer), Ok(())) = (stream.peer_addr(), stream.set_nodelay(true)) else {
            // Gone between its coming and now.
            return;
        };
        let full = self.route.len() >= self.connections_max;
        if full || !self.peers.borrow_mut().enter(peer.ip()) {
            tracing::debug!(%peer, "refused: too many connections");
            self.counters.count(|c| c.connections_refused += 1);
            return;
        }
        let place = Place { peers: self.peers.clone(), ip: peer.ip() };
        let number = self.next_session.get();
        self.next_session.set(number + 1);
        Connection::open(SessionId(number), self, stream, place);
    }

    /// One more connection is taken; how long to wait before the next.
    fn pace(&self) -> Duration {
        let mut rate = self.accept_rate.get();
        let wait_us = rate.taken(Now::read().boot_us);
        self.accept_rate.set(rate);
        Duration::from_micros(wait_us)
    }
}

fn hello_ack(
    shard: ShardId,
    node_id: &str,
    engine: &EngineConfig,
    addresses: &[SocketAddr],
) -> native::HelloAck {
    let address = |address: &SocketAddr| {
        // Bound to all interfaces: the client knows by which of them it came.
        let any = address.ip().is_unspecified();
        let address = if any { format!(":{}", address.port()) } else { address.to_string() };
        native::Shard { address }
    };
    let owner = |partition| u32::from(shard_of(PartitionId(partition), engine.shards).0);
    native::HelloAck {
        version: u32::from(VERSION),
        node_id: node_id.to_owned(),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        partitions: u32::from(engine.partitions),
        shards: addresses.iter().map(address).collect(),
        partition_shards: (0..engine.partitions).map(owner).collect(),
        shard: u32::from(shard.0),
        limits: Some(native::Limits {
            message_bytes: limits::MESSAGE_BYTES as u32,
            payload_bytes: limits::PAYLOAD_BYTES as u32,
            batch_events: limits::BATCH_EVENTS as u32,
            ack_batch: limits::ACK_BATCH as u32,
            credit_max: engine.max_credit.min(limits::CREDIT_MAX),
            in_flight: limits::SESSION_IN_FLIGHT as u32,
            streams: limits::SESSION_STREAMS as u32,
        }),
    }
}

/// Takes connections for as long as it is polled.
pub(super) async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    let mut since_breath = 0;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                shared.take(stream);
                let pause = shared.pace();
                since_breath += 1;
                if !pause.is_zero() {
                    sleep(pause).await;
                } else if since_breath >= BREATH_CONNECTIONS {
                    since_breath = 0;
                    breathe().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Closes overdue connections for as long as it is polled.
pub(super) async fn sweep(shared: Rc<Shared>) {
    loop {
        sleep(Duration::from_millis(SWEEP_MS)).await;
        let now_ms = Now::read().boot_ms();
        for connection in shared.route.connections() {
            connection.inspect(now_ms);
        }
    }
}

/// Who may receive a frame larger than a connection's buffer: a bounded number at once.
#[derive(Default)]
pub(super) struct LargeFrames(Rc<Large>);

#[derive(Default)]
struct Large {
    used: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// The right to receive one large frame; ends when dropped.
pub(super) struct Permit(Rc<Large>);

impl LargeFrames {
    /// Waits for the right to receive one.
    pub(super) async fn acquire(&self) -> Permit {
        poll_fn(|cx| {
            let used = self.0.used.get();
            if used < limits::LARGE_FRAMES {
                self.0.used.set(used + 1);
                return Poll::Ready(());
            }
            self.0.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        Permit(self.0.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.set(self.0.used.get() - 1);
        self.0.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn large_frames_are_bounded() {
        let large = LargeFrames::default();
        let mut permits: Vec<_> =
            (0..limits::LARGE_FRAMES).map(|_| block_on(large.acquire())).collect();
        let mut next = Box::pin(large.acquire());
        assert!(block_on(poll_once(&mut next)).is_none());
        permits.pop();
        assert!(block_on(poll_once(&mut next)).is_some());
    }

    #[test]
    fn a_hello_tells_the_owners() {
        let engine = EngineConfig { partitions: 5, shards: 2, ..Default::default() };
        let addresses = ["127.0.0.1:7701", "0.0.0.0:7702"].map(|a| a.parse().expect("valid"));
        let ack = hello_ack(ShardId(1), "node", &engine, &addresses);
        let told: Vec<_> = ack.shards.iter().map(|s| s.address.as_str()).collect();
        assert_eq!(told, ["127.0.0.1:7701", ":7702"]);
        assert_eq!(ack.partition_shards, [0, 1, 0, 1, 0]);
        assert_eq!((ack.shard, ack.partitions), (1, 5));
    }
}
