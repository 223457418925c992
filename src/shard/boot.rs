//! Starts the shards of a node, all or none, and ends them.
//!
//! A start goes in steps that every shard must have done before any takes the next: executors and
//! listeners (`Bound`), partitions mounted and recovered (`Recovered`), connections taken. If one
//! fails, all end and the caller gets one sentence that says what to do. Orders go to the shards by
//! their gates, what they reached comes back by one channel.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use glommio::net::TcpListener;
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::checkpoints;
use super::clock::pulse;
use super::directory::{Directory, DirectoryError, io_error};
use super::disk::Disk;
use super::gate::{Desk, Door, Gate, Order, gate};
use super::inbox::Inbox;
use super::introducer::introduce;
use super::listener::{Shared, accept, sweep};
use super::mesh::{self, Connecting, Mesh};
use super::mount::{Mounted, mount};
use super::ports::Ports;
use super::pump::{Milestone, Orders, Pump, World};
use super::route::Route;
use super::space::{self, Reserve, Space};
use super::stats::Counters;
use crate::base::config::{EngineConfig, NodeConfig};
use crate::base::ids::{PartitionId, ShardId};
use crate::base::route::shard_of;
use crate::engine::checkpoint::Found;
use crate::engine::log::Ids;
use crate::engine::{Engine, RecoveryReport};

/// Memory an executor registers for direct I/O at most, bytes.
const IO_MEMORY_MAX: u64 = 1 << 20;
/// Kernel memory of an executor's rings, bytes; locked like the rest.
const RING_MEMORY: u64 = 64 << 10;

/// Why the shards can't start. Displays as one sentence that says what to do.
#[derive(Debug)]
pub enum BootError {
    /// The data directory can't be served.
    Directory(DirectoryError),
    /// An address can't be listened on.
    Port {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        error: String,
    },
    /// io_uring is missing or forbidden.
    IoUring {
        /// What the runtime says.
        error: String,
    },
    /// The limit on locked memory is too low for so many shards.
    LockedMemory {
        /// The limit, bytes.
        limit: u64,
        /// The shards.
        shards: u16,
    },
    /// Anything else that an executor needs and does not get.
    Executor {
        /// What the runtime says.
        error: String,
    },
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(error) => error.fmt(f),
            Self::Port { address, error } => write!(
                f,
                "cannot listen on {address}: {error}; stop what uses the port, or give another \
                 --native-addr"
            ),
            Self::IoUring { error } => write!(
                f,
                "io_uring cannot be used ({error}); use Linux 5.15 or newer, set the sysctl \
                 kernel.io_uring_disabled to 0, and in a container allow io_uring_setup, \
                 io_uring_enter and io_uring_register in its seccomp profile"
            ),
            Self::LockedMemory { limit, shards } => write!(
                f,
                "the limit of {} KiB on locked memory is too low for {shards} shards; raise it \
                 (ulimit -l, or LimitMEMLOCK= of the systemd unit) to {} KiB, or start with fewer \
                 --shards",
                limit >> 10,
                (u64::from(*shards) * 1024).max(1024),
            ),
            Self::Executor { error } => write!(
                f,
                "cannot start the shards: {error}; check the limits of this process, or start \
                 with fewer --shards"
            ),
        }
    }
}

impl std::error::Error for BootError {}

impl From<DirectoryError> for BootError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}

/// The running shards of a node.
#[derive(Debug)]
pub struct Shards {
    /// The way into each shard, in order.
    pub gates: Vec<Gate>,
    /// The native port that all shards share.
    pub native_addr: SocketAddr,
    /// The native port of each shard, in order.
    pub shard_addrs: Vec<SocketAddr>,
    /// What opening the partitions found, by partition.
    pub reports: Vec<RecoveryReport>,
    /// Random number of the data directory.
    pub cluster: u64,
    threads: Vec<JoinHandle<()>>,
    progress: mpsc::Receiver<Progress>,
    // Dropped last: the directory stays locked until all threads have ended.
    directory: Directory,
}

