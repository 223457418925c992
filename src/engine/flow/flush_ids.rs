//! The story of ids that leave the memory, owner half.
//!
//! ```text
//!  more than id_window ids --> frozen --> StartJob(flush) --> JobDone: a run has them
//!                          --> eight runs --> StartJob(merge) --> JobDone: fewer runs
//! ```
//! Only a serving partition freezes: what a recovery applies gathers in memory until then.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::recover::Phase;
use crate::base::ids::{RunNo, TopicNo};
use crate::engine::dedup::{RunDirectory, RunIds};
use crate::engine::horizon::RunningJob;
use crate::engine::jobs::JobSpec;
use crate::engine::jobs::ids::{IdFlushSpec, IdMergeSpec, Living, Settled};
use crate::engine::jobs::places::Kind;
use crate::engine::partition::Partition;
use crate::engine::step::Step;

impl Partition {
    /// Goes on with ids that leave the memory. Once per turn, a bounded amount.
    pub(super) fn ids_on(&mut self, step: &mut Step<'_>) {
        self.look_ups_on(step);
        self.dedup.let_go();
        if self.phase != Phase::Serving {
            return;
        }
        // Also behind each flush of the due axis: a start reads the log from where either ends.
        let behind = self.dedup.runs().end() < self.horizon.ids_wanted;
        let bound = if behind { 0 } else { step.config.id_window };
        self.dedup.freeze(bound, self.applied_end);
        if self.horizon.job.is_some() || step.space.is_low() {
            return;
        }
        // First the merge: before the next run comes there must be room for it.
        if let Some(range) = self.dedup.runs().plan() {
            if step.jobs.has_room(Kind::Merge) {
                self.start_id_merge(step, range);
            }
        } else if self.dedup.frozen().is_some() && step.jobs.has_room(Kind::Flush) {
            self.start_id_flush(step);
        }
    }

    fn start_id_flush(&mut self, step: &mut Step<'_>) {
        let frozen = self.dedup.frozen().expect("asked for by the caller").clone();
        let (living, run) = (self.living_ids(), self.next_id_run());
        self.begin_job(
            step,
            RunningJob::FlushIds,
            JobSpec::FlushIds(IdFlushSpec { frozen, living, run }),
        );
    }

    fn start_id_merge(&mut self, step: &mut Step<'_>, range: Range<usize>) {
        let inputs = self.dedup.runs().newest_first()[range.clone()].to_vec();
        let (living, run) = (self.living_ids(), self.next_id_run());
        let spec = IdMergeSpec { inputs, living, run };
        self.begin_job(step, RunningJob::MergeIds { range }, JobSpec::MergeIds(spec));
    }

    /// Runs of ids and of records are numbered together: each has a file name of its own.
    fn next_id_run(&mut self) -> RunIds {
        self.horizon.last_run = RunNo(self.horizon.last_run.0 + 1);
        let (cluster, run) = (self.ids.cluster, self.horizon.last_run);
        RunIds { cluster, partition: self.id, run }
    }

    /// Runs were merged: their files go when the last read of them is done.
    pub(super) fn ids_merged(
        &mut self,
        step: &mut Step<'_>,
        range: Range<usize>,
        run: Option<Arc<RunDirectory>>,
    ) {
        let gone = self.dedup.merged(range, run);
        self.lookups.retire(gone.iter().map(|run| run.ids().run));
        self.remove_unused_ids(step);
    }

    /// Which ids are alive now, for a job: what groups have settled, as it is now.
    fn living_ids(&self) -> Living {
        let mut groups: BTreeMap<TopicNo, Vec<Settled>> = BTreeMap::new();
        for group in &self.groups {
            let cursor = group.cursor.without_failures();
            let (min_offset, min_due) = (group.min_offset, group.min_due);
            groups.entry(group.topic).or_default().push(Settled { min_offset, min_due, cursor });
        }
        Living { lifetime: self.dedup.lifetime(), groups }
    }
}
