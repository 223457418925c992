//! The composition root: data directory, shards and control plane of one server process.
//!
//! Start: listeners of the control plane, then the shards (they recover), then gRPC. Stop, on
//! SIGTERM or Ctrl-C: the control plane ends its streams and finishes its calls, then the shards
//! drain. A second signal cuts that short; what was acknowledged is on the disk either way.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::base::config::NodeConfig;
use crate::control::{Control, Doors, ListenError};
use crate::shard::{self, BootError, Shards};

/// Time that shards get to finish what is open.
const DRAIN: Duration = Duration::from_secs(10);
/// Threads of the control plane. The cores belong to the shards.
const CONTROL_THREADS: usize = 2;

/// What a node tells at its start. Displays as the lines that `chronosdb serve` prints.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Name of the node.
    pub node_id: String,
    /// gRPC listener.
    pub grpc: SocketAddr,
    /// HTTP listener.
    pub http: SocketAddr,
    /// Native port that all shards share.
    pub native: SocketAddr,
    /// Native port of each shard, in order.
    pub native_shards: Vec<SocketAddr>,
    /// Cores of the machine.
    pub cores: usize,
    /// Partitions of the data directory.
    pub partitions: u16,
    /// Where the data is.
    pub data_dir: PathBuf,
    /// Events found in the logs.
    pub recovered_events: u64,
    /// Those of them that are not due yet.
    pub pending_events: u64,
    /// Partitions that can only be read, and what is lost of them.
    pub damaged: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_id, grpc, http, native, cores, partitions, .. } = self;
        let shards = self.native_shards.len();
        writeln!(f, "ChronosDB {} node {node_id}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  gRPC        {grpc}")?;
        writeln!(f, "  HTTP        http://{http}")?;
        let own: Vec<_> = self.native_shards.iter().map(|a| a.port().to_string()).collect();
        writeln!(f, "  native      {native} (shards: {})", own.join(", "))?;
        writeln!(f, "  shards      {shards} on {cores} cores")?;
        writeln!(f, "  partitions  {partitions}")?;
        writeln!(f, "  data        {}", self.data_dir.display())?;
        let (events, pending) = (self.recovered_events, self.pending_events);
        write!(f, "  recovered   {events} events, {pending} not due yet")?;
        self.damaged.iter().try_for_each(|what| write!(f, "\n  DAMAGED     {what}"))
    }
}

