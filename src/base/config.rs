//! Settings after checking: what the engine and the shards run with.
//!
//! Raw options (flags, environment, file) live in `cli::args`; they become these once, and every
//! value here is in its valid range.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::limits;

/// When an acknowledged write is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FsyncMode {
    /// Each publish request is a write of its own, synced before its answer.
    EveryEvent,
    /// Requests of one pump turn share a write, synced before their answers. Survives power loss.
    #[default]
    Batch,
    /// Answers leave before the sync; a power loss (not a process crash) loses up to the interval.
    Periodic {
        /// Milliseconds between syncs: the loss window.
        interval_ms: u64,
    },
}

/// Settings of the engine, the same on every shard of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Random number of the data directory, in every envelope: a foreign file is not ours.
    pub cluster: u64,
    /// Key of the dedup hash, fixed when the data directory is created.
    pub dedup_key: [u8; 16],
    /// Partitions of the data directory.
    pub partitions: u16,
    /// Shards of this node.
    pub shards: u16,
    /// Size of a segment file, bytes, a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// Bytes of log between two entries of the sparse index.
    pub index_interval_bytes: u64,
    /// Bytes of the log that a flow reads at once, unless an entry is longer; a multiple of 4 KiB.
    pub read_bytes: u64,
    /// Durability of an acknowledgement.
    pub fsync: FsyncMode,
    /// Smallest step of the wheel, ms.
    pub tick_ms: u64,
    /// Time a member has for a delivery, ms.
    pub ack_timeout_ms: u64,
    /// Attempts after the first before an event is a dead letter.
    pub max_retries: u32,
    /// Backoff before the second attempt, ms; doubles each time.
    pub retry_backoff_ms: u64,
    /// Longest backoff, ms.
    pub retry_backoff_max_ms: u64,
    /// Upper bound on the credit of one subscription.
    pub max_credit: u32,
    /// How long an id is remembered, ms of log time.
    pub dedup_ttl_ms: u64,
    /// Ids of a partition kept in memory, beyond which they are written to a run.
    pub id_window: usize,
    /// Bytes of records and of blocks of runs kept in memory per shard, beyond which they are read
    /// from the disk.
    pub cache_bytes: u64,
    /// Bytes of a partition's log after which what is due far ahead leaves the memory.
    pub flush_bytes: u64,
    /// What is due within this time from now stays in memory, ms.
    pub horizon_ms: u64,
    /// Past events of a partition kept in memory: older ones are read from the disk.
    pub past_events: u64,
    /// How long an event is kept behind its due time, ms; 0: for ever.
    pub retention_ms: u64,
    /// Bytes of a partition's log beyond which settled events go before their time; 0: no limit.
    pub retention_bytes: u64,
    /// How long a group without members holds data, ms.
    pub group_expiry_ms: u64,
    /// How long a dead letter is kept behind its event's due time, ms.
    pub dead_letter_retention_ms: u64,
    /// Time between two looks for what can be removed, ms.
    pub retention_check_ms: u64,
    /// Nothing is removed for this long after log time has jumped by more than an hour, ms.
    pub jump_pause_ms: u64,
    /// Free space on the disk below which publishes are refused, bytes.
    pub disk_reserve_bytes: u64,
    /// Events a shard keeps in its in-memory index before it refuses publishes.
    pub index_events: u64,
    /// Commits are decided outside (`Input::Replica`) and not by the partition alone.
    pub external_commit: bool,
}

impl EngineConfig {
    /// Bytes of records and of blocks of runs that each partition of a shard may keep in memory.
    #[must_use]
    pub fn cache_bytes_each(&self) -> u64 {
        let owned = u64::from(self.partitions.div_ceil(self.shards));
        self.cache_bytes / owned.max(1)
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cluster: 0,
            dedup_key: [0; 16],
            partitions: 16,
            shards: 1,
            segment_bytes: 512 << 20,
            index_interval_bytes: 64 << 10,
            read_bytes: limits::READ_BYTES as u64,
            fsync: FsyncMode::Batch,
            tick_ms: 1,
            ack_timeout_ms: 30_000,
            max_retries: 5,
            retry_backoff_ms: 1_000,
            retry_backoff_max_ms: 300_000,
            max_credit: limits::CREDIT_MAX,
            dedup_ttl_ms: 168 * 3_600_000,
            id_window: limits::ID_WINDOW,
            cache_bytes: 256 << 20,
            flush_bytes: limits::FLUSH_BYTES,
            horizon_ms: limits::HORIZON_MS,
            past_events: limits::PAST_EVENTS,
            retention_ms: 168 * 3_600_000,
            retention_bytes: 0,
            group_expiry_ms: limits::GROUP_EXPIRY_MS,
            dead_letter_retention_ms: limits::DEAD_LETTER_RETENTION_MS,
            retention_check_ms: limits::RETENTION_CHECK_MS,
            jump_pause_ms: limits::JUMP_PAUSE_MS,
            disk_reserve_bytes: limits::DISK_RESERVE_BYTES,
            index_events: 100_000_000,
            external_commit: false,
        }
    }
}

/// How many connections are taken: by the native listeners together, and by the gRPC listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open at once.
    pub total: usize,
    /// Open at once from one address; `None`: no bound but the total.
    pub per_ip: Option<usize>,
    /// Taken in a second; `None`: as they come.
    pub per_second: Option<usize>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: limits::CONNECTIONS, per_ip: None, per_second: None }
    }
}

/// Settings of one server process.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of the node in answers and logs.
    pub node_id: String,
    /// Directory that holds everything.
    pub data_dir: PathBuf,
    /// gRPC listener.
    pub grpc_addr: SocketAddr,
    /// HTTP listener.
    pub http_addr: SocketAddr,
    /// Shared native listener; shard i listens on the (i + 1)-th port after it (port 0: any free).
    pub native_addr: SocketAddr,
    /// Go on with a warning where the file system has no direct I/O.
    pub allow_buffered_io: bool,
    /// Serve gRPC reflection.
    pub reflection: bool,
    /// How many connections are taken.
    pub connections: ConnectionLimits,
    /// What the engine runs with (`cluster` and `dedup_key` are filled in from the data directory).
    pub engine: EngineConfig,
}
