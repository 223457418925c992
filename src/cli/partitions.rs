//! `chronosdb partitions`: the state of each partition.

use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, printable};
use super::remote::{Remote, block_on, explain};
use crate::client::PartitionInfo;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb partitions
      a table
  chronosdb partitions --json | jq .pending
      one JSON object per partition";

/// Options of `chronosdb partitions`.
#[derive(Args, Clone, Debug)]
pub struct PartitionsArgs {
    /// Print a JSON object per partition
    #[arg(long)]
    pub json: bool,

    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// Runs the command.
pub fn run(args: &PartitionsArgs) -> Result<(), String> {
    let partitions = block_on(async {
        let client = args.remote.connect().await?;
        client.partitions().await.map_err(|error| explain(&error))
    })?;
    let mut output = Output::new(args.json);
    if !args.json {
        output.line(|| HEADER.to_owned(), || Value::Null)?;
    }
    for partition in &partitions {
        output.line(|| text(partition), || object(partition))?;
    }
    output.flush().map(drop)
}

const HEADER: &str = "partition  leader            shard  term      events     pending       \
                      ready   in flight  segments        disk";

fn text(p: &PartitionInfo) -> String {
    let note = if p.read_only { "  damaged: read-only" } else { "" };
    format!(
        "{:>9}  {:<16}  {:>5}  {:>4}  {:>10}  {:>10}  {:>10}  {:>10}  {:>8}  {:>10}{note}",
        p.partition_id,
        printable(&p.leader_id),
        p.shard,
        p.term,
        p.high_watermark,
        p.pending_events,
        p.ready_events,
        p.in_flight,
        p.segment_count,
        size(p.disk_usage_bytes),
    )
}

/// Bytes for people.
fn size(bytes: i64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit < 4 {
        value /= 1024.0;
        unit += 1;
    }
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"][unit];
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

fn object(p: &PartitionInfo) -> Value {
    json!({
        "partition": p.partition_id,
        "leader": p.leader_id,
        "shard": p.shard,
        "term": p.term,
        "high_watermark": p.high_watermark,
        "last_offset": p.last_offset,
        "pending": p.pending_events,
        "ready": p.ready_events,
        "in_flight": p.in_flight,
        "segments": p.segment_count,
        "disk_bytes": p.disk_usage_bytes,
        "read_only": p.read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_names() {
        let info = PartitionInfo {
            partition_id: 15,
            leader_id: "node-1".into(),
            disk_usage_bytes: 3 << 20,
            ..PartitionInfo::default()
        };
        assert_eq!(text(&info).len(), HEADER.len());
        assert!(text(&info).ends_with("3.0 MiB"));
        let rotten = PartitionInfo { read_only: true, ..info };
        assert!(text(&rotten).ends_with("read-only"));
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(5 << 40), "5.0 TiB");
    }
}
