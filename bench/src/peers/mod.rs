//! `peer`: the same load on ChronosDB and on what people use in its place, one after the other, on
//! one machine: single durable publishes, batches (pipelines where a peer has no batches), and
//! delivery with acknowledgement of what they left.
//!
//! Every peer has one [`Peer`]: a connection that publishes and takes. The loop around it, the
//! payloads, the number of connections and the clock are the same for all. What differs is told in
//! each file: what the peer cannot do that ChronosDB does, and the other way round.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::task::JoinSet;

use crate::args::lasting;
use crate::recorder::Latencies;

mod beanstalkd;
mod chronos;
mod nats;
mod postgres;
mod redis;
mod table;
mod wire;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench peer chronosdb --addr 127.0.0.1:7700
  chronosdb-bench peer redis-stream --addr 127.0.0.1:6379 --results rows.jsonl
      an empty server, with `appendonly yes` and `appendfsync always`
  chronosdb-bench peer-table --results rows.jsonl
scripts/peers.sh starts all of them with the right settings.";

/// Payload of an event, bytes.
const PAYLOAD: usize = 256;
/// Events of a batch.
const BATCH: u16 = 1_000;
/// Connections for single publishes, and for the rest.
const SINGLES: usize = 64;
const LANES: usize = 4;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// ChronosDB, native protocol.
    Chronosdb,
    /// Redis: XADD, XREADGROUP, XACK.
    RedisStream,
    /// Redis: a sorted set by time, ZADD, ZRANGEBYSCORE, ZREM.
    RedisZset,
    /// beanstalkd: put, reserve, delete.
    Beanstalkd,
    /// PostgreSQL: a table of jobs, SKIP LOCKED.
    Postgres,
    /// NATS JetStream: a file stream and a durable pull consumer.
    Nats,
}

/// Options of `peer`.
#[derive(Args, Clone, Debug)]
pub struct PeerArgs {
    /// Which server
    #[arg(value_enum)]
    pub kind: Kind,

    /// Where it listens
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: String,

    /// Time for each of the three parts
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = lasting)]
    pub duration: Duration,

    /// Appends the figures to this file, an object of JSON a line
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,
}

/// Options of `peer-table`.
#[derive(Args, Clone, Debug)]
pub struct TableArgs {
    /// What `peer --results` wrote
    #[arg(long, value_name = "FILE")]
    pub results: PathBuf,
}

/// A connection to a server.
trait Peer: Sized + Send + 'static {
    /// Connects `count` times; makes the queue if it is not there.
    fn connect(addr: &str, count: usize) -> impl Future<Output = Result<Vec<Self>, String>> + Send;

    /// Publishes `count` events with numbers from `first` on, due now. Durable when it returns.
    fn publish(
        &mut self,
        first: u64,
        count: u16,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Receives some events and acknowledges them; how many. 0 if there are none left.
    fn take(&mut self) -> impl Future<Output = Result<u64, String>> + Send;
}

/// What was measured of a part.
struct Part {
    per_s: f64,
    latencies: Latencies,
}

/// Measures one server; 0 errors, or why it can't.
pub async fn run(args: PeerArgs) -> Result<u64, String> {
    match args.kind {
        Kind::Chronosdb => measure::<chronos::Chronos>(&args).await,
        Kind::RedisStream => measure::<redis::Stream>(&args).await,
        Kind::RedisZset => measure::<redis::SortedSet>(&args).await,
        Kind::Beanstalkd => measure::<beanstalkd::Beanstalkd>(&args).await,
        Kind::Postgres => measure::<postgres::Postgres>(&args).await,
        Kind::Nats => measure::<nats::Nats>(&args).await,
    }
}

/// Prints the table of what was measured.
pub fn print_table(args: &TableArgs) -> Result<u64, String> {
    let text = std::fs::read_to_string(&args.results)
        .map_err(|error| format!("{}: {error}", args.results.display()))?;
    print!("{}", table::markdown(&text)?);
    Ok(0)
}

async fn measure<P: Peer>(args: &PeerArgs) -> Result<u64, String> {
    let singles = publish::<P>(args, SINGLES, 1).await?;
    let batches = publish::<P>(args, LANES, BATCH).await?;
    let taken = take::<P>(args).await?;
    let (p50, p99) = (singles.latencies.percentile(50.0), singles.latencies.percentile(99.0));
    let name = args.kind.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    let line = json!({
        "bench": "peer", "peer": name, "single_per_s": singles.per_s.round(),
        "single_p50_us": p50, "single_p99_us": p99, "batch_per_s": batches.per_s.round(),
        "batch_p50_us": batches.latencies.percentile(50.0), "deliver_per_s": taken.round(),
    });
    println!("{line}");
    if let Some(path) = &args.results {
        let write = || {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            writeln!(file, "{line}")
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(0)
}

/// Publishes for a while over so many connections with one request in flight each.
async fn publish<P: Peer>(args: &PeerArgs, connections: usize, count: u16) -> Result<Part, String> {
    let peers = P::connect(&args.addr, connections).await?;
    let (began, duration) = (Instant::now(), args.duration);
    let mut lanes = JoinSet::new();
    for (number, mut peer) in peers.into_iter().enumerate() {
        lanes.spawn(async move {
            // Numbers tell lanes and parts apart.
            let mut next = (number as u64 + 1) << 40 | u64::from(count) << 28;
            let mut taken = Vec::new();
            while began.elapsed() < duration {
                let sent = Instant::now();
                peer.publish(next, count).await?;
                taken.push(sent.elapsed().as_micros() as u64);
                next += u64::from(count);
            }
            Ok::<_, String>(taken)
        });
    }
    let (latencies, mut requests) = (Latencies::new(), 0);
    while let Some(done) = lanes.join_next().await {
        let taken = done.map_err(|error| error.to_string())??;
        requests += taken.len() as u64;
        latencies.record_all(taken.into_iter());
    }
    let events = (requests * u64::from(count)) as f64;
    Ok(Part { per_s: events / began.elapsed().as_secs_f64(), latencies })
}

/// Takes for a while, or until nothing is left; events a second.
async fn take<P: Peer>(args: &PeerArgs) -> Result<f64, String> {
    let peers = P::connect(&args.addr, LANES).await?;
    let (began, duration) = (Instant::now(), args.duration);
    let mut lanes = JoinSet::new();
    for mut peer in peers {
        lanes.spawn(async move {
            let (mut events, mut last) = (0, Duration::ZERO);
            while began.elapsed() < duration {
                match peer.take().await? {
                    0 => break,
                    taken => events += taken,
                }
                last = began.elapsed();
            }
            Ok::<_, String>((events, last))
        });
    }
    let (mut events, mut last) = (0, Duration::ZERO);
    while let Some(done) = lanes.join_next().await {
        let (taken, at) = done.map_err(|error| error.to_string())??;
        events += taken;
        last = last.max(at);
    }
    Ok(events as f64 / last.as_secs_f64().max(1e-9))
}

/// Id of an event, as long as ChronosDB's in the other benchmarks.
fn id(number: u64) -> String {
    format!("peer-event-{number:016x}")
}

/// The payload of all events: bytes that no compression would shrink and that need no escapes.
fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(state >> 58) as usize]
    };
    std::iter::repeat_with(next).take(PAYLOAD).collect()
}
