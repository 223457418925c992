//! The story of a job that found no space on the disk: it is given up, not waited for.
//!
//! A waiting job would keep others of its shard from running, and write into the reserve. What it
//! was to carry is still in the log and in memory, so it begins anew when space is back.

use crate::engine::horizon::RunningJob;
use crate::engine::partition::Partition;
use crate::engine::step::Step;

impl Partition {
    /// The driver has given up the job and removed what it had written.
    pub(in crate::engine) fn job_given_up(&mut self, step: &mut Step<'_>) {
        let job = self.horizon.job.take().expect("one job at a time");
        step.jobs.end(job.kind());
        step.stats.jobs_given_up += 1;
        match job {
            RunningJob::Flush { offsets, .. } => {
                assert_eq!(self.horizon.flushed, offsets.end, "nothing was flushed meanwhile");
                self.horizon.flushed = offsets.start;
                let bytes = std::mem::take(&mut self.horizon.flushing_bytes);
                self.horizon.unflushed_bytes += bytes.max(super::flush::flush_at(step.config));
            }
            // Its runs are as they were.
            RunningJob::Merge { .. } | RunningJob::MergeIds { .. }
            // The window is still frozen.
            | RunningJob::FlushIds => {}
        }
    }
}
