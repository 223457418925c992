//! `chronosdb log repair`: cuts damaged logs on the operator's word.
//!
//! A log is cut at its first bad entry: everything behind is lost, also what can be read there,
//! since a log without a hole is what makes offsets, groups and duplicates right. Nothing is
//! destroyed: what is cut is kept below `lost/` in the data directory.
//!
//! A repair is a list of steps ([`Plan`]), each durable before the next. Ended anywhere, it leaves
//! a directory that verify judges and repair goes on with: before the last step the log still
//! looks rotten, at the same entry, because either a later segment or the hard state's commit is
//! still there to prove it; or, where neither was ever the proof, it is cut already.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::Logs;
use super::beside::Cost;
use super::files::Stopped;
use super::findings::{Condition, Findings, Rot, count};
use super::salvage;
use super::verify::examine;
use crate::base::ids::{Index, PartitionId};
use crate::base::size::block_ceil;
use crate::cli::output::Output;
use crate::engine::HardState;
use crate::engine::log::segment::file_name;
use crate::shard::checkpoints;
use crate::shard::directory::{create_private, partition_path, sync_directory};
use crate::shard::mount::{Mounted, STATE_FILE, segment_path};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
A damaged log is cut at its first bad entry, and everything behind is lost, also what can be read
there: restore a backup instead if you have one. Acknowledgements that are cut with it are
forgotten: those events are delivered again. The files as they were are kept in DIR/lost. A damaged
run that the log still has all of is made anew by the next start; one that has more stays as it is:
restore a backup. Exit codes: 0 nothing is left to repair, 2 something is, 1 any other failure.

Examples:
  chronosdb log repair ./data
      shows what is lost and what would be cut; changes nothing
  chronosdb log repair ./data --partition 3 --yes --salvage behind.jsonl
      cuts the log of partition 3, and writes the events that were readable behind the damage";

/// Folder of a data directory that keeps what repairs have cut.
const LOST: &str = "lost";
/// File beside the kept ones that says what was found.
const REPORT_FILE: &str = "report.json";

/// Options of `chronosdb log repair`.
#[derive(Args, Clone, Debug)]
pub struct RepairArgs {
    /// Which logs.
    #[command(flatten)]
    pub logs: Logs,

    /// Cut what is damaged; without it nothing is changed
    #[arg(long)]
    pub yes: bool,

    /// Write the events that can be read behind the damage to a new file, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub salvage: Option<PathBuf>,

