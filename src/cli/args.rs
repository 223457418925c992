//! The server's options as given: flags, environment (`CHRONOS_…`) and a TOML file.
//!
//! Raw: everything is optional and only its syntax is checked. `cli::settings` lays the sources
//! over one another (flag before environment before file before default) and checks the values.
//! Every option exists in all three: `--node-id`, `CHRONOS_NODE_ID`, `node-id = "…"`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::values::{Lasting, Size, Switch};

/// Milliseconds of an hour: what a bare `--dedup-ttl` counts.
const HOUR_MS: u64 = 3_600_000;

/// Options of `chronosdb serve`.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServeArgs {
    /// TOML file with any of these options, named as here: `data-dir = "/var/lib/chronosdb"`.
    /// A flag wins over the environment, which wins over the file.
    #[arg(long, value_name = "FILE", env = "CHRONOS_CONFIG", hide_env_values = true)]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Name of this node in answers, logs and metrics [default: the host name]
    #[arg(long, value_name = "NAME", env = "CHRONOS_NODE_ID", hide_env_values = true)]
    pub node_id: Option<String>,

    /// Directory that holds everything; made if it is not there [default: ./data]
    #[arg(long, value_name = "DIR", env = "CHRONOS_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<PathBuf>,

    /// gRPC listener; `:9000` means all interfaces [default: 127.0.0.1:9000]
    #[arg(long, value_name = "HOST:PORT", env = "CHRONOS_GRPC_ADDR", hide_env_values = true)]
    #[arg(help_heading = "Listeners")]
    pub grpc_addr: Option<String>,

    /// HTTP listener for /health, /health/ready and /metrics [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", env = "CHRONOS_HTTP_ADDR", hide_env_values = true)]
    #[arg(help_heading = "Listeners")]
    pub http_addr: Option<String>,

    /// Native protocol: the shared port; shard 0 listens on the port after it, shard 1 on the next
    /// [default: 127.0.0.1:7700]
    #[arg(long, value_name = "HOST:PORT", env = "CHRONOS_NATIVE_ADDR", hide_env_values = true)]
    #[arg(help_heading = "Listeners")]
    pub native_addr: Option<String>,

    /// Serve addresses that other machines can reach although nothing is encrypted and nobody is
    /// asked who they are
    #[arg(long, value_name = "on|off", env = "CHRONOS_INSECURE", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(help_heading = "Listeners")]
    pub insecure: Option<Switch>,

    /// gRPC server reflection, for tools like grpcurl [default: on]
    #[arg(long, value_name = "on|off", env = "CHRONOS_REFLECTION", hide_env_values = true)]
    #[arg(help_heading = "Listeners")]
    pub reflection: Option<Switch>,

    /// Connections open at once: of native clients, each shard taking its part, and of gRPC clients
    /// [default: 10000]
    #[arg(long, value_name = "N", env = "CHRONOS_MAX_CONNECTIONS", hide_env_values = true)]
    #[arg(help_heading = "Listeners")]
    pub max_connections: Option<u32>,

    /// The same from one IP address (IPv6: one network of 64 bits); 0 for no bound of its own. A
    /// native client has a connection to each shard [default: 0]
    #[arg(long, value_name = "N", env = "CHRONOS_MAX_CONNECTIONS_PER_IP", hide_env_values = true)]
    #[arg(help_heading = "Listeners")]
    pub max_connections_per_ip: Option<u32>,

    /// Connections taken in a second; more have to wait. 0 for as fast as they come [default: 0]
    #[arg(long, value_name = "N", env = "CHRONOS_MAX_ACCEPTS_PER_SECOND", hide_env_values = true)]
    #[arg(help_heading = "Listeners")]
    pub max_accepts_per_second: Option<u32>,

    /// Shards, each on a core of its own; may change at any start [default: one per core]
    #[arg(long, value_name = "N", env = "CHRONOS_SHARDS", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub shards: Option<u16>,

    /// Partitions; fixed when the data directory is made [default: 16]
    #[arg(long, value_name = "N", env = "CHRONOS_PARTITIONS", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub partitions: Option<u16>,

    /// Size of a log file; disk space is taken in smaller steps as it fills [default: 512MiB]
    #[arg(long, value_name = "SIZE", env = "CHRONOS_SEGMENT_SIZE", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub segment_size: Option<Size>,

    /// Log between two entries of the sparse index [default: 64KiB]
    #[arg(long, value_name = "SIZE", env = "CHRONOS_INDEX_INTERVAL", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub index_interval: Option<Size>,

    /// When a publish is on the disk [default: batch]
    #[arg(long, value_name = "MODE", env = "CHRONOS_FSYNC_MODE", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub fsync_mode: Option<FsyncArg>,

    /// Time between two syncs in the periodic mode: what a power loss can lose. A bare number is
    /// milliseconds [default: 1000]
    #[arg(long, value_name = "TIME", env = "CHRONOS_FLUSH_INTERVAL", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub flush_interval: Option<Lasting<1>>,

    /// Serve a file system without direct I/O (tmpfs and the like) with a warning: slower, and in
    /// memory nothing survives a restart of the machine
    #[arg(long, value_name = "on|off", env = "CHRONOS_ALLOW_BUFFERED_IO", hide_env_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(help_heading = "Data")]
    pub allow_buffered_io: Option<Switch>,

    /// Free space on the disk below which publishes are refused, so that acknowledgements go on.
    /// Publishes go on when twice as much is free. An eighth of it is kept as a file. At most an
    /// eighth of the file system is taken for it [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "CHRONOS_DISK_RESERVE", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub disk_reserve: Option<Size>,

    /// How long a message_id is remembered to recognise duplicates. A bare number is hours
    /// [default: 168h]
    #[arg(long, value_name = "TIME", env = "CHRONOS_DEDUP_TTL", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub dedup_ttl: Option<Lasting<HOUR_MS>>,

    /// Hours for which events are kept behind their due time, and longer until every group has
    /// settled them; 0 for ever [default: 168]
    #[arg(long, value_name = "HOURS", env = "CHRONOS_RETENTION_MAX_AGE_HOURS")]
    #[arg(hide_env_values = true, help_heading = "Data")]
    pub retention_max_age_hours: Option<u64>,

    /// Size of all logs beyond which settled events go before their time, GiB; 0 for no limit. What
    /// is not settled stays: then publishes are refused. Pending events are not counted
    /// [default: 0]
    #[arg(long, value_name = "GB", env = "CHRONOS_RETENTION_MAX_SIZE_GB")]
    #[arg(hide_env_values = true, help_heading = "Data")]
    pub retention_max_size_gb: Option<u64>,

    /// How long a group without members still holds events that it has not settled. A bare number
    /// is hours [default: 720h]
    #[arg(long, value_name = "TIME", env = "CHRONOS_GROUP_EXPIRY", hide_env_values = true)]
    #[arg(help_heading = "Data")]
    pub group_expiry: Option<Lasting<HOUR_MS>>,

    /// How long a dead letter is kept behind its event's due time. A bare number is hours
    /// [default: 720h]
    #[arg(long, value_name = "TIME", env = "CHRONOS_DEAD_LETTER_RETENTION")]
    #[arg(hide_env_values = true, help_heading = "Data")]
    pub dead_letter_retention: Option<Lasting<HOUR_MS>>,

    /// Smallest step of the timing wheel; lateness grows with it [default: 1]
    #[arg(long, value_name = "MS", env = "CHRONOS_TICK_MS", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub tick_ms: Option<u64>,

    /// Accepted for old scripts: a level of the wheel always has 64 slots, and there are as many
    /// levels as time needs
    #[arg(long, value_name = "N", env = "CHRONOS_WHEEL_SIZE", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub wheel_size: Option<u64>,

    /// Memory of each shard for records that will soon be due; what does not fit is read from the
    /// log [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "CHRONOS_WHEEL_MEMORY", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub wheel_memory: Option<Size>,

    /// Memory taken from the system before anything is served, and kept: none is waited for while
    /// the server grows, which on a virtual machine can take ms each time. Twice the --wheel-memory
    /// of all shards is a beginning [default: 0, memory is taken as it is needed]
    #[arg(long, value_name = "SIZE", env = "CHRONOS_RESERVE_MEMORY", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub reserve_memory: Option<Size>,

    /// Events that are due later than this from now leave the memory: a run on disk carries them
    /// until their time nears [default: 60s]
    #[arg(long, value_name = "TIME", env = "CHRONOS_HORIZON", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub horizon: Option<Lasting<0>>,

    /// Bytes of a partition's log after which such events are carried into a run [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "CHRONOS_FLUSH_SIZE", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub flush_size: Option<Size>,

    /// Time that a consumer has for a delivery before it is delivered again [default: 30s]
    #[arg(long, value_name = "TIME", env = "CHRONOS_ACK_TIMEOUT", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub ack_timeout: Option<Lasting<0>>,

    /// Attempts after the first before an event becomes a dead letter [default: 5]
    #[arg(long, value_name = "N", env = "CHRONOS_MAX_RETRIES", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub max_retries: Option<u32>,

    /// Wait before the second attempt; doubles with each further one [default: 1s]
    #[arg(long, value_name = "TIME", env = "CHRONOS_RETRY_BACKOFF", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub retry_backoff: Option<Lasting<0>>,

    /// Most deliveries in flight that a subscription gets [default: 50000]
    #[arg(long, value_name = "N", env = "CHRONOS_MAX_CREDITS", hide_env_values = true)]
    #[arg(help_heading = "Time and delivery")]
    pub max_credits: Option<u32>,

    /// Form of the log lines [default: text]
    #[arg(long, value_name = "FORMAT", env = "CHRONOS_LOG_FORMAT", hide_env_values = true)]
    #[arg(help_heading = "Logs")]
    pub log_format: Option<LogFormat>,

    /// error, warn, info, debug, trace, or directives like `info,chronosdb=debug` [default: info]
    #[arg(long, value_name = "LEVEL", env = "CHRONOS_LOG_LEVEL", hide_env_values = true)]
    #[arg(help_heading = "Logs")]
    pub log_level: Option<String>,
}

