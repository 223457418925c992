//! The control plane: everything that speaks gRPC or HTTP, on a small tokio runtime.
//!
//! It holds no state of events: each request goes through a [`Door`] into a shard and comes back as
//! bytes. What must hold: a listener is bound before anything is served, so that a port in use is a
//! clear error; and stopping ends every open stream, so that no client keeps the node alive.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub mod door;
pub mod grpc;
pub mod http;
pub mod metrics;

use crate::base::config::NodeConfig;
use crate::wire::request::Bounds;

pub use door::{Door, Doors};
pub use metrics::Metrics;

/// Time that open calls get to finish once the node stops.
const DRAIN: Duration = Duration::from_secs(10);

/// What both listeners share.
#[derive(Clone, Debug)]
pub struct Bridge<D> {
    /// The shards.
    pub doors: Doors<D>,
    /// The bridge's own figures.
    pub metrics: Metrics,
    /// Name of the node.
    pub node_id: Arc<str>,
    /// What requests are compared with.
    pub bounds: Bounds,
    /// Whether the node is stopping.
    stopping: watch::Receiver<bool>,
    started: Instant,
}

impl<D: Door> Bridge<D> {
    /// A bridge into the shards, and what stops it. `max_credit` bounds a subscription's credit.
    pub fn new(doors: Doors<D>, node_id: &str, max_credit: u32) -> (Self, watch::Sender<bool>) {
        let (stop, stopping) = watch::channel(false);
        let bridge = Self {
            bounds: Bounds { partitions: doors.partitions(), max_credit },
            doors,
            metrics: Metrics::default(),
            node_id: node_id.into(),
            stopping,
            started: Instant::now(),
        };
        (bridge, stop)
    }

    /// Whether the node is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns once the node stops.
    pub async fn stopped(&self) {
        // An error means that the sender is gone, which is a stop as well.
        let _stopped = self.stopping.clone().wait_for(|stopping| *stopping).await;
    }

    /// Since the control plane started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Why a listener can't be served. Displays as one sentence.
#[derive(Debug)]
pub struct ListenError {
    flag: &'static str,
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, address, error } = self;
        match error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "{address} is in use by another process; stop that one or give another {flag}"
            ),
            io::ErrorKind::PermissionDenied => {
                write!(f, "{address} may not be bound by this user; give a {flag} above port 1023")
            }
            _ => write!(f, "cannot listen on {address}: {error}; give another {flag}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// The listeners, bound: from here on a start can't fail for a port in use.
#[derive(Debug)]
pub struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
}

impl Listeners {
    /// Binds both.
    pub async fn bind(grpc: SocketAddr, http: SocketAddr) -> Result<Self, ListenError> {
        let bind = async |flag, address| {
            TcpListener::bind(address).await.map_err(|error| ListenError { flag, address, error })
        };
        Ok(Self { grpc: bind("--grpc-addr", grpc).await?, http: bind("--http-addr", http).await? })
    }
}

/// The control plane while it runs.
#[derive(Debug)]
pub struct Control {
    /// Where gRPC is served.
    pub grpc_addr: SocketAddr,
    /// Where HTTP is served.
    pub http_addr: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Control {
    /// Serves on the listeners until [`Control::stop`]. Runs inside a tokio runtime.
    ///
    /// # Panics
    /// If a bound listener does not know its address.
    pub fn start<D: Door>(listeners: Listeners, doors: Doors<D>, config: &NodeConfig) -> Self {
        let (bridge, stop) = Bridge::new(doors, &config.node_id, config.engine.max_credit);
        let reflection = config.reflection;
        let Listeners { grpc, http } = listeners;
        let grpc_addr = grpc.local_addr().expect("the listener is bound");
        let http_addr = http.local_addr().expect("the listener is bound");
        let tasks = vec![
            tokio::spawn(grpc::serve(grpc, bridge.clone(), reflection)),
            tokio::spawn(http::serve(http, bridge)),
        ];
        Self { grpc_addr, http_addr, stop, tasks }
    }

    /// Takes nothing new, ends open streams, and gives calls under way some time.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let deadline = tokio::time::Instant::now() + DRAIN;
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::warn!("calls still open after {} s are cut off", DRAIN.as_secs());
                abort.abort();
            }
        }
    }
}
