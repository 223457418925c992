//! `publish`: as many durable publishes as the server confirms. Also the unpaced half of `deliver`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chronosdb::base::time::wall_ms;
use serde_json::{Map, json};
use tokio::task::JoinSet;

use crate::args::{Due, Load};
use crate::metrics::DiskUse;
use crate::recorder::Recorder;
use crate::target::{Publisher, Run, publishers};
use crate::template::EventMaker;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench publish
      batches of 1,000 over 4 connections
  chronosdb-bench publish --batch 1 --connections 64 --in-flight 1
      single events
  chronosdb-bench publish --count 1000000 --delay 1h
      leaves a million events pending
  chronosdb-bench publish --transport grpc --json | tail -n 1 | jq .events_per_s";

/// Runs the load; the number of errors.
pub async fn run(load: Load) -> Result<u64, String> {
    load.check()?;
    let run = Run::new(&load);
    let publishers = publishers(&load).await?;
    let event_bytes = publishers[0].maker(&load, &run, 0, 0).event_bytes() as u64;
    let before = DiskUse::read(&load.http_addr);
    let recorder = Recorder::new();
    let progress = recorder.progress();
    closed_loop(&load, &run, publishers, load.due(), &recorder, true).await;
    drop(progress);
    let mut extra = Map::new();
    let stored = recorder.done.load(Ordering::Relaxed);
    DiskUse::report(before, &load.http_addr, stored * event_bytes, &mut extra);
    extra.insert("topic".to_owned(), json!(run.topic));
    Ok(recorder.report("publish", recorder.elapsed(), load.json, extra))
}

/// What the lanes of a load share: how much is still to be sent.
struct Budget {
    claimed: AtomicU64,
    count: u64,
    until: Option<Instant>,
}

impl Budget {
    /// Takes up to `batch` events; the number of the first and how many. `None` at the end.
    fn claim(&self, batch: u16) -> Option<(u64, u16)> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        let first = self.claimed.fetch_add(u64::from(batch), Ordering::Relaxed);
        let left = self.count.checked_sub(first).filter(|left| *left > 0)?;
        Some((first, u64::from(batch).min(left) as u16))
    }
}

/// Fills a server with the load; how long that took. An error if not all of it is stored.
pub async fn fill(load: &Load, run: &Run, due: Due) -> Result<Duration, String> {
    let filling = Recorder::new();
    let progress = filling.progress();
    closed_loop(load, run, publishers(load).await?, due, &filling, true).await;
    drop(progress);
    let failed = filling.errors.load(Ordering::Relaxed);
    if failed > 0 {
        return Err(format!("{failed} events were not stored"));
    }
    Ok(filling.elapsed())
}

/// Keeps `in_flight` requests open on every connection until count or time is reached. With
/// `measure`, stored events are what the load is about, and latencies those of its requests.
pub async fn closed_loop(
    load: &Load,
    run: &Run,
    publishers: Vec<Publisher>,
    due: Due,
    recorder: &Arc<Recorder>,
    measure: bool,
) {
    let budget = Arc::new(Budget {
        claimed: AtomicU64::new(0),
        count: load.count.unwrap_or(u64::MAX),
        until: load.count.is_none().then(|| Instant::now() + load.duration),
    });
    let mut lanes = JoinSet::new();
    for (number, publisher) in publishers.into_iter().enumerate() {
        for lane in 0..usize::from(load.in_flight) {
            let maker = publisher.maker(load, run, number, lane);
            let lane = Lane {
                publisher: publisher.clone(),
                maker,
                batch: load.batch(),
                due,
                budget: Arc::clone(&budget),
                recorder: Arc::clone(recorder),
                measure,
            };
            lanes.spawn(lane.run());
        }
    }
    while let Some(done) = lanes.join_next().await {
        if let Err(error) = done {
            recorder.fail(1, &error);
        }
    }
}

/// One request at a time.
struct Lane {
    publisher: Publisher,
    maker: EventMaker,
    batch: u16,
    due: Due,
    budget: Arc<Budget>,
    recorder: Arc<Recorder>,
    measure: bool,
}

impl Lane {
    async fn run(mut self) {
        while let Some((first, count)) = self.budget.claim(self.batch) {
            let (now_ms, due) = (wall_ms(), self.due);
            let sent = Instant::now();
            let due = |n| due.at(now_ms, first + u64::from(n));
            let outcome = self.publisher.publish(&mut self.maker, count, due).await;
            if let (true, Ok(counts)) = (self.measure, &outcome) {
                self.recorder.latencies.record(sent.elapsed());
                self.recorder.confirm(counts.stored);
            }
            self.recorder.count(count, outcome);
            if self.publisher.is_closed() {
                return;
            }
        }
    }
}
