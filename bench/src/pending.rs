//! `pending`: what events cost that wait for their time, and how soon a server is back with them.
//!
//! Starts a server of its own, fills it, waits until all that can leave the memory has left it,
//! kills it with `kill -9`, and starts it again: time to serve, and time until an event that has
//! become due in the meantime is delivered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chronosdb::base::time::wall_ms;
use chronosdb::client::{Client, Event, SubscribeOptions};
use clap::Args;
use serde_json::{Map, json};

use crate::args::{Load, lasting};
use crate::metrics::DiskUse;
use crate::node::{NATIVE, Node, NodeArgs, disk_bytes};
use crate::publish::closed_loop;
use crate::recorder::Recorder;
use crate::target::{Run, publishers};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench pending --count 10000000
      ten million events, due over the next 30 days
  chronosdb-bench pending --count 100000000 --json | tail -n 1 | jq .rss_bytes";

/// Topic of the event that is to come first.
const FIRST: &str = "bench-first";
/// The first event is due so long after it was published.
const FIRST_DELAY_MS: u64 = 500;
/// What leaves the memory has left it when nothing has moved for so long.
const STILL: Duration = Duration::from_secs(3);

/// Options.
#[derive(Args, Clone, Debug)]
pub struct PendingArgs {
    /// Events
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,

    /// Events are due at least so long after they are sent
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lasting)]
    pub delay: Duration,

    /// ... and spread evenly over this time behind it
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lasting)]
    pub spread: Duration,

    /// Payload of an event, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub payload: u32,

    #[command(flatten)]
    pub node: NodeArgs,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

/// Runs it; the number of errors.
pub async fn run(args: PendingArgs) -> Result<u64, String> {
    args.node.check_empty()?;
    let node = Node::start(&args.node)?;
    let before = DiskUse::read(node.http);
    let (recorder, took, published) = fill(&args).await?;
    let errors = recorder.errors.load(Ordering::Relaxed);
    settle(&node).await;
    let mut use_of_disk = Map::new();
    DiskUse::report(before, node.http, published, &mut use_of_disk);
    let (rss, peak) = node.memory();
    let disk = disk_bytes(&args.node.data_dir);
    let pending = node.metric("cronos_scheduler_active_timers");
    publish_first().await?;
    node.kill();
    tokio::time::sleep(Duration::from_millis(FIRST_DELAY_MS)).await;

    let began = Instant::now();
    let node = Node::start(&args.node)?;
    let opened = node.opened;
    first_fire().await?;
    let fired = began.elapsed();
    let (rss_after, peak_after) = node.memory();
    let pending_after = node.metric("cronos_scheduler_active_timers");
    node.kill();
    std::fs::remove_dir_all(&args.node.data_dir).map_err(|error| error.to_string())?;

    let each = |bytes: u64| bytes as f64 / pending.max(1) as f64;
    println!("pending events       {pending} (after the restart {pending_after})");
    println!("filled in            {:.1} s", took.as_secs_f64());
    println!("memory               {} MiB, at most {} MiB", rss >> 20, peak >> 20);
    println!("  an event           {:.1} bytes", each(rss));
    println!(
        "disk                 {} MiB, {:.1} bytes an event; per published byte",
        disk >> 20,
        each(disk)
    );
    for (name, value) in &use_of_disk {
        println!("  {:<18} {value}", name.replace("_bytes_per_published_byte", ""));
    }
    println!("restart to serving   {:.2} s", opened.as_secs_f64());
    println!("restart to 1st fire  {:.2} s", fired.as_secs_f64());
    println!("memory after it      {} MiB, at most {} MiB", rss_after >> 20, peak_after >> 20);
    if args.json {
        let mut figures = json!({
            "bench": "pending", "count": args.count, "pending": pending,
            "pending_after_restart": pending_after, "errors": errors,
            "fill_seconds": took.as_secs_f64(), "rss_bytes": rss, "rss_peak_bytes": peak,
            "disk_bytes": disk, "open_seconds": opened.as_secs_f64(),
            "first_fire_seconds": fired.as_secs_f64(), "rss_after_bytes": rss_after,
            "rss_after_peak_bytes": peak_after,
        });
        figures.as_object_mut().expect("just made").append(&mut use_of_disk);
        println!("{figures}");
    }
    Ok(errors + u64::from(pending != args.count) + u64::from(pending_after != args.count))
}

/// Publishes all of it; what was met, how long it took, and the bytes of the messages.
async fn fill(args: &PendingArgs) -> Result<(Arc<Recorder>, Duration, u64), String> {
    let load = Load {
        addr: Some(NATIVE.to_owned()),
        count: Some(args.count),
        delay: args.delay,
        spread: args.spread,
        payload: args.payload,
        ..Load::standard()
    };
    let run = Run::new(&load);
    let publishers = publishers(&load).await?;
    let event_bytes = publishers[0].maker(&load, &run, 0, 0).event_bytes() as u64;
    let recorder = Recorder::new();
    let progress = recorder.progress();
    closed_loop(&load, &run, publishers, load.due(), &recorder, true).await;
    drop(progress);
    let took = recorder.elapsed();
    Ok((recorder, took, args.count * event_bytes))
}

/// Waits until all that is due has fired, and nothing leaves the memory any more.
pub async fn settle(node: &Node) {
    let mut last = (0, Instant::now());
    while last.1.elapsed() < STILL {
        let moved = node.metric("cronos_scheduler_cold_store_entries")
            + node.metric("cronos_job_read_bytes_total");
        if moved != last.0 {
            last = (moved, Instant::now());
        }
        tokio::time::sleep(STILL / 10).await;
    }
}

async fn publish_first() -> Result<(), String> {
    let client = Client::connect(NATIVE).await.map_err(|error| error.to_string())?;
    let due = wall_ms() + FIRST_DELAY_MS;
    let event = Event::new(FIRST, "first", b"first".to_vec()).at_ms(due);
    client.publish(event).await.map(drop).map_err(|error| error.to_string())
}

async fn first_fire() -> Result<(), String> {
    let client = Client::connect(NATIVE).await.map_err(|error| error.to_string())?;
    let options = SubscribeOptions::new(FIRST, "bench");
    let subscribed = client.subscribe(options).await.map_err(|error| error.to_string());
    let next = subscribed?.next().await.ok_or("the stream ended")?;
    next.map(drop).map_err(|error| error.to_string())
}