    /// Print a JSON object per damaged partition
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; true if something stays damaged.
pub fn run(args: &RepairArgs) -> Result<bool, String> {
    let stopped = Stopped::open(&args.logs.dir)?;
    let all = examine(&stopped, &args.logs)?;
    let mut output = Output::new(args.json);
    let damaged: Vec<&Findings> = all.iter().filter(|found| found.is_log_damaged()).collect();
    let mut plans = Vec::new();
    for findings in &damaged {
        if findings.unreadable > 0 {
            return Err(unreadable(findings));
        }
        plans.push(Plan::of(&stopped, findings)?);
    }
    let salvaged = args.salvage.as_deref().filter(|_| !plans.is_empty());
    let salvaged = salvaged.map(|path| salvage::write(&stopped, &damaged, path)).transpose()?;
    for (findings, plan) in damaged.iter().zip(&mut plans) {
        if args.yes {
            plan.run(stopped.path(), findings)?;
            check(&stopped, findings)?;
        }
        let text = || format!("{}\n{}", findings.text(), plan.text(findings, args.yes));
        output.line(text, || plan.object(findings, args.yes))?;
        output.flush()?;
    }
    let beside = all.iter().filter(|found| !found.is_log_damaged() && found.beside.is_damaged());
    // A cut brings back no run.
    let mut lost = damaged.iter().any(|found| found.beside.has_lost_data());
    let mut renewals = 0;
    for findings in beside {
        let renewal = Renewal::of(findings);
        let done = args.yes && renewal.is_wanted && renewal.run(stopped.path())?;
        let refused = args.yes && renewal.is_wanted && !done;
        renewals += usize::from(renewal.is_wanted && !refused);
        lost |= renewal.is_lost || refused;
        let text = || format!("{}\n{}", findings.text(), renewal.text(done, refused));
        output.line(text, || renewal.object(done))?;
        output.flush()?;
    }
    for path in all.iter().filter(|found| found.condition == Condition::Missing) {
        output.line(|| path.text(), || path.object())?;
    }
    if !args.json {
        let line = closing(args, plans.len() + renewals, lost, salvaged);
        output.line(|| line, || Value::Null)?;
    }
    output.flush()?;
    Ok(lost || !args.yes && plans.len() + renewals > 0)
}

fn unreadable(findings: &Findings) -> String {
    format!(
        "the disk refuses to read {} bytes of partition {}, which no repair can help; copy the \
         data directory to a sound disk (as with ddrescue) and repair that",
        findings.unreadable, findings.partition
    )
}

fn closing(args: &RepairArgs, plans: usize, lost: bool, salvaged: Option<u64>) -> String {
    let text = match (plans, args.yes) {
        (0, _) if lost => "nothing that a repair could help: restore a backup".to_owned(),
        (0, _) => "nothing to repair".to_owned(),
        (_, true) if lost => "repaired, but for what is lost: restore a backup".to_owned(),
        (_, true) => "repaired: the next start serves again".to_owned(),
        (_, false) => format!(
            "nothing was changed; `chronosdb log repair {} --yes` does it",
            args.logs.dir.display()
        ),
    };
    let Some((events, path)) = salvaged.zip(args.salvage.as_deref()) else { return text };
    let events = count(events, "event", "events");
    format!("{text}\n{events} from behind the damage are in {}", path.display())
}

/// What becomes of damage beside a log that is sound.
#[derive(Debug)]
struct Renewal<'a> {
    findings: &'a Findings,
    /// A run is damaged that the log still has all of.
    is_wanted: bool,
    /// Something is lost that nothing else has.
    is_lost: bool,
}

impl<'a> Renewal<'a> {
    fn of(findings: &'a Findings) -> Self {
        let files = &findings.beside.damaged;
        let is_wanted = files.iter().any(|file| file.cost == Cost::Renewal);
        Self { findings, is_wanted, is_lost: findings.beside.has_lost_data() }
    }

    /// Has the next start make runs anew. No file of a run is touched: that start removes those
    /// that it made anew, and no other. False if it cannot be done.
    fn run(&self, data: &Path) -> Result<bool, String> {
        checkpoints::renew(data, self.findings.partition).map_err(|error| error.to_string())
    }

    fn text(&self, done: bool, refused: bool) -> String {
        let mut lines = Vec::new();
        if refused {
            lines.push("  no checkpoint tells what the log has lost: restore a backup");
        } else if done {
            lines.push("  the next start makes the runs anew that the log still has");
        } else if self.is_wanted {
            lines.push("  the next start would make the runs anew that the log still has");
        }
        if self.is_lost {
            lines.push("  what has more than the log is left as it is: restore a backup");
        } else if !self.is_wanted {
            lines.push("  nothing is to be repaired: the next start does without it");
        }
        lines.join("\n")
    }

    fn object(&self, done: bool) -> Value {
        let mut object = self.findings.object();
        object["repaired"] = json!(done);
        object["makes_runs_anew"] = json!(self.is_wanted);
        object["leaves_lost_data"] = json!(self.is_lost);
        object
    }
}

/// After a repair: the log must be what the repair meant to leave.
fn check(stopped: &Stopped, before: &Findings) -> Result<(), String> {
    let mut files = stopped.log(before.partition)?.expect("it was read before");
    let after = Findings::of(&mut files, |_| ())?;
    if after.is_log_damaged() || after.good != before.good {
        return Err(format!(
            "partition {} is not as the repair should have left it ({}); what was cut is in {}",
            before.partition,
            after.text(),
            stopped.path().join(LOST).display()
        ));
    }
    Ok(())
}

