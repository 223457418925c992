//! The story of a look at the past, owner half: whoever reads at or before a topic's floor gets it
//! page by page, out of runs and due indexes.
//!
//! ```text
//!  a group's page is read --> pages_wanted --> blocks read --> its next page --> it goes on
//!  a replay comes to the past --> it waits for blocks --> it goes on
//! ```
//! Must hold: a page is bounded by a block of each run; a reader has one page.

use super::replay::Page;
use crate::base::ids::{GroupNo, Position, TopicNo};
use crate::engine::block_load::BlockLoad;
use crate::engine::horizon::BlockFlow;
use crate::engine::partition::Partition;
use crate::engine::past::{self, PastPage};
use crate::engine::step::Step;
use crate::engine::topics::Topic;

/// How far a reader may go by what is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// Up to here, if there is an end.
    pub(super) end: Option<Position>,
    /// What follows is the past: a page brings it.
    pub(super) is_past: bool,
}

impl Partition {
    /// The page, if it tells what comes right behind `position`.
    pub(super) fn page_at<'a>(
        &self,
        topic: TopicNo,
        page: Option<&'a PastPage>,
        position: Position,
    ) -> Option<&'a PastPage> {
        let trimmed = self.topics.get(topic).disk.trimmed;
        page.filter(|page| page.covers(position) && page.trimmed == trimmed)
    }

    /// The group's page, if it tells what comes next.
    pub(super) fn group_page(&self, no: GroupNo) -> Option<&PastPage> {
        let group = &self.groups[no.0 as usize];
        let page = self.horizon.readers.get(&no)?.page.as_ref();
        self.page_at(group.topic, page, group.dispatch.next_read)
    }

    /// Whether the group's next page is under way.
    pub(super) fn awaits_page(&self, no: GroupNo) -> bool {
        self.horizon.readers.get(&no).is_some_and(|reader| reader.load.is_some())
    }

    /// How far a reader that has read up to `position`, and has this page there, may go, if it
    /// wants what is due up to `due` (Unix ms).
    pub(super) fn reach(
        &self,
        topic: TopicNo,
        page: Option<&PastPage>,
        position: Position,
        due: u64,
    ) -> Reach {
        let disk = &self.topics.get(topic).disk;
        if position >= disk.floor {
            return Reach { end: disk.end_of_memory(due), is_past: false };
        }
        Reach { end: Some(page.map_or(position, |page| page.cover)), is_past: true }
    }

    /// Reads the next pages of the groups that wait for one.
    pub(super) fn pages_on(&mut self, step: &mut Step<'_>) {
        for no in std::mem::take(&mut self.horizon.pages_wanted) {
            let group = &self.groups[no.0 as usize];
            let (from, topic) = (group.dispatch.next_read, group.topic);
            if self.awaits_page(no) {
                continue;
            }
            if from >= self.topics.get(topic).disk.floor {
                // It reads memory from now on.
                self.horizon.readers.remove(&no);
                self.dirty.insert(no);
                continue;
            }
            if self.group_page(no).is_some() {
                self.dirty.insert(no);
                continue;
            }
            let load = self.past_behind(topic, from);
            self.horizon.readers.entry(no).or_default().load = Some(load);
            self.page_load_on(step, no);
        }
    }

    /// Goes on with a group's next page as far as its blocks are there.
    pub(super) fn page_load_on(&mut self, step: &mut Step<'_>, no: GroupNo) {
        let topic = self.groups[no.0 as usize].topic;
        let Some(reader) = self.horizon.readers.get_mut(&no) else { return };
        let Some(load) = &mut reader.load else { return };
        if let Some((run, blocks)) = load.missing(&self.horizon.blocks).into_iter().next() {
            return self.read_blocks(step, &run, blocks, BlockFlow::Past(no));
        }
        let load = reader.load.take().expect("just seen");
        step.stats.past_pages += 1;
        let page = self.page_of(topic, &load);
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        let Topic { axis, disk, .. } = self.topics.get(topic);
        let from = dispatch.next_read;
        let known = disk.trimmed == page.trimmed && page.covers(from);
        let next = past::read(Some(&page), axis, from).next();
        if known && next.is_none_or(|event| event.position > page.cover) {
            // Nothing is there: what comes behind it is not held up until someone asks.
            dispatch.read_up_to(page.cover);
            self.horizon.pages_wanted.insert(no);
        }
        self.horizon.readers.entry(no).or_default().page = Some(page);
        self.dirty.insert(no);
    }

    /// A replay's next events lie in the past: it waits for its page.
    pub(super) fn past_for_replay(
        &mut self,
        step: &mut Step<'_>,
        topic: TopicNo,
        from: Position,
        mut page: Page,
    ) {
        let trimmed = self.topics.get(topic).disk.trimmed;
        let begun = page.load.take().filter(|l| l.after() == from && l.trimmed == trimmed);
        let mut load = begun.unwrap_or_else(|| self.past_behind(topic, from));
        if let Some((run, blocks)) = load.missing(&self.horizon.blocks).into_iter().next() {
            page.load = Some(load);
            return self.read_blocks(step, &run, blocks, BlockFlow::Replay(Box::new(page)));
        }
        step.stats.past_pages += 1;
        page.past = Some(self.page_of(topic, &load));
        self.replay_page(step, page);
    }

    fn past_behind(&self, topic: TopicNo, from: Position) -> BlockLoad {
        let mut load = BlockLoad::next(self.horizon.all(), topic, from);
        load.trimmed = self.topics.get(topic).disk.trimmed;
        load
    }

    fn page_of(&self, topic: TopicNo, load: &BlockLoad) -> PastPage {
        // Behind the floor memory has what runs have.
        let floor = self.topics.get(topic).disk.floor;
        let cover = load.cover().min(floor).max(load.after());
        let mut events = load.events(cover);
        // Of removed segments only what runs carry is still there.
        events.retain(|event| event.is_loaded || !self.is_gone(event.position.offset));
        PastPage { events, from: load.after(), cover, trimmed: load.trimmed }
    }
}
