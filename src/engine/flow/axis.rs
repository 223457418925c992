//! The story of the due axis at a start, owner half: what runs hold of it comes back into memory,
//! up to an edge that no group has passed; what lies behind stays in its runs until its time nears.
//!
//! Damage to a run costs time only: the log still has all of it, and is read from its beginning.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::load::end_of;
use super::recover::{Phase, Recovery};
use crate::base::ids::{Position, TopicNo};
use crate::engine::checkpoint::Found;
use crate::engine::effect::Effect;
use crate::engine::log::{Content, ScanOutcome};
use crate::engine::partition::Partition;
use crate::engine::reads::AXIS_READ;
use crate::engine::runs::{Block, Directory, RunKind};
use crate::engine::step::Step;

/// The runs that a start still has to read.
#[derive(Debug)]
pub struct AxisLoad {
    blocks: VecDeque<(Arc<Directory>, usize)>,
    /// What carried runs have up to here comes into memory.
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
        let edge = end_of(self.edge(step, &recovery));
        let mut blocks = VecDeque::new();
        for run in &self.horizon.indexes {
            blocks.extend((0..run.blocks()).map(|number| (run.clone(), number)));
        }
        for run in &self.horizon.runs {
            let soon = run.topics().iter().filter(|slice| slice.first_due <= edge.due);
            let ranges: Vec<_> = soon
                .map(|slice| {
                    let last = run.block_for(slice.topic, edge.min(slice.last));
                    slice.blocks().start..last.map_or(slice.blocks().end, |last| last + 1)
                })
                .collect();
            let mut next = 0;
            for range in ranges {
                blocks.extend((range.start.max(next)..range.end).map(|no| (run.clone(), no)));
                next = next.max(range.end);
            }
        }
        for run in self.horizon.runs.clone() {
            for slice in run.topics() {
                let disk = &mut self.topics.get_mut(slice.topic).disk;
                disk.loaded_to = edge;
                disk.count += u64::from(slice.records);
                self.horizon.on_disk += u64::from(slice.records);
            }
        }
        let outcome = Box::new(outcome);
        recovery.axis = Some(AxisLoad { blocks, edge, outcome });
        self.phase = Phase::Indexing(recovery);
        self.axis_on(step);
    }

    /// No group knows an event that is due behind this, Unix ms.
    fn edge(&self, step: &Step<'_>, recovery: &Recovery) -> u64 {
        let known = self.groups.iter().flat_map(|group| {
            let cursor = &group.cursor;
            [
                Some(cursor.frontier()),
                cursor.settled().last().copied(),
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
        let edge = load.edge;
        match run.decode_block(number, Bytes::copy_from_slice(data)) {
            Ok(block) => self.insert_block(run.head().kind, &block, edge),
            Err(_) => return self.start_over(step),
        }
        self.axis_on(step);
    }

    fn insert_block(&mut self, kind: RunKind, block: &Block, edge: Position) {
        for row in 0..block.len() {
            let (key, event) = (block.key(row), block.due_event(row));
            let topic = self.topics.get_mut(key.topic);
            match kind {
                RunKind::Index => topic.axis.insert(key.position, event.schedule_ts),
                RunKind::Carried if key.position <= edge => {
                    let new = topic.axis.insert_loaded(key.position);
                    assert!(new, "an event is in one run");
                    topic.disk.count -= 1;
                    self.horizon.on_disk -= 1;
                }
                RunKind::Carried => {}
            }
        }
    }

    /// What a checkpoint speaks of is damaged: the log is read from its beginning, without it.
    pub(super) fn start_over(&mut self, step: &mut Step<'_>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Unmounted);
        let (Phase::Indexing(recovery) | Phase::Scanning(recovery)) = phase else {
            unreachable!("only a start begins again");
        };
        let (segments, hard_state) = (recovery.segments, recovery.hard_state);
        let (partition, last_run) = (self.id, self.horizon.last_run);
        self.forget_checkpoints(step);
        *self = Self::new(partition, step.config);
        self.horizon.last_run = last_run;
        self.mount(step, segments, Some(hard_state), Found::default());
    }
}
