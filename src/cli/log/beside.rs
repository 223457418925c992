//! The files beside the log of a stopped node: hard state, checkpoints, runs. What is damaged among
//! them, and what that costs.
//!
//! All of it but for runs that begin before the log does is derived: then the next start takes
//! longer, and makes it anew. Which files count is what a start would say: a run that no checkpoint
//! lists is left of a crash, unless there is no checkpoint and the log has lost its head.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::files::OpenFile;
use super::run_file::{self, BadPart, RunFindings};
use crate::base::ids::{Index, Offset, PartitionId, RunNo};
use crate::base::size::BLOCK;
use crate::engine::checkpoint::{Checkpoint, file_name};
use crate::engine::log::Ids;
use crate::shard::checkpoints::{self, checkpoint_path};
use crate::shard::directory::partition_path;
use crate::shard::mount::{STATE_FILE, Slot, slots};
use crate::shard::run_path;

/// The files beside a log.
#[derive(Debug)]
pub struct Beside {
    data: PathBuf,
    ids: Ids,
    state: Option<u64>,
    checkpoints: BTreeMap<u64, u64>,
    runs: BTreeMap<RunNo, u64>,
}

/// How the log begins.
#[derive(Clone, Copy, Debug)]
pub struct LogBegin {
    /// Its first segment, as the hard state says; 0 or 1: nothing was removed.
    pub segment: Index,
    /// The offset there; `None`: it cannot be read.
    pub offset: Option<Offset>,
    /// Something was written to it.
    pub has_entries: bool,
}

/// What was found beside a log.
#[derive(Clone, Debug, Default)]
pub struct BesideFindings {
    /// Runs, checkpoints.
    pub files: (usize, usize),
    /// Bytes of all files.
    pub bytes: u64,
    /// Runs that no start would look at: they are removed by the next one.
    pub left_over: usize,
    /// What is damaged.
    pub damaged: Vec<BadFile>,
    /// Bytes that the disk refused to read.
    pub unreadable: u64,
}

/// A damaged file.
#[derive(Clone, Debug)]
pub struct BadFile {
    /// Its name in the partition's directory.
    pub name: String,
    /// What it is, for people.
    pub what: &'static str,
    /// Offsets that it may have had; `None`: it is no run, or nobody knows.
    pub offsets: Option<(Offset, Offset)>,
    /// What of it is damaged.
    pub parts: Vec<BadPart>,
    /// What that costs.
    pub cost: Cost,
}

/// What damage costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// The one before it counts.
    Before,
    /// The next start takes longer.
    Time,
    /// A run that the log still has all of: it is made anew, once a server comes to the damage or a
    /// repair has said so.
    Renewal,
    /// Nothing else has what it held.
    Data,
}

impl Beside {
    /// What lies beside a log.
    pub fn list(data: &Path, ids: Ids) -> Result<Self, String> {
        let home = partition_path(data, ids.partition);
        let fault = |error| format!("cannot list {}: {error}", home.display());
        let listed = checkpoints::list(&home).map_err(fault)?;
        let len = |path: &Path| std::fs::metadata(path).ok().map(|file| file.len());
        let of_checkpoint = |n: u64| len(&checkpoint_path(data, ids.partition, n)).unwrap_or(0);
        let of_run = |run: RunNo| len(&run_path(data, ids.partition, run)).unwrap_or(0);
        Ok(Self {
            data: data.to_owned(),
            ids,
            state: len(&home.join(STATE_FILE)),
            checkpoints: listed.checkpoints.iter().map(|n| (*n, of_checkpoint(*n))).collect(),
            runs: listed.runs.iter().map(|run| (*run, of_run(*run))).collect(),
        })
    }

