//! `cliff`: very many events of one topic due in the same millisecond, and what another topic, with
//! a steady trickle, feels of it.
//!
//! Starts a server of its own, publishes to both, and looks at the window that begins when the
//! events become due and ends when the group's members have received all of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chronosdb::base::limits;
use chronosdb::base::time::{Now, wall_ms};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::args::{Load, lasting};
use crate::group::Group;
use crate::latency::open_loop;
use crate::node::{NATIVE, Node, NodeArgs};
use crate::publish;
use crate::recorder::Recorder;
use crate::target::{Run, publishers};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench cliff
      a million events in one millisecond, 1,000 a second beside them
  chronosdb-bench cliff --count 10000000 --json | tail -n 1 | jq .other_p99_us";

/// Events of the other topic are due so long after they are sent.
const OTHER_DELAY: Duration = Duration::from_secs(1);
/// Publishes take no longer than this for a million events, or there is no cliff.
const MILLION: Duration = Duration::from_secs(10);
/// Between the last publish and the cliff at least.
const QUIET: Duration = Duration::from_secs(2);
/// Before the first event is sent: connections, subscriptions.
const LEAD: Duration = Duration::from_secs(5);

/// Of the other topic the worst is told for so long each.
const SLICE: Duration = Duration::from_millis(250);

/// Options of `cliff`.
#[derive(Args, Clone, Debug)]
pub struct CliffArgs {
    /// Events due in one millisecond
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,

    /// Payload of an event, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub payload: u32,

    /// They are due so long after the start [default: 5 s, and 10 s for each million]
    #[arg(long, value_name = "TIME", value_parser = lasting)]
    pub delay: Option<Duration>,

    /// Events a second of the other topic
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,

    /// Members of the group
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub members: u16,

    /// Connections that the members share
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub connections: u16,

    /// Deliveries in flight of a member
    #[arg(long, value_name = "N", default_value_t = limits::CREDIT_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::CREDIT_MAX)))]
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
pub async fn run(args: CliffArgs) -> Result<u64, String> {
    args.node.check_empty()?;
    let node = Node::start(&args.node)?;
    let beside = Beside::begin(&args).await?;
    let (group, at_ms) = fill(&args).await?;
    let (_, peak_before) = node.memory();
    node.forget_peak()?;
    until(at_ms).await;
    let used = node.processor_time();
    drop(beside.recorder.lateness.take());

    let began = Instant::now();
    let progress = group.recorder.progress();
    let (mut received_in, mut slices, mut cut) = (None, Vec::new(), began);
    let look = || {
        if received_in.is_none() && group.received() >= args.count {
            received_in = Some(began.elapsed());
        } else if received_in.is_some() || cut.elapsed() < SLICE {
            return;
        }
        cut = Instant::now();
        slices.push(beside.recorder.lateness.take());
    };
    group.drain(args.count, args.patience, look).await;
    drop(progress);
    let acked_in = began.elapsed();
    let received_in = received_in.unwrap_or(acked_in);
    let mut window = beside.recorder.lateness.take();
    window.reset();
    for slice in &slices {
        window += slice;
    }
    let worst_ms: Vec<u64> = slices.iter().map(|slice| slice.max() / 1_000).collect();
    let used = node.processor_time().saturating_sub(used).as_secs_f64() * 1e6 / args.count as f64;
    let (_, peak) = node.memory();
    let beside_errors = beside.end().early.load(Ordering::Relaxed);
    node.kill();
    std::fs::remove_dir_all(&args.node.data_dir).map_err(|error| error.to_string())?;

    let figures = Figures { received_in, acked_in, used, peak_before, peak, worst_ms, window };
    let extra = figures.tell(&args);
    let errors = group.recorder.report("cliff", acked_in, args.json, extra);
    let early = group.recorder.early.load(Ordering::Relaxed);
    Ok(errors + early + beside_errors + args.count.abs_diff(group.received()))
}

/// The other topic: its publisher and its group, in a thread of their own. Other consumers are
/// other processes: what waits for the cliff's own members must not be late here.
struct Beside {
    recorder: Arc<Recorder>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Beside {
    async fn begin(args: &CliffArgs) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (stop, stopped) = oneshot::channel();
        let (begin, begun) = oneshot::channel();
        let (rate, credit) = (args.rate, args.credit);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    over = trickle(rate, credit, begin) => {
                        over.unwrap_or_else(|error| eprintln!("the other topic: {error}"));
                    }
                    _ = stopped => {}
                }
            });
        });
        let recorder = begun.await.map_err(|_| "the other topic did not begin")?;
        Ok(Self { recorder, stop, thread })
    }

    fn end(self) -> Arc<Recorder> {
        let Self { recorder, stop, thread } = self;
        drop(stop);
        thread.join().expect("the other topic's thread");
        recorder
    }
}

