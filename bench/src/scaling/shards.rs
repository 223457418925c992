//! One shard and two, from frames that were encoded before the clock starts; and what it costs to
//! ask the wrong one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chronosdb::base::ids::ShardId;
use chronosdb::base::time::wall_ms;
use tokio::task::JoinSet;

use super::{Rows, ScalingArgs, remove_data};
use crate::args::Load;
use crate::node::{NATIVE, Node, NodeArgs};
use crate::recorder::Latencies;
use crate::target::{Publisher, Run, publishers};
use crate::template::{EventMaker, Owned, Shape};

const BATCH: u16 = 1_000;
const CONNECTIONS: u16 = 4;
/// Frames of a connection, 300 KB each.
const FRAMES: usize = 250;
/// Frames of a connection under way.
const IN_FLIGHT: usize = 4;
const EACH: Duration = Duration::from_secs(3);

fn load(connections: u16) -> Load {
    Load { addr: Some(NATIVE.to_owned()), connections, ..Load::standard() }
}

fn with_shards(args: &ScalingArgs, shards: u16) -> Result<Node, String> {
    let mut node: NodeArgs = args.node.clone();
    node.option.push(format!("--shards={shards}"));
    Node::start(&node)
}

/// A million events in batches to one shard, then to two.
pub async fn one_and_two(args: &ScalingArgs, rows: &mut Rows) -> Result<u64, String> {
    for shards in [1, 2] {
        let node = with_shards(args, shards)?;
        let load = load(CONNECTIONS);
        let run = Run::new(&load);
        let mut lanes = Vec::new();
        for (number, publisher) in publishers(&load).await?.into_iter().enumerate() {
            let mut maker = publisher.maker(&load, &run, number, 0);
            let now_ms = wall_ms();
            let frames = (0..FRAMES).map(|_| maker.fill(BATCH, |_| now_ms));
            lanes.push((publisher, frames.collect::<Vec<Bytes>>()));
        }
        let began = Instant::now();
        let mut sending = JoinSet::new();
        for (publisher, frames) in lanes {
            for part in frames.chunks(FRAMES.div_ceil(IN_FLIGHT)) {
                sending.spawn(send(publisher.clone(), part.to_vec()));
            }
        }
        let mut stored = 0;
        while let Some(sent) = sending.join_next().await {
            stored += sent.map_err(|error| error.to_string())??;
        }
        let rate = stored as f64 / began.elapsed().as_secs_f64();
        rows.tell("shards", "shards", u64::from(shards), &[("events_per_s", rate)]);
        node.kill();
        remove_data(args)?;
    }
    Ok(0)
}

async fn send(mut publisher: Publisher, frames: Vec<Bytes>) -> Result<u64, String> {
    let mut stored = 0;
    for frame in frames {
        let counts = publisher.publish_body(BATCH, frame).await?;
        if let Some(error) = counts.error {
            return Err(error);
        }
        stored += counts.stored;
    }
    Ok(stored)
}

/// Single events and batches on one connection to shard 0, for partitions that it owns and for
/// those of the other shard.
pub async fn hop(args: &ScalingArgs, rows: &mut Rows) -> Result<u64, String> {
    let node = with_shards(args, 2)?;
    let load = load(2);
    let run = Run::new(&load);
    let all = publishers(&load).await?;
    let Some(Publisher::Native(connection)) = all.first() else {
        return Err("the native protocol is what is measured".to_owned());
    };
    let topology = connection.topology();
    let (here, there) = (topology.shard, ShardId(1 - topology.shard.0));
    for (number, (name, shard)) in [("own shard", here), ("other shard", there)].iter().enumerate()
    {
        let mut partitions = vec![false; usize::from(topology.partitions())];
        topology.owned_by(*shard).for_each(|p| partitions[usize::from(p.0)] = true);
        let shape = Shape {
            topic: run.topic.clone(),
            payload: load.payload as usize,
            prefix: format!("b-{:08x}-hop{number}-", run.number),
            key: None,
        };
        let mut maker = EventMaker::new(&shape, Some(Owned { partitions }));
        let mut publisher = all[0].clone();
        let (single, latencies) = closed(&mut publisher, &mut maker, 1).await?;
        let (batches, _) = closed(&mut publisher, &mut maker, BATCH).await?;
        let figures = [
            ("p50_us", latencies.percentile(50.0) as f64),
            ("p99_us", latencies.percentile(99.0) as f64),
            ("singles_per_s", single),
            ("batched_per_s", batches),
        ];
        rows.tell("hop", name, number as u64, &figures);
    }
    node.kill();
    remove_data(args)?;
    Ok(0)
}

/// One request after the other; events a second, and how long each took.
async fn closed(
    publisher: &mut Publisher,
    maker: &mut EventMaker,
    count: u16,
) -> Result<(f64, Latencies), String> {
    let (latencies, began) = (Latencies::new(), Instant::now());
    let mut stored = 0;
    while began.elapsed() < EACH {
        let (sent, now_ms) = (Instant::now(), wall_ms());
        let counts = publisher.publish(maker, count, |_| now_ms).await?;
        latencies.record(sent.elapsed());
        if let Some(error) = counts.error {
            return Err(error);
        }
        stored += counts.stored;
    }
    Ok((stored as f64 / began.elapsed().as_secs_f64(), latencies))
}
