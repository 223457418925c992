//! The story of a flush, owner half: the due axis of a stretch of the log goes to the disk, what is
//! due far ahead leaves the memory, and runs are merged and removed.
//!
//! ```text
//!  unflushed_bytes >= flush_bytes --> StartJob(flush) --> JobDone: the runs count
//!      --> far events are dropped from memory, a few at a time (`load` brings them back)
//!      --> a checkpoint says that the log before needs not be read at a start (`checkpoint`)
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::load::end_of;
use super::recover::Phase;
use crate::base::config::EngineConfig;
use crate::base::ids::{GroupNo, Offset, Position, RunNo, TopicNo};
use crate::base::limits;
use crate::engine::block_load::BlockLoad;
use crate::engine::damage::Damage;
use crate::engine::effect::Effect;
use crate::engine::horizon::{BlockFlow, Drop, RunningJob, merge_from};
use crate::engine::jobs::flush::FlushSpec;
use crate::engine::jobs::merge::{Gone, MergeSpec};
use crate::engine::jobs::places::Kind;
use crate::engine::jobs::{JobOutcome, JobSpec};
use crate::engine::partition::Partition;
use crate::engine::runs::{Directory, DueSource, RunKind};
use crate::engine::step::Step;

impl Partition {
    /// Goes on with whatever concerns the far future. Once per turn, a bounded amount.
    pub(in crate::engine) fn horizon_on(&mut self, step: &mut Step<'_>) {
        self.drop_some();
        self.trim_on(step);
        self.load_wanted(step);
        self.pages_on(step);
        self.ids_on(step);
        self.checkpoint_on(step);
        self.retention_on(step);
        self.start_job(step);
    }

    /// Starts a flush or a merge, where one is due and none is under way.
    fn start_job(&mut self, step: &mut Step<'_>) {
        let ready = self.phase == Phase::Serving
            && self.horizon.job.is_none()
            && !step.space.is_low()
            && self.horizon.drops.is_empty();
        if !ready {
            return;
        }
        if self.horizon.unflushed_bytes >= flush_at(step.config) {
            if self.horizon.flushed < self.applied_end {
                if step.jobs.has_room(Kind::Flush) {
                    self.start_flush(step);
                }
                return;
            }
            // Nothing but settlements: the state alone has moved.
            self.horizon.unflushed_bytes = 0;
            self.checkpoints.wanted = true;
        }
        if !step.jobs.has_room(Kind::Merge) {
            return;
        }
        let horizon = &self.horizon;
        for kind in [RunKind::Carried, RunKind::Index] {
            // Records are written by a flush, once more by a merge, and then they stay.
            let largest = 4 * flush_at(step.config);
            let largest = if kind == RunKind::Carried { largest } else { u64::MAX };
            if let Some(from) = merge_from(horizon.list(kind), largest) {
                let all = from..horizon.list(kind).len();
                return self.start_merge(step, kind, all);
            }
        }
        if let Some(run) = self.retention.merge.take()
            && let Some(at) = self.horizon.runs.iter().position(|r| r.head().ids.run == run)
        {
            self.start_merge(step, RunKind::Carried, at..at + 1);
        }
    }

    fn start_flush(&mut self, step: &mut Step<'_>) {
        let first = self.horizon.flushed;
        let Some(start) = self.sparse.locate(first) else { return };
        // A job holds what it carries: a crowd is flushed in parts.
        let part = 2 * flush_at(step.config);
        let end = self.sparse.offset_behind(start, part).unwrap_or(self.applied_end);
        let offsets = first..end.clamp(Offset(first.0 + 1), self.applied_end);
        let segments = self.sparse.segments().filter(|first| *first >= start.place.segment);
        let end = |first| self.sparse.segment_end(first).expect("a segment of the index");
        let segments = segments.map(|first| (first, end(first))).collect();
        let far = self.horizon.armed_to.max(step.now.wall_ms() + step.config.horizon_ms);
        let run = RunNo(self.horizon.last_run.0 + 1);
        let index = RunNo(run.0 + 1);
        self.horizon.last_run = index;
        let ids = self.ids;
        let (lasting, now) = (self.outliving(step).collect(), step.now.wall_ms());
        let offsets_of = offsets.clone();
        let spec =
            FlushSpec { ids, start, segments, offsets: offsets_of, far, lasting, now, run, index };
        let all = offsets.end == self.applied_end;
        let bytes = self.horizon.unflushed_bytes;
        self.horizon.flushing_bytes = if all { bytes } else { bytes.min(part) };
        self.horizon.unflushed_bytes -= self.horizon.flushing_bytes;
        self.horizon.flushed = offsets.end;
        self.begin_job(step, RunningJob::Flush { offsets, far }, JobSpec::Flush(spec));
    }

