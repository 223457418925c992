//! The story of a recovery, owner half: from files to serving.
//!
//! ```text
//!   Mount --> scan and apply --> cut what is torn --> sync what was read --> save the new term
//!         --> no-op of that term --> it is applied: arm, serve        (rot: read-only instead)
//! ```
//!
//! Must hold: nothing read from the log is served, answered or delivered before it is known to
//! survive a power loss (after a process crash an entry may be readable and not yet flushed); the
//! window behind the cut holds zeros before anything is written there.

use bytes::Bytes;

use super::axis::AxisLoad;
use super::commit::Writes;
use super::fire::{Timer, TimerKind};
use super::roll::Roll;
use crate::base::config::FsyncMode;
use crate::base::ids::{GroupNo, Index, Offset, Position, Term, TopicNo};
use crate::base::limits;
use crate::engine::checkpoint::{Checkpoint, Found};
use crate::engine::dedup::Dedup;
use crate::engine::effect::{Effect, RecoveryReport};
use crate::engine::input::{HardState, SegmentFile};
use crate::engine::log::{Body, EntryKind, Known, LogEnd, Place, Scan, ScanOutcome, Scanned, Tail};
use crate::engine::partition::{LogEntry, Partition};
use crate::engine::reads::SCAN_READ;
use crate::engine::replica::{CommitRule, Replica};
use crate::engine::retention::Begin;
use crate::engine::runs::DueSource;
use crate::engine::step::Step;
use crate::engine::wheel::Wheel;

/// Where a partition stands between its files and its clients.
#[derive(Debug)]
pub enum Phase {
    /// Nothing is known.
    Unmounted,
    /// The log is being read.
    Scanning(Box<Recovery>),
    /// The due axis is being read from the runs.
    Indexing(Box<Recovery>),
    /// The window behind the cut is being zeroed.
    Cutting(Box<Recovery>),
    /// What was read is being made durable.
    Syncing(Box<Recovery>),
    /// The term is being saved.
    Saving,
    /// The first segment of a new log is being created.
    Founding,
    /// The no-op of the term, with this index, is on its way.
    Opening(Index),
    /// Takes requests, if it leads.
    Serving,
    /// The leadership was lost.
    Deposed {
        /// The log is to be cut from here first.
        truncate_from: Option<Index>,
        /// A new term that waits for the cut.
        elected: Option<Term>,
    },
    /// The log is rotten: what is before the rot can be replayed, nothing else is done.
    ReadOnly(String),
}

