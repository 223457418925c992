//! The story of the due axis at a start, owner half: what runs hold of it comes back into memory,
//! up to an edge that no group has passed; what lies behind stays in its runs until its time nears.
//!
//! Damage to a run costs time only where the log still has all of it: it is read from its
//! beginning. A carried run beyond the log is data: its damage is told, and nothing is removed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::load::end_of;
use super::recover::{Phase, Recovery};
use crate::base::ids::{Index, Offset, Position, TopicNo};
use crate::engine::checkpoint::Found;
use crate::engine::effect::Effect;
use crate::engine::log::{Content, ScanOutcome};
use crate::engine::partition::Partition;
use crate::engine::reads::AXIS_READ;
use crate::engine::runs::{Block, Directory, DueSource, RunKind};
use crate::engine::step::Step;

/// The runs that a start still has to read.
#[derive(Debug)]
pub struct AxisLoad {
    blocks: VecDeque<(Arc<Directory>, usize)>,
    /// What runs have up to here stays there.
    floor: Position,
    /// What carried runs have behind that, up to here, comes into memory.
    edge: Position,
    /// How the scan ended.
    outcome: Box<ScanOutcome>,
}

impl Partition {
    /// The log is read: now the runs, where a checkpoint has named any.
    pub(super) fn load_axis(
        &mut self,
        step: &mut Step<'_>,
        mut recovery: Box<Recovery>,
        outcome: ScanOutcome,
    ) {
        let head = recovery.segments.first().and_then(|s| self.sparse.segment_head(s.first));
        self.retention.log_start = head.map_or(Offset(0), |(offset, _)| offset);
        if let Some(what) = self.retention.lost.take() {
            return self.read_only(step, &recovery, beyond_the_log(&what));
        }
        let floor = end_of(step.now.wall_ms());
        let edge = end_of(self.edge(step, &recovery));
        let mut blocks = VecDeque::new();
        for run in self.horizon.all().cloned().collect::<Vec<_>>() {
            let kind = run.head().kind;
            let mut pushed = None;
            for slice in run.topics() {
                let (topic, records) = (slice.topic, u64::from(slice.records));
                let disk = &mut self.topics.get_mut(topic).disk;
                (disk.floor, disk.loaded_to) = (floor, edge);
                // All are counted where they are when nothing is read; reading tells the rest.
                if kind == RunKind::Carried {
                    disk.count += records;
                    self.horizon.on_disk += records;
                }
                let mut range = slice.blocks();
                if kind == RunKind::Carried && edge < slice.last {
                    let end = run.block_for(topic, edge).map_or(range.end, |last| last + 1);
                    range.end = if slice.first_due <= edge.due { end } else { range.start };
                }
                let first = run.block_for(topic, floor).unwrap_or(slice.blocks().end);
                for number in range {
                    // A block of this topic alone, all of it past: its records are counted.
                    if number < first && run.is_inner(topic, number) {
                        let past = run.block_records(number);
                        if kind == RunKind::Carried {
                            self.topics.get_mut(topic).disk.count -= past;
                            self.horizon.on_disk -= past;
                        }
                    } else if kind == RunKind::Carried || number >= first {
                        // Topics share blocks at their ends.
                        if pushed.replace(number) != Some(number) {
                            blocks.push_back((run.clone(), number));
                        }
                    }
                }
            }
        }
        let outcome = Box::new(outcome);
        recovery.axis = Some(AxisLoad { blocks, floor, edge, outcome });
        self.phase = Phase::Indexing(recovery);
        self.axis_on(step);
    }

    /// No group knows an event that is due behind this, Unix ms.
    fn edge(&self, step: &Step<'_>, recovery: &Recovery) -> u64 {
        let known = self.groups.iter().flat_map(|group| {
            let cursor = &group.cursor;
            [
                Some(cursor.frontier()),
                cursor.settled().last().map(|(position, ())| position),
                cursor.unsettled().last().copied(),
                cursor.failures().keys().next_back().copied(),
            ]
        });
        let known = known.flatten().map(|position| position.due).max().unwrap_or(0);
        let proposed = recovery.uncommitted.iter().filter_map(|entry| match entry.body.content() {
            Content::Settle(view) => view.settlements().map(|row| row.position.due).max(),
            _ => None,
        });
        let proposed = proposed.max().unwrap_or(0);
        known.max(proposed).max(step.now.wall_ms()).max(self.clock.last())
    }

