//! The story of a checkpoint, owner half: the applied state and the list of runs are saved, so that
//! a start reads the end of the log only; and how a start goes on from one.
//!
//! ```text
//!  a job is done --> prepared --(all of it is synced)--> SaveCheckpoint --> CheckpointSaved
//!      --> the third oldest is removed, then runs that none of the two lists
//!  Mount --> restore --> the log from `resume` on --> runs up to the edge --> as any recovery
//! ```
//! Must hold: a checkpoint never speaks of an entry that a power loss could take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::recover::Phase;
use crate::base::ids::{GroupNo, Index, Position, RunNo};
use crate::base::limits;
use crate::base::position_map::PositionMap;
use crate::engine::checkpoint::{Checkpoint, Found, Kept, Restored};
use crate::engine::delivery::{Cursor, DeadLetter, Failures};
use crate::engine::effect::Effect;
use crate::engine::log::{Body, Content, EntryHeader, NewGroup};
use crate::engine::partition::Partition;
use crate::engine::runs::Directory;
use crate::engine::step::Step;

/// Where a partition's checkpoints stand.
#[derive(Debug, Default)]
pub struct Checkpoints {
    /// Something has happened that is worth one.
    pub(super) wanted: bool,
    /// Number of the one made last.
    number: u64,
    /// Waits until its last entry is synced.
    prepared: Option<Box<Checkpoint>>,
    /// On its way to the disk.
    saving: Option<Kept>,
    /// On the disk, oldest first.
    pub(super) kept: VecDeque<Kept>,
    /// No other one before this, boot time in ms.
    not_before_ms: u64,
}

impl Checkpoints {
    /// Whether a start may need this run.
    pub(super) fn lists(&self, run: RunNo) -> bool {
        let prepared = self.prepared.iter().any(|checkpoint| checkpoint.runs().any(|r| r == run));
        prepared || self.kept.iter().chain(&self.saving).any(|kept| kept.runs.contains(&run))
    }

    /// Numbers of those on the disk, oldest first, and all runs that they list, in order.
    pub(in crate::engine) fn kept(&self) -> (Vec<u64>, Vec<RunNo>) {
        let runs: BTreeSet<RunNo> = self.kept.iter().flat_map(|kept| &kept.runs).copied().collect();
        (self.kept.iter().map(|kept| kept.number).collect(), runs.into_iter().collect())
    }

    /// When one could be made, boot time in ms.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let waits = self.wanted && self.saving.is_none() && self.prepared.is_none();
        waits.then_some(self.not_before_ms)
    }
}

impl Partition {
    /// Makes a checkpoint where one is wanted, or saves the one that waits.
    pub(super) fn checkpoint_on(&mut self, step: &mut Step<'_>) {
        let serving = self.phase == Phase::Serving && !step.space.is_low();
        if !serving || self.checkpoints.saving.is_some() {
            return;
        }
        let now_ms = step.now.boot_ms();
        let due = self.checkpoints.wanted && self.checkpoints.not_before_ms <= now_ms;
        if self.checkpoints.prepared.is_none() && due {
            self.checkpoints.wanted = false;
            self.checkpoints.not_before_ms = now_ms + limits::CHECKPOINT_INTERVAL_MS;
            self.checkpoints.prepared = self.checkpoint().map(Box::new);
        }
        let durable = self.writes.synced;
        let waits = |checkpoint: &Checkpoint| checkpoint.last.0 > durable;
        if self.checkpoints.prepared.as_deref().is_none_or(waits) {
            return;
        }
        let checkpoint = self.checkpoints.prepared.take().expect("just seen");
        self.checkpoints.saving = Some(checkpoint.kept());
        step.stats.checkpoints += 1;
        step.effects.push(Effect::SaveCheckpoint {
            partition: self.id,
            number: checkpoint.number,
            bytes: checkpoint.encode(),
        });
    }

    /// `None` if the log has no entry yet that it could go on from.
    fn checkpoint(&mut self) -> Option<Checkpoint> {
        // Known bad: what a flush has begun to carry is taken for carried.
        let ahead = cfg!(bug_checkpoint_ahead);
        let flushed = if ahead { self.horizon.flushed } else { self.horizon.on_runs };
        let ids_end = self.dedup.runs().end();
        let resume = self.sparse.locate(flushed.min(ids_end))?;
        self.checkpoints.number += 1;
        let numbers = |runs: &[Arc<Directory>]| runs.iter().map(|r| r.head().ids.run).collect();
        Some(Checkpoint {
            ids: self.ids,
            number: self.checkpoints.number,
            last: self.last_applied,
            applied_ts: self.applied_ts,
            applied_end: self.applied_end,
            flushed,
            resume,
            last_run: self.horizon.last_run,
            carried: numbers(&self.horizon.runs),
            indexes: numbers(&self.horizon.indexes),
            ids_end,
            id_runs: self.dedup.runs().newest_first().iter().map(|run| run.ids().run).collect(),
            notes: self.sparse.before(resume.place),
            near: self.retention.near.iter().map(|(first, due)| (*first, *due)).collect(),
            passed: Some(self.topics.passed()),
            state: self.whole_state(),
        })
    }

    /// The checkpoint is durable: the oldest and what only it listed go.
    pub(in crate::engine) fn checkpoint_saved(&mut self, step: &mut Step<'_>) {
        let saved = self.checkpoints.saving.take().expect("a checkpoint was being saved");
        self.checkpoints.kept.push_back(saved);
        if self.checkpoints.kept.len() > limits::CHECKPOINTS_KEPT {
            let Kept { number, .. } = self.checkpoints.kept.pop_front().expect("more than one");
            step.effects.push(Effect::RemoveCheckpoint { partition: self.id, number });
        }
        self.remove_retired(step);
        self.remove_unused_ids(step);
        // Runs that were merged take their room until no checkpoint lists them.
        let older = self.checkpoints.kept.iter().rev().skip(1);
        let held = |kept: &Kept| self.horizon.retired.iter().any(|run| kept.runs.contains(run));
        self.checkpoints.wanted |= older.into_iter().any(held);
    }

