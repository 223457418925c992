//! The story of a load, owner half: what is in runs only comes back into memory, as its time nears
//! or a reader comes to it.
//!
//! ```text
//!  next_due nears, or a reader stalls --> blocks read --> inserted, armed, readers go on
//! ```
//! A topic is loaded by one block of each run at a time, so memory is bounded by runs, not by
//! events; ahead of demand only while some group has read what was loaded before.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::ids::{GroupNo, Offset, Position, TopicNo};
use crate::base::limits;
use crate::engine::block_load::BlockLoad;
use crate::engine::damage::Damage;
use crate::engine::effect::Effect;
use crate::engine::horizon::{BlockFlow, BlockRead, Loading};
use crate::engine::partition::Partition;
use crate::engine::runs::{Block, Directory, DueEvent, DueSource, RunFault, RunKey};
use crate::engine::step::Step;

/// Events looked at to tell whether a group has more to read.
const LOOK_UNREAD: usize = 64;

/// Last place of a millisecond.
pub(super) fn end_of(due: u64) -> Position {
    Position::new(due, Offset(u64::MAX))
}

/// The blocks of a read, each in memory of its own: one that stays keeps no other alive.
fn decode(
    run: &Directory,
    numbers: Range<usize>,
    data: &[u8],
) -> Result<Vec<Block>, (usize, RunFault)> {
    let mut at = 0;
    let blocks = numbers.map(|number| {
        let len = run.extent(number).len as usize;
        let bytes = data.get(at..at + len).ok_or((number, RunFault::Length))?;
        at += len;
        run.decode_block(number, Bytes::copy_from_slice(bytes)).map_err(|fault| (number, fault))
    });
    blocks.collect()
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
            self.load(step, no, false);
        }
        let wall = step.now.wall_ms();
        for no in std::mem::take(&mut self.horizon.skims) {
            if self.topics.get(no).disk.next_due <= wall && !self.reads_on(no) {
                self.load(step, no, true);
            }
        }
        let soon = step.now.wall_ms() + load_ahead_ms(step.config.horizon_ms);
        let near = self.horizon.queue.range(..=(soon, TopicNo(u32::MAX)));
        let near: Vec<_> = near.take(limits::LOADS).map(|(_, no)| *no).collect();
        for no in near {
            if self.reads_on(no) {
                self.load(step, no, false);
            } else {
                // One that is at the floor but for a page that says so.
                let behind = self.behind_floor(no).collect::<Vec<_>>();
                self.horizon.pages_wanted.extend(behind);
            }
        }
    }

    /// Groups of the topic that have the past to read, or do not know better yet.
    fn behind_floor(&self, no: TopicNo) -> impl Iterator<Item = GroupNo> + '_ {
        let topic = self.topics.get(no);
        let behind = move |group: &GroupNo| {
            let next_read = self.groups[group.0 as usize].dispatch.next_read;
            let waits = self.group_page(*group).is_none() && !self.awaits_page(*group);
            next_read < topic.disk.floor && waits
        };
        topic.groups.iter().copied().filter(behind)
    }

    /// Whether some group has read what was there before the topic's last load.
    fn reads_on(&self, no: TopicNo) -> bool {
        let topic = self.topics.get(no);
        let read = |group: &GroupNo| {
            let group = &self.groups[group.0 as usize];
            if group.dispatch.next_read < topic.disk.floor {
                return false; // it reads pages of the past
            }
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
            let goes_on = self.reads_on(*no) || self.behind_floor(*no).next().is_some();
            self.topics.get(*no).disk.loading.is_none() && goes_on
        };
        let first = self.horizon.queue.iter().take(limits::LOADS).find(ready);
        first.map(|(due, _)| due.saturating_sub(load_ahead_ms(horizon_ms)))
    }

    /// Begins a load of the topic, unless one is under way or there is nothing to load.
    fn load(&mut self, step: &mut Step<'_>, no: TopicNo, skim: bool) {
        let disk = &self.topics.get(no).disk;
        if disk.loading.is_some() {
            return;
        }
        if disk.next_due == u64::MAX {
            // A merge has left out what a page waited for: it goes on without.
            for page in std::mem::take(&mut self.topics.get_mut(no).disk.waits) {
                self.replay_page(step, page);
            }
            return;
        }
        let wall = step.now.wall_ms();
        let ahead = if skim { 0 } else { load_ahead_ms(step.config.horizon_ms) };
        // Behind what is loaded: else a run that begins right there bounds the load to nothing.
        let until = disk.next_due.max(wall + ahead).max(disk.loaded_to.due.saturating_add(1));
        let load = BlockLoad::until(self.horizon.runs.iter(), no, disk.loaded_to, until);
        assert!(!load.is_empty(), "the run with the next due is read");
        step.stats.loads += 1;
        self.horizon.loads += 1;
        self.topics.get_mut(no).disk.loading = Some(Loading { load, skim });
        self.load_on(step, no);
    }

    /// Goes on with a load as far as its blocks are there.
    fn load_on(&mut self, step: &mut Step<'_>, no: TopicNo) {
        let disk = &mut self.topics.get_mut(no).disk;
        let loading = disk.loading.as_mut().expect("a load under way");
        let missing = loading.load.missing(&self.horizon.blocks);
        if missing.is_empty() {
            return self.loaded(step, no);
        }
        for (run, blocks) in missing {
            self.read_blocks(step, &run, blocks, BlockFlow::Load(no));
        }
    }

    /// All blocks of a load are there: what lies before the first end of one is inserted, or only
    /// counted.
    fn loaded(&mut self, step: &mut Step<'_>, no: TopicNo) {
        let topic = self.topics.get_mut(no);
        let Loading { load, skim } = topic.disk.loading.take().expect("a load under way");
        self.horizon.loads -= 1;
        let after = topic.disk.loaded_to;
        let mut cover = load.cover();
        if skim {
            cover = cover.min(end_of(step.now.wall_ms())).max(after);
            topic.disk.floor = topic.disk.floor.max(cover);
        }
        topic.disk.mark = after;
        topic.disk.loaded_to = cover;
        let mut new = Vec::new();
        for DueEvent { position, .. } in load.events(cover) {
            let is_known = if skim {
                topic.axis.at(position).is_some()
            } else {
                !topic.axis.insert_loaded(position)
            };
            if is_known {
                continue;
            }
            topic.disk.count -= 1;
            self.horizon.on_disk -= 1;
            if skim {
                self.horizon.past += 1;
            } else {
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
        self.read_blocks(step, run, number..number + 1, flow);
    }

    /// Reads some blocks of a run at once, the first of them for someone.
    pub(super) fn read_blocks(
        &mut self,
        step: &mut Step<'_>,
        run: &Arc<Directory>,
        numbers: Range<usize>,
        flow: BlockFlow,
    ) {
        let number = numbers.start;
        let same = |read: &&mut BlockRead| {
            read.run.head().ids == run.head().ids && read.numbers.contains(&number)
        };
        if let Some(read) = self.horizon.reads.values_mut().find(same) {
            // A load asks again for what is on its way whenever one of its blocks arrives.
            if !read.flows.iter().any(|(of, other)| *of == number && other.is_same(&flow)) {
                read.flows.push((number, flow));
            }
            return;
        }
        step.stats.reads += 1;
        let (partition, read) = (self.id, self.reads.number());
        let extents = numbers.clone().map(|number| run.extent(number));
        let (position, len) = (run.extent(number).position, extents.map(|e| e.len).sum());
        let of = run.head().ids.run;
        step.effects.push(Effect::ReadRun { partition, read, run: of, position, len });
        let waiting = BlockRead { run: run.clone(), numbers, flows: vec![(number, flow)] };
        self.horizon.reads.insert(read, waiting);
    }

    /// Blocks of a run are there; false if the read is none of a run.
    pub(super) fn block_read(&mut self, step: &mut Step<'_>, read: u64, data: &Bytes) -> bool {
        let Some(BlockRead { run, numbers, flows }) = self.horizon.reads.remove(&read) else {
            return false;
        };
        let of = run.head().ids.run;
        let first = numbers.start;
        let blocks = match decode(&run, numbers, data) {
            Ok(blocks) => blocks,
            Err((number, fault)) => {
                let text = format!("run {of}, block {number}: {fault}");
                self.condemn(step, &Damage::of_run(run.head()), text);
                return true;
            }
        };
        if self.horizon.all().any(|r| r.head().ids.run == of) {
            for (number, block) in (first..).zip(&blocks) {
                self.horizon.blocks.push(of, number, block.clone());
            }
            // Blocks and records share one budget: who reads the past makes nothing grow.
            let blocks = self.horizon.blocks.bytes();
            self.cache.set_budget(step.config.cache_bytes_each().saturating_sub(blocks));
        }
        for (number, flow) in flows {
            let block = &blocks[number - first];
            match flow {
                BlockFlow::Load(topic) => {
                    if let Some(loading) = &mut self.topics.get_mut(topic).disk.loading {
                        loading.load.feed(of, number, block);
                        self.load_on(step, topic);
                    }
                }
                BlockFlow::Past(no) => {
                    let reader = self.horizon.readers.get_mut(&no);
                    if let Some(load) = reader.and_then(|reader| reader.load.as_mut()) {
                        load.feed(of, number, block);
                        self.page_load_on(step, no);
                    }
                }
                BlockFlow::Group(no) => self.group_read(step, no),
                BlockFlow::Replay(mut page) => {
                    if let Some(load) = &mut page.load {
                        load.feed(of, number, block);
                    }
                    self.replay_page(step, *page);
                }
            }
        }
        self.remove_retired(step);
        true
    }

    /// The block that may carry an event: one that came out of a run, or is not in memory.
    pub(super) fn carrier(
        &self,
        no: TopicNo,
        position: Position,
    ) -> Option<(Arc<Directory>, usize)> {
        let event = self.topics.get(no).axis.at(position);
        if event.is_some_and(|event| !event.is_loaded) {
            return None;
        }
        let key = RunKey::new(no, position);
        let (run, number) = self.horizon.block_of(&key)?;
        let cached = self.horizon.blocks.get(run.head().ids.run, number);
        let absent = cached.is_some_and(|block| block.find(&key).is_none());
        (!absent).then(|| (run.clone(), number))
    }
}
