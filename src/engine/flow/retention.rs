//! The story of retention, owner half: segments and runs that nobody needs any more are removed.
//!
//! ```text
//!  once a second: the oldest segment is past its time, settled by every group, in runs, behind all
//!  checkpoints, out of memory --> SaveHardState(log_start) --> RemoveSegment, RemoveRun
//!                 a third of a carried run is past and settled --> a merge without it
//! ```
//! Must hold: see [`crate::engine::retention`]. A dead letter counts as unsettled for as long as
//! dead letters are kept.

use std::sync::Arc;

use super::load::end_of;
use super::recover::Phase;
use super::roll::Roll;
use crate::base::config::EngineConfig;
use crate::base::ids::{GroupNo, Index, Offset, Position, TopicNo};
use crate::base::limits;
use crate::engine::delivery::Group;
use crate::engine::effect::Effect;
use crate::engine::horizon::RunningJob;
use crate::engine::input::HardState;
use crate::engine::log::{Body, Content, DeadReason, EntryHeader};
use crate::engine::log_clock::TRUSTED_JUMP_MS;
use crate::engine::partition::Partition;
use crate::engine::retention::Begin;
use crate::engine::runs::Directory;
use crate::engine::step::Step;
use crate::engine::wheel::Handle;

/// Where nothing else happens, one look in so many is enough.
const IDLE_CHECKS: u64 = 60;

impl Partition {
    /// Looks for what can go, once in a while.
    pub(super) fn retention_on(&mut self, step: &mut Step<'_>) {
        let config = step.config;
        let by_topic = self.topics.retained().next().is_some();
        let wanted = config.retention_ms > 0 || config.retention_bytes > 0 || by_topic;
        let now_ms = step.now.boot_ms();
        if !wanted || !self.is_calm() || now_ms < self.retention.next_check_ms {
            return;
        }
        self.retention.next_check_ms = now_ms + config.retention_check_ms;
        self.retention.wake_ms = Some(now_ms + IDLE_CHECKS * config.retention_check_ms);
        let log_now = self.clock.peek(step.now);
        self.see_members(log_now);
        let seen = std::mem::replace(&mut self.retention.seen_ms, log_now);
        if seen > 0 && log_now > seen + TRUSTED_JUMP_MS {
            // A clock that is wrong must not empty the log: it has time to be set right. A log that
            // has just begun has no time to jump from.
            self.retention.trusted_from_ms = now_ms + config.jump_pause_ms;
        }
        if now_ms < self.retention.trusted_from_ms {
            return;
        }
        let now = log_now.min(step.now.wall_ms());
        let is_over = config.retention_bytes > 0 && self.sparse.bytes() > config.retention_bytes;
        let age = if config.retention_ms == 0 { u64::MAX } else { config.retention_ms };
        let aged = now.saturating_sub(age);
        let passed = if is_over { now.saturating_sub(1) } else { aged };
        (self.retention.now_ms, self.retention.passed_ms) = (now, passed);
        self.forget_dead_letters(config, now);
        let removed = self.remove_oldest_segment(step, is_over, log_now);
        let limit = config.retention_bytes.saturating_add(config.segment_bytes);
        self.retention.is_full = is_over && !removed && self.sparse.bytes() > limit;
        self.retire_carried(step);
    }

    /// When to look for what can go, boot time in ms; `None`: nothing could, or nothing may.
    pub(super) fn next_retention_ms(&self) -> Option<u64> {
        let something = self.segments.len() > 1 || !self.horizon.runs.is_empty();
        self.retention.wake_ms.filter(|_| something && self.is_calm())
    }

    fn is_calm(&self) -> bool {
        let serves = self.phase == Phase::Serving && self.horizon.drops.is_empty();
        serves && self.roll == Roll::None && self.retention.saving.is_none()
    }

    fn see_members(&mut self, log_now: u64) {
        for group in &mut self.groups {
            let dispatch = &mut group.dispatch;
            if !dispatch.members.is_empty() || dispatch.seen_ms == 0 {
                dispatch.seen_ms = log_now;
            }
        }
    }

