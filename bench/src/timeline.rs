//! `timeline`: lateness second by second while a server fires, with what it did beside it: segments
//! rolled, checkpoints written, flushes and merges begun, runs loaded, old segments removed. A mean
//! over a minute hides the second in which a job took the disk; this shows it.
//!
//! Starts a server of its own, leaves events pending in it, and looks every quarter of a second at
//! its counters and at its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::args::{Load, lasting};
use crate::chart::{Axis, Chart, Line, Mark, short};
use crate::deliver::{DeliverArgs, subscribe_native};
use crate::latency::open_loop;
use crate::metrics;
use crate::node::{HTTP, NATIVE, Node, NodeArgs};
use crate::publish::closed_loop;
use crate::recorder::Recorder;
use crate::target::{Run, publishers};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench timeline --rate 100000 --pending 10000000 --duration 2m --svg timeline.svg
  chronosdb-bench timeline --option=--segment-size=32MiB --option=--flush-size=8MiB
      segments, flushes and merges come often";

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Counters whose growth is a mark. Retention has none yet: it shows in the files.
const COUNTERS: [(&str, &str); 3] = [
    ("cronos_checkpoints_total", "checkpoint"),
    ("cronos_jobs_total", "flush or merge"),
    ("cronos_loads_total", "run loaded"),
];
const ROLLED: &str = "segment rolled";
const REMOVED: &str = "segment removed";
/// Publishes are ahead of their time by this much.
const DELAY: Duration = Duration::from_secs(2);

/// Options of `timeline`.
#[derive(Args, Clone, Debug)]
pub struct TimelineArgs {
    /// Fires a second
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,

    /// Events of a request
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub batch: u16,

    /// Events that are pending all the while, due over 30 days behind the next hour
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub pending: u64,

    /// Fire for so long
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = lasting)]
    pub duration: Duration,

    /// Where to write the chart
    #[arg(long, value_name = "FILE", default_value = "timeline.svg")]
    pub svg: PathBuf,

    /// In the chart: the machine, the commit
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,

    #[command(flatten)]
    pub node: NodeArgs,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

/// One second: how late what came in it was, us.
#[derive(Clone, Copy, Debug)]
struct Second {
    at: f64,
    events: u64,
    p50: u64,
    p99: u64,
    p999: u64,
}

/// Runs it; the number of errors.
pub async fn run(args: TimelineArgs) -> Result<u64, String> {
    args.node.check_empty()?;
    let node = Node::start(&args.node)?;
    let load = |load: Load| Load { addr: Some(NATIVE.to_owned()), ..load };
    let hour = Duration::from_hours(1);
    let pending =
        Load { count: Some(args.pending), delay: hour, spread: 720 * hour, ..Load::standard() };
    if args.pending > 0 {
        let pending = load(pending);
        let run = Run::new(&pending);
        let (to, recorder) = (publishers(&pending).await?, Recorder::new());
        closed_loop(&pending, &run, to, pending.due(), &recorder, true).await;
        let failed = recorder.errors.load(Ordering::Relaxed);
        if failed > 0 {
            return Err(format!("{failed} of the pending events were not stored"));
        }
    }
    let fired = load(Load {
        batch: Some(args.batch),
        delay: DELAY,
        duration: args.duration,
        ..Load::standard()
    });
    let recorder = Recorder::new();
    let (seconds, marks) = fire(&args, fired, &recorder).await?;
    node.kill();
    std::fs::remove_dir_all(&args.node.data_dir).map_err(|error| error.to_string())?;
    report(&args, &seconds, marks, &recorder)
}

