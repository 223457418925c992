//! The story of a load, owner half: what is in runs only comes back into memory, as its time nears
//! or a reader comes to it.
//!
//! ```text
//!  next_due nears, or a reader stalls --> blocks read --> inserted, armed, readers go on
//! ```
//! A topic is loaded by one block of each run at a time, so memory is bounded by runs, not by
//! events; ahead of demand only while some group has read what was loaded before.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::ids::{GroupNo, Offset, Position, TopicNo};
use crate::base::limits;
use crate::engine::effect::Effect;
use crate::engine::horizon::{BlockFlow, BlockRead, LoadBlock, Loading};
use crate::engine::partition::Partition;
use crate::engine::runs::{Directory, DueSource, RunKey};
use crate::engine::step::Step;

/// Events looked at to tell whether a group has more to read.
const LOOK_UNREAD: usize = 64;

/// Last place of a millisecond.
pub(super) fn end_of(due: u64) -> Position {
    Position::new(due, Offset(u64::MAX))
}

/// Events in runs are loaded this long before they are due, ms.
fn load_ahead_ms(horizon_ms: u64) -> u64 {
    horizon_ms / 8
}

impl Partition {
    /// When the next event that is in runs only is due: told to the queue, if anyone consumes it.
    pub(super) fn set_next_due(&mut self, no: TopicNo) {
        let topic = self.topics.get_mut(no);
        let consumed = !topic.groups.is_empty();
        let disk = &mut topic.disk;
        self.horizon.queue.remove(&(disk.next_due, no));
        let next = self.horizon.runs.iter().filter_map(|run| run.next_due(no, disk.loaded_to));
        disk.next_due = next.min().unwrap_or(u64::MAX);
        if consumed && disk.next_due != u64::MAX {
            self.horizon.queue.insert((disk.next_due, no));
        }
    }

    /// A group of the topic exists: what is in runs is loaded for it in time.
    pub(super) fn consumed(&mut self, no: TopicNo) {
        let disk = &self.topics.get(no).disk;
        if disk.next_due != u64::MAX {
            self.horizon.queue.insert((disk.next_due, no));
        }
    }

    /// Starts loads whose time nears or that readers wait for.
    pub(super) fn load_wanted(&mut self, step: &mut Step<'_>) {
        if self.horizon.arming.is_some() {
            return;
        }
        for no in std::mem::take(&mut self.horizon.wanted) {
            self.load(step, no);
        }
        let soon = step.now.wall_ms() + load_ahead_ms(step.config.horizon_ms);
        let near = self.horizon.queue.range(..=(soon, TopicNo(u32::MAX)));
        let near: Vec<_> = near.take(limits::LOADS).map(|(_, no)| *no).collect();
        for no in near {
            if self.reads_on(no) {
                self.load(step, no);
            }
        }
    }

    /// Whether some group has read what was there before the topic's last load.
    fn reads_on(&self, no: TopicNo) -> bool {
        let topic = self.topics.get(no);
        let read = |group: &GroupNo| {
            let group = &self.groups[group.0 as usize];
            // What was handed out ahead of the reading has nothing to wait for.
            let waits = |p: &Position| {
                group.wants(*p) && !group.dispatch.ahead.contains(p) && !group.dispatch.is_busy(*p)
            };
            let unread = topic.axis.after(group.dispatch.next_read).map(|event| event.position);
            unread.take(LOOK_UNREAD).find(waits).is_none_or(|first| first > topic.disk.mark)
        };
        topic.groups.iter().any(read)
    }

    /// When a load should start by itself, Unix ms.
    pub(super) fn next_load_ms(&self, horizon_ms: u64) -> Option<u64> {
        let ready = |(_, no): &&(u64, TopicNo)| {
            self.topics.get(*no).disk.loading.is_none() && self.reads_on(*no)
        };
        let first = self.horizon.queue.iter().take(limits::LOADS).find(ready);
        first.map(|(due, _)| due.saturating_sub(load_ahead_ms(horizon_ms)))
    }

    /// Begins a load of the topic, unless one is under way or there is nothing to load.
    fn load(&mut self, step: &mut Step<'_>, no: TopicNo) {
        let disk = &self.topics.get(no).disk;
        if disk.next_due == u64::MAX || disk.loading.is_some() {
            return;
        }
        let until = disk.next_due.max(step.now.wall_ms() + load_ahead_ms(step.config.horizon_ms));
        let (mut blocks, mut bound) = (Vec::new(), u64::MAX);
        for run in &self.horizon.runs {
            match run.next_due(no, disk.loaded_to) {
                Some(due) if due <= until => {
                    let number = run.block_for(no, disk.loaded_to).expect("it has such an event");
                    blocks.push(LoadBlock { run: run.clone(), number, block: None });
                }
                Some(due) => bound = bound.min(due),
                None => {}
            }
        }
        assert!(!blocks.is_empty(), "the run with the next due is read");
        step.stats.loads += 1;
        self.horizon.loads += 1;
        self.topics.get_mut(no).disk.loading = Some(Loading { blocks, bound });
        self.load_on(step, no);
    }

