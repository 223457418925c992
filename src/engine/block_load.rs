//! A load: what a topic has in runs behind a place, read one block of each run at a time, so that
//! memory is bounded by the runs and not by the events.
//!
//! Must hold: between `after` and [`BlockLoad::cover`] no run has an event that is not among
//! [`BlockLoad::events`].

use std::ops::Range;
use std::sync::Arc;

use super::horizon::BlockCache;
use super::runs::{Block, Directory, DueEvent, RunKind};
use crate::base::ids::{Offset, Position, RunNo, TopicNo};

/// See the module.
#[derive(Debug)]
pub struct BlockLoad {
    topic: TopicNo,
    after: Position,
    /// The blocks, the missing ones on their way.
    blocks: Vec<LoadBlock>,
    /// It is for what is due up to here, Unix ms.
    until: u64,
    /// Runs that are not read hold nothing due earlier, Unix ms.
    bound: u64,
    /// What had left the memory when it began ([`super::horizon::OnDisk::trimmed`]).
    pub trimmed: u64,
}

#[derive(Debug)]
struct LoadBlock {
    run: Arc<Directory>,
    number: usize,
    block: Option<Block>,
}

impl BlockLoad {
    /// Of all runs that may have an event behind `after` that is due up to `until`, Unix ms.
    pub fn until<'a>(
        runs: impl Iterator<Item = &'a Arc<Directory>>,
        topic: TopicNo,
        after: Position,
        until: u64,
    ) -> Self {
        let (mut blocks, mut bound) = (Vec::new(), u64::MAX);
        for run in runs {
            match run.next_due(topic, after) {
                Some(due) if due <= until => {
                    let number = run.block_for(topic, after).expect("it has such an event");
                    blocks.push(LoadBlock { run: run.clone(), number, block: None });
                }
                Some(due) => bound = bound.min(due),
                None => {}
            }
        }
        Self { topic, after, blocks, until, bound, trimmed: 0 }
    }

    /// Of the runs that have the topic's next events behind `after`: as few as it takes to know
    /// what comes next.
    pub fn next<'a>(
        runs: impl Iterator<Item = &'a Arc<Directory>> + Clone,
        topic: TopicNo,
        after: Position,
    ) -> Self {
        let next = runs.clone().filter_map(|run| Some((run.next_due(topic, after)?, run)));
        let first = next.min_by_key(|(due, run)| (*due, run.head().ids.run));
        let until = first.and_then(|(due, run)| {
            let block = run.block_for(topic, after)?;
            Some(due.max(run.block_end(topic, block)?.due))
        });
        Self::until(runs, topic, after, until.unwrap_or(0))
    }

    /// Where it begins.
    pub fn after(&self) -> Position {
        self.after
    }

    /// Whether there is nothing to read: no run has an event behind `after`.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// A run that is not read has nothing of the topic that is due earlier, Unix ms.
    pub fn limit(&mut self, due: u64) {
        self.bound = self.bound.min(due);
    }

    /// Whether a run's file must stay.
    pub fn uses(&self, run: RunNo) -> bool {
        self.blocks.iter().any(|part| part.run.head().ids.run == run)
    }

    /// Takes what blocks there are; those that are to be read. Of the run whose block ends first,
    /// the next load goes on with the next ones: they are read with it.
    pub fn missing(&mut self, cache: &BlockCache) -> Vec<(Arc<Directory>, Range<usize>)> {
        let missing = self.take_from(cache);
        let end = |part: &&LoadBlock| part.run.block_end(self.topic, part.number);
        let first = self.blocks.iter().min_by_key(end).map(|part| part.run.head().ids.run);
        let blocks = |(run, number): (Arc<Directory>, usize)| {
            let is_first = first == Some(run.head().ids.run);
            let due = is_first.then(|| run.blocks_due(self.topic, number, self.until));
            (run, due.unwrap_or(number..number + 1))
        };
        missing.into_iter().map(blocks).collect()
    }

    /// Takes what blocks there are; the missing ones.
    fn take_from(&mut self, cache: &BlockCache) -> Vec<(Arc<Directory>, usize)> {
        let mut missing = Vec::new();
        for part in &mut self.blocks {
            loop {
                if part.block.is_none() {
                    part.block = cache.get(part.run.head().ids.run, part.number).cloned();
                }
                let Some(block) = &part.block else {
                    missing.push((part.run.clone(), part.number));
                    break;
                };
                // The topic's last event before `after` may end a block: the next one counts then.
                let behind = part.run.block_behind(self.topic, part.number);
                match behind.filter(|_| block.seek(self.topic, self.after).is_empty()) {
                    Some(next) => (part.number, part.block) = (next, None),
                    None => break,
                }
            }
        }
        missing
    }

    /// A block is there.
    pub fn feed(&mut self, run: RunNo, number: usize, block: &Block) {
        for part in &mut self.blocks {
            if part.run.head().ids.run == run && part.number == number {
                part.block = Some(block.clone());
            }
        }
    }

    /// How far the blocks tell all. None may be missing.
    pub fn cover(&self) -> Position {
        let bound = if self.bound == u64::MAX { u64::MAX } else { self.bound.saturating_sub(1) };
        let mut cover = Position::new(bound, Offset(u64::MAX));
        for part in &self.blocks {
            let block = part.block.as_ref().expect("all blocks are there");
            if part.run.block_behind(self.topic, part.number).is_some() {
                let rows = block.seek(self.topic, self.after);
                let last = rows.last().expect("a block that is not the last");
                cover = cover.min(block.key(last).position);
            }
        }
        cover.max(self.after)
    }

    /// The events behind `after` up to `cover`, in due order. None may be missing.
    pub fn events(&self, cover: Position) -> Vec<DueEvent> {
        let mut events = Vec::new();
        for part in &self.blocks {
            let block = part.block.as_ref().expect("all blocks are there");
            let is_loaded = part.run.head().kind == RunKind::Carried;
            let rows = block.seek(self.topic, self.after);
            let rows = rows.map(|row| DueEvent { is_loaded, ..block.due_event(row) });
            events.extend(rows.take_while(|event| event.position <= cover));
        }
        events.sort_unstable_by_key(|event| event.position);
        events
    }
}
