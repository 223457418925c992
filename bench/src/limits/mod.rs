//! `limits`: what this machine can do at most, this minute. A figure of ChronosDB means something
//! only beside these, because machines differ and what shares one comes and goes.
//!
//! Every probe is the simplest program that does the thing: no server, no log, no engine. Each is
//! bounded by time and by count, and cleans up behind itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::args::lasting;

mod codec;
mod disk;
mod fio;
mod grpc;
mod memory;
mod tcp;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench limits
      about 15 s; the disk is that of the current directory
  chronosdb-bench limits --dir /var/lib --each 5s
  chronosdb-bench limits --json | tail -n 1 | jq .durable_write_4k_p50_us";

/// Options of `limits`.
#[derive(Args, Clone, Debug)]
pub struct LimitsArgs {
    /// A directory on the disk to be measured; a file is made in it and removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,

    /// Time for each probe
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = lasting)]
    pub each: Duration,

    /// Size of the file, MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub file: u32,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

/// The figures so far: told to a person as they come, kept for `--json`.
#[derive(Debug, Default)]
pub struct Figures(Map<String, Value>);

impl Figures {
    /// Tells a figure. `key` ends in its unit.
    pub fn tell(&mut self, what: &str, value: f64, unit: &str, key: &str) {
        let shown = if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        println!("{what:<44} {shown:>10} {unit}");
        self.0.insert(key.to_owned(), json!((value * 10.0).round() / 10.0));
    }
}

/// Measures; 0 errors, or why it can't.
pub async fn run(args: LimitsArgs) -> Result<u64, String> {
    let mut figures = Figures::default();
    disk::measure(&args, &mut figures).map_err(|error| {
        format!("cannot measure the disk of {} ({error}); name another --dir", args.dir.display())
    })?;
    fio::measure(&args, &mut figures);
    tcp::measure(args.each, &mut figures).await.map_err(|error| format!("loopback: {error}"))?;
    codec::measure(args.each, &mut figures);
    grpc::measure(args.each, &mut figures).await?;
    memory::measure(args.each, &mut figures);
    if args.json {
        figures.0.insert("bench".to_owned(), json!("limits"));
        println!("{}", Value::Object(figures.0));
    }
    Ok(0)
}