/// The repair of one log.
#[derive(Debug)]
struct Plan {
    partition: PartitionId,
    mounted: Mounted,
    /// Where what is cut is kept.
    lost: PathBuf,
    steps: Vec<Step>,
}

/// A step of a repair; durable before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Make the directory that keeps what is lost, with the hard state and a report in it.
    Keep,
    /// Give the damaged segment a second name there.
    Link(Index),
    /// Put in its place a copy of its first bytes, up to where the damage begins.
    Cut(Index, u64),
    /// Move a later segment there.
    Move(Index),
    /// Save what the log now is.
    Save(HardState),
}

impl Plan {
    fn of(stopped: &Stopped, findings: &Findings) -> Result<Self, String> {
        let partition = findings.partition;
        let rot = findings.rot.as_ref().expect("only damaged logs are repaired");
        if let Some(format) = rot.report.newer {
            return Err(format!(
                "partition {partition} was written by a newer version, in format {format}; run \
                 that version instead of cutting what it wrote"
            ));
        }
        let files = stopped.log(partition)?.expect("it was read before");
        let mounted = files.mounted;
        let mut steps = vec![Step::Keep];
        let damaged = rot.report.place;
        let first = mounted.segments.first().map(|file| file.first);
        // A log of which nothing is left begins anew; an empty first segment would stay rotten.
        let begins = findings.good.entries() > 0;
        let kept = |segment: Index| begins && segment == damaged.segment;
        if mounted.segments.iter().any(|file| kept(file.first)) {
            steps.push(Step::Link(damaged.segment));
            steps.push(Step::Cut(damaged.segment, damaged.position));
        }
        assert!(begins || first.is_none_or(|first| first >= damaged.segment), "all of it goes");
        // From the last one back: as long as one is left, it proves where the log was cut.
        let later = mounted.segments.iter().rev().map(|file| file.first);
        let later = later.filter(|first| *first >= damaged.segment && !kept(*first));
        steps.extend(later.map(Step::Move));
        steps.push(Step::Save(state_after(findings, rot, mounted.hard_state)));
        Ok(Self { partition, lost: free_place(stopped.path(), partition), mounted, steps })
    }

    fn run(&mut self, data: &Path, findings: &Findings) -> Result<(), String> {
        // What a start would go on from is not this log any more.
        checkpoints::forget(data, self.partition).map_err(|error| error.to_string())?;
        for step in self.steps.clone() {
            self.step(data, findings, &step)?;
        }
        Ok(())
    }

    fn step(&mut self, data: &Path, findings: &Findings, step: &Step) -> Result<(), String> {
        let home = partition_path(data, self.partition);
        let sync = |path: &Path| sync_directory(path).map_err(|error| error.to_string());
        match step {
            Step::Keep => {
                create_private(&self.lost).map_err(|error| error.to_string())?;
                sync(&data.join(LOST))?;
                let state = home.join(STATE_FILE);
                if state.exists() {
                    let path = self.lost.join(STATE_FILE);
                    copy(&state, u64::MAX, &path).map_err(fault("copy", &state))?;
                }
                let report = self.lost.join(REPORT_FILE);
                let text = format!("{:#}\n", findings.object());
                put(&report, text.as_bytes()).map_err(fault("write", &report))?;
                sync(&self.lost)
            }
            Step::Link(segment) => {
                let path = segment_path(data, self.partition, *segment);
                let linked = fs::hard_link(&path, self.lost.join(file_name(*segment)));
                linked.map_err(fault("link into the directory of what is lost", &path))?;
                sync(&self.lost)
            }
            Step::Cut(segment, position) => {
                let path = segment_path(data, self.partition, *segment);
                // Written aside and renamed: the old file keeps its bytes, below its other name.
                let aside = home.join(format!("{}.cut", file_name(*segment)));
                copy(&path, *position, &aside).map_err(fault("copy", &path))?;
                fs::rename(&aside, &path).map_err(fault("replace", &path))?;
                sync(&home)
            }
            Step::Move(segment) => {
                let path = segment_path(data, self.partition, *segment);
                fs::rename(&path, self.lost.join(file_name(*segment)))
                    .map_err(fault("move", &path))?;
                sync(&self.lost)?;
                sync(&home)
            }
            Step::Save(state) => {
                self.mounted.save_state(data, *state).map_err(|error| error.to_string())
            }
        }
    }

