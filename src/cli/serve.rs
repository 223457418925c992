//! `chronosdb serve`: settings, logs, then the node until a signal ends it.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use super::args::{LogFormat, ServeArgs};
use super::settings::Settings;
use crate::node::{self, Summary};

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
pub fn run(args: ServeArgs, mut warnings: Vec<String>) -> Result<(), String> {
    let mut settings = Settings::read(args)?;
    log_to_stderr(settings.log_format, &settings.log_level)?;
    warnings.append(&mut settings.warnings);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let format = settings.log_format;
    node::run(settings.node, |summary| announce(summary, format)).map_err(|e| e.to_string())
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
