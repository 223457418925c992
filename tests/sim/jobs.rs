//! Jobs and the runs they make. In this version runs are derived from the log and made anew after
//! each start, so all of it is gone with the process.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronosdb::base::ids::{PartitionId, RunNo};
use chronosdb::engine::Input;
use chronosdb::engine::jobs::{Job, JobStep};

use super::disk::Disk;
use crate::hold;

/// The jobs under way, and the files of runs.
#[derive(Default)]
pub struct Jobs {
    running: BTreeMap<PartitionId, Job>,
    runs: BTreeMap<(PartitionId, RunNo), Run>,
}

#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    synced: bool,
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
                if let Some(run) = &outcome.run {
                    let file = &self.runs[&(partition, run.head().ids.run)];
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

    pub fn read(&self, partition: PartitionId, run: RunNo, position: u64, len: u64) -> Bytes {
        let file = self.runs.get(&(partition, run)).map(|run| &run.bytes[..]).unwrap_or_default();
        hold!(DiskContract, !file.is_empty(), "run {run} of partition {partition} is gone");
        let end = ((position + len) as usize).min(file.len());
        Bytes::copy_from_slice(&file[position as usize..end])
    }

    pub fn remove(&mut self, partition: PartitionId, run: RunNo) {
        let was = self.runs.remove(&(partition, run));
        hold!(DiskContract, was.is_some(), "run {run} of partition {partition} is removed once");
    }
}