    /// Goes on with a load as far as its blocks are there.
    fn load_on(&mut self, step: &mut Step<'_>, no: TopicNo) {
        let disk = &mut self.topics.get_mut(no).disk;
        let after = disk.loaded_to;
        let loading = disk.loading.as_mut().expect("a load under way");
        let mut missing: Vec<(Arc<Directory>, usize)> = Vec::new();
        for part in &mut loading.blocks {
            loop {
                let run = part.run.head().ids.run;
                if part.block.is_none() {
                    part.block = self.horizon.blocks.get(run, part.number).cloned();
                }
                let Some(block) = &part.block else {
                    missing.push((part.run.clone(), part.number));
                    break;
                };
                // The topic's last event before `after` may end a block: the next one counts then.
                let behind = part.run.block_behind(no, part.number);
                match behind.filter(|_| block.seek(no, after).is_empty()) {
                    Some(next) => (part.number, part.block) = (next, None),
                    None => break,
                }
            }
        }
        if missing.is_empty() {
            return self.loaded(step, no);
        }
        for (run, number) in missing {
            self.read_block(step, &run, number, BlockFlow::Load(no));
        }
    }

    /// All blocks of a load are there: what lies before the first end of one is inserted.
    fn loaded(&mut self, step: &mut Step<'_>, no: TopicNo) {
        let topic = self.topics.get_mut(no);
        let Loading { blocks, bound } = topic.disk.loading.take().expect("a load under way");
        self.horizon.loads -= 1;
        let after = topic.disk.loaded_to;
        let mut cover = end_of(bound.saturating_sub(1));
        if bound == u64::MAX {
            cover = end_of(u64::MAX);
        }
        for part in &blocks {
            let block = part.block.as_ref().expect("all blocks are there");
            if part.run.block_behind(no, part.number).is_some() {
                let last = block.seek(no, after).last().expect("a block that is not the last");
                cover = cover.min(block.key(last).position);
            }
        }
        cover = cover.max(after);
        let mut events = Vec::new();
        for part in &blocks {
            let block = part.block.as_ref().expect("all blocks are there");
            let rows = block.seek(no, after).map(|row| block.key(row).position);
            events.extend(rows.take_while(|position| *position <= cover));
        }
        events.sort_unstable();
        topic.disk.mark = after;
        topic.disk.loaded_to = cover;
        let mut new = Vec::new();
        for position in events {
            if topic.axis.insert_loaded(position) {
                topic.disk.count -= 1;
                self.horizon.on_disk -= 1;
                new.push(position);
            }
        }
        step.stats.loaded += new.len() as u64;
        if self.armed {
            for position in new {
                self.arm(step, no, position, position.due);
            }
        }
        self.set_next_due(no);
        for group in self.topics.get(no).groups.clone() {
            self.dirty.insert(group);
        }
        for page in std::mem::take(&mut self.topics.get_mut(no).disk.waits) {
            self.replay_page(step, page);
        }
    }

    /// Reads a block of a run for someone, with all others who wait for the same.
    pub(super) fn read_block(
        &mut self,
        step: &mut Step<'_>,
        run: &Arc<Directory>,
        number: usize,
        flow: BlockFlow,
    ) {
        let same =
            |read: &&mut BlockRead| read.run.head().ids == run.head().ids && read.number == number;
        if let Some(read) = self.horizon.reads.values_mut().find(same) {
            read.flows.push(flow);
            return;
        }
        step.stats.reads += 1;
        let (partition, read) = (self.id, self.reads.number());
        let extent = run.extent(number);
        let (position, len) = (extent.position, extent.len);
        let of = run.head().ids.run;
        step.effects.push(Effect::ReadRun { partition, read, run: of, position, len });
        let waiting = BlockRead { run: run.clone(), number, flows: vec![flow] };
        self.horizon.reads.insert(read, waiting);
    }

    /// A block of a run is there; false if the read is none of a run.
    pub(super) fn block_read(&mut self, step: &mut Step<'_>, read: u64, data: &Bytes) -> bool {
        let Some(BlockRead { run, number, flows }) = self.horizon.reads.remove(&read) else {
            return false;
        };
        let of = run.head().ids.run;
        let block = match run.decode_block(number, Bytes::copy_from_slice(data)) {
            Ok(block) => block,
            Err(fault) => {
                self.condemn(step, format!("run {of}, block {number}: {fault}"));
                return true;
            }
        };
        if self.horizon.runs.iter().any(|r| r.head().ids.run == of) {
            self.horizon.blocks.push(of, number, block.clone());
        }
        for flow in flows {
            match flow {
                BlockFlow::Load(topic) => {
                    let loading = self.topics.get_mut(topic).disk.loading.as_mut();
                    let parts = loading.into_iter().flat_map(|loading| &mut loading.blocks);
                    for part in parts {
                        if part.run.head().ids.run == of && part.number == number {
                            part.block = Some(block.clone());
                        }
                    }
                    if self.topics.get(topic).disk.loading.is_some() {
                        self.load_on(step, topic);
                    }
                }
                BlockFlow::Group(no) => self.group_read(step, no),
                BlockFlow::Replay(page) => self.replay_page(step, *page),
            }
        }
        self.remove_retired(step);
        true
    }

    /// The block that carries a loaded event, unless it is known not to be there.
    pub(super) fn carrier(
        &self,
        no: TopicNo,
        position: Position,
    ) -> Option<(Arc<Directory>, usize)> {
        let event = self.topics.get(no).axis.at(position).filter(|event| event.is_loaded)?;
        let key = RunKey::new(no, event.position);
        let (run, number) = self.horizon.block_of(&key)?;
        let cached = self.horizon.blocks.get(run.head().ids.run, number);
        let absent = cached.is_some_and(|block| block.find(&key).is_none());
        (!absent).then(|| (run.clone(), number))
    }
}