/// Why a node does not run. Displays as one sentence that says what to do.
#[derive(Debug)]
pub enum NodeError {
    /// A thread pool or a signal handler can't be had.
    System(std::io::Error),
    /// A listener of the control plane.
    Listen(ListenError),
    /// The data directory or the shards.
    Boot(BootError),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => write!(
                f,
                "the system refuses threads or signal handlers: {error}; check the limits of this \
                 process"
            ),
            Self::Listen(error) => error.fmt(f),
            Self::Boot(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NodeError {}

/// Runs a node until SIGTERM or Ctrl-C, and ends it in order. `started` is told once it serves.
/// Blocks meanwhile.
pub fn run(config: NodeConfig, started: impl FnOnce(&Summary)) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(NodeError::System)?;
    let ran = runtime.block_on(serve(&runtime, config, started));
    // Nothing in it is worth waiting for: what had to finish has.
    runtime.shutdown_background();
    ran
}

async fn serve(
    runtime: &Runtime,
    config: NodeConfig,
    started: impl FnOnce(&Summary),
) -> Result<(), NodeError> {
    let mut signals = Signals::new().map_err(NodeError::System)?;
    let mut control = Control::start(&config).await.map_err(NodeError::Listen)?;
    let boot = {
        let config = config.clone();
        runtime.spawn_blocking(|| shard::start(config))
    };
    let shards = tokio::select! {
        booted = boot => booted.expect("a panic ends the process").map_err(NodeError::Boot)?,
        () = signals.next() => {
            tracing::info!("stopped by a signal while partitions were being recovered");
            return Ok(());
        }
    };
    control.serve(Doors::new(shards.gates.clone(), config.engine.partitions), &config);
    let summary = summary(&config, &control, &shards);
    // In the log too: standard output has no place for it if the log is for machines.
    for what in &summary.damaged {
        let dir = summary.data_dir.display();
        tracing::error!("{what} (`chronosdb log verify {dir}` on the stopped node says more)");
    }
    started(&summary);

    signals.next().await;
    tracing::info!("shutting down");
    let limit = tokio::select! {
        () = control.stop() => DRAIN,
        () = signals.next() => Duration::ZERO,
    };
    let drained = runtime.spawn_blocking(move || shards.shutdown(limit));
    tokio::select! {
        drained = drained => match drained {
            Ok(true) => tracing::info!("stopped"),
            Ok(false) => tracing::warn!("stopped with requests unanswered"),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        },
        () = signals.next() => tracing::warn!("stopped at once by a further signal"),
    }
    Ok(())
}

fn summary<D>(config: &NodeConfig, control: &Control<D>, shards: &Shards) -> Summary {
    let damaged = shards.reports.iter().filter_map(|report| {
        let rot = report.rot.as_ref()?;
        Some(format!("partition {} can only be read: {rot}", report.partition))
    });
    Summary {
        node_id: config.node_id.clone(),
        grpc: control.grpc_addr,
        http: control.http_addr,
        native: shards.native_addr,
        native_shards: shards.shard_addrs.clone(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        partitions: config.engine.partitions,
        data_dir: config.data_dir.clone(),
        recovered_events: shards.reports.iter().map(|report| report.events).sum(),
        pending_events: shards.reports.iter().map(|report| report.pending).sum(),
        damaged: damaged.collect(),
    }
}

/// The signals that end a node. Caught from the first moment, so that none kills it midway.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::{ConnectionLimits, EngineConfig};

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn config(data_dir: PathBuf) -> NodeConfig {
        NodeConfig {
            node_id: "n1".into(),
            data_dir,
            grpc_addr: any_port(),
            http_addr: any_port(),
            native_addr: any_port(),
            allow_buffered_io: true,
            reflection: true,
            connections: ConnectionLimits::default(),
            engine: EngineConfig { partitions: 2, shards: 1, ..EngineConfig::default() },
        }
    }

    fn refused(config: NodeConfig) -> String {
        let why = run(config, |_| panic!("it must not start")).expect_err("refused").to_string();
        assert!(!why.contains('\n'), "{why:?} is not one sentence");
        why
    }

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let data = tempfile::tempdir().expect("a directory");
        let taken = std::net::TcpListener::bind(any_port()).expect("a free port");
        let address = taken.local_addr().expect("bound");
        let grpc = NodeConfig { grpc_addr: address, ..config(data.path().into()) };
        let why = refused(grpc);
        assert!(why.contains(&address.to_string()) && why.contains("--grpc-addr"), "{why}");
        let http = NodeConfig { http_addr: address, ..config(data.path().into()) };
        let why = refused(http);
        assert!(why.contains(&address.to_string()) && why.contains("--http-addr"), "{why}");
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let why = refused(config(file.path().into()));
        assert!(why.contains(&file.path().display().to_string()), "{why}");
    }

    #[test]
    fn the_summary_says_all_that_listens() {
        let summary = Summary {
            node_id: "n1".into(),
            grpc: SocketAddr::from(([127, 0, 0, 1], 9000)),
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            native: SocketAddr::from(([127, 0, 0, 1], 7700)),
            native_shards: [7701, 7702].map(|port| ([127, 0, 0, 1], port).into()).into(),
            cores: 2,
            partitions: 16,
            data_dir: "./data".into(),
            recovered_events: 5,
            pending_events: 3,
            damaged: vec!["partition 3 can only be read: rot".into()],
        };
        let text = summary.to_string();
        for part in [
            "127.0.0.1:9000",
            "http://127.0.0.1:8080",
            "127.0.0.1:7700 (shards: 7701, 7702)",
            "2 on 2 cores",
            "partitions  16",
            "./data",
            "5 events, 3 not due yet",
            "partition 3 can only be read",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
