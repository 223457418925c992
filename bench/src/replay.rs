//! `replay`: how fast the history of one partition is read from the disk and sent.
//!
//! Starts a server of its own, fills one partition, stops it and starts it again, so that nothing
//! is in its memory (the disk is read past the page cache). The reader counts events and looks at
//! nothing else of them, so that the server is what is measured.

use std::time::Instant;

use chronosdb::client::Client;
use chronosdb::wire::events::ReplayRequest;
use chronosdb::wire::kind::FrameKind;
use clap::Args;
use serde_json::json;

use crate::args::{Load, PartitionKey};
use crate::node::{NATIVE, Node, NodeArgs};
use crate::pending::settle;
use crate::publish::fill;
use crate::received::replayed;
use crate::target::{Run, connect};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench replay
      three million events, five times
  chronosdb-bench replay --count 10000000 --rounds 1 --json | tail -n 1 | jq .events_per_s";

/// Options of `replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// Events
    #[arg(long, value_name = "N", default_value_t = 3_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub count: u64,

    /// Payload of an event, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub payload: u32,

    /// How often it is read
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub rounds: u16,

    #[command(flatten)]
    pub node: NodeArgs,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

/// Runs it; the number of events that did not come.
pub async fn run(args: ReplayArgs) -> Result<u64, String> {
    args.node.check_empty()?;
    let node = Node::start(&args.node)?;
    let load = Load {
        addr: Some(NATIVE.to_owned()),
        count: Some(args.count),
        payload: args.payload,
        connections: 1,
        partition_key: PartitionKey::Fixed,
        ..Load::standard()
    };
    let run = Run::new(&load);
    fill(&load, &run, load.due()).await?;
    settle(&node).await;
    let log_bytes = node.metric("cronos_wal_bytes");
    node.stop()?;
    let node = Node::start(&args.node)?;

    let request = request(run.topic, args.count).await?;
    let (mut rates, mut missing) = (Vec::new(), 0);
    let used = node.processor_time();
    for round in 1..=args.rounds {
        let began = Instant::now();
        let came = read(&request).await?;
        let took = began.elapsed().as_secs_f64();
        missing += args.count.abs_diff(came);
        rates.push(came as f64 / took);
        let mib = log_bytes as f64 / took / f64::from(1 << 20);
        println!("{round:>3}: {:.0} events/s, {mib:.0} MiB/s of log", came as f64 / took);
    }
    let events = f64::from(args.rounds) * args.count as f64;
    let used = node.processor_time().saturating_sub(used).as_secs_f64() * 1e6 / events;
    node.kill();
    std::fs::remove_dir_all(&args.node.data_dir).map_err(|error| error.to_string())?;
    rates.sort_by(f64::total_cmp);
    let (median, log_per_event) = (rates[rates.len() / 2], log_bytes as f64 / args.count as f64);
    let mib_s = median * log_per_event / f64::from(1 << 20);
    println!("median {median:.0} events/s, {mib_s:.0} MiB/s; {used:.2} us of the server an event");
    if args.json {
        let rounded: Vec<f64> = rates.iter().map(|rate| rate.round()).collect();
        let figures = json!({
            "bench": "replay", "events": args.count, "errors": missing,
            "events_per_s": median.round(), "log_mib_per_s": mib_s.round(), "rates": rounded,
            "server_processor_us_per_event": (used * 100.0).round() / 100.0,
        });
        println!("{figures}");
    }
    Ok(missing)
}

/// Everything of the partition that was filled, by offsets.
async fn request(topic: String, count: u64) -> Result<ReplayRequest, String> {
    let client = Client::connect(NATIVE).await.map_err(|error| error.to_string())?;
    let partitions = client.partitions().await.map_err(|error| error.to_string())?;
    let filled = partitions.iter().max_by_key(|partition| partition.high_watermark);
    let partition = filled.ok_or("a server without partitions")?.partition_id;
    let count = i64::try_from(count).map_err(|_| "too many events")?;
    Ok(ReplayRequest { topic, partitions: vec![partition], count, ..ReplayRequest::default() })
}

/// Reads it all, from the shard that owns it: how many events came.
async fn read(request: &ReplayRequest) -> Result<u64, String> {
    let any = connect(NATIVE).await?;
    let topology = any.topology();
    let partition = request.partitions.first().copied().unwrap_or_default();
    let owner = topology.owner(chronosdb::base::ids::PartitionId(partition as u16));
    let connection = connect(topology.address(owner).map_or(NATIVE, AsRef::as_ref)).await?;
    let opened = connection.open_stream(FrameKind::Replay, request);
    let mut frames = opened.map_err(|error| error.to_string())?;
    let mut came = 0;
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| error.to_string())?;
        if frame.kind == FrameKind::ReplayEvents {
            came += replayed(&frame.body)?;
        }
    }
    Ok(came)
}