    fn text(&self, findings: &Findings, done: bool) -> String {
        let rot = findings.rot.as_ref().expect("only damaged logs are repaired");
        let (cut, kept) = if done { ("is", "is") } else { ("would be", "would be") };
        let behind = match rot.entries_behind() {
            0 => String::new(),
            entries => format!(
                "; {} with {} behind the damage go with it",
                count(entries, "readable entry", "readable entries"),
                count(rot.events_behind(), "event", "events"),
            ),
        };
        let at = if findings.good.entries() == 0 {
            "at its beginning and begins anew, at offset 0".to_owned()
        } else {
            format!("behind entry {}", rot.report.first_bad.0 - 1)
        };
        let files = self.steps.iter().filter(|s| matches!(s, Step::Link(_) | Step::Move(_)));
        let files = count(files.count() as u64, "segment file", "segment files");
        let lost = self.lost.display();
        format!("  the log {cut} cut {at}{behind}\n  what it was {kept} kept in {lost} ({files})")
    }

    fn object(&self, findings: &Findings, done: bool) -> Value {
        let mut object = findings.object();
        let rot = findings.rot.as_ref().expect("only damaged logs are repaired");
        object["repaired"] = json!(done);
        object["kept_entries"] = json!(findings.good.entries());
        object["cut_entries_readable"] = json!(rot.entries_behind());
        object["cut_events_readable"] = json!(rot.events_behind());
        object["lost_dir"] = json!(self.lost.display().to_string());
        object
    }
}

/// What the hard state has to say of the log once it is cut.
fn state_after(findings: &Findings, rot: &Rot, before: Option<HardState>) -> HardState {
    let before = before.unwrap_or_default();
    let last = findings.last.map_or((Index(0), before.term), |last| (last.index, last.term));
    // No term that was ever used may begin again, though its entries are gone.
    let term = before.term.max(last.1).max(rot.term);
    let vote = if term == before.term { before.vote } else { 0 };
    HardState {
        term,
        vote,
        commit: before.commit.min(last.0),
        cut_from: Index(0),
        log_start: before.log_start,
    }
}

/// A place below `lost/` that is not taken yet: each repair has one of its own.
fn free_place(data: &Path, partition: PartitionId) -> PathBuf {
    let place = |n: u32| data.join(LOST).join(format!("p-{:05}.{n}", partition.0));
    (1..u32::MAX).map(place).find(|place| !place.exists()).expect("fewer repairs than numbers")
}

/// Copies the first `len` bytes of a file to a new one, with zeros up to a whole block, durably.
fn copy(from: &Path, len: u64, to: &Path) -> io::Result<()> {
    let mut out =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(to)?;
    let copied = io::copy(&mut File::open(from)?.take(len), &mut out)?;
    if len < u64::MAX {
        if copied != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.set_len(block_ceil(len))?;
    }
    out.sync_all()
}

/// Writes a new file, durably.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn fault(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    let sentence = format!("cannot {doing} {}", path.display());
    move |error| {
        format!(
            "{sentence}: {error}; nothing is lost: make room or give the permissions, and run the \
             repair again"
        )
    }
}

#[cfg(test)]
#[path = "repair_test.rs"]
mod tests;
