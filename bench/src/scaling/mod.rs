//! `scaling`: what an event costs when there is more of something: pending events, partitions,
//! topics, connections, shards. A cost that grows with what is merely there is found here before a
//! user finds it.
//!
//! The wheel and the engine are measured alone, on one core, by wall clock; connections, shards and
//! hops on a server that is started for it. Compare within a part, not across.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::node::NodeArgs;

mod alone;
mod connections;
mod shards;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb-bench scaling
      all parts; some minutes
  chronosdb-bench scaling --part wheel --pending 100000000
  chronosdb-bench scaling --part hop --json | tail -n 1 | jq '.rows[] | .p50_us'";

/// What there is more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Pending entries of the wheel: insert, cancel, fire.
    Wheel,
    /// Pending events of an engine: publish, and deliver with ack.
    Engine,
    /// Partitions of an engine that a batch spreads over.
    Partitions,
    /// Topics of an engine that a batch spreads over.
    Topics,
    /// Connections of a server that publish single events.
    Connections,
    /// Shards of a server: one and two.
    Shards,
    /// Connections to the shard that owns a partition, and to another.
    Hop,
}

/// Options of `scaling`.
#[derive(Args, Clone, Debug)]
pub struct ScalingArgs {
    /// Only this; can be given several times [default: all]
    #[arg(long, value_enum)]
    pub part: Vec<Part>,

    /// Most entries that are pending in the wheel; the engine gets a tenth
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(10_000..=1_000_000_000))]
    pub pending: u64,

    /// Most connections
    #[arg(long, value_name = "N", default_value_t = 9_900)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=9_900))]
    pub connections: u16,

    #[command(flatten)]
    pub node: NodeArgs,

    /// Last line of standard output is a JSON object with the figures
    #[arg(long)]
    pub json: bool,
}

/// The figures so far.
#[derive(Debug, Default)]
pub struct Rows(Vec<Value>);

impl Rows {
    /// Tells a row: so many of `of`, and figures with their units in their names.
    pub fn tell(&mut self, part: &str, of: &str, count: u64, figures: &[(&str, f64)]) {
        print!("{part:<12} {count:>10} {of:<12}");
        let mut row = Map::new();
        row.insert("part".to_owned(), json!(part));
        row.insert(of.to_owned(), json!(count));
        for (name, value) in figures {
            print!("  {name} {value:.0}");
            row.insert((*name).to_owned(), json!((value * 10.0).round() / 10.0));
        }
        println!();
        self.0.push(Value::Object(row));
    }
}

/// Measures; the number of errors.
pub async fn run(args: ScalingArgs) -> Result<u64, String> {
    args.node.check_empty()?;
    let parts = match &args.part[..] {
        [] => Part::value_variants(),
        some => some,
    };
    let (mut rows, mut errors) = (Rows::default(), 0);
    for part in parts {
        match part {
            Part::Wheel => alone::wheel(args.pending, &mut rows),
            Part::Engine => alone::engine(args.pending / 10, &mut rows),
            Part::Partitions => alone::partitions(&mut rows),
            Part::Topics => alone::topics(&mut rows),
            Part::Connections => errors += connections::measure(&args, &mut rows).await?,
            Part::Shards => errors += shards::one_and_two(&args, &mut rows).await?,
            Part::Hop => errors += shards::hop(&args, &mut rows).await?,
        }
    }
    if args.json {
        println!("{}", json!({ "bench": "scaling", "rows": rows.0 }));
    }
    Ok(errors)
}

/// Removes what a server has left, so that the next one starts on nothing.
fn remove_data(args: &ScalingArgs) -> Result<(), String> {
    std::fs::remove_dir_all(&args.node.data_dir).map_err(|error| error.to_string())
}
