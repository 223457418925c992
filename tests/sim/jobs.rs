//! Jobs, the runs they make, and checkpoints.
//!
//! A run that is synced survives everything; one that is not may be gone, or there in part. A
//! checkpoint appears whole or not at all. All of it is derived from the log: files may be damaged
//! or lost between two processes, and nothing but time may come of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronosdb::base::ids::{Index, PartitionId, RunNo};
use chronosdb::engine::checkpoint::{self, Found, RunFiles};
use chronosdb::engine::jobs::{Job, JobStep};
use chronosdb::engine::log::Ids;
use chronosdb::engine::renew;
use chronosdb::engine::{Input, SegmentFile};

use super::disk::{Crash, Disk};
use super::rng::Rng;
use crate::hold;

/// The jobs under way, and the files of runs and checkpoints.
#[derive(Default)]
pub struct Jobs {
    checkpoints: BTreeMap<(PartitionId, u64), Vec<u8>>,
    saving: BTreeMap<PartitionId, (u64, Vec<u8>)>,
    /// Checkpoints that a start did not use.
    pub refused: u64,
    /// Checkpoints that were made anew of others.
    pub renewed: u64,
    running: BTreeMap<PartitionId, Job>,
    runs: BTreeMap<(PartitionId, RunNo), Run>,
}

#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    synced: bool,
}

struct Runs<'a>(&'a BTreeMap<(PartitionId, RunNo), Run>, PartitionId);

impl RunFiles for Runs<'_> {
    fn len(&self, run: RunNo) -> Option<u64> {
        Some(self.0.get(&(self.1, run))?.bytes.len() as u64)
    }

    fn all(&self) -> Vec<RunNo> {
        self.0.keys().filter(|(of, _)| *of == self.1).map(|(_, run)| *run).collect()
    }

    fn read(&self, run: RunNo, position: u64, len: u64) -> Option<Bytes> {
        let bytes = &self.0.get(&(self.1, run))?.bytes;
        bytes.get(position as usize..(position + len) as usize).map(Bytes::copy_from_slice)
    }
}

impl Jobs {
    pub fn start(&mut self, partition: PartitionId, job: Job) {
        let before = self.running.insert(partition, job);
        hold!(DiskContract, before.is_none(), "one job of partition {partition} at a time");
    }

    /// Does one thing for the partition's job. What the engine is told when it is over.
    /// While `free` bytes are left; a job that needs more is given up, and its file removed.
    pub fn advance(&mut self, partition: PartitionId, disk: &Disk, free: u64) -> Option<Input> {
        let job = self.running.get_mut(&partition).expect("a job was started");
        match job.go_on() {
            JobStep::ReadLog { segment, position, len } => {
                job.feed(&disk.peek(partition, segment, position, len));
            }
            JobStep::ReadRun { run, position, len } => {
                let bytes = self.read(partition, run, position, len);
                self.running.get_mut(&partition).expect("just seen").feed(&bytes);
            }
            JobStep::Write { run, bytes, .. } if bytes.len() as u64 > free => {
                self.running.remove(&partition);
                self.runs.remove(&(partition, run));
                return Some(Input::JobGivenUp { partition });
            }
            JobStep::Write { run, position, bytes } => {
                let run = self.runs.entry((partition, run)).or_default();
                hold!(
                    DiskContract,
                    run.bytes.len() as u64 == position,
                    "a run is written in order"
                );
                hold!(DiskContract, !run.synced, "a finished run does not change");
                run.bytes.extend(bytes);
            }
            JobStep::Sync { run } => {
                self.runs.get_mut(&(partition, run)).expect("it was written").synced = true;
            }
            JobStep::Pause => {}
            JobStep::Done(outcome) => {
                self.running.remove(&partition);
                let records = outcome.run.iter().chain(&outcome.index);
                let runs = records.map(|run| run.head().ids.run);
                for run in runs.chain(outcome.ids.as_ref().map(|run| run.ids().run)) {
                    let file = &self.runs[&(partition, run)];
                    hold!(DiskContract, file.synced, "a run counts once it is durable");
                }
                return Some(Input::JobDone { partition, outcome });
            }
        }
        None
    }

    /// Bytes of all runs.
    pub fn bytes(&self) -> u64 {
        self.runs.values().map(|run| run.bytes.len() as u64).sum()
    }

    /// Bytes of all checkpoints.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoints.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// The runs of a partition that are there.
    pub fn runs_of(&self, partition: PartitionId) -> Vec<RunNo> {
        Runs(&self.runs, partition).all()
    }

    /// Bytes of a run's file.
    pub fn len_of(&self, partition: PartitionId, run: RunNo) -> u64 {
        Runs(&self.runs, partition).len(run).expect("it is there")
    }

    /// A bit of a run flips.
    pub fn flip(&mut self, partition: PartitionId, run: RunNo, at: u64) {
        self.runs.get_mut(&(partition, run)).expect("it is there").bytes[at as usize] ^= 1;
    }

    pub fn read(&self, partition: PartitionId, run: RunNo, position: u64, len: u64) -> Bytes {
        let file = self.runs.get(&(partition, run)).map(|run| &run.bytes[..]).unwrap_or_default();
        hold!(DiskContract, !file.is_empty(), "run {run} of partition {partition} is gone");
        let end = ((position + len) as usize).min(file.len());
        Bytes::copy_from_slice(&file[position as usize..end])
    }