    fn start_merge(&mut self, step: &mut Step<'_>, kind: RunKind, range: Range<usize>) {
        let inputs = self.horizon.list(kind)[range].to_vec();
        let gone = self.gone_from(step, kind, &inputs);
        self.horizon.last_run = RunNo(self.horizon.last_run.0 + 1);
        let run = self.horizon.last_run;
        let numbers = inputs.iter().map(|input| input.head().ids.run).collect();
        let job = RunningJob::Merge { kind, inputs: numbers };
        self.begin_job(step, job, JobSpec::Merge(MergeSpec { inputs, run, gone }));
    }

    /// What a merge of these runs may leave out.
    fn gone_from(&self, step: &Step<'_>, kind: RunKind, inputs: &[Arc<Directory>]) -> Gone {
        if kind == RunKind::Index {
            // Their records were in segments that are removed.
            return Gone { before: self.retention.log_start, edges: BTreeMap::new() };
        }
        let end = inputs.iter().map(|run| run.head().end_offset).max();
        let settled = end.is_some_and(|end| end <= self.retention.trimmed.1);
        let topics = inputs.iter().flat_map(|run| run.topics()).map(|slice| slice.topic);
        let edge = |topic| (topic, self.dead_edge(step, topic));
        let edges = topics.filter(|_| settled).map(edge).collect();
        Gone { before: Offset(0), edges }
    }

    /// Bytes of the log that are not in runs, what a job under way carries included.
    pub(in crate::engine) fn unflushed(&self) -> u64 {
        self.horizon.unflushed_bytes + self.horizon.flushing_bytes
    }

    pub(super) fn begin_job(&mut self, step: &mut Step<'_>, running: RunningJob, job: JobSpec) {
        step.jobs.begin(self.id, &running);
        self.horizon.job = Some(running);
        step.stats.jobs += 1;
        step.effects.push(Effect::StartJob { partition: self.id, job });
    }

