//! `chronosdb log dump`: prints the entries of the logs, past any damage.

use clap::Args;
use serde_json::{Value, json};

use super::Logs;
use super::files::{Go, Met, Stopped};
use super::findings::{count, hole_object, hole_text};
use super::show::{Names, entry_object, entry_text};
use crate::base::ids::{Index, PartitionId};
use crate::cli::output::Output;
use crate::engine::log::Scanned;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Changes nothing. Where a log is damaged it says what is lost and goes on with what can be read
behind. Exit codes: 0 all was read, 2 something is damaged, 1 any other failure.

Examples:
  chronosdb log dump ./data --partition 3
      all entries of a log: events, settlements, groups, state
  chronosdb log dump ./data --partition 3 --from 100 --to 120
      some of them
  chronosdb log dump ./data --json | jq -r '.events[]?.message_id'
      one JSON object per entry";

/// Options of `chronosdb log dump`.
#[derive(Args, Clone, Debug)]
pub struct DumpArgs {
    /// Which logs.
    #[command(flatten)]
    pub logs: Logs,

    /// First entry to print, by its index [default: the first]
    #[arg(long, value_name = "INDEX", default_value_t = 1, hide_default_value = true)]
    pub from: u64,

    /// Last entry to print [default: the last]
    #[arg(long, value_name = "INDEX")]
    pub to: Option<u64>,

    /// Print a JSON object per entry
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; true if something is damaged.
pub fn run(args: &DumpArgs) -> Result<bool, String> {
    if args.to.is_some_and(|to| to < args.from) {
        return Err("--to is below --from; the last entry can't come before the first".to_owned());
    }
    let stopped = Stopped::open(&args.logs.dir)?;
    let mut output = Output::new(args.json);
    let mut damaged = false;
    for partition in stopped.partitions(&args.logs)? {
        let mut dump = Dump { args, partition, output: &mut output, names: Names::default() };
        let Some(mut files) = stopped.log(partition)? else {
            dump.say("its directory is missing")?;
            continue;
        };
        dump.say(&count(files.mounted.segments.len() as u64, "segment", "segments"))?;
        let outcome = files.walk(|_| (), |met| dump.meet(met, &mut damaged))?;
        match outcome {
            None if !dump.output.flush()? => return Ok(damaged), // Nobody reads any more.
            Some(outcome) if outcome.rot.is_none() && outcome.torn_bytes > 0 => {
                let torn = outcome.torn_bytes;
                dump.say(&format!("{torn} bytes of an unfinished write follow, to be cut"))?;
            }
            _ => {}
        }
        if files.unreadable > 0 {
            damaged = true;
            dump.say(&format!("the disk refused to read {} bytes", files.unreadable))?;
        }
    }
    output.flush()?;
    Ok(damaged)
}

struct Dump<'a> {
    args: &'a DumpArgs,
    partition: PartitionId,
    output: &'a mut Output,
    names: Names,
}

impl Dump<'_> {
    fn meet(&mut self, met: Met, damaged: &mut bool) -> Result<Go, String> {
        match met {
            Met::Good(entry) => self.entry(&entry, false),
            Met::Behind(entry) => self.entry(&entry, true),
            Met::Hole(hole) => {
                *damaged = true;
                let text = || format!("-- DAMAGED, lost: {}", hole_text(&hole));
                let partition = self.partition.0;
                let object = || json!({ "partition": partition, "lost": hole_object(&hole) });
                let wanted = hole.end.is_none_or(|end| end > Index(self.args.from));
                if wanted && !self.output.line(text, object)? {
                    return Ok(Go::Enough);
                }
                Ok(Go::On)
            }
        }
    }

    fn entry(&mut self, entry: &Scanned, behind: bool) -> Result<Go, String> {
        self.names.learn(&entry.body.content());
        let index = entry.header.index.0;
        if self.args.to.is_some_and(|to| index > to) {
            return Ok(Go::Enough);
        }
        if index < self.args.from {
            return Ok(Go::On);
        }
        let (partition, names) = (self.partition.0, &self.names);
        let object = || {
            let mut object = entry_object(entry, names);
            object["partition"] = json!(partition);
            object["behind_damage"] = json!(behind);
            object
        };
        let open = self.output.line(|| entry_text(entry, names), object)?;
        Ok(if open { Go::On } else { Go::Enough })
    }

    /// A line that only people need: programs see it by `verify`.
    fn say(&mut self, what: &str) -> Result<(), String> {
        if self.output.is_json() {
            return Ok(());
        }
        let line = format!("partition {}: {what}", self.partition);
        self.output.line(|| line, || Value::Null).map(drop)
    }
}
