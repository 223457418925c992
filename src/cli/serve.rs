//! `chronosdb serve`: settings, logs, then the node until a signal ends it.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use tracing_subscriber::EnvFilter;

use super::Reserve;
use super::args::{LogFormat, ServeArgs};
use super::settings::Settings;
use crate::node::{self, Summary};

const MIB: u64 = 1 << 20;

/// Shown under `chronosdb serve --help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb serve
      ./data, loopback only, one shard per core
  chronosdb serve --data-dir /var/lib/chronosdb --partitions 64 --log-format json
  CHRONOS_GRPC_ADDR=127.0.0.1:9100 chronosdb serve --config /etc/chronosdb.toml
      a flag wins over the environment, the environment over the file
  chronosdb serve --grpc-addr :9000 --insecure
      gRPC on all interfaces, in a network that you trust
  chronosdb serve --data-dir /dev/shm/chronosdb --allow-buffered-io
      in memory, for a trial";

/// Runs a server until SIGTERM or Ctrl-C. `warnings` are about the command line itself. An error
/// is one sentence that says what to do.
pub fn run(args: ServeArgs, mut warnings: Vec<String>, reserve: Reserve) -> Result<(), String> {
    let mut settings = Settings::read(args)?;
    log_to_stderr(settings.log_format, &settings.log_level)?;
    warnings.append(&mut settings.warnings);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    if settings.reserve_bytes > 0 {
        take(settings.reserve_bytes, reserve)?;
    }
    let format = settings.log_format;
    node::run(settings.node, |summary| announce(summary, format)).map_err(|e| e.to_string())
}

/// Takes the memory of `--reserve-memory`.
fn take(bytes: u64, reserve: Reserve) -> Result<(), String> {
    let told = |why: String| format!("--reserve-memory: {why}; ask for less");
    let available = available_memory();
    if available.is_some_and(|available| bytes > available) {
        let available = available.unwrap_or_default() / MIB;
        return Err(told(format!("{} MiB are wanted, {available} are available", bytes / MIB)));
    }
    tracing::info!(mib = bytes / MIB, "taking memory");
    let begun = Instant::now();
    reserve(bytes).map_err(told)?;
    tracing::info!(mib = bytes / MIB, ms = begun.elapsed().as_millis() as u64, "memory is taken");
    Ok(())
}

/// Bytes that can be taken without swapping, as far as the system tells.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Sends `tracing` and `log` (glommio uses that) to standard error.
fn log_to_stderr(format: LogFormat, level: &str) -> Result<(), String> {
    // h2 warns of what clients do wrong, and they could fill the disk with it.
    let plain = !level.contains(['=', ',']);
    let directives = if plain { format!("{level},h2=error") } else { level.to_owned() };
    let filter = EnvFilter::try_new(directives).map_err(|e| {
        format!("--log-level {level:?} is no level (error, warn, info, debug, trace): {e}")
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let set = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    set.map_err(|e| format!("cannot set up the log: {e}"))
}

/// Tells what runs: people on standard output, machines in the log.
fn announce(summary: &Summary, format: LogFormat) {
    if format == LogFormat::Json {
        tracing::info!(
            node_id = summary.node_id,
            grpc = %summary.grpc,
            http = %summary.http,
            native = %summary.native,
            shards = summary.native_shards.len(),
            partitions = summary.partitions,
            data_dir = %summary.data_dir.display(),
            recovered_events = summary.recovered_events,
            pending_events = summary.pending_events,
            "serving"
        );
        return;
    }
    // A closed standard output is no reason not to serve.
    let _closed = writeln!(io::stdout(), "{summary}").and_then(|()| io::stdout().flush());
}