impl PartialEq for Phase {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Opening(a), Self::Opening(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// A recovery under way.
#[derive(Debug)]
pub struct Recovery {
    scan: Option<Scan>,
    outcome: Option<ScanOutcome>,
    pub(super) hard_state: HardState,
    pub(super) segments: Vec<SegmentFile>,
    syncs_left: usize,
    report: RecoveryReport,
    pub(super) uncommitted: Vec<LogEntry>,
    /// The checkpoint that it goes on from.
    checkpoint: Option<Checkpoint>,
    pub(super) axis: Option<AxisLoad>,
}

impl Partition {
    /// These files hold the log.
    pub(in crate::engine) fn mount(
        &mut self,
        step: &mut Step<'_>,
        segments: Vec<SegmentFile>,
        hard_state: Option<HardState>,
        checkpoints: Found,
    ) {
        assert!(self.phase == Phase::Unmounted, "a partition is mounted once");
        let (mut segments, hard_state) = (segments, hard_state.unwrap_or_default());
        let log_start = hard_state.log_start;
        for left in segments.iter().filter(|file| file.first < log_start) {
            // Removed by retention, had the process not ended before.
            let (partition, segment) = (self.id, left.first);
            step.effects.push(Effect::RemoveSegment { partition, segment });
        }
        segments.retain(|file| file.first >= log_start);
        if checkpoints.restored.is_none() && log_start > Index(1) {
            self.retention.begin = Begin::State(Vec::new());
            self.horizon.runs.clone_from(&checkpoints.adopted);
            self.retention.suspects.clone_from(&checkpoints.suspects);
            // What can be read of the log can be replayed all the same.
            self.retention.lost.clone_from(&checkpoints.lost);
        }
        let report = RecoveryReport {
            partition: self.id,
            entries: 0,
            events: 0,
            pending: 0,
            torn_bytes: 0,
            rot: None,
        };
        let committed = match step.config.fsync {
            FsyncMode::Periodic { .. } => Index(0),
            FsyncMode::Batch | FsyncMode::EveryEvent => hard_state.commit,
        };
        let checkpoint = self.restore(checkpoints, log_start);
        let committed = checkpoint.as_ref().map_or(committed, |c| committed.max(c.last.0));
        let known = Known { committed, cut_from: hard_state.cut_from, log_start };
        let scan = Some(match &checkpoint {
            Some(checkpoint) => Scan::resume(self.ids, segments.clone(), known, checkpoint.resume),
            None => Scan::recover(self.ids, segments.clone(), known),
        });
        let recovery = Recovery {
            scan,
            outcome: None,
            hard_state,
            segments,
            syncs_left: 0,
            report,
            uncommitted: Vec::new(),
            checkpoint,
            axis: None,
        };
        self.phase = Phase::Scanning(Box::new(recovery));
        self.scan_on(step);
    }

    /// Bytes of the log have been read.
    pub(super) fn scanned(&mut self, step: &mut Step<'_>, data: &Bytes) {
        let Phase::Scanning(recovery) = &mut self.phase else {
            unreachable!("only a scan reads this way");
        };
        let scan = recovery.scan.as_mut().expect("a scan under way");
        scan.feed(data);
        let entries = scan.take_entries();
        let commit = recovery.hard_state.commit;
        let last = recovery.checkpoint.as_ref().map_or((Index(0), Term(0)), |c| c.last);
        let Phase::Scanning(mut recovery) = std::mem::replace(&mut self.phase, Phase::Unmounted)
        else {
            unreachable!("just seen");
        };
        for Scanned { place, header, body } in entries {
            recovery.report.entries += 1;
            recovery.report.events += u64::from(header.count);
            self.clock.observe(header.append_ts);
            self.chain = header.next_chain(body.crc());
            self.sealed_end = header.end_offset();
            if header.index == last.0 {
                let end = (header.term, header.end_offset(), header.append_ts);
                if end != (last.1, self.applied_end, self.applied_ts) {
                    // Made of another log, whatever its checksum says.
                    self.phase = Phase::Scanning(recovery);
                    return self.start_over(step);
                }
            }
            if self.external_commit && header.index > commit.max(last.0) {
                self.places.insert(header.index, place);
                recovery.uncommitted.push(LogEntry { header, body: body.detached() });
            } else {
                self.sparse.note(place, &header, body.entry_len());
                if header.end_offset() > self.horizon.on_runs {
                    self.horizon.unflushed_bytes += body.entry_len();
                }
                if self.begin_with_state(&header, &body) {
                    // The state of all that was before it.
                } else if header.index <= last.0 {
                    self.apply_again(&header, &body);
                } else {
                    self.apply(&header, &body);
                }
                if header.count > 0 {
                    self.keep_in_memory(step, header, body.detached());
                }
            }
        }
        self.phase = Phase::Scanning(recovery);
        self.scan_on(step);
    }

    fn scan_on(&mut self, step: &mut Step<'_>) {
        let Phase::Scanning(recovery) = &mut self.phase else {
            unreachable!("a scan goes on while it runs");
        };
        let scan = recovery.scan.as_mut().expect("a scan under way");
        if let Some(request) = scan.next_read() {
            let (segment, position, len) = (request.segment, request.position, request.len);
            let (partition, read) = (self.id, SCAN_READ);
            step.effects.push(Effect::Read { partition, read, segment, position, len });
            return;
        }
        let Phase::Scanning(mut recovery) = std::mem::replace(&mut self.phase, Phase::Unmounted)
        else {
            unreachable!("just seen");
        };
        let outcome = recovery.scan.take().expect("a scan under way").finish();
        self.load_axis(step, recovery, outcome);
    }

    /// The log is read, and so are the runs.
    pub(super) fn cut_after_scan(
        &mut self,
        step: &mut Step<'_>,
        mut recovery: Box<Recovery>,
        outcome: ScanOutcome,
    ) {
        recovery.report.torn_bytes = outcome.torn_bytes;
        if let (Some(_), Some(last)) = (&recovery.checkpoint, &outcome.last) {
            (recovery.report.entries, recovery.report.events) = (last.index.0, self.sealed_end.0);
        }
        if let Some(rot) = &outcome.rot {
            return self.read_only(step, &recovery, rot.text.clone());
        }
        self.segments = recovery.segments.iter().map(|s| (s.first, s.len)).collect();
        for segment in &outcome.segments_to_remove {
            self.segments.retain(|(first, _)| first != segment);
            step.effects.push(Effect::RemoveSegment { partition: self.id, segment: *segment });
        }
        let end = outcome.end.as_ref().map(|end| end.place.segment);
        let zero = outcome.zero;
        recovery.outcome = Some(outcome);
        if let (Some(segment), Some((from, to))) = (end, zero) {
            self.phase = Phase::Cutting(recovery);
            step.effects.push(Effect::Fill { partition: self.id, segment, from, to });
        } else {
            self.sync_after_scan(step, recovery);
        }
    }

    /// What had been durable is damaged: what was read of it can be replayed.
    pub(super) fn read_only(&mut self, step: &mut Step<'_>, recovery: &Recovery, text: String) {
        self.segments = recovery.segments.iter().map(|s| (s.first, s.len)).collect();
        let report = RecoveryReport { rot: Some(text.clone()), ..recovery.report.clone() };
        self.phase = Phase::ReadOnly(text);
        step.effects.push(Effect::Recovered { report });
    }

    fn sync_after_scan(&mut self, step: &mut Step<'_>, mut recovery: Box<Recovery>) {
        // Sealed segments were synced before the one behind them was begun.
        let last = self.segments.last().map(|(first, _)| *first);
        recovery.syncs_left = usize::from(last.is_some());
        let Some(segment) = last else {
            self.phase = Phase::Syncing(recovery);
            return self.synced_after_scan(step);
        };
        self.phase = Phase::Syncing(recovery);
        if cfg!(bug_serve_before_sync) {
            // Known bad: readable is taken for durable.
            return self.synced_after_scan(step);
        }
        step.effects.push(Effect::Sync { partition: self.id, segment });
    }

    fn synced_after_scan(&mut self, step: &mut Step<'_>) {
        let Phase::Syncing(recovery) = std::mem::replace(&mut self.phase, Phase::Unmounted) else {
            unreachable!("a sync ends a sync");
        };
        let outcome = recovery.outcome.expect("the scan is over");
        let (last_index, last_term) =
            outcome.last.as_ref().map_or((Index(0), Term(0)), |last| (last.index, last.term));
        let rule = if self.external_commit { CommitRule::External } else { CommitRule::Alone };
        let term = Term(recovery.hard_state.term.0.max(last_term.0));
        let hard = HardState { term, ..recovery.hard_state };
        self.replica = Replica::new(rule, hard, self.last_applied, (Index(0), Term(0)));
        for entry in recovery.uncommitted {
            self.replica.restore(entry);
        }
        self.report = Some(recovery.report);
        self.writes = Writes::starting_at(last_index);
        self.proposals.next_offset = self.sealed_end;
        if cfg!(bug_forget_dedup_at_restart) {
            // Known bad: ids are remembered by the process, not by the log.
            self.dedup = Dedup::new(step.config.dedup_key, step.config.dedup_ttl_ms);
        }
        // A start alone is no jump of the clock.
        self.retention.seen_ms = self.clock.last();
        let mut clear = recovery.hard_state.cut_from > Index(0);
        if let Some(LogEnd { place, tail_block, is_dirty, filled_end }) = outcome.end {
            clear |= is_dirty;
            // A directory may be opened with a smaller segment size than it was written with.
            let bytes = step.config.segment_bytes.max(filled_end);
            self.tail = Some(Tail::new(self.ids, bytes, place, &tail_block, filled_end));
        }
        let next = Term(term.0 + 1);
        if clear && let Some(tail) = &mut self.tail {
            // A torn write, or a cut that the process did not finish: first its block, then the
            // new term.
            tail.clear_tail_block();
            self.phase = Phase::Deposed { truncate_from: None, elected: Some(next) };
            return self.deposed_on(step);
        }
        self.take_term(step, next);
    }

    /// Begins a term: first it is saved, so that it can never begin twice.
    pub(super) fn take_term(&mut self, step: &mut Step<'_>, term: Term) {
        self.phase = Phase::Saving;
        self.replica.begin_term(term);
        self.replica.vote(1);
        let state = HardState { cut_from: Index(0), ..self.replica.hard_state() };
        step.effects.push(Effect::SaveHardState { partition: self.id, state });
    }

    /// The term is durable.
    pub(in crate::engine) fn hard_state_saved(&mut self, step: &mut Step<'_>) {
        if let Some(start) = self.retention.saving.take() {
            self.log_start_saved(step, start);
            return self.flush(step);
        }
        if self.roll == Roll::Saving {
            return self.roll_saved(step);
        }
        if matches!(self.phase, Phase::Deposed { .. }) {
            return self.cut_saved(step);
        }
        assert!(self.phase == Phase::Saving, "a save ends a save");
        if self.tail.is_none() {
            self.phase = Phase::Founding;
            let first = self.replica.last().0.next();
            return self.create_segment(step, first);
        }
        self.open_term(step);
    }

    /// The first entry of a term: a no-op, behind a state entry where a segment begins.
    fn open_term(&mut self, step: &mut Step<'_>) {
        let tail = self.tail.as_ref().expect("a log has a segment");
        if !tail.fits(Body::no_op().entry_len()) {
            // Restarts have used up what is kept free for them: the term begins in a new segment.
            let applied = self.replica.applied() == self.replica.last().0;
            assert!(applied, "a segment begins with the state of all before it");
            self.phase = Phase::Founding;
            let first = self.replica.last().0.next();
            return self.create_segment(step, first);
        }
        // Unless one was proposed in an earlier term and is still to be written.
        if tail.end().position == 0 && tail.is_idle() {
            self.propose_state(step);
        }
        let append_ts = self.clock.stamp(step.now);
        let base = self.sealed_end;
        let index = self.propose(EntryKind::NoOp, base, append_ts, Body::no_op());
        self.phase = Phase::Opening(index);
        self.submit(step);
    }

    /// A segment's file is there.
    pub(in crate::engine) fn segment_created(&mut self, step: &mut Step<'_>, segment: Index) {
        if self.phase != Phase::Founding {
            return self.rolled(step, segment);
        }
        if let Some(tail) = &mut self.tail {
            tail.start_segment(segment, self.writes.synced);
        } else {
            let segment_bytes = step.config.segment_bytes;
            let end = Place::new(segment, 0);
            self.tail = Some(Tail::new(self.ids, segment_bytes, end, &[], 0));
        }
        self.segments.push((segment, 0));
        self.open_term(step);
    }

    /// A range of a segment is zero.
    pub(in crate::engine) fn filled(&mut self, step: &mut Step<'_>, segment: Index, end: u64) {
        if let Some(entry) = self.segments.iter_mut().find(|(first, _)| *first == segment) {
            entry.1 = entry.1.max(end);
        }
        if let Phase::Cutting(recovery) = &self.phase {
            let zero = recovery.outcome.as_ref().and_then(|outcome| outcome.zero);
            let (_, to) = zero.expect("a cut is a range");
            if end < to {
                let partition = self.id;
                step.effects.push(Effect::Fill { partition, segment, from: end, to });
                return;
            }
            let Phase::Cutting(recovery) = std::mem::replace(&mut self.phase, Phase::Unmounted)
            else {
                unreachable!("just seen");
            };
            return self.sync_after_scan(step, recovery);
        }
        self.tail.as_mut().expect("fills come from a tail").filled(segment, end);
        if matches!(self.phase, Phase::Deposed { .. }) {
            return self.deposed_on(step);
        }
        if matches!(self.phase, Phase::Opening(_)) {
            return self.submit(step);
        }
        self.flush(step);
    }

    /// A segment's bytes are durable.
    pub(in crate::engine) fn synced(&mut self, step: &mut Step<'_>) {
        if matches!(self.phase, Phase::Syncing(_)) {
            return self.synced_after_scan(step);
        }
        self.log_synced(step);
        if matches!(self.phase, Phase::Deposed { .. }) {
            return self.deposed_on(step);
        }
        self.flush(step);
    }

    /// The no-op of the term is applied: everything before it is this leadership's to serve.
    pub(super) fn serve(&mut self, step: &mut Step<'_>) {
        self.phase = Phase::Serving;
        self.roll = Roll::None;
        self.horizon.inherited_bytes = self.unflushed();
        assert_eq!(self.proposals.next_offset, self.applied_end, "nothing was proposed meanwhile");
        self.arm_all(step);
        if let Some(mut report) = self.report.take() {
            report.pending = self.wheel.len() as u64 + self.horizon.unarmed + self.horizon.on_disk;
            step.effects.push(Effect::Recovered { report });
        }
    }

    /// Files every event whose time has not come, and makes all groups ready to go on.
    fn arm_all(&mut self, step: &mut Step<'_>) {
        self.armed = true;
        self.wall_seen_ms = step.now.wall_ms();
        self.wheel = Wheel::new(step.config.tick_ms, step.now.wall_ms());
        self.timers = Wheel::new(1, step.now.boot_ms());
        self.horizon.armed_to = step.now.wall_ms() + step.config.horizon_ms;
        (self.horizon.unarmed, self.horizon.arming) = (0, None);
        self.horizon.readers.clear();
        for no in 0..self.groups.len() {
            self.groups[no].restart();
            self.start_group(step, GroupNo(no as u32));
        }
        let topics: Vec<TopicNo> = self.topics.iter().map(|(no, _)| no).collect();
        for topic in topics {
            let wall = Position::new(step.now.wall_ms(), Offset(u64::MAX));
            // What is due by the wall clock is read from the axis: only the rest is armed.
            let rest: Vec<_> = self.topics.get(topic).axis.after(wall).collect();
            for event in rest {
                self.arm(step, topic, event.position, event.schedule_ts);
            }
        }
    }

    /// A group begins, or goes on after a start: its failed events wait out their backoff, and
    /// events that are due though the due axis has them ahead of the wall clock are made ready.
    pub(super) fn start_group(&mut self, step: &mut Step<'_>, no: GroupNo) {
        let log_now = self.clock.last();
        let group = &mut self.groups[no.0 as usize];
        for (position, failures) in group.cursor.failures() {
            let delay = failures.not_before.saturating_sub(log_now).min(limits::RETRY_DELAY_MAX_MS);
            let timer = Timer { kind: TimerKind::Retry, group: no, position: *position };
            self.timers.insert(step.now.boot_ms() + delay, timer);
        }
        let topic = group.topic;
        let wall = step.now.wall_ms();
        let from = Position::new(wall, Offset(u64::MAX));
        let axis = self.topics.get(topic).axis.after(from);
        for event in axis.take_while(|event| event.position.due <= log_now) {
            if event.schedule_ts <= wall && group.wants(event.position) {
                group.dispatch.fired(event.position, wall);
            }
        }
        self.dirty.insert(no);
        self.consumed(topic);
    }
}
