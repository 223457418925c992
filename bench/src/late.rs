//! `late`: what a group reads that comes when all has fired: how fast, in which order, and what it
//! costs in memory.
//!
//! Starts a server of its own, fills it with events due at once that nobody receives, waits until
//! the past has left the memory and no job is under way, then creates a group with some members.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::args::{Load, lasting};
use crate::group::Group;
use crate::node::{NATIVE, Node, NodeArgs, disk_bytes};
use crate::pending::settle;
use crate::publish::fill;
use crate::target::Run;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench late
      ten million events, four members on one connection
  chronosdb-bench late --count 2000000 --members 1 --json | tail -n 1 | jq .events_per_s";

/// What the server does meanwhile.
const COUNTERS: [&str; 2] = ["cronos_wal_reads_total", "cronos_past_pages_total"];
/// Between two looks at its memory.
const LOOK: Duration = Duration::from_millis(250);

/// Options of `late`.
#[derive(Args, Clone, Debug)]
pub struct LateArgs {
    /// Events
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,

    /// Payload of an event, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub payload: u32,

    /// Members of the group
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub members: u16,

    /// Connections that the members share
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub connections: u16,

    /// Deliveries in flight of a member
    #[arg(long, value_name = "N", default_value_t = chronosdb::base::limits::CREDIT_DEFAULT)]
    pub credit: u32,

    /// Give up when nothing has come for so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lasting)]
    pub patience: Duration,

    #[command(flatten)]
    pub node: NodeArgs,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

/// Runs it; the number of errors.
pub async fn run(args: LateArgs) -> Result<u64, String> {
    args.node.check_empty()?;
    let node = Node::start(&args.node)?;
    let load = Load {
        addr: Some(NATIVE.to_owned()),
        count: Some(args.count),
        payload: args.payload,
        ..Load::standard()
    };
    let run = Run::new(&load);
    let filled = fill(&load, &run, load.due()).await?;
    settle(&node).await;
    let (before, filled_peak) = node.memory();
    node.forget_peak()?;
    let counts = COUNTERS.map(|name| node.metric(name));
    let used = node.processor_time();

    let began = Instant::now();
    let (members, connections) = (args.members, args.connections);
    let group = Group::open(NATIVE, &run.topic, members, connections, args.credit).await?;
    let progress = group.recorder.progress();
    let mut looks = Vec::new();
    let drained = group.drain(args.count, args.patience, || {
        let at = began.elapsed();
        if looks.last().is_none_or(|(last, _)| at.saturating_sub(*last) >= LOOK) {
            looks.push((at, node.memory().0));
        }
    });
    drained.await;
    drop(progress);
    let used = node.processor_time().saturating_sub(used).as_secs_f64() * 1e6 / args.count as f64;
    let (_, peak) = node.memory();
    let counts = std::iter::zip(COUNTERS, counts).map(|(name, was)| node.metric(name) - was);
    let counts: Vec<u64> = counts.collect();
    settle(&node).await;
    let memory = Memory { filled_peak, before, peak, after: node.memory().0 };
    let disk = disk_bytes(&args.node.data_dir);
    node.kill();
    std::fs::remove_dir_all(&args.node.data_dir).map_err(|error| error.to_string())?;
    let took = Duration::from_micros(group.recorder.last_us.load(Ordering::Relaxed));
    let figures = Figures { filled, disk, memory, looks: thin(&looks), used, counts };
    let extra = figures.tell(&args);
    let once = group.received();
    let errors = group.recorder.report("late", took, args.json, extra);
    Ok(errors + args.count.abs_diff(once))
}

/// What was measured.
struct Figures {
    filled: Duration,
    disk: u64,
    memory: Memory,
    /// Its memory while the group read, MiB.
    looks: Vec<u64>,
    /// Processor time of the server, us an event.
    used: f64,
    counts: Vec<u64>,
}

impl Figures {
    /// Prints them; the same for JSON.
    fn tell(self, args: &LateArgs) -> Map<String, Value> {
        let Self { filled, disk, memory, looks, used, counts } = self;
        println!("filled and settled    {:.1} s, {} MiB on disk", filled.as_secs_f64(), disk >> 20);
        let Memory { filled_peak, before, peak, after } = memory;
        println!("memory while filling  at most {} MiB", filled_peak >> 20);
        println!("memory before         {} MiB", before >> 20);
        println!("  while it is read    at most {} MiB: {looks:?}", peak >> 20);
        println!("  after               {} MiB", after >> 20);
        println!("processor, an event   {used:.2} us of the server");
        println!("reads of the log      {}", counts[0]);
        println!("pages of the past     {}", counts[1]);
        let mut extra = Map::new();
        extra.insert("members".to_owned(), json!(args.members));
        extra.insert("connections".to_owned(), json!(args.connections));
        extra.insert("fill_seconds".to_owned(), json!(filled.as_secs_f64()));
        extra.insert("disk_bytes".to_owned(), json!(disk));
        extra.insert("rss_fill_peak_bytes".to_owned(), json!(filled_peak));
        extra.insert("rss_before_bytes".to_owned(), json!(before));
        extra.insert("rss_peak_bytes".to_owned(), json!(peak));
        extra.insert("rss_after_bytes".to_owned(), json!(after));
        extra.insert("rss_mib".to_owned(), json!(looks));
        let used = (used * 100.0).round() / 100.0;
        extra.insert("server_processor_us_per_event".to_owned(), json!(used));
        extra.insert("wal_reads".to_owned(), json!(counts[0]));
        extra.insert("past_pages".to_owned(), json!(counts[1]));
        extra
    }
}

/// The server's memory, bytes.
struct Memory {
    filled_peak: u64,
    before: u64,
    peak: u64,
    after: u64,
}

/// About ten of the looks, MiB.
fn thin(looks: &[(Duration, u64)]) -> Vec<u64> {
    let step = looks.len().div_ceil(10).max(1);
    looks.iter().step_by(step).map(|(_, bytes)| bytes >> 20).collect()
}
