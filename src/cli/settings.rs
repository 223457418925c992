//! From raw options to what the server runs with: layered, checked, defaults filled in.
//!
//! Every refusal is one sentence that names the flag. What is accepted and does less than it says
//! is a warning.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::args::{FsyncArg, LogFormat, ServeArgs};
use super::values::{Lasting, Size};
use crate::base::config::{ConnectionLimits, EngineConfig, FsyncMode, NodeConfig};
use crate::base::limits;
use crate::base::size::{BLOCK, block_ceil};

const MIB: u64 = 1 << 20;
const DAY_MS: u64 = 86_400_000;

/// What `chronosdb serve` runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For the node.
    pub node: NodeConfig,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Memory to be taken before serving, bytes.
    pub reserve_bytes: u64,
    /// Filter of the log: a level, or directives.
    pub log_level: String,
    /// To be logged at the start, one sentence each.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads the file that `args` name, if any, and checks everything.
    pub fn read(args: ServeArgs) -> Result<Self, String> {
        let args = match &args.config {
            Some(path) => {
                let file = ServeArgs::read_file(path)?;
                args.or(file)
            }
            None => args,
        };
        Self::check(&args)
    }

    /// Checks options that are already laid over one another.
    pub fn check(args: &ServeArgs) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let partitions = within(
            "--partitions",
            args.partitions.unwrap_or(16).into(),
            1..=limits::PARTITIONS_MAX.into(),
        )? as u16;
        let shards = shards(args, partitions, &mut warnings)?;
        let [grpc_addr, http_addr, native_addr] = listeners(args, shards)?;
        let node = NodeConfig {
            node_id: node_id(args)?,
            data_dir: data_dir(args)?,
            grpc_addr,
            http_addr,
            native_addr,
            allow_buffered_io: args.allow_buffered_io.is_some_and(|on| on.0),
            reflection: args.reflection.is_none_or(|on| on.0),
            connections: connections(args)?,
            engine: retention(
                args,
                EngineConfig { partitions, shards, ..engine(args, &mut warnings)? },
            )?,
        };
        Ok(Self {
            node,
            log_format: args.log_format.unwrap_or_default(),
            reserve_bytes: size_within("--reserve-memory", args.reserve_memory, 0, 0..=1 << 44)?,
            log_level: args.log_level.clone().unwrap_or_else(|| "info".into()),
            warnings,
        })
    }
}

