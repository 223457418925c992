//! `open`: how soon a server with a large log serves again: after SIGTERM, and after `kill -9`.
//!
//! Starts a server of its own and fills it until its log has the size that was asked for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::args::{Load, lasting};
use crate::node::{NATIVE, Node, NodeArgs, disk_bytes};
use crate::pending::settle;
use crate::publish::closed_loop;
use crate::recorder::Recorder;
use crate::target::{Run, publishers};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench open
      a log of 10 GiB; takes twice as much of the disk for a while
  chronosdb-bench open --gib 2 --delay 1h --spread 30d
      events that are all pending";

/// Bytes of an event beside its payload, about.
const EVENT_COST: u64 = 100;
/// Events published between two looks at the log's size at least.
const LOOK_EVENTS: u64 = 10_000;

/// Options of `open`.
#[derive(Args, Clone, Debug)]
pub struct OpenArgs {
    /// Size of the log, GiB
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub gib: u64,

    /// Payload of an event, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1_024)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=8_192))]
    pub payload: u32,

    /// Events are due so long after they are sent; 0 is at once
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = lasting)]
    pub delay: Duration,

    /// ... and spread evenly over this time behind it
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = lasting)]
    pub spread: Duration,

    #[command(flatten)]
    pub node: NodeArgs,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

/// Runs it; the number of errors.
pub async fn run(args: OpenArgs) -> Result<u64, String> {
    args.node.check_empty()?;
    let node = Node::start(&args.node)?;
    let began = Instant::now();
    let events = fill(&args, &node).await?;
    let filled = began.elapsed();
    settle(&node).await;
    let log = node.metric("cronos_wal_bytes");
    let stopped = node.stop()?;

    let node = Node::start(&args.node)?;
    let after_stop = Opened::of(&node);
    node.kill();
    let node = Node::start(&args.node)?;
    let after_idle_kill = Opened::of(&node);
    // What a kill interrupts: publishes without a break since the last checkpoint.
    let load = load(&args, LOOK_EVENTS);
    let (run, recorder) = (Run::new(&load), Recorder::new());
    closed_loop(&load, &run, publishers(&load).await?, load.due(), &recorder, true).await;
    node.kill();
    let node = Node::start(&args.node)?;
    let after_kill = Opened::of(&node);
    let disk = disk_bytes(&args.node.data_dir);
    node.kill();
    std::fs::remove_dir_all(&args.node.data_dir).map_err(|error| error.to_string())?;

    println!("log                     {} MiB, {events} events", log >> 20);
    println!("on disk                 {} MiB", disk >> 20);
    println!("filled in               {:.1} s", filled.as_secs_f64());
    println!("stopped by SIGTERM in   {:.2} s", stopped.as_secs_f64());
    after_stop.tell("serves after SIGTERM");
    after_idle_kill.tell("serves after kill -9");
    after_kill.tell("  right after publishes");
    if args.json {
        let figures = json!({
            "bench": "open", "events": events, "log_bytes": log, "disk_bytes": disk,
            "fill_seconds": filled.as_secs_f64(), "stop_seconds": stopped.as_secs_f64(),
            "open_after_stop_seconds": after_stop.took.as_secs_f64(),
            "open_after_kill_seconds": after_idle_kill.took.as_secs_f64(),
            "open_after_busy_kill_seconds": after_kill.took.as_secs_f64(),
            "rss_after_stop_bytes": after_stop.rss, "rss_after_kill_bytes": after_idle_kill.rss,
        });
        println!("{figures}");
    }
    Ok(recorder.errors.load(Ordering::Relaxed))
}

/// A start.
struct Opened {
    took: Duration,
    rss: u64,
}

impl Opened {
    fn of(node: &Node) -> Self {
        Self { took: node.opened, rss: node.memory().0 }
    }

    fn tell(&self, what: &str) {
        println!("{what:<23} {:.2} s, with {} MiB", self.took.as_secs_f64(), self.rss >> 20);
    }
}

fn load(args: &OpenArgs, count: u64) -> Load {
    Load {
        addr: Some(NATIVE.to_owned()),
        count: Some(count),
        delay: args.delay,
        spread: args.spread,
        payload: args.payload,
        ..Load::standard()
    }
}

/// Publishes until the log is large enough; how many events.
async fn fill(args: &OpenArgs, node: &Node) -> Result<u64, String> {
    let wanted = args.gib << 30;
    let recorder = Recorder::new();
    let progress = recorder.progress();
    loop {
        let has = node.metric("cronos_wal_bytes");
        let Some(rest) = wanted.checked_sub(has).filter(|rest| *rest > 0) else { break };
        let count = (rest / (u64::from(args.payload) + EVENT_COST)).max(LOOK_EVENTS);
        let load = load(args, count);
        let run = Run::new(&load);
        closed_loop(&load, &run, publishers(&load).await?, load.due(), &recorder, true).await;
        let failed = recorder.errors.load(Ordering::Relaxed);
        if failed > 0 {
            return Err(format!("{failed} events were not stored"));
        }
    }
    drop(progress);
    Ok(recorder.stored.load(Ordering::Relaxed))
}