    /// A job is over: its run counts, unless there is none.
    pub(in crate::engine) fn job_done(&mut self, step: &mut Step<'_>, outcome: JobOutcome) {
        let job = self.horizon.job.take().expect("one job at a time");
        step.jobs.end(job.kind());
        if let Some(fault) = outcome.fault {
            // The log or a run is damaged. Nothing may be lost for it: the next start's scan tells
            // what is, and until then nobody knows what else this disk returns.
            let text = format!("a job cannot read what was written: {}", fault.text);
            let damage = fault.run.map_or(Damage::Log, |run| self.damage_of(run));
            return self.condemn(step, &damage, text);
        }
        match job {
            RunningJob::Flush { offsets, far } => {
                self.horizon.on_runs = offsets.end;
                self.horizon.trim_at = 0;
                (self.horizon.flushing_bytes, self.horizon.ids_wanted) = (0, offsets.end);
                self.horizon.indexes.extend(outcome.index);
                for (segment, due) in outcome.near {
                    let near = self.retention.near.entry(segment).or_default();
                    *near = due.max(*near);
                }
                if let Some(run) = outcome.run {
                    self.carried(run, &offsets, far);
                }
            }
            RunningJob::Merge { kind, inputs } => {
                let list = self.horizon.list_mut(kind);
                let at = list.iter().position(|r| r.head().ids.run == inputs[0]);
                let at = at.expect("runs stay while they are merged");
                let range = at..at + inputs.len();
                let gone: Vec<_> = list.splice(range, outcome.run).collect();
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
            RunningJob::FlushIds => self.dedup.flushed(outcome.ids),
            RunningJob::MergeIds { range } => self.ids_merged(step, range, outcome.ids),
        }
        self.checkpoints.wanted = true;
    }

    /// That a run which a job reads is damaged.
    fn damage_of(&self, run: RunNo) -> Damage {
        if let Some(of_records) = self.horizon.all().find(|other| other.head().ids.run == run) {
            return Damage::of_run(of_records.head());
        }
        let mut of_ids = self.dedup.runs().newest_first().iter();
        let of_ids = of_ids.find(|other| other.ids().run == run);
        Damage::Ids(of_ids.expect("runs stay while a job reads them").offsets())
    }

    /// Something cannot be read. What the log has as well the next start makes anew from there; of
    /// damage to the log itself it tells what is lost, since it reads all of it.
    ///
    /// # Panics
    /// If a run had what the log has not: that is lost, and nothing may hide it.
    pub(super) fn condemn(&mut self, step: &mut Step<'_>, damage: &Damage, text: String) {
        assert!(
            !damage.is_beyond(self.retention.log_start),
            "partition {}: {text}. The log does not reach back to what it held: restore a backup",
            self.id
        );
        step.effects.push(Effect::Condemn { partition: self.id, text });
    }

    /// A flush has made a carried run: what is due behind `far` may leave the memory.
    fn carried(&mut self, run: Arc<Directory>, offsets: &Range<Offset>, far: u64) {
        for slice in run.topics() {
            let disk = &mut self.topics.get_mut(slice.topic).disk;
            if let Some(loading) = &mut disk.loading {
                // The load under way knows nothing of this run.
                let due = run.next_due(slice.topic, disk.loaded_to).unwrap_or(u64::MAX);
                loading.load.limit(due);
            } else if disk.next_due == u64::MAX {
                disk.loaded_to = end_of(far).max(disk.floor);
                disk.mark = disk.mark.min(disk.loaded_to);
            } else if disk.next_due > far {
                // What the run has up to there is in memory as well.
                disk.loaded_to = disk.loaded_to.max(end_of(far));
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

    /// Events that a run carries leave the memory, a few at a time.
    fn drop_some(&mut self) {
        if !self.armed {
            return;
        }
        let Some(mut drop) = self.horizon.drops.pop_front() else { return };
        let (topics, groups) = (&mut self.topics, &self.groups);
        let topic = topics.get_mut(drop.topic);
        let carried = |p: &Position| p.due > drop.far && drop.offsets.contains(&p.offset);
        let wanted =
            |p: &Position| carried(p) && p.due > self.horizon.armed_to && *p > topic.disk.loaded_to;
        let (mut found, mut stays) = (Vec::new(), Vec::new());
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
            } else if there && carried(&event.position) {
                stays.push(event.position);
            }
        }
        for position in &found {
            topic.axis.remove(*position);
        }
        for position in stays {
            topic.axis.carried(position);
        }
        let count = found.len() as u64;
        topic.disk.count += count;
        self.horizon.on_disk += count;
        self.horizon.unarmed -= count;
        if !over {
            self.horizon.drops.push_front(drop);
        }
    }

    /// Removes the files of retired runs that nobody reads and no checkpoint lists.
    pub(super) fn remove_retired(&mut self, step: &mut Step<'_>) {
        let partition = self.id;
        let horizon = &mut self.horizon;
        if horizon.retired.is_empty() {
            return; // most often, and to ask all topics costs
        }
        let read = |run: RunNo| horizon.reads.values().any(|read| read.run.head().ids.run == run);
        let loads = self.topics.iter().filter_map(|(_, topic)| topic.disk.loading.as_ref());
        let pages = horizon.reads.values().flat_map(|read| &read.flows).filter_map(|(_, flow)| {
            if let BlockFlow::Replay(page) = flow { page.load.as_ref() } else { None }
        });
        let loads: Vec<&BlockLoad> = loads
            .map(|loading| &loading.load)
            .chain(pages)
            .chain(horizon.readers.values().filter_map(|reader| reader.load.as_ref()))
            .collect();
        let wanted = |run: &RunNo| loads.iter().any(|load| load.uses(*run));
        let listed = |run: &RunNo| self.checkpoints.lists(*run);
        let (gone, kept): (Vec<RunNo>, Vec<RunNo>) =
            horizon.retired.iter().partition(|run| !read(**run) && !wanted(run) && !listed(run));
        horizon.retired = kept;
        for run in gone {
            horizon.blocks.forget(run);
            step.effects.push(Effect::RemoveRun { partition, run });
        }
    }
}

/// Bytes of a partition's log at which a flush is due: what a start reads again is bounded for the
/// shard as a whole, too.
pub(in crate::engine) fn flush_at(config: &EngineConfig) -> u64 {
    let owned = u64::from(config.partitions.div_ceil(config.shards)).max(1);
    config.flush_bytes.min((limits::FLUSH_SHARD_BYTES / owned).max(limits::FLUSH_SHARE_MIN))
}