fn node_id(args: &ServeArgs) -> Result<String, String> {
    let name = match &args.node_id {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let sound = !name.is_empty()
        && name.len() <= limits::NAME_BYTES
        && !name.chars().any(|c| c.is_control() || c.is_whitespace());
    if sound {
        return Ok(name);
    }
    Err(format!("--node-id must have 1 to {} bytes and no spaces", limits::NAME_BYTES))
}

fn data_dir(args: &ServeArgs) -> Result<PathBuf, String> {
    let path = args.data_dir.clone().unwrap_or_else(|| "./data".into());
    if path.as_os_str().is_empty() {
        return Err("--data-dir must name a directory".into());
    }
    Ok(path)
}

fn shards(args: &ServeArgs, partitions: u16, warnings: &mut Vec<String>) -> Result<u16, String> {
    let max = u64::from(limits::SHARDS_MAX);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(max);
    let Some(shards) = args.shards else {
        // A shard without a partition would only hop.
        return Ok(cores.min(partitions.into()) as u16);
    };
    let shards = within("--shards", shards.into(), 1..=max)?;
    if shards > u64::from(partitions) {
        warnings.push(format!(
            "--shards {shards} is more than --partitions {partitions}: the shards behind the \
             last partition own none and only forward"
        ));
    }
    if shards > cores {
        warnings.push(format!("--shards {shards} is more than the {cores} cores there are"));
    }
    Ok(shards as u16)
}

fn connections(args: &ServeArgs) -> Result<ConnectionLimits, String> {
    let most = limits::CONNECTIONS as u64;
    let bound = |flag, given: Option<u32>| {
        let bound = within(flag, given.unwrap_or(0).into(), 0..=most)?;
        Ok::<_, String>((bound > 0).then_some(bound as usize))
    };
    let total = args.max_connections.map_or(most, u64::from);
    Ok(ConnectionLimits {
        total: within("--max-connections", total, 1..=most)? as usize,
        per_ip: bound("--max-connections-per-ip", args.max_connections_per_ip)?,
        per_second: bound("--max-accepts-per-second", args.max_accepts_per_second)?,
    })
}

fn engine(args: &ServeArgs, warnings: &mut Vec<String>) -> Result<EngineConfig, String> {
    let default = EngineConfig::default();
    let ms = |flag, given: Option<u64>, default, range| match given {
        Some(ms) => lasting_within(flag, ms, range),
        None => Ok(default),
    };
    let segment = size_within(
        "--segment-size",
        args.segment_size,
        default.segment_bytes,
        limits::SEGMENT_BYTES_MIN..=limits::SEGMENT_BYTES_MAX,
    )?;
    if segment % BLOCK != 0 {
        warnings.push(format!("--segment-size is rounded up to {} bytes", block_ceil(segment)));
    }
    let retry_backoff_ms = ms(
        "--retry-backoff",
        args.retry_backoff.map(|l| l.0),
        default.retry_backoff_ms,
        1..=limits::RETRY_DELAY_MAX_MS,
    )?;
    Ok(EngineConfig {
        segment_bytes: block_ceil(segment),
        index_interval_bytes: size_within(
            "--index-interval",
            args.index_interval,
            default.index_interval_bytes,
            512..=64 * MIB,
        )?,
        fsync: fsync(args, warnings)?,
        tick_ms: within("--tick-ms", args.tick_ms.unwrap_or(default.tick_ms), 1..=1_000)?,
        ack_timeout_ms: ms(
            "--ack-timeout",
            args.ack_timeout.map(|l| l.0),
            default.ack_timeout_ms,
            1..=DAY_MS,
        )?,
        max_retries: within(
            "--max-retries",
            args.max_retries.unwrap_or(default.max_retries).into(),
            0..=limits::RETRIES_MAX.into(),
        )? as u32,
        disk_reserve_bytes: size_within(
            "--disk-reserve",
            args.disk_reserve,
            default.disk_reserve_bytes,
            limits::DISK_RESERVE_BYTES_MIN..=limits::DISK_RESERVE_BYTES_MAX,
        )?,
        retry_backoff_ms,
        retry_backoff_max_ms: default.retry_backoff_max_ms.max(retry_backoff_ms),
        max_credit: within(
            "--max-credits",
            args.max_credits.unwrap_or(default.max_credit).into(),
            1..=limits::CREDIT_MAX.into(),
        )? as u32,
        dedup_ttl_ms: ms(
            "--dedup-ttl",
            args.dedup_ttl.map(|l| l.0),
            default.dedup_ttl_ms,
            1_000..=3_660 * DAY_MS,
        )?,
        ..memory(args, no_effect(args, warnings, default))?
    })
}

/// What is kept on the disk, and for how long.
fn retention(args: &ServeArgs, mut config: EngineConfig) -> Result<EngineConfig, String> {
    const HOUR_MS: u64 = DAY_MS / 24;
    let years = 0..=3_660 * DAY_MS;
    let hours = args.retention_max_age_hours.unwrap_or(config.retention_ms / HOUR_MS);
    let hours = within("--retention-max-age-hours", hours, 0..=3_660 * 24)?;
    config.retention_ms = hours * HOUR_MS;
    let expiry_ms = args.group_expiry.map_or(config.group_expiry_ms, |l| l.0);
    config.group_expiry_ms = lasting_within("--group-expiry", expiry_ms, years.clone())?;
    let dead_ms = args.dead_letter_retention.map_or(config.dead_letter_retention_ms, |l| l.0);
    config.dead_letter_retention_ms = lasting_within("--dead-letter-retention", dead_ms, years)?;
    let size =
        within("--retention-max-size-gb", args.retention_max_size_gb.unwrap_or(0), 0..=1 << 20)?;
    if size > 0 {
        let partitions = u64::from(config.partitions);
        config.retention_bytes = (size << 30) / partitions;
        let least = 2 * limits::SEGMENT_BYTES_MIN;
        if config.retention_bytes < least {
            return Err(format!(
                "--retention-max-size-gb {size} is too little for {partitions} partitions: each \
                 needs {} MiB, two of the smallest segments",
                least / MIB
            ));
        }
        // Whole segments go: the last one must be a small part of what is kept.
        let largest = (config.retention_bytes / 4).max(limits::SEGMENT_BYTES_MIN);
        config.segment_bytes = config.segment_bytes.min(largest / BLOCK * BLOCK);
    }
    Ok(config)
}

/// What stays in memory, and for how long.
fn memory(args: &ServeArgs, mut config: EngineConfig) -> Result<EngineConfig, String> {
    let (given, default) = (args.wheel_memory, config.cache_bytes);
    config.cache_bytes = size_within("--wheel-memory", given, default, 16 * MIB..=1 << 44)?;
    let horizon_ms = args.horizon.map_or(config.horizon_ms, |l| l.0);
    config.horizon_ms = lasting_within("--horizon", horizon_ms, 100..=limits::HORIZON_MS_MAX)?;
    let range = limits::FLUSH_BYTES_MIN..=limits::FLUSH_BYTES_MAX;
    config.flush_bytes = size_within("--flush-size", args.flush_size, config.flush_bytes, range)?;
    Ok(config)
}

fn fsync(args: &ServeArgs, warnings: &mut Vec<String>) -> Result<FsyncMode, String> {
    let interval_ms = args.flush_interval.map_or(1_000, |l: Lasting<1>| l.0);
    let interval_ms = lasting_within("--flush-interval", interval_ms, 1..=60_000)?;
    Ok(match args.fsync_mode {
        None | Some(FsyncArg::Batch) => FsyncMode::Batch,
        Some(FsyncArg::EveryEvent) => FsyncMode::EveryEvent,
        Some(FsyncArg::Periodic) => {
            warnings.push(format!(
                "--fsync-mode periodic: a power loss can lose up to {interval_ms} ms of \
                 acknowledged events"
            ));
            FsyncMode::Periodic { interval_ms }
        }
    })
}

/// Warns of options that are accepted and change nothing.
fn no_effect(args: &ServeArgs, warnings: &mut Vec<String>, default: EngineConfig) -> EngineConfig {
    if args.wheel_size.is_some() {
        warnings.push("--wheel-size has no effect: a level of the wheel has 64 slots".into());
    }
    default
}

/// gRPC, HTTP and native, checked against one another.
fn listeners(args: &ServeArgs, shards: u16) -> Result<[SocketAddr; 3], String> {
    let given = [
        ("--grpc-addr", args.grpc_addr.as_deref().unwrap_or("127.0.0.1:9000")),
        ("--http-addr", args.http_addr.as_deref().unwrap_or("127.0.0.1:8080")),
        ("--native-addr", args.native_addr.as_deref().unwrap_or("127.0.0.1:7700")),
    ];
    let insecure = args.insecure.is_some_and(|on| on.0);
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); 3];
    for ((flag, text), address) in given.iter().zip(&mut addresses) {
        *address = resolve(flag, text)?;
        if !address.ip().is_loopback() && !insecure {
            return Err(format!(
                "{flag} {text} can be reached from other machines without encryption or \
                 authentication; give a loopback address such as 127.0.0.1:{}, or add --insecure",
                address.port()
            ));
        }
    }
    let [grpc, http, native] = addresses;
    if native.port() > 0 && u32::from(native.port()) + u32::from(shards) > u32::from(u16::MAX) {
        return Err(format!(
            "--native-addr {native} leaves no room for {shards} shards on the ports after it; \
             give a lower port"
        ));
    }
    if overlap(grpc, http, 0) {
        return Err(format!("--grpc-addr and --http-addr are both {grpc}; give different ports"));
    }
    for (flag, address) in [("--grpc-addr", grpc), ("--http-addr", http)] {
        if overlap(native, address, shards) {
            return Err(format!(
                "{flag} {address} collides with --native-addr {native}, which takes {} ports from \
                 there on; give a different port",
                shards + 1
            ));
        }
    }
    Ok(addresses)
}