/// What a shard tells the boot.
enum Progress {
    Bound(ShardId, SocketAddr),
    Reached(Milestone),
    Failed(BootError),
}

/// What a shard's thread starts with.
struct Seed {
    shard: ShardId,
    config: NodeConfig,
    direct_io: bool,
    reserve: Reserve,
    partitions: Vec<(Mounted, Found)>,
    receivers: mesh::Receivers,
    door: Door,
    shared_addr: SocketAddr,
    own_addr: SocketAddr,
    progress: mpsc::Sender<Progress>,
}

/// Starts the shards and returns when all of them serve, or none runs.
///
/// `cluster` and `dedup_key` of the configuration are taken from the data directory. Blocks for as
/// long as recovery takes.
pub fn start(mut config: NodeConfig) -> Result<Shards, BootError> {
    let shards = config.engine.shards;
    assert!(shards > 0 && config.engine.partitions > 0, "the configuration is checked");
    raise_descriptor_limit();
    let directory =
        Directory::open(&config.data_dir, config.engine.partitions, config.allow_buffered_io)?;
    config.data_dir.clone_from(&directory.path);
    config.engine.cluster = directory.cluster;
    config.engine.dedup_key = directory.dedup_key;
    let mut partitions = mount_all(&directory, &config.engine)?;
    let reserve = reserve(&directory, &mut config.engine)?;
    let ports = Ports::reserve(config.native_addr, shards)
        .map_err(|(address, error)| BootError::Port { address, error: error.to_string() })?;
    let (sender, progress) = mpsc::channel();
    let placements = placements(shards);
    let mut node = Shards {
        gates: Vec::new(),
        native_addr: ports.shared,
        shard_addrs: Vec::new(),
        reports: Vec::new(),
        cluster: directory.cluster,
        threads: Vec::new(),
        progress,
        directory,
    };
    let (senders, receivers) = mesh::all_ends(shards);
    for (receivers, placement) in receivers.into_iter().zip(placements) {
        let shard = ShardId(node.gates.len() as u16);
        let (gate, door) = gate(shard);
        let seed = Seed {
            shard,
            config: config.clone(),
            direct_io: node.directory.direct_io,
            reserve: reserve.clone(),
            partitions: std::mem::take(&mut partitions[usize::from(shard.0)]),
            receivers,
            door,
            shared_addr: ports.shared,
            own_addr: ports.own[usize::from(shard.0)],
            progress: sender.clone(),
        };
        node.gates.push(gate);
        node.threads.push(spawn(seed, placement)?);
    }
    drop(sender);
    node.bring_up(senders)?;
    Ok(node)
}

impl Shards {
    fn bring_up(&mut self, senders: Vec<mesh::Unconnected>) -> Result<(), BootError> {
        let mut bound: Vec<Option<SocketAddr>> = vec![None; self.gates.len()];
        while bound.contains(&None) {
            if let Progress::Bound(shard, address) = self.next_progress()? {
                bound[usize::from(shard.0)] = Some(address);
            }
        }
        self.shard_addrs = bound.into_iter().flatten().collect();
        // Until all have recovered: by then they have connected.
        let (senders, _connected) = introduce(senders)?;
        for (gate, senders) in self.gates.iter().zip(senders) {
            gate.order(Order::Mount(self.shard_addrs.clone(), senders));
        }
        for _ in 0..self.gates.len() {
            if let Progress::Reached(Milestone::Recovered(reports)) = self.next_progress()? {
                self.reports.extend(reports);
            }
        }
        self.reports.sort_by_key(|report| report.partition);
        self.order(|| Order::Serve);
        Ok(())
    }

    fn next_progress(&mut self) -> Result<Progress, BootError> {
        let ended = || BootError::Executor { error: "a shard ended by itself".into() };
        match self.progress.recv().map_err(|_| ended())? {
            Progress::Failed(error) => {
                self.end();
                Err(error)
            }
            progress => Ok(progress),
        }
    }

    fn order(&self, order: impl Fn() -> Order) {
        self.gates.iter().for_each(|gate| gate.order(order()));
    }

