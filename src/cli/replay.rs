//! `chronosdb replay`: prints history. Moves no group.

use clap::Args;
use serde_json::Value;

use super::output::{Output, event_object, event_text};
use super::remote::{Remote, block_on, explain};
use super::when::When;
use crate::base::ids::{Offset, PartitionId};
use crate::base::time;
use crate::client::{ReplayOptions, ReplayRange};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  chronosdb replay --topic orders
      everything that has been due so far, in order of its time
  chronosdb replay --topic orders --from -1h --to -30m
      what was due in that half hour
  chronosdb replay --topic orders --partition 3 --offset 100 --count 10 --json
      ten events of a partition by offset
  chronosdb replay --topic orders --from -1h --speed 60
      the last hour in one minute";

/// Options of `chronosdb replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// Topic to read
    #[arg(long, short)]
    pub topic: String,

    /// First time: -1h, 2026-12-24T18:00:00Z, or Unix ms [default: the first event]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<When>,

    /// Last time [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<When>,

    /// Read by offset from here on, in place of time
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"])]
    pub offset: Option<u64>,

    /// Events at most [default with --offset: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Only this partition; may be repeated
    #[arg(long, value_name = "N")]
    pub partition: Vec<u16>,

    /// 0: as fast as it goes; K: K times as fast as it happened
    #[arg(long, value_name = "K", default_value_t = 0.0, value_parser = speed)]
    pub speed: f64,

    /// Print a JSON object per event
    #[arg(long)]
    pub json: bool,

    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed >= 0.0 => Ok(speed),
        _ => Err("it is 0 or more".to_owned()),
    }
}

/// What is asked for, given the time.
fn options(args: &ReplayArgs, now_ms: u64) -> ReplayOptions {
    let range = match args.offset {
        Some(start) => {
            ReplayRange::Offsets { start: Offset(start), count: args.count.unwrap_or(0) }
        }
        None => ReplayRange::Time {
            start: args.from.map_or(1, |from| from.unix_ms(now_ms)),
            end: args.to.map(|to| to.unix_ms(now_ms)),
        },
    };
    ReplayOptions {
        topic: args.topic.clone(),
        partitions: args.partition.iter().map(|partition| PartitionId(*partition)).collect(),
        range,
        speed: args.speed,
    }
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> Result<(), String> {
    block_on(replay(args))
}

async fn replay(args: &ReplayArgs) -> Result<(), String> {
    let client = args.remote.connect().await?;
    let opened = client.replay(options(args, time::wall_ms())).await;
    let mut history = opened.map_err(|error| explain(&error))?;
    let mut output = Output::new(args.json);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = tokio::select! {
            next = history.next() => next,
            _ = tokio::signal::ctrl_c() => break,
        };
        let event = match next {
            Some(Ok(replayed)) => replayed.event,
            Some(Err(error)) => {
                output.flush()?;
                return Err(explain(&error));
            }
            None => break,
        };
        let open = output.line(|| event_text(&event), || Value::Object(event_object(&event)))?;
        // At speed, each line is to be seen in its time.
        if !open || (args.speed > 0.0 && !output.flush()?) {
            return Ok(());
        }
        left -= 1;
    }
    output.flush().map(drop)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        replay: ReplayArgs,
    }

    fn range(words: &[&str]) -> ReplayRange {
        let words = ["replay", "--topic", "t"].iter().chain(words);
        options(&Line::try_parse_from(words).expect("it parses").replay, 10_000_000).range
    }

    #[test]
    fn times_and_offsets_choose_the_mode() {
        assert_eq!(range(&[]), ReplayRange::Time { start: 1, end: None });
        let past = ReplayRange::Time { start: 6_400_000, end: Some(8_200_000) };
        assert_eq!(range(&["--from", "-1h", "--to", "-30m"]), past);
        let offsets = ReplayRange::Offsets { start: Offset(7), count: 10 };
        assert_eq!(range(&["--offset", "7", "--count", "10"]), offsets);
        assert!(
            Line::try_parse_from(["replay", "--topic", "t", "--offset", "1", "--to", "now"])
                .is_err()
        );
        assert!(speed("-1").is_err() && speed("inf").is_err() && speed("2.5").is_ok());
    }
}
