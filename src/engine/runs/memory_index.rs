//! A topic's due axis in memory: an ordered map of positions, about 32 bytes an event.
//!
//! Must hold: one entry per applied event of the topic; a position is never inserted twice.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::due_source::{DueEvent, DueSource};
use crate::base::ids::Position;

/// In the place of a passed time: the event came out of a run, and had none.
const LOADED: u32 = u32::MAX - 1;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    /// Position to `due - schedule_ts`, saturated: a time passed 49 days before the append is as
    /// good as any other that has passed, and a saturated value errs on the late side.
    events: BTreeMap<Position, u32>,
    max_passed_ms: u64,
}

impl MemoryIndex {
    /// Adds an event.
    ///
    /// # Panics
    /// If it is there already, or due before its `schedule_ts`.
    pub fn insert(&mut self, position: Position, schedule_ts: u64) {
        assert!(position.due >= schedule_ts, "an event is never due before its schedule_ts");
        let passed = position.due - schedule_ts;
        self.max_passed_ms = self.max_passed_ms.max(passed);
        let before = self.events.insert(position, Self::passed(position, schedule_ts));
        assert!(before.is_none(), "an event is applied once");
    }

    /// `due - schedule_ts` as it is kept: saturated.
    pub fn passed(position: Position, schedule_ts: u64) -> u32 {
        let passed = u32::try_from(position.due - schedule_ts);
        passed.ok().filter(|passed| *passed < LOADED).unwrap_or(u32::MAX)
    }

    /// Adds an event out of a run, which is due at its `schedule_ts`. False if it is there already.
    pub fn insert_loaded(&mut self, position: Position) -> bool {
        let mut new = false;
        self.events.entry(position).or_insert_with(|| {
            new = true;
            LOADED
        });
        new
    }

    /// Lets go of an event that a run carries.
    ///
    /// # Panics
    /// If it is not there.
    pub fn remove(&mut self, position: Position) {
        let was = self.events.remove(&position);
        assert!(was.is_some(), "only what is there leaves");
    }

    /// The longest time by which an event of this topic was published after its `schedule_ts`, ms:
    /// how far behind a `schedule_ts` its position can lie.
    pub fn max_passed_ms(&self) -> u64 {
        self.max_passed_ms
    }
}

impl DueSource for MemoryIndex {
    fn after(&self, position: Position) -> impl Iterator<Item = DueEvent> + '_ {
        self.events
            .range((Excluded(position), Unbounded))
            .map(|(position, passed)| event(*position, *passed))
    }

    fn at(&self, position: Position) -> Option<DueEvent> {
        self.events.get(&position).map(|passed| event(position, *passed))
    }

    fn len(&self) -> u64 {
        self.events.len() as u64
    }
}

fn event(position: Position, passed: u32) -> DueEvent {
    let is_exact = passed < u32::MAX;
    let is_loaded = passed == LOADED;
    let passed = if is_loaded { 0 } else { u64::from(passed) };
    DueEvent { position, schedule_ts: position.due - passed, is_exact, is_loaded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

    #[test]
    fn events_come_in_due_order_with_their_schedule() {
        let mut index = MemoryIndex::default();
        index.insert(Position::new(30, Offset(0)), 30);
        index.insert(Position::new(20, Offset(1)), 5);
        index.insert(Position::new(20, Offset(2)), 20);
        let all: Vec<_> = index.after(Position::START).collect();
        assert_eq!(all.iter().map(|e| e.position.offset.0).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(all.iter().map(|e| e.schedule_ts).collect::<Vec<_>>(), [5, 20, 30]);
        assert_eq!(index.after(Position::new(20, Offset(1))).count(), 2);
        assert_eq!(index.max_passed_ms(), 15);
    }

    #[test]
    fn what_is_loaded_is_told_apart_and_never_twice_there() {
        let mut index = MemoryIndex::default();
        index.insert(Position::new(1 << 40, Offset(0)), (1 << 40) - u64::from(LOADED));
        assert!(index.insert_loaded(Position::new(20, Offset(1))));
        assert!(!index.insert_loaded(Position::new(20, Offset(1))));
        let loaded: Vec<_> = index.after(Position::START).map(|e| e.is_loaded).collect();
        assert_eq!(loaded, [true, false]);
        assert_eq!(index.at(Position::new(20, Offset(1))).unwrap().schedule_ts, 20);
        index.remove(Position::new(20, Offset(1)));
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn a_time_long_passed_is_never_taken_for_a_later_due() {
        let mut index = MemoryIndex::default();
        let due = 1 << 40;
        index.insert(Position::new(due, Offset(0)), 1);
        let event = index.at(Position::new(due, Offset(0))).unwrap();
        assert!(event.schedule_ts >= 1 && event.schedule_ts <= due);
    }
}