    fn forget_dead_letters(&mut self, config: &EngineConfig, now: u64) {
        let passed = now.saturating_sub(config.dead_letter_retention_ms);
        for group in &mut self.groups {
            while let Some(first) = group.dead.first_entry().filter(|e| e.key().due < passed) {
                first.remove();
            }
        }
    }

    /// Removes the oldest segment, if nobody needs it. True if it will go.
    fn remove_oldest_segment(&mut self, step: &mut Step<'_>, is_over: bool, log_now: u64) -> bool {
        let passed = self.retention.passed_ms;
        let Some((oldest, _)) = self.segments.first().copied() else { return false };
        let Some(next) = self.sparse.next_segment(oldest).map(|spot| spot.place.segment) else {
            return false;
        };
        let (end, begun) = self.sparse.segment_head(next).expect("a segment has an entry");
        // Known bad: what has not fired yet is not looked at.
        let ignores_pending = cfg!(bug_retention_ignores_pending);
        let near = self.retention.near.get(&oldest).copied().unwrap_or(0);
        let last = if ignores_pending { begun } else { near.max(begun) };
        let in_runs = end <= self.horizon.on_runs && end <= self.dedup.runs().end();
        let kept = &self.checkpoints.kept;
        let behind = !kept.is_empty() && kept.iter().all(|kept| kept.resume >= next);
        // By size the oldest goes, whoever would like to keep it.
        if last >= passed || !in_runs || !is_over && self.is_outlived(step, end) {
            return false;
        }
        if !behind {
            self.retention.wake_ms = Some(self.retention.next_check_ms);
            self.checkpoints.wanted |= kept.iter().any(|kept| kept.resume < next);
            return false;
        }
        let groups = self.groups.iter();
        let needed = groups.filter(|group| !is_abandoned(step.config, group, log_now));
        if needed.into_iter().any(|group| self.needs(group, last, end)) && !ignores_pending {
            return false;
        }
        let (trimmed, offsets) = self.retention.trimmed;
        if trimmed < last || offsets < end {
            self.retention.trim_to = Some(last);
            self.retention.wake_ms = Some(self.retention.next_check_ms);
            return false;
        }
        let read = self.reads.out.values().any(|reading| reading.place.segment < next);
        if read || self.reads.waiting.iter().any(|(offset, _)| *offset < end) {
            return false;
        }
        // From now on nobody begins to read there.
        (self.retention.saving, self.retention.log_start) = (Some(next), end);
        self.replica.begin_log_with(next);
        let state = HardState { cut_from: Index(0), ..self.replica.hard_state() };
        step.effects.push(Effect::SaveHardState { partition: self.id, state });
        true
    }

    /// Whether the log before `end` has events that no run carries and that their topic wants to be
    /// kept for longer than the node does: they were flushed before it said so.
    fn is_outlived(&self, step: &Step<'_>, end: Offset) -> bool {
        let indexes = self.horizon.indexes.iter().filter(|run| run.head().first_offset < end);
        let kept = |no: TopicNo, run: &Arc<Directory>| {
            run.topic(no).is_some_and(|slice| slice.last.due >= self.passed_of(no))
        };
        let mut topics = self.outliving(step);
        topics.any(|no| indexes.clone().any(|run| kept(no, run)))
    }

    /// Whether a group still has to see something of the log before `end` that no run carries: it
    /// is due up to `last` (Unix ms).
    fn needs(&self, group: &Group<Handle>, last: u64, end: Offset) -> bool {
        // What is gone already holds nothing.
        let here = |position: &Position| {
            (self.retention.log_start..end).contains(&position.offset) && position.due <= last
        };
        let open = group.cursor.unsettled().iter().any(here) || group.dead.keys().any(here);
        if open || group.cursor.frontier() >= end_of(last) || group.min_offset >= end {
            return open;
        }
        let from = group.cursor.frontier().max(before_due(group.min_due));
        let indexes = self.horizon.indexes.iter().filter(|run| run.head().first_offset < end);
        let unread = |run: &Arc<Directory>| {
            run.topic(group.topic).is_some_and(|slice| slice.last > from && slice.first_due <= last)
        };
        indexes.into_iter().any(unread)
    }