    /// Whether a run is one of ids.
    pub fn is_of_ids(&self, partition: PartitionId, run: RunNo) -> bool {
        self.runs.get(&(partition, run)).is_some_and(|run| run.bytes.starts_with(b"CDBd"))
    }

    /// Whether a job over ids is under way.
    pub fn is_on_ids(&self) -> bool {
        self.running.values().any(|job| matches!(job, Job::FlushIds(_) | Job::MergeIds(_)))
    }

    pub fn remove(&mut self, partition: PartitionId, run: RunNo) {
        self.runs.remove(&(partition, run));
    }

    pub fn save(&mut self, partition: PartitionId, number: u64, bytes: Vec<u8>) {
        let before = self.saving.insert(partition, (number, bytes));
        hold!(DiskContract, before.is_none(), "one checkpoint of {partition} at a time");
    }

    /// The checkpoint on its way is durable.
    pub fn saved(&mut self, partition: PartitionId) -> Input {
        let (number, bytes) = self.saving.remove(&partition).expect("it was being saved");
        self.checkpoints.insert((partition, number), bytes);
        Input::CheckpointSaved { partition }
    }

    /// Whether these checkpoints and runs are there.
    pub fn has(&self, partition: PartitionId, checkpoints: &[u64], runs: &[RunNo]) -> bool {
        let saved = |number: &u64| self.checkpoints.contains_key(&(partition, *number));
        let made = |run: &RunNo| self.runs.contains_key(&(partition, *run));
        checkpoints.iter().all(saved) && runs.iter().all(made)
    }

    pub fn remove_checkpoint(&mut self, partition: PartitionId, number: u64) {
        self.checkpoints.remove(&(partition, number));
    }

    pub fn remove_checkpoints(&mut self, partition: PartitionId) {
        self.checkpoints.retain(|(of, _), _| *of != partition);
    }

    /// Has the next start make runs anew, as the driver does.
    pub fn renew(&mut self, partition: PartitionId, disk: &Disk) {
        let (mut segments, hard_state) = disk.look(partition);
        let log_start = hard_state.unwrap_or_default().log_start;
        if log_start <= Index(1) {
            return self.remove_checkpoints(partition);
        }
        segments.retain(|file| file.first >= log_start);
        let Some(first) = segments.first().map(|file| file.first) else { return };
        let head = disk.peek(partition, first, 0, renew::HEAD_BYTES as u64);
        let Some((ids, start)) = renew::beginning(&head, partition, first) else { return };
        let files = self.files_of(partition);
        let runs = Runs(&self.runs, partition);
        if let Some((number, bytes)) = renew::renew(files, ids, (&segments, start), &runs) {
            self.remove_checkpoints(partition);
            self.checkpoints.insert((partition, number), bytes);
            self.renewed += 1;
        }
    }

    /// Numbers and bytes of a partition's checkpoints.
    fn files_of(&self, partition: PartitionId) -> Vec<(u64, Bytes)> {
        let files = self.checkpoints.range((partition, 0)..=(partition, u64::MAX));
        files.map(|((_, number), bytes)| (*number, Bytes::copy_from_slice(bytes))).collect()
    }

    /// The process or the machine ends.
    pub fn crash(&mut self, crash: Crash, rng: &mut Rng) {
        self.running.clear();
        for (partition, (number, bytes)) in std::mem::take(&mut self.saving) {
            if rng.percent(50) {
                self.checkpoints.insert((partition, number), bytes);
            }
        }
        if crash == Crash::Power {
            self.runs.retain(|_, run| run.synced || rng.percent(50));
        }
    }

    /// One file of this partition is damaged, or lost. False if there is none. `is_derived`: the
    /// log has all of it; else the newest of two checkpoints is, and no run: runs may be all there
    /// is.
    pub fn damage(&mut self, partition: PartitionId, is_derived: bool, rng: &mut Rng) -> bool {
        let first = (partition, 0)..=(partition, u64::MAX);
        let checkpoints = self.checkpoints.range_mut(first).map(|(_, bytes)| bytes);
        let first = (partition, RunNo(0))..=(partition, RunNo(u64::MAX));
        let runs = self.runs.range_mut(first).map(|(_, run)| &mut run.bytes);
        let mut files: Vec<&mut Vec<u8>> = checkpoints.collect();
        if !is_derived && files.len() < 2 {
            return false;
        }
        let newest = files.len().saturating_sub(1);
        files.extend(runs);
        if files.is_empty() {
            return false;
        }
        let at = if is_derived { rng.below(files.len() as u64) as usize } else { newest };
        let file = &mut *files[at];
        let len = file.len() as u64;
        match rng.below(4) {
            0 => file.clear(),
            1 => file.truncate(rng.below(len) as usize),
            _ => {
                let byte = rng.below(len) as usize;
                file[byte] ^= 1 << rng.below(8);
            }
        }
        true
    }

    /// What a start finds; files that nothing speaks of are removed, as the driver does.
    pub fn mount(&mut self, ids: Ids, segments: &[SegmentFile], log_start: Index) -> Found {
        let files = self.files_of(ids.partition);
        let (runs, mut refused) = (&self.runs, 0);
        let runs = Runs(runs, ids.partition);
        let found = checkpoint::choose(files, ids, (segments, log_start), &runs, |_, _| {
            refused += 1;
        });
        self.refused += refused;
        let own = |of: &PartitionId| *of == ids.partition;
        self.checkpoints.retain(|(of, n), _| !own(of) || found.keeps_checkpoint(*n));
        self.runs.retain(|(of, run), _| !own(of) || found.keeps(*run));
        found
    }
}
