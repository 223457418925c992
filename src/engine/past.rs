//! A page of the past: events of a topic that are in runs and due indexes only, for one reader.
//!
//! Whoever reads at or before a topic's floor reads pages, merged with what memory has there: the
//! newest events, and those that were applied since.

use std::iter::Peekable;

use super::block_load::BlockLoad;
use super::runs::{DueEvent, DueSource, MemoryIndex};
use crate::base::ids::Position;

/// What a group reads where the due axis has left the memory.
#[derive(Debug, Default)]
pub struct GroupPast {
    /// Its page.
    pub page: Option<PastPage>,
    /// Its next one, under way.
    pub load: Option<BlockLoad>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct PastPage {
    /// What runs have behind `from` up to `cover`, in due order.
    pub events: Vec<DueEvent>,
    /// Where it begins.
    pub from: Position,
    /// How far it tells all that runs have.
    pub cover: Position,
    /// What had left the memory when its runs were chosen ([`super::horizon::OnDisk::trimmed`]):
    /// it does not know of what left later.
    pub trimmed: u64,
}

impl PastPage {
    /// Whether it tells what comes right behind this place.
    pub fn covers(&self, position: Position) -> bool {
        self.from <= position && position < self.cover
    }

    fn behind(&self, position: Position) -> &[DueEvent] {
        &self.events[self.events.partition_point(|event| event.position <= position)..]
    }
}

/// The events behind `position` of a page, if there is one, and of memory, in due order, each once.
pub fn read<'a>(
    page: Option<&'a PastPage>,
    axis: &'a MemoryIndex,
    position: Position,
) -> impl Iterator<Item = DueEvent> + 'a {
    let page = page.map_or(&[][..], |page| page.behind(position));
    Both { page: page.iter().peekable(), axis: axis.after(position).peekable() }
}

struct Both<'a, A: Iterator<Item = DueEvent>> {
    page: Peekable<std::slice::Iter<'a, DueEvent>>,
    axis: Peekable<A>,
}

impl<A: Iterator<Item = DueEvent>> Iterator for Both<'_, A> {
    type Item = DueEvent;

    fn next(&mut self) -> Option<DueEvent> {
        let Some(paged) = self.page.peek() else { return self.axis.next() };
        match self.axis.peek() {
            Some(event) if event.position < paged.position => self.axis.next(),
            Some(event) if event.position == paged.position => {
                self.page.next();
                self.axis.next()
            }
            _ => self.page.next().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

    fn at(due: u64) -> DueEvent {
        let position = Position::new(due, Offset(due));
        DueEvent { position, schedule_ts: due, is_loaded: false }
    }

    #[test]
    fn a_page_and_memory_are_one_axis() {
        let mut axis = MemoryIndex::default();
        for due in [2, 3, 6, 7] {
            axis.insert(at(due).position, due);
        }
        let page =
            PastPage { events: [1, 3, 5, 6].map(at).to_vec(), from: at(0).position, ..at_cover(6) };
        let dues = |position| -> Vec<u64> {
            read(Some(&page), &axis, position).map(|event| event.position.due).collect()
        };
        assert_eq!(dues(Position::START), [1, 2, 3, 5, 6, 7]);
        assert_eq!(dues(at(3).position), [5, 6, 7]);
        let memory: Vec<u64> = read(None, &axis, at(2).position).map(|e| e.position.due).collect();
        assert_eq!(memory, [3, 6, 7]);
        assert!(page.covers(at(0).position) && page.covers(at(5).position));
        assert!(!page.covers(at(6).position));
    }

    fn at_cover(due: u64) -> PastPage {
        PastPage { cover: at(due).position, ..PastPage::default() }
    }
}