    /// The log's new start is durable: what is before it goes.
    pub(super) fn log_start_saved(&mut self, step: &mut Step<'_>, start: Index) {
        let partition = self.id;
        while let Some((segment, _)) = self.segments.first().copied().filter(|(s, _)| *s < start) {
            self.segments.remove(0);
            self.sparse.remove_oldest(segment);
            self.retention.near.remove(&segment);
            step.stats.segments_removed += 1;
            step.effects.push(Effect::RemoveSegment { partition, segment });
        }
        let offset = self.retention.log_start;
        // What is being merged stays until that is done: then it goes with the next segment.
        let merged = match &self.horizon.job {
            Some(RunningJob::Merge { inputs, .. }) => inputs.clone(),
            _ => Vec::new(),
        };
        let gone = |run: &&Arc<Directory>| {
            run.head().end_offset <= offset && !merged.contains(&run.head().ids.run)
        };
        let retired = self.horizon.indexes.iter().filter(gone).map(|run| run.head().ids.run);
        let retired: Vec<_> = retired.collect();
        self.horizon.indexes.retain(|run| !gone(&run));
        self.horizon.retired.extend(retired);
        self.checkpoints.wanted = true;
        (self.retention.next_check_ms, self.retention.wake_ms) = (0, Some(0));
        self.remove_retired(step);
    }

    /// Up to where nobody needs a topic's events any more that carried runs have.
    pub(super) fn dead_edge(&self, step: &Step<'_>, no: TopicNo) -> Position {
        let log_now = self.retention.seen_ms;
        let mut edge = end_of(self.passed_of(no).min(self.retention.trimmed.0));
        for no in &self.topics.get(no).groups {
            let group = &self.groups[no.0 as usize];
            if is_abandoned(step.config, group, log_now) {
                continue;
            }
            let gone = DeadReason::Gone as u8;
            let letter = group.dead.iter().find(|(_, letter)| letter.reason != gone);
            let letter = letter.map(|(position, _)| position);
            let open = group.cursor.unsettled().first().into_iter().chain(letter);
            let settled = group.cursor.frontier().max(before_due(group.min_due));
            edge = open.map(|open| before_due(open.due)).fold(edge.min(settled), Position::min);
        }
        edge
    }

    /// Removes carried runs that nobody needs, and has those written anew of which a third is not.
    fn retire_carried(&mut self, step: &mut Step<'_>) {
        let sooner = self.topics.retained().map(|(no, _)| self.passed_of(no)).max();
        let passed = self.retention.passed_ms.max(sooner.unwrap_or(0));
        let busy = self.horizon.job.is_some() || self.horizon.runs.is_empty();
        if busy || !self.horizon.runs.iter().any(|run| dues_before(run, passed)) {
            return;
        }
        let (trimmed, _) = self.retention.trimmed;
        if trimmed < passed {
            // Memory first: then what runs have of that time is not counted on.
            self.retention.trim_to = self.retention.trim_to.max(Some(passed));
        }
        let mut best = None;
        for (at, run) in self.horizon.runs.iter().enumerate() {
            if run.head().end_offset > self.retention.trimmed.1 {
                continue;
            }
            let dead: usize = run
                .topics()
                .iter()
                .map(|slice| {
                    let edge = self.dead_edge(step, slice.topic);
                    let behind = run.block_for(slice.topic, edge);
                    behind.unwrap_or(slice.blocks().end).saturating_sub(slice.blocks().start)
                })
                .sum();
            let all =
                run.topics().iter().all(|slice| slice.last <= self.dead_edge(step, slice.topic));
            if all {
                best = Some((at, true));
                break;
            }
            if dead * limits::DEAD_SHARE >= run.blocks() && dead > 0 {
                best = best.or(Some((at, false)));
            }
        }
        match best {
            Some((at, true)) => {
                let run = self.horizon.runs.remove(at);
                self.horizon.retired.push(run.head().ids.run);
                self.checkpoints.wanted = true;
                self.remove_retired(step);
            }
            Some((at, false)) => self.retention.merge = Some(self.horizon.runs[at].head().ids.run),
            None => {}
        }
    }

