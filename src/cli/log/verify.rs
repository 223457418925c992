//! `chronosdb log verify`: reads every byte of the logs and of all that lies beside them, and says
//! what is damaged.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Logs;
use super::files::Stopped;
use super::findings::{Condition, Findings, count};
use crate::cli::output::Output;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Reads as a start does, and changes nothing: logs, hard state, checkpoints, runs. Exit codes: 0 all
is sound, or torn, which the next start cuts without losing anything acknowledged; 2 something is
damaged, if only to the cost of time; 1 any other failure.

Examples:
  chronosdb log verify ./data
      a line per partition, and what is lost where something is
  chronosdb log verify ./data --partition 3 --json | jq .rot.lost
      one JSON object per partition, then a summary";

/// Options of `chronosdb log verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Which logs.
    #[command(flatten)]
    pub logs: Logs,

    /// Print a JSON object per partition, and one of sums
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; true if something is damaged.
pub fn run(args: &VerifyArgs) -> Result<bool, String> {
    let stopped = Stopped::open(&args.logs.dir)?;
    let all = examine(&stopped, &args.logs)?;
    let mut output = Output::new(args.json);
    for findings in &all {
        output.line(|| findings.text(), || findings.object())?;
    }
    let damaged = damaged(&all);
    output.line(|| closing(&args.logs, &all, &damaged), || sums(&all, &damaged))?;
    output.flush()?;
    Ok(!damaged.is_empty())
}

fn having(all: &[Findings], condition: Condition) -> usize {
    all.iter().filter(|findings| findings.condition == condition).count()
}

fn sum(all: &[Findings], of: fn(&Findings) -> u64) -> u64 {
    all.iter().map(of).sum()
}

/// The sum of it for people, and what to do.
fn closing(logs: &Logs, all: &[Findings], damaged: &[&Findings]) -> String {
    let partitions = count(all.len() as u64, "partition", "partitions");
    let events = count(sum(all, |found| found.good.events()), "event", "events");
    let bytes = sum(all, |found| found.bytes + found.beside.bytes);
    let condition = match damaged.len() {
        0 => "nothing is damaged".to_owned(),
        damaged => format!("{damaged} damaged"),
    };
    let torn = match having(all, Condition::Torn) {
        0 => String::new(),
        torn => format!(", {torn} torn"),
    };
    let mut text = format!("{partitions}: {condition}{torn}; {events}, {bytes} bytes read");
    if having(all, Condition::Rotten) > 0 {
        let command = format!("`chronosdb log repair {}`", logs.dir.display());
        text.push_str("\ndamaged partitions can only be replayed; restore a backup, or see what ");
        text.extend([command.as_str(), " would cut"]);
    }
    if damaged.iter().any(|found| found.beside.has_lost_data()) {
        text.push_str(
            "\nwhat is lost beside a log no repair brings back: restore a backup; without one the \
             server serves all else, and ends where it comes to what is damaged",
        );
    }
    if damaged.iter().any(|found| found.condition == Condition::Missing) {
        text.push_str(
            "\na partition without its directory is lost as a whole; restore a backup, or the \
             next start begins it anew at offset 0",
        );
    }
    text
}

/// The sum of it for programs.
fn sums(all: &[Findings], damaged: &[&Findings]) -> Value {
    json!({
        "partitions": all.len(),
        "damaged": damaged.len(),
        "sound": having(all, Condition::Clean) + having(all, Condition::New),
        "torn": having(all, Condition::Torn),
        "rot": having(all, Condition::Rotten),
        "missing": having(all, Condition::Missing),
        "entries": sum(all, |found| found.good.entries()),
        "events": sum(all, |found| found.good.events()),
        "bytes": sum(all, |found| found.bytes + found.beside.bytes),
        "damaged_files": sum(all, |found| found.beside.damaged.len() as u64),
    })
}

/// Those of them that are damaged. A directory is missing if another partition was ever written:
/// a first start makes all of them before it serves any.
fn damaged(all: &[Findings]) -> Vec<&Findings> {
    let served = all.iter().any(|found| found.good.entries() > 0 || found.rot.is_some());
    let missing = |found: &Findings| served && found.condition == Condition::Missing;
    all.iter().filter(|found| found.is_damaged() || missing(found)).collect()
}

/// Reads the logs asked for and what lies beside them, with a progress bar where a person looks on.
pub fn examine(stopped: &Stopped, logs: &Logs) -> Result<Vec<Findings>, String> {
    let mut open = Vec::new();
    for partition in stopped.partitions(logs)? {
        open.push((partition, stopped.log(partition)?));
    }
    let mut total = 0;
    for files in open.iter().filter_map(|(_, files)| files.as_ref()) {
        total += files.bytes() + files.beside()?.bytes();
    }
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
    bar.set_style(style.expect("a sound template"));
    bar.enable_steady_tick(Duration::from_millis(250));
    let mut done = 0;
    let mut all = Vec::new();
    for (partition, files) in open {
        all.push(match files {
            None => Findings::missing(partition),
            Some(mut files) => {
                let findings = Findings::of_all(&mut files, |read| bar.set_position(done + read))?;
                done += findings.bytes + findings.beside.bytes;
                bar.set_position(done);
                findings
            }
        });
    }
    bar.finish_and_clear();
    Ok(all)
}
