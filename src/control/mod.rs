//! The control plane: everything that speaks gRPC or HTTP, on a small tokio runtime.
//!
//! It holds no state of events: each request goes through a [`Door`] into a shard and comes back as
//! bytes. What must hold: both listeners are bound before the shards start, so that a port in use
//! is found at once; HTTP answers (not ready) while they recover; and stopping ends every open
//! stream, so that no client keeps the node alive.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod accept;
pub mod backup;
pub mod door;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod topics;

use crate::base::config::{ConnectionLimits, NodeConfig};
use crate::base::limits;
use crate::wire::request::Bounds;

use accept::{Entrance, Protocol};
pub use door::{Door, Doors};
pub use metrics::Metrics;

/// Time that open calls get to finish once the node stops.
const DRAIN: Duration = Duration::from_secs(10);

/// What the services share.
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
    /// Where the data is.
    pub data_dir: PathBuf,
    stopping: watch::Receiver<bool>,
}

impl<D: Door> Bridge<D> {
    /// Into these shards, until `stopping`. `max_credit` bounds a subscription's credit.
    pub fn new(
        doors: Doors<D>,
        node_id: &str,
        max_credit: u32,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            bounds: Bounds { partitions: doors.partitions(), max_credit },
            doors,
            metrics: Metrics::default(),
            node_id: node_id.into(),
            data_dir: PathBuf::new(),
            stopping,
        }
    }

    /// Whether the node is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns once the node stops.
    pub async fn stopped(&self) {
        stopped(self.stopping.clone()).await;
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _stopped = stopping.wait_for(|stopping| *stopping).await;
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

/// The control plane while it runs.
#[derive(Debug)]
pub struct Control<D> {
    /// Where gRPC is served.
    pub grpc_addr: SocketAddr,
    /// Where HTTP is served.
    pub http_addr: SocketAddr,
    grpc: Option<Entrance>,
    metrics: Metrics,
    bridge: Arc<OnceLock<Bridge<D>>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl<D: Door> Control<D> {
    /// Binds both listeners and serves HTTP, which says that the node is not ready. gRPC calls wait
    /// for [`Control::serve`]. Runs inside a tokio runtime.
    pub async fn start(config: &NodeConfig) -> Result<Self, ListenError> {
        let (grpc, grpc_addr) = bind("--grpc-addr", config.grpc_addr).await?;
        let (http, http_addr) = bind("--http-addr", config.http_addr).await?;
        let metrics = Metrics::default();
        let few = ConnectionLimits { total: limits::HTTP_CONNECTIONS, ..config.connections };
        let http = Entrance::new(http, Protocol::Http, few, metrics.refused("http"));
        let refused = metrics.refused("grpc");
        let grpc = Entrance::new(grpc, Protocol::Grpc, config.connections, refused);
        let (stop, stopping) = watch::channel(false);
        let bridge = Arc::default();
        let front = http::Front::new(&config.node_id, metrics.clone(), Arc::clone(&bridge));
        let tasks = vec![tokio::spawn(http::serve(http, front, stopped(stopping)))];
        Ok(Self { grpc_addr, http_addr, grpc: Some(grpc), metrics, bridge, stop, tasks })
    }

    /// The shards are there: serves gRPC as well, until [`Control::stop`].
    ///
    /// # Panics
    /// If it is called twice.
    pub fn serve(&mut self, doors: Doors<D>, config: &NodeConfig) {
        let entrance = self.grpc.take().expect("served once");
        let max_credit = config.engine.max_credit;
        let mut bridge = Bridge::new(doors, &config.node_id, max_credit, self.stop.subscribe());
        bridge.metrics = self.metrics.clone();
        bridge.data_dir.clone_from(&config.data_dir);
        assert!(self.bridge.set(bridge.clone()).is_ok(), "served once");
        self.tasks.push(tokio::spawn(grpc::serve(entrance, bridge, config.reflection)));
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

async fn bind(
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error| ListenError { flag, address, error })
}