    /// The first entries of a log that begins with the state of what was before it.
    pub(super) fn begin_with_state(&mut self, header: &EntryHeader, body: &Body) -> bool {
        let Begin::State(parts) = &mut self.retention.begin else { return false };
        let Content::State(view) = body.content() else {
            panic!("partition {}: the log begins with {header:?}, not with a state", self.id);
        };
        let head = view.head();
        parts.push(body.detached());
        (self.applied_end, self.applied_ts) = (header.end_offset(), header.append_ts);
        self.last_applied = (header.index, header.term);
        if parts.len() < view.parts() as usize {
            return true;
        }
        let parts = std::mem::take(parts);
        self.retention.begin = Begin::Known;
        self.restore_state(&parts);
        let start = head.next_offset;
        let suspects = std::mem::take(&mut self.retention.suspects);
        let lost = suspects.iter().find(|(_, first)| *first < start);
        let lost = lost.map(|(run, _)| format!("run {run} is damaged"));
        self.retention.lost = self.retention.lost.take().or(lost);
        // Of what lies in the log all is made anew.
        let needed = |run: &Arc<Directory>| run.head().first_offset < start;
        let unneeded = self.horizon.runs.iter().filter(|run| !needed(run));
        let unneeded = unneeded.map(|run| run.head().ids.run);
        let unneeded: Vec<_> = unneeded.chain(suspects.iter().map(|(run, _)| *run)).collect();
        let there = self.horizon.runs.iter().map(|run| run.head().ids.run);
        let last = there.chain(unneeded.iter().copied()).max();
        self.horizon.last_run = last.unwrap_or(self.horizon.last_run).max(self.horizon.last_run);
        self.horizon.runs.retain(needed);
        if self.retention.lost.is_none() {
            self.horizon.retired = unneeded;
        }
        (self.horizon.flushed, self.horizon.on_runs) = (start, start);
        self.horizon.ids_wanted = start;
        self.dedup.begin_at(start);
        self.topics.passed_up_to(u64::MAX);
        true
    }

    /// Whether the record at this offset has left the log: only a carried run may have it.
    pub(super) fn is_gone(&self, offset: Offset) -> bool {
        offset < self.retention.log_start
    }

    /// Forgets that a group still had to see an event whose record is gone.
    pub(super) fn give_up_gone(&mut self, step: &mut Step<'_>, no: GroupNo, position: Position) {
        step.stats.gone += 1;
        self.propose_gone(no, position);
        self.dirty.insert(no);
    }
}

/// Whether a group has been without members for so long that it holds nothing any more.
fn is_abandoned(config: &EngineConfig, group: &Group<Handle>, log_now: u64) -> bool {
    // A new leadership has looked at no group yet, while merges may begin.
    let seen_ms = group.dispatch.seen_ms;
    seen_ms > 0 && log_now > seen_ms.saturating_add(config.group_expiry_ms)
}

/// Right before everything that is due at `due`, Unix ms.
fn before_due(due: u64) -> Position {
    due.checked_sub(1).map_or(Position::START, end_of)
}

/// Whether some of a run's records are due before this, Unix ms.
fn dues_before(run: &Arc<Directory>, due: u64) -> bool {
    run.dues().is_some_and(|(first, _)| first < due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_abandoned_only_once_it_was_looked_at_and_long_alone() {
        let config = EngineConfig { group_expiry_ms: 100, ..EngineConfig::default() };
        let mut group = Group::new(GroupNo(0), "g".into(), TopicNo(0), Offset(0), 0);
        assert!(!is_abandoned(&config, &group, 1_790_000_000_000), "nobody has looked yet");
        group.dispatch.seen_ms = 1_000;
        assert!(!is_abandoned(&config, &group, 1_100), "at the limit");
        assert!(is_abandoned(&config, &group, 1_101), "one more");
    }
}
