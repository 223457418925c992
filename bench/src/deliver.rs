//! `deliver`: the whole life of an event. Publishes (as fast as it goes, or at a rate), receives,
//! acknowledges, and counts an event once its ack is confirmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chronosdb::base::ids::PartitionId;
use chronosdb::base::limits;
use chronosdb::base::time::{Now, wall_ms};
use chronosdb::client::{Connection, FrameStream, SubscribeOptions};
use chronosdb::wire::events::event_service_client::EventServiceClient;
use chronosdb::wire::events::{AckRequest, Delivery, SubscribeRequest};
use chronosdb::wire::frame::Frame;
use chronosdb::wire::kind::FrameKind;
use clap::Args;
use serde_json::{Map, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::acks::{AckBatch, Acks, acknowledge};
use crate::args::{Load, Transport, lasting};
use crate::latency::open_loop;
use crate::publish::closed_loop;
use crate::received::{ack_counts, deliveries};
use crate::recorder::Recorder;
use crate::target::{Run, channel, connect_shards, publishers};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench deliver
      all the way, as fast as it goes
  chronosdb-bench deliver --rate 10000 --batch 100 --delay 2s --duration 30s
      lateness at 10,000 fires a second
  chronosdb-bench deliver --count 1000000 --delay 20s --same-instant
      a million events due in the same millisecond";

/// Acks on the way to the collector of a subscriber, in batches.
const ACKS_AHEAD: usize = 64;
/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// Options of `deliver`.
#[derive(Args, Clone, Debug)]
pub struct DeliverArgs {
    /// Publish at this rate, events per second [default: as fast as it goes]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,

    /// Subscriptions of the group [default: one per shard; gRPC: one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub subscribers: Option<u16>,

    /// Consumer group
    #[arg(long, default_value = "bench")]
    pub group: String,

    /// Deliveries in flight of a subscription
    #[arg(long, value_name = "N", default_value_t = limits::CREDIT_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::CREDIT_MAX)))]
    pub credit: u32,

    /// All events are due at one instant, --delay after the start; rates count from there
    #[arg(long)]
    pub same_instant: bool,

    /// Give up when nothing has come for so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lasting)]
    pub patience: Duration,

    /// The load.
    #[command(flatten)]
    pub load: Load,
}

impl DeliverArgs {
    /// What no other option means.
    pub fn of(load: Load) -> Self {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: DeliverArgs,
        }
        let args = <Only as clap::Parser>::parse_from([""]).args;
        Self { load, ..args }
    }
}

/// Runs the load; the number of errors.
pub async fn run(args: DeliverArgs) -> Result<u64, String> {
    let load = &args.load;
    load.check()?;
    let run = Run::new(load);
    let publishers = publishers(load).await?;
    let recorder = Recorder::new();
    match load.transport {
        Transport::Native => subscribe_native(&args, &run, &recorder).await?,
        Transport::Grpc => subscribe_grpc(&args, &run, &recorder).await?,
    }
    let mut due = load.due();
    let start = recorder.elapsed();
    if args.same_instant {
        let delay = u64::try_from(load.delay.as_millis()).unwrap_or(u64::MAX);
        due.instant_ms = Some(wall_ms() + delay);
    }
    let progress = recorder.progress();
    let mut extra = Map::new();
    match args.rate {
        None => closed_loop(load, &run, publishers, due, &recorder, false).await,
        Some(rate) => {
            let paced = open_loop(load, rate, &run, publishers, due, &recorder, false).await;
            let late = paced.map_err(|error| format!("no timer: {error}"))?;
            extra.insert("generator_late_p99_us".to_owned(), json!(late.percentile(99.0)));
        }
    }
    let published = recorder.elapsed();
    drain(&args, &recorder).await;
    drop(progress);

    let last = Duration::from_micros(recorder.last_us.load(Ordering::Relaxed));
    // Nothing could be delivered before.
    let begin = start + load.delay;
    let stored = recorder.stored.load(Ordering::Relaxed);
    let publish_rate = stored as f64 / published.saturating_sub(start).as_secs_f64().max(1e-9);
    extra.insert("publish_per_s".to_owned(), json!(publish_rate.round()));
    extra.insert("topic".to_owned(), json!(run.topic));
    Ok(recorder.report("deliver", last.saturating_sub(begin), load.json, extra))
}