/// Publishes to the other topic, and receives.
async fn trickle(
    rate: u32,
    credit: u32,
    begin: oneshot::Sender<Arc<Recorder>>,
) -> Result<(), String> {
    let other = Load {
        addr: Some(NATIVE.to_owned()),
        batch: Some(1),
        connections: 1,
        delay: OTHER_DELAY,
        count: Some(u64::MAX / 2),
        ..Load::standard()
    };
    let run = Run::new(&other);
    let group = Group::open(NATIVE, &run.topic, 1, 1, credit).await?;
    let (to, recorder) = (publishers(&other).await?, Arc::clone(&group.recorder));
    // Nobody waits any more if the run is over.
    let _ = begin.send(Arc::clone(&recorder));
    let due = other.due();
    let over = open_loop(&other, rate, &run, to, due, &recorder, false).await;
    over.map(drop).map_err(|error| error.to_string())
}

/// What was measured.
struct Figures {
    received_in: Duration,
    acked_in: Duration,
    /// Processor time of the server, us an event.
    used: f64,
    peak_before: u64,
    peak: u64,
    worst_ms: Vec<u64>,
    window: Histogram<u64>,
}

impl Figures {
    /// Prints them; the same for JSON.
    fn tell(self, args: &CliffArgs) -> Map<String, Value> {
        let Self { received_in, acked_in, used, peak_before, peak, worst_ms, window } = self;
        let at = |percentile: f64| window.value_at_percentile(percentile);
        let (p50, p99, p999, max) = (at(50.0), at(99.0), at(99.9), window.max());
        println!("all received in       {:.3} s", received_in.as_secs_f64());
        println!("all acked in          {:.3} s", acked_in.as_secs_f64());
        println!("processor, an event   {used:.2} us of the server");
        println!("memory until then     at most {} MiB", peak_before >> 20);
        println!("  in the window       at most {} MiB", peak >> 20);
        let events = window.len();
        print!("other topic           {events} events, lateness us: ");
        println!("p50 {p50}  p99 {p99}  p99.9 {p999}  max {max}");
        println!("  worst, each 250 ms    {worst_ms:?} ms");
        let mut extra = Map::new();
        let mut put = |key: &str, value| extra.insert(key.to_owned(), value);
        put("received_seconds", json!(received_in.as_secs_f64()));
        put("server_processor_us_per_event", json!((used * 100.0).round() / 100.0));
        put("rss_before_peak_bytes", json!(peak_before));
        put("rss_peak_bytes", json!(peak));
        put("other_rate", json!(args.rate));
        put("other_events", json!(events));
        put("other_p50_us", json!(p50));
        put("other_p99_us", json!(p99));
        put("other_p999_us", json!(p999));
        put("other_max_us", json!(max));
        put("other_worst_ms", json!(worst_ms));
        extra
    }
}

/// Publishes the events and opens their group; when they are due, Unix ms.
async fn fill(args: &CliffArgs) -> Result<(Arc<Group>, u64), String> {
    let load = Load {
        addr: Some(NATIVE.to_owned()),
        count: Some(args.count),
        payload: args.payload,
        ..Load::standard()
    };
    let run = Run::new(&load);
    let (members, connections) = (args.members, args.connections);
    let group = Group::open(NATIVE, &run.topic, members, connections, args.credit).await?;
    let delay = args.delay.unwrap_or(LEAD + MILLION.mul_f64(args.count as f64 / 1e6));
    let at_ms = wall_ms() + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2);
    let mut due = load.due();
    due.instant_ms = Some(at_ms);
    let took = publish::fill(&load, &run, due).await?.as_secs();
    if wall_ms() + QUIET.as_millis() as u64 > at_ms {
        return Err(format!("publishing took {took} s: take a longer --delay"));
    }
    Ok((group, at_ms))
}

/// Sleeps until an instant, Unix ms.
async fn until(at_ms: u64) {
    let left_us = (at_ms * 1_000).saturating_sub(Now::read().wall_us);
    tokio::time::sleep(Duration::from_micros(left_us)).await;
}
