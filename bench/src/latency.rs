//! `latency`: requests leave at fixed instants, whatever became of those before, and each is
//! measured from its instant. So a stall of the server is seen by every request it delays
//! (no coordinated omission). Also the paced half of `deliver`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chronosdb::base::time::wall_ms;
use clap::Args;
use serde_json::{Map, json};
use tokio::task::JoinSet;

use crate::args::{Due, Load};
use crate::metrics::DiskUse;
use crate::pacer::Pacer;
use crate::recorder::{Latencies, Recorder};
use crate::target::{Publisher, Run, publishers};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench latency --rate 200 --connections 1
      the unloaded server
  chronosdb-bench latency --rate 20000 --connections 16 --duration 30s
  chronosdb-bench latency --rate 100000 --batch 100
      1,000 requests a second of 100 events each";

/// Options of `latency`.
#[derive(Args, Clone, Debug)]
pub struct LatencyArgs {
    /// Events per second
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,

    /// The load.
    #[command(flatten)]
    pub load: Load,
}

/// Runs the load; the number of errors.
pub async fn run(args: LatencyArgs) -> Result<u64, String> {
    let load = Load { batch: Some(args.load.batch.unwrap_or(1)), ..args.load };
    load.check()?;
    let run = Run::new(&load);
    let publishers = publishers(&load).await?;
    let event_bytes = publishers[0].maker(&load, &run, 0, 0).event_bytes() as u64;
    let before = DiskUse::read(&load.http_addr);
    let recorder = Recorder::new();
    let progress = recorder.progress();
    let due = load.due();
    let paced = open_loop(&load, args.rate, &run, publishers, due, &recorder, true).await;
    let late = paced.map_err(|error| format!("no timer: {error}"))?;
    drop(progress);
    let mut extra = Map::new();
    extra.insert("rate".to_owned(), json!(args.rate));
    let stored = recorder.done.load(Ordering::Relaxed);
    DiskUse::report(before, &load.http_addr, stored * event_bytes, &mut extra);
    extra.insert("generator_late_p99_us".to_owned(), json!(late.percentile(99.0)));
    Ok(recorder.report("latency", recorder.elapsed(), load.json, extra))
}

/// Sends at a fixed rate until count or time is reached, then waits for the last answer. Returns
/// how late the generator itself was.
pub async fn open_loop(
    load: &Load,
    rate: u32,
    run: &Run,
    publishers: Vec<Publisher>,
    due: Due,
    recorder: &Arc<Recorder>,
    measure: bool,
) -> io::Result<Latencies> {
    let mut lanes: Vec<_> = publishers
        .into_iter()
        .enumerate()
        .map(|(number, publisher)| {
            let maker = publisher.maker(load, run, number, 0);
            (publisher, maker)
        })
        .collect();
    let (batch, late) = (load.batch(), Latencies::new());
    let events = load.count.unwrap_or((load.duration.as_secs_f64() * f64::from(rate)) as u64);
    let requests = events.div_ceil(u64::from(batch));
    let mut pacer = Pacer::new()?;
    let mut open = JoinSet::new();
    let (start, start_ms) = (Instant::now(), wall_ms());
    for request in 0..requests {
        let first = request * u64::from(batch);
        let count = u64::from(batch).min(events - first) as u16;
        let after = |n: u64| Duration::from_secs_f64(n as f64 / f64::from(rate));
        let intended = start + after(first);
        pacer.until(intended).await?;
        late.record(intended.elapsed());

        let lane = (request % lanes.len() as u64) as usize;
        let (publisher, maker) = &mut lanes[lane];
        // Each event by its own instant: a batch does not make its events due together.
        let at = |n: u16| {
            let number = first + u64::from(n);
            due.at(start_ms + after(number).as_millis() as u64, number)
        };
        let body = maker.fill(count, at);
        let (mut publisher, recorder) = (publisher.clone(), Arc::clone(recorder));
        open.spawn(async move {
            let outcome = publisher.publish_body(count, body).await;
            if let (true, Ok(counts)) = (measure, &outcome) {
                recorder.latencies.record(intended.elapsed());
                recorder.confirm(counts.stored);
            }
            recorder.count(count, outcome);
        });
        // Keeps the set small; never waits.
        while open.try_join_next().is_some() {}
    }
    while open.join_next().await.is_some() {}
    Ok(late)
}
