//! The story of a flush, owner half: what is due far ahead leaves the memory, and runs are merged
//! and removed.
//!
//! ```text
//!  unflushed_bytes >= flush_bytes --> StartJob(flush) --> JobDone: the run counts
//!      --> its events are dropped from memory, a few at a time (`load` brings them back)
//! ```

use std::sync::Arc;

use super::load::end_of;
use super::recover::Phase;
use crate::base::ids::{GroupNo, Position, RunNo, TopicNo};
use crate::base::limits;
use crate::engine::effect::Effect;
use crate::engine::horizon::{Drop, RunningJob};
use crate::engine::jobs::flush::FlushSpec;
use crate::engine::jobs::merge::MergeSpec;
use crate::engine::jobs::{JobOutcome, JobSpec};
use crate::engine::partition::Partition;
use crate::engine::runs::{Directory, DueSource, TopicSlice};
use crate::engine::step::Step;

impl Partition {
    /// Goes on with whatever concerns the far future. Once per turn, a bounded amount.
    pub(in crate::engine) fn horizon_on(&mut self, step: &mut Step<'_>) {
        self.drop_some();
        self.load_wanted(step);
        self.start_job(step);
    }

    /// Starts a flush or a merge, where one is due and none is under way.
    fn start_job(&mut self, step: &mut Step<'_>) {
        let ready = self.phase == Phase::Serving
            && self.horizon.job.is_none()
            && *step.jobs < limits::JOBS
            && !step.space.is_low()
            && self.horizon.drops.is_empty();
        if !ready {
            return;
        }
        if self.horizon.unflushed_bytes >= step.config.flush_bytes {
            if self.horizon.unarmed > 0 && self.horizon.flushed < self.applied_end {
                return self.start_flush(step);
            }
            (self.horizon.flushed, self.horizon.unflushed_bytes) = (self.applied_end, 0);
        }
        if let Some(from) = self.horizon.merge_from() {
            self.start_merge(step, from);
        }
    }

    fn start_flush(&mut self, step: &mut Step<'_>) {
        let offsets = self.horizon.flushed..self.applied_end;
        let Some(start) = self.sparse.locate(offsets.start) else { return };
        let segments = self.sparse.segments().filter(|first| *first >= start.place.segment);
        let end = |first| self.sparse.segment_end(first).expect("a segment of the index");
        let segments = segments.map(|first| (first, end(first))).collect();
        let far = self.horizon.armed_to.max(step.now.wall_ms() + step.config.horizon_ms);
        self.horizon.last_run = RunNo(self.horizon.last_run.0 + 1);
        let run = self.horizon.last_run;
        let ids = self.ids;
        let spec = FlushSpec { ids, start, segments, offsets: offsets.clone(), far, run };
        (self.horizon.flushed, self.horizon.unflushed_bytes) = (self.applied_end, 0);
        self.horizon.job = Some(RunningJob::Flush { offsets, far });
        self.begin_job(step, JobSpec::Flush(spec));
    }

    fn start_merge(&mut self, step: &mut Step<'_>, from: usize) {
        let inputs = self.horizon.runs[from..].to_vec();
        let passed = self.topics.iter().map(|(no, topic)| (no, topic.disk.mark)).collect();
        self.horizon.last_run = RunNo(self.horizon.last_run.0 + 1);
        let run = self.horizon.last_run;
        let numbers = inputs.iter().map(|input| input.head().ids.run).collect();
        self.horizon.job = Some(RunningJob::Merge { inputs: numbers });
        self.begin_job(step, JobSpec::Merge(MergeSpec { inputs, passed, run }));
    }

    fn begin_job(&mut self, step: &mut Step<'_>, job: JobSpec) {
        *step.jobs += 1;
        step.stats.jobs += 1;
        step.effects.push(Effect::StartJob { partition: self.id, job });
    }