    /// Bytes of these files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let files = self.checkpoints.values().chain(self.runs.values()).chain(&self.state);
        files.sum()
    }

    /// Reads them all; `read` hears how many bytes lie behind.
    pub fn examine(
        &self,
        log: LogBegin,
        mut read: impl FnMut(u64),
    ) -> Result<BesideFindings, String> {
        let mut found = BesideFindings {
            files: (self.runs.len(), self.checkpoints.len()),
            bytes: self.bytes(),
            ..BesideFindings::default()
        };
        self.examine_state(log, &mut found)?;
        let whole = self.examine_checkpoints(log, &mut found)?;
        let listed: BTreeSet<RunNo> = whole.iter().flat_map(Checkpoint::runs).collect();
        let adopts = whole.is_empty() && log.segment > Index(1);
        let newest = self.runs.keys().next_back().copied();
        let mut done = found.bytes - self.runs.values().sum::<u64>();
        for (run, len) in &self.runs {
            let path = run_path(&self.data, self.ids.partition, *run);
            let mut file = OpenFile::open(&path)?;
            let seen = run_file::examine(self.ids, *run, &mut file, |at| read(done + at))?;
            done += len;
            read(done);
            found.unreadable += file.unreadable;
            // Without a checkpoint only the newest can be one that was never finished.
            let unfinished = newest == Some(*run) && !seen.is_finished;
            if !listed.contains(run) && (!adopts || unfinished) {
                found.left_over += 1;
            } else if !seen.damaged.is_empty() {
                found.damaged.push(bad_run(&path, seen, log));
            }
        }
        for run in listed.iter().filter(|run| !self.runs.contains_key(run)) {
            let seen = missing(*run, &whole);
            let path = run_path(&self.data, self.ids.partition, *run);
            found.damaged.push(bad_run(&path, seen, log));
        }
        Ok(found)
    }

    fn examine_state(&self, log: LogBegin, found: &mut BesideFindings) -> Result<(), String> {
        let path = partition_path(&self.data, self.ids.partition).join(STATE_FILE);
        let mut bad = Vec::new();
        let mut put = |part: String, bytes, fault: &str| {
            let (fault, topics) = (fault.to_owned(), Vec::new());
            bad.push(BadPart { part, bytes, fault, records: None, topics });
        };
        match self.state {
            Some(len) => {
                let mut file = OpenFile::open(&path)?;
                let bytes = file.read(0, len)?;
                found.unreadable += file.unreadable;
                for (number, slot) in slots(&bytes, self.ids.partition).iter().enumerate() {
                    let at = number as u64 * BLOCK;
                    if *slot == Slot::Damaged {
                        let fault = "neither whole nor empty: damage, or a torn write";
                        put(format!("slot {number}"), at..at + BLOCK, fault);
                    }
                }
            }
            None if log.has_entries => put("file".to_owned(), 0..0, "it is missing"),
            None => {}
        }
        if !bad.is_empty() {
            let (what, cost) = ("hard state", Cost::Before);
            let name = STATE_FILE.to_owned();
            found.damaged.push(BadFile { name, what, offsets: None, parts: bad, cost });
        }
        Ok(())
    }

    /// The checkpoints that are whole.
    fn examine_checkpoints(
        &self,
        log: LogBegin,
        found: &mut BesideFindings,
    ) -> Result<Vec<Checkpoint>, String> {
        let (mut whole, mut bad) = (Vec::new(), Vec::new());
        for (number, len) in &self.checkpoints {
            let path = checkpoint_path(&self.data, self.ids.partition, *number);
            let mut file = OpenFile::open(&path)?;
            let bytes = file.read(0, *len)?;
            found.unreadable += file.unreadable;
            let fault = match Checkpoint::decode(&bytes, self.ids) {
                Ok(checkpoint) if checkpoint.number == *number => {
                    whole.push(checkpoint);
                    continue;
                }
                Ok(_) => "it has another number than its name".to_owned(),
                Err(fault) => fault.to_string(),
            };
            let (part, topics) = ("file".to_owned(), Vec::new());
            let part = BadPart { part, bytes: 0..*len, fault, records: None, topics };
            bad.push((file_name(*number), part));
        }
        // Ids and dead letters of removed segments are in checkpoints and their runs alone.
        let cost = match whole.is_empty() {
            true if log.segment > Index(1) => Cost::Data,
            true => Cost::Time,
            false => Cost::Before,
        };
        let what = "checkpoint";
        let bad = bad.into_iter();
        found.damaged.extend(bad.map(|(name, part)| BadFile {
            name,
            what,
            offsets: None,
            parts: vec![part],
            cost,
        }));
        Ok(whole)
    }

    /// Whose files they are.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.ids.partition
    }
}

/// A run that is not there: what it was, as far as a checkpoint says.
fn missing(run: RunNo, whole: &[Checkpoint]) -> RunFindings {
    let any = |list: fn(&Checkpoint) -> &Vec<RunNo>| whole.iter().any(|c| list(c).contains(&run));
    let kind = match () {
        () if any(|checkpoint| &checkpoint.indexes) => run_file::Kind::Index,
        () if any(|checkpoint| &checkpoint.id_runs) => run_file::Kind::Ids,
        () => run_file::Kind::Carried,
    };
    let part = BadPart {
        part: "file".to_owned(),
        bytes: 0..0,
        fault: "it is missing".to_owned(),
        records: None,
        topics: Vec::new(),
    };
    let (offsets, records, damaged) = (None, None, vec![part]);
    RunFindings { kind: Some(kind), offsets, records, damaged, is_finished: true }
}

fn bad_run(path: &Path, seen: RunFindings, log: LogBegin) -> BadFile {
    let start = match log.offset {
        Some(offset) => offset,
        None if log.segment <= Index(1) => Offset(0),
        None => Offset(u64::MAX),
    };
    let cost = if seen.damage().is_beyond(start) { Cost::Data } else { Cost::Renewal };
    BadFile {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        what: match seen.kind {
            Some(run_file::Kind::Carried) => "due run",
            Some(run_file::Kind::Index) => "due index",
            Some(run_file::Kind::Ids) => "run of ids",
            None => "run",
        },
        offsets: seen.offsets.map(|offsets| (offsets.start, offsets.end)),
        parts: seen.damaged,
        cost,
    }
}

#[cfg(test)]
#[path = "beside_test.rs"]
mod tests;
