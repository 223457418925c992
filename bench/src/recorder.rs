//! Counting and measuring: what all tasks of a load add to, the progress line, the summary.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::received::Counts;

/// Longest latency told apart: ten minutes, us.
const MAX_US: u64 = 600_000_000;
/// How often the progress line changes.
const PROGRESS: Duration = Duration::from_millis(250);

/// Latencies in us. Shared; the lock is held for nanoseconds.
#[derive(Debug)]
pub struct Latencies(Mutex<Histogram<u64>>);

impl Latencies {
    /// Nothing yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_US, 3).expect("sound bounds");
        Self(Mutex::new(histogram))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    pub fn record(&self, latency: Duration) {
        self.record_us(u64::try_from(latency.as_micros()).unwrap_or(MAX_US));
    }

    /// Adds one, in us.
    pub fn record_us(&self, us: u64) {
        self.lock().saturating_record(us);
    }

    /// Adds many under one lock.
    pub fn record_all(&self, us: impl Iterator<Item = u64>) {
        let mut histogram = self.lock();
        us.for_each(|us| histogram.saturating_record(us));
    }

    /// What was added since the last time; begins anew.
    pub fn take(&self) -> Histogram<u64> {
        let mut histogram = self.lock();
        let taken = histogram.clone();
        histogram.reset();
        taken
    }

    /// Value at a percentile, us.
    pub fn percentile(&self, percentile: f64) -> u64 {
        self.lock().value_at_percentile(percentile)
    }

    /// Highest, us; 0 without any.
    pub fn max(&self) -> u64 {
        self.lock().max()
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// What all tasks of a load add to.
#[derive(Debug)]
pub struct Recorder {
    /// Events confirmed: stored, or for `deliver` acked.
    pub done: AtomicU64,
    /// Events stored.
    pub stored: AtomicU64,
    /// Events that were duplicates (there should be none).
    pub duplicates: AtomicU64,
    /// Events whose request failed.
    pub errors: AtomicU64,
    /// Events received again.
    pub redelivered: AtomicU64,
    /// Events received before their time (there must be none).
    pub early: AtomicU64,
    /// When the last of `done` was, us after the start.
    pub last_us: AtomicU64,
    /// Of requests, or from due to ack.
    pub latencies: Latencies,
    /// From due to received.
    pub lateness: Latencies,
    first_error: Mutex<Option<String>>,
    started: Instant,
}

impl Recorder {
    /// Nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            done: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            early: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            latencies: Latencies::new(),
            lateness: Latencies::new(),
            first_error: Mutex::default(),
            started: Instant::now(),
        })
    }

    /// Events are confirmed now.
    pub fn confirm(&self, events: u64) {
        self.done.fetch_add(events, Ordering::Relaxed);
        let us = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_us.fetch_max(us, Ordering::Relaxed);
    }

    /// What became of a request's events.
    pub fn count(&self, sent: u16, outcome: Result<Counts, String>) {
        let counts = match outcome {
            Ok(counts) => counts,
            Err(why) => return self.fail(u64::from(sent), &why),
        };
        self.stored.fetch_add(counts.stored, Ordering::Relaxed);
        self.duplicates.fetch_add(counts.duplicates, Ordering::Relaxed);
        let told = counts.stored + counts.duplicates + counts.failed;
        if told != u64::from(sent) {
            self.fail(1, &format!("the answer tells of {told} events, {sent} were sent"));
        }
        if counts.failed > 0 {
            self.fail(counts.failed, &counts.error.unwrap_or_default());
        }
    }

    /// Events failed, for this reason.
    pub fn fail(&self, events: u64, why: &impl ToString) {
        self.errors.fetch_add(events.max(1), Ordering::Relaxed);
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| why.to_string());
    }

    /// Shows progress on standard error until the returned guard is dropped.
    pub fn progress(self: &Arc<Self>) -> Progress {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise}  {msg}") {
            bar.set_style(style);
        }
        let (shown, recorder) = (bar.clone(), Arc::clone(self));
        let task = tokio::spawn(async move {
            let (mut last, mut at) = (0, Instant::now());
            loop {
                tokio::time::sleep(PROGRESS).await;
                let done = recorder.done.load(Ordering::Relaxed);
                let rate = (done - last) as f64 / at.elapsed().as_secs_f64();
                (last, at) = (done, Instant::now());
                let errors = recorder.errors.load(Ordering::Relaxed);
                shown.set_message(format!("{done} events  {rate:.0}/s  {errors} errors"));
                shown.tick();
            }
        });
        Progress { bar, task }
    }

    /// Prints the figures; the number of errors.
    pub fn report(
        &self,
        name: &str,
        elapsed: Duration,
        json: bool,
        extra: Map<String, Value>,
    ) -> u64 {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (done, errors) = (get(&self.done), get(&self.errors));
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
        let at = |percentile| self.latencies.percentile(percentile);
        let (p50, p99, p999, max) = (at(50.0), at(99.0), at(99.9), self.latencies.max());
        println!("{name}: {done} events in {:.3} s = {rate:.0} events/s", elapsed.as_secs_f64());
        println!("latency us: p50 {p50}  p99 {p99}  p99.9 {p999}  max {max}");
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("bench", json!(name));
        put("events", json!(done));
        put("seconds", json!(elapsed.as_secs_f64()));
        put("events_per_s", json!(rate.round()));
        put("p50_us", json!(p50));
        put("p99_us", json!(p99));
        put("p999_us", json!(p999));
        put("max_us", json!(max));
        if !self.lateness.is_empty() {
            let at = |percentile| self.lateness.percentile(percentile);
            let (p50, p99, p999, max) = (at(50.0), at(99.0), at(99.9), self.lateness.max());
            println!("lateness us: p50 {p50}  p99 {p99}  p99.9 {p999}  max {max}");
            put("lateness_p50_us", json!(p50));
            put("lateness_p99_us", json!(p99));
            put("lateness_p999_us", json!(p999));
            put("lateness_max_us", json!(max));
            put("redelivered", json!(get(&self.redelivered)));
            put("early", json!(get(&self.early)));
        }
        put("duplicates", json!(get(&self.duplicates)));
        put("errors", json!(errors));
        for (key, value) in &extra {
            println!("{key}: {value}");
        }
        object.extend(extra);
        let (early, again) = (get(&self.early), get(&self.redelivered));
        if early + again + get(&self.duplicates) + errors > 0 {
            let duplicates = get(&self.duplicates);
            println!(
                "errors {errors}  duplicates {duplicates}  redelivered {again}  early {early}"
            );
        }
        let first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = first.as_ref() {
            println!("first error: {why}");
        }
        if json {
            println!("{}", Value::Object(object));
        }
        errors
    }

    /// Time since it was made.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The progress line; gone with it.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