/// Whether `other` is one of the ports `first` to `first + more`, on an address in common.
fn overlap(first: SocketAddr, other: SocketAddr, more: u16) -> bool {
    let same_ip =
        first.ip() == other.ip() || first.ip().is_unspecified() || other.ip().is_unspecified();
    let ports = u32::from(first.port())..=u32::from(first.port()) + u32::from(more);
    same_ip && first.port() != 0 && ports.contains(&u32::from(other.port()))
}

/// `host:port`; without a host, all interfaces. Of several addresses an IPv4 one is taken.
fn resolve(flag: &str, text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{flag} {text:?} is not host:port, such as 127.0.0.1:9000");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if host.is_empty() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, port).to_socket_addrs();
    let found: Vec<_> =
        found.map_err(|e| format!("{flag} {text:?} can't be resolved: {e}"))?.collect();
    found.iter().find(|a| a.is_ipv4()).or(found.first()).copied().ok_or_else(wrong)
}

fn within(flag: &str, value: u64, range: RangeInclusive<u64>) -> Result<u64, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{flag} {value} is out of range: {} to {}", range.start(), range.end()))
}

fn lasting_within(flag: &str, ms: u64, range: RangeInclusive<u64>) -> Result<u64, String> {
    if range.contains(&ms) {
        return Ok(ms);
    }
    let (low, high) = (shown_ms(*range.start()), shown_ms(*range.end()));
    Err(format!("{flag} {} is out of range: {low} to {high}", shown_ms(ms)))
}

fn size_within(
    flag: &str,
    size: Option<Size>,
    default: u64,
    range: RangeInclusive<u64>,
) -> Result<u64, String> {
    let bytes = size.map_or(default, |size| size.0);
    if range.contains(&bytes) {
        return Ok(bytes);
    }
    let (low, high) = (shown_bytes(*range.start()), shown_bytes(*range.end()));
    Err(format!("{flag} {} is out of range: {low} to {high}", shown_bytes(bytes)))
}

/// A duration in the largest unit that divides it.
pub(super) fn shown_ms(ms: u64) -> String {
    let units = [(DAY_MS, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

/// A size in the largest unit that divides it.
fn shown_bytes(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
#[path = "settings_test.rs"]
mod settings_test;