    /// Takes no new request, finishes what is open for at most `limit`, and ends the shards.
    /// Returns whether everything was finished. Blocks meanwhile.
    pub fn shutdown(mut self, limit: Duration) -> bool {
        self.order(|| Order::Drain);
        let end = Instant::now() + limit;
        let mut left = self.gates.len();
        while left > 0 {
            let wait = end.saturating_duration_since(Instant::now());
            match self.progress.recv_timeout(wait) {
                Ok(Progress::Reached(Milestone::Drained)) => left -= 1,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.end();
        left == 0
    }

    fn end(&mut self) {
        self.order(|| Order::Stop);
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            assert!(thread.join().is_ok(), "{name} ends without a panic");
        }
    }
}

impl Drop for Shards {
    /// Ends the shards without finishing what is open, unless [`Shards::shutdown`] did.
    fn drop(&mut self) {
        self.end();
    }
}

fn mount_all(
    directory: &Directory,
    engine: &EngineConfig,
) -> Result<Vec<Vec<(Mounted, Found)>>, DirectoryError> {
    let mut by_shard = vec![Vec::new(); usize::from(engine.shards)];
    for partition in (0..engine.partitions).map(PartitionId) {
        let shard = shard_of(partition, engine.shards);
        let mounted = mount(&directory.path, partition)?;
        let ids = Ids { cluster: directory.cluster, partition };
        let log_start = mounted.hard_state.unwrap_or_default().log_start;
        let found = checkpoints::find(&directory.path, ids, (&mounted.segments, log_start))?;
        by_shard[usize::from(shard.0)].push((mounted, found));
    }
    Ok(by_shard)
}

/// The reserve that this disk can have.
fn reserve(directory: &Directory, engine: &mut EngineConfig) -> Result<Reserve, DirectoryError> {
    let data = &directory.path;
    let bytes = space::reserve_bytes(data, engine.disk_reserve_bytes);
    engine.disk_reserve_bytes = bytes.map_err(io_error("look at the space of", data))?;
    let reserve = Reserve::new(data, engine.disk_reserve_bytes);
    reserve.make_at_start(data).map_err(io_error("look at the space of", data))?;
    Ok(reserve)
}

/// A core each while there are enough, else wherever there is room.
fn placements(shards: u16) -> Vec<Placement> {
    let allowed = rustix::thread::sched_getaffinity(None).ok();
    let cores: Vec<_> = allowed
        .map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
        .unwrap_or_default();
    let shards = usize::from(shards);
    if cores.len() < shards {
        return vec![Placement::Unbound; shards];
    }
    cores.into_iter().take(shards).map(Placement::Fixed).collect()
}

/// Memory that each executor registers, so that all of them stay below the limit.
fn io_memory(memlock: Option<u64>, shards: u16) -> u64 {
    let share = memlock.map_or(u64::MAX, |limit| limit / (3 * u64::from(shards)));
    share.saturating_sub(RING_MEMORY).min(IO_MEMORY_MAX)
}

/// Segment files and sockets need more descriptors than a login shell grants by default.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

fn spawn(seed: Seed, placement: Placement) -> Result<JoinHandle<()>, BootError> {
    let name = format!("shard-{}", seed.shard);
    let run = move || {
        let _whole = EndsWithAPanic;
        let memlock = getrlimit(Resource::Memlock).current;
        let shards = seed.config.engine.shards;
        let executor = LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{}", seed.shard))
            .io_memory(io_memory(memlock, shards) as usize)
            .make();
        match executor {
            Ok(executor) => executor.run(shard(seed)),
            Err(error) => {
                let error = explain(&error, memlock, shards);
                let _nobody = seed.progress.send(Progress::Failed(error));
            }
        }
    };
    let spawned = thread::Builder::new().name(name).spawn(run);
    spawned.map_err(|error| BootError::Executor { error: error.to_string() })
}

/// A shard that panics takes the process with it: the others can't go on without its partitions.
struct EndsWithAPanic;

impl Drop for EndsWithAPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

pub(super) fn explain(error: &GlommioError<()>, memlock: Option<u64>, shards: u16) -> BootError {
    let text = error.to_string();
    let no_memory = error.raw_os_error() == Some(rustix::io::Errno::NOMEM.raw_os_error())
        || text.contains("Cannot allocate memory");
    if text.contains("emlock") || text.contains("MemLock") || (no_memory && memlock.is_some()) {
        return BootError::LockedMemory { limit: memlock.unwrap_or(0), shards };
    }
    if text.contains("io_uring") {
        return BootError::IoUring { error: text };
    }
    BootError::Executor { error: text }
}

/// A shard, from its first step to its last.
async fn shard(seed: Seed) {
    let Seed { shard, config, progress, mut door, .. } = seed;
    let bind = |address| {
        TcpListener::bind(address)
            .map_err(|error| BootError::Port { address, error: error.to_string() })
    };
    let bound = bind(seed.own_addr)
        .map(|own| (own.local_addr().unwrap_or(seed.own_addr), own))
        .and_then(|own| Ok((own, bind(seed.shared_addr)?)));
    let ((address, own), shared_port) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            let _nobody = progress.send(Progress::Failed(error));
            return;
        }
    };
    let connecting = Connecting::new(seed.receivers);
    let _nobody = progress.send(Progress::Bound(shard, address));
    let pulse = glommio::spawn_local(pulse());
    let Some(Order::Mount(addresses, senders)) = door.order().await else { return };

    let (inbox, counters) = (Rc::new(Inbox::default()), Rc::new(Counters::new()));
    let desk = Desk::new(inbox.clone(), counters.clone());
    let route = Route::new(desk.clone());
    let orders = Rc::new(Orders::default());
    // One shard makes the reserve's file; all use it.
    let space = Space::new(seed.reserve, shard == ShardId(0));
    let world = World {
        disk: Disk::new(&config.data_dir, seed.direct_io, inbox.clone(), counters.clone(), space),
        mesh: Mesh::connect(connecting, senders, inbox.clone(), counters.clone()).await,
        inbox: inbox.clone(),
        route: route.clone(),
        desk: desk.clone(),
        counters: counters.clone(),
        orders: orders.clone(),
    };
    let parts = (inbox, route, counters);
    let shared = Shared::new(shard, &config, &addresses, parts);
    glommio::spawn_local(obey(desk, door, orders, shared, [own, shared_port])).detach();
    drop(pulse);
    let engine = Engine::new(config.engine, shard);
    let reached = move |milestone| {
        let _nobody = progress.send(Progress::Reached(milestone));
    };
    let route = world.route.clone();
    Pump::new(shard, engine, world, reached).run(seed.partitions).await;
    // Sessions and the route know each other: apart, their sockets close.
    route.connections().iter().for_each(|connection| connection.close());
}

/// Serves the desk and does what the boot orders.
async fn obey(
    desk: Rc<Desk>,
    door: Door,
    orders: Rc<Orders>,
    shared: Rc<Shared>,
    listeners: [TcpListener; 2],
) {
    let listeners = RefCell::new(Some(listeners));
    // Dropping a task ends it.
    let tasks = RefCell::new(Vec::new());
    let obey = |order| {
        match order {
            Order::Mount(..) => unreachable!("ordered once"),
            Order::Serve => {
                let listeners = listeners.borrow_mut().take().expect("ordered once");
                let mut tasks = tasks.borrow_mut();
                for listener in listeners {
                    tasks.push(glommio::spawn_local(accept(listener, shared.clone())));
                }
                tasks.push(glommio::spawn_local(sweep(shared.clone())));
            }
            Order::Drain => {
                listeners.borrow_mut().take();
                tasks.borrow_mut().truncate(0);
                orders.drain.set(true);
            }
            Order::Stop => orders.stop.set(true),
        }
        shared.inbox.wake();
    };
    desk.serve(door, obey).await;
}

#[cfg(test)]
#[path = "boot_test.rs"]
mod boot_test;