    /// No checkpoint is to be used: they go, then the runs they list, but for those that may have
    /// what the log has not.
    pub(super) fn forget_checkpoints(&mut self, step: &mut Step<'_>, but: &[Arc<Directory>]) {
        let partition = self.id;
        let kept = std::mem::take(&mut self.checkpoints.kept);
        let mut runs: BTreeSet<RunNo> = kept.iter().flat_map(|kept| &kept.runs).copied().collect();
        runs.retain(|run| but.iter().all(|stays| stays.head().ids.run != *run));
        for Kept { number, .. } in kept {
            step.effects.push(Effect::RemoveCheckpoint { partition, number });
        }
        let removed = runs.into_iter().map(|run| Effect::RemoveRun { partition, run });
        step.effects.extend(removed);
    }

    /// A start goes on from a checkpoint.
    pub(super) fn restore(&mut self, found: Found, log_start: Index) -> Option<Checkpoint> {
        self.checkpoints.number = found.kept.iter().map(|kept| kept.number).max().unwrap_or(0);
        self.checkpoints.kept = found.kept.into();
        let Restored { mut checkpoint, carried, indexes, ids } = *found.restored?;
        self.dedup.restore(ids);
        self.restore_state(&std::mem::take(&mut checkpoint.state));
        (self.applied_end, self.applied_ts) = (checkpoint.applied_end, checkpoint.applied_ts);
        self.last_applied = checkpoint.last;
        let mut notes = std::mem::take(&mut checkpoint.notes);
        notes.retain(|notes| notes.first >= log_start);
        self.sparse.restore(notes);
        self.retention.near = checkpoint.near.iter().copied().collect();
        match &checkpoint.passed {
            Some(passed) => passed.iter().for_each(|(topic, ms)| {
                self.topics.get_mut(*topic).axis.passed_up_to(*ms);
            }),
            None => self.topics.passed_up_to(u64::MAX),
        }
        let horizon = &mut self.horizon;
        (horizon.runs, horizon.indexes, horizon.last_run) = (carried, indexes, checkpoint.last_run);
        (horizon.flushed, horizon.on_runs) = (checkpoint.flushed, checkpoint.flushed);
        Some(checkpoint)
    }

    pub(super) fn restore_state(&mut self, parts: &[Body]) {
        let mut cursors: BTreeMap<GroupNo, Sets> = BTreeMap::new();
        for body in parts {
            let Content::State(view) = body.content() else {
                unreachable!("a checkpoint has state bodies only");
            };
            view.topics().for_each(|(no, name)| self.topics.define(no, name));
            // Known bad: what a topic was set to does not outlive the process.
            let settings = view.retention().filter(|_| !cfg!(bug_forget_settings_at_restart));
            settings.for_each(|(no, retention)| self.topics.retain(no, retention));
            for group in view.groups() {
                let (min_offset, min_due) = (group.min_offset, group.min_due);
                let (no, name, topic) = (group.no, group.name, group.topic);
                let ordered = group.ordered;
                self.apply_group(&NewGroup { no, name, topic, min_offset, min_due, ordered });
                cursors.entry(no).or_default().frontier = group.frontier;
            }
            for (no, position) in view.settled() {
                cursors.entry(no).or_default().settled.insert(position, ());
            }
            for row in view.unsettled() {
                let sets = cursors.entry(row.group).or_default();
                sets.open.insert(row.position);
                if row.attempts > 0 || row.not_before_ms > 0 {
                    let (attempts, not_before) = (row.attempts, row.not_before_ms);
                    sets.failures.insert(row.position, Failures { attempts, not_before });
                }
            }
            for row in view.dead() {
                let (reason, attempts) = (row.reason as u8, row.attempts);
                let letter = DeadLetter { reason, attempts, text: row.text.into() };
                self.groups[row.group.0 as usize].dead.insert(row.position, letter);
            }
        }
        for (no, Sets { frontier, settled, mut open, failures }) in cursors {
            // Failed ones beyond the frontier are in no set.
            open.retain(|position| *position <= frontier);
            let cursor = Cursor::restore(frontier, settled, open, failures);
            self.groups[no.0 as usize].cursor = cursor;
        }
    }

    /// An entry whose effects on groups and settings are in the checkpoint: its events join the
    /// due axis, and its ids are remembered.
    pub(super) fn apply_again(&mut self, header: &EntryHeader, body: &Body) {
        assert!(header.end_offset() <= self.applied_end, "the checkpoint has seen this entry");
        let Content::Publish(view) = body.content() else { return };
        for slot in 0..view.len() {
            let record = view.record(slot);
            let offset = header.base_offset.plus(u64::from(slot));
            if offset >= self.horizon.on_runs {
                let position = Position::new(record.schedule_ts.max(header.append_ts), offset);
                let topic = self.topics.get_mut(record.topic);
                topic.axis.insert(position, record.schedule_ts);
            }
            if offset >= self.dedup.runs().end() {
                let hash = self.hash_of(body.bytes(), &record);
                self.remember_id(header, hash, &record, offset);
            }
        }
    }
}

#[derive(Default)]
struct Sets {
    frontier: Position,
    settled: PositionMap<()>,
    open: BTreeSet<Position>,
    failures: BTreeMap<Position, Failures>,
}