/// Fires and watches.
async fn fire(
    args: &TimelineArgs,
    load: Load,
    recorder: &Arc<Recorder>,
) -> Result<(Vec<Second>, Vec<Mark>), String> {
    let run = Run::new(&load);
    let to = publishers(&load).await?;
    let deliver = DeliverArgs::of(load.clone());
    subscribe_native(&deliver, &run, recorder).await?;
    let began = Instant::now();
    let (source, rate) = (Arc::clone(recorder), args.rate);
    let due = load.due();
    let publishing = tokio::spawn(async move {
        open_loop(&load, rate, &run, to, due, &source, false).await.map(drop)
    });
    // The watch has a thread of its own: it blocks on HTTP and on the disk.
    let (path, until) = (args.node.data_dir.clone(), began + args.duration + DELAY);
    let watch = tokio::task::spawn_blocking(move || watch(&path, began, until));
    let mut seconds = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let histogram = recorder.lateness.take();
        if histogram.is_empty() {
            continue;
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        seconds.push(Second {
            at: began.elapsed().as_secs_f64(),
            events: histogram.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        });
    }
    let published = publishing.await.map_err(|error| error.to_string())?;
    published.map_err(|error| format!("no timer: {error}"))?;
    let marks = watch.await.map_err(|error| error.to_string())?;
    Ok((seconds, marks))
}

/// What the server did until then, by its counters and its files.
fn watch(data_dir: &Path, began: Instant, until: Instant) -> Vec<Mark> {
    let mut marks = Vec::new();
    let count = |name| metrics::sum(HTTP, name).unwrap_or(0);
    let mut counts = COUNTERS.map(|(name, _)| count(name));
    let mut files = segments(data_dir);
    while Instant::now() < until {
        std::thread::sleep(LOOK);
        let x = began.elapsed().as_secs_f64();
        for ((name, kind), before) in COUNTERS.iter().zip(&mut counts) {
            let now = count(name);
            marks.extend((*before..now).map(|_| Mark { x, kind }));
            *before = now.max(*before);
        }
        let now = segments(data_dir);
        marks.extend(now.difference(&files).map(|_| Mark { x, kind: ROLLED }));
        marks.extend(files.difference(&now).map(|_| Mark { x, kind: REMOVED }));
        files = now;
    }
    marks
}

/// The segments of all partitions.
fn segments(data_dir: &Path) -> BTreeSet<PathBuf> {
    let list = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let files = list(data_dir).flat_map(|partition| list(&partition.path()));
    let paths = files.map(|file| file.path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect()
}

fn report(
    args: &TimelineArgs,
    seconds: &[Second],
    marks: Vec<Mark>,
    recorder: &Recorder,
) -> Result<u64, String> {
    println!("{:>6} {:>9} {:>9} {:>9} {:>9}", "second", "events", "p50 us", "p99 us", "p99.9 us");
    for second in seconds {
        let Second { at, events, p50, p99, p999 } = second;
        println!("{at:>6.1} {events:>9} {p50:>9} {p99:>9} {p999:>9}");
    }
    let kinds: BTreeSet<&str> = marks.iter().map(|mark| mark.kind).collect();
    for kind in kinds {
        println!("{kind}: {}", marks.iter().filter(|mark| mark.kind == kind).count());
    }
    let errors = recorder.errors.load(Ordering::Relaxed);
    let early = recorder.early.load(Ordering::Relaxed);
    let figures = json!({
        "bench": "timeline", "rate": args.rate, "pending": args.pending, "errors": errors,
        "early": early,
        "seconds": seconds.iter().map(|s| json!([s.at, s.events, s.p50, s.p99, s.p999]))
            .collect::<Vec<Value>>(),
        "marks": marks.iter().map(|mark| json!([mark.x, mark.kind])).collect::<Vec<Value>>(),
    });
    let line = |name: &str, value: fn(&Second) -> u64| Line {
        name: name.to_owned(),
        points: seconds.iter().map(|second| (second.at, value(second) as f64 / 1e3)).collect(),
    };
    let chart = Chart {
        title: format!(
            "Lateness at {} fires/s, {} pending",
            short(f64::from(args.rate)),
            short(args.pending as f64)
        ),
        note: args.note.clone(),
        x: Axis { title: "seconds".into(), log: false },
        y: Axis { title: "ms from due to received".into(), log: true },
        lines: vec![line("p50", |s| s.p50), line("p99", |s| s.p99), line("p99.9", |s| s.p999)],
        marks,
    };
    chart.write(&args.svg)?;
    if args.json {
        println!("{figures}");
    }
    Ok(errors + early)
}