/// `--fsync-mode`, by the names of the API's older servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum FsyncArg {
    /// Every request is a write of its own, synced before its answer: loses nothing, slowest
    #[value(alias = "every-event")]
    #[serde(alias = "every-event")]
    EveryEvent,
    /// Requests that come together share a write, synced before their answers: loses nothing
    Batch,
    /// Answers leave before the sync. A power loss loses up to --flush-interval of acknowledged
    /// events (a crash of the process alone loses none)
    Periodic,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

macro_rules! first_of {
    ($over:ident, $under:ident, { $($field:ident),* $(,)? }) => {
        ServeArgs { config: $over.config, $($field: $over.$field.or($under.$field)),* }
    };
}

impl ServeArgs {
    /// These, and where they say nothing, what `under` says.
    #[must_use]
    pub fn or(self, under: Self) -> Self {
        first_of!(self, under, {
            node_id, data_dir, grpc_addr, http_addr, native_addr, insecure, reflection,
            max_connections, max_connections_per_ip, max_accepts_per_second, shards, partitions,
            segment_size, index_interval, fsync_mode, flush_interval, allow_buffered_io,
            disk_reserve, dedup_ttl, retention_max_age_hours, retention_max_size_gb, group_expiry,
            dead_letter_retention, tick_ms, wheel_size, wheel_memory, reserve_memory, horizon,
            flush_size, ack_timeout, max_retries, retry_backoff, max_credits, log_format, log_level,
        })
    }

    /// The options of a configuration file, for these. Errors are one sentence.
    pub fn read_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("cannot read the file of --config, {shown}: {e}"))?;
        Self::parse_file(&text).map_err(|why| format!("{shown} (--config): {why}"))
    }

    /// The options in the text of a configuration file. `node_id` is understood as `node-id`.
    pub fn parse_file(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| one_line(&e))?;
        let mut kebab = toml::Table::new();
        for (key, value) in table {
            let name = key.replace('_', "-");
            // Each alone, so that an error can name its option.
            let one = toml::Table::from_iter([(name.clone(), value.clone())]);
            one.try_into::<Self>().map_err(|e| match one_line(&e) {
                unknown if unknown.contains("unknown field") => {
                    format!("there is no option `{key}`; `chronosdb serve --help` lists them")
                }
                why => format!("option `{key}`: {why}"),
            })?;
            if kebab.insert(name, value).is_some() {
                return Err(format!("option `{key}` is given twice"));
            }
        }
        kebab.try_into().map_err(|e| one_line(&e))
    }
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "args_test.rs"]
mod args_test;