    /// A job is over: its run counts, unless there is none.
    pub(in crate::engine) fn job_done(&mut self, step: &mut Step<'_>, outcome: JobOutcome) {
        *step.jobs -= 1;
        let job = self.horizon.job.take().expect("one job at a time");
        if let Some(fault) = outcome.fault {
            // The log or a run is damaged. Nothing may be lost for it: the next start's scan tells
            // what is, and until then nobody knows what else this disk returns.
            panic!("partition {}: a job cannot read what was written: {fault}", self.id);
        }
        match job {
            RunningJob::Flush { offsets, far } => {
                let Some(run) = outcome.run else { return };
                for slice in run.topics() {
                    let disk = &mut self.topics.get_mut(slice.topic).disk;
                    if let Some(loading) = &mut disk.loading {
                        // The load under way knows nothing of this run.
                        let due = run.next_due(slice.topic, disk.loaded_to).unwrap_or(u64::MAX);
                        loading.bound = loading.bound.min(due);
                    } else if disk.next_due == u64::MAX {
                        disk.loaded_to = end_of(far);
                        // A merge must not take what leaves the memory now for what was loaded.
                        disk.mark = disk.mark.min(disk.loaded_to);
                    }
                    let (topic, at) = (slice.topic, end_of(far));
                    let offsets = offsets.clone();
                    self.horizon.drops.push_back(Drop { topic, offsets, far, at });
                }
                let topics: Vec<_> = run.topics().iter().map(|slice| slice.topic).collect();
                self.horizon.runs.push(run);
                for topic in topics {
                    self.set_next_due(topic);
                }
            }
            RunningJob::Merge { inputs } => {
                let at = self.horizon.runs.iter().position(|r| r.head().ids.run == inputs[0]);
                let at = at.expect("runs stay while they are merged");
                let range = at..at + inputs.len();
                let gone: Vec<_> = self.horizon.runs.splice(range, outcome.run).collect();
                let mut topics: Vec<TopicNo> =
                    gone.iter().flat_map(|run| run.topics()).map(|slice| slice.topic).collect();
                topics.sort_unstable();
                topics.dedup();
                for topic in topics {
                    self.set_next_due(topic);
                }
                self.horizon.retired.extend(inputs);
                self.remove_retired(step);
            }
        }
    }

    /// Events that a run carries leave the memory, a few at a time.
    fn drop_some(&mut self) {
        if !self.armed {
            return;
        }
        let Some(mut drop) = self.horizon.drops.pop_front() else { return };
        let (topics, groups) = (&mut self.topics, &self.groups);
        let topic = topics.get_mut(drop.topic);
        let wanted = |p: &Position| {
            p.due > drop.far
                && p.due > self.horizon.armed_to
                && *p > topic.disk.loaded_to
                && drop.offsets.contains(&p.offset)
        };
        let mut found = Vec::new();
        let mut over = true;
        for (looked, event) in topic.axis.after(drop.at).enumerate() {
            if looked == limits::STEP_EVENTS / 4 {
                over = false;
                break;
            }
            drop.at = event.position;
            let known = |no: &GroupNo| groups[no.0 as usize].knows(event.position);
            let there = event.schedule_ts == event.position.due && !event.is_loaded;
            if wanted(&event.position) && there && !topic.groups.iter().any(known) {
                found.push(event.position);
            }
        }
        for position in &found {
            topic.axis.remove(*position);
        }
        let count = found.len() as u64;
        topic.disk.count += count;
        self.horizon.on_disk += count;
        self.horizon.unarmed -= count;
        if !over {
            self.horizon.drops.push_front(drop);
        }
    }

    /// Runs whose last event every reader has passed are not needed any more.
    pub(super) fn retire_passed(&mut self, step: &mut Step<'_>) {
        let merging = match &self.horizon.job {
            Some(RunningJob::Merge { inputs }) => inputs.as_slice(),
            _ => &[],
        };
        let dropping = !self.horizon.drops.is_empty();
        let passed = |run: &Arc<Directory>| {
            let slice_passed = |slice: &TopicSlice| {
                let topic = self.topics.get(slice.topic);
                let read =
                    |no: &GroupNo| self.groups[no.0 as usize].dispatch.next_read >= slice.last;
                topic.disk.loaded_to >= slice.last && topic.groups.iter().all(read)
            };
            !dropping
                && !merging.contains(&run.head().ids.run)
                && run.topics().iter().all(slice_passed)
        };
        let gone: Vec<RunNo> =
            self.horizon.runs.iter().filter(|r| passed(r)).map(|r| r.head().ids.run).collect();
        if gone.is_empty() {
            return;
        }
        self.horizon.runs.retain(|run| !gone.contains(&run.head().ids.run));
        self.horizon.retired.extend(gone);
        self.remove_retired(step);
    }

    /// Removes the files of retired runs that nobody reads.
    pub(super) fn remove_retired(&mut self, step: &mut Step<'_>) {
        let partition = self.id;
        let horizon = &mut self.horizon;
        let read = |run: RunNo| horizon.reads.values().any(|read| read.run.head().ids.run == run);
        let loads = self.topics.iter().filter_map(|(_, topic)| topic.disk.loading.as_ref());
        let wanted: Vec<RunNo> =
            loads.flat_map(|l| l.blocks.iter().map(|part| part.run.head().ids.run)).collect();
        let (gone, kept): (Vec<RunNo>, Vec<RunNo>) =
            horizon.retired.iter().partition(|run| !read(**run) && !wanted.contains(run));
        horizon.retired = kept;
        for run in gone {
            horizon.blocks.forget(run);
            step.effects.push(Effect::RemoveRun { partition, run });
        }
    }
}