    fn axis_on(&mut self, step: &mut Step<'_>) {
        let Phase::Indexing(recovery) = &self.phase else { unreachable!("the axis is loaded") };
        let load = recovery.axis.as_ref().expect("a load under way");
        if let Some((run, number)) = load.blocks.front() {
            let extent = run.extent(*number);
            step.effects.push(Effect::ReadRun {
                partition: self.id,
                read: AXIS_READ,
                run: run.head().ids.run,
                position: extent.position,
                len: extent.len,
            });
            return;
        }
        let Phase::Indexing(mut recovery) = std::mem::replace(&mut self.phase, Phase::Unmounted)
        else {
            unreachable!("just seen");
        };
        let load = recovery.axis.take().expect("a load under way");
        let in_memory: u64 = self.topics.iter().map(|(_, topic)| topic.axis.len()).sum();
        let elsewhere = in_memory + self.horizon.on_disk;
        self.horizon.past = self.applied_end.0.saturating_sub(elsewhere);
        let topics: Vec<TopicNo> = self.topics.iter().map(|(no, _)| no).collect();
        for no in topics {
            self.set_next_due(no);
        }
        self.cut_after_scan(step, recovery, *load.outcome);
    }

    /// A block of a run is there.
    pub(super) fn axis_read(&mut self, step: &mut Step<'_>, data: &Bytes) {
        let Phase::Indexing(recovery) = &mut self.phase else { unreachable!("the axis is loaded") };
        let load = recovery.axis.as_mut().expect("a load under way");
        let (run, number) = load.blocks.pop_front().expect("a block was asked for");
        let (floor, edge) = (load.floor, load.edge);
        match run.decode_block(number, Bytes::copy_from_slice(data)) {
            Ok(block) => self.insert_block(run.head().kind, &block, floor, edge),
            Err(fault) => {
                let head = run.head();
                let is_data = head.first_offset < self.retention.log_start;
                if head.kind == RunKind::Carried && is_data {
                    let of = head.ids.run;
                    return self.run_lost(step, &format!("run {of}, block {number}: {fault}"));
                }
                return self.start_over(step);
            }
        }
        self.axis_on(step);
    }

    fn insert_block(&mut self, kind: RunKind, block: &Block, floor: Position, edge: Position) {
        let log_start = self.retention.log_start;
        let gone = |offset| offset < log_start;
        for row in 0..block.len() {
            let (key, event) = (block.key(row), block.due_event(row));
            let topic = self.topics.get_mut(key.topic);
            let is_past = key.position <= floor;
            match kind {
                RunKind::Index if !is_past && !gone(key.position.offset) => {
                    topic.axis.insert(key.position, event.schedule_ts);
                }
                RunKind::Carried if is_past => {
                    topic.disk.count -= 1;
                    self.horizon.on_disk -= 1;
                }
                RunKind::Carried if key.position <= edge => {
                    // The log may have it as well, where all checkpoints were lost.
                    if event.schedule_ts == key.position.due || gone(key.position.offset) {
                        topic.axis.insert_loaded(key.position);
                    } else if topic.axis.at(key.position).is_none() {
                        topic.axis.insert(key.position, event.schedule_ts);
                    }
                    topic.disk.count -= 1;
                    self.horizon.on_disk -= 1;
                }
                RunKind::Index | RunKind::Carried => {}
            }
        }
    }

    /// A run cannot be read, and the log does not have what it held: nothing else may happen.
    fn run_lost(&mut self, step: &mut Step<'_>, what: &str) {
        let phase = std::mem::replace(&mut self.phase, Phase::Unmounted);
        let Phase::Indexing(mut recovery) = phase else { unreachable!("the axis is loaded") };
        recovery.axis = None;
        self.read_only(step, &recovery, beyond_the_log(what));
    }

    /// What a checkpoint speaks of is damaged: the log is read from its beginning, without it.
    pub(super) fn start_over(&mut self, step: &mut Step<'_>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Unmounted);
        let (Phase::Indexing(recovery) | Phase::Scanning(recovery)) = phase else {
            unreachable!("only a start begins again");
        };
        let (segments, hard_state) = (recovery.segments, recovery.hard_state);
        let (partition, last_run) = (self.id, self.horizon.last_run);
        let begins_behind = hard_state.log_start > Index(1);
        // Which of them have more than the log is seen once its beginning is read.
        let adopted = if begins_behind { self.horizon.runs.clone() } else { Vec::new() };
        self.forget_checkpoints(step, &adopted);
        *self = Self::new(partition, step.config);
        self.horizon.last_run = last_run;
        self.mount(step, segments, Some(hard_state), Found { adopted, ..Found::default() });
    }
}

/// What is told of a run that the log cannot make anew.
fn beyond_the_log(what: &str) -> String {
    format!("{what}; the log begins behind what it held: restore a backup")
}