/// Waits until everything stored is acked, or nothing has come for too long after it was due.
async fn drain(args: &DeliverArgs, recorder: &Recorder) {
    let stored = recorder.stored.load(Ordering::Relaxed);
    let load = &args.load;
    let mut seen = recorder.done.load(Ordering::Relaxed);
    let mut moved = Instant::now() + load.delay + load.spread;
    loop {
        let done = recorder.done.load(Ordering::Relaxed);
        if done >= stored {
            return;
        }
        if done != seen {
            (seen, moved) = (done, moved.max(Instant::now()));
        }
        if Instant::now().saturating_duration_since(moved) > args.patience {
            let missing = stored - done;
            return recorder
                .fail(missing, &format!("{missing} events never came or were not acked"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

// ----------------------------------------------------------------------------------- native

/// Subscriptions over all shards that receive, acknowledge and count until the run ends.
pub async fn subscribe_native(
    args: &DeliverArgs,
    run: &Run,
    recorder: &Arc<Recorder>,
) -> Result<(), String> {
    let addr = args.load.address();
    let shards = connect_shards(addr, 1).await?[0].topology().shards();
    let count = usize::from(args.subscribers.unwrap_or(shards));
    for connection in connect_shards(addr, count).await? {
        let topology = connection.topology();
        // With a subscriber for each shard, each takes what its shard owns: nothing crosses cores.
        let partitions: Vec<PartitionId> = if count >= usize::from(shards) {
            topology.owned_by(topology.shard).collect()
        } else {
            Vec::new()
        };
        let options = SubscribeOptions {
            credit: args.credit,
            partitions,
            ..SubscribeOptions::new(run.topic.as_str(), args.group.as_str())
        };
        let opened = connection.open_stream(FrameKind::Subscribe, &options.request());
        let mut stream = opened.map_err(|error| error.to_string())?;
        match stream.next().await {
            Some(Ok(frame)) if frame.kind == FrameKind::Subscribed => {}
            Some(Ok(frame)) => return Err(format!("{:?} in place of Subscribed", frame.kind)),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the subscription ended as it began".to_owned()),
        }
        let (acks, answers) = mpsc::channel(ACKS_AHEAD);
        tokio::spawn(collect(answers, Arc::clone(recorder)));
        tokio::spawn(consume(connection, stream, acks, Arc::clone(recorder)));
    }
    Ok(())
}

/// Receives and acknowledges until the stream ends.
async fn consume(
    connection: Connection,
    stream: FrameStream,
    acks: mpsc::Sender<Acks>,
    recorder: Arc<Recorder>,
) {
    let take = |frame: &Frame, batch: &mut AckBatch| take(&frame.body, batch, &recorder);
    acknowledge(&connection, stream, acks, &recorder, take).await;
}

/// Counts a frame of deliveries and adds the acks for it; those that are full.
fn take(body: &[u8], batch: &mut AckBatch, recorder: &Recorder) -> Result<Vec<AckBatch>, String> {
    let now_us = Now::read().wall_us;
    let (mut full, mut lates, mut again, mut early) = (Vec::new(), Vec::new(), 0, 0);
    deliveries(body, |delivery| {
        full.extend(batch.put(delivery.delivery_id, delivery.schedule_ts));
        let due_us = delivery.schedule_ts * 1_000;
        lates.push(now_us.saturating_sub(due_us));
        again += u64::from(delivery.attempt > 1);
        early += u64::from(due_us > now_us);
    })?;
    recorder.lateness.record_all(lates.into_iter());
    recorder.redelivered.fetch_add(again, Ordering::Relaxed);
    recorder.early.fetch_add(early, Ordering::Relaxed);
    Ok(full)
}

/// Counts what is confirmed.
pub async fn collect(mut answers: mpsc::Receiver<Acks>, recorder: Arc<Recorder>) {
    while let Some((answer, due)) = answers.recv().await {
        let counted = match answer.await {
            Ok(frame) => ack_counts(&frame.body, frame.kind == FrameKind::AckedBatch),
            Err(error) => Err(error.to_string()),
        };
        let now_us = Now::read().wall_us;
        match counted {
            Ok((confirmed, error)) => {
                let latencies = due.iter().map(|due| now_us.saturating_sub(due * 1_000));
                recorder.latencies.record_all(latencies);
                recorder.confirm(confirmed);
                if let Some(error) = error {
                    recorder.fail(due.len() as u64 - confirmed, &error);
                }
            }
            Err(why) => recorder.fail(due.len() as u64, &why),
        }
    }
}

// ------------------------------------------------------------------------------------- gRPC

async fn subscribe_grpc(
    args: &DeliverArgs,
    run: &Run,
    recorder: &Arc<Recorder>,
) -> Result<(), String> {
    let addr = args.load.address();
    for _ in 0..args.subscribers.unwrap_or(1) {
        let mut client = EventServiceClient::new(channel(addr).await?)
            .max_decoding_message_size(limits::MESSAGE_BYTES);
        let request = SubscribeRequest {
            consumer_group: args.group.clone(),
            topic: run.topic.clone(),
            max_buffer_size: args.credit as i32,
            ..SubscribeRequest::default()
        };
        let opened = client.subscribe(tokio_stream::once(request)).await;
        let stream = opened.map_err(|status| status.to_string())?.into_inner();
        tokio::spawn(consume_grpc(client, stream, Arc::clone(recorder)));
    }
    Ok(())
}

async fn consume_grpc(
    mut client: EventServiceClient<Channel>,
    mut stream: tonic::Streaming<Delivery>,
    recorder: Arc<Recorder>,
) {
    let (acks, requests) = mpsc::channel::<AckRequest>(limits::ACK_BATCH);
    let (due, mut dues) = mpsc::unbounded_channel();
    let collector = Arc::clone(&recorder);
    tokio::spawn(async move {
        // The server may answer with headers only once the first ack has come.
        let mut answers = match client.ack(ReceiverStream::new(requests)).await {
            Ok(opened) => opened.into_inner(),
            Err(status) => return collector.fail(1, &status),
        };
        // Answers come in the order of the acks.
        while let Some(due) = dues.recv().await {
            match answers.message().await {
                Ok(Some(answer)) if answer.success => {
                    let now_us = Now::read().wall_us;
                    collector.latencies.record_us(now_us.saturating_sub(due));
                    collector.confirm(1);
                }
                Ok(Some(answer)) => collector.fail(1, &answer.error),
                Ok(None) => return collector.fail(1, &"the server ended the ack stream"),
                Err(status) => return collector.fail(1, &status),
            }
        }
    });
    loop {
        let delivery = match stream.message().await {
            Ok(Some(delivery)) => delivery,
            Ok(None) => return recorder.fail(1, &"the server ended the subscription"),
            Err(status) => return recorder.fail(1, &status),
        };
        let now_us = Now::read().wall_us;
        let schedule_ts = delivery.event.map_or(0, |event| event.schedule_ts);
        let due_us = u64::try_from(schedule_ts).unwrap_or(0) * 1_000;
        recorder.lateness.record_us(now_us.saturating_sub(due_us));
        recorder.redelivered.fetch_add(u64::from(delivery.attempt > 1), Ordering::Relaxed);
        recorder.early.fetch_add(u64::from(due_us > now_us), Ordering::Relaxed);
        let ack = AckRequest {
            delivery_id: delivery.delivery_id,
            success: true,
            ..AckRequest::default()
        };
        if due.send(due_us).is_err() || acks.send(ack).await.is_err() {
            return;
        }
    }
}
